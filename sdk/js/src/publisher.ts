/**
 * Messages on their way to a receipt: sent, held back, sent again with the same ids. Owns every publish between the call
 * and its receipt, error or deadline, and the bound on how many there are. No I/O.
 */

import { delayMs } from "./backoff.js";
import type { Backoff } from "./backoff.js";
import { utf8Bytes } from "./codec.js";
import { maybeStored } from "./codes.js";
import { PushwireError } from "./errors.js";
import type { Exchange, Waiter } from "./exchange.js";
import type { ErrorOp, Ok, PublishOp, Receipt } from "./frames.js";

/** Between two tries of one publish, where the gateway names no time. */
const RETRY: Backoff = { baseMs: 500, capMs: 10_000 };
/** What an operation has around its messages: the longest topic, the ref, brackets. */
const HEAD_BYTES = 512;
/** What v1 allows at most, where a gateway does not say. */
const FRAME_BYTES_MAX = 1024 * 1024 + 16 * 1024;

/** One publish under way. */
export interface Outgoing {
  topic: string;
  /** Its messages as JSON text. */
  fields: string;
  count: number;
  deadline: number;
  waiter: Waiter<Receipt[]>;
  /** Sent on this connection and not answered. */
  ref?: number | undefined;
  retryAt?: number;
  attempts?: number;
  /** A try of it may have been stored. */
  maybe?: boolean;
  failure?: string;
}

/** All publishes of one client. */
export class Publisher {
  _limits: Record<string, number> = {};
  private _entries = new Set<Outgoing>();
  private _messages = 0;

  constructor(
    private _exchange: Exchange,
    private _messagesMax: number,
    /** The token is not good any more: true when a fresh one is on its way. */
    private _onUnauthorized: () => boolean,
  ) {}

  /** Nothing is under way. */
  _quiet(): boolean {
    return !this._entries.size;
  }

  _add(entry: Outgoing): void {
    if (this._messages + entry.count > this._messagesMax) {
      const why = `${this._messages} messages wait for their receipts already`;
      entry.waiter.reject(new PushwireError("buffer_full", why, { retryable: true, stored: "no" }));
      return;
    }
    this._entries.add(entry);
    this._messages += entry.count;
    this._exchange._wake();
  }

  /** What is to be sent now. */
  _take(now: number): PublishOp[] {
    const ops: PublishOp[] = [];
    for (const entry of this._entries) {
      if (entry.ref !== undefined || (entry.retryAt ?? 0) > now) continue;
      const { topic, fields } = entry;
      if (this._tooLarge(fields)) {
        this._fail(entry, new PushwireError("message_too_large", "larger than a frame may be", { stored: "no" }));
        continue;
      }
      const ref = this._exchange._expect((frame) => this._answered(entry, frame));
      entry.ref = ref;
      ops.push({ op: "publish", ref, topic, fields });
    }
    return ops;
  }

  private _tooLarge(fields: string): boolean {
    const room = (this._limits.frame_bytes_max ?? FRAME_BYTES_MAX) - HEAD_BYTES;
    return fields.length * 3 > room && utf8Bytes(fields) > room;
  }

  private _answered(entry: Outgoing, frame: Ok | ErrorOp | null): void {
    entry.ref = undefined;
    if (!this._entries.has(entry)) return; // given up
    if (!frame) {
      entry.maybe = true;
      entry.failure = "the connection was lost before the answer";
    } else if (frame.op === "ok") {
      this._remove(entry);
      entry.waiter.resolve(frame.receipts ?? []);
    } else if (frame.code === "unauthorized" && this._onUnauthorized()) {
      entry.failure = frame.message;
    } else if (frame.retryable) {
      entry.maybe ||= maybeStored(frame.code);
      entry.failure = `${frame.code}: ${frame.message}`;
      const { now, random } = this._exchange._runtime;
      const wait = RETRY.baseMs + delayMs(RETRY, (entry.attempts = (entry.attempts ?? 0) + 1), random);
      entry.retryAt = now() + (frame.retry_after_ms ?? wait);
      this._exchange._wake();
    } else {
      const stored = entry.maybe || maybeStored(frame.code) ? "maybe" : "no";
      this._fail(entry, new PushwireError(frame.code, frame.message, { stored }));
    }
  }

  /** The caller does not wait any more. What was sent may be stored. */
  _giveUp(entry: Outgoing, error: Error): void {
    this._fail(entry, error);
  }

  private _fail(entry: Outgoing, error: Error): void {
    this._remove(entry);
    entry.waiter.reject(error);
  }

  private _remove(entry: Outgoing): void {
    if (this._entries.delete(entry)) this._messages -= entry.count;
  }

  /** Whose time is over fails. */
  _tick(now: number): void {
    for (const entry of this._entries) if (entry.deadline <= now) this._fail(entry, this._timeout(entry));
  }

  private _timeout(entry: Outgoing): PushwireError {
    const stored = entry.maybe || entry.ref !== undefined ? "maybe" : "no";
    const why = entry.failure ? `; the last try: ${entry.failure}` : "";
    return new PushwireError("timeout", `no receipt in time${why}`, { retryable: true, stored });
  }

  /** When something is due; `sending`: whether what is ready to be sent can be. */
  _dueAt(now: number): number {
    let soonest = Infinity;
    for (const { deadline, retryAt, ref } of this._entries) {
      soonest = Math.min(soonest, deadline, ref === undefined && retryAt && retryAt > now ? retryAt : Infinity);
    }
    return soonest;
  }

  /** Nothing can be sent any more. */
  _failAll(error: PushwireError): void {
    for (const entry of this._entries) {
      const stored = entry.maybe || entry.ref !== undefined ? "maybe" : "no";
      this._fail(entry, new PushwireError(error.code, error.message, { stored }));
    }
  }
}
