/**
 * What a page lives through: no network, another network, a gateway that is killed, a token that ends, a proxy without
 * WebSockets. After each of them nothing is lost, and nothing is confirmed as acked twice.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { line } from "./line.mjs";
import { api, command, go, profile, publish, tab, tokens, until, withSdk, work } from "./page.mjs";

/** A page that comes back is connected within this: two seconds for the probe, the rest for a new socket. */
const BACK_MS = 3500;
/** The browser's own lines, about what could not be reached while a test saw to it. */
const OFFLINE = [
  /^Failed to load resource: net::ERR_INTERNET_DISCONNECTED$/,
  /^WebSocket connection to 'ws:\/\/127\.0\.0\.1:\d+\/v1\/ws' failed: .*ERR_INTERNET_DISCONNECTED$/,
];
const GONE = [
  /^Failed to load resource: net::ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE)$/,
  /^WebSocket connection to 'ws:\/\/127\.0\.0\.1:\d+\/v1\/ws' failed: .*ERR_CONNECTION_(REFUSED|RESET)$/,
];
const BLOCKED = [
  /^WebSocket connection to 'ws:\/\/127\.0\.0\.1:\d+\/v1\/ws' failed: Error during WebSocket handshake: Unexpected response code: 403$/,
];

const button = (page, verb, seq) => page.getByRole("button", { name: `${verb} ${seq}`, exact: true });
const topic = (name) => api("GET", `/v1/admin/topics/${name}`);
const settled = (name, patienceMs) => until(`${name} is settled`, async () => (await topic(name)).messages === 0, patienceMs);
const kept = (name) => api("PUT", `/v1/admin/topics/${name}`, { ledger: "full" });

/** How often the ledger has this message as acked. */
async function acks(name, seq) {
  const { events } = await api("GET", `/v1/admin/topics/${name}/messages/${seq}/history`);
  return events.filter(({ event }) => event === "acked").length;
}

async function ackedOnce(name, count) {
  const seqs = Array.from({ length: count }, (_, at) => at + 1);
  while (seqs.length) {
    const some = seqs.splice(0, 20); // a gateway refuses many at once
    const found = await Promise.all(some.map((seq) => acks(name, seq)));
    assert.deepEqual(found, some.map(() => 1), `${name} from ${some[0]}`);
  }
}

test("offline and online on another network: the dead socket is probed and replaced, and no message is lost", async (t) => {
  await kept("offline");
  const wire = await line();
  t.after(wire.close);
  const page = await tab("#/", { base: wire.url, expected: OFFLINE });
  await work(page, "offline", "desk", { window: "4", timeout: "4s" });
  await publish("offline", { data: "before" });
  await button(page, "Ack", 1).waitFor();
  const before = wire.opened;

  wire.silence();
  await page.context().setOffline(true);
  for (const data of ["meanwhile", "as well"]) await publish("offline", { data });
  await until("they went into the silence", async () => (await topic("offline")).in_flight === 3);
  assert.equal(await button(page, "Ack", 2).count(), 0);
  const began = performance.now();
  await page.context().setOffline(false);
  await until("both clients have another socket", () => wire.opened === before + 2, BACK_MS);
  assert.ok(performance.now() - began < BACK_MS);

  await publish("offline", { data: "after" });
  await page.getByText(/lost 1\./).waitFor(); // what it held is delivered again
  for (const seq of [1, 2, 3, 4]) await button(page, "Ack", seq).click();
  await settled("offline");
  await ackedOnce("offline", 4);
});

test("offline and online while the socket lived on: it answers the probe and is kept, with the leases", async (t) => {
  const wire = await line();
  t.after(wire.close);
  const context = await profile({ base: wire.url, expected: OFFLINE });
  const heard = [];
  context.on("page", (page) =>
    page.on("websocket", (socket) => socket.on("framereceived", ({ payload }) => payload.includes('"pong"') && heard.push(payload))),
  );
  const page = await tab("#/", { context });
  await work(page, "lived", "desk");
  await publish("lived", { data: 1 });
  await button(page, "Ack", 1).waitFor();
  const before = wire.opened;
  assert.equal(heard.length, 0);
  await page.context().setOffline(true);
  await page.context().setOffline(false);
  await until("both clients asked, and were answered", () => heard.length === 2);
  await publish("lived", { data: 2 });
  await button(page, "Ack", 2).click();
  await button(page, "Ack", 1).click();
  await settled("lived");
  assert.equal(await page.getByText("attempt 2").count(), 0);
  assert.equal(wire.opened, before);
});

/** In a page: a client of the SDK that acks whatever comes. What it saw is in `window.seen`, its states in `window.states`. */
const consume = async ({ name, options }) => {
  const { Client } = await import("/sdk/index.js");
  window.seen = [];
  window.states = [];
  window.reasons = [];
  const token = ({ reason }) => (window.reasons.push(reason), window.token(reason));
  const client = (window.client = new Client(location.origin, { token, ...options }));
  client.on("state", ({ state }) => window.states.push(state));
  const keep = (message) => {
    window.seen.push(message.seq);
    if (!options?.holds) message.ack();
    else window.held = message;
  };
  window.subscription = client.subscribe(name, { group: "desk", prefetch: 20, ack: "manual" }, keep);
  await window.subscription.ready;
};

async function consumer(name, mint, { view = "#/", expected = [], base, options } = {}) {
  const context = await withSdk(await profile({ expected, base }));
  await context.exposeFunction("token", mint);
  const page = await tab(view, { context });
  await page.evaluate(consume, { name, options });
  return page;
}

test("a gateway that is killed and started again: the page comes back by itself, and all is acked, each once", async () => {
  await kept("killed");
  const count = 300;
  const page = await consumer("killed", () => tokens.root, { expected: GONE });
  const seen = () => page.evaluate(() => window.seen);
  // Every message again with the same id until there is a receipt, as a producer does.
  const insist = async (n) => {
    const deadline = Date.now() + 10_000;
    for (;;) {
      const stored = await publish("killed", { data: n, id: `order-${n}` }).catch((error) => error);
      if (!(stored instanceof Error)) return;
      if (Date.now() > deadline) throw stored;
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  };
  const published = (async () => {
    for (let n = 1; n <= count; n++) await insist(n);
  })();
  await until("some are acked", async () => (await seen()).length > 100);
  await command("kill");
  await page.getByText("reconnecting", { exact: true }).first().waitFor();
  await command("start");
  await published;
  await page.getByText(/^connected/).first().waitFor();
  await settled("killed");
  assert.equal(new Set(await seen()).size, count, "every message has come");
  assert.deepEqual(await page.evaluate(() => window.states.filter((state) => state === "closed")), []);
  await ackedOnce("killed", count);
});

test("a token that ends: another one is asked for, the connection and its leases stay", async () => {
  await publish("tokens", { data: 1 });
  const minted = [];
  const mint = async () => {
    const { token } = await command("token", { subject: "root", ttl_s: 3 });
    minted.push(JSON.parse(Buffer.from(token.split(".")[1], "base64url")).exp);
    return token;
  };
  const page = await consumer("tokens", mint, { options: { holds: true } });
  await until("it holds one", () => page.evaluate(() => window.held?.seq === 1));
  // Until the first token is over, and the second as well.
  await until("two tokens have ended", () => minted.length > 2 && Date.now() > minted[1] * 1000 + 200, 15_000);
  const reasons = await page.evaluate(() => window.reasons);
  assert.equal(reasons[0], "connect");
  assert.deepEqual([...new Set(reasons.slice(1))], ["expiring"]);
  assert.deepEqual(await page.evaluate(() => window.states), ["connecting", "connected"], "it was one connection");
  await page.evaluate(() => window.held.ackConfirmed());
  await settled("tokens");
  assert.deepEqual(await page.evaluate(() => window.seen), [1], "and one delivery");
});

test("a connection that is lost while the token has ended: a fresh one is asked for, and the leases are still held", async (t) => {
  await publish("resumed", { data: 1 });
  const wire = await line();
  t.after(wire.close);
  const reasons = [];
  const mint = async (reason) => {
    reasons.push(reason);
    // The first is good; the second one, of a cache that has not noticed, has ended.
    const age_s = reasons.length === 2 ? 90 : 0;
    return (await command("token", { subject: "root", ttl_s: 60, age_s })).token;
  };
  const page = await consumer("resumed", mint, { base: wire.url, options: { holds: true, resumeGraceMs: 20_000 } });
  await until("it holds one", () => page.evaluate(() => window.held?.seq === 1));
  wire.cut();
  await until("it is back", () => page.evaluate(() => window.states.at(-1) === "connected" && window.states.includes("reconnecting")));
  assert.deepEqual(reasons, ["connect", "connect", "rejected"]);
  await page.evaluate(() => window.held.ackConfirmed());
  await settled("resumed");
  assert.deepEqual(await page.evaluate(() => window.seen), [1]);
});

test("where WebSockets are blocked the dashboard works by long poll, with the same leases", async (t) => {
  const wire = await line({ upgrades: false });
  t.after(wire.close);
  await kept("polled");
  const context = await profile({ base: wire.url, expected: BLOCKED });
  const page = await tab("#/", { context, shows: "connected by long poll" });
  await work(page, "polled", "desk", { window: "2" });
  for (const n of [1, 2, 3]) await publish("polled", { data: { n } });
  await button(page, "Ack", 1).click();
  await button(page, "Nack", 2).click();
  await page.getByText("attempt 2", { exact: true }).waitFor();
  await button(page, "Ack", 2).click();
  await button(page, "Ack", 3).waitFor();
  const other = await tab("#/", { context, shows: "connected by long poll" });
  await work(other, "polled", "desk", { window: "2" });
  await page.close();
  await other.getByText("attempt 2", { exact: true }).waitFor();
  await button(other, "Ack", 3).click();
  await settled("polled");
  await ackedOnce("polled", 3);
  await go(other, "#/");
  await other.getByRole("heading", { name: "Messages per second" }).waitFor(); // the numbers come as a stream of events
  assert.equal(wire.opened, 0);
});
