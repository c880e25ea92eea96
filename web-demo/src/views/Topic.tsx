/** One topic: its numbers, its groups, a form to publish, a look at what is kept. */

import { useState } from "preact/hooks";
import { useAction, useLoad } from "../hooks.js";
import { bytes, count, duration } from "../lib/format.js";
import { topicPath } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import type { TopicConfig, TopicDetail } from "../lib/types.js";
import { Confirm } from "../parts/Confirm.js";
import { Loading, Trouble } from "../parts/Notice.js";
import { Tiles } from "../parts/Tiles.js";
import { useSession } from "../session.js";
import { Groups } from "./Groups.js";
import { Peek } from "./Peek.js";
import { Publish } from "./Publish.js";

const EVERY_MS = 2000;

export function Topic({ topic }: { topic: string }) {
  const { api } = useSession();
  const { data, error, reload } = useLoad(
    `topic ${topic}`,
    (signal) => api.get<TopicDetail>(topicPath(topic), {}, signal),
    EVERY_MS,
  );
  return (
    <>
      <h1>
        <span class="dim">Topic</span> {topic}
      </h1>
      <p class="actions">
        <a class="button" href={hrefOf({ view: "tail", topic })}>Live tail</a>
        <a class="button" href={hrefOf({ view: "worker", topic, group: only(data) })}>Connect this tab as a worker</a>
        <a class="button" href={hrefOf({ view: "dead", topic })}>Dead letters</a>
        {data && <Purge topic={topic} messages={data.messages} onDone={reload} />}
      </p>
      <Trouble error={error} right="admin on this topic" />
      {data ? (
        <>
          <Tiles tiles={tilesOf(data)} />
          <Groups topic={data} onChange={reload} />
          <Policy config={data.config} />
        </>
      ) : (
        error === undefined && <Loading />
      )}
      <Publish topic={topic} onDone={reload} />
      {data && <Peek topic={data} />}
    </>
  );
}

/** Its group, if it has one and no other. */
const only = (topic: TopicDetail | undefined): string => (topic?.groups.length === 1 ? topic.groups[0]!.name : "");

const tilesOf = (topic: TopicDetail) => [
  { label: "Kept", value: count(topic.messages), note: bytes(topic.bytes) },
  { label: "In flight", value: count(topic.in_flight ?? 0) },
  { label: "Delayed", value: count(topic.scheduled) },
  {
    label: "Dead letters",
    value: count(topic.dead_letters),
    tone: topic.dead_letters ? ("bad" as const) : undefined,
  },
  { label: "Newest seq", value: count(topic.last_seq) },
];

function Policy({ config }: { config: TopicConfig }) {
  const or = (value: number | null, show: (value: number) => string) => (value === null ? "the gateway's" : show(value));
  const rows: [string, string][] = [
    ["Ack timeout", or(config.ack_timeout_ms, duration)],
    ["Failures, deliveries at most", `${or(config.max_failures, count)}, ${or(config.max_deliveries, count)}`],
    ["Priorities 0 to 3", config.strict ? "strict" : config.weights.join(" : ")],
    ["Retained when settled", config.retain_ms ? duration(config.retain_ms) : "no"],
    ["Oldest", config.max_age_ms ? duration(config.max_age_ms) : "no limit"],
    ["Quota", `${or(config.quota_messages, count)} messages, ${or(config.quota_bytes, bytes)}`],
    ["Expired messages", config.expired === "dead" ? "become dead letters" : "are dropped"],
    ["Ledger", config.ledger],
  ];
  return (
    <details class="card">
      <summary>Policy</summary>
      <dl class="pairs">
        {rows.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </details>
  );
}

function Purge({ topic, messages, onDone }: { topic: string; messages: number; onDone(): void }) {
  const { api } = useSession();
  const { busy, run } = useAction();
  const [asking, setAsking] = useState(false);
  const purge = () =>
    void run(async () => {
      const { removed } = await api.post<{ removed: number }>(topicPath(topic, "purge"));
      return `Purged: ${count(removed)} messages removed.`;
    }).then(onDone);
  return (
    <>
      <button type="button" class="danger" disabled={busy} onClick={() => setAsking(true)}>Purge…</button>
      {asking && (
        <Confirm title={`Purge ${topic}?`} verb="Purge" word={topic} onConfirm={purge} onClose={() => setAsking(false)}>
          <p>All {count(messages)} messages that it keeps will be removed, for every group. This cannot be undone.</p>
        </Confirm>
      )}
    </>
  );
}
