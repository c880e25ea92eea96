/**
 * Requests, their replies, and what is to be done later: the bookkeeping of one connection. Owns refs and who waits for
 * which. Forgets everything with the connection. No I/O.
 */

import { hinted } from "./backoff.js";
import type { ClientOp, ErrorOp, Ok } from "./frames.js";
import type { Runtime } from "./runtime.js";

/** Called once with the answer; undefined: the connection ended without one. */
export type Reply = (frame: Ok | ErrorOp | undefined) => void;

/** The first wait before a refused request is repeated, where the gateway names none; random on top. */
const RETRY_MS = 500;

/** Who waits for a promise. */
export interface Waiter<T = void> {
  resolve: (value: T) => void;
  reject: (error: Error) => void;
}

/** What is under way with the gateway. */
export class Exchange {
  /** From the gateway's welcome to the end of the connection. */
  _connected = false;
  /** The gateway has said goodbye: it takes settlements, and nothing new. */
  _leaving = false;
  /** A former session is being taken over: until the answer, nothing may be said of subscriptions and leases. */
  _resuming = false;
  #lastRef = 0;
  #replies = new Map<number | undefined, Reply>();
  #first: ClientOp[] = [];
  #last: ClientOp[] = [];
  #later = new Map<() => void, number>();

  declare readonly _runtime: Runtime;
  declare readonly _wake: () => void;

  /** `wake`: there is something to send, or something is due at another time than before. */
  constructor(runtime: Runtime, wake: () => void) {
    this._runtime = runtime;
    this._wake = wake;
  }

  /** A ref whose answer `reply` gets. */
  _expect(reply: Reply): number {
    this.#replies.set(++this.#lastRef, reply);
    return this.#lastRef;
  }

  _send(op: ClientOp): void {
    this.#first.push(op);
    this._wake();
  }

  /** Send `make(ref)`. `last`: after the settlements gathered so far, which it would make stale. */
  _request(make: (ref: number) => ClientOp, reply: Reply, last = false): void {
    (last ? this.#last : this.#first).push(make(this._expect(reply)));
    this._wake();
  }

  /** The answer. One that nobody waits for is none of ours. */
  _reply(frame: Ok | ErrorOp): void {
    const reply = this.#replies.get(frame.ref);
    this.#replies.delete(frame.ref);
    reply?.(frame);
  }

  _take(last = false): ClientOp[] {
    return (last ? this.#last : this.#first).splice(0);
  }

  /** Do this so much later, if this connection still lives then. */
  _after(delayMs: number, run: () => void): void {
    this.#later.set(run, this._runtime.now() + delayMs);
    this._wake();
  }

  /** Repeat a refused request when the gateway allows it; false when it never does, or there was none. */
  _again(frame: Ok | ErrorOp | undefined, run: () => void): boolean {
    if (frame?.op !== "error" || !frame.retryable) return false;
    this._after(hinted(frame.retry_after_ms, RETRY_MS * (1 + this._runtime.random())), run);
    return true;
  }

  _tick(now: number): void {
    for (const [run, at] of this.#later) {
      if (at <= now) {
        this.#later.delete(run);
        run();
      }
    }
  }

  _dueAt(): number {
    return Math.min(Infinity, ...this.#later.values());
  }

  /** The connection is gone: nobody gets an answer any more, and each is told so. */
  _lost(): void {
    this._connected = this._leaving = this._resuming = false;
    this.#first = [];
    this.#last = [];
    this.#later.clear();
    const replies = [...this.#replies.values()];
    this.#replies.clear();
    for (const reply of replies) reply(undefined);
  }
}
