/**
 * The way to a gateway, as the client sees it, and the first of its two kinds: a WebSocket. Owns URLs, subprotocols and
 * how operations fill WebSocket messages. A token never stands in a URL.
 */

import { decode, encode, SUBPROTOCOL } from "./codec.js";
import type { ClientOp, ServerOp } from "./frames.js";

/** One connection. */
export interface Link {
  send(ops: ClientOp[], frameBytesMax: number): void;
  /** End it from this side. Nothing is heard of it any more. */
  close(): void;
}

/** What a connection tells. After `_lost` nothing. */
export interface LinkEvents {
  _opened(): void;
  _received(ops: ServerOp[]): void;
  /** Without a code: without a close frame. */
  _lost(code?: number, reason?: string): void;
}

/** As much of the WebSocket of browsers, React Native and `ws` as is used here. */
export interface WebSocketLike {
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
  send(data: string): void;
  close(code?: number, reason?: string): void;
}

/** Its constructor. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** Where a gateway is, after `ws` or `http`: an `s`, host, and the path below which a proxy may serve it. */
export function placeOf(url: string): string {
  const [, place] = /^(?:ws|http)(s?:\/\/[^/?#@\s]+(?:\/[^?#\s]*?)?)\/*(?:\/v1\/ws)?$/.exec(url) ?? [];
  if (!place) throw new TypeError("a gateway is at wss://host[:port]");
  return place;
}

/** Connect. `bearer`: the token, where it is to travel as a subprotocol. Throws what the constructor throws. */
export function openSocket(
  WebSocket: WebSocketConstructor,
  url: string,
  bearer: string | undefined,
  { _opened, _received, _lost }: LinkEvents,
): Link {
  const socket = new WebSocket(url, bearer ? [SUBPROTOCOL, `bearer.${bearer}`] : [SUBPROTOCOL]);
  const deaf = () => void (socket.onopen = socket.onmessage = socket.onclose = null);
  socket.onopen = _opened;
  // v1 has no binary messages.
  socket.onmessage = ({ data }: { data: unknown }) => _received(typeof data === "string" ? decode(data) : []);
  socket.onerror = () => 0; // says nothing, and `close` always follows
  socket.onclose = ({ code, reason }: { code?: number; reason?: string }) => {
    deaf();
    _lost(code, reason);
  };
  return {
    send(ops, frameBytesMax) {
      for (const text of pack(ops.map(encode), frameBytesMax)) socket.send(text);
    },
    close() {
      deaf();
      socket.close(1000);
    },
  };
}

/** Lines as WebSocket messages of at most so many bytes: a line that is larger goes alone. Three bytes a character. */
export function pack(lines: string[], bytesMax: number): string[] {
  const packed: string[] = [];
  let size = Infinity;
  for (const line of lines) {
    size += line.length * 3 + 1;
    if (size > bytesMax) {
      packed.push(line);
      size = line.length * 3;
    } else {
      packed.push(`${packed.pop()}\n${line}`);
    }
  }
  return packed;
}
