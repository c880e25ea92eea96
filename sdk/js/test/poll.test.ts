/** The fallback: long polls against a small fake of the gateway's HTTP routes (docs/http.md §2). */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client } from "../src/index.js";
import type { ClientOptions, Message } from "../src/index.js";
import { row, World } from "./world.js";

interface Call {
  method: string;
  path: string;
  headers: Headers;
  body: { leases?: string[] } & Record<string, unknown>;
  keepalive: boolean;
  answer(body: unknown, status?: number, headers?: Record<string, string>): void;
  fail(): void;
  aborted: boolean;
}

/** Holds every request until the test answers it; tickets are answered at once, as the token is good. */
class FakeHttp {
  calls: Call[] = [];
  ticketStatus: number[] = [];

  readonly fetch = ((url: string, init: RequestInit = {}) =>
    new Promise<Response>((resolve, reject) => {
      const call: Call = {
        method: init.method ?? "GET",
        path: url.replace("http://gw", ""),
        headers: new Headers(init.headers),
        body: init.body ? JSON.parse(init.body as string) : {},
        keepalive: !!init.keepalive,
        answer: (body, status = 200, headers = {}) => {
          const type = { "content-type": "application/json", "pushwire-session": "h-1", ...headers };
          resolve(
            new Response(body instanceof ReadableStream ? body : JSON.stringify(body), { status, headers: type }),
          );
        },
        fail: () => reject(new TypeError("network")),
        aborted: false,
      };
      init.signal?.addEventListener("abort", () => {
        call.aborted = true;
        reject(new DOMException("aborted", "AbortError"));
      });
      if (call.path === "/v1/tickets") {
        const status = this.ticketStatus.shift() ?? 201;
        call.answer(status === 201 ? { ticket: "x", expires_in_ms: 1 } : { code: "unauthorized", title: "no" }, status);
      } else {
        this.calls.push(call);
      }
    })) as typeof fetch;

  /** The next request to such a path; it must have been made. */
  take(part: string): Call {
    const at = this.calls.findIndex(({ path }) => path.includes(part));
    assert.ok(at >= 0, `no request to ${part}: ${this.calls.map(({ path }) => path)}`);
    return this.calls.splice(at, 1)[0]!;
  }
}

function make(options: ClientOptions = {}) {
  const world = new World();
  const http = new FakeHttp();
  const { runtime, WebSocket } = world;
  const given = { token: "t1", transport: "poll", runtime, WebSocket, fetch: http.fetch, ...options } as const;
  return { world, http, client: new Client("ws://gw", given) };
}

test("polls ask for what the window has room for, and settle with posts of one session", async () => {
  const { world, http, client } = make();
  const held: Message[] = [];
  client.subscribe(
    "orders",
    { group: "g", prefetch: 2, ackTimeoutMs: 5000, ack: "manual" },
    (message) => void held.push(message),
  );
  await world.settle();
  const first = http.take("/messages");
  assert.equal(first.path, "/v1/topics/orders/groups/g/messages?wait=20&max=2&ack_timeout=5");
  assert.equal(first.headers.get("authorization"), "Bearer t1");
  first.answer({ messages: [row(1, "a")] });
  await world.settle();
  assert.equal(held[0]!.seq, 1);
  const second = http.take("/messages");
  assert.match(second.path, /max=1&/);
  assert.equal(second.headers.get("pushwire-session"), "h-1");
  const confirmed = held[0]!.ackConfirmed();
  await world.settle();
  const ack = http.take("/v1/leases/ack");
  assert.deepEqual(ack.body, { leases: ["a"] });
  ack.answer({ settled: 1, stale: [] });
  await world.settle();
  await confirmed;
  second.answer({ messages: [row(2, "b")] });
  await world.settle();
  http.take("/messages");
  const late = held[1]!.ackConfirmed();
  await world.settle();
  http.take("/v1/leases/ack").answer({ settled: 0, stale: ["b"] });
  await assert.rejects(late, { code: "lease_lost" });
});

test("publishes are posts; refusals are those of the wire", async () => {
  const { world, http, client } = make();
  const receipt = client.publish("orders", { n: 1 }, { id: "a-1" });
  await world.settle();
  const post = http.take("/v1/topics/orders/messages");
  assert.deepEqual([post.method, post.body], ["POST", { id: "a-1", data: { n: 1 } }]);
  const problem = { code: "rate_limited", title: "too many requests", retryable: true, retry_after_ms: 250 };
  post.answer(problem, 429);
  await world.settle();
  await world.pass(251);
  http.take("/v1/topics/orders/messages").answer({ receipts: [{ id: "a-1", seq: 9, duplicate: false }] });
  await world.settle();
  assert.deepEqual(await receipt, { id: "a-1", seq: 9, duplicate: false });
  const refused = assert.rejects(client.publish("orders", 1), { code: "forbidden", stored: "no" });
  await world.settle();
  http.take("/v1/topics/orders/messages").answer({ code: "forbidden", title: "no", retryable: false }, 403);
  await world.settle();
  await refused;
});

test("a page that is left gives everything back with requests that outlive it", async () => {
  const { world, http, client } = make();
  client.subscribe("orders", () => new Promise(() => undefined));
  await world.settle();
  http.take("/messages").answer({ messages: [row(1, "a"), row(2, "b")] });
  await world.settle();
  const poll = http.take("/messages");
  client.suspend();
  const given = http.calls.filter(({ path }) => path === "/v1/leases/release");
  assert.deepEqual(
    given.flatMap(({ body }) => body.leases),
    ["b", "a"],
  );
  assert.ok(given.every(({ keepalive }) => keepalive));
  assert.equal(poll.aborted, true);
});

test("a hidden page stops polling", async () => {
  const { world, http, client } = make();
  client.subscribe("orders", () => undefined);
  await world.settle();
  const poll = http.take("/messages");
  client.background();
  await world.pass(30_001);
  assert.equal(poll.aborted, true);
  assert.equal(http.calls.length, 0);
  client.foreground();
  await world.settle();
  http.take("/messages");
});

test("a refused token is fetched once more; refused twice, the client stops", async () => {
  let calls = 0;
  const { world, http, client } = make({ token: () => `t${++calls}` });
  client.subscribe("orders", () => undefined);
  await world.settle();
  http.take("/messages").answer({ code: "unauthorized", title: "no" }, 401);
  await world.settle();
  const again = http.take("/messages");
  assert.equal(again.headers.get("authorization"), "Bearer t2");
  http.ticketStatus = [401, 401, 401, 401];
  again.answer({ code: "unauthorized", title: "no" }, 401);
  await world.settle();
  await world.pass(2000);
  assert.equal(client.state, "closed");
  assert.equal(client.error!.code, "unauthorized");
});

test("a subscription that is refused for good ends; a poll that fails is a lost connection", async () => {
  const { world, http, client } = make();
  const refused = client.subscribe("nope", () => undefined);
  client.subscribe("orders", () => undefined);
  await world.settle();
  http.take("/nope/").answer({ code: "topic_not_found", title: "no", retryable: false }, 404);
  await world.settle();
  assert.equal((await refused.closed)!.code, "topic_not_found");
  assert.equal(client.state, "connected");
  http.take("/orders/").fail();
  await world.settle();
  assert.equal(client.state, "reconnecting");
  await world.pass(1000);
  assert.equal(client.state, "connected");
  http.take("/orders/");
});

test("a tail is a stream that goes on after its last event", async () => {
  const { world, http, client } = make();
  const seen: unknown[] = [];
  const tail = client.tail("prices", { from: { seq: 5 } }, ({ seq }) => void seen.push(seq));
  tail.on("gap", (gap) => seen.push(gap));
  await world.settle();
  const get = http.take("/v1/topics/prices/tail?from=seq:5");
  let write!: (text: string) => void;
  let end!: () => void;
  const stream = new ReadableStream({
    start(controller) {
      write = (text) => controller.enqueue(new TextEncoder().encode(text));
      end = () => controller.close();
    },
  });
  get.answer(stream, 200, { "content-type": "text/event-stream" });
  await world.settle();
  const shown = { topic: "prices", id: "x", priority: 1, published_at_ms: 1, data: "ü" };
  const message = (seq: number) => `event: message\nid: e1:${seq}\ndata: ${JSON.stringify({ ...shown, seq })}\n\n`;
  write(`: hello\n\n${message(5).slice(0, 20)}`);
  write(message(5).slice(20));
  write(`event: gap\nid: e1:9\ndata: {"from":6,"to":9}\n\n${message(10)}`);
  await world.settle();
  assert.deepEqual(seen, [5, { from: 6, to: 9 }, 10]);
  assert.deepEqual(tail.position, { epoch: "e1", seq: 10 });
  end();
  await world.pass(2001);
  assert.equal(http.take("/tail").headers.get("last-event-id"), "e1:10");
});

test("after two WebSockets that came to nothing a long poll is tried, and works from then on", async () => {
  const { world, http, client } = make({ transport: "auto" });
  client.subscribe("orders", () => undefined);
  await world.settle();
  world.socket.end(1006);
  await world.pass(300);
  assert.equal(world.sockets.length, 2);
  world.socket.end(1006);
  await world.pass(600);
  assert.equal(client.transport, "poll");
  assert.equal(client.state, "connected");
  http.take("/messages").fail();
  await world.pass(1100);
  assert.equal(world.sockets.length, 3);
});

test("where a group is to begin is said with the group; a private one needs a WebSocket", async () => {
  const { world, http, client } = make();
  client.subscribe("orders", { start: { seq: 7 } }, () => undefined);
  const mine = client.subscribe("orders", { clientId: "phone" }, () => undefined);
  await world.settle();
  const topic = http.take("/v1/admin/topics/orders");
  assert.deepEqual([topic.method, topic.body, topic.headers.get("if-none-match")], ["PUT", {}, "*"]);
  topic.answer({ code: "conflict", title: "it is there", retryable: false }, 412);
  await world.settle();
  const put = http.take("/v1/admin/topics/orders/groups/default");
  assert.deepEqual([put.method, put.body], ["PUT", { start: { seq: 7 } }]);
  put.answer({}, 201);
  await world.settle();
  http.take("/v1/topics/orders/groups/default/messages");
  assert.equal((await mine.closed)!.code, "unsupported");
});

test("empty answers that come at once are no busy loop; an empty one in its time is followed at once", async () => {
  const { world, http, client } = make();
  client.subscribe("orders", () => undefined);
  await world.settle();
  http.take("/messages").answer({});
  await world.settle();
  assert.deepEqual(http.calls, []);
  await world.pass(2000);
  const poll = http.take("/messages");
  world.time += 19_000;
  poll.answer({ messages: [] });
  await world.settle();
  http.take("/messages");
});

test("a success that is not the gateway's is no receipt and ends no subscription", async () => {
  const { world, http, client } = make();
  client.subscribe("orders", () => undefined);
  const receipt = client.publish("orders", 1, { id: "a-1" });
  await world.settle();
  http.take("/groups/").answer(null);
  for (const foreign of [null, {}]) {
    http.take("/v1/topics/orders/messages").answer(foreign);
    await world.pass(3000);
  }
  http.take("/groups/");
  http.take("/v1/topics/orders/messages").answer({ receipts: [{ id: "a-1", seq: 9, duplicate: false }] });
  await world.settle();
  assert.equal((await receipt).seq, 9);
});

/** A client of "auto" that polls, as two WebSockets came to nothing. */
async function walled(options: ClientOptions = {}) {
  const { world, http, client } = make({ transport: "auto", ...options });
  const held: Message[] = [];
  client.subscribe("orders", { prefetch: 2, ack: "manual" }, (message) => void held.push(message));
  for (const wait of [300, 600]) {
    await world.settle();
    world.socket.end(1006);
    await world.pass(wait);
  }
  assert.equal(client.transport, "poll");
  return { world, http, client, held };
}

/** Let time pass, with nothing to deliver. The last poll waits. */
async function linger(world: World, http: FakeHttp, ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= 15_000) {
    for (const call of http.calls.splice(0)) call.answer({ messages: [] });
    await world.pass(Math.min(15_000, left));
  }
}

test("a WebSocket is tried beside the polls, and one that cannot be had costs nothing", async () => {
  const { world, http, client } = await walled();
  await linger(world, http, 590_000);
  assert.equal(world.sockets.length, 2);
  await world.pass(15_000);
  assert.equal(world.sockets.length, 3);
  assert.equal(http.calls.at(-1)!.aborted, false);
  world.socket.end(1006);
  await linger(world, http, 610_000);
  assert.equal(world.sockets.length, 4);
  await linger(world, http, 15_001); // swallowed: it neither opens nor fails
  assert.equal(world.socket.closed, true);
  await linger(world, http, 610_000);
  assert.equal(world.sockets.length, 5);
  assert.deepEqual([client.transport, client.state], ["poll", "connected"]);
  client.close();
  assert.equal(world.socket.closed, true);
});

test("before a WebSocket that was found what is held is settled, and nothing new is taken", async () => {
  const { world, http, client, held } = await walled();
  await linger(world, http, 590_000);
  http.calls.at(-1)!.answer({ messages: [row(1, "a", { expires_in_ms: 60_000 })] });
  http.calls = [];
  await world.pass(15_000);
  const poll = http.take("/messages");
  world.socket.open();
  await world.settle();
  assert.equal(world.socket.closed, true); // it was to see, no more
  assert.deepEqual(world.socket.said(), []);
  assert.equal(poll.aborted, true);
  await world.pass(5000);
  assert.deepEqual([http.calls, client.state, held[0]!.lost], [[], "connected", false]);
  const acked = held[0]!.ackConfirmed();
  await world.settle();
  http.take("/v1/leases/ack").answer({ settled: 1, stale: [] });
  await acked;
  await world.pass(600);
  assert.equal(client.transport, "websocket");
  assert.equal(world.sockets.length, 4);
  const [subscribe] = await world.welcome();
  assert.equal(subscribe!.op, "subscribe");
});

test("a handler that takes long keeps its lease: the polls go on, and a WebSocket is tried later", async () => {
  const { world, http, client, held } = await walled();
  await linger(world, http, 590_000);
  http.calls.at(-1)!.answer({ messages: [row(1, "a", { expires_in_ms: 90_000 })] });
  http.calls = [];
  await world.pass(15_000);
  world.socket.open();
  await world.pass(29_000);
  assert.equal(http.calls.filter(({ aborted }) => !aborted).length, 0);
  await world.pass(2000);
  assert.equal(http.calls.filter(({ aborted }) => !aborted).length, 1);
  assert.deepEqual([client.transport, client.state, held[0]!.lost], ["poll", "connected", false]);
  await linger(world, http, 610_000);
  assert.equal(world.sockets.length, 4);
});

test("where polls are asked for no WebSocket is tried", async () => {
  const { world, client } = make();
  client.subscribe("orders", () => undefined);
  await world.pass(2_000_000);
  assert.equal(world.sockets.length, 0);
});

test("a lease that has run out makes room in the window; one that was extended does not", async () => {
  const { world, http, client } = make();
  const held: Message[] = [];
  client.subscribe("orders", { prefetch: 2, ack: "manual", ackTimeoutMs: 5000 }, (message) => void held.push(message));
  await world.settle();
  http.take("/messages").answer({ messages: [1, 2].map((seq) => row(seq, `l${seq}`, { expires_in_ms: 5000 })) });
  await world.settle();
  held[1]!.extend();
  await world.pass(4000);
  http.take("/v1/leases/extend").answer({ settled: 1, stale: [], expires_in_ms: 9000 });
  await world.settle();
  assert.deepEqual(http.calls, []);
  await world.pass(1001);
  assert.match(http.take("/messages").path, /max=1&/);
});

test("what is no delivery does not fill the window, and what is no outcome settles nothing", async () => {
  const { world, http, client } = make();
  const held: Message[] = [];
  client.subscribe("orders", { prefetch: 2, ack: "manual" }, (message) => void held.push(message));
  await world.settle();
  const good = row(1, "a");
  http.take("/messages").answer({ messages: [null, 7, { lease: "x" }, row(2, "b", { seq: "2" }), good] });
  await world.settle();
  assert.deepEqual(
    held.map(({ seq }) => seq),
    [1],
  );
  const poll = http.take("/messages");
  assert.match(poll.path, /max=1$/);
  const acked = assert.rejects(held[0]!.ackConfirmed(), { code: "lease_lost" });
  await world.settle();
  http.take("/v1/leases/ack").answer({ fine: true });
  await acked;
  poll.answer({ messages: "none" });
  await world.pass(2000);
  http.take("/messages");
});
