/**
 * The client: what users hold. Owns the link, the timers, the token callback and the page's life, and moves operations
 * between the link and the core. Decides nothing about delivery: core.ts does.
 */

import type { Loss, TokenReason } from "./backoff.js";
import { lostFor } from "./backoff.js";
import { NO_CLOSE_FRAME } from "./codes.js";
import { MESSAGES_PER_OP_MAX, messageFields } from "./codec.js";
import type { Draft, MessageOptions } from "./codec.js";
import { Core } from "./core.js";
import type { State } from "./core.js";
import { Emitter, report } from "./emitter.js";
import { asError, closedError, PushwireError, Unauthorized } from "./errors.js";
import type { AnyFeed } from "./feed.js";
import type { Receipt } from "./frames.js";
import { addresses, openSocket } from "./links.js";
import type { Link, LinkEvents, WebSocketConstructor } from "./links.js";
import type { Message, TailMessage } from "./message.js";
import { DEFAULTS } from "./options.js";
import type { ClientOptions } from "./options.js";
import { thisPage, watchPage } from "./page.js";
import { PollLink } from "./poll.js";
import type { Outgoing } from "./publisher.js";
import { defaultRuntime } from "./runtime.js";
import type { Runtime } from "./runtime.js";
import { Subscription } from "./subscription.js";
import type { AnySubscription, Clerk, SubscribeOptions } from "./subscription.js";
import { Tail } from "./tail.js";
import type { AnyTail, Shelf, TailOptions } from "./tail.js";
import { Transports } from "./transports.js";
import { uuid7 } from "./uuid7.js";

/** What v1 allows at most, where a gateway does not say. */
const FRAME_BYTES_MAX = 1024 * 1024 + 16 * 1024;
/** On return to a page: how long its connection may take to show that it lives. */
const PROBE_MS = 2000;

/** What a client tells. */
export interface ClientEvents {
  /** It is somewhere else than before, or has failed to get there (`error`). */
  state: { state: State; error: PushwireError | undefined };
  /** Worth knowing, nothing has failed for good: what the gateway reports, a token that could not be refreshed. */
  warning: { code: string; message: string };
  /** A handler has thrown and nobody listened to its subscription; without a listener here it goes to the console. */
  error: Error;
}

/** How to publish. */
export interface PublishOptions extends MessageOptions {
  /** How long to try; default that of the client. */
  timeoutMs?: number;
  /** Aborted, it is not waited for any more; what was sent may be stored all the same. */
  signal?: AbortSignal;
}

/** A client of one gateway. Connects by itself with the first thing that is wanted of it, and again when it is lost. */
export class Client extends Emitter<ClientEvents> implements Clerk, Shelf {
  private _core: Core;
  private _runtime: Runtime;
  private _options: ClientOptions & typeof DEFAULTS;
  private _address: { socket: string; http: string };
  private _transports: Transports;
  private _link: Link | undefined;
  private _connecting = false;
  private _attempt = 0; // what an older attempt still brings is not heard
  private _scheduled = false;
  private _timer: { at: number; cancel: () => void } | undefined;
  private _offline = false;
  private _hidden = false;
  private _resting = false;
  private _cancelRest: (() => void) | undefined;
  private _unwatch: () => void;
  private _memory = {};

  constructor(url: string, options: ClientOptions = {}) {
    super();
    this._options = { ...DEFAULTS, ...options };
    this._address = addresses(url);
    this._runtime = { ...defaultRuntime(), ...options.runtime };
    const WebSocket = options.WebSocket ?? (globalThis as { WebSocket?: WebSocketConstructor }).WebSocket;
    this._options.WebSocket = WebSocket!;
    this._transports = new Transports(WebSocket ? (options.transport ?? "auto") : "poll", this._address.http);
    const { resumeGraceMs, bufferMessagesMax, connectTimeoutMs } = this._options;
    this._core = new Core(
      this._runtime,
      {
        wake: () => this._wake(),
        drop: (reason) => this._drop(lostFor(reason)),
        wantToken: (reason) => void this._refresh(reason),
        changed: (state, error) => void this._emit("state", { state, error }),
        warn: (code, message) => void this._emit("warning", { code, message }),
      },
      {
        backoff: { baseMs: 500, capMs: 20_000, ...options.backoff },
        resumeGraceMs,
        bufferMessagesMax,
        welcomeTimeoutMs: connectTimeoutMs,
        refreshable: typeof options.token === "function",
      },
    );
    this._unwatch = options.page === false ? () => undefined : watchPage(options.page ?? thisPage(), this);
  }

  // --- state

  /** Where it is. */
  get state(): State {
    return this._core._state;
  }

  /** Why it is closed, where nobody asked for it. */
  get error(): PushwireError | undefined {
    return this._core._error;
  }

  /** How it is connected, or tries to be. */
  get transport(): "websocket" | "poll" {
    return this._transports._polling ? "poll" : "websocket";
  }

  /** Connect without waiting for something to do. */
  connect(): this {
    this._core._start();
    return this;
  }

  /** Connect; resolves once there is a connection, rejects when the client is closed. */
  connected(): Promise<void> {
    this.connect();
    return new Promise((resolve, reject) => {
      const look = () => {
        if (this.state === "connected") resolve();
        else if (this.state === "closed") reject(this.error ?? closedError());
        else return;
        off();
      };
      const off = this.on("state", look);
      look();
    });
  }

  // --- verbs

  /**
   * Publish one message. Resolves with the receipt: it is on disk. Until then it is tried again with the same id, over
   * as many connections as it takes. Rejects with a PushwireError, whose `stored` says whether it may be stored.
   */
  async publish(topic: string, data: unknown, options: PublishOptions = {}): Promise<Receipt> {
    const id = options.id ?? uuid7();
    return (await this._publish(topic, messageFields(data, id, options), 1, options))[0]!;
  }

  /** Publish several (at most 1000), all or none. Receipts come in their order. */
  async publishMany(
    topic: string,
    drafts: readonly Draft[],
    options: Pick<PublishOptions, "timeoutMs" | "signal"> = {},
  ): Promise<Receipt[]> {
    if (drafts.length > MESSAGES_PER_OP_MAX) {
      throw new PushwireError("batch_too_large", `at most ${MESSAGES_PER_OP_MAX} messages`, { stored: "no" });
    }
    if (!drafts.length) return [];
    const messages = drafts.map((draft) => `{${messageFields(draft.data, draft.id ?? uuid7(), draft)}}`);
    return this._publish(topic, `"messages":[${messages.join(",")}]`, drafts.length, options);
  }

  private _publish(topic: string, fields: string, count: number, options: PublishOptions): Promise<Receipt[]> {
    const { timeoutMs = this._options.publishTimeoutMs, signal } = options;
    if (this.state === "closed" || this.state === "draining") return Promise.reject(this.error ?? closedError());
    if (signal?.aborted) return Promise.reject(asError(signal.reason));
    this.connect();
    return new Promise<Receipt[]>((resolve, reject) => {
      const entry: Outgoing = { topic, fields, count, deadline: this._now() + timeoutMs, waiter: { resolve, reject } };
      const abort = () => this._core._publisher._giveUp(entry, asError(signal!.reason));
      const done = () => signal?.removeEventListener("abort", abort);
      entry.waiter = { resolve: (value) => (done(), resolve(value)), reject: (error) => (done(), reject(error)) };
      signal?.addEventListener("abort", abort);
      this._core._publisher._add(entry);
    });
  }

  /** Join a group: iterate over the subscription with `for await`, or give a handler, which acks when it is done. */
  subscribe<T = unknown>(topic: string, handler: (message: Message<T>) => unknown): Subscription<T>;
  subscribe<T = unknown>(
    topic: string,
    options?: SubscribeOptions,
    handler?: (message: Message<T>) => unknown,
  ): Subscription<T>;
  subscribe<T>(
    topic: string,
    options: SubscribeOptions | ((message: Message<T>) => unknown) = {},
    handler?: (message: Message<T>) => unknown,
  ): Subscription<T> {
    if (typeof options === "function") return this.subscribe(topic, {}, options);
    const subscription = new Subscription<T>(topic, this, options, handler);
    if (this._resting) subscription._rest(true);
    return this._open(subscription);
  }

  /** See every message of a topic, without leases: iterate with `for await`, or give a handler. */
  tail<T = unknown>(topic: string, handler: (message: TailMessage<T>) => unknown): Tail<T>;
  tail<T = unknown>(topic: string, options?: TailOptions, handler?: (message: TailMessage<T>) => unknown): Tail<T>;
  tail<T>(
    topic: string,
    options: TailOptions | ((message: TailMessage<T>) => unknown) = {},
    handler?: (message: TailMessage<T>) => unknown,
  ): Tail<T> {
    if (typeof options === "function") return this.tail(topic, {}, options);
    return this._open(new Tail<T>(topic, this, options, handler));
  }

  private _open<F extends AnyFeed>(feed: F): F {
    if (this.state === "closed" || this.state === "draining") throw this.error ?? closedError();
    this.connect();
    this._core._roster._add(feed);
    return feed;
  }

  /**
   * Stop well: no new messages, handlers finish, settlements are confirmed, publishes answered; then close. Rejects with
   * `timeout` when that took too long; the client is closed then, too.
   */
  async drain(timeoutMs = 30_000): Promise<void> {
    let cancel = (): void => undefined;
    const late = new Promise<"late">((resolve) => (cancel = this._runtime.setTimer(() => resolve("late"), timeoutMs)));
    const connected = this.state !== "idle" && this.state !== "closed";
    const outcome = connected ? await Promise.race([this._core._drain(), late]) : undefined;
    cancel();
    this.close();
    if (outcome) throw new PushwireError("timeout", "drained for too long: what was not settled goes back");
  }

  /** Stop now. What was not settled goes back at once; what was settled is still sent. */
  close(): void {
    this._unwatch();
    this._cancelRest?.();
    this._core._roster._abandon();
    this._cut("closed");
    this._core._ended("closed");
  }

  // --- the page's life; on other platforms, call these yourself

  /** Nobody looks: after `hiddenAfterMs` the window and the unworked messages go back. The connection stays. */
  background(): void {
    const { hiddenAfterMs } = this._options;
    if (this._hidden) return;
    this._hidden = true;
    if (hiddenAfterMs !== false) this._cancelRest = this._runtime.setTimer(() => this._rest(true), hiddenAfterMs);
  }

  /** Somebody looks again: take the window back, and replace the connection if it is not there any more. */
  foreground(): void {
    this._hidden = false;
    this._cancelRest?.();
    this._rest(false);
    this._core._hurry(PROBE_MS);
  }

  /** The page is frozen or left: give everything back and close the connection, at once. */
  suspend(): void {
    if (["idle", "suspended", "closed"].includes(this.state)) return;
    this._send(this._core._suspend());
    this._cut("suspended");
    this._core._ended("suspended");
  }

  /** The page is back. */
  restore(): void {
    if (this.state !== "suspended") return;
    this._rest(this._hidden);
    this._core._start();
  }

  /** There is a network again. */
  online(): void {
    this._offline = false;
    this._core._hurry(PROBE_MS);
  }

  /** There is no network: no attempts until there is. */
  offline(): void {
    this._offline = true;
  }

  private _rest(resting: boolean): void {
    this._resting = resting;
    for (const subscription of this._core._roster._subscriptions()) subscription._rest(resting);
  }

  // --- the link

  private async _connect(reason: TokenReason): Promise<void> {
    const attempt = ++this._attempt;
    this._connecting = true;
    const cancel = this._runtime.setTimer(() => {
      if (attempt === this._attempt && this._connecting) this._drop(lostFor("no connection in time"));
    }, this._options.connectTimeoutMs);
    try {
      const token = await this._fetchToken(reason);
      if (attempt === this._attempt) this._link = this._makeLink(token, attempt, cancel);
    } catch (thrown) {
      cancel();
      if (attempt !== this._attempt) return;
      const error = asError(thrown);
      const loss = lostFor(`no connection could be begun: ${error.message}`);
      this._drop(error instanceof Unauthorized ? { ...loss, fatal: error } : loss);
    }
  }

  private async _fetchToken(reason: TokenReason): Promise<string | undefined> {
    const { token } = this._options;
    return typeof token === "function" ? token({ reason }) : token;
  }

  private _makeLink(token: string | undefined, attempt: number, opened: () => void): Link {
    const { auth = "frame", WebSocket, fetch = globalThis.fetch } = this._options;
    const poll = this._transports._choose();
    const events: LinkEvents = {
      opened: () => {
        opened();
        this._connecting = false;
        this._core._opened(token, auth === "frame" && !poll);
      },
      received: (ops) => {
        if (attempt !== this._attempt) return;
        if (ops.some(({ op }) => op === "welcome")) this._transports._welcomed();
        this._core._receive(ops);
      },
      lost: (code, reason) => attempt === this._attempt && this._drop({ code, reason }),
    };
    if (!poll) return openSocket(WebSocket!, this._address.socket, auth === "frame" ? undefined : token, events);
    const renew = () => this._fetchToken("rejected").catch(() => undefined);
    const { _runtime: runtime, _memory: memory } = this;
    return new PollLink({ base: this._address.http, fetch: fetch.bind(globalThis), runtime, token, renew, memory }, events);
  }

  /** The connection is gone, or is to be. */
  private _drop(loss: Loss): void {
    this._transports._lost(loss.code === NO_CLOSE_FRAME);
    this._cut("dropped");
    this._core._lost(loss);
  }

  /** Send what there is, and end the link without a word to the core. */
  private _cut(reason: string): void {
    if (reason === "closed") this._send(this._core._take());
    this._attempt++;
    this._connecting = false;
    this._link?.close(reason);
    this._link = undefined;
  }

  private _send(ops: Parameters<Link["send"]>[0]): void {
    const limit = this._core._publisher._limits.frame_bytes_max ?? FRAME_BYTES_MAX;
    if (ops.length) this._link?.send(ops, limit);
  }

  private async _refresh(reason: TokenReason): Promise<void> {
    try {
      this._core._renew(await this._fetchToken(reason));
    } catch (thrown) {
      const error = asError(thrown);
      if (error instanceof Unauthorized) this._drop({ ...lostFor(error.message), fatal: error });
      else this._core._renew(undefined);
      this._emit("warning", { code: "no_token", message: error.message });
    }
  }

  // --- turns and timers

  private _wake(): void {
    if (this._scheduled) return;
    this._scheduled = true;
    this._runtime.turn(() => this._turn());
  }

  private _turn(): void {
    this._scheduled = false;
    const now = this._now();
    if (this._core._dueAt() <= now) this._core._tick();
    this._send(this._core._take());
    const next = this._link || this._connecting || this._offline ? undefined : this._core._nextAttempt();
    if (next && next.at <= now) void this._connect(next.reason);
    this._arm(Math.min(this._core._dueAt(), next && next.at > now ? next.at : Infinity));
  }

  /** One timer, armed for the next thing that is due. One that fires too early finds the exact time. */
  private _arm(at: number): void {
    if (this._timer && this._timer.at <= at && at < Infinity) return;
    this._timer?.cancel();
    this._timer = undefined;
    if (at === Infinity || this.state === "closed") return;
    const cancel = this._runtime.setTimer(
      () => {
        this._timer = undefined;
        this._turn();
      },
      Math.max(0, at - this._now()),
    );
    this._timer = { at, cancel };
  }

  // --- for subscriptions and tails

  /** @internal */
  _now(): number {
    return this._runtime.now();
  }

  /** @internal */
  get _settlements(): Core["_settlements"] {
    return this._core._settlements;
  }

  /** @internal */
  _setFlow(subscription: AnySubscription): void {
    this._core._roster._setFlow(subscription);
  }

  /** @internal */
  _changed(): void {
    this._core._check();
  }

  /** @internal */
  _remove(feed: AnyFeed): void {
    this._core._roster._remove(feed);
  }

  /** @internal */
  _refill(tail: AnyTail): void {
    this._core._roster._refill(tail);
  }

  /** @internal */
  _report(error: Error): void {
    if (!this._emit("error", error)) report(error);
  }
}
