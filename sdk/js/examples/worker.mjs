// Work on the messages of one topic until SIGTERM or Ctrl-C, then drain: finish what was begun, give the rest back.
//
//   PUSHWIRE_URL=ws://127.0.0.1:8080 PUSHWIRE_TOKEN=... node worker.mjs orders billing
//
// WORK_MS is how long a message keeps it busy. In your project: npm install pushwire, and below Node 22 also ws.
import { setTimeout as pause } from "node:timers/promises";
import { Client, Reject } from "pushwire";

const [topic, group = "default"] = process.argv.slice(2);
const { PUSHWIRE_URL: url = "ws://127.0.0.1:8080", PUSHWIRE_TOKEN: token, WORK_MS = "0" } = process.env;
if (!topic || !token) {
  console.error(topic ? "PUSHWIRE_TOKEN is not set" : "usage: node worker.mjs TOPIC [GROUP]");
  process.exit(2);
}

const WebSocket = globalThis.WebSocket ?? (await import("ws")).WebSocket;
const client = new Client(url, { token, WebSocket });
client.on("error", (error) => console.error(error)); // what the handler throws; the message is nacked
client.on("state", ({ state }) => console.error(state));

// A message may come more than once: act on it idempotently, by its id.
const subscription = client.subscribe(
  topic,
  { group, prefetch: 16, concurrency: 4, extend: true },
  async ({ seq, attempt, redelivered, data, encoding }) => {
    if (encoding !== "json") throw new Reject(`a ${encoding} body is not for this worker`);
    console.log(`begin ${seq} attempt ${attempt}${redelivered ? " again" : ""}: ${JSON.stringify(data)}`);
    await pause(Number(WORK_MS));
    console.log(`done ${seq}`);
  },
);

for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => client.drain().catch(({ code }) => fail(code)));

function fail(code) {
  console.error(`ended: ${code}`);
  process.exitCode = 1;
}

const error = await subscription.closed; // ends with the drain, or with what forbids to go on
if (error) {
  fail(error.code);
  client.close();
}
