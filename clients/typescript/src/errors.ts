import type { ErrorDetail } from "./schema.js";

/** Why the service refused, or that it could not be reached. */
export class BowerbirdError extends Error {
  override readonly name = "BowerbirdError";

  constructor(
    message: string,
    /** Of HTTP; 0 where there was no answer. */
    readonly status: number,
    /** Such as `model_not_found`; without an answer `unreachable` or `timeout`. */
    readonly code: string | null = null,
    /** Which part of the request is meant, such as `input.3`. */
    readonly param: string | null = null,
    /** That the service's log knows the request by. */
    readonly requestId: string | null = null,
    /** Of several inputs, what was wrong with each. */
    readonly errors: NonNullable<ErrorDetail["errors"]> = [],
    options: ErrorOptions = {},
  ) {
    super(message, options);
  }
}

/** The error of a request that was not answered. */
export function unreachable(url: string, cause: unknown): BowerbirdError {
  const { origin } = new URL(url);
  const late = cause instanceof Error && cause.name === "TimeoutError";
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause.message : "";
  const message = late
    ? `${origin} did not answer in time. Ask for less at once, or raise the timeout.`
    : `${origin} cannot be reached${inner && `: ${inner}`}. Check the address, and that the service runs.`;
  return new BowerbirdError(message, 0, late ? "timeout" : "unreachable", null, null, [], { cause });
}
