/**
 * The client as a state machine: operations and time in, operations and calls of its host out. Owns the connection's
 * state and the order of things; its parts own theirs. No sockets, no timers, no DOM: the shell in client.ts moves text
 * and calls `_tick` at `_dueAt()`, and a test can do the same without either.
 */

import { Reconnector } from "./backoff.js";
import type { Backoff, Loss, TokenReason } from "./backoff.js";
import { FRAME_BYTES_MAX } from "./codec.js";
import { stillOurs } from "./codes.js";
import { closedError, PushwireError } from "./errors.js";
import { Exchange } from "./exchange.js";
import type { ClientOp, ErrorOp, Goodbye, Ok, ServerOp, Welcome } from "./frames.js";
import type { Publisher } from "./publisher.js";
import type { takeOver } from "./resume.js";
import { Roster } from "./roster.js";
import type { Runtime } from "./runtime.js";
import { Settlements } from "./settlements.js";

/** Of a token's life: late enough to use it, early enough for a few tries. */
const REFRESH_AT = 0.8;
/** Between two tokens asked for on one connection, so that a gateway that refuses them all is not a busy loop. */
const REFRESH_RETRY_MS = 1000;
/** On return to a page: how long its connection may take to show that it lives. */
const PROBE_MS = 2000;

/** Where a client is. "suspended": the page is frozen or left; "closed" is for good. */
export type State = "idle" | "connecting" | "connected" | "reconnecting" | "suspended" | "draining" | "closed";

/** What a client tells. */
export interface ClientEvents {
  /** It is somewhere else than before, or has failed to get there (`error`). */
  state: { state: State; error: PushwireError | undefined };
  /** Worth knowing, nothing has failed for good: what the gateway reports, a token that could not be refreshed. */
  warning: { code: string; message: string };
  /** A handler has thrown and nobody listened to its subscription; without a listener here it goes to the console. */
  error: Error;
}

/** What the core needs of its shell. */
export interface Host {
  /** There is something to send, or something is due at another time than before. */
  _wake(): void;
  /** End the connection: it is no good. */
  _drop(reason: string): void;
  /** Fetch a token and give it to `_renew`. */
  _refresh(reason: TokenReason): void;
  _emit<K extends keyof ClientEvents>(name: K, event: ClientEvents[K]): boolean;
  /** Nobody else takes this error. */
  readonly _report: (error: Error) => void;
}

/** What of the client's options concerns the core. */
export interface CoreOptions {
  backoff: Backoff;
  resumeGraceMs: number;
  connectTimeoutMs: number;
  /** Whether asking for another token can give another one. */
  refreshable: boolean;
}

/** State of one client, over all its connections. */
export class Core {
  _state: State = "idle";
  _error: PushwireError | undefined;
  /** When to connect again. */
  _connectAt = 0;
  readonly _reconnector = new Reconnector();
  declare readonly _exchange: Exchange;
  declare readonly _settlements: Settlements;
  declare readonly _roster: Roster;
  /** Once it is loaded. */
  _publisher: Publisher | undefined;
  /** Loaded before the first connection, where there is a grace. */
  _takeOver: typeof takeOver | undefined;
  /** Of a WebSocket message. */
  _frameBytesMax = FRAME_BYTES_MAX;
  #runtime: Runtime;
  #host: Host;
  #options: CoreOptions;
  #open = false;
  #goodbye: Goodbye | undefined;
  #onQuiet: (() => void) | undefined; // a drain waits
  #drained: Promise<void> | undefined;
  // --- silence
  #heardAt = 0;
  #dropAt = Infinity; // no welcome, or no answer to a question, until then: the connection is no good
  #probing = false; // somebody waits for that answer
  #silenceMs = Infinity;
  #pongMs = 0;
  // --- the token
  #token: string | undefined;
  #authorised = false;
  #asking = false;
  #askedAt = -Infinity;
  #endsAt = 0;
  // --- the session
  #secret: string | undefined;
  #holdUntil = Infinity;

  constructor(runtime: Runtime, host: Host, options: CoreOptions) {
    this.#runtime = runtime;
    this.#host = host;
    this.#options = options;
    this._exchange = new Exchange(runtime, () => host._wake());
    this._settlements = new Settlements(this._exchange, options.resumeGraceMs > 0, (lease) => {
      for (const member of this._roster._subscriptions()) member._lost(lease);
    });
    this._roster = new Roster(this._exchange, this._settlements, this._unauthorized, host._report);
  }

  // --- the link

  /** Whether there is to be a connection. */
  _wanted(): boolean {
    return !["idle", "suspended", "closed"].includes(this._state);
  }

  /** Somebody wants a connection. */
  _start(from: State): void {
    if (this._state === from) this.#change("connecting");
  }

  /** There is reason to think that the network is back: connect at once, or see whether the connection still lives. */
  _hurry(): void {
    this._reconnector._attempt = this._connectAt = 0;
    if (this._exchange._connected && !this.#probing) {
      this.#dropAt = Math.min(this.#dropAt, this.#runtime.now() + PROBE_MS);
      this.#probing = true;
      this._exchange._send({ op: "ping" });
    }
    this.#host._wake();
  }

  /** The link is open. `inBand`: the token is still to be shown; the gateway says welcome after it. */
  _opened(token: string | undefined, inBand: boolean): void {
    this.#open = true;
    this.#token = token;
    this.#dropAt = this.#runtime.now() + this.#options.connectTimeoutMs;
    if (inBand) this.#authenticate();
    this.#host._wake();
  }

  /**
   * Show the token; and, with a grace, ask for the leases of before, and that those to come outlive their connection.
   */
  #authenticate(): void {
    const token = this.#token;
    if (!token) return;
    const { resumeGraceMs } = this.#options;
    this._exchange._resuming = resumeGraceMs > 0;
    const resume = resumeGraceMs > 0 && { session: this.#secret, resume_grace_ms: resumeGraceMs };
    this._exchange._request(
      (ref) => ({ op: "auth", ref, token, ...resume }),
      (frame) => {
        // Before the welcome the only answer is a refusal, and the gateway closes after it (4401, 4429).
        if (!frame || !this._exchange._resuming || !this._exchange._connected) return;
        if (!this._exchange._again(frame, () => this.#authenticate())) this.#resumed(frame);
      },
    );
  }

  #resumed(frame: Ok | ErrorOp): void {
    const { session, resumed, subs } = frame as Ok;
    this.#secret = session;
    this._exchange._resuming = false;
    if (resumed && subs) {
      this.#holdUntil = Infinity;
      this._takeOver!(subs, this._roster, this._settlements);
    } else {
      this.#void();
    }
    this._roster._restore();
  }

  /** The link is gone, or none came about. */
  _lost(loss: Loss): void {
    const { backoff, refreshable, resumeGraceMs } = this.#options;
    const { now, random } = this.#runtime;
    const goodbye = this.#goodbye;
    const hurry = this.#probing;
    // A connection that ended before its welcome never served the session: its goodbye is not about the leases.
    const ours = !goodbye || !this._exchange._connected || stillOurs(goodbye.code);
    this.#down();
    if (this.#secret && !loss.fatal && ours) {
      this.#holdUntil = Math.min(this.#holdUntil, now() + resumeGraceMs);
      this._roster._lost(true);
    } else {
      this.#void();
    }
    const verdict = this._reconnector._down(loss, goodbye, now(), refreshable, backoff, random);
    if (typeof verdict !== "number") return this._finish(verdict);
    // A page that has come back is no herd that jitter would have to scatter.
    this._connectAt = hurry ? 0 : now() + verdict;
    const state = this._state === "connected" ? "reconnecting" : this._state;
    this.#change(state, new PushwireError("not_connected", loss.reason || `lost with ${loss.code}`));
  }

  /** Nothing is left of the connection. */
  #down(): void {
    this.#open = this.#authorised = this.#asking = this.#probing = false;
    this.#dropAt = this.#silenceMs = Infinity;
    this.#goodbye = undefined;
    this._exchange._lost();
  }

  /** Every lease is gone. */
  #void(): void {
    this.#holdUntil = Infinity;
    const unsent = this._settlements._void();
    if (unsent) this.#host._emit("warning", { code: "lease_lost", message: `${unsent} settlements were not sent` });
    this._roster._lost(false);
  }

  /** The link was ended by this side, because the page is frozen or left. */
  _suspended(): void {
    this.#secret = undefined;
    this.#down();
    this.#void();
    this._connectAt = 0;
    this.#change("suspended");
  }

  /** Nothing can help, or everything is done. */
  _finish(error?: PushwireError): void {
    this.#down();
    this._error = error;
    this._publisher?._failAll(error ?? closedError());
    this._roster._endAll(error);
    this.#void();
    this.#change("closed", error);
  }

  #change(state: State, error?: PushwireError): void {
    if (state === this._state && !error) return;
    this._state = state;
    this.#host._emit("state", { state, error });
    this.#host._wake();
  }

  // --- time

  /** When `_tick` must be called. */
  _dueAt(): number {
    const silentAt = this.#dropAt < Infinity ? Infinity : this.#heardAt + this.#silenceMs;
    return Math.min(
      ...[this.#dropAt, silentAt, this.#holdUntil, this._exchange._dueAt()],
      this._publisher?._dueAt(this.#runtime.now()) ?? Infinity,
      ...this._roster._subscriptions().map((member) => member._dueAt()),
    );
  }

  /** Everything that happens because time passes. */
  _tick(): void {
    const now = this.#runtime.now();
    if (now >= this.#dropAt) {
      this.#host._drop("the gateway has gone silent");
    } else if (this.#dropAt === Infinity && now >= this.#heardAt + this.#silenceMs) {
      this.#dropAt = now + this.#pongMs;
      this._exchange._send({ op: "ping" });
    }
    this._exchange._tick(now);
    if (now >= this.#holdUntil) this.#void();
    for (const member of this._roster._subscriptions()) member._tick(now);
    this._publisher?._tick(now);
  }

  // --- out

  /** Operations to send now. */
  _take(): ClientOp[] {
    if (!this.#open) return [];
    const exchange = this._exchange;
    const ops = exchange._take();
    if (exchange._connected) {
      if (!exchange._resuming) ops.push(...this._settlements._take());
      if (this.#authorised && !exchange._leaving) {
        ops.push(...(this._publisher?._take(this.#runtime.now(), this._frameBytesMax) ?? []));
      }
      ops.push(...exchange._take(true));
    }
    return ops;
  }

  /** Take no more messages; resolves when every handler is done, every settlement confirmed, every publish answered. */
  _drain(): Promise<void> {
    this.#change("draining");
    for (const member of this._roster._members.values()) member._drain();
    this._settlements._confirming = true;
    this.#host._wake();
    // Whoever drains meanwhile waits for the same end.
    return (this.#drained ??= new Promise((resolve) => (this.#onQuiet = resolve)));
  }

  /** Called after each turn: tells the drain that it is over. */
  _check(): void {
    const busy = this._roster._subscriptions().some((member) => member._handed());
    if (!busy && this._settlements._quiet() && this._publisher?._quiet() !== false) this.#onQuiet?.();
  }

  // --- in

  /** What the gateway says. */
  _receive(ops: ServerOp[]): void {
    this.#heardAt = this.#runtime.now();
    if (this._exchange._connected) this.#dropAt = Infinity;
    this.#probing = false;
    for (const op of ops) this.#on(op);
    this.#host._wake();
  }

  #on(op: ServerOp): void {
    switch (op.op) {
      case "messages":
        return this._roster._deliver(op);
      case "ok":
        return this._exchange._reply(op);
      case "error":
        if (op.ref != null) return this._exchange._reply(op);
        if (op.sub) return this._roster._trouble(op);
        this.#host._emit("warning", op); // among others: settlements that came too late
        return;
      case "welcome":
        return this.#welcomed(op);
      case "ping":
        return this._exchange._send({ op: "pong", ref: op.ref });
      case "gap":
        return this._roster._gap(op);
      case "goodbye":
        this.#goodbye = op;
        this._exchange._leaving = true;
    }
  }

  #welcomed({ limits, heartbeat_ms, pong_timeout_ms, expires_in_ms }: Welcome): void {
    const exchange = this._exchange;
    exchange._connected = true;
    this._frameBytesMax = limits.frame_bytes_max ?? FRAME_BYTES_MAX;
    this.#dropAt = Infinity;
    this.#silenceMs = heartbeat_ms + pong_timeout_ms || Infinity;
    this.#pongMs = pong_timeout_ms;
    this._reconnector._up(this.#runtime.now());
    this.#authorise(expires_in_ms);
    if (this._state !== "draining") this.#change("connected");
    if (exchange._resuming) return; // the answer to `auth` comes next
    if (this.#options.resumeGraceMs > 0) this.#authenticate();
    this._roster._restore();
  }

  // --- the token

  #authorise(expiresInMs = 0): void {
    this.#authorised = true;
    this.#asking = false;
    this.#endsAt = this.#runtime.now() + expiresInMs;
    if (expiresInMs && this.#options.refreshable) {
      this._exchange._after(expiresInMs * REFRESH_AT, () => this.#want("expiring"));
    }
  }

  /** The token ended before the refresh: a fresh one may still save the connection. What needs it waits. */
  readonly _unauthorized = (): boolean => {
    const { refreshable } = this.#options;
    if (refreshable) {
      this.#authorised = false;
      this.#want("rejected");
    }
    return refreshable;
  };

  #want(reason: TokenReason): void {
    if (this.#asking) return;
    const now = this.#runtime.now();
    const wait = this.#askedAt + REFRESH_RETRY_MS - now;
    if (wait > 0) return this._exchange._after(wait, () => this.#want(reason));
    this.#asking = true;
    this.#askedAt = now;
    this.#host._refresh(reason);
  }

  /** The token that was wanted; none could be had: asked again in half the time that is left. */
  _renew(token: string | undefined): void {
    if (!this.#asking || !this._exchange._connected) return;
    this.#asking = false;
    if (!token) {
      const left = (this.#endsAt - this.#runtime.now()) / 2;
      return this._exchange._after(Math.max(REFRESH_RETRY_MS, left), () => this.#want("expiring"));
    }
    this.#token = token;
    this._exchange._request(
      (ref) => ({ op: "auth", ref, token }),
      (frame) => {
        if (frame?.op === "ok") {
          this.#authorise(frame.expires_in_ms);
          this._roster._restore();
        } else if (frame) {
          // The old token may still have time. When it has none, the gateway closes, and the reconnect decides.
          this.#host._emit("warning", frame);
          this._exchange._after(REFRESH_RETRY_MS, () => this.#want("rejected"));
        }
      },
    );
  }
}
