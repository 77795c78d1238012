/** The official OpenAI client for JavaScript is a client of the service. */
import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";

import { BUSY, drawn, KEY, LIMITED, SERVER } from "./servers.js";

const official = new OpenAI({ baseURL: `${SERVER}/v1`, apiKey: KEY, maxRetries: 0 });

function distance(one: readonly number[], other: readonly number[]): number {
  return Math.hypot(...one.map((value, place) => value - (other[place] ?? 9)));
}

test("a text, a list, and both encodings", async () => {
  const one = await official.embeddings.create({ model: "mini", input: "a red dress" });
  assert.equal(one.data[0]?.embedding.length, 384);
  assert.equal(one.usage.total_tokens, 5);
  assert.ok(one._request_id);
  const floats = await official.embeddings.create({ model: "mini", input: ["x", "a red dress"], encoding_format: "float" });
  assert.deepEqual(floats.data.map((entry) => entry.index), [0, 1]);
  assert.ok(distance(floats.data[1]?.embedding ?? [], one.data[0]?.embedding ?? []) < 0.01);
  const base64 = await official.embeddings.create({ model: "mini", input: "x", encoding_format: "base64" });
  assert.equal(typeof base64.data[0]?.embedding, "string");
  const short = await official.embeddings.create({ model: "mini", input: "x", dimensions: 64 });
  assert.equal(short.data[0]?.embedding.length, 64);
});

test("pictures", async () => {
  const url = `data:image/bmp;base64,${Buffer.from(drawn(255, 0, 0)).toString("base64")}`;
  const answer = await official.embeddings.create({ model: "mini", input: [{ image: url }] as unknown as string[] });
  assert.equal(answer.data[0]?.embedding.length, 384);
});

test("models", async () => {
  const ids: string[] = [];
  for await (const model of official.models.list()) ids.push(model.id);
  assert.deepEqual(ids, ["mini"]);
  assert.equal((await official.models.retrieve("mini")).object, "model");
});

test("errors become the client's own", async () => {
  const missing = official.embeddings.create({ model: "no-such-model", input: "a" });
  await assert.rejects(missing, (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.deepEqual([error.code, error.type], ["model_not_found", "invalid_request_error"]);
    assert.ok(error.requestID);
    return true;
  });
  const bad = (input: unknown) => official.embeddings.create({ model: "mini", input: input as string });
  for (const input of ["", [], 3, [[1, 2]], ["", ""]]) await assert.rejects(bad(input), OpenAI.BadRequestError);
  await assert.rejects(bad([1, 2, 3]), /check_embedding_ctx_length=False/);
  const stranger = new OpenAI({ baseURL: `${SERVER}/v1`, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("rates, and coming back", async () => {
  const limited = new OpenAI({ baseURL: `${LIMITED}/v1`, apiKey: "none", maxRetries: 0 });
  const both = await Promise.allSettled([1, 2].map(() => limited.embeddings.create({ model: "mini", input: "a" })));
  const refused = both.filter((one) => one.status === "rejected");
  assert.ok(refused.length >= 1);
  for (const one of refused) assert.ok(one.reason instanceof OpenAI.RateLimitError, String(one.reason));
  const patient = new OpenAI({ baseURL: `${BUSY}/v1`, apiKey: KEY });
  assert.equal((await patient.embeddings.create({ model: "mini", input: "a" })).data.length, 1);
});
