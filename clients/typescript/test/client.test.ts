import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { test } from "node:test";

import { Bowerbird, BowerbirdError } from "../src/index.js";
import { BUSY, drawn, KEY, LIMITED, SERVER } from "./servers.js";

const client = new Bowerbird(SERVER, { apiKey: KEY });

function length(vector: Float32Array): number {
  return Math.hypot(...vector);
}

async function refusal(promise: Promise<unknown>): Promise<BowerbirdError> {
  const error = await promise.then(
    () => assert.fail("it was not refused"),
    (error: unknown) => error,
  );
  assert.ok(error instanceof BowerbirdError, String(error));
  return error;
}

test("texts and pictures become vectors, in order", async () => {
  const picture = drawn(255, 0, 0);
  const inputs = ["a red dress", picture, new Blob([picture]), { type: "text" as const, text: "a red dress" }];
  const vectors = await client.embed(inputs);
  assert.equal(vectors.length, 4);
  for (const vector of vectors) {
    assert.equal(vector.length, 384);
    assert.ok(Math.abs(length(vector) - 1) < 1e-4);
  }
  assert.deepEqual(vectors[1], vectors[2]);
  assert.deepEqual(vectors[0], vectors[3]);
  const [short] = await client.embed("a red dress", { model: "mini", dimensions: 64 });
  assert.equal(short?.length, 64);
});

test("every input has its own outcome", async () => {
  const outcomes = await client.outcomes(["a", "", new Uint8Array([1, 2, 3]), "b"]);
  assert.deepEqual(
    outcomes.map(({ index, vector, error }) => [index, vector !== null, error?.code ?? null]),
    [
      [0, true, null],
      [1, false, "unsupported_input"],
      [2, false, "undecodable_input"],
      [3, true, null],
    ],
  );
  assert.equal((await refusal(client.embed(["a", ""]))).param, "input.1");
  assert.deepEqual((await client.outcomes(["", ""])).map((one) => one.error?.code), Array(2).fill("unsupported_input"));
  assert.equal((await client.outcomes("")).length, 1);
  assert.deepEqual(await client.embed([]), []);
});

test("long lists are sent in several requests", async () => {
  const texts = Array.from({ length: 300 }, (_, number) => (number === 200 ? "" : `number ${number}`));
  const outcomes = await client.outcomes(texts);
  assert.deepEqual(outcomes.filter((one) => one.error).map((one) => one.index), [200]);
  const [alone] = await client.embed("number 299");
  const distance = Math.hypot(...(alone ?? []).map((value, place) => value - (outcomes[299]?.vector?.[place] ?? 9)));
  assert.ok(distance < 0.01, String(distance));
});

test("the index is searched", async () => {
  const found = await client.search("a red circle", { k: 3 });
  assert.equal(found.data.length, 3);
  assert.equal(found.data[0]?.id, "red-circle");
  assert.ok((found.data[0]?.match ?? 0) > 0);
  const original = await client.image("blue-square", "original");
  assert.ok(original);
  const alike = await client.search({ image: original, k: 1, thumbnails: true });
  assert.equal(alike.data[0]?.id, "blue-square");
  assert.match(alike.data[0]?.thumbnail ?? "", /^data:image\/jpeg;base64,/);
  const filtered = await client.search({ text: "a square", where: "brand = 'acme' and price > 20" });
  assert.ok(filtered.data.length && filtered.data.every((one) => one.attributes["brand"] === "acme"));
  const less = await client.search({ text: "a red circle", among: "image", unlike: "red-circle", k: 3 });
  assert.notEqual(less.data[0]?.id, "red-circle");
  assert.equal((await refusal(client.search("a", { unlike: ["no such record"] }))).param, "unlike");
  assert.equal((await refusal(client.search(""))).code, "invalid_query");
});

test("records are added, listed, shown and taken out", async () => {
  const before = await client.index();
  const added = await client.add([
    { id: "made/here?", image: drawn(1, 2, 3), text: "a grey thing", attributes: { price: 3 } },
    { id: "bad", image: new Uint8Array([1]) },
    { text: "on tides" },
  ]);
  assert.deepEqual([added.added, added.ids[0], added.ids[1], added.failed.map((one) => one.index)], [2, "made/here?", null, [1]]);
  assert.deepEqual((await client.add([{ id: "bad", image: new Uint8Array([1]) }])).failed.length, 1);
  assert.equal((await client.index()).records, before.records + 2);
  const ids: string[] = [];
  for await (const record of client.records("", 5)) ids.push(record.id);
  assert.equal(ids.length, before.records + 2);
  assert.equal(new Set(ids).size, ids.length);
  assert.equal((await client.record("made/here?"))?.attributes["price"], 3);
  assert.equal((await client.image("made/here?"))?.type, "image/jpeg");
  assert.equal(await client.delete("made/here?"), true);
  assert.equal(await client.delete("made/here?"), false);
  assert.equal(await client.delete(added.ids[2] ?? ""), true);
  assert.equal(await client.record("made/here?"), null);
  assert.equal(await client.image("nothing"), null);
  assert.equal((await refusal(client.record(".."))).code, "invalid_id");
});

test("models, index and health are told", async () => {
  const [model] = await client.models();
  assert.equal(model?.id, "mini");
  assert.equal((await client.load("mini")).loaded, true);
  assert.equal((await refusal(client.unload("mini"))).status, 409);
  assert.equal((await refusal(client.load("no/such"))).code, "model_not_found");
  assert.equal((await refusal(client.rerank("a", ["b"]))).code, "model_not_found");
  assert.equal((await client.refresh()).refreshed, false);
  const health = await client.health();
  assert.ok(health.ready);
  assert.deepEqual([...new Set(Object.values(health.checks))], ["ok"]);
});

test("refusals are errors that say what they are", async () => {
  const error = await refusal(client.embed("a", { model: "no-such-model" }));
  assert.deepEqual([error.status, error.code], [404, "model_not_found"]);
  assert.ok(error.requestId);
  assert.equal((await refusal(new Bowerbird(SERVER).models())).code, "missing_api_key");
  assert.equal((await refusal(new Bowerbird(SERVER, { apiKey: "wrong" }).models())).status, 401);
});

test("what is refused for the moment is asked again", async () => {
  const patient = new Bowerbird(`${BUSY}/v1/`, { apiKey: KEY });
  assert.equal((await patient.models())[0]?.id, "mini");
  const hasty = new Bowerbird(BUSY, { apiKey: KEY, retries: 0 });
  assert.equal((await refusal(hasty.index())).status, 503);
});

test("nobody waits longer than was allowed", async () => {
  const limited = new Bowerbird(LIMITED, { retryTime: 5000 });
  await limited.models();
  assert.equal((await refusal(limited.models())).code, "rate_limit_exceeded");
});

test("a service that cannot be reached is told so, at once if it never was there", async () => {
  const listening = createServer().listen(0, "127.0.0.1");
  await once(listening, "listening");
  const { port } = listening.address() as AddressInfo;
  listening.close();
  await once(listening, "close");
  const began = Date.now();
  const error = await refusal(new Bowerbird(`http://127.0.0.1:${port}`, { retryTime: 600_000, retries: 100 }).models());
  assert.deepEqual([error.status, error.code], [0, "unreachable"]);
  assert.match(error.message, /cannot be reached/);
  assert.ok(error.cause instanceof Error);
  assert.ok(Date.now() - began < 60_000);
});

test("an answer that does not come, and a request that is taken back", async () => {
  const silent = createServer().listen(0, "127.0.0.1");
  await once(silent, "listening");
  const address = `http://127.0.0.1:${(silent.address() as AddressInfo).port}`;
  try {
    const hasty = new Bowerbird(address, { timeout: 100, retries: 0 });
    assert.equal((await refusal(hasty.models())).code, "timeout");
    const mine = new AbortController();
    const asked = new Bowerbird(address).http.GET("/v1/models", { signal: mine.signal });
    mine.abort();
    await assert.rejects(asked, { name: "AbortError" });
  } finally {
    silent.close();
  }
});

test("every route is there, typed", async () => {
  const { data } = await client.http.GET("/v1/models/{id}", { params: { path: { id: "mini" } } });
  assert.equal(data?.dimensions, 384);
});
