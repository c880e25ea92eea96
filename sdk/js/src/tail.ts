/**
 * One tail: what has come, what was lost, and where to go on after a reconnect. Owns the local queue and its bound. A
 * reader that falls behind costs no memory and loses nothing: the tail is left, and taken up again once there is room.
 */

import { wireStart } from "./codec.js";
import type { Start } from "./codec.js";
import type { PushwireError } from "./errors.js";
import { Feed } from "./feed.js";
import type { Keeper } from "./feed.js";
import type { ClientOp, GapOp, MessagesOp, Ok } from "./frames.js";
import { TailMessage } from "./message.js";

/** Messages of one tail that were received and not read; what one operation brings may come on top. */
const TAIL_MESSAGES_MAX = 1024;

/** A place in a topic: everything up to `seq` was read. Give it to `tail` as `after` to go on from there. */
export interface Position {
  epoch: string;
  seq: number;
}

/** Messages `from` to `to`, both included, were dropped by retention before this tail could read them. */
export interface Gap {
  from: number;
  to: number;
}

/** Where and how to follow. */
export interface TailOptions {
  /** Where to begin; default "new". */
  from?: Start;
  /** Go on after this position instead. */
  after?: Position;
  /** Called with what is lost, in its place between the messages. */
  onGap?: (gap: Gap) => void;
  /** With a handler: how many may run at a time; default 1. */
  concurrency?: number;
  /** Aborted, the tail is closed. */
  signal?: AbortSignal;
}

/** What a tail tells. */
export interface TailEvents {
  /** Messages are lost to this tail: nobody can read them any more. Comes in its place between the messages. */
  gap: Gap;
  /** A handler has thrown. */
  handlerError: { error: Error; message: TailMessage };
}

/** Of whatever bodies. @internal */
export type AnyTail = Tail<any>;

/** What it needs of the client. @internal */
export interface Shelf extends Keeper {
  /** There is room again in a tail that was left. */
  _refill(tail: AnyTail): void;
  _report(error: Error): void;
}

/** Every message of one topic, without a group and without leases. */
export class Tail<T = unknown> extends Feed<TailMessage<T>, TailEvents> {
  /** Left for want of room. @internal */
  _stalled = false;
  private _entries: (TailMessage<T> | Gap)[] = [];
  private _epoch: string | undefined;
  private _seq = 0; // everything up to here is in the queue, or was
  private _read = 0; // everything up to here was handed out

  /** @internal */
  constructor(
    topic: string,
    private _shelf: Shelf,
    private _options: TailOptions,
    handler?: (message: TailMessage<T>) => unknown,
  ) {
    super(topic, _shelf, _options, handler);
    this._epoch = _options.after?.epoch;
    this._seq = this._read = _options.after?.seq ?? 0;
    if (_options.onGap) this.on("gap", _options.onGap);
  }

  /** After what was handed out last; undefined before the first grant. */
  get position(): Position | undefined {
    return this._epoch === undefined ? undefined : { epoch: this._epoch, seq: this._read };
  }

  /** @internal */
  override _subscribeOp(ref: number): ClientOp {
    const begin =
      this._epoch === undefined
        ? { from: wireStart(this._options.from) }
        : { epoch: this._epoch, after_seq: this._seq };
    return { op: "subscribe", ref, topic: this.topic, tail: true, sub: this._name, ...begin };
  }

  /** @internal */
  override _accept(ok: Ok): void {
    if (ok.seq !== undefined) this._stands(ok.epoch, ok.seq);
  }

  private _stands(epoch: string | undefined, seq: number): void {
    if (this._epoch !== undefined || epoch === undefined) return;
    this._epoch = epoch;
    this._seq = this._read = seq;
  }

  /** New messages. Of those that were shown before nothing is kept. @internal */
  _show({ messages, epoch }: MessagesOp): void {
    if (this._phase !== "active") return;
    this._stands(epoch, messages[0]!.seq - 1);
    for (const row of messages) {
      if (row.seq > this._seq) {
        this._seq = row.seq;
        this._entries.push(new TailMessage<T>(row));
      }
    }
    this._pump();
  }

  /** What is lost, as far as it was not known. @internal */
  _lostRange({ from, to }: GapOp): void {
    if (this._phase !== "active" || to <= this._seq) return;
    this._entries.push({ from: Math.max(from, this._seq + 1), to });
    this._seq = to;
    this._pump();
  }

  /** Whether it has to be left for now. @internal */
  _overflows(): boolean {
    return this._phase === "active" && this._entries.length > TAIL_MESSAGES_MAX;
  }

  /** It was left. `name`: what it is called from now on, for messages of the old one may still come. @internal */
  _stall(name: string): void {
    this._name = name;
    this._phase = "opening";
    this._stalled = true;
  }

  /** Tells the gaps that are next, then whether a message is. */
  protected override _ready(): boolean {
    for (let next = this._entries[0]; next && !(next instanceof TailMessage); next = this._entries[0]) {
      this._entries.shift();
      this._read = next.to;
      this._emit("gap", next);
    }
    return this._entries.length > 0;
  }

  /** @internal */
  override _take(): TailMessage<T> {
    const message = this._entries.shift() as TailMessage<T>;
    this._read = message.seq;
    if (this._stalled && this._entries.length <= TAIL_MESSAGES_MAX / 2) {
      this._stalled = false;
      this._shelf._refill(this);
    }
    return message;
  }

  /** @internal */
  override _handled(message: TailMessage<T>, error: Error | undefined): void {
    if (error && !this._emit("handlerError", { error, message })) this._shelf._report(error);
  }

  /** What has come is as good as it was. @internal */
  override _void(): void {
    if (this._phase === "active") this._phase = "opening";
  }

  /** @internal */
  override _hold(): void {
    this._void();
  }

  /** Nothing new; what has come is still handed out. @internal */
  override _drain(): void {
    if (this._phase !== "ended") this._phase = "draining";
    this._pump();
  }

  /** @internal */
  override _cleared(error: PushwireError | undefined): void {
    if (!error) this._entries = [];
  }
}
