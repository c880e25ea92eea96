// One Node client, driven by the lines that test_js_sdk.py writes: publish, consume, hold, settle, tail. It answers in
// lines of its own. Arguments: where the built SDK is, and the options of the client as JSON.
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [sdk, given] = process.argv.slice(2);
const { Client } = await import(pathToFileURL(`${sdk}/dist/index.js`).href);
const { WebSocket } = createRequire(`${sdk}/package.json`)("ws");
const { url, token, blocked, ...options } = JSON.parse(given);

const say = (event, more = {}) => process.stdout.write(`${JSON.stringify({ event, ...more })}\n`);
const sockets = [];
class Watched extends WebSocket {
  constructor(...args) {
    // Where WebSockets are blocked, the upgrade comes to nothing.
    super(blocked ? "ws://127.0.0.1:9/" : args[0], args[1]);
    sockets.push(this);
  }
}

const client = new Client(url, { token: async () => token, WebSocket: Watched, ...options });
client.on("state", ({ state, error }) => say("state", { state, code: error?.code }));
client.on("warning", ({ code, message }) => say("warning", { code, message }));
const held = new Map();

const show = (message) => {
  const { id, seq, attempt, data, encoding, key, headers, priority } = message;
  const shown = data instanceof Uint8Array ? [...data] : data;
  say("message", { id, seq, attempt, data: shown, encoding, key, headers, priority });
};

const verbs = {
  async publish({ topic, data, bytes, ...more }) {
    const receipt = await client.publish(topic, bytes ? Uint8Array.from(bytes) : data, more);
    say("receipt", receipt);
  },
  async publishMany({ topic, drafts }) {
    say("receipts", { receipts: await client.publishMany(topic, drafts) });
  },
  async subscribe({ topic, hold, ...more }) {
    const handler = hold ? (message) => (held.set(message.seq, message), show(message)) : show;
    const subscription = client.subscribe(topic, { ...more, ack: hold ? "manual" : "auto" }, handler);
    void subscription.closed.then((error) => say("closed", { code: error?.code }));
    await subscription.ready;
    say("subscribed");
  },
  async tail({ topic, ...more }) {
    const tail = client.tail(topic, more, show);
    tail.on("gap", (gap) => say("gap", gap));
    await tail.ready;
    say("tailing", tail.position);
  },
  async settle({ how, seq, ...more }) {
    const message = held.get(seq);
    if (how === "ackConfirmed") await message.ackConfirmed();
    else if (!message[how](how === "reject" ? more.error : more)) return say("lost", { seq });
    say("settled", { seq, how });
  },
  async count({ topic, messages, ...more }) {
    const seen = new Set();
    const began = performance.now();
    await new Promise((resolve) => {
      client.subscribe(topic, more, ({ seq }) => seen.add(seq).size === messages && resolve());
    });
    say("counted", { messages: seen.size, seconds: (performance.now() - began) / 1000 });
  },
  async cut() {
    sockets.at(-1).terminate();
  },
  async suspend() {
    client.suspend();
  },
  async restore() {
    client.restore();
  },
  async drain() {
    await client.drain();
    say("drained");
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { verb, ...more } = JSON.parse(line);
  verbs[verb](more).catch(({ code, message, stored }) => say("error", { code, message, stored }));
}
client.close();
