/**
 * The client as a state machine: operations and time in, operations and calls of its host out. Owns the connection's
 * state and the order of things; its parts own theirs. No sockets, no timers, no DOM: the shell in client.ts moves text
 * and calls `_tick` at `_dueAt()`, and a test can do the same without either.
 */

import { Reconnector } from "./backoff.js";
import type { Backoff, Loss } from "./backoff.js";
import { FRAME_BYTES_MAX, readable } from "./codec.js";
import { stillOurs } from "./codes.js";
import { closedError, PushwireError } from "./errors.js";
import { Exchange } from "./exchange.js";
import type { ClientOp, ErrorOp, Goodbye, Ok, ServerOp, Welcome } from "./frames.js";
import type { Publisher } from "./publisher.js";
import type { Renewal } from "./renewal.js";
import type { takeOver } from "./resume.js";
import { Roster } from "./roster.js";
import type { Runtime } from "./runtime.js";
import { Settlements } from "./settlements.js";

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
  _emit<K extends keyof ClientEvents>(name: K, event: ClientEvents[K]): boolean;
  /** Nobody else takes this error. */
  readonly _report: (error: Error) => void;
}

/** What of the client's options concerns the core. */
export interface CoreOptions {
  backoff: Backoff;
  resumeGraceMs: number;
  connectTimeoutMs: number;
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
  /** Of a WebSocket message; where no welcome has said it, what a gateway commonly allows. */
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
  _token: string | undefined;
  /** Loaded before the first connection, where there may be another token. */
  _renewal: Renewal | undefined;
  #authorised = false;
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
    this._token = token;
    this.#dropAt = this.#runtime.now() + this.#options.connectTimeoutMs;
    if (inBand) this.#authenticate();
    this.#host._wake();
  }

  /**
   * Show the token; and, with a grace, ask for the leases of before, and that those to come outlive their connection.
   */
  #authenticate(): void {
    const token = this._token;
    if (token == null) return;
    const { resumeGraceMs } = this.#options;
    const resuming = (this._exchange._resuming = resumeGraceMs > 0);
    const resume = resuming && { session: this.#secret, resume_grace_ms: resumeGraceMs };
    this._exchange._request(
      (ref) => ({ op: "auth", ref, token, ...resume }),
      (frame) => {
        if (!frame || this._refused(frame)) return;
        // Before the welcome the only answer is a refusal, and the gateway closes after it (4401, 4408, 4429).
        if (!this._exchange._resuming || !this._exchange._connected) return;
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
    const { backoff, resumeGraceMs } = this.#options;
    const { now, random } = this.#runtime;
    const goodbye = this.#goodbye;
    const hurry = this.#probing;
    // A connection that ended before its welcome never served the session: its goodbye is not about the leases.
    const ours = !goodbye || !this._exchange._connected || stillOurs(goodbye.code);
    this.#down();
    if (this.#secret && ours) {
      this.#holdUntil = Math.min(this.#holdUntil, now() + resumeGraceMs);
      this._roster._lost(true);
    } else {
      this.#void();
    }
    const verdict = this._reconnector._down(loss, goodbye, now(), !!this._renewal, backoff, random);
    if (typeof verdict !== "number") return this._finish(verdict);
    // A page that has come back is no herd that jitter would have to scatter.
    this._connectAt = hurry ? 0 : now() + verdict;
    const state = this._state === "connected" ? "reconnecting" : this._state;
    this.#change(state, new PushwireError("not_connected", loss.reason || `lost with ${loss.code}`));
  }

  /** Nothing is left of the connection. */
  #down(): void {
    this.#open = this.#authorised = this.#probing = false;
    this._renewal?._lost();
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

  /** Nothing can help, or everything is done. The link, if there is one, ends with this turn. */
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
      this.#dropAt,
      silentAt,
      this.#holdUntil,
      this._exchange._dueAt(),
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
    for (const op of ops.filter(readable)) if (this.#open) this.#on(op); // one may end it
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
    this._frameBytesMax = limits.frame_bytes_max ?? this._frameBytesMax;
    this.#dropAt = Infinity;
    this.#silenceMs = heartbeat_ms + pong_timeout_ms || Infinity;
    this.#pongMs = pong_timeout_ms;
    this._reconnector._up(this.#runtime.now());
    this._authorise(expires_in_ms);
    if (this._state !== "draining") this.#change("connected");
    if (exchange._resuming) return; // the answer to `auth` comes next
    if (this.#options.resumeGraceMs > 0) this.#authenticate();
    this._roster._restore();
  }

  // --- the token

  /** Whether this answer to `auth` would come each time, which ends the client. Another token may be accepted. */
  _refused(frame: Ok | ErrorOp): boolean {
    if (frame.op === "ok" || frame.retryable || frame.code === "unauthorized") return false;
    this._finish(new PushwireError(frame.code, frame.message));
    return true;
  }

  /** The gateway has accepted one. */
  _authorise(expiresInMs = 0): void {
    this.#authorised = true;
    this._renewal?._accepted(expiresInMs);
  }

  /** The token ended before the refresh: a fresh one may still save the connection. What needs it waits. */
  readonly _unauthorized = (): boolean => {
    if (!this._renewal) return false;
    this.#authorised = false;
    this._renewal._want("rejected");
    return true;
  };
}
