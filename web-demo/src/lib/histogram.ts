/** Histograms by cumulative counts: from Prometheus text or `$sys.stats` to percentiles of what lies between two. Pure. */

/** Upper bound (Infinity for the last) and how many were at most that. */
export type Buckets = readonly (readonly [number, number])[];

export interface Histogram {
  buckets: Buckets;
  sum: number;
}

const LINE = /^(\w+?)_(bucket|sum)(?:\{le="([^"]+)"\})? ([\d.eE+-]+|NaN|\+Inf)$/;

/** The unlabelled histograms in an exposition, by name. */
export function histogramsIn(text: string): Map<string, Histogram> {
  const found = new Map<string, { buckets: [number, number][]; sum: number }>();
  for (const line of text.split("\n")) {
    const [, name, kind, bound, value] = LINE.exec(line) ?? [];
    if (!name || value === undefined || (kind === "bucket") !== (bound !== undefined)) continue;
    let one = found.get(name);
    if (!one) found.set(name, (one = { buckets: [], sum: 0 }));
    if (kind === "sum") one.sum = Number(value);
    else one.buckets.push([bound === "+Inf" ? Infinity : Number(bound), Number(value)]);
  }
  return found as Map<string, Histogram>;
}

/** The buckets of `$sys.stats`, whose last bound is null. */
export const bucketsOf = (pairs: readonly (readonly [number | null, number])[]): Buckets =>
  pairs.map(([bound, value]) => [bound ?? Infinity, value] as const);

/** What was counted between two looks; the second alone where the first is of another life of the gateway. */
export function between(from: Buckets | undefined, to: Buckets): Buckets {
  if (!from || from.length !== to.length || total(from) > total(to)) return to;
  return to.map(([bound, value], at) => [bound, value - (from[at]?.[1] ?? 0)] as const);
}

export const total = (buckets: Buckets): number => buckets.at(-1)?.[1] ?? 0;

/** The value below which this share lies, linear within its bucket; undefined when nothing was counted. */
export function percentile(buckets: Buckets, share: number): number | undefined {
  const all = total(buckets);
  if (all <= 0) return undefined;
  let [low, below] = [0, 0];
  for (const [bound, upTo] of buckets) {
    if (upTo >= all * share) {
      if (!Number.isFinite(bound)) return low; // above every bound: at least this
      return low + ((bound - low) * (all * share - below)) / Math.max(upTo - below, 1e-9);
    }
    [low, below] = [bound, upTo];
  }
  return low;
}
