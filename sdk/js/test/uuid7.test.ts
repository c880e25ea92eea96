/** Ids: their form, and that they rise within a millisecond and when the clock goes back. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { uuid7 } from "../src/uuid7.js";

test("ids have the form and the time of a UUID version 7", () => {
  const at = Date.now() + 1000;
  const id = uuid7(at);
  assert.match(id, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.equal(Number.parseInt(id.replaceAll("-", "").slice(0, 12), 16), at);
});

test("each id is larger than those before, also in one millisecond and when the clock goes back", () => {
  const later = Date.now() + 5000;
  const ids = Array.from({ length: 20_000 }, (_, at) => uuid7(at % 3 ? later : later - at));
  assert.deepEqual([...ids].sort(), ids);
  assert.equal(new Set(ids).size, ids.length);
});
