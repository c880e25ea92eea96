/** A page of dead letters: which are chosen, and what is done with them. */

import { useState } from "preact/hooks";
import { useAction, useLoad, useNow } from "../hooks.js";
import { ago, count, many, plain, stamp } from "../lib/format.js";
import { topicPath } from "../lib/http.js";
import { rounds } from "../lib/rounds.js";
import type { Answer, Verb } from "../lib/rounds.js";
import { hrefOf } from "../lib/route.js";
import type { DeadLetter, DeadLetterDetail } from "../lib/types.js";
import { Body } from "../parts/Body.js";
import { Confirm } from "../parts/Confirm.js";
import { Loading, Trouble } from "../parts/Notice.js";
import { useSession } from "../session.js";
import { Facts } from "./Peek.js";

interface Props {
  topic: string;
  reason: string;
  letters: DeadLetter[];
  onChange(): void;
}

export function DeadRows({ topic, reason, letters, onChange }: Props) {
  const [marked, setMarked] = useState<ReadonlySet<number>>(new Set());
  const [asking, setAsking] = useState(false);
  const { busy, run } = useAction();
  const { api } = useSession();
  const chosen = letters.filter(({ id }) => marked.has(id)).map(({ id }) => id);
  const mark = (id: number, on: boolean) => {
    const next = new Set(marked);
    if (on) next.add(id);
    else next.delete(id);
    setMarked(next);
  };
  const markAll = (on: boolean) => setMarked(on ? new Set(letters.map(({ id }) => id)) : new Set());
  const act = (verb: Verb, all: boolean) =>
    void run(async () => {
      const wanted = all ? { match: reason ? { reason } : {} } : { ids: chosen };
      const text = await rounds(verb, wanted, (body) => api.post<Answer>(topicPath(topic, "dead", verb), body));
      setMarked(new Set());
      return text;
    }).then(onChange);
  return (
    <>
      <p class="actions sticky">
        <label class="check">
          <input type="checkbox" checked={chosen.length === letters.length} onChange={(e) => markAll(e.currentTarget.checked)} />
          All on this page
        </label>
        <button type="button" class="primary" disabled={busy || !chosen.length} onClick={() => act("redrive", false)}>
          Redrive {chosen.length || ""}
        </button>
        <button type="button" class="danger" disabled={busy || !chosen.length} onClick={() => setAsking(true)}>
          {chosen.length ? `Discard ${chosen.length}…` : "Discard…"}
        </button>
        <button type="button" disabled={busy} onClick={() => act("redrive", true)}>
          Redrive all {reason && `“${reason}”`}
        </button>
      </p>
      <ol class="messages">
        {letters.map((letter) => (
          <Row key={letter.id} letter={letter} marked={marked.has(letter.id)} onMark={(on) => mark(letter.id, on)} />
        ))}
      </ol>
      {asking && (
        <Confirm
          title={`Discard ${many(chosen.length, "dead letter")}?`} verb="Discard" word={chosen.length > 1 ? topic : undefined}
          onConfirm={() => act("discard", false)} onClose={() => setAsking(false)}
        >
          <p>They are gone then, with their history.</p>
        </Confirm>
      )}
    </>
  ); // prettier-ignore
}

function Row({ letter, marked, onMark }: { letter: DeadLetter; marked: boolean; onMark(on: boolean): void }) {
  const [open, setOpen] = useState(false);
  const now = useNow(10_000);
  return (
    <li class="dead">
      <input
        type="checkbox" aria-label={`Select message ${letter.message.seq}`} checked={marked}
        onChange={(event) => onMark(event.currentTarget.checked)}
      />
      <details class="message" onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          <b class="num">{count(letter.message.seq)}</b>
          <span class="badge bad">{letter.reason}</span>
          <span class="line">{plain(letter.error ?? "no error given")}</span>
          <span class="dim">
            {letter.group} · {many(letter.deliveries, "delivery", "deliveries")}, {many(letter.failures, "failure")} ·{" "}
            <time title={stamp(letter.at_ms)}>{ago(letter.at_ms, now)}</time>
          </span>
          {letter.message.redriven && <span class="badge warn">redriven before</span>}
        </summary>
        {open && <Detail letter={letter} />}
      </details>
    </li>
  ); // prettier-ignore
}

function Detail({ letter: { topic, id, message } }: { letter: DeadLetter }) {
  const { api } = useSession();
  const { data, error } = useLoad(`letter ${topic} ${id}`, (signal) =>
    api.get<DeadLetterDetail>(topicPath(topic, "dead", id), {}, signal),
  );
  if (!data) return error === undefined ? <Loading /> : <Trouble error={error} right="admin on this topic" />;
  return (
    <>
      <h3>Attempts</h3>
      <ol class="attempts">
        {data.attempts.map((one, at) => (
          <li key={at}>
            <time>{stamp(one.at_ms)}</time> <b>{one.how}</b> <span>{one.subject}</span> {one.error && <q>{plain(one.error)}</q>}
          </li>
        ))}
        {!data.attempts.length && <li>none</li>}
      </ol>
      <Facts message={data.message} />
      <Body of={data.message} />
      <p>
        <a href={hrefOf({ view: "life", topic, seq: message.seq })}>Its life</a>
      </p>
    </>
  );
}
