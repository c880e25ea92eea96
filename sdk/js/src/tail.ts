/**
 * One tail: what has come, what was lost, and where to go on after a reconnect. Owns the local queue and its bound. A
 * reader that falls behind costs no memory and loses nothing: the tail is left, and taken up again once there is room.
 */

import { wireStart } from "./codec.js";
import type { Start } from "./codec.js";
import type { PushwireError } from "./errors.js";
import { Feed } from "./feed.js";
import type { Keeper } from "./feed.js";
import type { GapOp, MessagesOp, SubscribeOp } from "./frames.js";
import { TailMessage } from "./message.js";

/** Messages of one tail that were received and not read; what one operation brings may come on top. */
const QUEUE_MAX = 1024;

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
  from?: Start | undefined;
  /** Go on after this position instead. */
  after?: Position | undefined;
  /** With a handler: how many may run at a time; default 1. */
  concurrency?: number | undefined;
  /** Aborted, the tail is closed. */
  signal?: AbortSignal | undefined;
}

/** Of whatever bodies. */
export type AnyTail = Tail<any>;

/** What it needs of the client. */
export interface Shelf extends Keeper {
  /** There is room again in a tail that was left. */
  _subscribe(tail: AnyTail): void;
}

/** Every message of one topic, without a group and without leases. Listen to "gap" to learn what is lost to it. */
export class Tail<T = unknown> extends Feed<TailMessage<T>> {
  #queue: (TailMessage<T> | Gap)[] = [];
  #shelf: Shelf;
  #from: Start | undefined;
  #epoch: string | undefined;
  #seq: number; // everything up to here is in the queue, or was
  #read: number; // everything up to here was handed out

  /** @internal */
  constructor(topic: string, shelf: Shelf, options: TailOptions, handler?: (message: TailMessage<T>) => unknown) {
    super(topic, shelf, options, handler);
    this.#shelf = shelf;
    this.#from = options.from;
    this.#epoch = options.after?.epoch;
    this.#seq = this.#read = options.after?.seq ?? 0;
  }

  /** After what was handed out last; undefined before the first grant. */
  get position(): Position | undefined {
    return this.#epoch ? { epoch: this.#epoch, seq: this.#read } : undefined;
  }

  /** @internal */
  override _ask(): Partial<SubscribeOp> {
    return this.#epoch
      ? { tail: true, epoch: this.#epoch, after_seq: this.#seq }
      : { tail: true, from: wireStart(this.#from) };
  }

  /** Where it stands, as far as that is not known. @internal */
  override _accept({ epoch, seq }: { epoch?: string | undefined; seq?: number | undefined }): void {
    if (this.#epoch || !epoch) return;
    this.#epoch = epoch;
    this.#seq = this.#read = seq!;
  }

  /** New messages. Of those that were shown before nothing is kept. @internal */
  override _deliver({ messages, epoch }: MessagesOp): void {
    if (this._phase !== "active") return;
    this._accept({ epoch, seq: messages[0]!.seq - 1 });
    for (const row of messages) {
      if (row.seq <= this.#seq) continue;
      this.#seq = row.seq;
      this.#queue.push(new TailMessage<T>(row));
    }
    this._pump();
  }

  /** What is lost, as far as it was not known. @internal */
  _lostRange({ from, to }: GapOp): void {
    if (this._phase !== "active" || to <= this.#seq) return;
    this.#queue.push({ from: Math.max(from, this.#seq + 1), to });
    this.#seq = to;
    this._pump();
  }

  /** Whether it has to be left for now. @internal */
  _overflows(): boolean {
    return this._phase === "active" && this.#queue.length > QUEUE_MAX;
  }

  /** Tells the gaps that are next, then whether a message is. @internal */
  override _has(): boolean {
    let next;
    while ((next = this.#queue[0]) && !(next instanceof TailMessage)) {
      this.#queue.shift();
      this.#read = next.to;
      this._emit("gap", next);
    }
    return !!next;
  }

  /** @internal */
  override _next(): TailMessage<T> {
    const message = this.#queue.shift() as TailMessage<T>;
    this.#read = message.seq;
    if (this._stalled && this.#queue.length <= QUEUE_MAX / 2) {
      this._stalled = false;
      this.#shelf._subscribe(this);
    }
    return message;
  }

  /** @internal */
  override _handled(_message: TailMessage<T>, error: Error | undefined): boolean {
    return !!error;
  }

  /** What came before an error is still handed out. @internal */
  override _end(error?: PushwireError): void {
    if (!error) this.#queue = [];
    super._end(error);
  }
}
