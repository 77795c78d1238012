/**
 * Client of Bowerbird's service: embeddings of pictures and text, and search by meaning.
 *
 * Types and routes come from the service's OpenAPI document (`schema.ts`, generated). What stands here is thin: vectors
 * as `Float32Array`, records as an iterator, errors that are thrown, and requests that are sent again when that helps.
 */
import createClient, { type Client, type Middleware } from "openapi-fetch";

import { BowerbirdError } from "./errors.js";
import { type Retries, retrying } from "./retrying.js";
import type {
  EmbeddingsRequest,
  ErrorDetail,
  IndexRefreshed,
  IndexShown,
  ModelShown,
  paths,
  RecordInput,
  RecordShown,
  RecordsAdded,
  RerankRequest,
  RerankResponse,
  SearchRequest,
  SearchResponse,
} from "./schema.js";

export type * from "./schema.js";

export { BowerbirdError };

export interface Options extends Partial<Retries> {
  /** That the service wants. */
  apiKey?: string;
  /** Milliseconds for one attempt. */
  timeout?: number;
  /** Instead of the global one. */
  fetch?: (request: Request) => Promise<Response>;
}

/** What became of one input: a vector, or why there is none. */
export interface Outcome {
  index: number;
  vector: Float32Array | null;
  error: ErrorDetail | null;
  /** What a person should know, such as that a text was cut. */
  note: string | null;
}

export type Input = Exclude<EmbeddingsRequest["input"], string | readonly unknown[]> | string | Uint8Array | Blob;
export type EmbedOptions = Omit<EmbeddingsRequest, "input" | "encoding_format">;
export type Question = Omit<SearchRequest, "image"> & { image?: string | Uint8Array | Blob };
export type ImageSize = NonNullable<NonNullable<paths["/v1/records/{id}/image"]["get"]["parameters"]["query"]>["size"]>;
export type NewRecord = Omit<RecordInput, "image"> & { image?: string | Uint8Array | Blob };

export interface Health {
  ready: boolean;
  /** By name, `ok` or what is wrong. */
  checks: Record<string, string>;
}

/** Inputs of one request; longer lists are sent in several, one after the other. */
const BATCH = 128;
/** Characters of one request. */
const CHARACTERS = 8_000_000;

export class Bowerbird {
  /** Every route of the service, typed. */
  readonly http: Client<paths>;

  /** @param address of the service, such as `http://localhost:8080`. */
  constructor(address = "http://localhost:8080", options: Options = {}) {
    const { apiKey, timeout = 90_000, fetch: send = (request: Request) => fetch(request), ...retries } = options;
    this.http = createClient<paths>({
      baseUrl: address.replace(/\/+$/, "").replace(/\/v1$/, ""),
      headers: apiKey ? { authorization: `Bearer ${apiKey}` } : {},
      fetch: retrying(send, timeout, retries),
    });
    this.http.use(throwing);
  }

  /** A vector for each input, in order. Throws where one has none; `outcomes` gives the rest. */
  async embed(inputs: Input | readonly Input[], options: EmbedOptions = {}): Promise<Float32Array[]> {
    const found = await this.outcomes(inputs, options);
    return found.map(({ index, vector, error }) => {
      if (vector) return vector;
      throw new BowerbirdError(`Input ${index}: ${error?.message}`, 400, error?.code, `input.${index}`);
    });
  }

  /** A vector or an error for each input, in order. */
  async outcomes(inputs: Input | readonly Input[], options: EmbedOptions = {}): Promise<Outcome[]> {
    const listed = (Array.isArray(inputs) ? inputs : [inputs]) as readonly Input[];
    const found: Outcome[] = [];
    for await (const part of parts(listed, wireInput)) {
      try {
        const { data } = await this.http.POST("/v1/embeddings", {
          body: { ...options, input: part, encoding_format: "base64" },
        });
        for (const one of must(data).data) {
          const vector = typeof one.embedding === "string" ? decoded(one.embedding) : null;
          found.push({ index: found.length, vector, error: one.error ?? null, note: one.note ?? null });
        }
      } catch (error) {
        found.push(...refused(error, part.length, found.length));
      }
    }
    return found;
  }

  /** The records most like a question: words, or all that `POST /v1/search` takes. */
  async search(question: string | Question, options: Omit<Question, "text"> = {}): Promise<SearchResponse> {
    const { image, ...rest } = typeof question === "string" ? { ...options, text: question } : question;
    const body: SearchRequest = image === undefined ? rest : { ...rest, image: await dataUrl(image) };
    return must((await this.http.POST("/v1/search", { body })).data);
  }

  /** How well texts answer a question, best first. */
  async rerank(query: string, documents: string[], options: Partial<RerankRequest> = {}): Promise<RerankResponse> {
    return must((await this.http.POST("/v1/rerank", { body: { ...options, query, documents } })).data);
  }

  /** All records in the order of their ids, fetched as they are consumed. */
  async *records(where = "", limit = 500): AsyncGenerator<RecordShown> {
    let after = "";
    for (;;) {
      const page = must((await this.http.GET("/v1/records", { params: { query: { after, limit, where } } })).data);
      yield* page.data;
      const last = page.data.at(-1);
      if (!page.has_more || !last) return;
      after = last.id;
    }
  }

  /** One record; null when there is none. */
  async record(id: string): Promise<RecordShown | null> {
    return orNull(async () => must((await this.http.GET("/v1/records/{id}", { params: { path: { id: inPath(id) } } })).data));
  }

  /** The picture of a record, of at most so many pixels a side; null when there is none. */
  async image(id: string, size: ImageSize = "thumbnail"): Promise<Blob | null> {
    return orNull(async () => {
      const { data } = await this.http.GET("/v1/records/{id}/image", {
        params: { path: { id: inPath(id) }, query: { size } },
        parseAs: "blob",
      });
      return must(data) as unknown as Blob;
    });
  }

  /** Add records, or replace those of the same id. */
  async add(records: readonly NewRecord[]): Promise<RecordsAdded> {
    const all: RecordsAdded = { object: "records.added", ids: [], added: 0, changed: 0, unchanged: 0, failed: [] };
    for await (const part of parts(records, wireRecord)) {
      const before = all.ids.length;
      try {
        const one = must((await this.http.POST("/v1/records", { body: { records: part } })).data);
        all.ids.push(...one.ids);
        all.added += one.added;
        all.changed += one.changed;
        all.unchanged += one.unchanged;
        all.failed.push(...one.failed.map((failure) => ({ ...failure, index: before + failure.index })));
      } catch (error) {
        for (const { index, error: why } of refused(error, part.length, before)) {
          all.ids.push(null);
          all.failed.push({ index, id: part[index - before]?.id ?? null, error: why as ErrorDetail });
        }
      }
    }
    return all;
  }

  /** Take a record out of the index. Whether it was there. */
  async delete(id: string): Promise<boolean> {
    const params = { path: { id: inPath(id) } };
    return (await orNull(async () => must((await this.http.DELETE("/v1/records/{id}", { params })).data))) !== null;
  }

  /** What is served. */
  async models(): Promise<ModelShown[]> {
    return must((await this.http.GET("/v1/models")).data).data;
  }

  /** Have a model in memory. */
  async load(id: string): Promise<ModelShown> {
    return must((await this.http.POST("/v1/models/{id}/load", { params: { path: { id: inPath(id) } } })).data);
  }

  /** Take a model out of memory. Whether it was there. */
  async unload(id: string): Promise<boolean> {
    return must((await this.http.POST("/v1/models/{id}/unload", { params: { path: { id: inPath(id) } } })).data).unloaded;
  }

  /** What is told of the index. */
  async index(): Promise<IndexShown> {
    return must((await this.http.GET("/v1/index")).data);
  }

  /** Search what was committed last from now on. */
  async refresh(): Promise<IndexRefreshed> {
    return must((await this.http.POST("/v1/index/refresh")).data);
  }

  /** Whether the service can answer, found out there by doing it. */
  async health(): Promise<Health> {
    const { data, error } = await this.http.GET("/health/ready");
    const said = data ?? (error as Health | undefined);
    return { ready: data?.ready ?? false, checks: said?.checks ?? {} };
  }
}

const throwing: Middleware = {
  async onResponse({ response, schemaPath }) {
    if (response.ok || (schemaPath === "/health/ready" && response.status === 503)) return undefined;
    const requestId = response.headers.get("x-request-id");
    const text = await response.text();
    let said: Partial<ErrorDetail> = {};
    try {
      said = JSON.parse(text).error ?? {};
    } catch {
      // Not of the service itself: what stands there is all that is known.
    }
    const message = said.message ?? `HTTP ${response.status}: ${text.slice(0, 200)}`;
    throw new BowerbirdError(message, response.status, said.code, said.param, requestId, said.errors ?? []);
  },
};

function must<T>(value: T | undefined): T {
  if (value === undefined) throw new BowerbirdError("The answer is empty. Check the address.", 200);
  return value;
}

async function orNull<T>(ask: () => Promise<T>): Promise<T | null> {
  try {
    return await ask();
  } catch (error) {
    const missing = error instanceof BowerbirdError && error.status === 404;
    if (missing && (error.code === "record_not_found" || error.code === "picture_not_found")) return null;
    throw error;
  }
}

/** Where all inputs of a request failed, what was wrong with each; any other error is thrown. */
function refused(error: unknown, count: number, before: number): Outcome[] {
  if (!(error instanceof BowerbirdError) || error.status !== 400 || !error.code?.endsWith("_input")) throw error;
  const alone = { message: error.message, type: "invalid_request_error", param: error.param, code: error.code };
  const each: readonly ErrorDetail[] = error.errors.length ? error.errors : [alone];
  if (each.length !== count) throw error;
  return each.map((one, index) => ({ index: before + index, vector: null, error: one, note: null }));
}

/** An id as part of a path. */
function inPath(id: string): string {
  // Addresses know no other way to write these two than as a step to another place.
  if (id === "." || id === "..") throw new BowerbirdError(`The id ${id} cannot be part of an address.`, 0, "invalid_id");
  return id;
}

async function* parts<T, W>(items: readonly T[], wire: (item: T) => Promise<W>): AsyncGenerator<W[]> {
  let part: W[] = [];
  let size = 0;
  for (const item of items) {
    const one = await wire(item);
    const more = JSON.stringify(one).length;
    if (part.length && (part.length === BATCH || size + more > CHARACTERS)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(one);
    size += more;
  }
  if (part.length) yield part;
}

type WireInput = Exclude<Input, Uint8Array | Blob>;

async function wireInput(input: Input): Promise<WireInput> {
  return input instanceof Uint8Array || input instanceof Blob ? { type: "image", image: await dataUrl(input) } : input;
}

async function wireRecord({ image, ...rest }: NewRecord): Promise<RecordInput> {
  return image === undefined ? rest : { ...rest, image: await dataUrl(image) };
}

/** A picture in JSON: the bytes of its file, or a data URL or address as it is. */
async function dataUrl(image: string | Uint8Array | Blob): Promise<string> {
  if (typeof image === "string") return image;
  const bytes = image instanceof Blob ? new Uint8Array(await image.arrayBuffer()) : image;
  const pieces: string[] = [];
  for (let start = 0; start < bytes.length; start += 0x8000) {
    pieces.push(String.fromCharCode(...bytes.subarray(start, start + 0x8000)));
  }
  return `data:application/octet-stream;base64,${btoa(pieces.join(""))}`;
}

function decoded(base64: string): Float32Array {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, place) => view.getFloat32(4 * place, true));
}
