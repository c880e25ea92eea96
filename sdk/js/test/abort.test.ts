/** Signals that abort: at each moment the documented end, and no listener left behind. */

import assert from "node:assert/strict";
import { getEventListeners } from "node:events";
import { test } from "node:test";
import { Client } from "../src/index.js";
import type { Message } from "../src/index.js";
import { row, World } from "./world.js";

function make() {
  const world = new World();
  const { runtime, WebSocket } = world;
  const client = new Client("ws://gw", { token: "t", transport: "websocket", runtime, WebSocket });
  const abort = new AbortController();
  const { signal } = abort;
  const listeners = () => getEventListeners(signal, "abort").length;
  return { world, client, abort, signal, listeners };
}

// --- publishing

test("a publish with a signal that is aborted already is not sent", async () => {
  const { world, client, abort, signal, listeners } = make();
  abort.abort();
  await assert.rejects(client.publish("orders", 1, { signal }), { code: "aborted", stored: "no" });
  await assert.rejects(client.publishMany("orders", [{ data: 1 }], { signal }), { code: "aborted", stored: "no" });
  assert.deepEqual(await world.welcome(), []);
  assert.equal(listeners(), 0);
});

test("a publish that is aborted in the turn that makes it is not sent", async () => {
  const { world, client, abort, signal, listeners } = make();
  const failed = assert.rejects(client.publish("orders", 1, { signal }), { code: "aborted", stored: "no" });
  abort.abort();
  assert.deepEqual(await world.welcome(), []);
  await failed;
  assert.equal(listeners(), 0);
});

test("a publish that is aborted while the client connects is not sent", async () => {
  const { world, client, abort, signal, listeners } = make();
  const failed = assert.rejects(client.publish("orders", 1, { signal }), { code: "aborted", stored: "no" });
  await world.settle();
  abort.abort(new Error("the user left"));
  await failed;
  assert.deepEqual(await world.welcome(), []);
  assert.equal(listeners(), 0);
});

test("a publish that is aborted before its receipt may be stored; the receipt is passed over", async () => {
  const { world, client, abort, signal, listeners } = make();
  const failed = assert.rejects(client.publish("orders", 1, { signal, id: "a" }), { code: "aborted", stored: "maybe" });
  const [publish] = await world.welcome();
  abort.abort();
  await failed;
  await world.grant([publish!], () => ({ receipts: [{ id: "a", seq: 1, duplicate: false }] }));
  world.socket.end(1006);
  await world.pass(300);
  assert.deepEqual(await world.welcome(), []);
  assert.equal(listeners(), 0);
});

test("a publish that has ended does not listen any more, however it ended", async () => {
  const { world, client, abort, signal, listeners } = make();
  const receipt = client.publish("orders", 1, { signal, id: "a" });
  const [publish] = await world.welcome();
  assert.equal(listeners(), 1);
  await world.grant([publish!], () => ({ receipts: [{ id: "a", seq: 1, duplicate: false }] }));
  assert.equal((await receipt).seq, 1);
  assert.equal(listeners(), 0);
  await assert.rejects(client.publish("orders", undefined, { signal }), { code: "bad_request" });
  const closed = assert.rejects(client.publish("orders", 1, { signal }), { code: "closed" });
  await world.settle();
  client.close();
  await closed;
  await assert.rejects(client.publish("orders", 1, { signal }), { code: "closed" });
  assert.equal(listeners(), 0);
  abort.abort();
});

// --- subscriptions and tails

const begin = {
  subscribe: (client: Client, signal: AbortSignal) => client.subscribe("orders", { signal }),
  tail: (client: Client, signal: AbortSignal) => client.tail("orders", { signal }),
};

for (const kind of ["subscribe", "tail"] as const) {
  test(`${kind}: aborted before it begins, it ends without having been`, async () => {
    const { world, client, abort, signal, listeners } = make();
    abort.abort();
    const feed = begin[kind](client, signal);
    assert.deepEqual(await feed.next(), { value: undefined, done: true });
    await assert.rejects(feed.ready, { code: "closed" });
    assert.equal(await feed.closed, undefined);
    assert.deepEqual(await world.welcome(), []);
    assert.equal(listeners(), 0);
  });

  test(`${kind}: aborted while the client connects, it is never asked for`, async () => {
    const { world, client, abort, signal, listeners } = make();
    const feed = begin[kind](client, signal);
    const next = feed.next();
    await world.settle();
    abort.abort();
    assert.equal((await next).done, true);
    await assert.rejects(feed.ready, { code: "closed" });
    assert.deepEqual(await world.welcome(), []);
    assert.equal(listeners(), 0);
  });

  test(`${kind}: aborted while it is asked for, it is left once it is granted`, async () => {
    const { world, client, abort, signal, listeners } = make();
    const feed = begin[kind](client, signal);
    const [asked] = await world.welcome();
    abort.abort();
    await assert.rejects(feed.ready, { code: "closed" });
    const [left] = await world.grant([asked!], ({ sub }) => ({ sub, prefetch: 32, epoch: "e1", seq: 0 }));
    assert.deepEqual([left!.op, left!.sub], ["unsubscribe", asked!.sub]);
    assert.equal(listeners(), 0);
  });

  test(`${kind}: an end of another kind takes the listener off`, async () => {
    for (const end of ["close", "client", "refusal", "return"]) {
      const { world, client, abort, signal, listeners } = make();
      const feed = begin[kind](client, signal);
      const [asked] = await world.welcome();
      assert.equal(listeners(), 1);
      if (end === "close") await feed.close();
      if (end === "return") await feed.return();
      if (end === "client") client.close();
      const refusal = { code: "forbidden", message: "no", retryable: false };
      if (end === "refusal") world.socket.say({ op: "error", ref: asked!.ref!, ...refusal });
      await world.settle();
      assert.equal(listeners(), 0, end);
      world.socket.said();
      abort.abort();
      await world.settle();
      assert.deepEqual(world.socket.said(), [], end);
    }
  });
}

test("aborted within a loop, what is not settled goes back, and the loop ends", async () => {
  const { world, client, abort, signal, listeners } = make();
  const held: Message[] = [];
  const loop = (async () => {
    for await (const message of client.subscribe("orders", { signal })) held.push(message);
  })();
  const { sub } = await world.subscribed();
  world.socket.say({ op: "messages", sub, messages: [row(1, "a")] });
  await world.settle();
  const [message] = held as [Message];
  const { signal: lost } = message;
  abort.abort();
  await loop;
  assert.deepEqual([lost.aborted, message.lost, message.ack()], [true, true, false]);
  await assert.rejects(message.ackConfirmed(), { code: "lease_lost" });
  await world.settle();
  const [left] = world.socket.said();
  assert.deepEqual([left!.op, left!.sub], ["unsubscribe", sub]);
  assert.equal(listeners(), 0);
});
