/**
 * The client: what users hold. Owns the link, the timers, the token callback and the page's life, and moves operations
 * between the link and the core. Decides nothing about delivery: core.ts does.
 */

import type { Loss, TokenReason } from "./backoff.js";
import { hinted } from "./backoff.js";
import { NO_CLOSE_FRAME } from "./codes.js";
import { readable } from "./codec.js";
import type { Draft } from "./draft.js";
import { Core } from "./core.js";
import type { ClientEvents, State } from "./core.js";
import { Emitter, report } from "./emitter.js";
import { asError, closedError, PushwireError, Unauthorized } from "./errors.js";
import type { AnyFeed } from "./feed.js";
import type { Receipt } from "./frames.js";
import { openSocket, placeOf } from "./links.js";
import type { Link, LinkEvents, WebSocketConstructor } from "./links.js";
import type { Message, TailMessage } from "./message.js";
import { DEFAULTS } from "./options.js";
import type { ClientOptions } from "./options.js";
import type { PageEvents } from "./page.js";
import type { PublishOptions } from "./publisher.js";
import { defaultRuntime } from "./runtime.js";
import type { Runtime } from "./runtime.js";
import { Subscription } from "./subscription.js";
import type { SubscribeOptions } from "./subscription.js";
import { Tail } from "./tail.js";
import type { TailOptions } from "./tail.js";
import { Transports } from "./transports.js";

type Options = ClientOptions & typeof DEFAULTS;

/**
 * Loaded with the first connection, so that it is there when the network is not; a page that consumes starts without.
 */
const publishing = () => import("./publisher.js");

/** A client of one gateway. Connects by itself with the first thing that is wanted of it, and again when it is lost. */
export class Client extends Emitter<ClientEvents> {
  #core: Core;
  #runtime: Runtime;
  #options: Options;
  #place: string;
  #transports: Transports;
  #link: Link | undefined;
  #connecting = false;
  #attempt = 0; // what an older attempt still brings is not heard
  #scheduled = false;
  #timerAt = Infinity;
  #cancelTimer = (): void => undefined;
  #offline = false;
  #hidden = false;
  #resting = false;
  #cancelRest = (): void => undefined;
  #unwatch = (): void => undefined;
  #memory = {};

  constructor(url: string, options: ClientOptions = {}) {
    super();
    const { WebSocket } = globalThis as { WebSocket?: WebSocketConstructor };
    const backoff = { baseMs: 500, capMs: 20_000, ...options.backoff };
    const given = { WebSocket, ...DEFAULTS, ...options, backoff };
    this.#options = given as Options;
    this.#place = placeOf(url);
    this.#runtime = { ...defaultRuntime(), ...options.runtime };
    this.#transports = new Transports(given.WebSocket ? (options.transport ?? "auto") : "poll");
    this.#core = new Core(this.#runtime, this, given);
    if (options.page !== false) void this.#watch(options.page ?? globalThis);
  }

  /** Follow the page, where this is one. Until then, what it held is as after any lost connection. */
  async #watch(page: PageEvents): Promise<void> {
    if (!page.document && !page.window) return;
    const { watchPage } = await import("./page.js");
    if (this.state !== "closed") this.#unwatch = watchPage(page, this);
  }

  // --- state

  /** Where it is. */
  get state(): State {
    return this.#core._state;
  }

  /** Why it is closed, where nobody asked for it. */
  get error(): PushwireError | undefined {
    return this.#core._error;
  }

  /** How it is connected, or tries to be. */
  get transport(): "websocket" | "poll" {
    return this.#transports._polling ? "poll" : "websocket";
  }

  /** Connect without waiting for something to do. */
  connect(): this {
    this.#core._start("idle");
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
    return (await this.#publish(topic, [{ ...options, data }], options, true))[0]!;
  }

  /** Publish several (at most 1000), all or none. Receipts come in their order. */
  publishMany(
    topic: string,
    drafts: readonly Draft[],
    options: Pick<PublishOptions, "timeoutMs" | "signal"> = {},
  ): Promise<Receipt[]> {
    return this.#publish(topic, drafts, options, false);
  }

  async #publish(topic: string, drafts: readonly Draft[], options: PublishOptions, alone: boolean): Promise<Receipt[]> {
    const core = this.#core;
    const { bufferMessagesMax, publishTimeoutMs: timeoutMs } = this.#options;
    this.#mayBegin();
    const { Publisher } = await publishing();
    this.#mayBegin();
    core._publisher ??= new Publisher(core._exchange, bufferMessagesMax, core._unauthorized);
    return core._publisher._publish(topic, drafts, { timeoutMs, ...options }, alone);
  }

  #mayBegin(): void {
    if (this.state === "closed" || this.state === "draining") throw this.error ?? closedError();
    this.connect();
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
    const subscription = new Subscription<T>(topic, this.#core._roster, options, handler);
    subscription._rest(this.#resting);
    return this.#open(subscription);
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
    return this.#open(new Tail<T>(topic, this.#core._roster, options, handler));
  }

  #open<F extends AnyFeed>(feed: F): F {
    this.#mayBegin();
    this.#core._roster._add(feed);
    return feed;
  }

  /**
   * Stop well: no new messages, handlers finish, settlements are confirmed, publishes answered; then close. Rejects
   * with `timeout` when that took too long; the client is closed then, too.
   */
  drain(timeoutMs = 30_000): Promise<void> {
    return new Promise((resolve, reject) => {
      const late = () => {
        this.close();
        reject(new PushwireError("timeout", "drained for too long"));
      };
      const cancel = this.#runtime.setTimer(late, timeoutMs);
      const done = () => {
        cancel();
        this.close();
        resolve();
      };
      if (this.#core._wanted()) void this.#core._drain().then(done);
      else done();
    });
  }

  /** Stop now. What was not settled goes back at once; what was settled is still sent. */
  close(): void {
    this.#unwatch();
    this.#cancelRest();
    this.#core._roster._abandon();
    this.#flush();
    this.#cut();
    if (this.state !== "closed") this.#core._finish();
  }

  // --- the page's life; on other platforms, call these yourself

  /** Nobody looks: after `hiddenAfterMs` the window and the unworked messages go back. The connection stays. */
  background(): void {
    const { hiddenAfterMs } = this.#options;
    if (this.#hidden || hiddenAfterMs === false) return;
    this.#hidden = true;
    this.#cancelRest = this.#runtime.setTimer(() => this.#rest(true), hiddenAfterMs);
  }

  /** Somebody looks again: take the window back, and replace the connection if it is not there any more. */
  foreground(): void {
    this.#hidden = false;
    this.#cancelRest();
    this.#rest(false);
    this.#core._hurry();
  }

  /** The page is frozen or left: give everything back and close the connection, at once. */
  suspend(): void {
    if (!this.#core._wanted()) return;
    this.#rest(true);
    this.#core._roster._abandon();
    this.#flush();
    this.#cut();
    this.#core._suspended();
  }

  /** The page is back. A network that came back meanwhile was not announced to it, so there may be one. */
  restore(): void {
    this.#offline = false;
    this.#rest(this.#hidden);
    this.#core._start("suspended");
  }

  /** There is a network again. */
  online(): void {
    this.#offline = false;
    this.#core._hurry();
  }

  /** There is no network: no attempts until there is. */
  offline(): void {
    this.#offline = true;
  }

  #rest(resting: boolean): void {
    this.#resting = resting;
    for (const subscription of this.#core._roster._subscriptions()) subscription._rest(resting);
  }

  // --- the link

  async #connect(): Promise<void> {
    const attempt = ++this.#attempt;
    const current = () => attempt === this.#attempt;
    const cancel = this.#runtime.setTimer(() => {
      if (current()) this._drop("no connection in time");
    }, this.#options.connectTimeoutMs);
    this.#connecting = true;
    try {
      const core = this.#core;
      if (this.#options.resumeGraceMs) core._takeOver ??= (await import("./resume.js")).takeOver;
      if (typeof this.#options.token === "function") {
        core._renewal ??= new (await import("./renewal.js")).Renewal(core, this, this.#runtime.now);
      }
      const token = await this._token(core._reconnector._reason);
      const poll = this.#transports._choose() && (await import("./poll.js"));
      if (!current()) return cancel();
      const shown = this.#options.auth === "subprotocol";
      const socket = (to: LinkEvents) =>
        openSocket(this.#options.WebSocket!, `ws${this.#place}/v1/ws`, shown ? token : undefined, to);
      const events: LinkEvents = {
        _opened: () => {
          cancel();
          this.#core._opened(token, !(poll || (shown && token)));
        },
        _received: (ops) => {
          if (!current()) return;
          this.#core._receive(ops);
          if (this.#connecting && this.#core._exchange._connected) {
            this.#connecting = false;
            this.#transports._welcomed();
            publishing().catch(() => 0); // tried again, and told, by a publish
          }
        },
        _lost: (code = NO_CLOSE_FRAME, reason = "") => current() && this.#lost({ code, reason }),
      };
      this.#link = poll
        ? new poll.PollLink(
            {
              _base: `http${this.#place}`,
              _fetch: this.#options.fetch,
              _runtime: this.#runtime,
              _token: token,
              _renew: () => this._token("rejected"),
              _memory: this.#memory,
              _hinted: hinted,
              _readable: readable,
              _probe: this.#transports._wanted === "auto" && socket,
            },
            events,
          )
        : socket(events);
    } catch (thrown) {
      cancel();
      if (current()) this._failed(thrown);
    }
  }

  /** @internal */
  async _token(reason: TokenReason): Promise<string | undefined> {
    const { token } = this.#options;
    // One that was asked for and is none is shown, so that its refusal ends the client.
    return typeof token === "function" ? ((await token({ reason })) ?? "") : token;
  }

  /** No token, or no link, could be had. @internal */
  _failed(thrown: unknown): void {
    if (thrown instanceof Unauthorized) this.#core._finish(thrown);
    else this._drop(asError(thrown).message);
  }

  /** The connection is gone, or is to be. */
  #lost(loss: Loss): void {
    this.#transports._lost(!this.#connecting, loss.code === NO_CLOSE_FRAME);
    this.#cut();
    this.#core._lost(loss);
  }

  /** End the link without a word to the core. */
  #cut(): void {
    this.#attempt++;
    this.#connecting = false;
    this.#link?.close();
    this.#link = undefined;
  }

  // --- turns and timers

  #flush(): void {
    const ops = this.#core._take();
    if (ops[0]) this.#link?.send(ops, this.#core._frameBytesMax);
  }

  #turn(): void {
    const core = this.#core;
    const now = this.#runtime.now();
    this.#scheduled = false;
    if (core._dueAt() <= now) core._tick();
    this.#flush();
    core._check();
    const wanted = core._wanted();
    if (!wanted) this.#cut();
    const idle = wanted && !this.#link && !this.#connecting && !this.#offline;
    if (idle && core._connectAt <= now) void this.#connect();
    this.#arm(Math.min(core._dueAt(), idle && core._connectAt > now ? core._connectAt : Infinity));
  }

  /** One timer, armed for the next thing that is due. One that fires too early finds the exact time. */
  #arm(at: number): void {
    if (this.#timerAt <= at && at < Infinity) return;
    this.#cancelTimer();
    this.#timerAt = at;
    if (at === Infinity) return;
    this.#cancelTimer = this.#runtime.setTimer(() => {
      this.#timerAt = Infinity;
      this.#turn();
    }, at - this.#runtime.now());
  }

  // --- for the core

  /** @internal */
  _wake(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    this.#runtime.turn(() => this.#turn());
  }

  /** @internal */
  _drop(reason: string): void {
    this.#lost({ code: NO_CLOSE_FRAME, reason });
  }

  /** @internal */
  readonly _report = (error: Error): void => {
    if (!this._emit("error", error)) report(error);
  };
}
