/** A live tail: every message of a topic as it is stored, with a pause and a filter. It leases nothing. */

import { useEffect, useMemo, useState } from "preact/hooks";
import type { Tail, TailMessage } from "pushwire";
import { bodied, bodyText, clock, count, plain } from "../lib/format.js";
import { told } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import { Arrivals, cleared, EMPTY, paused, received, resumed, shown } from "../lib/tailbuffer.js";
import type { TailBuffer, TailRow } from "../lib/tailbuffer.js";
import { Text } from "../parts/Body.js";
import { Field } from "../parts/Field.js";
import { Notice } from "../parts/Notice.js";
import { useSession } from "../session.js";
import { ByName } from "./Topics.js";

/** Messages are drawn together, this often (ms): a burst costs one drawing. */
const DRAW_MS = 200;

export function TailView({ topic }: { topic: string }) {
  return (
    <>
      <h1>
        <span class="dim">Live tail</span> {topic && <a href={hrefOf({ view: "topic", topic })}>{topic}</a>}
      </h1>
      {topic ? <Follow topic={topic} /> : <ByName view="tail" />}
    </>
  );
}

type From = "new" | "earliest";

function rowOf(message: TailMessage): TailRow {
  const { seq, id, key, priority, publishedAtMs: atMs, encoding } = message;
  return { seq, id, key, priority, atMs, encoding, body: bodyText(bodied(message.data, encoding)) };
}

const lostRow = ({ from, to }: { from: number; to: number }): TailRow => ({
  seq: to, id: "", key: undefined, priority: 0, atMs: Date.now(), encoding: "text", body: "", lost: { from, to },
}); // prettier-ignore

/** The buffer of a tail that runs as long as this is shown. */
function useTail(topic: string, from: From) {
  const { client } = useSession();
  const [buffer, setBuffer] = useState<TailBuffer>(EMPTY);
  const [following, setFollowing] = useState(false);
  const [error, setError] = useState<unknown>();
  useEffect(() => {
    setBuffer((old) => cleared(old));
    setError(undefined);
    setFollowing(false);
    const arrivals = new Arrivals();
    let tail: Tail | undefined = client.tail(topic, { from }, (message) => arrivals.add(rowOf(message)));
    tail.on("gap", (gap) => arrivals.add(lostRow(gap)));
    const begun = tail;
    void begun.ready.then(() => tail === begun && setFollowing(true), () => undefined); // `closed` says why not
    void tail.closed.then((ended) => tail && setError(ended));
    const timer = setInterval(() => {
      const [rows, passed] = arrivals.take();
      setBuffer((old) => received(old, rows, passed)); // the same one again, where nothing came and nothing rushed
    }, DRAW_MS);
    return () => {
      const leaving = tail;
      tail = undefined;
      clearInterval(timer);
      void leaving?.close();
    };
  }, [client, topic, from]);
  return { buffer, setBuffer, following, error };
}

function Follow({ topic }: { topic: string }) {
  const [from, setFrom] = useState<From>("new");
  const [filter, setFilter] = useState("");
  const { buffer, setBuffer, following, error } = useTail(topic, from);
  const rows = useMemo(() => shown(buffer, filter), [buffer, filter]);
  return (
    <>
      <div class="row">
        <Field label="From">
          {(wiring) => (
            <select {...wiring} value={from} onChange={(event) => setFrom(event.currentTarget.value as From)}>
              <option value="new">now on</option>
              <option value="earliest">the oldest that is kept</option>
            </select>
          )}
        </Field>
        <Field label="Filter">
          {(wiring) => (
            <input
              {...wiring} type="search" placeholder="words, key:…, id:…, seq:…" value={filter} spellcheck={false}
              onInput={(event) => setFilter(event.currentTarget.value)}
            />
          )}
        </Field>
        <span class="actions">
          <button type="button" aria-pressed={buffer.paused} onClick={() => setBuffer(buffer.paused ? resumed : paused)}>
            {buffer.paused ? "Go on" : "Pause"}
          </button>
          <button type="button" onClick={() => setBuffer(cleared)}>Clear</button>
        </span>
      </div>
      {error !== undefined && <Notice tone="bad">{told(error)}</Notice>}
      <p class="dim" aria-live="off">
        {following ? `${count(buffer.seen)} seen, ${count(rows.length)} shown` : error === undefined && "Joining the tail…"}
        {buffer.paused && `, ${count(buffer.held.length)} waiting`}
        {buffer.dropped > 0 && `, ${count(buffer.dropped)} passed by while paused`}
        {buffer.seen > buffer.rows.length && buffer.rows.length > 0 && !buffer.paused && ` (the newest ${count(buffer.rows.length)} are kept)`}
      </p>
      <ol class="messages tail">
        {rows.map((row) => (
          <li key={row.seq}>{row.lost ? <Lost {...row.lost} /> : <Row row={row} topic={topic} />}</li>
        ))}
      </ol>
      {following && !rows.length && error === undefined && <Notice>{filter ? "Nothing matches." : "Nothing has come yet."}</Notice>}
    </>
  ); // prettier-ignore
}

const Lost = ({ from, to }: { from: number; to: number }) => (
  <p class="notice bad">
    {from === to ? `Message ${from} is` : `Messages ${from} to ${to} are`} lost to this tail: retention has dropped them.
  </p>
);

function Row({ row, topic }: { row: TailRow; topic: string }) {
  const line = row.body.length > 300 ? `${row.body.slice(0, 299)}…` : row.body;
  const [open, setOpen] = useState(false);
  return (
    <details class="message" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <b class="num">{count(row.seq)}</b>
        <time class="dim">{clock(row.atMs)}</time>
        <span class="line">{line.replace(/\s+/g, " ")}</span>
        {row.key !== undefined && <span class="badge">{plain(row.key)}</span>}
      </summary>
      {open && <Text>{row.body}</Text>}
      <p class="dim">
        id <code>{row.id}</code>, priority {row.priority}, {row.encoding} ·{" "}
        <a href={hrefOf({ view: "life", topic, seq: row.seq })}>its life</a>
      </p>
    </details>
  );
}
