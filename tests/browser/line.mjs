/**
 * The line between a browser and the gateway, for what a line can do to them: cut off, fall silent, refuse WebSockets as
 * some proxies do. Owns its sockets; changes no byte of what it lets through.
 */

import { connect, createServer } from "node:net";
import { URL_ } from "./page.mjs";

/** Longest request head that is looked at (bytes); the gateway takes no longer one. */
const HEAD_MAX = 16_384;
const FORBIDDEN = "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
const UPGRADE = /^upgrade: *websocket\r?$/im;

/**
 * A line of its own: `url`, how many WebSockets were `opened`, and what is done to it. `upgrades`: whether it lets
 * them through; `to`: the gateway.
 */
export async function line({ upgrades = true, to = URL_ } = {}) {
  const { hostname: host, port } = new URL(to);
  const pairs = new Set();
  const sockets = new Set(); // all that are open: a browser also opens some that it never uses
  let opened = 0;

  function keep(socket) {
    sockets.add(socket);
    socket.on("error", () => undefined); // "close" follows it
    return socket.on("close", () => sockets.delete(socket));
  }

  function join(near, head) {
    const far = keep(connect(Number(port), host));
    const pair = { near, far, silent: false };
    pairs.add(pair);
    const end = () => {
      if (pair.silent) return; // nor is the other side told that this one is gone
      pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    const pass = (from, to) => {
      to.on("drain", () => from.resume());
      from.on("close", end).on("data", (bytes) => {
        if (!pair.silent && !to.write(bytes)) from.pause(); // what waits in between stays a socket's worth
      });
    };
    far.write(head);
    pass(near, far);
    pass(far, near);
  }

  function look(near) {
    let head = Buffer.alloc(0);
    keep(near).on("data", function read(bytes) {
      head = Buffer.concat([head, bytes]);
      if (!head.includes("\r\n\r\n") && head.length < HEAD_MAX) return;
      near.off("data", read);
      const asks = UPGRADE.test(head.toString("latin1"));
      if (asks && !upgrades) return near.end(FORBIDDEN);
      if (asks) opened++;
      join(near, head);
    });
  }

  const server = createServer(look);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const each = (act) => [...pairs].forEach(act);
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    get opened() {
      return opened;
    },
    /** Nothing more passes on what is open, and neither side is told: another network has taken its place. */
    silence: () => each((pair) => (pair.silent = true)),
    /** What is open ends without a close frame. */
    cut: () => each(({ near, far }) => (near.destroy(), far.destroy())),
    close: () => {
      for (const socket of sockets) socket.destroy();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}
