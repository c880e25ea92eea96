/** Dead letters of one topic: why they died, and the verbs that put them back or throw them away. */

import { useState } from "preact/hooks";
import { useLoad } from "../hooks.js";
import { count } from "../lib/format.js";
import { isForbidden, topicPath } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import type { DeadLetter, TopicInfo } from "../lib/types.js";
import { Field } from "../parts/Field.js";
import { Loading, Notice, Trouble } from "../parts/Notice.js";
import { Table } from "../parts/Table.js";
import type { Column } from "../parts/Table.js";
import { useSession } from "../session.js";
import { DeadRows } from "./DeadRows.js";
import { ByName, OnlyTheFirst, TOPICS_MAX } from "./Topics.js";

const EVERY_MS = 3000;
const PAGE = 100;
const REASONS = ["failures", "deliveries", "rejected", "expired", "corrupt"];

export function Dead({ topic }: { topic: string }) {
  return topic ? <OfTopic topic={topic} /> : <Choose />;
}

const COLUMNS: Column<TopicInfo>[] = [
  {
    id: "name",
    title: "Topic",
    value: ({ name }) => name,
    cell: ({ name }) => <a href={hrefOf({ view: "dead", topic: name })}>{name}</a>,
  },
  { id: "dead", title: "Dead letters", numeric: true, value: (t) => t.dead_letters, cell: (t) => count(t.dead_letters) },
];

function Choose() {
  const { api } = useSession();
  const { data, error } = useLoad(
    "topics",
    (signal) => api.get<{ topics: TopicInfo[]; more: boolean }>("/v1/admin/topics", { limit: TOPICS_MAX }, signal),
    EVERY_MS,
  );
  const rows = data?.topics.filter((topic) => topic.dead_letters > 0) ?? [];
  return (
    <>
      <h1>Dead letters</h1>
      <Trouble error={error} right="admin" />
      {(isForbidden(error) || data?.more) && <ByName view="dead" />}
      {data ? (
        <Table
          caption="Topics with dead letters" columns={COLUMNS} rows={rows} rowKey={({ name }) => name}
          order={{ by: "dead", down: true }} empty={data.more ? "None of these topics has any." : "No topic has any."}
        />
      ) : (
        error === undefined && <Loading />
      )}
      {data?.more && <OnlyTheFirst />}
    </>
  ); // prettier-ignore
}

function OfTopic({ topic }: { topic: string }) {
  const { api } = useSession();
  const [reason, setReason] = useState("");
  const [after, setAfter] = useState<number[]>([]); // where each page that was left ended
  const { data, error, reload } = useLoad(
    `dead ${topic} ${reason} ${after.at(-1) ?? 0}`,
    (signal) => {
      const query = { reason, after_id: after.at(-1), limit: PAGE };
      return api.get<{ dead_letters: DeadLetter[]; more: boolean }>(topicPath(topic, "dead"), query, signal);
    },
    EVERY_MS,
  );
  const letters = data?.dead_letters ?? [];
  const last = letters.at(-1)?.id;
  return (
    <>
      <h1>
        <span class="dim">Dead letters of</span> <a href={hrefOf({ view: "topic", topic })}>{topic}</a>
      </h1>
      <Trouble error={error} right="admin on this topic" />
      {data ? (
        <>
          <div class="row">
          <Field label="Reason">
            {(wiring) => (
              <select {...wiring} value={reason} onChange={(e) => (setReason(e.currentTarget.value), setAfter([]))}>
                <option value="">any</option>
                {REASONS.map((one) => (
                  <option key={one} value={one}>{one}</option>
                ))}
              </select>
            )}
          </Field>
          </div>
          {letters.length ? (
            <DeadRows topic={topic} reason={reason} letters={letters} onChange={reload} />
          ) : (
            <Notice>None here.</Notice>
          )}
          <p class="actions">
            <button type="button" disabled={!after.length} onClick={() => setAfter(after.slice(0, -1))}>Previous page</button>
            <button type="button" disabled={!data.more || last === undefined} onClick={() => setAfter([...after, last!])}>
              Next page
            </button>
          </p>
        </>
      ) : (
        error === undefined && <Loading />
      )}
    </>
  );
}
