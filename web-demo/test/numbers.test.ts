/** What is shown of numbers and times: formatting, rates over seconds, percentiles. */

import { describe, expect, it } from "vitest";
import * as format from "../src/lib/format.js";
import { between, histogramsIn, percentile } from "../src/lib/histogram.js";
import { added, columns, EMPTY, GAP_MS, pushedLately, SAMPLES_MAX, SPAN_S, spanOf } from "../src/lib/series.js";
import { sorted, turned } from "../src/lib/sort.js";
import type { Stats } from "../src/lib/types.js";

const stats = (at_ms: number, more: Partial<Stats> = {}): Stats => ({
  at_ms, topics: 1, groups: 1, messages: 0, bytes: 0, scheduled: 0, dead_letters: 0, connections: 1, sessions: 1,
  subscriptions: 0, tails: 1, in_flight: 0, published: 0, refused: 0, delivered: 0, acked: 0, nacked: 0, rejected: 0,
  released: 0, stale: 0, ...more,
});

describe("format", () => {
  it.each([
    [0, "0 ms"], [0.84, "0.8 ms"], [850, "850 ms"], [1500, "1.5 s"], [60_000, "1 min"], [125_000, "2 min 5 s"],
    [12_000_000, "3 h 20 min"], [183_600_000, "2 d 3 h"], [-1500, "-1.5 s"],
  ])("duration %d is %s", (ms, text) => expect(format.duration(ms)).toBe(text));

  it.each([[0, "0 B"], [1023, "1023 B"], [1536, "1.5 KiB"], [157_286_400, "150 MiB"]])("%d bytes are %s", (value, text) =>
    expect(format.bytes(value)).toBe(text));

  it.each([[null, "–"], [NaN, "–"], [0, "0"], [0.44, "0.4"], [12, "12"], [1234.6, "1,235"]])("rate %s is %s", (value, text) =>
    expect(format.rate(value)).toBe(text));

  it("tells past from future", () => {
    expect(format.ago(1000, 64_500)).toBe("1 min 3 s ago");
    expect(format.ago(64_500, 1000)).toBe("in 1 min 4 s");
    expect(format.ago(1000, 1400)).toBe("now");
  });

  it("shows a body as text, whatever it is", () => {
    expect(format.preview({ data: { a: "<b>\n x" } }, 8)).toBe('{"a":"<…');
    expect(format.bodyText({ data: null })).toBe("null");
    expect(format.bodyText({ data_text: "<script>" })).toBe("<script>");
    expect(format.bodied(new Uint8Array([0, 1, 2]), "binary")).toEqual({ data_b64: "AAEC" });
    expect(format.encodingOf(format.bodied("x", "json"))).toBe("json");
  });

  it("shows what would turn the text round, and in JSON means the same by it", () => {
    const data = { a: "\u202eevil\u2066" };
    expect(format.plain("pay\u202e001\u202c")).toBe("pay\\u202e001\\u202c");
    expect(format.bodyText({ data_text: "\u202ex" })).toBe("\\u202ex");
    expect([format.bodyText({ data }), format.preview({ data })].map((text) => JSON.parse(text) as unknown)).toEqual([data, data]);
    expect(format.preview({ data })).not.toMatch(/[\u202a-\u202e\u2066-\u2069]/);
  });

  it("does not lay out what would become a hundred times as large by its indents", () => {
    const [deep, wide] = ["[".repeat(95), "1,".repeat(500_000)];
    const data: unknown = JSON.parse(`${deep}${wide}1${"]".repeat(95)}`);
    expect(format.bodyText({ data }).length).toBe(95 + 1_000_001 + 95);
    expect(format.bodyText({ data: { a: [1] } })).toBe('{\n  "a": [\n    1\n  ]\n}');
  });
});

describe("series", () => {
  it("makes rates of totals", () => {
    const series = added(added(EMPTY, stats(1000, { published: 10 })), stats(3000, { published: 30, redelivered: 1 }));
    expect(series.samples.map(({ rates }) => rates.published)).toEqual([null, 10]);
    expect(series.samples[1]?.rates.redelivered).toBeNull(); // the sample before did not say
  });

  it("makes nothing up for a hole, a restart or a repeated sample", () => {
    const first = added(EMPTY, stats(1000, { published: 10 }));
    const later = added(first, stats(1000 + GAP_MS + 1, { published: 500 }));
    expect(later.samples.map(({ rates }) => rates.published)).toEqual([null, null, null]);
    const restarted = added(first, stats(2000, { published: 3 }));
    expect(restarted.samples.at(-1)?.rates.published).toBeNull();
    expect(added(first, stats(1000))).toBe(first);
  });

  it("shows a minute at least, which ends now", () => {
    expect(spanOf([5000])).toEqual([5000 - SPAN_S, 5000]);
    expect(spanOf([5000, 5001])).toEqual([5001 - SPAN_S, 5001]);
    expect(spanOf([5000, 5200])).toEqual([5000, 5200]);
  });

  it("is bounded, and columns line up", () => {
    let series = EMPTY;
    for (let at = 1; at <= SAMPLES_MAX + 50; at++) series = added(series, stats(at * 1000, { in_flight: at, push_ms: [[null, at]] }));
    expect(series.samples).toHaveLength(SAMPLES_MAX);
    expect(series.pushes).toHaveLength(61);
    expect(pushedLately(series)).toEqual([[Infinity, 60]]);
    const [seconds, ready, inFlight] = columns(series.samples, "levels");
    expect([seconds?.[0], ready?.[0], inFlight?.[0]]).toEqual([51, null, 51]);
  });
});

describe("histograms", () => {
  const text = [
    "# HELP pushwire_store_batch_size Messages", "# TYPE pushwire_store_batch_size histogram",
    'pushwire_store_batch_size_bucket{le="1"} 4.0', 'pushwire_store_batch_size_bucket{le="10"} 8.0',
    'pushwire_store_batch_size_bucket{le="+Inf"} 10.0', "pushwire_store_batch_size_count 10.0",
    "pushwire_store_batch_size_sum 61.0", 'other_bucket{le="1",topic="t"} 3', "pushwire_connections 3.0",
  ].join("\n");

  it("are read from an exposition", () => {
    expect([...histogramsIn(text)]).toEqual([
      ["pushwire_store_batch_size", { buckets: [[1, 4], [10, 8], [Infinity, 10]], sum: 61 }],
    ]);
  });

  it("are subtracted, unless the gateway was started anew", () => {
    expect(between([[1, 2], [Infinity, 2]], [[1, 5], [Infinity, 7]])).toEqual([[1, 3], [Infinity, 5]]);
    expect(between([[1, 9], [Infinity, 9]], [[1, 5], [Infinity, 7]])).toEqual([[1, 5], [Infinity, 7]]);
    expect(between(undefined, [[1, 5]])).toEqual([[1, 5]]);
  });

  it("give percentiles", () => {
    const buckets = [[1, 50], [2, 90], [10, 99], [Infinity, 100]] as const;
    expect(percentile(buckets, 0.5)).toBe(1);
    expect(percentile(buckets, 0.7)).toBe(1.5);
    expect(percentile(buckets, 0.99)).toBe(10);
    expect(percentile(buckets, 1)).toBe(10); // above every bound: at least the last
    expect(percentile([[1, 0], [Infinity, 0]], 0.5)).toBeUndefined();
    expect(percentile([], 0.5)).toBeUndefined();
  });
});

describe("sort", () => {
  const rows = [{ n: "t10", v: 1 }, { n: "t9", v: undefined }, { n: "t1", v: 3 }];
  const value = (row: (typeof rows)[number], by: string) => (by === "n" ? row.n : row.v);

  it("takes numbers in names as numbers, and what is missing as least", () => {
    expect(sorted(rows, { by: "n", down: false }, value).map(({ n }) => n)).toEqual(["t1", "t9", "t10"]);
    expect(sorted(rows, { by: "v", down: true }, value).map(({ n }) => n)).toEqual(["t1", "t10", "t9"]);
    expect(rows[0]?.n).toBe("t10");
  });

  it("turns round at a second click, and starts numbers with the largest", () => {
    expect(turned({ by: "n", down: false }, "v", true)).toEqual({ by: "v", down: true });
    expect(turned({ by: "v", down: true }, "v", true)).toEqual({ by: "v", down: false });
  });
});
