/**
 * Messages on their way to a receipt: sent, held back, sent again with the same ids. Owns every publish between the
 * call and its receipt, error or deadline, and the bound on how many there are. No I/O. Loaded with the first
 * connection, as a page that only consumes can do without.
 */

import { delayMs, hinted } from "./backoff.js";
import { PER_OP_MAX } from "./codec.js";
import { maybeStored } from "./codes.js";
import { messageFields, refuse } from "./draft.js";
import type { Draft, MessageOptions } from "./draft.js";
import { PushwireError } from "./errors.js";
import type { Exchange, Waiter } from "./exchange.js";
import type { ClientOp, ErrorOp, Ok, Receipt } from "./frames.js";
import { uuid7 } from "./uuid7.js";

/** Between two tries of one publish, where the gateway names no time. */
const RETRY = { baseMs: 1000, capMs: 10_000 };
/** What an operation has around its messages: the longest topic, the ref, brackets. */
const HEAD_BYTES = 512;

/** How to publish. */
export interface PublishOptions extends MessageOptions {
  /** How long to try; default that of the client. */
  timeoutMs?: number | undefined;
  /** Aborted, it is not waited for any more; what was sent may be stored all the same. */
  signal?: AbortSignal | undefined;
}

/** One publish under way. */
export interface Outgoing extends Waiter<Receipt[]> {
  topic: string;
  /** Its messages as JSON text. */
  fields: string;
  count: number;
  deadline: number;
  /** Sent on this connection and not answered. */
  sent?: boolean;
  retryAt?: number;
  attempts?: number;
  /** A try of it may have been stored. */
  maybe?: boolean;
}

/** Whether these are receipts for so many messages. What a gateway says of a publish is not to be guessed. */
const fits = (receipts: Receipt[] | undefined, count: number): receipts is Receipt[] =>
  Array.isArray(receipts) &&
  receipts.length === count &&
  receipts.every((receipt) => typeof receipt?.id === "string" && Number.isSafeInteger(receipt.seq));

/** All publishes of one client. */
export class Publisher {
  #entries = new Set<Outgoing>();
  #exchange: Exchange;
  #messagesMax: number;
  #onUnauthorized: () => boolean;

  /** `onUnauthorized`: the token is not good any more; true when a fresh one is on its way. */
  constructor(exchange: Exchange, messagesMax: number, onUnauthorized: () => boolean) {
    this.#exchange = exchange;
    this.#messagesMax = messagesMax;
    this.#onUnauthorized = onUnauthorized;
  }

  /** Publish these, all or none; `alone`: the one, as an operation of its own. */
  async _publish(
    topic: string,
    drafts: readonly Draft[],
    { timeoutMs, signal }: PublishOptions,
    alone: boolean,
  ): Promise<Receipt[]> {
    if (signal?.aborted) throw refuse("aborted", String(signal.reason));
    if (drafts.length > PER_OP_MAX) throw refuse("batch_too_large", `at most ${PER_OP_MAX} messages`);
    const parts = drafts.map((draft) => messageFields(draft.data, draft.id ?? uuid7(), draft));
    const fields = alone ? parts[0]! : `"messages":[${parts.map((part) => `{${part}}`)}]`;
    const deadline = this.#exchange._runtime.now() + timeoutMs!;
    let entry: Outgoing;
    const abort = () => this._fail(entry, "aborted", String(signal!.reason));
    signal?.addEventListener("abort", abort);
    return new Promise<Receipt[]>((resolve, reject) => {
      entry = { topic, fields, count: drafts.length, deadline, resolve, reject };
      this.#add(entry);
    }).finally(() => signal?.removeEventListener("abort", abort));
  }

  /** Nothing is under way. */
  _quiet(): boolean {
    return !this.#entries.size;
  }

  #add(entry: Outgoing): void {
    let { count } = entry;
    for (const other of this.#entries) count += other.count;
    this.#entries.add(entry);
    if (count > this.#messagesMax) this._fail(entry, "buffer_full", "too many messages wait for their receipts", true);
    this.#exchange._wake();
  }

  /** What is to be sent now. */
  _take(now: number, frameBytesMax: number): ClientOp[] {
    const ops: ClientOp[] = [];
    const room = frameBytesMax - HEAD_BYTES;
    for (const entry of this.#entries) {
      const { topic, fields, sent, retryAt = 0 } = entry;
      if (sent || retryAt > now) continue;
      if (fields.length * 3 > room && new TextEncoder().encode(fields).length > room) {
        this._fail(entry, "message_too_large", "larger than a frame may be");
      } else {
        entry.sent = true;
        ops.push({
          op: "publish",
          ref: this.#exchange._expect((frame) => this.#answered(entry, frame)),
          topic,
          fields,
        });
      }
    }
    return ops;
  }

  #answered(entry: Outgoing, frame: Ok | ErrorOp | undefined): void {
    entry.sent = false;
    if (!this.#entries.has(entry)) return; // given up
    if (frame?.op === "ok") {
      if (fits(frame.receipts, entry.count)) {
        this.#entries.delete(entry);
        return entry.resolve(frame.receipts);
      }
      entry.maybe = true;
      return this._fail(entry, "internal", "the gateway's receipts do not fit what was published", true);
    }
    entry.maybe ||= !frame || maybeStored(frame.code);
    // Sent again, once that is possible.
    if (!frame || (frame.code === "unauthorized" && this.#onUnauthorized())) return;
    if (!frame.retryable) return this._fail(entry, frame.code, frame.message);
    const { now, random } = this.#exchange._runtime;
    entry.attempts = (entry.attempts ?? -1) + 1;
    entry.retryAt = now() + hinted(frame.retry_after_ms, RETRY.baseMs / 2 + delayMs(RETRY, entry.attempts, random));
    this.#exchange._wake();
  }

  /** It fails. Whether a try of it may be stored all the same goes with the error. */
  _fail(entry: Outgoing, code: string, message: string, retryable = false): void {
    this.#entries.delete(entry);
    const stored = entry.maybe || entry.sent ? "maybe" : "no";
    entry.reject(new PushwireError(code, message, { retryable, stored }));
  }

  /** Whose time is over fails. */
  _tick(now: number): void {
    for (const entry of this.#entries) {
      if (entry.deadline <= now) this._fail(entry, "timeout", "no receipt in time", true);
    }
  }

  /** When `_tick` or `_take` has something to do. */
  _dueAt(now: number): number {
    let soonest = Infinity;
    for (const { deadline, retryAt = 0 } of this.#entries) {
      soonest = Math.min(soonest, deadline, retryAt > now ? retryAt : Infinity);
    }
    return soonest;
  }

  /** Nothing can be sent any more. */
  _failAll({ code, message }: PushwireError): void {
    for (const entry of this.#entries) this._fail(entry, code, message);
  }
}
