/**
 * What subscriptions and tails have in common: entries come in, and go to an async iterator or a handler. Owns who
 * waits for them, and the handlers under way.
 */

import { Emitter } from "./emitter.js";
import { asError, closedError } from "./errors.js";
import type { PushwireError } from "./errors.js";
import type { MessagesOp, Ok, SubscribeOp } from "./frames.js";
import type { Waiter } from "./exchange.js";

/** Where a subscription is in its life; "opening": the gateway has not granted it on this connection yet. */
export type Phase = "opening" | "active" | "draining" | "ended";

/** Of whatever entries. */
export type AnyFeed = Feed<any>;

/** What a feed needs of the client. */
export interface Keeper {
  _remove(feed: AnyFeed): void;
  _report(error: Error): void;
}

/** What every feed tells. */
export interface FeedEvents<M> {
  /** A handler has thrown. */
  handlerError: { error: Error; message: M };
  /** Messages `from` to `to` are lost to a tail. Comes in its place between the messages. */
  gap: { from: number; to: number };
}

/** A stream of entries: iterate over it, or give a handler when making it. */
export abstract class Feed<M> extends Emitter<FeedEvents<M>> implements AsyncIterableIterator<M> {
  declare readonly topic: string;
  /** Resolves with the first grant; rejects when it is refused. */
  declare readonly ready: Promise<void>;
  /** Resolves at the end, with the error that ended it, if one did. */
  declare readonly closed: Promise<PushwireError | undefined>;
  /** @internal */ _phase: Phase = "opening";
  /** What the gateway calls it. @internal */ _name = "";
  /** A subscribe is under way. @internal */ _subscribing = false;
  /** A tail that was left for want of room. @internal */ _stalled = false;
  #error: PushwireError | undefined;
  #waiting: Waiter<IteratorResult<M>>[] = [];
  #running = 0;
  #handler: ((entry: M) => unknown) | undefined;
  #concurrency: number;
  #opened!: Waiter;
  #over!: (error?: PushwireError) => void;
  #keeper: Keeper;

  /** @internal */
  constructor(
    topic: string,
    keeper: Keeper,
    { signal, concurrency = 1 }: { signal?: AbortSignal | undefined; concurrency?: number | undefined },
    handler: ((entry: M) => unknown) | undefined,
  ) {
    super();
    this.topic = topic;
    this.#keeper = keeper;
    this.#handler = handler;
    this.#concurrency = concurrency;
    this.ready = new Promise((resolve, reject) => (this.#opened = { resolve, reject }));
    this.ready.catch(() => 0); // who does not look at `ready` learns it from the iterator or `closed`
    this.closed = new Promise((resolve) => (this.#over = resolve));
    if (signal) {
      const close = () => void this.close();
      signal.addEventListener("abort", close);
      void this.closed.then(() => signal.removeEventListener("abort", close));
      if (signal.aborted) queueMicrotask(close);
    }
  }

  /** Why it ended, where nobody asked for it. */
  get error(): PushwireError | undefined {
    return this.#error;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next entry. */
  next(): Promise<IteratorResult<M>> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ resolve, reject });
      this._pump();
    });
  }

  /** Leaving a `for await` loop ends the subscription. */
  async return(): Promise<IteratorResult<M>> {
    await this.close();
    return { value: undefined, done: true };
  }

  /** End it. What was not settled goes back at once. */
  async close(): Promise<void> {
    this.#keeper._remove(this);
  }

  /** Hand out what there is to whoever waits. @internal */
  _pump(): void {
    const handler = this.#handler;
    while (handler && this.#running < this.#concurrency && this._has()) this.#handle(handler, this._next());
    while (this.#waiting[0] && this._has()) this.#waiting.shift()!.resolve({ value: this._next(), done: false });
    if ((this._phase === "ended" || this._phase === "draining") && !this._has()) {
      for (const { resolve, reject } of this.#waiting.splice(0)) {
        if (this.#error) reject(this.#error);
        else resolve({ value: undefined, done: true });
      }
    }
  }

  #handle(handler: (entry: M) => unknown, entry: M): void {
    const done = (thrown?: { error: unknown }) => {
      this.#running--;
      const error = thrown && asError(thrown.error);
      if (this._handled(entry, error) && !this._emit("handlerError", { error: error!, message: entry })) {
        this.#keeper._report(error!);
      }
    };
    this.#running++;
    try {
      const result = handler(entry) as PromiseLike<unknown> | undefined;
      // One that is done at once is settled at once, and the next one takes its place in this turn.
      if (result?.then) {
        result.then(
          () => (done(), this._pump()),
          (error) => (done({ error }), this._pump()),
        );
      } else {
        done();
      }
    } catch (error) {
      done({ error });
    }
  }

  /** Over, by the user or with an error. @internal */
  _end(error?: PushwireError): void {
    if (this._phase === "ended") return;
    this._void();
    this._phase = "ended";
    this.#error = error;
    this.#opened.reject(error ?? closedError());
    this.#over(error);
    this._pump();
  }

  /** The gateway has granted it. @internal */
  _granted(ok: Ok): void {
    if (this._phase === "opening") this._phase = "active";
    this._accept(ok);
    this.#opened.resolve();
  }

  /** The connection is gone, and what the gateway knew of it. @internal */
  _void(): void {
    if (this._phase === "active") this._phase = "opening";
  }

  /** The connection is gone, and leases may be reclaimed. @internal */
  _hold(): void {
    this._void();
  }

  /** No more messages; what has come may still be handed out. @internal */
  _drain(): void {
    this._phase = "draining";
    this._pump();
  }

  /** Whether there is an entry to hand out. @internal */
  abstract _has(): boolean;
  /** Take it; there is one. @internal */
  abstract _next(): M;
  /** A handler is done with it. Whether `error` is to be reported. @internal */
  abstract _handled(entry: M, error: Error | undefined): boolean;
  /** What a subscribe says of it. @internal */
  abstract _ask(): Partial<SubscribeOp>;
  /** What the gateway grants. @internal */
  abstract _accept(ok: Ok): void;
  /** Messages have come. @internal */
  abstract _deliver(op: MessagesOp): void;
}
