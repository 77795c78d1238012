/** Requests that are sent again where the service is busy or a connection breaks. */
import { unreachable } from "./errors.js";

export interface Retries {
  /** Further attempts at the most. */
  retries: number;
  /** Milliseconds in which the last of them begins. */
  retryTime: number;
}

/** Too much at once, or nobody behind the door at the moment. */
const AGAIN = new Set([429, 502, 503, 504]);

/**
 * A `fetch` with a time limit for each attempt. Every request of the service may be sent twice without harm. Where nobody
 * has ever answered, that is told at once: the address is wrong, or nobody has started the service.
 */
export function retrying(
  send: (request: Request) => Promise<Response>,
  timeout: number,
  { retries = 5, retryTime = 60_000 }: Partial<Retries>,
): (request: Request) => Promise<Response> {
  let heard = false;
  return async (request) => {
    const end = Date.now() + retryTime;
    for (let made = 0; ; made += 1) {
      const last = made >= retries;
      // A little more than asked, and not all at the same moment.
      let pause = Math.min(8000, 250 * 2 ** made) * (0.5 + Math.random() / 2);
      try {
        const response = await send(new Request(request.clone(), { signal: both(request.signal, timeout) }));
        heard = true;
        const isHealth = new URL(request.url).pathname.startsWith("/health/");
        if (!AGAIN.has(response.status) || isHealth) return response;
        pause = waited(response.headers.get("retry-after")) ?? pause;
        if (last || Date.now() + pause > end) return response;
        await response.body?.cancel();
      } catch (error) {
        if (request.signal.aborted) throw error; // by whoever asked
        if (last || !heard || Date.now() + pause > end) throw unreachable(request.url, error);
      }
      await new Promise((done) => setTimeout(done, pause));
    }
  };
}

function both(signal: AbortSignal, timeout: number): AbortSignal {
  return AbortSignal.any([signal, AbortSignal.timeout(timeout)]);
}

/** Milliseconds that a service asks to wait: seconds, or until a date. */
function waited(said: string | null): number | null {
  if (!said) return null;
  const seconds = Number(said);
  const wait = Number.isFinite(seconds) ? 1000 * seconds : Date.parse(said) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : null;
}
