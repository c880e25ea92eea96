/** Who is connected, what they hold, and a way to end a connection. */

import { useState } from "preact/hooks";
import { useAction, useLoad, useNow } from "../hooks.js";
import { ago, bytes, count, duration, many, stamp } from "../lib/format.js";
import type { ConnectionInfo } from "../lib/types.js";
import { Confirm } from "../parts/Confirm.js";
import { Loading, Notice, Trouble } from "../parts/Notice.js";
import { Table } from "../parts/Table.js";
import type { Column } from "../parts/Table.js";
import { useSession } from "../session.js";

const EVERY_MS = 2000;
/** Connections that are asked for at once, and shown. */
const PAGE = 200;

export function Connections() {
  const { api } = useSession();
  const now = useNow(1000);
  const [after, setAfter] = useState<string[]>([]);
  const { data, error, reload } = useLoad(
    `connections ${after.at(-1) ?? ""}`,
    (signal) => {
      const query = { after: after.at(-1), limit: PAGE };
      return api.get<{ connections: ConnectionInfo[]; more: boolean }>("/v1/admin/connections", query, signal);
    },
    EVERY_MS,
  );
  const last = data?.connections.at(-1)?.id;
  return (
    <>
      <h1>Connections</h1>
      <Trouble error={error} right="admin on all topics" />
      {data ? (
        <Table
          caption="Connections" columns={columnsAt(now, reload)} rows={data.connections} rowKey={({ id }) => id}
          order={{ by: "in_flight", down: true }} empty="Nobody is connected."
        />
      ) : (
        error === undefined && <Loading />
      )}
      {data?.more && <Notice>There are more.</Notice>}
      {data && (data.more || after.length > 0) && (
        <p class="actions">
          <button type="button" disabled={!after.length} onClick={() => setAfter(after.slice(0, -1))}>Previous page</button>
          <button type="button" disabled={!data.more || !last} onClick={() => setAfter([...after, last!])}>Next page</button>
        </p>
      )}
    </>
  ); // prettier-ignore
}

const windowOf = (one: ConnectionInfo) => one.subscriptions.reduce((sum, sub) => sum + sub.prefetch, 0);

function columnsAt(now: number, reload: () => void): Column<ConnectionInfo>[] {
  return [
    {
      id: "subject",
      title: "Subject",
      value: ({ subject }) => subject,
      cell: ({ subject, ip, id, refused = 0 }) => (
        <>
          <b>{subject}</b>{" "}
          {refused > 0 && (
            <span class="badge warn" title="by a limit, a right or a quota">{many(refused, "publish", "publishes")} refused</span>
          )}{" "}
          <small class="dim">{ip} · {id}</small>
        </>
      ),
    },
    { id: "subscriptions", title: "Takes", cell: (one) => <Takes one={one} /> },
    {
      id: "in_flight",
      title: "In flight / window",
      numeric: true,
      value: (one) => one.in_flight,
      cell: (one) => (
        <>
          {windowOf(one) > 0 && <meter aria-label="in flight" min={0} max={windowOf(one)} value={one.in_flight} />}{" "}
          {count(one.in_flight)} / {count(windowOf(one))}
        </>
      ),
    },
    {
      id: "bytes",
      title: "Bytes in flight, unsent",
      numeric: true,
      value: (one) => one.in_flight_bytes,
      cell: (one) => `${bytes(one.in_flight_bytes)}, ${bytes(one.unsent_bytes)}`,
    },
    {
      id: "opened",
      title: "Opened",
      numeric: true,
      value: (one) => -one.opened_at_ms,
      cell: (one) => <time title={stamp(one.opened_at_ms)}>{ago(one.opened_at_ms, now)}</time>,
    },
    {
      id: "expires",
      title: "Token ends in",
      numeric: true,
      value: (one) => one.expires_in_ms,
      cell: (one) => duration(Math.round(one.expires_in_ms / 1000) * 1000),
    },
    { id: "kick", title: "", cell: (one) => <Kick one={one} onDone={reload} /> },
  ];
}

function Takes({ one }: { one: ConnectionInfo }) {
  return (
    <ul class="plain">
      {one.subscriptions.map((sub) => (
        <li key={sub.sub}>
          {sub.topic} <span class="badge">{sub.group}</span> {count(sub.in_flight)}/{count(sub.prefetch)}
        </li>
      ))}
      {one.tails > 0 && <li>{many(one.tails, "tail")}</li>}
      {!one.subscriptions.length && !one.tails && <li class="dim">nothing</li>}
    </ul>
  );
}

function Kick({ one, onDone }: { one: ConnectionInfo; onDone(): void }) {
  const { api } = useSession();
  const { busy, run } = useAction();
  const [asking, setAsking] = useState(false);
  const kick = () =>
    void run(async () => {
      await api.delete(`/v1/admin/connections/${encodeURIComponent(one.id)}`);
      return `${one.subject}: disconnected.`;
    }).then(onDone);
  return (
    <>
      <button type="button" disabled={busy} onClick={() => setAsking(true)} aria-label={`Kick ${one.subject} ${one.id}`}>
        Kick…
      </button>
      {asking && (
        <Confirm title={`Kick ${one.subject}?`} verb="Kick" onConfirm={kick} onClose={() => setAsking(false)}>
          <p>It is told not to come back, and what it holds ({many(one.in_flight, "lease")}) goes back at once.</p>
        </Confirm>
      )}
    </>
  );
}
