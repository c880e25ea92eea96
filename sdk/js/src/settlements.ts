/**
 * Settlements on their way: gathered over one turn of the event loop, sent as lists, confirmed where asked. Owns every
 * lease between a verb and its operation, and the confirmations under way. No I/O, no clock.
 */

import { LEASES_PER_OP_MAX } from "./codec.js";
import { PushwireError } from "./errors.js";
import type { Exchange, Waiter } from "./exchange.js";
import type { ErrorOp, Ok, SettleOp, Verb } from "./frames.js";

/**
 * Settlements remembered after they were sent, for a session that may be resumed: what a fast consumer says in about a
 * second. One that is forgotten means one delivery more.
 */
const SENT_LEASES_MAX = 4096;

/** What is to be said of some leases. */
interface Batch {
  op: Verb;
  delay_ms: number | undefined;
  error: string | undefined;
  /** Who waits for which lease, if anybody does. */
  leases: Map<string, Waiter | undefined>;
}

/** @internal */
export const leaseLost = (): PushwireError =>
  new PushwireError("lease_lost", "the lease is gone before it was settled: the message may be delivered again");

/** All settlements of one client. */
export class Settlements {
  /** Whether what was sent may have to be said again: the session may be resumed. */
  _remembers = false;
  /** Drains under way: while there are any, every settlement is confirmed. */
  _confirming = 0;
  private _batches = new Map<string, Batch>();
  private _awaited = 0; // operations sent with a ref and not answered
  private _unsure = new Map<string, Waiter>(); // sent, and the connection was lost before the answer
  private _sent = new Map<string, Batch>();

  constructor(
    private _exchange: Exchange,
    /** The gateway says that this lease is none any more. */
    private _onStale: (lease: string) => void,
  ) {}

  _add(op: Verb, lease: string, delayMs?: number, error?: string, waiter?: Waiter): void {
    const key = `${op}|${waiter ? "!" : ""}|${delayMs}|${error}`;
    let batch = this._batches.get(key);
    if (!batch) this._batches.set(key, (batch = { op, delay_ms: delayMs, error, leases: new Map() }));
    batch.leases.set(lease, waiter);
    this._exchange._wake();
  }

  /** Everything gathered, as operations. */
  _take(): SettleOp[] {
    const ops: SettleOp[] = [];
    for (const batch of this._batches.values()) {
      const entries = [...batch.leases];
      while (entries.length) ops.push(this._say(batch, entries.splice(0, LEASES_PER_OP_MAX)));
    }
    this._batches.clear();
    return ops;
  }

  private _say(batch: Batch, entries: [string, Waiter | undefined][]): SettleOp {
    const { op, delay_ms, error } = batch;
    const leases = entries.map(([lease]) => lease);
    const confirm = op === "extend" || this._confirming > 0 || entries[0]![1];
    if (this._remembers && op !== "extend" && op !== "release") {
      for (const lease of leases) this._sent.set(lease, batch);
      for (const lease of this._sent.keys()) {
        if (this._sent.size <= SENT_LEASES_MAX) break;
        this._sent.delete(lease);
      }
    }
    if (!confirm) return { op, leases, delay_ms, error };
    this._awaited++;
    const ref = this._exchange._expect((frame) => {
      this._awaited--;
      for (const [lease, waiter] of entries) this._answered(op, lease, waiter, frame);
    });
    return { op, ref, leases, delay_ms, error };
  }

  private _answered(op: Verb, lease: string, waiter: Waiter | undefined, frame: Ok | ErrorOp | null): void {
    if (!frame) {
      if (waiter) this._unsure.set(lease, waiter);
    } else if (frame.op === "ok" || (frame.leases && !frame.leases.includes(lease))) {
      waiter?.resolve();
    } else {
      waiter?.reject(frame.code === "stale_lease" ? leaseLost() : new PushwireError(frame.code, frame.message));
      if (op === "extend" && frame.code === "stale_lease") this._onStale(lease);
    }
  }

  /** Nothing gathered, nothing unconfirmed that was to be confirmed. */
  _quiet(): boolean {
    return !this._batches.size && !this._awaited && !this._unsure.size;
  }

  /**
   * The session was taken over and still holds these leases, which no message holds here: what was said of them did not
   * arrive and is said again; those that never arrived here are given back.
   */
  _resumed(unknown: string[]): void {
    const gathered = [...this._batches.values()];
    for (const lease of unknown) {
      if (gathered.some((batch) => batch.op !== "extend" && batch.leases.has(lease))) continue;
      const said = this._sent.get(lease);
      const waiter = this._unsure.get(lease);
      this._unsure.delete(lease);
      this._add(said?.op ?? "release", lease, said?.delay_ms, said?.error, waiter);
    }
    // Gone at the gateway: most likely by our ack, but a lease that ran out looks the same.
    this._reject();
    this._sent.clear();
  }

  private _reject(): void {
    for (const waiter of this._unsure.values()) waiter.reject(leaseLost());
    this._unsure.clear();
  }

  /** The connection is gone, and every lease with it. How many settlements were not even sent. */
  _void(): number {
    let unsent = 0;
    for (const { op, leases } of this._batches.values()) {
      if (op !== "extend") unsent += leases.size;
      for (const waiter of leases.values()) waiter?.reject(leaseLost());
    }
    this._batches.clear();
    this._reject();
    this._sent.clear();
    return unsent;
  }
}
