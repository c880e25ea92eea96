/**
 * A message in the hands of user code: what it carries, and the verbs that end its lease. Owns the life of one lease as
 * the user sees it: held, settled or lost. Sends nothing.
 */

import { bodyOf, DELAY_MS_MAX } from "./codec.js";
import { leaseLost, PushwireError } from "./errors.js";
import type { Row, Verb } from "./frames.js";
import type { How } from "./settlements.js";

/** What every message shows, whether delivered or tailed. */
export class Content<T = unknown> {
  /** The message's id: what to be idempotent by. */
  declare readonly id: string;
  declare readonly topic: string;
  /** Position in the topic. */
  declare readonly seq: number;
  /** 0 (lowest) to 3. */
  declare readonly priority: number;
  /** Ordering key, if it has one. */
  declare readonly key: string | undefined;
  declare readonly headers: Readonly<Record<string, string>>;
  declare readonly contentType: string | undefined;
  /** When the gateway took it: ms since 1970, its clock. */
  declare readonly publishedAtMs: number;
  /** It was a dead letter and has been put back. */
  declare readonly redriven: boolean;
  /** How the body travelled: decides whether `data` is a JSON value, a string or a Uint8Array. */
  declare readonly encoding: "json" | "text" | "binary";
  #row: Row | undefined;
  #body: unknown;

  /** @internal */
  constructor(row: Row) {
    ({
      id: this.id,
      topic: this.topic,
      seq: this.seq,
      priority: this.priority,
      key: this.key,
      content_type: this.contentType,
      published_at_ms: this.publishedAtMs,
    } = row);
    this.headers = row.headers ?? {};
    this.redriven = !!row.redriven;
    this.encoding = row.data_text != null ? "text" : row.data_b64 != null ? "binary" : "json";
    this.#row = row;
  }

  /** The body: a JSON value, a string, or bytes. */
  get data(): T {
    if (this.#row) this.#body = bodyOf(this.#row);
    this.#row = undefined;
    return this.#body as T;
  }
}

/** What a tail shows: to be read, not to be settled. */
export class TailMessage<T = unknown> extends Content<T> {
  /** When groups will be given it, where it was scheduled (ms since 1970). */
  declare readonly dueAtMs: number | undefined;

  /** @internal */
  constructor(row: Row) {
    super(row);
    this.dueAtMs = row.due_ms;
  }
}

/**
 * What a message needs of the subscription that holds its lease.
 * @internal
 */
export interface Holder {
  _settle(message: Message, verb: Verb, ...how: How): void;
  _extend(message: Message): true;
  _now(): number;
}

/**
 * One delivery of one message. Settle it once, before its lease runs out.
 *
 * The verbs return at once and leave, together with the others of the same turn of the event loop, in one message. They
 * answer `false`, and do nothing, when the lease is gone: the connection was lost, the tab was frozen, or its time ran
 * out. The message will then be delivered again, to this client or another. A second verb is a mistake and throws
 * `already_settled`.
 */
export class Message<T = unknown> extends Content<T> {
  /** 1 for the first delivery to this group. */
  declare readonly attempt: number;
  /** Opaque; for logs. */
  declare readonly lease: string;
  /** @internal */
  declare _expiresAt: number;
  #settled = false;
  #abort: AbortController | undefined;
  #holder: Holder;

  /** @internal */
  constructor(holder: Holder, row: Row) {
    super(row);
    this.#holder = holder;
    this.attempt = row.attempt!;
    this.lease = row.lease!;
    this._expiresAt = holder._now() + row.expires_in_ms!;
  }

  /** It was delivered before. */
  get redelivered(): boolean {
    return this.attempt > 1;
  }

  /** How long the lease still lasts (milliseconds). */
  get expiresInMs(): number {
    return Math.max(0, this._expiresAt - this.#holder._now());
  }

  /** A verb has ended the lease. */
  get settled(): boolean {
    return this.#settled;
  }

  /** The lease is gone without a verb. By the clock too, as timers are late where a page was blocked. */
  get lost(): boolean {
    return !this.#settled && !this.expiresInMs;
  }

  /** Aborted once the lease is lost: give it to `fetch`, or look at it in a long handler. Made on first use. */
  get signal(): AbortSignal {
    this.#abort ??= new AbortController();
    if (this.lost) this.#abort.abort(leaseLost());
    return this.#abort.signal;
  }

  /** Done: never deliver this again. Not confirmed: a crash of the gateway may swallow it, and deliver once more. */
  ack(): boolean {
    return this.#end("ack");
  }

  /** As `ack`; resolves after the gateway committed it, rejects with `lease_lost` when that is not so or not known. */
  ackConfirmed(): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!this.#end("ack", undefined, undefined, { resolve, reject })) reject(leaseLost());
    });
  }

  /** Failed: deliver it again after the gateway's back-off, or after `delayMs` (at most 15 minutes). */
  nack({ delayMs, error }: { delayMs?: number | undefined; error?: string | undefined } = {}): boolean {
    return this.#end("nack", delayMs && Math.round(Math.min(Math.max(delayMs, 0), DELAY_MS_MAX)), error);
  }

  /** It can never succeed: to the dead letters, with `error` as the reason. */
  reject(error?: string): boolean {
    return this.#end("reject", undefined, error);
  }

  /** Give it back unworked: no failure is counted, and this client does not get it again for a second. */
  release(): boolean {
    return this.#end("release");
  }

  /** Hold it for one more ack timeout from now. */
  extend(): boolean {
    return this.#held() && this.#holder._extend(this);
  }

  #held(): boolean {
    if (this.#settled) throw new PushwireError("already_settled", `message ${this.seq} was settled before`);
    return !this.lost;
  }

  #end(verb: Verb, ...how: How): boolean {
    if (!this.#held()) return false;
    this.#settled = true;
    this.#holder._settle(this, verb, ...how);
    return true;
  }

  /**
   * The lease is gone, for a reason other than a verb.
   * @internal
   */
  _lose(): void {
    this._expiresAt = -Infinity;
    this.#abort?.abort(leaseLost());
  }
}
