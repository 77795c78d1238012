/** Where the tests' servers are: a pytest test starts them and says so. */
import assert from "node:assert/strict";

function told(name: string): string {
  const value = process.env[name];
  assert.ok(value, `${name} is not set: run tests/serve/test_typescript.py, which starts the servers`);
  return value;
}

/** Drawn shapes, with captions and prices; wants the key below; may be changed. */
export const SERVER = told("TEST_SERVER");
export const KEY = told("TEST_KEY");
/** The same, which refuses the first request of every path with 503, then answers. */
export const BUSY = told("TEST_BUSY_SERVER");
/** One request a minute. */
export const LIMITED = told("TEST_LIMITED_SERVER");

/** A picture of two colours that no server has seen, as the bytes of a BMP file. */
export function drawn(red: number, green: number, blue: number, side = 32): Uint8Array<ArrayBuffer> {
  const row = 3 * side;
  const bytes = new Uint8Array(54 + row * side);
  const view = new DataView(bytes.buffer);
  bytes.set([0x42, 0x4d]);
  view.setUint32(2, bytes.length, true);
  view.setUint32(10, 54, true);
  view.setUint32(14, 40, true);
  view.setInt32(18, side, true);
  view.setInt32(22, side, true);
  view.setUint16(26, 1, true);
  view.setUint16(28, 24, true);
  for (let place = 54; place < bytes.length; place += 3) {
    bytes.set(place % 2 ? [255, 255, 255] : [blue, green, red], place);
  }
  return bytes;
}
