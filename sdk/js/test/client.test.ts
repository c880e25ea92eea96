/** The client against a stepped gateway: connecting, settling, publishing, losing and coming back. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, PushwireError, Reject, Retry, Unauthorized } from "../src/index.js";
import type { ClientOptions, Message } from "../src/index.js";
import { row, WELCOME, World } from "./world.js";
import type { Op } from "./world.js";

function make(options: ClientOptions = {}): { world: World; client: Client } {
  const world = new World();
  const { runtime, WebSocket } = world;
  const client = new Client("wss://gw.example", {
    token: "t1",
    transport: "websocket",
    runtime,
    WebSocket,
    ...options,
  });
  return { world, client };
}

const push = (sub: unknown, ...messages: object[]): Op => ({ op: "messages", sub, messages });

test("the token goes in the first frame, never into the URL", async () => {
  const { world, client } = make();
  client.connect();
  await world.settle();
  assert.equal(world.socket.url, "wss://gw.example/v1/ws");
  assert.deepEqual(world.socket.protocols, ["pushwire.v1"]);
  world.socket.open();
  await world.settle();
  assert.deepEqual(world.socket.said(), [{ op: "auth", ref: 1, token: "t1" }]);
});

test("the token may go as a subprotocol", async () => {
  const { world, client } = make({ auth: "subprotocol" });
  client.connect();
  await world.settle();
  assert.deepEqual(world.socket.protocols, ["pushwire.v1", "bearer.t1"]);
  assert.ok(!world.socket.url.includes("t1"));
});

test("a handler acks when it is done, and the acks of one turn leave in one operation", async () => {
  const { world, client } = make();
  const seen: unknown[] = [];
  client.subscribe<{ n: number }>("orders", { group: "g" }, (message) => void seen.push(message.data.n));
  const { sub, ...asked } = await world.subscribed();
  assert.deepEqual(asked, { op: "subscribe", ref: 2, topic: "orders", group: "g" });
  world.socket.say(push(sub, row(1, "a"), row(2, "b"), row(3, "c")));
  await world.settle();
  assert.deepEqual(seen, [1, 2, 3]);
  assert.deepEqual(world.socket.said(), [{ op: "ack", leases: ["a", "b", "c"] }]);
});

test("acks of a for await loop are gathered too", async () => {
  const { world, client } = make();
  const subscription = client.subscribe("orders");
  const loop = (async () => {
    for await (const message of subscription) message.ack();
  })();
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b"), row(3, "c")));
  await world.settle();
  assert.deepEqual(world.socket.said(), [{ op: "ack", leases: ["a", "b", "c"] }]);
  await subscription.close();
  await loop;
});

test("what a handler throws decides how its message ends", async () => {
  const { world, client } = make();
  const errors: string[] = [];
  const outcomes = [new Error("boom"), new Retry(5000, "later"), new Reject("never")];
  client
    .subscribe("orders", () => Promise.reject(outcomes.shift()))
    .on("handlerError", ({ error }) => errors.push(error.message));
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b"), row(3, "c")));
  await world.settle();
  assert.deepEqual(world.socket.said(), [
    { op: "nack", leases: ["a"], error: "Error: boom" },
    { op: "nack", leases: ["b"], delay_ms: 5000, error: "later" },
    { op: "reject", leases: ["c"], error: "never" },
  ]);
  assert.deepEqual(errors, ["boom"]);
});

test("one handler at a time unless told", async () => {
  const { world, client } = make();
  let running = 0;
  let most = 0;
  const ends: (() => void)[] = [];
  client.subscribe("orders", { concurrency: 2 }, async () => {
    most = Math.max(most, ++running);
    await new Promise<void>((resolve) => ends.push(resolve));
    running--;
  });
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b"), row(3, "c")));
  await world.settle();
  assert.equal(ends.length, 2);
  ends[0]!();
  await world.settle();
  assert.equal(ends.length, 3);
  assert.equal(most, 2);
});

test("a message is settled once; a lost lease is said, not thrown", async () => {
  const { world, client } = make();
  const held: Message[] = [];
  client.subscribe("orders", { ack: "manual" }, (message) => void held.push(message));
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b", { attempt: 2 })));
  await world.settle();
  const [first, second] = held as [Message, Message];
  assert.equal(second.redelivered, true);
  assert.equal(first.ack(), true);
  assert.throws(() => first.nack(), { code: "already_settled" });
  const { signal } = second;
  world.socket.end(1006);
  assert.equal(second.lost, true);
  assert.equal(signal.aborted, true);
  assert.equal(second.ack(), false);
  await assert.rejects(second.ackConfirmed(), { code: "lease_lost" });
});

test("a confirmed ack resolves with the answer, and rejects when it is stale", async () => {
  const { world, client } = make();
  const held: Message[] = [];
  client.subscribe("orders", { ack: "manual" }, (message) => void held.push(message));
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b")));
  await world.settle();
  const outcomes = Promise.allSettled(held.map((message) => message.ackConfirmed()));
  await world.settle();
  const [ack] = world.socket.said();
  assert.deepEqual(ack!.leases, ["a", "b"]);
  world.socket.say({ op: "error", ref: ack!.ref!, code: "stale_lease", message: "", retryable: false, leases: ["b"] });
  assert.deepEqual(
    (await outcomes).map(({ status }) => status),
    ["fulfilled", "rejected"],
  );
});

test("what waits too long in the queue is given back, what runs out is lost", async () => {
  const { world, client } = make();
  const held: Message[] = [];
  client.subscribe("orders", { ack: "manual" }, (message) => {
    held.push(message);
    return new Promise(() => undefined);
  });
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b")));
  await world.settle();
  assert.equal(held.length, 1);
  await world.pass(20_001);
  assert.deepEqual(
    world.socket.said().filter(({ op }) => op === "release"),
    [{ op: "release", leases: ["b"] }],
  );
  world.socket.say({ op: "ping" });
  await world.pass(10_000);
  assert.equal(held[0]!.lost, true);
});

for (const extend of [false, true]) {
  test(`what ran out while the page was blocked is lost to every verb, extend: ${extend}`, async () => {
    const { world, client } = make();
    const held: Message[] = [];
    client.subscribe("orders", { ack: "manual", extend }, (message) => void held.push(message));
    const { sub } = await world.subscribed();
    world.socket.say(push(sub, row(1, "a"), row(2, "b"), row(3, "c")));
    await world.settle();
    const [first, second, third] = held as [Message, Message, Message];
    world.time += 29_999;
    assert.deepEqual([first.expiresInMs, first.lost, first.ack()], [1, false, true]);
    world.time += 1; // no timer has run since
    assert.deepEqual([second.expiresInMs, second.lost, second.settled], [0, true, false]);
    const verbs = [second.ack(), second.nack(), second.reject(), second.release(), second.extend()];
    assert.deepEqual(verbs, [false, false, false, false, false]);
    await assert.rejects(second.ackConfirmed(), { code: "lease_lost" });
    assert.throws(() => first.ack(), { code: "already_settled" });
    assert.equal(third.signal.aborted, true);
    await world.pass(1);
    const said = world.socket.said().filter(({ op }) => op !== "ping");
    assert.deepEqual(said, [{ op: "ack", leases: ["a"] }]);
    assert.deepEqual([second.lost, second.extend()], [true, false]);
  });
}

test("extend renews what is held, and notices what the gateway has lost", async () => {
  const { world, client } = make();
  const held: Message[] = [];
  client.subscribe("orders", { ack: "manual", extend: true }, (message) => void held.push(message));
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a")));
  await world.pass(10_001);
  const [extend] = world.socket.said();
  assert.deepEqual(extend, { op: "extend", ref: extend!.ref, leases: ["a"] });
  assert.ok(held[0]!.expiresInMs > 29_000);
  world.socket.say({
    op: "error",
    ref: extend!.ref!,
    code: "stale_lease",
    message: "",
    retryable: false,
    leases: ["a"],
  });
  assert.equal(held[0]!.lost, true);
});

test("a publish gets its receipt, and goes again with the same id over a new connection", async () => {
  const { world, client } = make();
  const receipt = client.publish("orders", { n: 1 }, { key: "k" });
  const [first] = await world.welcome();
  assert.match(first!.id as string, /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  world.socket.end(1006);
  await world.pass(500);
  const [again] = await world.welcome();
  assert.deepEqual([again!.id, again!.data, again!.key], [first!.id, { n: 1 }, "k"]);
  await world.grant([again!], ({ id }) => ({ receipts: [{ id, seq: 7, duplicate: true }] }));
  assert.deepEqual(await receipt, { id: first!.id, seq: 7, duplicate: true });
});

test("a refused publish waits as long as the gateway says", async () => {
  const { world, client } = make();
  const receipt = client.publish("orders", 1);
  const [first] = await world.welcome();
  const refusal = { op: "error", code: "rate_limited", message: "too many", retryable: true, retry_after_ms: 250 };
  world.socket.say({ ...refusal, ref: first!.ref! });
  await world.pass(249);
  assert.deepEqual(world.socket.said(), []);
  await world.pass(2);
  const [again] = world.socket.said();
  assert.equal(again!.id, first!.id);
  await world.grant([again!], ({ id }) => ({ receipts: [{ id, seq: 1, duplicate: false }] }));
  assert.equal((await receipt).seq, 1);
});

test("a publish that fails says whether it may be stored", async () => {
  const { world, client } = make({ publishTimeoutMs: 5000, bufferMessagesMax: 2 });
  const failed = (promise: Promise<unknown>) =>
    promise.then(
      () => assert.fail(),
      (error: PushwireError) => error,
    );
  await assert.rejects(client.publish("orders", 2 ** 53), { code: "bad_request", stored: "no" });
  await assert.rejects(client.publish("orders", "\ud800"), { code: "bad_request" });
  const refused = failed(client.publish("orders", 1));
  const late = failed(client.publish("orders", 2));
  const [first] = await world.welcome();
  await assert.rejects(client.publish("orders", 3), { code: "buffer_full", stored: "no" });
  world.socket.say({ op: "error", ref: first!.ref!, code: "forbidden", message: "no", retryable: false });
  assert.equal((await refused).stored, "no");
  await world.pass(5001);
  const error = await late;
  assert.deepEqual([error.code, error.stored], ["timeout", "maybe"]);
});

test("an aborted publish is not waited for", async () => {
  const { world, client } = make();
  const abort = new AbortController();
  const receipt = client.publish("orders", 1, { signal: abort.signal });
  await world.settle();
  abort.abort();
  await assert.rejects(receipt, { code: "aborted", stored: "no" });
});

test("reconnects wait a random time that doubles; a final close ends the client", async () => {
  const { world, client } = make();
  client.connect();
  const waits: number[] = [];
  for (let attempt = 0; attempt < 4; attempt++) {
    await world.settle();
    const before = world.time;
    const count = world.sockets.length;
    world.socket.end(1006);
    while (world.sockets.length === count) await world.pass(50);
    waits.push(world.time - before);
  }
  assert.deepEqual(waits, [250, 500, 1000, 2000]);
  world.socket.end(4403, "kicked");
  assert.equal(client.state, "closed");
  assert.equal(client.error!.code, "closed_4403");
});

test("goodbye's hint is a minimum", async () => {
  const { world, client } = make();
  client.connect();
  await world.welcome();
  world.socket.say({ op: "goodbye", code: 1012, reason: "restarting", reconnect: true, retry_after_ms: 5000 });
  world.socket.end(1012);
  await world.pass(4999);
  assert.equal(world.sockets.length, 1);
  await world.pass(2);
  assert.equal(world.sockets.length, 2);
});

test("a token that is refused is fetched once more, then the client stops", async () => {
  const reasons: string[] = [];
  const { world, client } = make({ token: ({ reason }) => (reasons.push(reason), "t") });
  client.connect();
  await world.settle();
  world.socket.end(4401);
  await world.pass(500);
  world.socket.end(4401);
  assert.deepEqual(reasons, ["connect", "rejected"]);
  assert.ok(client.error instanceof Unauthorized);
});

test("a token is refreshed at four fifths of its life, on the live connection", async () => {
  const reasons: string[] = [];
  const { world, client } = make({ token: ({ reason }) => (reasons.push(reason), `t${reasons.length}`) });
  client.connect();
  await world.welcome({ ...WELCOME, expires_in_ms: 10_000, heartbeat_ms: 0, pong_timeout_ms: 0 });
  await world.pass(8001);
  const refresh = world.socket.said().find(({ op }) => op === "auth");
  assert.deepEqual(refresh, { op: "auth", ref: refresh!.ref, token: "t2" });
  assert.deepEqual(reasons, ["connect", "expiring"]);
  assert.equal(world.sockets.length, 1);
});

test("a token callback that says unauthorized stops for good, another error does not", async () => {
  let calls = 0;
  const { world, client } = make({
    token: () => {
      if (++calls === 1) throw new Error("network");
      throw new Unauthorized();
    },
  });
  client.connect();
  await world.pass(1000);
  assert.equal(calls, 2);
  assert.equal(client.state, "closed");
});

test("silence is asked about, and ends the connection", async () => {
  const { world, client } = make();
  client.connect();
  await world.welcome();
  await world.pass(30_001);
  assert.deepEqual(world.socket.said(), [{ op: "ping" }]);
  await world.pass(10_001);
  assert.equal(world.sockets[0]!.closed, true);
  await world.pass(1000);
  assert.equal(world.sockets.length, 2);
});

test("a ping is answered with its ref", async () => {
  const { world, client } = make();
  client.connect();
  await world.welcome();
  world.socket.say({ op: "ping", ref: 7 });
  await world.settle();
  assert.deepEqual(world.socket.said(), [{ op: "pong", ref: 7 }]);
});

test("drain gives back what nobody works on, waits for handlers and confirmations, then closes", async () => {
  const { world, client } = make();
  let finish = (): void => undefined;
  client.subscribe("orders", () => new Promise<void>((resolve) => (finish = resolve)));
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b")));
  await world.settle();
  const drained = client.drain();
  await world.settle();
  const said = world.socket.said();
  assert.deepEqual(
    said.map(({ op, leases, prefetch }) => [op, leases ?? prefetch]),
    [
      ["flow", 0],
      ["release", ["b"]],
    ],
  );
  await world.grant(said);
  assert.equal(client.state, "draining");
  finish();
  await world.settle();
  const [ack] = world.socket.said();
  assert.deepEqual(ack!.leases, ["a"]);
  assert.equal(client.state, "draining");
  await world.grant([ack!]);
  await drained;
  assert.equal(client.state, "closed");
  assert.equal(world.socket.closedWith, 1000);
});

test("an aborted subscription leaves, after its settlements", async () => {
  const { world, client } = make();
  const abort = new AbortController();
  const subscription = client.subscribe("orders", { signal: abort.signal }, (message) => {
    message.ack();
    abort.abort();
  });
  const { sub } = await world.subscribed();
  world.socket.say(push(sub, row(1, "a"), row(2, "b")));
  await world.settle();
  assert.deepEqual(
    world.socket.said().map(({ op }) => op),
    ["ack", "unsubscribe"],
  );
  assert.equal(await subscription.closed, undefined);
});

test("a refused subscription rejects ready and ends the loop with its error", async () => {
  const { world, client } = make();
  const subscription = client.subscribe("orders");
  const [subscribe] = await world.welcome();
  world.socket.say({ op: "error", ref: subscribe!.ref!, code: "forbidden", message: "no", retryable: false });
  await assert.rejects(subscription.ready, { code: "forbidden" });
  await assert.rejects(subscription.next(), { code: "forbidden" });
});

test("two drains at once end together: the first is not left to its timeout", async () => {
  const { world, client } = make();
  const subscription = client.subscribe("orders");
  const { sub } = await world.subscribed();
  const messages = subscription[Symbol.asyncIterator]();
  world.socket.say(push(sub, row(1, "a")));
  const { value } = await messages.next();
  const ended: string[] = [];
  void client.drain().then(() => ended.push("first"));
  void client.drain().then(() => ended.push("second"));
  await world.settle();
  assert.deepEqual(ended, []);
  value!.ack();
  await world.settle();
  for (const op of world.socket.said()) if (op.ref) world.socket.say({ op: "ok", ref: op.ref });
  await world.settle();
  assert.deepEqual(ended, ["first", "second"]);
});

test("a refresh that is refused after the client was closed, or suspended, changes nothing", async () => {
  for (const [end, state] of [
    [(client: Client) => client.close(), "closed"],
    [(client: Client) => client.suspend(), "suspended"],
  ] as const) {
    let refuse: ((error: Error) => void) | undefined;
    const token = ({ reason }: { reason: string }) =>
      reason === "connect" ? Promise.resolve("t1") : new Promise<string>((_, reject) => (refuse = reject));
    const { world, client } = make({ token });
    client.connect();
    await world.welcome({ ...WELCOME, expires_in_ms: 10_000 });
    await world.grant([]);
    await world.pass(3_600_000 * 0.8);
    end(client);
    const told: unknown[] = [];
    client.on("state", (event) => told.push(event));
    client.on("warning", (event) => told.push(event));
    refuse!(new Unauthorized());
    await world.settle();
    assert.deepEqual([client.state, client.error, told], [state, undefined, []]);
  }
});
