/** Tokens that the gateway refuses: which refusal ends a client, with which error, and which one it gets over. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, PushwireError } from "../src/index.js";
import type { ClientOptions, State } from "../src/index.js";
import { WELCOME, World } from "./world.js";
import type { Op } from "./world.js";

interface Scene {
  world: World;
  client: Client;
  /** Every state, with the code of its error. */
  told: [State, string | undefined][];
  warnings: string[];
}

function make(options: ClientOptions = {}): Scene {
  const world = new World();
  const { runtime, WebSocket } = world;
  const client = new Client("ws://gw", { token: "t", transport: "websocket", runtime, WebSocket, ...options });
  const told: Scene["told"] = [];
  const warnings: string[] = [];
  client.on("state", ({ state, error }) => void told.push([state, error?.code]));
  client.on("warning", ({ code }) => void warnings.push(code));
  return { world, client, told, warnings };
}

const refusal = (ref: number | undefined, code: string, retryable = false): Op => {
  return { op: "error", ref: ref!, code, message: `the text of ${code}`, retryable };
};

/** Open the newest socket. Returns the `auth` that its client begins with. */
async function shown(world: World): Promise<Op> {
  await world.settle();
  world.socket.open();
  await world.settle();
  const said = world.socket.said();
  assert.deepEqual(
    said.map(({ op }) => op),
    ["auth"],
  );
  return said[0]!;
}

/** Over for good: said once, with this error, and no other connection is tried. */
async function ended({ world, client, told }: Scene, code: string): Promise<void> {
  const count = world.sockets.length;
  assert.ok(client.error instanceof PushwireError);
  assert.deepEqual([client.error.code, client.error.message], [code, `the text of ${code}`]);
  assert.deepEqual([client.state, told.at(-1)], ["closed", ["closed", code]]);
  await world.settle();
  assert.equal(world.socket.closedWith, 1000);
  world.socket.end(4408);
  await world.pass(120_000);
  assert.equal(world.sockets.length, count);
  assert.equal(told.filter(([state]) => state === "closed").length, 1);
}

for (const resumeGraceMs of [0, 30_000]) {
  test(`a token that can never be read ends the client at once, grace ${resumeGraceMs}`, async () => {
    const scene = make({ token: "t".repeat(8000), resumeGraceMs });
    const { world, client } = scene;
    const subscription = client.subscribe("orders");
    const receipt = assert.rejects(client.publish("orders", 1), { code: "bad_request", stored: "no" });
    const connected = assert.rejects(client.connected(), { code: "bad_request" });
    const { ref } = await shown(world);
    world.socket.say(refusal(ref, "bad_request"));
    await assert.rejects(subscription.next(), { code: "bad_request" });
    await receipt;
    await connected;
    await ended(scene, "bad_request");
  });
}

const EMPTY: [string, ClientOptions][] = [
  ["a string", { token: "" }],
  ["a function's", { token: () => "" }],
  ["nothing from a function", { token: () => undefined as unknown as string }],
  ["as a subprotocol", { token: "", auth: "subprotocol" }],
];

for (const [name, options] of EMPTY) {
  test(`an empty token is shown, so that its refusal is heard: ${name}`, async () => {
    const scene = make(options);
    scene.client.connect();
    const { ref, token } = await shown(scene.world);
    assert.deepEqual([token, scene.world.socket.protocols], ["", ["pushwire.v1"]]);
    scene.world.socket.say(refusal(ref, "bad_request"));
    await ended(scene, "bad_request");
  });
}

test("without a token nothing is shown: whatever made the WebSocket may have done so", async () => {
  for (const auth of ["frame", "subprotocol"] as const) {
    const world = new World();
    const { runtime, WebSocket } = world;
    const client = new Client("ws://gw", { auth, transport: "websocket", runtime, WebSocket });
    client.connect();
    assert.deepEqual(await world.welcome(), []);
    assert.equal(client.state, "connected");
  }
});

test("what comes with the refusal that ended a client does not bring it back", async () => {
  const scene = make();
  scene.client.connect();
  const { ref } = await shown(scene.world);
  scene.world.socket.say(refusal(ref, "bad_request"), WELCOME);
  await ended(scene, "bad_request");
});

test("a refused connection that may be had later, or with another token, is tried again", async () => {
  for (const [code, retryable, close] of [
    ["rate_limited", true, 4408],
    ["too_many_connections", true, 4429],
    ["unauthorized", false, 4401],
  ] as const) {
    const { world, client } = make({ token: () => "t" });
    client.connect();
    const { ref } = await shown(world);
    world.socket.say(refusal(ref, code, retryable));
    world.socket.end(close);
    await world.pass(1000);
    assert.deepEqual([world.sockets.length, client.error], [2, undefined], code);
    await world.welcome();
    assert.equal(client.state, "connected");
  }
});

/** Connected, and at the refresh of its token. */
async function refreshing(): Promise<Scene & { refresh: Op }> {
  const scene = make({ token: ({ reason }) => reason });
  scene.client.connect();
  await scene.world.welcome({ ...WELCOME, expires_in_ms: 10_000, heartbeat_ms: 0, pong_timeout_ms: 0 });
  await scene.world.pass(8001);
  const [refresh] = scene.world.socket.said().filter(({ op }) => op === "auth");
  return { ...scene, refresh: refresh! };
}

for (const code of ["bad_request", "forbidden", "a_code_of_later"]) {
  test(`a refresh that is refused with ${code} ends the client`, async () => {
    const { refresh, ...scene } = await refreshing();
    scene.world.socket.say(refusal(refresh.ref, code));
    await ended(scene, code);
    assert.deepEqual(scene.warnings, []);
  });
}

for (const [code, retryable] of [
  ["unauthorized", false],
  ["busy", true],
] as const) {
  test(`a refresh that is refused with ${code} is a warning, and another token is asked for`, async () => {
    const { world, client, warnings, refresh } = await refreshing();
    world.socket.say(refusal(refresh.ref, code, retryable));
    await world.pass(1001);
    const [again] = world.socket.said().filter(({ op }) => op === "auth");
    assert.deepEqual([warnings, again!.token, client.state], [[code], "rejected", "connected"]);
  });
}
