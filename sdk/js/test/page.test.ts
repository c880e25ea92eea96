/**
 * The life of a page: hidden, frozen, left, back, offline (ecosystem table); each with events as browsers send them.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import type { Message } from "../src/index.js";
import { row, World } from "./world.js";

class FakePage {
  document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  window = new EventTarget();

  visibility(state: "hidden" | "visible"): void {
    this.document.visibilityState = state;
    this.document.dispatchEvent(new Event("visibilitychange"));
  }

  fire(type: string, more: object = {}): void {
    const target = type === "freeze" || type === "resume" ? this.document : this.window;
    target.dispatchEvent(Object.assign(new Event(type), more));
  }
}

async function busy() {
  const world = new World();
  const page = new FakePage();
  const { runtime, WebSocket } = world;
  const client = new Client("ws://gw", { token: "t", transport: "websocket", runtime, WebSocket, page: page as never });
  await world.settle();
  const held: Message[] = [];
  // The first message is worked on, the others wait.
  client.subscribe("orders", { prefetch: 8 }, (message) => {
    held.push(message);
    return new Promise(() => undefined);
  });
  const { sub } = await world.subscribed(8);
  world.socket.say({ op: "messages", sub, messages: [row(1, "a"), row(2, "b"), row(3, "c")] });
  await world.settle();
  assert.equal(held.length, 1);
  return { world, page, client, held, sub };
}

test("a page hidden for 30 s gives its window and its unworked messages back, and keeps the connection", async () => {
  const { world, page, client, sub } = await busy();
  page.visibility("hidden");
  await world.pass(29_000 - 10_000);
  assert.deepEqual(world.socket.said(), []);
  world.socket.say({ op: "ping" });
  await world.settle();
  world.socket.said();
  await world.pass(11_001);
  const said = world.socket.said();
  assert.ok(
    said.some((op) => op.op === "flow" && op.sub === sub && op.prefetch === 0),
    JSON.stringify(said),
  );
  assert.ok(
    said.some((op) => op.op === "release" && String(op.leases) === "b,c"),
    JSON.stringify(said),
  );
  assert.equal(client.state, "connected");
});

test("a page that is seen again takes its window back and asks whether its connection lives", async () => {
  const { world, page, sub } = await busy();
  page.visibility("hidden");
  await world.pass(15_000);
  world.socket.say({ op: "ping" });
  await world.pass(15_001);
  await world.grant(world.socket.said());
  page.visibility("visible");
  await world.settle();
  const said = world.socket.said();
  assert.ok(
    said.some((op) => op.op === "flow" && op.sub === sub && op.prefetch === 8),
    JSON.stringify(said),
  );
  assert.ok(said.some(({ op }) => op === "ping"));
  world.socket.say({ op: "pong" });
  await world.pass(3000);
  assert.equal(world.sockets.length, 1);
});

test("a connection that is dead when the page is seen again is replaced within 2 s", async () => {
  const { world, page, client } = await busy();
  page.visibility("hidden");
  await world.pass(1000);
  page.visibility("visible");
  await world.pass(1999);
  assert.equal(world.sockets.length, 1);
  await world.pass(1);
  assert.equal(world.sockets[0]!.closed, true);
  assert.equal(world.sockets.length, 2);
  const [subscribe] = await world.welcome();
  assert.equal(subscribe!.prefetch, 8);
  assert.equal(client.state, "connected");
});

for (const event of ["freeze", "pagehide"]) {
  test(`on ${event} everything goes back and the connection is closed, at once`, async () => {
    const { world, page, client, held, sub } = await busy();
    page.visibility("hidden");
    page.fire(event);
    page.fire("pagehide");
    // No turn of the loop has passed: a frozen page gets none.
    const said = world.socket.said();
    assert.ok(
      said.some((op) => op.op === "release" && String(op.leases) === "b,c"),
      JSON.stringify(said),
    );
    assert.deepEqual(said.at(-1), { op: "unsubscribe", ref: said.at(-1)!.ref, sub });
    assert.equal(world.socket.closedWith, 1000);
    assert.equal(client.state, "suspended");
    assert.equal(held[0]!.lost, true);
    assert.equal(held[0]!.ack(), false);
    await world.pass(60_000);
    assert.equal(world.sockets.length, 1);

    page.fire(event === "freeze" ? "resume" : "pageshow", { persisted: true });
    page.visibility("visible");
    const [subscribe] = await world.welcome();
    assert.deepEqual([subscribe!.op, subscribe!.prefetch], ["subscribe", 8]);
    assert.equal(client.state, "connected");
  });
}

test("a page thawed in the background connects without a window, until it is seen", async () => {
  const { world, page } = await busy();
  page.visibility("hidden");
  page.fire("freeze");
  page.fire("resume");
  const [subscribe] = await world.welcome();
  assert.equal(subscribe!.prefetch, 0);
  await world.grant([subscribe!], ({ sub }) => ({ sub, prefetch: 0, ack_timeout_ms: 30_000 }));
  page.visibility("visible");
  await world.settle();
  assert.ok(world.socket.said().some((op) => op.op === "flow" && op.prefetch === 8));
});

test("offline stops the attempts, online tries at once", async () => {
  const { world, page } = await busy();
  page.fire("offline");
  world.socket.end(1006);
  await world.pass(60_000);
  assert.equal(world.sockets.length, 1);
  page.fire("online");
  await world.settle();
  assert.equal(world.sockets.length, 2);
});

test("events that come together count once", async () => {
  const { world, page } = await busy();
  page.visibility("hidden");
  world.socket.said();
  page.visibility("visible");
  page.fire("online");
  await world.settle();
  assert.deepEqual(
    world.socket.said().map(({ op }) => op),
    ["ping"],
  );
  page.visibility("hidden");
  page.fire("pagehide", { persisted: true });
  page.fire("freeze");
  page.fire("resume");
  page.fire("pageshow", { persisted: true });
  page.visibility("visible");
  page.fire("online");
  await world.settle();
  assert.equal(world.sockets.length, 2);
});

test("a page that went offline and is then restored connects: of what happened meanwhile it was told nothing", async () => {
  const { world, page, client } = await busy();
  page.fire("offline");
  page.fire("pagehide", { persisted: true });
  page.fire("pageshow", { persisted: true });
  await world.settle();
  assert.equal(world.sockets.length, 2);
  await world.welcome();
  assert.equal(client.state, "connected");
});

test("a closed client listens no more", async () => {
  const { world, page, client } = await busy();
  client.close();
  page.fire("freeze");
  page.fire("resume");
  page.fire("online");
  await world.pass(60_000);
  assert.equal(client.state, "closed");
  assert.equal(world.sockets.length, 1);
});
