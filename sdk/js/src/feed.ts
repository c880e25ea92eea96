/**
 * What subscriptions and tails have in common: entries come in, and go to an async iterator or a handler. Owns the local
 * queue, who waits for it, and the handlers under way.
 */

import { Emitter } from "./emitter.js";
import type { PushwireError } from "./errors.js";
import { asError, closedError } from "./errors.js";
import type { ClientOp, Ok } from "./frames.js";

/** Where a subscription is in its life; "opening": the gateway has not granted it on this connection yet. */
export type Phase = "opening" | "active" | "draining" | "ended";

/** What a feed needs of the client. @internal */
export interface Keeper {
  _remove(feed: AnyFeed): void;
}

/** @internal */
export type AnyFeed = Feed<any, any>;

/** A stream of entries: iterate over it, or give a handler when making it. */
export abstract class Feed<M, Events extends object> extends Emitter<Events> implements AsyncIterableIterator<M> {
  /** Resolves with the first grant; rejects when it is refused. */
  readonly ready: Promise<void>;
  /** Resolves at the end, with the error that ended it, if one did. */
  readonly closed: Promise<PushwireError | undefined>;
  /** @internal */ _phase: Phase = "opening";
  /** What the gateway calls it. @internal */ _name = "";
  /** A subscribe is under way. @internal */ _subscribing = false;
  /** @internal */ _error: PushwireError | undefined;
  private _waiting: { resolve: (result: IteratorResult<M>) => void; reject: (error: Error) => void }[] = [];
  private _running = 0;
  private _handler: ((entry: M) => unknown) | undefined;
  private _concurrency: number;
  private _settleReady!: (error?: PushwireError) => void;
  private _settleClosed!: (error?: PushwireError) => void;

  /** @internal */
  constructor(
    readonly topic: string,
    private _keeper: Keeper,
    options: { signal?: AbortSignal | undefined; concurrency?: number | undefined },
    handler: ((entry: M) => unknown) | undefined,
  ) {
    super();
    this._handler = handler;
    this._concurrency = options.concurrency ?? 1;
    this.ready = new Promise((resolve, reject) => {
      this._settleReady = (error) => (error ? reject(error) : resolve());
    });
    this.ready.catch(() => undefined); // who does not look at `ready` learns it from the iterator or `closed`
    this.closed = new Promise((resolve) => (this._settleClosed = resolve));
    const { signal } = options;
    if (signal) {
      const close = () => void this.close();
      signal.addEventListener("abort", close, { once: true });
      void this.closed.then(() => signal.removeEventListener("abort", close));
      if (signal.aborted) queueMicrotask(close);
    }
  }

  /** Why it ended, where nobody asked for it. */
  get error(): PushwireError | undefined {
    return this._error;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next entry. What is still queued when the promise is dropped stays queued until it is asked for. */
  next(): Promise<IteratorResult<M>> {
    return new Promise((resolve, reject) => {
      this._waiting.push({ resolve, reject });
      this._pump();
    });
  }

  /** Leaving a `for await` loop ends the subscription. */
  async return(): Promise<IteratorResult<M>> {
    await this.close();
    return { value: undefined, done: true };
  }

  /** End it. What was not settled goes back at once. Resolves when it is over here; nothing of it comes any more. */
  close(): Promise<void> {
    this._keeper._remove(this);
    return this.closed.then(() => undefined);
  }

  /** Hand out what there is to whoever waits. @internal */
  _pump(): void {
    const handler = this._handler;
    while (handler && this._running < this._concurrency && this._ready()) this._handle(handler, this._take());
    while (this._waiting.length && this._ready()) this._waiting.shift()!.resolve({ value: this._take(), done: false });
    if (this._over() && !this._ready()) {
      for (const { resolve, reject } of this._waiting.splice(0)) {
        if (this._error) reject(this._error);
        else resolve({ value: undefined, done: true });
      }
    }
  }

  /** Whether there is an entry to hand out. */
  protected abstract _ready(): boolean;

  private _handle(handler: (entry: M) => unknown, entry: M): void {
    this._running++;
    let result: unknown;
    try {
      result = handler(entry);
    } catch (thrown) {
      this._done(entry, thrown ?? new Error("nothing"));
      return;
    }
    if (typeof (result as PromiseLike<unknown> | undefined)?.then !== "function") this._done(entry);
    else void this._wait(result as PromiseLike<unknown>, entry);
  }

  private async _wait(result: PromiseLike<unknown>, entry: M): Promise<void> {
    let thrown: unknown;
    try {
      await result;
    } catch (error) {
      thrown = error ?? new Error("nothing");
    }
    this._done(entry, thrown);
    this._pump();
  }

  private _done(entry: M, thrown?: unknown): void {
    this._running--;
    this._handled(entry, thrown === undefined ? undefined : asError(thrown));
  }

  private _over(): boolean {
    return this._phase === "draining" || this._phase === "ended";
  }

  /** Over, by the user or with an error. @internal */
  _end(error?: PushwireError): void {
    if (this._phase === "ended") return;
    this._void();
    this._phase = "ended";
    this._error = error;
    this._cleared(error);
    this._settleReady(error ?? closedError());
    this._settleClosed(error);
    this._pump();
  }

  /** The gateway has granted it. @internal */
  _granted(ok: Ok): void {
    if (this._phase === "opening") this._phase = "active";
    this._accept(ok);
    this._settleReady();
  }

  /** Take the next entry out of the queue; there is one. @internal */
  abstract _take(): M;
  /** A handler is done with it. @internal */
  abstract _handled(entry: M, error: Error | undefined): void;
  /** The operation that opens it. @internal */
  abstract _subscribeOp(ref: number): ClientOp;
  /** What the gateway grants. @internal */
  abstract _accept(ok: Ok): void;
  /** The connection is gone, and what the gateway knew of it. @internal */
  abstract _void(): void;
  /** The connection is gone, and leases may be reclaimed. @internal */
  abstract _hold(): void;
  /** No more messages. @internal */
  abstract _drain(): void;
  /** It has ended: what becomes of the queue. @internal */
  abstract _cleared(error: PushwireError | undefined): void;
}
