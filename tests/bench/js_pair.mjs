// A producer and a consumer of the TypeScript SDK in one Node process, for scenarios/sdk.py: it publishes for so long, waits
// until each message has come once, and prints what it saw as a line of JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [sdk, given] = process.argv.slice(2);
const { Client } = await import(pathToFileURL(`${sdk}/dist/index.js`).href);
const { WebSocket } = createRequire(`${sdk}/package.json`)("ws");
const { url, tokens, topic, form, burst, prefetch, measureS, drainS } = JSON.parse(given);

const fail = (error) => {
  process.stdout.write(`${JSON.stringify({ error: String(error) })}\n`);
  process.exit(1);
};
setTimeout(() => fail("not every message came in time"), (measureS + drainS) * 1000).unref();

const open = (token) => new Client(url, { token: async () => token, WebSocket });
const [producer, consumer] = tokens.map(open);
const text = "x".repeat(190);
const seen = new Set();
let published = 0;
let done = () => {};

const arrive = (number) => {
  if (seen.has(number)) fail(`message ${number} arrived twice`);
  seen.add(number);
  done();
};
const options = { group: "default", prefetch, start: "earliest" };
const iterate = async (subscription) => {
  for await (const message of subscription) {
    arrive(message.data[0]);
    message.ack();
  }
};
const subscription =
  form === "callback"
    ? consumer.subscribe(topic, options, (message) => arrive(message.data[0]))
    : consumer.subscribe(topic, options);
if (form !== "callback") iterate(subscription).catch(fail);
await subscription.ready;

const started = performance.now();
const press = async () => {
  while (performance.now() - started < measureS * 1000) {
    const drafts = Array.from({ length: burst }, () => ({ data: [published++, text] }));
    await producer.publishMany(topic, drafts);
  }
};
await Promise.all([press(), press()]).catch(fail);
await new Promise((resolve) => {
  done = () => seen.size === published && resolve();
  done();
});
process.stdout.write(`${JSON.stringify({ messages: seen.size, seconds: (performance.now() - started) / 1000 })}\n`);
process.exit(0);
