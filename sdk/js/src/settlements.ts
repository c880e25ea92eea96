/**
 * Settlements on their way: gathered over one turn of the event loop, sent as lists, confirmed where asked. Owns every
 * lease between a verb and its operation, and the confirmations under way. No I/O, no clock.
 */

import { ERROR_TEXT_MAX, PER_OP_MAX } from "./codec.js";
import { leaseLost } from "./errors.js";
import type { Exchange, Waiter } from "./exchange.js";
import type { ClientOp, ErrorOp, Ok, Verb } from "./frames.js";

/**
 * Settlements remembered after they were sent, for a session that may be resumed: what a fast consumer says in about a
 * second. One that is forgotten means one delivery more.
 */
const SENT_MAX = 4096;

/** What goes with a verb; the waiter hears of its confirmation. */
export type How = [delayMs?: number | undefined, error?: string | undefined, waiter?: Waiter | undefined];

/** What is to be said of some leases. */
export interface Batch {
  op: Verb;
  delay_ms: number | undefined;
  error: string | undefined;
  /** Who waits for which lease, if anybody does. */
  leases: Map<string, Waiter | undefined>;
}

/** All settlements of one client. */
export class Settlements {
  /** A drain is under way: every settlement is confirmed. */
  _confirming = false;
  _batches = new Map<string, Batch>();
  #awaited = 0; // operations sent with a ref and not answered
  _unsure = new Map<string, Waiter>(); // sent, and the connection was lost before the answer
  _sent = new Map<string, Batch>();
  #exchange: Exchange;
  #remembers: boolean;
  #onStale: (lease: string) => void;

  /** `remembers`: what was sent may have to be said again. `onStale`: what is to be extended is not held any more. */
  constructor(exchange: Exchange, remembers: boolean, onStale: (lease: string) => void) {
    this.#exchange = exchange;
    this.#remembers = remembers;
    this.#onStale = onStale;
  }

  _add(op: Verb, lease: string, ...[delay_ms, text, waiter]: How): void {
    const error = text?.slice(0, ERROR_TEXT_MAX);
    const key = [op, !waiter, delay_ms, error].join();
    let batch = this._batches.get(key);
    if (!batch) this._batches.set(key, (batch = { op, delay_ms, error, leases: new Map() }));
    batch.leases.set(lease, waiter);
    this.#exchange._wake();
  }

  /** Everything gathered, as operations. */
  _take(): ClientOp[] {
    const ops: ClientOp[] = [];
    for (const batch of this._batches.values()) {
      const entries = [...batch.leases];
      while (entries.length) ops.push(this.#say(batch, entries.splice(0, PER_OP_MAX)));
    }
    this._batches.clear();
    return ops;
  }

  #say(batch: Batch, entries: [string, Waiter | undefined][]): ClientOp {
    const { op, delay_ms, error } = batch;
    const leases = entries.map(([lease]) => lease);
    if (this.#remembers && op !== "extend") for (const lease of leases) this._sent.set(lease, batch);
    for (const lease of this._sent.keys()) if (this._sent.size > SENT_MAX) this._sent.delete(lease);
    if (op !== "extend" && !this._confirming && !entries[0]![1]) return { op, leases, delay_ms, error };
    this.#awaited++;
    const ref = this.#exchange._expect((frame) => {
      this.#awaited--;
      for (const [lease, waiter] of entries) this.#answered(op, lease, waiter, frame);
    });
    return { op, ref, leases, delay_ms, error };
  }

  #answered(op: Verb, lease: string, waiter: Waiter | undefined, frame: Ok | ErrorOp | undefined): void {
    if (!frame) {
      if (waiter) this._unsure.set(lease, waiter);
    } else if (frame.op === "ok" || frame.leases?.includes(lease) === false) {
      waiter?.resolve();
    } else {
      waiter?.reject(leaseLost());
      if (op === "extend" && frame.leases) this.#onStale(lease);
    }
  }

  /** Nothing gathered, nothing unconfirmed that was to be confirmed. */
  _quiet(): boolean {
    return !(this._batches.size + this.#awaited + this._unsure.size);
  }

  /** Whatever was sent and not answered has no effect that could still be learned of. */
  _forget(): void {
    for (const waiter of this._unsure.values()) waiter.reject(leaseLost());
    this._unsure.clear();
    this._sent.clear();
  }

  /** The connection is gone, and every lease with it. How many settlements were not even sent. */
  _void(): number {
    let unsent = 0;
    for (const { op, leases } of this._batches.values()) {
      if (op !== "extend") unsent += leases.size;
      for (const waiter of leases.values()) waiter?.reject(leaseLost());
    }
    this._batches.clear();
    this._forget();
    return unsent;
  }
}
