/** A gateway that says what it must not: nothing of that stops a client, or throws out of it. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import type { Message } from "../src/index.js";
import { row, World } from "./world.js";
import type { Op } from "./world.js";

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

/** Known operations in which something is missing or of another kind. `$` stands for the subscription. */
const BROKEN: unknown[] = [
  { op: "messages" },
  { op: "messages", sub: "$", messages: [] },
  { op: "messages", sub: "$", messages: {} },
  { op: "messages", sub: "$", messages: "abc" },
  { op: "messages", sub: "$", messages: [null] },
  { op: "messages", sub: "$", messages: [7, row(9, "z")] },
  { op: "messages", sub: "$", messages: [row(9, "z", { expires_in_ms: "soon" })] },
  { op: "messages", sub: "$", messages: [row(9, "z", { attempt: null })] },
  { op: "messages", sub: "$", messages: [{ ...row(9, "z"), seq: undefined }] },
  { op: "messages", sub: "$", messages: [row(9, 5 as unknown as string)] },
  { op: "messages", sub: "$", messages: [{ ...row(9, "z"), lease: undefined }] },
  { op: "messages", sub: {}, messages: [row(9, "z")] },
  { op: "gap" },
  { op: "gap", sub: "$", from: 1, to: 5 },
  { op: "goodbye" },
  { op: "goodbye", code: 1012, reason: "r", reconnect: null },
  { op: "welcome" },
  { op: "welcome", limits: null, heartbeat_ms: 1, pong_timeout_ms: 1, expires_in_ms: 1 },
  { op: "welcome", limits: {}, heartbeat_ms: "1", pong_timeout_ms: 1, expires_in_ms: 1 },
  { op: "error", sub: "$", code: "epoch_changed", message: 7, retryable: false },
  { op: "error", sub: "$" },
  { op: "error", ref: 2, leases: "all", code: "busy", message: "m", retryable: true },
  { op: "ok" },
  { op: "ok", ref: {} },
  { op: "ok", ref: 77, receipts: 5 },
  { op: { toString: 1 } },
  { op: "constructor" },
  { op: "__proto__" },
  [],
  7,
];

for (const broken of BROKEN) {
  test(`broken, it is passed over, and what stands beside it counts: ${JSON.stringify(broken)}`, async () => {
    const { world, client } = make();
    const seen: number[] = [];
    client.subscribe("orders", ({ seq }) => void seen.push(seq));
    const { sub } = await world.subscribed();
    const push = (seq: number, lease: string) => ({ op: "messages", sub, messages: [row(seq, lease)] }) as Op;
    const line = JSON.stringify(broken).replaceAll('"$"', JSON.stringify(sub));
    world.socket.hear([JSON.stringify(push(1, "a")), line, JSON.stringify(push(2, "b"))].join("\n"));
    await world.settle();
    assert.deepEqual(seen, [1, 2]);
    assert.deepEqual(world.socket.said(), [{ op: "ack", leases: ["a", "b"] }]);
    assert.equal(client.state, "connected");
    await world.pass(20_000);
    assert.equal(world.sockets.length, 1);
  });
}

test("a broken messages operation throws out of no tail", async () => {
  const { world, client } = make();
  const seen: number[] = [];
  client.tail("prices", ({ seq }) => void seen.push(seq));
  const [subscribe] = await world.welcome();
  await world.grant([subscribe!], ({ sub }) => ({ sub, epoch: "e1", seq: 0 }));
  const { sub } = subscribe!;
  for (const messages of [[], null, {}, [null], [{ seq: 1 }], [{ ...row(1, "a"), seq: "1" }]]) {
    world.socket.say({ op: "messages", sub, messages });
  }
  world.socket.say({ op: "gap", sub, from: "1", to: 9 }, { op: "messages", sub, messages: [row(2, "b")] });
  await world.settle();
  assert.deepEqual(seen, [2]);
});

test("receipts that do not fit are no receipt: the message may be stored", async () => {
  for (const receipts of [undefined, null, [], [null], [{ id: "a" }], 7]) {
    const { world, client } = make();
    const failed = assert.rejects(client.publish("orders", 1), { code: "internal", stored: "maybe", retryable: true });
    const [publish] = await world.welcome();
    world.socket.say({ op: "ok", ref: publish!.ref!, receipts });
    await failed;
  }
});

test("subs of a resumed session that are none are no leases", async () => {
  const world = new World();
  const { runtime, WebSocket } = world;
  const options = { token: "t", transport: "websocket", runtime, WebSocket, resumeGraceMs: 30_000 } as const;
  const client = new Client("ws://gw", options);
  client.subscribe("orders", () => undefined);
  for (const subs of [{ s1: 5, s2: null }, { s1: null }, [7], "s1"]) {
    await world.pass(5000);
    world.socket.open();
    await world.settle();
    const [auth] = world.socket.said();
    const limits = {};
    world.socket.say({ op: "welcome", heartbeat_ms: 20_000, pong_timeout_ms: 10_000, expires_in_ms: 1, limits });
    world.socket.say({ op: "ok", ref: auth!.ref!, session: "n1.s", resumed: true, subs });
    await world.settle();
    const asked = world.socket.said().filter(({ op }) => op === "subscribe");
    await world.grant(asked, ({ sub }) => ({ sub, prefetch: 32 }));
    assert.equal(client.state, "connected");
    world.socket.end(1006);
  }
});

test("a lease that is said twice is one delivery", async () => {
  const { world, client } = make();
  const held: Message[] = [];
  const subscription = client.subscribe("orders", { ack: "manual" }, (message) => void held.push(message));
  const { sub } = await world.subscribed();
  world.socket.say({ op: "messages", sub, messages: [row(1, "a"), row(1, "a"), row(2, "b")] });
  world.socket.say({ op: "messages", sub, messages: [row(1, "a")] });
  await world.settle();
  assert.deepEqual(
    held.map(({ seq }) => seq),
    [1, 2],
  );
  assert.equal(subscription._handed(), 2);
  const drained = client.drain();
  for (const message of held) message.ack();
  await world.settle();
  const [ack] = world.socket.said().filter(({ op }) => op === "ack");
  assert.deepEqual(ack!.leases, ["a", "b"]);
  await world.grant([ack!]);
  await drained;
});
