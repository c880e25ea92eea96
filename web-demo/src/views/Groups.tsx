/** The groups of a topic: how they stand, and the verbs that pause, resume and move them. */

import { useState } from "preact/hooks";
import { useAction } from "../hooks.js";
import { count } from "../lib/format.js";
import { groupState } from "../lib/health.js";
import { topicPath } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import type { GroupInfo, TopicDetail } from "../lib/types.js";
import { Confirm } from "../parts/Confirm.js";
import { Field } from "../parts/Field.js";
import { Table } from "../parts/Table.js";
import type { Column } from "../parts/Table.js";
import { useSession } from "../session.js";

const TONES = { paused: "warn", stuck: "bad", unattended: "warn", busy: "good", idle: "" };

export function Groups({ topic, onChange }: { topic: TopicDetail; onChange(): void }) {
  const columns: Column<GroupInfo>[] = [
    {
      id: "name",
      title: "Group",
      value: ({ name }) => name,
      cell: ({ name, owner }) => (
        <>
          {name}
          {owner && <small class="dim"> private to {owner}</small>}
        </>
      ),
    },
    {
      id: "state",
      title: "State",
      value: (group) => groupState(group, topic),
      cell: (group) => {
        const state = groupState(group, topic);
        return <span class={`badge ${TONES[state]}`}>{state}</span>;
      },
    },
    { id: "members", title: "Members", numeric: true, value: (g) => g.member_count, cell: (g) => count(g.member_count) },
    { id: "ready", title: "Ready in memory", numeric: true, value: (g) => g.ready, cell: (g) => count(g.ready ?? 0) },
    { id: "in_flight", title: "In flight", numeric: true, value: (g) => g.in_flight, cell: (g) => count(g.in_flight) },
    { id: "start", title: "Starts after", numeric: true, value: (g) => g.start_seq, cell: (g) => count(g.start_seq) },
    { id: "verbs", title: "", cell: (group) => <Verbs group={group} lastSeq={topic.last_seq} onChange={onChange} /> },
  ];
  return (
    <section aria-labelledby="groups">
      <h2 id="groups">Groups</h2>
      <Table
        caption="Groups" columns={columns} rows={topic.groups} rowKey={({ name }) => name}
        empty="No groups: messages are kept up to the quota until the first one comes."
      />
    </section>
  ); // prettier-ignore
}

function Verbs({ group, lastSeq, onChange }: { group: GroupInfo; lastSeq: number; onChange(): void }) {
  const { api } = useSession();
  const { busy, run } = useAction();
  const [seeking, setSeeking] = useState(false);
  const path = (verb: string) => topicPath(group.topic, "groups", group.name, verb);
  const verb = group.paused ? "resume" : "pause";
  const turn = () =>
    void run(async () => {
      await api.post(path(verb));
      return `${group.name}: ${verb}d.`;
    }).then(onChange);
  const seek = (start: unknown) =>
    void run(async () => {
      await api.post(path("seek"), { start });
      return `${group.name}: moved.`;
    }).then(onChange);
  return (
    <span class="actions">
      <a
        class="button" href={hrefOf({ view: "worker", topic: group.topic, group: group.name })}
        aria-label={`Connect this tab to ${group.name}`}
      >
        Connect this tab
      </a>
      <button type="button" disabled={busy} onClick={turn} aria-label={`${verb} ${group.name}`}>
        {verb === "pause" ? "Pause" : "Resume"}
      </button>
      <button type="button" disabled={busy} onClick={() => setSeeking(true)} aria-label={`Seek ${group.name}`}>Seek…</button>
      {seeking && <Seek group={group} lastSeq={lastSeq} onSeek={seek} onClose={() => setSeeking(false)} />}
    </span>
  );
}

type Place = "earliest" | "new" | "seq" | "time";

interface SeekProps {
  group: GroupInfo;
  lastSeq: number;
  onSeek(start: unknown): void;
  onClose(): void;
}

function Seek({ group, lastSeq, onSeek, onClose }: SeekProps) {
  const [place, setPlace] = useState<Place>("earliest");
  const [seq, setSeq] = useState(String(Math.max(1, lastSeq)));
  const [time, setTime] = useState("");
  const timeMs = Date.parse(time);
  const confirm = () => {
    if (place === "seq") onSeek({ seq: Math.max(1, Math.round(Number(seq) || 1)) });
    else if (place === "time") onSeek({ time_ms: Math.max(1, timeMs || 1) });
    else onSeek(place);
  };
  return (
    <Confirm title={`Move ${group.name}`} verb="Move" onConfirm={confirm} onClose={onClose}>
      <p>It is owed what is kept from there on, settled before or not. Its leases become stale.</p>
      <Field label="To">
        {(wiring) => (
          <select {...wiring} value={place} onChange={(event) => setPlace(event.currentTarget.value as Place)}>
            <option value="earliest">the oldest message that is kept</option>
            <option value="new">what comes from now on</option>
            <option value="seq">a seq</option>
            <option value="time">a time</option>
          </select>
        )}
      </Field>
      {place === "seq" && (
        <Field label="First seq to deliver">
          {(wiring) => (
            <input {...wiring} type="number" min="1" required value={seq} onInput={(e) => setSeq(e.currentTarget.value)} />
          )}
        </Field>
      )}
      {place === "time" && (
        <Field label="Published at or after">
          {(wiring) => (
            <input {...wiring} type="datetime-local" required value={time} onInput={(e) => setTime(e.currentTarget.value)} />
          )}
        </Field>
      )}
    </Confirm>
  );
}
