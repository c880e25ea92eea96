/**
 * The subscriptions and tails of one client: opened, restored after a reconnect, slowed, left. Owns which exist and
 * what the gateway knows of each. No I/O.
 */

import { PushwireError } from "./errors.js";
import type { Exchange } from "./exchange.js";
import type { AnyFeed } from "./feed.js";
import type { ErrorOp, GapOp, MessagesOp, Ok } from "./frames.js";
import type { Settlements } from "./settlements.js";
import { Subscription } from "./subscription.js";
import type { AnySubscription, Clerk } from "./subscription.js";
import { Tail } from "./tail.js";
import type { AnyTail, Shelf } from "./tail.js";

/** All of them, by name. */
export class Roster implements Clerk, Shelf {
  _members = new Map<string, AnyFeed>();
  #names = 0;
  #leaving = new Set<string>();
  #exchange: Exchange;
  declare readonly _settlements: Settlements;
  declare readonly _report: (error: Error) => void;
  #onUnauthorized: () => boolean;

  /** `onUnauthorized`: the token is not good any more; true when a fresh one is on its way. */
  constructor(
    exchange: Exchange,
    settlements: Settlements,
    onUnauthorized: () => boolean,
    report: (error: Error) => void,
  ) {
    this._report = report;
    this.#exchange = exchange;
    this._settlements = settlements;
    this.#onUnauthorized = onUnauthorized;
  }

  _now(): number {
    return this.#exchange._runtime.now();
  }

  _subscriptions(): AnySubscription[] {
    return [...this._members.values()].filter((member): member is AnySubscription => member instanceof Subscription);
  }

  /** Open it, now or once there is a connection, and again after each reconnect. */
  _add(member: AnyFeed): void {
    member._name = `s${++this.#names}`;
    this._members.set(member._name, member);
    this._subscribe(member);
  }

  /** There is a connection, or a right, that was not there before. */
  _restore(): void {
    for (const member of this._members.values()) this._subscribe(member);
  }

  /** Ask for it, if it is to be asked for. */
  _subscribe(member: AnyFeed): void {
    const { _connected, _leaving, _resuming } = this.#exchange;
    const name = member._name;
    if (!_connected || _leaving || _resuming || member._phase !== "opening" || member._subscribing) return;
    if (member._stalled || this._members.get(name) !== member) return;
    member._subscribing = true;
    this.#exchange._request(
      (ref) => ({ op: "subscribe", ref, topic: member.topic, sub: name, ...member._ask() }),
      (frame) => {
        member._subscribing = false;
        if (this._members.get(name) !== member) {
          if (frame?.op === "ok") this.#leave(name); // given up while the request was under way
        } else if (frame?.op === "ok") {
          member._granted(frame);
          // Whether it was paused, resumed or put to rest meanwhile was told to nobody.
          this._setFlow(member, frame);
        } else if (frame) {
          this.#refused(member, frame);
        }
      },
    );
  }

  #refused(member: AnyFeed, frame: ErrorOp): void {
    const { code, message } = frame;
    if (code === "unauthorized" && this.#onUnauthorized()) return; // restored with the fresh token
    if (this.#exchange._again(frame, () => this._subscribe(member))) return;
    // The gateway's message ends with its epoch (PROTOCOL.md §3).
    const details = code === "epoch_changed" ? { epoch: message.split(" ").pop() } : {};
    this.#end(member, new PushwireError(code, message, details));
  }

  // --- in between

  /** A push. */
  _deliver(op: MessagesOp): void {
    const member = this._members.get(op.sub);
    if (member) {
      member._deliver(op);
      if (member instanceof Tail && member._overflows()) this.#stall(member);
    } else if (!this.#leaving.has(op.sub)) {
      // Not ours any more, and the gateway does not know: give back what came, and say so.
      for (const { lease } of op.messages) if (lease) this._settlements._add("release", lease);
      this.#leave(op.sub);
    }
  }

  _gap(op: GapOp): void {
    (this._members.get(op.sub) as AnyTail | undefined)?._lostRange?.(op); // no subscription has gaps
  }

  /** Nobody reads it: no more of it until somebody has. Taken up again by another name: some may still be coming. */
  #stall(tail: AnyTail): void {
    this._members.delete(tail._name);
    this.#leave(tail._name);
    tail._stalled = true;
    tail._void();
    this._add(tail);
  }

  /** Tell the gateway the window that this subscription wants now, unless it is the one it has just `granted`. */
  _setFlow(member: AnyFeed, granted?: Ok): void {
    if (!(member instanceof Subscription) || member._away || member._subscribing || !this.#exchange._connected) return;
    const prefetch = member._window();
    // Before it is granted the subscribe says it.
    if (member._phase === "opening" || member._phase === "ended" || granted?.prefetch === prefetch) return;
    this.#exchange._request(
      (ref) => ({ op: "flow", ref, sub: member._name, prefetch }),
      (frame) => void this.#exchange._again(frame, () => this._setFlow(member)),
    );
  }

  // --- end

  /** The connection is gone, and every lease with it; or, with `hold`, they may be reclaimed. */
  _lost(hold: boolean): void {
    this.#leaving.clear();
    for (const member of this._members.values()) {
      if (hold) member._hold();
      else member._void();
    }
  }

  /** Over, by the user. */
  _remove(member: AnyFeed): void {
    const known = member._phase !== "opening" && this._members.get(member._name) === member;
    this.#end(member);
    if (known && this.#exchange._connected) this.#leave(member._name);
  }

  #end(member: AnyFeed, error?: PushwireError): void {
    this._members.delete(member._name);
    member._end(error);
  }

  _endAll(error?: PushwireError): void {
    for (const member of this._members.values()) this.#end(member, error);
  }

  /** Give up every subscription at the gateway, so that what is held goes back at once. */
  _abandon(): void {
    for (const { _phase, _name } of this._subscriptions()) if (_phase !== "opening") this._unsubscribe(_name, true);
  }

  /** The gateway ended this subscription; its leases are gone. */
  _trouble(frame: ErrorOp): void {
    const member = this._members.get(frame.sub!);
    if (!member) return;
    member._void();
    this.#refused(member, frame);
  }

  /** `last`: after the settlements that it would make stale. */
  _unsubscribe(sub: string, last: boolean): void {
    this.#exchange._request(
      (ref) => ({ op: "unsubscribe", ref, sub }),
      (frame) => {
        if (!this.#exchange._again(frame, () => this._unsubscribe(sub, last))) this.#leaving.delete(sub);
      },
      last,
    );
  }

  #leave(name: string): void {
    this.#leaving.add(name);
    this._unsubscribe(name, true);
  }
}
