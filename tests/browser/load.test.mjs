/**
 * What wants the machine for itself: the first paint, and how much one tab takes (messages a second from publish to the
 * acked row, how long its main thread is held, what is left in its heap). Prints what it measured. The SDK runs under the
 * gateway's own policy.
 */

import assert from "node:assert/strict";
import { test } from "node:test";
import { api, profile, publish, tab, tokens, until, URL_, withSdk } from "./page.mjs";

const COUNT = 10_000;
const ACKED_PER_S_MIN = 3000;
/** From there on the browser itself calls a task long (ms). */
const LONG_TASK_MS = 50;
/** One publish carries so many. */
const BATCH = 100;
const HEAP_COUNT = 100_000;
const HEAP_UP_BYTES_MAX = 2 * 1024 ** 2;
const LOAD_MS = 90_000;

/** In a page: ack whatever comes of a topic; count it, and note every task that the browser calls long. */
const consume = async ({ topic, token }) => {
  const { Client } = await import("/sdk/index.js");
  const load = (window.load = { seen: 0, sum: 0, redelivered: 0, lost: 0, long: [] });
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries()) load.long.push({ startTime, duration });
  }).observe({ entryTypes: ["longtask"] });
  const client = new Client(location.origin, { token });
  const subscription = client.subscribe(topic, { group: "desk", prefetch: 100, ack: "manual" }, (message) => {
    load.seen++;
    load.sum += message.data.n;
    if (message.redelivered) load.redelivered++;
    if (!message.ack()) load.lost++;
  });
  await subscription.ready;
};

async function consumer(topic) {
  const page = await tab("#/", { token: "", context: await withSdk(await profile()) });
  await page.evaluate(consume, { topic, token: tokens.root });
  return page;
}

/** Publish numbers `from` to `through` and wait until all of them are settled. Returns how long that took (ms). */
async function pass(topic, from, through) {
  const began = performance.now();
  for (let n = from; n <= through; n += BATCH) {
    const messages = Array.from({ length: Math.min(BATCH, through - n + 1) }, (_, at) => ({ data: { n: n + at, note: "x".repeat(100) } }));
    await publish(topic, { messages });
  }
  await until("all are acked on disk", async () => (await api("GET", `/v1/admin/topics/${topic}`)).messages === 0, LOAD_MS);
  return performance.now() - began;
}

test("the first paint comes within a second", async (t) => {
  const page = await tab();
  await page.reload();
  const paint = await until("painted", () =>
    page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime));
  t.diagnostic(`first paint after ${Math.round(paint)} ms`);
  assert.ok(paint < 1000, `${paint} ms`);
  assert.equal((await fetch(`${URL_}/`)).headers.get("content-security-policy")?.split(";")[0], "default-src 'none'");
  assert.ok(tokens.root);
});

test(`${COUNT} messages at prefetch 100: fast, all of them, and the page stays responsive`, async (t) => {
  await api("PUT", "/v1/admin/topics/load", {});
  const page = await consumer("load");
  const tookMs = await pass("load", 1, COUNT);
  const { seen, sum, redelivered, lost, long } = await page.evaluate(() => window.load);
  const perS = (COUNT / tookMs) * 1000;
  const longest = Math.max(0, ...long.map(({ duration }) => duration));
  t.diagnostic(`${Math.round(perS)} acked messages a second; ${long.length} long tasks, the longest ${longest} ms`);
  assert.deepEqual({ seen, sum, redelivered, lost }, { seen: COUNT, sum: (COUNT * (COUNT + 1)) / 2, redelivered: 0, lost: 0 });
  assert.ok(perS >= ACKED_PER_S_MIN, `${perS} a second`);
  assert.ok(longest < LONG_TASK_MS, `${longest} ms`);

  // That none was seen says something only of an observer that sees them.
  await page.evaluate((ms) => {
    setTimeout(() => {
      for (const end = performance.now() + ms; performance.now() < end; );
    });
  }, 2 * LONG_TASK_MS);
  await until("a long task is seen", () => page.evaluate(() => window.load.long.length > 0));
});

test(`after ${HEAP_COUNT} messages the heap is what it was`, async (t) => {
  await api("PUT", "/v1/admin/topics/heap", {});
  const page = await consumer("heap");
  const devtools = await page.context().newCDPSession(page);
  const heap = async () => {
    await devtools.send("HeapProfiler.collectGarbage");
    return (await devtools.send("Runtime.getHeapUsage")).usedSize;
  };
  const before = await heap();
  const tookMs = await pass("heap", 1, HEAP_COUNT);
  const up = (await heap()) - before;
  const perS = (HEAP_COUNT / tookMs) * 1000;
  t.diagnostic(`${Math.round(up / 1024)} KiB more heap after ${HEAP_COUNT} messages, ${Math.round(perS)} a second`);
  assert.equal(await page.evaluate(() => window.load.seen), HEAP_COUNT);
  assert.ok(up <= HEAP_UP_BYTES_MAX, `${up} bytes`);
});
