/**
 * Requests, their replies, and what is to be done later: the bookkeeping of one connection. Owns refs and who waits for
 * which. Forgets everything with the connection. No I/O.
 */

import type { ClientOp, ErrorOp, Ok } from "./frames.js";
import type { Runtime } from "./runtime.js";

/** Called once with the answer; null: the connection ended without one. */
export type Reply = (frame: Ok | ErrorOp | null) => void;

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
  /** Of the gateway's database. */
  _epoch = "";
  private _lastRef = 0;
  private _replies = new Map<number, Reply>();
  private _first: ClientOp[] = [];
  private _last: ClientOp[] = [];
  private _later: { at: number; run: () => void }[] = [];

  constructor(
    readonly _runtime: Runtime,
    /** There is something to send, or something is due at another time than before. */
    readonly _wake: () => void,
  ) {}

  /** A ref whose answer `reply` gets. */
  _expect(reply: Reply): number {
    this._replies.set(++this._lastRef, reply);
    return this._lastRef;
  }

  _send(op: ClientOp): void {
    this._first.push(op);
    this._wake();
  }

  /** Send `make(ref)`. `last`: after the settlements gathered so far, which it would make stale. */
  _request(make: (ref: number) => ClientOp, reply: Reply, last = false): void {
    (last ? this._last : this._first).push(make(this._expect(reply)));
    this._wake();
  }

  /** The answer. One that nobody waits for is none of ours. */
  _reply(frame: Ok | ErrorOp): boolean {
    const reply = this._replies.get(frame.ref!);
    this._replies.delete(frame.ref!);
    reply?.(frame);
    return !!reply;
  }

  _takeFirst(): ClientOp[] {
    return this._first.splice(0);
  }

  _takeLast(): ClientOp[] {
    return this._last.splice(0);
  }

  /** Do this later, if this connection still lives then. */
  _at(at: number, run: () => void): void {
    this._later.push({ at, run });
    this._wake();
  }

  /** Repeat a refused request when the gateway allows it. */
  _retry(frame: ErrorOp, run: () => void): void {
    const { now, random } = this._runtime;
    this._at(now() + (frame.retry_after_ms ?? RETRY_MS * (1 + random())), run);
  }

  _runDue(now: number): void {
    const due = this._later.filter((entry) => entry.at <= now);
    if (!due.length) return;
    this._later = this._later.filter((entry) => entry.at > now);
    for (const entry of due) entry.run();
  }

  _dueAt(): number {
    return this._later.reduce((soonest, entry) => Math.min(soonest, entry.at), Infinity);
  }

  /** The connection is gone: nobody gets an answer any more, and each is told so. */
  _lost(): void {
    this._connected = this._leaving = this._resuming = false;
    this._first = [];
    this._last = [];
    this._later = [];
    const replies = this._replies;
    this._replies = new Map();
    for (const reply of replies.values()) reply(null);
  }
}
