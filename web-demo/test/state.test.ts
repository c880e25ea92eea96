/** What the views keep: worker's leases, tail, timeline, badges, the publish form, rounds of a redrive. */

import { describe, expect, it } from "vitest";
import { BLANK, checked, nameError, spanOf } from "../src/lib/draft.js";
import { groupState, topicState } from "../src/lib/health.js";
import * as leases from "../src/lib/leases.js";
import { rounds } from "../src/lib/rounds.js";
import type { Answer } from "../src/lib/rounds.js";
import * as tail from "../src/lib/tailbuffer.js";
import { stepsOf } from "../src/lib/timeline.js";
import type { GroupInfo, MessageInfo, TopicInfo } from "../src/lib/types.js";

const row = (seq: number, body = "", key?: string): tail.TailRow => ({
  seq, id: `m-${seq}`, key, priority: 1, atMs: 0, encoding: "text", body,
});

describe("a worker's leases", () => {
  const held = (seq: number, lost = false) => ({ lease: `l${seq}`, seq, attempt: 1, expiresInMs: 5000, settled: false, lost });

  it("are counted as they end, once", () => {
    const [one, two] = [held(1), held(2)];
    let state = leases.arrived(leases.arrived(leases.bench<typeof one>(), one), two);
    state = leases.ended(state, one, "acked", 7);
    expect(leases.ended(state, one, "nacked", 8)).toBe(state);
    expect(state.held).toEqual([two]);
    expect(state.counts).toMatchObject({ acked: 1, nacked: 0 });
    expect(state.ended).toEqual([{ seq: 1, attempt: 1, outcome: "acked", atMs: 7 }]);
  });

  it("are swept out when they are lost, and only then", () => {
    const state = leases.arrived(leases.arrived(leases.bench<ReturnType<typeof held>>(), held(1, true)), held(2));
    const after = leases.swept(state, 9);
    expect([after.held.map(({ seq }) => seq), after.counts.lost]).toEqual([[2], 1]);
    expect(leases.swept(after, 10)).toBe(after);
  });

  it("are lost, not acked, where the gateway does not confirm it", () => {
    const [one, two] = [held(1), held(2)];
    let state = [one, two].reduce(leases.arrived<typeof one>, leases.bench<typeof one>());
    state = leases.ended(leases.ended(state, one, "acked", 7), two, "acked", 8);
    state = leases.denied(state, one);
    expect(state.ended.map(({ seq, outcome }) => [seq, outcome])).toEqual([[2, "acked"], [1, "lost"]]);
    expect(state.counts).toMatchObject({ acked: 1, lost: 1 });
  });

  it("can be ended while they last, also where nobody has noticed yet that they do not", () => {
    const cases = [held(1), held(1, true), { ...held(1), expiresInMs: 0 }, { ...held(1), settled: true }];
    expect(cases.map(leases.endable)).toEqual([true, false, false, false]);
  });

  it("show what is left of them", () => {
    expect(leases.shareLeft(held(1), 10_000)).toBe(0.5);
    expect(leases.shareLeft(held(1), 1000)).toBe(1);
  });
});

describe("a live tail", () => {
  it("holds back what comes while it is paused, bounded, and says what passed by", () => {
    let buffer = tail.paused(tail.received(tail.EMPTY, [row(1)]));
    buffer = tail.received(buffer, Array.from({ length: tail.ROWS_MAX + 5 }, (_, at) => row(at + 2)));
    expect([buffer.rows.length, buffer.held.length, buffer.dropped]).toEqual([1, tail.ROWS_MAX, 5]);
    buffer = tail.resumed(buffer);
    expect(buffer.rows.at(-1)?.seq).toBe(tail.ROWS_MAX + 6);
    expect(buffer.rows).toHaveLength(tail.ROWS_MAX);
    expect(tail.cleared(buffer)).toEqual(tail.EMPTY);
  });

  it("keeps as many rows as their bodies allow, and the newest always", () => {
    const third = "x".repeat(tail.CHARS_MAX / 3);
    const seqs = (buffer: tail.TailBuffer) => buffer.rows.map(({ seq }) => seq);
    expect(seqs(tail.received(tail.EMPTY, [1, 2, 3, 4, 5].map((seq) => row(seq, third))))).toEqual([3, 4, 5]);
    expect(seqs(tail.received(tail.EMPTY, [row(1), row(2, "x".repeat(tail.CHARS_MAX + 1))]))).toEqual([2]);
    expect(tail.received(tail.paused(tail.EMPTY), [1, 2, 3, 4, 5].map((seq) => row(seq, third))).dropped).toBe(2);
  });

  it("is not flooded while nothing is drawn, and counts what passed by", () => {
    const arrivals = new tail.Arrivals();
    for (let seq = 1; seq <= 100_000; seq++) arrivals.add(row(seq));
    const [rows, passed] = arrivals.take();
    expect(rows.length).toBeLessThan(2 * tail.ROWS_MAX);
    expect([rows.length + passed, rows.at(-1)?.seq]).toEqual([100_000, 100_000]);
    const buffer = tail.received(tail.EMPTY, rows, passed);
    expect([buffer.seen, buffer.rows.length, arrivals.take()]).toEqual([100_000, tail.ROWS_MAX, [[], 0]]);
    const large = "x".repeat(tail.CHARS_MAX / 4);
    for (let seq = 1; seq <= 100; seq++) arrivals.add(row(seq, large));
    expect(arrivals.take()[0].length).toBeLessThan(9);
  });

  it("draws the newest alone while they rush, and all again after", () => {
    const many = Array.from({ length: tail.RUSH_ROWS + 1 }, (_, at) => row(at + 1));
    let buffer = tail.received(tail.EMPTY, many);
    const drawn = tail.shown(buffer, "").map(({ seq }) => seq);
    expect([drawn.length, drawn[0], drawn.at(-1)]).toEqual([tail.RUSH_ROWS, tail.RUSH_ROWS + 1, 2]);
    buffer = tail.received(buffer, []);
    expect(tail.shown(buffer, "")).toHaveLength(many.length);
    expect(tail.received(buffer, [])).toBe(buffer);
    expect(tail.shown(tail.paused(tail.received(buffer, many)), "")).toHaveLength(2 * many.length);
  });

  it("is filtered by words and fields, newest first", () => {
    const buffer = tail.received(tail.EMPTY, [row(1, "red", "ann"), row(2, "red fox", "bob"), row(3, "blue", "ann")]);
    const seqs = (filter: string) => tail.shown(buffer, filter).map(({ seq }) => seq);
    expect([seqs(""), seqs("RED"), seqs("red fox"), seqs("key:ann"), seqs("key:ann red"), seqs("seq:3"), seqs("id:m-2")]).toEqual(
      [[3, 2, 1], [2, 1], [2], [3, 1], [1], [3], [2]]);
  });
});

describe("the life of a message", () => {
  const message = { seq: 3, id: "m", priority: 1, published_at_ms: 100, size_bytes: 1, key: "k" } as MessageInfo;
  const event = { group: "g", subject: "ann", attempt: 1, detail: null };

  it("begins with its publish, and tells the time between steps", () => {
    const events = [{ ...event, at_ms: 150, event: "delivered" }, { ...event, at_ms: 450, event: "acked" }];
    const steps = stepsOf({ seq: 3, ledger: "full", events }, message);
    expect(steps.map(({ title, afterMs, tone }) => [title, afterMs, tone])).toEqual([
      ["Published", undefined, "plain"], ["Delivered", 50, "plain"], ["Acked", 300, "good"],
    ]);
    expect(steps[1]?.notes).toEqual(["ann", "attempt 1"]);
  });

  it("shows an event that it does not know by its name", () => {
    const events = [{ ...event, at_ms: 1, event: "archived", detail: "<b>" }];
    expect(stepsOf({ seq: 3, ledger: "full", events }, undefined)).toMatchObject([{ title: "archived", notes: ["ann", "attempt 1", "<b>"] }]);
    expect(stepsOf(undefined, undefined)).toEqual([]);
  });
});

describe("badges", () => {
  const config = { retain_ms: 0 } as TopicInfo["config"];
  const topic = { group_count: 1, member_count: 0, messages: 3, scheduled: 1, last_seq: 9, config } as TopicInfo;
  const retaining = { ...topic, config: { ...config, retain_ms: 1000 } };
  const group = { paused: false, member_count: 0, in_flight: 0, ready: 0, start_seq: 0 } as GroupInfo;

  it("say that messages wait for nobody, where that is known", () => {
    expect(topicState(topic)).toBe("stuck");
    expect(topicState({ ...topic, scheduled: 3 })).toBe("fine");
    expect(topicState({ ...topic, member_count: 1 })).toBe("fine");
    expect(topicState({ ...topic, group_count: 0 })).toBe("fine");
    expect([topicState(retaining), topicState({ ...retaining, messages: 1 })]).toEqual(["unattended", "fine"]);
  });

  it("tell the state of a group", () => {
    expect(groupState(group, topic)).toBe("stuck");
    expect(groupState({ ...group, paused: true }, topic)).toBe("paused");
    expect(groupState({ ...group, start_seq: 9 }, topic)).toBe("unattended");
    expect(groupState(group, retaining)).toBe("unattended");
    expect(groupState({ ...group, member_count: 1, in_flight: 1 }, topic)).toBe("busy");
    expect(groupState({ ...group, member_count: 1 }, topic)).toBe("idle");
  });
});

describe("the publish form", () => {
  it("gives what the SDK takes", () => {
    const form = { ...BLANK, body: '{"a":1}', key: "k", priority: "3", delay: "1.5s", ttl: "2h", headers: "a: b:c\n\nd:" };
    expect(checked(form).draft).toEqual({
      data: { a: 1 },
      options: { id: undefined, key: "k", priority: 3, delayMs: 1500, ttlMs: 7_200_000, headers: { a: "b:c", d: "" }, text: undefined },
    });
    expect(checked({ ...BLANK, encoding: "text", body: "" }).draft).toMatchObject({ data: "", options: { text: true } });
    expect(checked({ ...BLANK, body: "null" }).draft?.data).toBeNull();
  });

  it("takes any header for a header", () => {
    const headers = checked({ ...BLANK, headers: "__proto__: a\nconstructor: b" }).draft?.options.headers;
    expect(JSON.stringify(headers)).toBe('{"__proto__":"a","constructor":"b"}');
  });

  it("says at each field what is wrong", () => {
    const form = { ...BLANK, body: "{", id: "a b", key: "ü".repeat(128), priority: "4", delay: "soon", ttl: "0", headers: "no" };
    expect(Object.keys(checked(form).errors ?? {}).toSorted()).toEqual(["body", "delay", "headers", "id", "key", "priority", "ttl"]);
    expect(checked({ ...BLANK, body: " " }).errors?.body).toMatch(/needed/);
  });

  it("reads spans of time", () => {
    expect([spanOf("90"), spanOf("500ms"), spanOf("5 min"), spanOf("1d"), spanOf("")]).toEqual([90_000, 500, 300_000, 86_400_000, undefined]);
    expect(() => spanOf("367d")).toThrow(/366/);
  });

  it("knows names", () => {
    expect([nameError("a.b:c-1_"), nameError("..") === undefined, nameError("") === undefined, nameError("a/b") === undefined]).toEqual(
      [undefined, false, false, false]);
  });
});

describe("a redrive of all", () => {
  const answer = (more: Partial<Answer>): Answer => ({ redriven: 2, more: false, after_id: 7, before_ms: 99, ...more });

  it("goes on as the answers say", async () => {
    const asked: object[] = [];
    const answers = [answer({ more: true }), answer({ after_id: 9 })];
    const said = await rounds("redrive", { match: { reason: "failures" } }, async (body) => (asked.push(body), answers.shift()!));
    expect(said).toBe("4 put back.");
    expect(asked).toEqual([
      { match: { reason: "failures" } },
      { match: { reason: "failures", after_id: 7 }, before_ms: 99 },
    ]);
  });

  it("asks again for the same ids, and stops where the gateway does", async () => {
    const asked: object[] = [];
    const answers = [answer({ more: true }), answer({ more: true, stopped: "topic_full" })];
    const said = await rounds("redrive", { ids: [1, 2] }, async (body) => (asked.push(body), answers.shift()!));
    expect(said).toContain("topic_full");
    expect(asked[1]).toEqual({ ids: [1, 2], before_ms: 99 });
  });
});
