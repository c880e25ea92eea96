/**
 * One subscription of a group: what it holds, hands out, gives back and loses. Owns its leases. No I/O; the client
 * feeds it operations and time, the user takes messages out of it.
 */

import { wireStart } from "./codec.js";
import type { Start } from "./codec.js";
import { Reject, Retry } from "./errors.js";
import { Feed } from "./feed.js";
import type { Keeper } from "./feed.js";
import type { MessagesOp, Ok, SubscribeOp, Verb } from "./frames.js";
import { Message } from "./message.js";
import type { How, Settlements } from "./settlements.js";

/**
 * Messages one subscription holds at most; what comes above is given back. For a gateway gone mad: it keeps the window.
 */
const HELD_MAX = 2000;
/** What a gateway grants that is asked for nothing (PROTOCOL.md §8); replaced by what it says. */
const ACK_TIMEOUT_MS = 30_000;
const PREFETCH = 32;

/** How to subscribe. What is left out is the gateway's default. */
export interface SubscribeOptions {
  /** Default "default". Members of one group share its messages; every group gets every message. */
  group?: string | undefined;
  /** How many messages this client may hold at a time. */
  prefetch?: number | undefined;
  /** How long a lease lasts. */
  ackTimeoutMs?: number | undefined;
  /** Where a group begins that this subscription creates. */
  start?: Start | undefined;
  /** Make the group private to this subject and this name of a device: durable delivery to one device. */
  clientId?: string | undefined;
  /** How long a group that this creates outlives its last member; for ever when left out. */
  inactiveTtlMs?: number | undefined;
  /** Renew the lease of what is held, at a third of its time, until it is settled. */
  extend?: boolean | undefined;
  /** With a handler: "auto" (default) acks when it is done and nacks when it throws; "manual" leaves that to it. */
  ack?: "auto" | "manual" | undefined;
  /** With a handler: how many may run at a time; default 1. */
  concurrency?: number | undefined;
  /** Aborted, the subscription is closed. */
  signal?: AbortSignal | undefined;
}

/** Of whatever bodies. */
export type AnySubscription = Subscription<any>;

/** What it needs of the client. */
export interface Clerk extends Keeper {
  _settlements: Settlements;
  _now(): number;
  /** Tell the gateway the window that is wanted now. */
  _setFlow(subscription: AnySubscription): void;
}

/** Messages of one topic for one member of a group. */
export class Subscription<T = unknown> extends Feed<Message<T>> {
  /** The connection is gone, and its leases may still be reclaimed. @internal */
  _away = false;
  /** Queued or handed out, in the order in which they expire. @internal */
  _leases = new Map<string, Message<T>>();
  #queue: Message<T>[] = []; // arrived and not handed out: at most what the window allows
  #clerk: Clerk;
  #options: SubscribeOptions;
  #ackTimeoutMs: number;
  #prefetch: number;
  #paused = false;
  #resting = false;

  /** @internal */
  constructor(topic: string, clerk: Clerk, options: SubscribeOptions, handler?: (message: Message<T>) => unknown) {
    super(topic, clerk, options, handler);
    this.#clerk = clerk;
    this.#options = options;
    this.#ackTimeoutMs = options.ackTimeoutMs ?? ACK_TIMEOUT_MS;
    this.#prefetch = options.prefetch ?? PREFETCH;
  }

  /** Take no more messages for now. What is held stays held. */
  pause(): void {
    this.#paused = true;
    this.#clerk._setFlow(this);
  }

  /** Take messages again. */
  resume(): void {
    this.#paused = false;
    this.#clerk._setFlow(this);
  }

  /** The page is out of sight: give the window and what nobody works on back. @internal */
  _rest(resting: boolean): void {
    if (resting === this.#resting) return;
    this.#resting = resting;
    if (resting) this.#giveBack(Infinity);
    this.#clerk._setFlow(this);
  }

  /** What it may hold now. @internal */
  _window(): number {
    return this.#paused || this.#resting || this._phase === "draining" ? 0 : this.#prefetch;
  }

  /** In the user's hands, not settled. @internal */
  _handed(): number {
    return this._leases.size - this.#queue.length;
  }

  // --- the gateway

  /** @internal */
  override _ask(): Partial<SubscribeOp> {
    const { group, prefetch, ackTimeoutMs, start, clientId, inactiveTtlMs } = this.#options;
    return {
      group,
      prefetch: this._window() && prefetch,
      ack_timeout_ms: ackTimeoutMs,
      start: wireStart(start),
      private: clientId ? true : undefined,
      client_id: clientId,
      inactive_ttl_ms: inactiveTtlMs,
    };
  }

  /** @internal */
  override _accept({ prefetch, ack_timeout_ms }: Ok): void {
    this.#prefetch = prefetch || this.#prefetch; // 0 is what a stopped one asked for
    this.#ackTimeoutMs = ack_timeout_ms || this.#ackTimeoutMs;
  }

  /** @internal */
  override _deliver({ messages }: MessagesOp): void {
    const refused = this._phase !== "active" || this.#resting || this._leases.size + messages.length > HELD_MAX;
    for (const row of messages) {
      // Said twice, it is one delivery, which is here; without a lease it is none.
      if (!row.lease || this._leases.has(row.lease)) continue;
      const message = new Message<T>(this, row);
      this._leases.set(message.lease, message);
      if (refused) message.release();
      else this.#queue.push(message);
    }
    this._pump();
  }

  /** @internal */
  override _void(): void {
    super._void();
    this._away = false;
    this.#queue = [];
    for (const message of this._leases.values()) message._lose();
    this._leases.clear();
  }

  /** @internal */
  override _hold(): void {
    this._away ||= this._phase !== "opening"; // attempts to come back may fail before one does not
    super._void();
  }

  /** @internal */
  override _drain(): void {
    this.#giveBack(Infinity);
    super._drain();
    this.#clerk._setFlow(this);
  }

  /** The gateway, or the clock, says that this lease is none any more. @internal */
  _lost(lease: string): void {
    const message = this._leases.get(lease);
    this._leases.delete(lease);
    message?._lose();
    this.#queue = this.#queue.filter((other) => other !== message);
  }

  // --- the user

  /** @internal */
  override _has(): boolean {
    return !!this.#queue[0];
  }

  /** @internal */
  override _next(): Message<T> {
    return this.#queue.shift()!;
  }

  /** @internal */
  override _handled(message: Message<T>, error: Error | undefined): boolean {
    const steered = error instanceof Retry || error instanceof Reject;
    if (this.#options.ack !== "manual" && !message.settled) {
      if (!error) message.ack();
      else if (error instanceof Retry) message.nack({ delayMs: error.delayMs, error: error.message });
      else if (steered) message.reject(error.message);
      else message.nack({ error: String(error) });
    }
    return !!error && !steered;
  }

  // --- Holder

  /** @internal */
  _now(): number {
    return this.#clerk._now();
  }

  /** @internal */
  _settle(message: Message, verb: Verb, ...how: How): void {
    this._leases.delete(message.lease);
    this.#clerk._settlements._add(verb, message.lease, ...how);
  }

  /** @internal */
  _extend(message: Message): true {
    message._expiresAt = this._now() + this.#ackTimeoutMs;
    this._leases.delete(message.lease); // to the end: the order is that of expiry
    this._leases.set(message.lease, message as Message<T>);
    this.#clerk._settlements._add("extend", message.lease);
    return true;
  }

  // --- time

  /** What is due: lose what has run out, extend what is held, give back what has waited too long. @internal */
  _tick(now: number): void {
    for (const message of this.#expiring(now)) this._lost(message.lease);
    const third = this.#ackTimeoutMs / 3;
    if (!this.#options.extend) {
      // Two thirds of its time spent in the local queue: given back, it goes to whoever is free, and nobody counts a
      // failure. Left to run out, it would count one.
      this.#giveBack(now + third);
    } else if (!this._away) {
      for (const message of this.#expiring(now + 2 * third)) this._extend(message);
    }
  }

  /** When `_tick` has something to do. @internal */
  _dueAt(): number {
    const third = this.#ackTimeoutMs / 3;
    const [first] = this._leases.values();
    const expiresAt = first?._expiresAt ?? Infinity;
    if (this.#options.extend) return expiresAt - (this._away ? 0 : 2 * third);
    return Math.min(expiresAt, (this.#queue[0]?._expiresAt ?? Infinity) - third);
  }

  #expiring(until: number): Message<T>[] {
    return [...this._leases.values()].filter(({ _expiresAt }) => _expiresAt <= until);
  }

  #giveBack(until: number): void {
    while (this.#queue[0] && this.#queue[0]._expiresAt <= until) this.#queue.shift()!.release();
  }
}
