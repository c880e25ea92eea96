/**
 * The subscriptions and tails of one client: opened, restored after a reconnect, slowed, left. Owns which exist and what
 * the gateway knows of each. No I/O.
 */

import { PushwireError } from "./errors.js";
import type { Exchange } from "./exchange.js";
import type { AnyFeed } from "./feed.js";
import type { ErrorOp, GapOp, MessagesOp, Ok } from "./frames.js";
import type { Settlements } from "./settlements.js";
import { Subscription } from "./subscription.js";
import type { AnySubscription } from "./subscription.js";
import { Tail } from "./tail.js";
import type { AnyTail } from "./tail.js";

/** All of them, by name. */
export class Roster {
  _members = new Map<string, AnyFeed>();
  private _names = 0;
  private _leaving = new Set<string>();

  constructor(
    private _exchange: Exchange,
    private _settlements: Settlements,
    /** The token is not good any more: true when a fresh one is on its way. */
    private _onUnauthorized: () => boolean,
  ) {}

  _subscriptions(): AnySubscription[] {
    return [...this._members.values()].filter((member): member is AnySubscription => member instanceof Subscription);
  }

  /** Open it, now or once there is a connection, and again after each reconnect. */
  _add(member: AnyFeed): void {
    member._name = this._newName();
    this._members.set(member._name, member);
    this._subscribe(member);
  }

  private _newName(): string {
    return `s${++this._names}`;
  }

  /** There is a connection, or a right, that was not there before. */
  _restore(): void {
    for (const member of this._members.values()) this._subscribe(member);
  }

  private _subscribe(member: AnyFeed): void {
    const { _connected, _leaving, _resuming } = this._exchange;
    if (!_connected || _leaving || _resuming || member._phase !== "opening" || member._subscribing) return;
    if ((member instanceof Tail && member._stalled) || !this._knows(member)) return;
    member._subscribing = true;
    const name = member._name;
    this._exchange._request(
      (ref) => member._subscribeOp(ref),
      (frame) => this._subscribed(member, name, frame),
    );
  }

  private _knows(member: AnyFeed): boolean {
    return this._members.get(member._name) === member;
  }

  private _subscribed(member: AnyFeed, name: string, frame: Ok | ErrorOp | null): void {
    member._subscribing = false;
    const wanted = this._members.get(name) === member;
    if (frame?.op === "ok") {
      if (!wanted) {
        this._leave(name); // given up while the request was under way
        return;
      }
      member._granted(frame);
      // What was paused, resumed, put to rest or drained meanwhile was told to nobody.
      if (member instanceof Subscription && (member._stopped() || frame.prefetch === 0)) this._setFlow(member);
    } else if (frame && wanted) {
      this._refused(member, frame, () => this._subscribe(member));
    }
  }

  private _refused(member: AnyFeed, frame: ErrorOp, again: () => void): void {
    if (frame.code === "unauthorized" && this._onUnauthorized()) return; // restored with the fresh token
    if (frame.retryable) this._exchange._retry(frame, again);
    else this._end(member, this._errorOf(frame));
  }

  private _errorOf({ code, message }: ErrorOp): PushwireError {
    // The gateway's message ends with its epoch (PROTOCOL.md §3).
    const epoch = code === "epoch_changed" ? { epoch: message.split(" ").at(-1) ?? "" } : {};
    return new PushwireError(code, message, epoch);
  }

  // --- in between

  /** A push. */
  _deliver(op: MessagesOp): void {
    const member = this._members.get(op.sub);
    if (member instanceof Subscription) {
      member._deliver(op);
    } else if (member instanceof Tail) {
      member._show(op);
      if (member._overflows()) this._stall(member);
    } else if (!this._leaving.has(op.sub)) {
      // Not ours any more, and the gateway does not know: give back what came, and say so.
      for (const { lease } of op.messages) if (lease !== undefined) this._settlements._add("release", lease);
      this._leave(op.sub);
    }
  }

  _gap(op: GapOp): void {
    const member = this._members.get(op.sub);
    if (member instanceof Tail) member._lostRange(op);
  }

  /** Nobody reads it: no more of it until somebody has. */
  private _stall(tail: AnyTail): void {
    this._members.delete(tail._name);
    this._leave(tail._name);
    tail._stall(this._newName());
    this._members.set(tail._name, tail);
  }

  _refill(tail: AnyTail): void {
    this._subscribe(tail);
  }

  /** Tell the gateway the window that this subscription wants now; before it is granted, the subscribe says it. */
  _setFlow(member: AnySubscription): void {
    const granted = (member._phase === "active" || member._phase === "draining") && !member._away;
    if (!this._exchange._connected || !granted || !this._members.has(member._name) || member._subscribing) return;
    this._exchange._request(
      (ref) => ({ op: "flow", ref, sub: member._name, prefetch: member._window() }),
      (frame) => {
        if (frame?.op === "error" && frame.retryable) this._exchange._retry(frame, () => this._setFlow(member));
      },
    );
  }

  /** The gateway says that this lease is none any more. */
  _stale(lease: string): void {
    for (const member of this._subscriptions()) member._lost(lease);
  }

  // --- end

  /** The connection is gone, and every lease with it; or, with `hold`, they may be reclaimed. */
  _lost(hold: boolean): void {
    this._leaving.clear();
    for (const member of this._members.values()) {
      if (hold) member._hold();
      else member._void();
    }
  }

  /** The session was taken over, with these leases by subscription. Call `_restore` after it. */
  _resumed(subs: Record<string, string[]>): void {
    let unknown: string[] = [];
    for (const name in subs) {
      const member = this._members.get(name);
      if (member instanceof Subscription && member._away) {
        unknown = unknown.concat(member._resumed(subs[name]!));
        this._setFlow(member);
      } else {
        // Left meanwhile, or granted while the connection died: forgotten before it is asked for again.
        this._unsubscribe(name, false);
      }
    }
    for (const member of this._subscriptions()) if (member._away) member._void();
    this._settlements._resumed(unknown);
  }

  /** Over, by the user. */
  _remove(member: AnyFeed): void {
    const tell = this._knows(member) && !member._subscribing && member._phase !== "opening";
    this._end(member);
    if (tell && this._exchange._connected) this._leave(member._name);
  }

  private _end(member: AnyFeed, error?: PushwireError): void {
    if (this._knows(member)) this._members.delete(member._name);
    member._end(error);
  }

  _endAll(error: PushwireError | undefined): void {
    for (const member of [...this._members.values()]) this._end(member, error);
  }

  /** Give up every subscription at the gateway, so that what is held goes back at once. */
  _abandon(): void {
    for (const member of this._subscriptions()) {
      if (member._phase !== "opening" && this._exchange._connected) this._unsubscribe(member._name, true);
    }
  }

  /** The gateway ended this subscription; its leases are gone. */
  _trouble(frame: ErrorOp): void {
    const member = this._members.get(frame.sub!);
    if (!member) return;
    member._void();
    this._refused(member, frame, () => this._subscribe(member));
  }

  private _unsubscribe(sub: string, last: boolean): void {
    this._exchange._request(
      (ref) => ({ op: "unsubscribe", ref, sub }),
      (frame) => {
        if (frame?.op === "error" && frame.retryable) this._exchange._retry(frame, () => this._unsubscribe(sub, last));
        else this._leaving.delete(sub);
      },
      last,
    );
  }

  private _leave(name: string): void {
    this._leaving.add(name);
    this._unsubscribe(name, true);
  }
}
