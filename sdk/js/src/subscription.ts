/**
 * One subscription of a group: what it holds, hands out, gives back and loses. Owns its leases. No I/O; the client feeds
 * it operations and time, the user takes messages out of it.
 */

import { wireStart } from "./codec.js";
import type { Start } from "./codec.js";
import type { PushwireError } from "./errors.js";
import { Reject, Retry } from "./errors.js";
import type { Waiter } from "./exchange.js";
import { Feed } from "./feed.js";
import type { Keeper } from "./feed.js";
import type { ClientOp, MessagesOp, Ok, Verb } from "./frames.js";
import { Message } from "./message.js";
import type { Holder } from "./message.js";
import type { Settlements } from "./settlements.js";

/** Messages one subscription holds at most; what comes above is given back. For a gateway gone mad: it keeps the window. */
const HELD_MESSAGES_MAX = 2000;
/** What a gateway grants that is asked for nothing (PROTOCOL.md §8); replaced by what it says. */
const ACK_TIMEOUT_MS = 30_000;
const PREFETCH = 32;

/** How to subscribe. What is left out is the gateway's default. */
export interface SubscribeOptions {
  /** Default "default". Members of one group share its messages; every group gets every message. */
  group?: string;
  /** How many messages this client may hold at a time. */
  prefetch?: number;
  /** How long a lease lasts. */
  ackTimeoutMs?: number;
  /** Where a group begins that this subscription creates. */
  start?: Start;
  /** Make the group private to this subject and this name of a device: durable delivery to one device. */
  clientId?: string;
  /** How long a group that this creates outlives its last member; for ever when left out. */
  inactiveTtlMs?: number;
  /** Renew the lease of what is held, at a third of its time, until it is settled. */
  extend?: boolean;
  /** With a handler: "auto" (default) acks when it is done and nacks when it throws; "manual" leaves that to it. */
  ack?: "auto" | "manual";
  /** With a handler: how many may run at a time; default 1. */
  concurrency?: number;
  /** Aborted, the subscription is closed. */
  signal?: AbortSignal;
}

/** What a subscription tells. */
export interface SubscriptionEvents {
  /** A handler has thrown; its message was nacked (or, with ack "manual", is still held). */
  handlerError: { error: Error; message: Message };
}

/** Of whatever bodies. @internal */
export type AnySubscription = Subscription<any>;

/** What it needs of the client. @internal */
export interface Clerk extends Keeper {
  _settlements: Settlements;
  _now(): number;
  /** Tell the gateway the window that is wanted now. */
  _setFlow(subscription: AnySubscription): void;
  /** Something has changed that somebody may wait for. */
  _changed(): void;
  _report(error: Error): void;
}

/** Messages of one topic for one member of a group. */
export class Subscription<T = unknown> extends Feed<Message<T>, SubscriptionEvents> implements Holder {
  /** Held, by lease: queued or handed out, in the order in which they expire. @internal */
  _leases = new Map<string, Message<T>>();
  /** The connection is gone, and its leases may still be reclaimed. @internal */
  _away = false;
  private _queue: Message<T>[] = []; // arrived and not handed out: at most what the window allows
  private _ackTimeoutMs: number;
  private _grantedPrefetch: number | undefined;
  private _paused = false;
  private _resting = false;

  /** @internal */
  constructor(
    topic: string,
    private _clerk: Clerk,
    private _options: SubscribeOptions,
    handler?: (message: Message<T>) => unknown,
  ) {
    super(topic, _clerk, _options, handler);
    this._ackTimeoutMs = _options.ackTimeoutMs ?? ACK_TIMEOUT_MS;
  }

  /** Take no more messages for now. What is held stays held. */
  pause(): void {
    this._paused = true;
    this._clerk._setFlow(this);
  }

  /** Take messages again. */
  resume(): void {
    this._paused = false;
    this._clerk._setFlow(this);
  }

  /** The page is out of sight: give the window and what nobody works on back. @internal */
  _rest(resting: boolean): void {
    if (resting === this._resting) return;
    this._resting = resting;
    if (resting) this._giveBack(this._queue.length);
    this._clerk._setFlow(this);
  }

  /** Whether it takes nothing new. @internal */
  _stopped(): boolean {
    return this._paused || this._resting || this._phase === "draining";
  }

  /** What it may hold now. @internal */
  _window(): number {
    return this._stopped() ? 0 : (this._grantedPrefetch ?? this._options.prefetch ?? PREFETCH);
  }

  /** In the user's hands, not settled. @internal */
  _handed(): number {
    return this._leases.size - this._queue.length;
  }

  // --- the gateway

  /** @internal */
  override _subscribeOp(ref: number): ClientOp {
    const { group, ackTimeoutMs, start, clientId, inactiveTtlMs } = this._options;
    return {
      op: "subscribe",
      ref,
      topic: this.topic,
      sub: this._name,
      group,
      prefetch: this._stopped() ? 0 : this._options.prefetch,
      ack_timeout_ms: ackTimeoutMs,
      start: wireStart(start),
      private: clientId === undefined ? undefined : true,
      client_id: clientId,
      inactive_ttl_ms: inactiveTtlMs,
    };
  }

  /** @internal */
  override _accept(ok: Ok): void {
    if (ok.prefetch) this._grantedPrefetch = ok.prefetch; // 0 is what a stopped one asked for
    if (ok.ack_timeout_ms) this._ackTimeoutMs = ok.ack_timeout_ms;
  }

  /** @internal */
  _deliver({ messages }: MessagesOp): void {
    const refused = this._phase !== "active" || this._resting || this._leases.size + messages.length > HELD_MESSAGES_MAX;
    for (const row of messages) {
      if (refused) {
        this._clerk._settlements._add("release", row.lease!);
      } else {
        const message = new Message<T>(this, row);
        this._leases.set(message.lease, message);
        this._queue.push(message);
      }
    }
    this._pump();
  }

  /** @internal */
  override _void(): void {
    this._away = false;
    this._queue = [];
    for (const message of this._leases.values()) message._lose();
    this._leases.clear();
    if (this._phase === "active") this._phase = "opening";
  }

  /** @internal */
  override _hold(): void {
    this._away = this._phase === "active" || this._phase === "draining";
    if (this._phase === "active") this._phase = "opening";
  }

  /** These were reclaimed; whatever else was held is lost. Returns those that are not known here. @internal */
  _resumed(leases: string[]): string[] {
    this._away = false;
    if (this._phase === "opening") this._phase = "active";
    const held = new Set(leases);
    for (const lease of this._leases.keys()) if (!held.has(lease)) this._lost(lease);
    return leases.filter((lease) => !this._leases.has(lease));
  }

  /** @internal */
  override _drain(): void {
    if (this._phase === "ended") return;
    this._phase = "draining";
    this._giveBack(this._queue.length);
    this._clerk._setFlow(this);
    this._pump();
  }

  /** The gateway, or the clock, says that this lease is none any more. @internal */
  _lost(lease: string): void {
    const message = this._leases.get(lease);
    if (!message) return;
    this._leases.delete(lease);
    message._lose();
    const at = this._queue.indexOf(message);
    if (at >= 0) this._queue.splice(at, 1);
    this._clerk._changed();
  }

  // --- the user

  protected override _ready(): boolean {
    return this._queue.length > 0;
  }

  /** @internal */
  override _take(): Message<T> {
    return this._queue.shift()!;
  }

  /** @internal */
  override _handled(message: Message<T>, error: Error | undefined): void {
    const manual = this._options.ack === "manual";
    if (!manual && !message.settled) {
      if (!error) message.ack();
      else if (error instanceof Retry) message.nack({ delayMs: error.delayMs, error: error.message });
      else if (error instanceof Reject) message.reject(error.message);
      else message.nack({ error: `${error.name}: ${error.message}` });
    }
    if (!error || error instanceof Retry || error instanceof Reject) return;
    if (!this._emit("handlerError", { error, message })) this._clerk._report(error);
  }

  /** @internal */
  override _cleared(_error: PushwireError | undefined): void {
    this._clerk._changed(); // the leases went with the connection or the unsubscribe
  }

  // --- Holder

  /** @internal */
  _now(): number {
    return this._clerk._now();
  }

  /** @internal */
  _settle(message: Message, verb: Verb, delayMs?: number, error?: string, waiter?: Waiter): void {
    this._leases.delete(message.lease);
    this._clerk._settlements._add(verb, message.lease, delayMs, error, waiter);
  }

  /** @internal */
  _extend(message: Message): void {
    message._expiresAt = this._now() + this._ackTimeoutMs;
    this._leases.delete(message.lease); // to the end: the order is that of expiry
    this._leases.set(message.lease, message as Message<T>);
    this._clerk._settlements._add("extend", message.lease);
  }

  // --- time

  /** What is due: extend what is held, give back what has waited too long, lose what has run out. @internal */
  _tick(now: number): void {
    const third = this._ackTimeoutMs / 3;
    if (this._options.extend) {
      if (!this._away) for (const message of this._expiring(now + 2 * third)) this._extend(message);
    } else {
      // Two thirds of its time spent in the local queue: given back, it goes to whoever is free, and nobody counts a
      // failure. Left to run out, it would count one.
      let count = 0;
      while (count < this._queue.length && this._queue[count]!._expiresAt <= now + third) count++;
      this._giveBack(count);
    }
    for (const message of this._expiring(now)) this._lost(message.lease);
  }

  /** When `_tick` has something to do. @internal */
  _dueAt(): number {
    for (const first of this._leases.values()) {
      const third = this._ackTimeoutMs / 3;
      if (this._options.extend) return first._expiresAt - (this._away ? 0 : 2 * third);
      return Math.min(first._expiresAt, this._queue[0] ? this._queue[0]._expiresAt - third : Infinity);
    }
    return Infinity;
  }

  private _expiring(until: number): Message<T>[] {
    const found = [];
    for (const message of this._leases.values()) {
      if (message._expiresAt > until) break;
      found.push(message);
    }
    return found;
  }

  private _giveBack(count: number): void {
    for (const message of this._queue.splice(0, count)) message.release();
  }
}
