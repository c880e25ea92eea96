/** All topics that the token may administer, and the groups of the one that is unfolded. */

import { useState } from "preact/hooks";
import { useLoad } from "../hooks.js";
import { bytes, count } from "../lib/format.js";
import { nameError } from "../lib/draft.js";
import { topicState } from "../lib/health.js";
import { isForbidden } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import type { TopicInfo } from "../lib/types.js";
import { Field } from "../parts/Field.js";
import { Loading, Notice, Trouble } from "../parts/Notice.js";
import { Table } from "../parts/Table.js";
import type { Column } from "../parts/Table.js";
import { useSession } from "../session.js";

const EVERY_MS = 3000;
/** Topics that are shown: pages of more than that are for programs. */
export const TOPICS_MAX = 1000;

export const OnlyTheFirst = () => <Notice>Only the first {count(TOPICS_MAX)} topics by name are looked at. Others can be opened by name.</Notice>;

export function Topics() {
  const { api } = useSession();
  const { data, error } = useLoad(
    "topics",
    (signal) => api.get<{ topics: TopicInfo[]; more: boolean }>("/v1/admin/topics", { limit: TOPICS_MAX }, signal),
    EVERY_MS,
  );
  const [find, setFind] = useState("");
  const rows = data?.topics.filter(({ name }) => name.toLowerCase().includes(find.toLowerCase())) ?? [];
  const empty = find ? "No topic has this in its name." : "No topics yet: the first publish makes one.";
  return (
    <>
      <h1>Topics</h1>
      <Trouble error={error} right="admin" />
      {(isForbidden(error) || data?.more) && <ByName />}
      {data ? (
        <>
          <div class="row">
            <Field label="Find by name">
              {(wiring) => (
                <input {...wiring} type="search" value={find} onInput={(event) => setFind(event.currentTarget.value)} />
              )}
            </Field>
          </div>
          <Table
            caption="Topics" columns={COLUMNS} rows={rows} rowKey={({ name }) => name}
            order={{ by: "messages", down: true }} empty={empty}
          />
          {data.more && <OnlyTheFirst />}
        </>
      ) : (
        error === undefined && <Loading />
      )}
    </>
  ); // prettier-ignore
}

const COLUMNS: Column<TopicInfo>[] = [
  {
    id: "name",
    title: "Topic",
    value: ({ name }) => name,
    cell: (topic) => (
      <>
        <a href={hrefOf({ view: "topic", topic: topic.name })}>{topic.name}</a>{" "}
        <Badge topic={topic} />
      </>
    ),
  },
  { id: "messages", title: "Kept", numeric: true, value: (t) => t.messages, cell: (t) => count(t.messages) },
  { id: "in_flight", title: "In flight", numeric: true, value: (t) => t.in_flight, cell: (t) => count(t.in_flight ?? 0) },
  { id: "scheduled", title: "Delayed", numeric: true, value: (t) => t.scheduled, cell: (t) => count(t.scheduled) },
  {
    id: "dead",
    title: "Dead",
    numeric: true,
    value: (t) => t.dead_letters,
    cell: (t) =>
      t.dead_letters ? <a href={hrefOf({ view: "dead", topic: t.name })}>{count(t.dead_letters)}</a> : count(0),
  },
  { id: "bytes", title: "Size", numeric: true, value: (t) => t.bytes, cell: (t) => bytes(t.bytes) },
  { id: "groups", title: "Groups", numeric: true, value: (t) => t.group_count, cell: (t) => count(t.group_count) },
  { id: "members", title: "Members", numeric: true, value: (t) => t.member_count, cell: (t) => count(t.member_count ?? 0) },
  { id: "last", title: "Newest seq", numeric: true, value: (t) => t.last_seq, cell: (t) => count(t.last_seq) },
];

function Badge({ topic }: { topic: TopicInfo }) {
  const state = topicState(topic);
  if (state === "fine") return null;
  const why = state === "stuck" ? "Messages wait, and no group has a member" : "No group has a member";
  return <span class={`badge ${state === "stuck" ? "bad" : "warn"}`} title={why}>{state}</span>;
}

/** Whoever may not list topics may still know one. */
export function ByName({ view = "topic" }: { view?: "topic" | "tail" | "dead" }) {
  const [name, setName] = useState("");
  const [error, setError] = useState<string>();
  const submit = (event: Event) => {
    event.preventDefault();
    const wrong = nameError(name);
    setError(wrong);
    if (!wrong) location.hash = hrefOf({ view, topic: name });
  };
  return (
    <form class="row" onSubmit={submit}>
      <Field label="Topic" error={error}>
        {(wiring) => <input {...wiring} value={name} spellcheck={false} onInput={(e) => setName(e.currentTarget.value)} />}
      </Field>
      <button type="submit" class="primary">Open</button>
    </form>
  );
}
