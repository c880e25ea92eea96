/**
 * This tab as a worker: what it holds and what became of what it held. Pure state; the view owns the SDK's messages and
 * asks them, through `Held`, how their leases stand.
 */

/** As much of the SDK's `Message` as is looked at. */
export interface Held {
  readonly lease: string;
  readonly seq: number;
  readonly expiresInMs: number;
  readonly settled: boolean;
  readonly lost: boolean;
}

export type Outcome = "acked" | "nacked" | "rejected" | "released" | "lost";

export interface Ended {
  seq: number;
  attempt: number;
  outcome: Outcome;
  atMs: number;
}

/** Ended leases that are shown. */
export const ENDED_MAX = 50;

export interface Bench<M extends Held & { attempt: number }> {
  held: M[];
  /** Newest first. */
  ended: Ended[];
  counts: Record<Outcome, number>;
}

export const bench = <M extends Held & { attempt: number }>(): Bench<M> => ({
  held: [], ended: [], counts: { acked: 0, nacked: 0, rejected: 0, released: 0, lost: 0 },
}); // prettier-ignore

export const arrived = <M extends Held & { attempt: number }>(state: Bench<M>, message: M): Bench<M> => ({
  ...state,
  held: [...state.held, message],
});

/** A lease that was held has ended; any other changes nothing. */
export function ended<M extends Held & { attempt: number }>(
  state: Bench<M>,
  message: M,
  outcome: Outcome,
  atMs: number,
): Bench<M> {
  if (!state.held.includes(message)) return state;
  const { seq, attempt } = message;
  return {
    held: state.held.filter((one) => one !== message),
    ended: [{ seq, attempt, outcome, atMs }, ...state.ended].slice(0, ENDED_MAX),
    counts: { ...state.counts, [outcome]: state.counts[outcome] + 1 },
  };
}

/** What was taken for acked was not: its lease had run out, or the connection was lost before the gateway said so. */
export function denied<M extends Held & { attempt: number }>(state: Bench<M>, message: M): Bench<M> {
  const { seq, attempt } = message;
  const at = state.ended.findIndex((one) => one.seq === seq && one.attempt === attempt && one.outcome === "acked");
  const { acked, lost } = state.counts;
  return {
    ...state,
    ended: state.ended.map((one, index) => (index === at ? { ...one, outcome: "lost" } : one)),
    counts: { ...state.counts, acked: acked - 1, lost: lost + 1 },
  };
}

/** Leases that ran out, or went with their connection. The same state when there are none. */
export function swept<M extends Held & { attempt: number }>(state: Bench<M>, nowMs: number): Bench<M> {
  return state.held.filter((one) => one.lost).reduce((rest, one) => ended(rest, one, "lost", nowMs), state);
}

/** Whether a verb can still end it: a page that stood still may be told late that the time is up. */
export const endable = (message: Held): boolean => !message.lost && !message.settled && message.expiresInMs > 0;

/** How much of a lease is left, 0 to 1. */
export const shareLeft = (message: Held, ackTimeoutMs: number): number =>
  Math.min(1, Math.max(0, message.expiresInMs / Math.max(1, ackTimeoutMs)));
