/** A gateway that says what it must not: nothing of that stops a client, or throws out of it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import { World } from "./world.js";

function make(): { world: World; client: Client } {
  const world = new World();
  const { runtime, WebSocket } = world;
  return { world, client: new Client("ws://gw", { token: "t", transport: "websocket", runtime, WebSocket }) };
}

/** What may stand where milliseconds belong, as JSON; and how long a client waits for it, at most. */
const HINTS: [string, number][] = [
  ["1e300", 900_000],
  ["9007199254740991", 900_000],
  ["1e999", 2000],
  ["-5", 2000],
  ['"soon"', 2000],
  ['{"ms":5}', 2000],
  ["null", 2000],
];

for (const [hint, most] of HINTS) {
  test(`a hint of ${hint} keeps no client away for longer than a while`, async () => {
    const { world, client } = make();
    client.connect();
    await world.welcome();
    world.socket.hear(`{"op":"goodbye","code":1012,"reason":"r","reconnect":true,"retry_after_ms":${hint}}`);
    world.socket.end(1012);
    await world.pass(most + 1);
    assert.equal(world.sockets.length, 2);
  });

  test(`a refused request is repeated after a hint of ${hint}, and never at once`, async () => {
    const { world, client } = make();
    client.subscribe("orders", () => undefined);
    const receipt = client.publish("orders", 1, { timeoutMs: 2_000_000 });
    const asked = await world.welcome();
    const refusal = `"op":"error","code":"busy","message":"m","retryable":true,"retry_after_ms":${hint}`;
    world.socket.hear(asked.map(({ ref }) => `{${refusal},"ref":${ref}}`).join("\n"));
    await world.pass(50);
    assert.deepEqual(world.socket.said(), []);
    const again: unknown[] = [];
    for (let waited = 0; waited <= most; waited += 10_000) {
      await world.pass(10_000);
      again.push(...world.socket.said().map(({ op }) => op).filter((op) => op !== "ping"));
      world.socket.say({ op: "pong" });
    }
    assert.deepEqual(again.sort(), ["publish", "subscribe"]);
    client.close();
    await assert.rejects(receipt, { code: "closed" });
  });
}
