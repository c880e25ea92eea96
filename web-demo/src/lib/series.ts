/**
 * The overview's numbers over time: from the totals of each second to rates and levels. Pure. Memory is bounded by
 * SAMPLES_MAX; a hole in time (a hidden tab, a lost connection) stays a hole, no rate is made up for it.
 */

import { between, bucketsOf } from "./histogram.js";
import type { Buckets } from "./histogram.js";
import type { Stats } from "./types.js";

/** Seconds that are kept: what the charts show. */
export const SAMPLES_MAX = 300;
/** Two samples further apart are no neighbours (ms). */
export const GAP_MS = 3500;

export const RATES = ["published", "delivered", "acked", "redelivered", "refused"] as const;
export const LEVELS = ["ready", "in_flight", "scheduled", "dead_letters"] as const;
export type RateName = (typeof RATES)[number];
export type LevelName = (typeof LEVELS)[number];
type Row<N extends string> = Record<N, number | null>;

export interface Sample {
  at_ms: number;
  rates: Row<RateName>;
  levels: Row<LevelName>;
}

export interface Series {
  last: Stats | undefined;
  samples: Sample[];
  /** The histograms of pushes of the last PUSHES_MS, oldest first: percentiles are of what came between two. */
  pushes: { at_ms: number; buckets: Buckets }[];
}

export const EMPTY: Series = { last: undefined, samples: [], pushes: [] };
/** How far back percentiles look (ms). */
export const PUSHES_MS = 60_000;

/** One more second. Older or repeated ones change nothing; totals that went back are those of a restarted gateway. */
export function added(series: Series, stats: Stats): Series {
  const { last } = series;
  if (last && stats.at_ms <= last.at_ms) return series;
  const near = last && stats.at_ms - last.at_ms <= GAP_MS ? last : undefined;
  const hole = last && !near ? [emptyAt(last.at_ms + 1000)] : [];
  const sample = { at_ms: stats.at_ms, rates: ratesBetween(near, stats), levels: levelsOf(stats) };
  return {
    last: stats,
    samples: [...series.samples, ...hole, sample].slice(-SAMPLES_MAX),
    pushes: withPushes(series.pushes, stats),
  };
}

function withPushes(pushes: Series["pushes"], { at_ms, push_ms }: Stats): Series["pushes"] {
  if (!push_ms) return pushes;
  return [...pushes.filter((one) => one.at_ms >= at_ms - PUSHES_MS), { at_ms, buckets: bucketsOf(push_ms) }];
}

/** How long messages took to be pushed, of those pushed in the last PUSHES_MS. */
export function pushedLately({ pushes }: Series): Buckets {
  const [first, last] = [pushes[0], pushes.at(-1)];
  return first && last ? between(first === last ? undefined : first.buckets, last.buckets) : [];
}

function ratesBetween(from: Stats | undefined, to: Stats): Row<RateName> {
  const rates = blank(RATES);
  if (!from) return rates;
  for (const name of RATES) {
    const [old, now] = [from[name], to[name]];
    if (old === undefined || now === undefined || now < old) continue;
    rates[name] = ((now - old) * 1000) / (to.at_ms - from.at_ms);
  }
  return rates;
}

function levelsOf(stats: Stats): Row<LevelName> {
  const levels = blank(LEVELS);
  for (const name of LEVELS) levels[name] = stats[name] ?? null;
  return levels;
}

const emptyAt = (at_ms: number): Sample => ({ at_ms, rates: blank(RATES), levels: blank(LEVELS) });

function blank<N extends string>(names: readonly N[]): Row<N> {
  return Object.fromEntries(names.map((name) => [name, null])) as Row<N>;
}

/** Seconds that a chart shows at least, however few samples there are. */
export const SPAN_S = 60;

/** What a chart shows of these times (seconds). Of a single one the plot itself would make a range that begins in 1970. */
export function spanOf(times: readonly (number | null)[] | undefined): [number, number] {
  const [first, last] = [times?.[0] ?? 0, times?.at(-1) ?? 0];
  return [Math.min(first, last - SPAN_S), last];
}

/** Columns as a chart takes them: seconds, then one column a name. */
export function columns(samples: readonly Sample[], kind: "rates" | "levels"): (number | null)[][] {
  const names: readonly string[] = kind === "rates" ? RATES : LEVELS;
  const row = (sample: Sample) => sample[kind] as Record<string, number | null>;
  return [samples.map((one) => one.at_ms / 1000), ...names.map((name) => samples.map((one) => row(one)[name] ?? null))];
}
