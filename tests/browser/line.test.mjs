/** The line itself, without a browser: what it does to sockets. Needs a server of its own in the gateway's place. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { test } from "node:test";
import { line } from "./line.mjs";

const HEAD = "GET / HTTP/1.1\r\nupgrade: websocket\r\n\r\n";
/** More than all sockets between the two ends hold (bytes). */
const MANY = 32 * 1024 ** 2;

/** A gateway that accepts and no more, a line to it, and a client. */
async function ends(t) {
  const far = createServer();
  await new Promise((resolve) => far.listen(0, "127.0.0.1", resolve));
  const wire = await line({ to: `http://127.0.0.1:${far.address().port}` });
  const open = async () => {
    const socket = connect(Number(new URL(wire.url).port), "127.0.0.1").on("error", () => undefined);
    await once(socket, "connect");
    return socket;
  };
  const joined = async () => {
    const near = await open();
    const accepted = once(far, "connection");
    near.write(HEAD);
    const [gateway] = await accepted;
    await once(gateway.on("error", () => undefined), "data");
    return { near, gateway };
  };
  t.after(() => far.close());
  return { wire, open, joined };
}

test("under silence neither side is told that the other has gone, however it went", async (t) => {
  const { wire, joined } = await ends(t);
  const [ended, control] = [await joined(), await joined()];
  wire.silence();
  let told = false;
  ended.gateway.on("close", () => (told = true));
  ended.near.resetAndDestroy();
  // One that is opened later passes through the same loop after it: had anybody been told, it was before.
  const { near, gateway } = await joined();
  near.resetAndDestroy();
  await once(gateway, "close");
  assert.equal(told, false);
  assert.equal(control.near.destroyed, false);
  await wire.close();
  await once(control.near, "close");
});

test("it closes although a browser keeps a socket open that it never used", async (t) => {
  const { wire, open } = await ends(t);
  const idle = await open();
  idle.resume();
  const closed = once(idle, "close");
  await wire.close();
  await closed;
});

test("what one side does not read is not piled up", async (t) => {
  const { wire, joined } = await ends(t);
  const { near, gateway } = await joined();
  gateway.pause();
  near.write(Buffer.alloc(MANY));
  await once(near, "drain", { signal: AbortSignal.timeout(500) }).then(
    () => assert.fail("all of it was taken"),
    (error) => assert.equal(error.name, "AbortError"),
  );
  gateway.resume();
  await once(near, "drain");
  await wire.close();
});
