/** The shared vectors (tests/vectors) in TypeScript: tables, codec, and whole conversations of the client. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { bodyOf, decode, DELAY_MS_MAX, ERROR_TEXT_MAX, PER_OP_MAX, readable, SUBPROTOCOL } from "../src/codec.js";
import { maybeStored, shouldReconnect } from "../src/codes.js";
import { toJson } from "../src/draft.js";
import { Client } from "../src/index.js";
import type { Message, SubscribeOptions, TailOptions } from "../src/index.js";
import { row, World } from "./world.js";
import type { Op } from "./world.js";

const vectors = (name: string) =>
  JSON.parse(readFileSync(new URL(`../../../tests/vectors/${name}.json`, import.meta.url), "utf8"));
const codes = vectors("codes");
const clientVectors = vectors("client");

function make(): { world: World; client: Client } {
  const world = new World();
  const { runtime, WebSocket } = world;
  const options = { token: "t", transport: "websocket", runtime, WebSocket, hiddenAfterMs: 0, page: false } as const;
  return { world, client: new Client("ws://gw", options) };
}

/** Without the ref, which is the client's own. */
const plain = ({ ref: _ref, ...op }: Op): object => op;

test("codes and limits are those of the wire", () => {
  for (const [code, { stored }] of Object.entries<{ stored: string }>(codes.errors)) {
    assert.equal(maybeStored(code), stored === "maybe", code);
  }
  for (const [code, { reconnect }] of Object.entries<{ reconnect: boolean }>(codes.closes)) {
    assert.equal(shouldReconnect(Number(code)), reconnect, code);
  }
  assert.equal(shouldReconnect(1006), true);
  assert.equal(shouldReconnect(4999), true);
  assert.equal(SUBPROTOCOL, codes.subprotocol);
  const { leases_per_op_max, messages_per_op_max, error_text_max, delay_ms_max, integer_max } = codes.limits;
  assert.deepEqual([PER_OP_MAX, PER_OP_MAX], [leases_per_op_max, messages_per_op_max]);
  assert.deepEqual([ERROR_TEXT_MAX, DELAY_MS_MAX], [error_text_max, delay_ms_max]);
  assert.equal(Number.MAX_SAFE_INTEGER, integer_max);
});

for (const { name, data, bytes, options, op } of clientVectors.publishes) {
  test(`publish: ${name}`, async () => {
    const { world, client } = make();
    const { deliverAtMs, ...more } = options;
    const given = deliverAtMs ? { ...more, deliverAt: new Date(deliverAtMs) } : more;
    void client.publish(op.topic, bytes ? Uint8Array.from(bytes) : data, given);
    assert.deepEqual((await world.welcome()).map(plain), [op]);
  });
}

const place = (start: { timeMs?: number } | undefined) =>
  start?.timeMs ? { start: new Date(start.timeMs) } : start ? { start } : {};

for (const { name, tail, options, op } of clientVectors.subscribes) {
  test(`subscribe: ${name}`, async () => {
    const { world, client } = make();
    if (tail) client.tail(op.topic, options);
    else client.subscribe(op.topic, { ...options, ...place(options.start) });
    assert.deepEqual((await world.welcome()).map(plain), [op]);
  });
}

for (const { verb, arguments: given, op } of clientVectors.settlements) {
  test(`settle: ${verb} ${JSON.stringify(given)}`, async () => {
    const { world, client } = make();
    client.subscribe("orders", { ack: "manual" }, (message) => {
      (message as unknown as Record<string, (...args: unknown[]) => boolean>)[verb]!(...given);
    });
    const { sub } = await world.subscribed();
    world.socket.say({ op: "messages", sub, messages: [row(1, "n1.q7Gd.1")] });
    await world.settle();
    assert.deepEqual(world.socket.said().map(plain), [op]);
  });
}

for (const { name, text } of clientVectors.refused) {
  test(`refused before it travels: ${name}`, () => {
    assert.throws(() => toJson(JSON.parse(text)), { code: "bad_request", stored: "no" });
  });
}

for (const { name, text } of clientVectors.accepted) {
  test(`not refused: ${name}`, () => {
    assert.deepEqual(JSON.parse(toJson(JSON.parse(text))), JSON.parse(text));
  });
}

/** Operations that a client acts on; what else can be read it passes over. */
const KNOWN = ["welcome", "ok", "error", "messages", "gap", "goodbye", "ping", "pong"];

for (const { name, text, ops, bodies } of vectors("server")) {
  test(`read: ${name}`, () => {
    const known = decode(text).filter((op) => KNOWN.includes(op.op) && readable(op)) as unknown as Op[];
    assert.equal(known.length, ops.length);
    known.forEach((op, at) => assert.deepEqual({ ...op, ...ops[at] }, op));
    if (bodies) {
      const [messages] = known as unknown as [{ messages: Parameters<typeof bodyOf>[0][] }];
      const read = messages.messages.map(bodyOf);
      assert.deepEqual(
        read.map((body) => (body instanceof Uint8Array ? [...body] : body)),
        bodies,
      );
    }
  });
}

/** One vector's client, with the conversation's values. */
class Conversation {
  readonly app: string[] = [];
  private _bound = new Map<string, unknown>();
  private _held = new Map<number, Message>();
  private _feed: { close(): Promise<void>; closed: Promise<{ code: string } | undefined> } | undefined;
  private _world: World;
  private _client: Client;

  constructor(world: World, client: Client) {
    this._world = world;
    this._client = client;
  }

  do(verb: string, ...given: unknown[]): void {
    const client = this._client;
    if (verb === "subscribe") {
      this._feed = client.subscribe(
        given[0] as string,
        { ...(given[1] as SubscribeOptions), ack: "manual" },
        (message) => {
          this._held.set(message.seq, message);
          this.app.push(`message ${message.seq}, attempt ${message.attempt}`);
        },
      );
    } else if (verb === "tail") {
      this._feed = client.tail(
        given[0] as string,
        given[1] as TailOptions,
        ({ seq }) => void this.app.push(`shown ${seq}`),
      );
      void this._feed.closed.then((error) => error && this.app.push(`ended ${error.code}`));
    } else if (verb === "publish") {
      client.publish(given[0] as string, given[1], given[2] as object).then(
        ({ seq, duplicate }) => this.app.push(`receipt ${seq}${duplicate ? ", duplicate" : ""}`),
        ({ code }) => this.app.push(`refused ${code}`),
      );
    } else if (verb === "ackConfirmed") {
      void this._held
        .get(given[0] as number)!
        .ackConfirmed()
        .then(() => this.app.push(`confirmed ${given[0]}`));
    } else if (verb === "nack") {
      this._held.get(given[0] as number)!.nack(given[1] as object);
    } else if (verb === "closeSubscription") {
      void this._feed!.close();
    } else {
      (client as unknown as Record<string, () => void>)[verb]!();
    }
  }

  /** The value with every `$name` replaced; a new one is made up. */
  fill(value: unknown): unknown {
    if (typeof value === "string" && value.startsWith("$")) {
      const made = this._bound.size + 1;
      if (!this._bound.has(value)) this._bound.set(value, value.startsWith("$n") ? made : `v${made}`);
      return this._bound.get(value);
    }
    if (Array.isArray(value)) return value.map((item) => this.fill(item));
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, this.fill(item)]));
  }

  /** Take what is new from what was said. */
  bind(expected: unknown, got: unknown): void {
    if (typeof expected === "string" && expected.startsWith("$")) {
      if (!this._bound.has(expected)) this._bound.set(expected, got);
    } else if (typeof expected === "object" && expected !== null) {
      for (const [name, value] of Object.entries(expected)) this.bind(value, (got as Record<string, unknown>)?.[name]);
    }
  }

  async step(step: { do?: [string, ...unknown[]]; client?: Op[]; server?: Op[]; app?: string[]; pass_ms?: number }) {
    if (step.do) this.do(...step.do);
    if (step.pass_ms) await this._world.pass(step.pass_ms);
    await this._world.settle();
    if (step.client) {
      const said = this._world.socket.said();
      this.bind(step.client, said);
      assert.deepEqual(said, this.fill(step.client));
    }
    if (step.server) this._world.socket.say(...(this.fill(step.server) as Op[]));
    // A handler and the caller of a publish hear of one turn in no order.
    if (step.app) assert.deepEqual(this.app.splice(0).sort(), [...step.app].sort());
  }
}

for (const { name, steps } of vectors("sequences")) {
  test(`sequence: ${name}`, async () => {
    const { world, client } = make();
    client.connect();
    assert.deepEqual(await world.welcome(), []);
    const conversation = new Conversation(world, client);
    for (const step of steps) await conversation.step(step);
    assert.deepEqual(conversation.app, []);
    assert.deepEqual(world.socket.said(), []);
  });
}
