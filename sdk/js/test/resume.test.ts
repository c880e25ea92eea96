/** Sessions that are resumed, and tails that go on where they were. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import type { ClientOptions, Gap, Message, PushwireError, TailMessage } from "../src/index.js";
import { row, WELCOME, World } from "./world.js";
import type { Op } from "./world.js";

function make(resumeGraceMs = 0, token: ClientOptions["token"] = "t"): { world: World; client: Client } {
  const world = new World();
  const { runtime, WebSocket } = world;
  const options = { token, transport: "websocket", runtime, WebSocket, resumeGraceMs } as const;
  return { world, client: new Client("ws://gw", options) };
}

/** Open the newest socket and answer its `auth` with what became of the session. */
async function answer(world: World, more: object): Promise<{ auth: Op; said: Op[] }> {
  await world.settle();
  world.socket.open();
  await world.settle();
  const [auth] = world.socket.said();
  world.socket.say(WELCOME, { op: "ok", ref: auth!.ref!, session: "n1.secret", ...more });
  await world.settle();
  return { auth: auth!, said: world.socket.said() };
}

/** Refuse the `auth` of the next attempt, and close with what goodbye says. */
async function refuse(world: World, error: object, goodbye: { code: number; [field: string]: unknown }): Promise<void> {
  await world.pass(300);
  world.socket.open();
  await world.settle();
  const [auth] = world.socket.said();
  world.socket.say({ op: "error", ref: auth!.ref!, ...error }, { op: "goodbye", ...goodbye });
  world.socket.end(goodbye.code);
}

async function holding(token?: ClientOptions["token"]) {
  const { world, client } = make(30_000, token);
  const held: Message[] = [];
  client.subscribe("orders", { ack: "manual" }, (message) => void held.push(message));
  const { auth, said } = await answer(world, { resumed: false });
  assert.equal(auth.resume_grace_ms, 30_000);
  const sub = said[0]!.sub as string;
  await world.grant(said, () => ({ sub, prefetch: 32, ack_timeout_ms: 30_000 }));
  world.socket.say({ op: "messages", sub, messages: [row(1, "a"), row(2, "b"), row(3, "c")] });
  await world.settle();
  return { world, client, held, sub };
}

test("a resumed session keeps its leases; what was said and did not arrive is said again", async () => {
  const { world, held, sub } = await holding();
  held[0]!.ack();
  await world.settle();
  assert.deepEqual(world.socket.said(), [{ op: "ack", leases: ["a"] }]);
  world.socket.end(1006);
  held[1]!.ack(); // while away
  await world.pass(300);
  const { auth, said } = await answer(world, { resumed: true, subs: { [sub]: ["a", "b", "c", "never-seen"] } });
  assert.equal(auth.session, "n1.secret");
  assert.equal(held[2]!.lost, false);
  // The window is said once more: it may have changed meanwhile.
  assert.deepEqual([said[0]!.op, said[0]!.prefetch], ["flow", 32]);
  assert.deepEqual(said.slice(1), [
    { op: "ack", leases: ["b", "a"] },
    { op: "release", leases: ["never-seen"] },
  ]);
});

test("leases that the resumed session does not hold are lost, and so is all when it is not resumed", async () => {
  const { world, held, sub } = await holding();
  world.socket.end(1006);
  await world.pass(300);
  await answer(world, { resumed: true, subs: { [sub]: ["c"] } });
  assert.deepEqual(
    held.map(({ lost }) => lost),
    [true, true, false],
  );
  world.socket.end(1006);
  await world.pass(1000);
  const { said } = await answer(world, { resumed: false });
  assert.equal(held[2]!.lost, true);
  assert.equal(said[0]!.op, "subscribe");
});

test("after the grace nothing is held any more", async () => {
  const { world, client, held } = await holding();
  client.offline();
  world.socket.end(1006);
  await world.pass(29_000);
  assert.equal(held[0]!.lost, false);
  await world.pass(1001);
  assert.equal(held[0]!.lost, true);
});

test("a token that is refused on the way back loses nothing: the next one resumes", async () => {
  const { world, held, sub } = await holding(async () => "t");
  world.socket.end(1006);
  await refuse(
    world,
    { code: "unauthorized", message: "not accepted", retryable: false },
    { code: 4401, reason: "unauthorized", reconnect: true },
  );
  assert.equal(held[0]!.lost, false);
  await world.pass(600);
  const { auth, said } = await answer(world, { resumed: true, subs: { [sub]: ["a", "b", "c"] } });
  assert.equal(auth.session, "n1.secret");
  assert.equal(said.find(({ op }) => op === "unsubscribe"), undefined);
  assert.equal(held[0]!.ack(), true);
});

test("no seat on the way back loses nothing: the next attempt, after the gateway's hint, resumes", async () => {
  const { world, held, sub } = await holding();
  world.socket.end(1006);
  await refuse(
    world,
    { code: "too_many_connections", message: "no seat", retryable: true },
    { code: 4429, reason: "too many connections", reconnect: true, retry_after_ms: 2000 },
  );
  const before = world.sockets.length;
  await world.pass(1900);
  assert.equal(world.sockets.length, before);
  await world.pass(200);
  const { auth } = await answer(world, { resumed: true, subs: { [sub]: ["a", "b", "c"] } });
  assert.equal(auth.session, "n1.secret");
  assert.equal(held[0]!.ack(), true);
});

test("attempts that come to nothing on the way back lose nothing", async () => {
  const { world, held, sub } = await holding();
  for (const wait of [300, 600, 1200]) {
    world.socket.end(1006);
    await world.pass(wait);
  }
  const { said } = await answer(world, { resumed: true, subs: { [sub]: ["a", "b", "c"] } });
  assert.deepEqual(
    said.map(({ op }) => op),
    ["flow"],
  );
  assert.equal(held[0]!.ack(), true);
});

test("a goodbye that sends away leaves nothing to resume", async () => {
  const { world, held } = await holding();
  world.socket.say({ op: "goodbye", code: 1012, reason: "restarting", reconnect: true });
  world.socket.end(1012);
  assert.deepEqual(
    held.map(({ lost }) => lost),
    [true, true, true],
  );
});

const shown = (seq: number): object => ({
  topic: "prices",
  seq,
  id: `p-${seq}`,
  priority: 1,
  published_at_ms: 1,
  data: seq,
});

async function following() {
  const { world, client } = make();
  const tail = client.tail<number>("prices");
  const [subscribe] = await world.welcome();
  await world.grant([subscribe!], ({ sub }) => ({ sub, epoch: "e1", seq: 100 }));
  return { world, client, tail, sub: subscribe!.sub as string };
}

test("a tail goes on after the last it was shown, and tells gaps in their place", async () => {
  const { world, tail, sub } = await following();
  const seen: (number | Gap)[] = [];
  tail.on("gap", (gap) => seen.push(gap));
  void (async () => {
    for await (const message of tail) seen.push(message.seq);
  })();
  assert.deepEqual(tail.position, { epoch: "e1", seq: 100 });
  world.socket.say({ op: "messages", sub, messages: [shown(101), shown(102)] });
  await world.settle();
  world.socket.end(1006);
  await world.pass(300);
  const [again] = await world.welcome();
  assert.deepEqual([again!.tail, again!.epoch, again!.after_seq], [true, "e1", 102]);
  await world.grant([again!], (op) => ({ sub: op.sub, epoch: "e1", seq: 102 }));
  const now = again!.sub;
  world.socket.say(
    { op: "gap", sub: now, from: 103, to: 180 },
    { op: "messages", sub: now, messages: [shown(102), shown(181)] },
  );
  await world.settle();
  assert.deepEqual(seen, [101, 102, { from: 103, to: 180 }, 181]);
  assert.deepEqual(tail.position, { epoch: "e1", seq: 181 });
});

test("a tail whose epoch is another ends, and says which it is now", async () => {
  const { world, client } = make();
  const tail = client.tail("prices", { after: { epoch: "old", seq: 5 } });
  const [subscribe] = await world.welcome();
  assert.deepEqual([subscribe!.epoch, subscribe!.after_seq, subscribe!.from], ["old", 5, undefined]);
  const message = "the database was restored and has another epoch: 9f3c2a71";
  world.socket.say({ op: "error", ref: subscribe!.ref!, code: "epoch_changed", message, retryable: false });
  const error = (await tail.closed) as PushwireError;
  assert.deepEqual([error.code, error.epoch], ["epoch_changed", "9f3c2a71"]);
});

test("a tail that nobody reads is left, and taken up again by another name where its queue ends", async () => {
  const { world, tail, sub } = await following();
  for (let seq = 101; seq < 1140; seq += 13) {
    world.socket.say({ op: "messages", sub, messages: Array.from({ length: 13 }, (_, at) => shown(seq + at)) });
  }
  await world.settle();
  const [leave] = world.socket.said();
  assert.deepEqual([leave!.op, leave!.sub], ["unsubscribe", sub]);
  world.socket.say({ op: "messages", sub, messages: [shown(5000)] }); // still under way
  const read: TailMessage<number>[] = [];
  while (read.length < 530) read.push((await tail.next()).value);
  await world.settle();
  const [again] = world.socket.said();
  assert.notEqual(again!.sub, sub);
  assert.equal(again!.op, "subscribe");
  assert.equal(again!.after_seq, 1127);
  assert.deepEqual(
    read.map(({ seq }) => seq),
    Array.from({ length: 530 }, (_, at) => 101 + at),
  );
});

test("$sys.stats is a tail like any other", async () => {
  const { world, client } = make();
  client.tail("$sys.stats", () => undefined);
  const [subscribe] = await world.welcome();
  assert.deepEqual([subscribe!.topic, subscribe!.tail], ["$sys.stats", true]);
});
