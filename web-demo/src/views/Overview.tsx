/** The gateway at a glance, once a second: rates, levels, latencies. */

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { useLoad } from "../hooks.js";
import { bytes, count, duration, many, rate } from "../lib/format.js";
import { between, histogramsIn, percentile, total } from "../lib/histogram.js";
import type { Buckets, Histogram } from "../lib/histogram.js";
import { columns, pushedLately } from "../lib/series.js";
import type { Series } from "../lib/series.js";
import { Chart } from "../parts/Chart.js";
import type { Line } from "../parts/Chart.js";
import { Loading, Notice, Trouble } from "../parts/Notice.js";
import { Tiles } from "../parts/Tiles.js";
import type { Tile } from "../parts/Tiles.js";
import { useSession } from "../session.js";

const RATE_LINES: Line[] = [
  { label: "published", color: 1 },
  { label: "delivered", color: 2 },
  { label: "acked", color: 3 },
  { label: "redelivered", color: 4 },
  { label: "refused", color: 5 },
];
const LEVEL_LINES: Line[] = [
  { label: "ready", color: 1 },
  { label: "in flight", color: 2 },
  { label: "delayed", color: 3 },
  { label: "dead", color: 4 },
];
/** Between two looks at the gateway's metrics. */
const METRICS_MS = 5000;

function useSeries(): { series: Series; error: unknown } {
  const { stats } = useSession();
  const [, setTurn] = useState(0);
  useEffect(() => stats.watch(() => setTurn((turn) => turn + 1)), [stats]);
  return { series: stats.series, error: stats.error };
}

export function Overview() {
  const { series, error } = useSeries();
  const rates = useMemo(() => columns(series.samples, "rates"), [series]);
  const levels = useMemo(() => columns(series.samples, "levels"), [series]);
  return (
    <>
      <h1>Overview</h1>
      <Trouble error={error} right="admin on all topics" />
      {error !== undefined && (
        <Notice>What your token allows is in the other views: publish, follow a tail, or work in a group.</Notice>
      )}
      {series.last ? (
        <>
          <Tiles tiles={levelTiles(series)} />
          <div class="charts">
            <Chart title="Messages per second" lines={RATE_LINES} data={rates} />
            <Chart title="Messages by state" lines={LEVEL_LINES} data={levels} />
          </div>
          <Latency series={series} />
        </>
      ) : (
        error === undefined && <Loading />
      )}
    </>
  );
}

function levelTiles({ last }: Series): Tile[] {
  if (!last) return [];
  return [
    { label: "Ready", value: count(last.ready ?? 0), note: "in memory, next to be pushed" },
    { label: "In flight", value: count(last.in_flight), note: "under a lease" },
    { label: "Delayed", value: count(last.scheduled), note: "their time has not come" },
    { label: "Dead letters", value: count(last.dead_letters), tone: last.dead_letters ? "bad" : undefined,
      note: last.dead_letters ? <a href="#/dead">look at them</a> : "none" },
    { label: "Kept", value: count(last.messages), note: `${bytes(last.bytes)} in ${many(last.topics, "topic")}` },
    { label: "Connections", value: count(last.connections),
      note: `${many(last.subscriptions, "member")}, ${many(last.tails, "tail")}` },
  ]; // prettier-ignore
}

/** Percentiles of what was pushed lately, and what the writer does. */
function Latency({ series }: { series: Series }) {
  const { api } = useSession();
  const kept = useRef<Map<string, Histogram> | undefined>(undefined);
  const { data, error } = useLoad(
    "metrics",
    async (signal) => {
      const now = histogramsIn(await api.text("/metrics", signal));
      const before = kept.current;
      kept.current = now;
      const lately = (name: string): Histogram => {
        const [old, one] = [before?.get(name), now.get(name)];
        const buckets = one ? between(old?.buckets, one.buckets) : [];
        return { buckets, sum: (one?.sum ?? 0) - (old && total(buckets) < total(one?.buckets ?? []) ? old.sum : 0) };
      };
      return {
        rows: lately("pushwire_store_batch_size"),
        commit: lately("pushwire_store_transaction_duration_seconds"),
      };
    },
    METRICS_MS,
  );
  const push = pushedLately(series);
  const tiles: Tile[] = [
    { label: "Push latency", value: ms(push, 0.5), note: `p95 ${ms(push, 0.95)} · p99 ${ms(push, 0.99)}` },
  ];
  if (data) {
    const batches = total(data.rows.buckets);
    const commits = { ...data.commit, buckets: data.commit.buckets.map(([s, n]) => [s * 1000, n] as const) };
    tiles.push(
      { label: "Commit latency", value: ms(commits.buckets, 0.5), note: `p99 ${ms(commits.buckets, 0.99)}` },
      { label: "Commit batch", value: batches ? rate(data.rows.sum / batches) : "–", note: `messages and settlements; ${many(batches, "commit")} lately` },
    );
  }
  return (
    <section aria-label="Latency">
      <h2>Latency</h2>
      <Tiles tiles={tiles} />
      <p class="dim">
        Push latency: from the moment a message was taken to its push, commit included, of the newest message of each push
        in the last minute. {!!error && !data && "Numbers of the writer are for administrators of the whole gateway."}
      </p>
    </section>
  );
}

function ms(buckets: Buckets, share: number): string {
  const value = percentile(buckets, share);
  return value === undefined ? "–" : duration(value);
}
