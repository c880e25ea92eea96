/**
 * The client as a state machine: operations and time in, operations and calls of its host out. Owns the connection's
 * state and the order of things; its parts own theirs. No sockets, no timers, no DOM: the shell in client.ts moves text
 * and calls `_tick` at `_dueAt()`, and a test can do the same without either.
 */

import { Reconnector } from "./backoff.js";
import type { Backoff, Loss, TokenReason } from "./backoff.js";
import { STILL_OURS } from "./codes.js";
import { closedError, PushwireError } from "./errors.js";
import { Exchange } from "./exchange.js";
import type { ClientOp, ErrorOp, Goodbye, Ok, ServerOp, Welcome } from "./frames.js";
import { Publisher } from "./publisher.js";
import { Roster } from "./roster.js";
import type { Runtime } from "./runtime.js";
import { Settlements } from "./settlements.js";

/** Of a token's life: late enough to use it, early enough for a few tries. */
const REFRESH_AT = 0.8;
/** Between two tokens asked for on one connection, so that a gateway that refuses them all is not a busy loop. */
const REFRESH_RETRY_MS = 1000;

/** Where a client is. "suspended": the page is frozen or left; "closed" is for good. */
export type State = "idle" | "connecting" | "connected" | "reconnecting" | "suspended" | "draining" | "closed";

/** What the core needs of its shell. */
export interface Host {
  /** There is something to send, or something is due at another time than before. */
  wake(): void;
  /** End the connection: it is no good. */
  drop(reason: string): void;
  /** Fetch a token and give it to `_renew`. */
  wantToken(reason: TokenReason): void;
  changed(state: State, error?: PushwireError): void;
  /** Worth knowing; nothing has failed for good. */
  warn(code: string, text: string): void;
}

export interface CoreOptions {
  backoff: Backoff;
  resumeGraceMs: number;
  bufferMessagesMax: number;
  welcomeTimeoutMs: number;
  /** Whether asking for another token can give another one. */
  refreshable: boolean;
}

/** State of one client, over all its connections. */
export class Core {
  _state: State = "idle";
  _error: PushwireError | undefined;
  readonly _exchange: Exchange;
  readonly _settlements: Settlements;
  readonly _roster: Roster;
  readonly _publisher: Publisher;
  private _reconnector: Reconnector;
  private _open = false;
  private _goodbye: Goodbye | undefined;
  private _connectAt = 0;
  private _watchers: { done: () => boolean; resolve: () => void }[] = [];
  // --- silence
  private _heardAt = 0;
  private _dropAt = Infinity; // no welcome, or no answer to a question, until then: the connection is no good
  private _probing = false; // `_dropAt` is that of a probe: somebody is waiting
  private _silenceMs = Infinity;
  private _pongMs = Infinity;
  // --- the token
  private _token: string | undefined;
  private _authorised = false;
  private _asking = false;
  private _askedAt = -Infinity;
  private _endsAt = Infinity;
  // --- the session
  private _secret: string | undefined;
  private _holdUntil = Infinity;

  constructor(
    private _runtime: Runtime,
    private _host: Host,
    private _options: CoreOptions,
  ) {
    const unauthorized = () => this._unauthorized();
    this._exchange = new Exchange(_runtime, () => _host.wake());
    this._settlements = new Settlements(this._exchange, (lease) => this._roster._stale(lease));
    this._settlements._remembers = _options.resumeGraceMs > 0;
    this._roster = new Roster(this._exchange, this._settlements, unauthorized);
    this._publisher = new Publisher(this._exchange, _options.bufferMessagesMax, unauthorized);
    this._reconnector = new Reconnector(_options.backoff, _runtime.random, _options.refreshable);
  }

  // --- the link

  /** When to connect, and why a token is needed; undefined: not now, or never again. */
  _nextAttempt(): { at: number; reason: TokenReason } | undefined {
    if (this._open || ["idle", "suspended", "closed"].includes(this._state)) return undefined;
    return { at: this._connectAt, reason: this._reconnector._reason };
  }

  /** Somebody wants a connection. */
  _start(): void {
    if (this._state === "idle" || this._state === "suspended") this._change("connecting");
  }

  /** There is reason to think that the network is back: connect at once, or see whether the connection still lives. */
  _hurry(probeMs: number): void {
    this._reconnector._reset();
    this._connectAt = 0;
    if (this._exchange._connected) {
      this._dropAt = Math.min(this._dropAt, this._runtime.now() + probeMs);
      this._probing = true;
      this._exchange._send({ op: "ping" });
    }
    this._host.wake();
  }

  /** The link is open. `inBand`: the token is still to be shown; the gateway says welcome after it. */
  _opened(token: string | undefined, inBand: boolean): void {
    const now = this._runtime.now();
    this._open = true;
    this._token = token;
    this._heardAt = now;
    this._dropAt = now + this._options.welcomeTimeoutMs;
    if (inBand && token !== undefined) this._authenticate();
    this._host.wake();
  }

  private _authenticate(): void {
    const { resumeGraceMs } = this._options;
    const resume = resumeGraceMs > 0 ? { session: this._secret, resume_grace_ms: resumeGraceMs } : {};
    this._exchange._resuming = resumeGraceMs > 0;
    this._exchange._request(
      (ref) => ({ op: "auth", ref, token: this._token!, ...resume }),
      (frame) => this._authenticated(frame),
    );
  }

  /** The answer to the first `auth`: with a grace it says what became of the former session. */
  private _authenticated(frame: Ok | ErrorOp | null): void {
    if (!frame || !this._exchange._resuming) return; // a refusal is followed by close 4401
    if (frame.op === "error" && frame.retryable) {
      this._exchange._retry(frame, () => this._authenticate());
      return;
    }
    if (frame.op === "error") this._host.warn(frame.code, `no session can be resumed: ${frame.message}`);
    else this._secret = frame.session;
    this._exchange._resuming = false;
    if (frame.op === "ok" && frame.resumed && frame.subs) {
      this._holdUntil = Infinity;
      this._roster._resumed(frame.subs);
    } else {
      this._void();
    }
    this._roster._restore();
  }

  /** The link is gone, or none came about. */
  _lost(loss: Loss): void {
    if (this._state === "closed") return;
    const now = this._runtime.now();
    const away = this._goodbye && !STILL_OURS.includes(this._goodbye.code);
    this._down();
    if (this._secret !== undefined && !away && !loss.fatal) {
      this._holdUntil = Math.min(this._holdUntil, now + this._options.resumeGraceMs);
      this._roster._lost(true);
    } else {
      this._void();
    }
    const verdict = this._reconnector._down(loss, this._goodbye, now);
    this._goodbye = undefined;
    if (typeof verdict === "number") {
      this._connectAt = verdict;
      const why = new PushwireError("not_connected", loss.reason || `the connection was lost (${loss.code})`);
      const keep = this._state === "draining" || this._state === "connecting" || this._state === "suspended";
      this._change(keep ? this._state : "reconnecting", why);
    } else {
      this._finish(verdict);
    }
    this._check();
  }

  private _down(): void {
    this._open = this._authorised = this._asking = false;
    this._dropAt = this._silenceMs = this._endsAt = Infinity;
    this._probing = false;
    this._exchange._lost();
  }

  /** Every lease is gone. */
  private _void(): void {
    this._holdUntil = Infinity;
    const unsent = this._settlements._void();
    if (unsent) this._host.warn("lease_lost", `${unsent} settlements were not sent before the connection was lost`);
    this._roster._lost(false);
  }

  /** The page is frozen or left: give everything back. Take what there is to send, then end the link without a loss. */
  _suspend(): ClientOp[] {
    for (const subscription of this._roster._subscriptions()) subscription._rest(true);
    this._roster._abandon();
    return this._take();
  }

  /** After `_suspend`, or for good: the link was ended by this side. */
  _ended(state: "suspended" | "closed"): void {
    if (this._state === "closed") return;
    this._secret = undefined;
    this._down();
    if (state === "closed") {
      this._finish(undefined);
    } else {
      this._void();
      this._connectAt = 0;
      this._change(state);
    }
  }

  /** Nothing can help, or everything is done. */
  _finish(error: PushwireError | undefined): void {
    this._down();
    this._error = error;
    this._publisher._failAll(error ?? closedError());
    this._roster._endAll(error);
    this._void();
    this._change("closed", error);
    this._check();
  }

  private _change(state: State, error?: PushwireError): void {
    if (state === this._state && !error) return;
    this._state = state;
    this._host.changed(state, error);
    this._host.wake();
  }

  // --- time

  /** When `_tick` must be called. */
  _dueAt(): number {
    const now = this._runtime.now();
    let soonest = Math.min(this._dropAt, this._exchange._dueAt(), this._publisher._dueAt(now), this._holdUntil);
    if (this._open) soonest = Math.min(soonest, this._silentAt());
    for (const member of this._roster._subscriptions()) soonest = Math.min(soonest, member._dueAt());
    return soonest;
  }

  private _silentAt(): number {
    return this._dropAt < Infinity ? Infinity : this._heardAt + this._silenceMs;
  }

  /** Everything that happens because time passes. */
  _tick(): void {
    const now = this._runtime.now();
    if (now >= this._dropAt) {
      const hurry = this._probing;
      this._host.drop(this._exchange._connected ? "the gateway has gone silent" : "no welcome in time");
      if (hurry) this._connectAt = 0; // one page has come back: no herd that jitter would have to scatter
    } else if (this._open && now >= this._silentAt()) {
      this._dropAt = now + this._pongMs;
      this._exchange._send({ op: "ping" });
    }
    this._exchange._runDue(now);
    if (now >= this._holdUntil) this._void();
    for (const member of this._roster._subscriptions()) member._tick(now);
    this._publisher._tick(now);
    this._check();
  }

  // --- out

  /** Operations to send now. */
  _take(): ClientOp[] {
    if (!this._open) return [];
    const exchange = this._exchange;
    const ops = exchange._takeFirst();
    if (exchange._connected) {
      if (!exchange._resuming) ops.push(...this._settlements._take());
      if (this._authorised && !exchange._leaving) ops.push(...this._publisher._take(this._runtime.now()));
      ops.push(...exchange._takeLast());
    }
    this._check();
    return ops;
  }

  /** Take no more messages; resolves when every handler is done, every settlement confirmed, every publish answered. */
  _drain(): Promise<void> {
    if (this._state !== "closed") this._change("draining");
    for (const member of this._roster._members.values()) member._drain();
    return this._quiet(() => this._publisher._quiet());
  }

  private _quiet(done: () => boolean): Promise<void> {
    this._settlements._confirming++;
    return new Promise<void>((resolve) => {
      const idle = () => this._roster._subscriptions().every((member) => !member._handed());
      this._watchers.push({ done: () => done() && idle() && this._settlements._quiet(), resolve });
      this._check();
    }).finally(() => this._settlements._confirming--);
  }

  /** Tell those who wait for quiet. */
  _check(): void {
    this._watchers = this._watchers.filter(({ done, resolve }) => {
      const over = this._state === "closed" || done();
      if (over) resolve();
      return !over;
    });
  }

  // --- in

  /** What the gateway says. */
  _receive(ops: ServerOp[]): void {
    this._heardAt = this._runtime.now();
    if (this._exchange._connected) {
      this._dropAt = Infinity;
      this._probing = false;
    }
    for (const op of ops) this._on(op);
    this._check();
    this._host.wake();
  }

  private _on(op: ServerOp): void {
    switch (op.op) {
      case "messages":
        return this._roster._deliver(op);
      case "ok":
        return void this._exchange._reply(op);
      case "error":
        return this._onError(op);
      case "welcome":
        return this._onWelcome(op);
      case "ping":
        return this._exchange._send({ op: "pong", ref: op.ref });
      case "gap":
        return this._roster._gap(op);
      case "goodbye":
        this._goodbye = op;
        this._exchange._leaving = true;
    }
  }

  private _onError(op: ErrorOp): void {
    if (op.ref !== undefined) this._exchange._reply(op);
    else if (op.sub !== undefined) this._roster._trouble(op);
    else this._host.warn(op.code, op.leases ? `${op.leases.length} settlements came too late` : op.message);
  }

  private _onWelcome(op: Welcome): void {
    const now = this._runtime.now();
    const exchange = this._exchange;
    exchange._connected = true;
    exchange._epoch = op.epoch;
    this._publisher._limits = op.limits;
    this._dropAt = Infinity;
    this._silenceMs = op.heartbeat_ms ? op.heartbeat_ms + op.pong_timeout_ms : Infinity;
    this._pongMs = op.pong_timeout_ms;
    this._reconnector._up(now);
    this._expires(op.expires_in_ms);
    if (this._state !== "draining") this._change("connected");
    if (exchange._resuming) return; // the answer to `auth` comes next
    if (this._options.resumeGraceMs > 0 && this._token !== undefined) this._authenticate();
    else this._roster._restore();
  }

  // --- the token

  private _expires(inMs: number | undefined): void {
    this._authorised = true;
    this._asking = false;
    this._endsAt = Infinity;
    if (!inMs || !this._options.refreshable) return;
    const now = this._runtime.now();
    this._endsAt = now + inMs;
    this._exchange._at(now + inMs * REFRESH_AT, () => this._want("expiring"));
  }

  /** The token ended before the refresh: a fresh one may still save the connection. What needs it waits. */
  private _unauthorized(): boolean {
    if (this._options.refreshable) {
      this._authorised = false;
      this._want("rejected");
    }
    return this._options.refreshable;
  }

  private _want(reason: TokenReason): void {
    if (this._asking) return;
    const now = this._runtime.now();
    const again = this._askedAt + REFRESH_RETRY_MS;
    if (now < again) {
      this._exchange._at(again, () => this._want(reason));
      return;
    }
    this._asking = true;
    this._askedAt = now;
    this._host.wantToken(reason);
  }

  /** The token that was wanted; none could be had: asked again in half the time that is left. */
  _renew(token: string | undefined): void {
    if (!this._asking || !this._exchange._connected) return;
    this._asking = false;
    if (token === undefined) {
      const now = this._runtime.now();
      const left = this._endsAt < Infinity ? (this._endsAt - now) / 2 : 0;
      this._exchange._at(now + Math.max(REFRESH_RETRY_MS, left), () => this._want("expiring"));
      return;
    }
    this._token = token;
    this._exchange._request(
      (ref) => ({ op: "auth", ref, token }),
      (frame) => this._renewed(frame),
    );
  }

  private _renewed(frame: Ok | ErrorOp | null): void {
    if (frame?.op === "ok") {
      this._expires(frame.expires_in_ms);
      this._roster._restore();
    } else if (frame) {
      // The old token may still have time. When it has none, the gateway closes, and the reconnect decides.
      this._host.warn(frame.code, "the token could not be refreshed");
      if (frame.retryable || frame.code === "unauthorized") this._exchange._retry(frame, () => this._want("rejected"));
    }
  }
}
