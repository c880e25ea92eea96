/**
 * The way to a gateway, as the client sees it, and the first of its two kinds: a WebSocket. Owns URLs, subprotocols and
 * how operations fill WebSocket messages. A token never stands in a URL.
 */

import { decode, encode, SUBPROTOCOL, utf8Bytes } from "./codec.js";
import { NO_CLOSE_FRAME } from "./codes.js";
import { PushwireError } from "./errors.js";
import type { ClientOp, ServerOp } from "./frames.js";

/** One connection. */
export interface Link {
  send(ops: ClientOp[], frameBytesMax: number): void;
  /** End it from this side. Nothing is heard of it any more. */
  close(reason: string): void;
}

/** What a connection tells. After `lost` nothing. */
export interface LinkEvents {
  opened(): void;
  received(ops: ServerOp[]): void;
  lost(code: number, reason: string): void;
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

/** Where a gateway is: `ws(s)` or `http(s)`, host, and the path below which a proxy may serve it. */
export function addresses(url: string): { socket: string; http: string } {
  const parts = /^(?:ws|http)(s?):\/\/([^/?#@\s]+)(\/[^?#\s]*)?$/.exec(url);
  if (!parts) {
    throw new PushwireError("bad_request", "the URL of a gateway is wss://host[:port], without user, query or fragment");
  }
  const [, secure, host, path = ""] = parts;
  const place = `${secure}://${host}${path.replace(/\/+$/, "").replace(/\/v1\/ws$/, "")}`;
  return { socket: `ws${place}/v1/ws`, http: `http${place}` };
}

/** Connect. `bearer`: the token, where it is to travel as a subprotocol. Throws what the constructor throws. */
export function openSocket(
  WebSocket: WebSocketConstructor,
  url: string,
  bearer: string | undefined,
  events: LinkEvents,
): Link {
  const socket = new WebSocket(url, bearer === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, `bearer.${bearer}`]);
  const deaf = () => {
    socket.onopen = socket.onmessage = socket.onclose = null;
  };
  socket.onopen = () => events.opened();
  socket.onmessage = ({ data }: { data: unknown }) => {
    if (typeof data === "string") events.received(decode(data)); // v1 has no binary messages
  };
  socket.onerror = () => undefined; // says nothing, and `close` always follows
  socket.onclose = ({ code, reason }: { code?: number; reason?: string }) => {
    deaf();
    events.lost(code ?? NO_CLOSE_FRAME, reason ?? "");
  };
  return {
    send(ops, frameBytesMax) {
      for (const text of pack(ops.map(encode), frameBytesMax)) socket.send(text);
    },
    close(reason) {
      deaf();
      socket.close(1000, reason);
    },
  };
}

/** Lines as WebSocket messages, each as full as the gateway allows. */
export function pack(lines: string[], bytesMax: number): string[] {
  const whole = lines.join("\n");
  if (whole.length * 3 <= bytesMax) return [whole];
  const packed: string[] = [];
  let part: string[] = [];
  let size = 0;
  for (const line of lines) {
    const bytes = utf8Bytes(line) + 1;
    if (part.length && size + bytes > bytesMax) {
      packed.push(part.join("\n"));
      part = [];
      size = 0;
    }
    part.push(line);
    size += bytes;
  }
  return [...packed, part.join("\n")];
}
