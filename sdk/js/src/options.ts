/** What a client may be given. Owns the defaults. */

import type { Backoff, TokenReason } from "./backoff.js";
import type { WebSocketConstructor } from "./links.js";
import type { PageEvents } from "./page.js";
import type { Runtime } from "./runtime.js";

/** Gives a token: a JWT. Throw `Unauthorized` when there is none to be had, and the client stops. */
export type TokenSource = (ask: { reason: TokenReason }) => string | Promise<string>;

export interface ClientOptions {
  /** A token, or what fetches one: for each connection, before the current one expires, and after a refusal. */
  token?: string | TokenSource;
  /** How the token travels: as the first frame (default), or as a subprotocol, for proxies that want to see it. */
  auth?: "frame" | "subprotocol";
  /** "auto" (default): a WebSocket, and long polls where WebSockets are blocked. */
  transport?: "auto" | "websocket" | "poll";
  /** Where the platform has none, or another is wanted. */
  WebSocket?: WebSocketConstructor;
  /** Where the platform has none, or another is wanted. */
  fetch?: typeof fetch;
  /** How long leases outlive a lost connection, so that this client may come back for them; default 0, at most 60 s. */
  resumeGraceMs?: number;
  /** How long a publish is tried; default 30 s. */
  publishTimeoutMs?: number;
  /** How long a token, a connection, a welcome may take, each; default 10 s. */
  connectTimeoutMs?: number;
  /** Messages that may wait for their receipts at a time; default 1000. */
  bufferMessagesMax?: number;
  /** Between attempts to connect: a random time up to a cap that doubles; default 0.5 s to 20 s. */
  backoff?: Partial<Backoff>;
  /**
   * How long a page is hidden before it gives its window and its unworked messages back; default 30 s; false: never.
   */
  hiddenAfterMs?: number | false;
  /** The page whose life to follow; default this one; false: none. */
  page?: PageEvents | false;
  /** Time, chance and turns of the loop; for tests and odd platforms. */
  runtime?: Partial<Runtime>;
}

/** The options that have defaults. */
export const DEFAULTS = {
  publishTimeoutMs: 30_000,
  connectTimeoutMs: 10_000,
  bufferMessagesMax: 1000,
  resumeGraceMs: 0,
  hiddenAfterMs: 30_000 as number | false,
};
