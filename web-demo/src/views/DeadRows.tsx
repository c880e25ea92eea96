/** A page of dead letters: which are chosen, and what is done with them. */

import { useState } from "preact/hooks";
import { useAction, useLoad, useNow } from "../hooks.js";
import { ago, count, stamp } from "../lib/format.js";
import { topicPath } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import type { DeadLetter, DeadLetterDetail } from "../lib/types.js";
import { Body } from "../parts/Body.js";
import { Confirm } from "../parts/Confirm.js";
import { Loading, Trouble } from "../parts/Notice.js";
import { useSession } from "../session.js";
import { Facts } from "./Peek.js";

type Verb = "redrive" | "discard";

interface Answer {
  redriven?: number;
  discarded?: number;
  more: boolean;
  after_id: number;
  before_ms: number;
  stopped?: string;
}

interface Props {
  topic: string;
  reason: string;
  letters: DeadLetter[];
  onChange(): void;
}

/** Requests one press of a button makes at most; what is left is told. */
const ROUNDS_MAX = 100;

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
          Discard {chosen.length || ""}…
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
          title={`Discard ${chosen.length} dead letters?`} verb="Discard" word={chosen.length > 1 ? topic : undefined}
          onConfirm={() => act("discard", false)} onClose={() => setAsking(false)}
        >
          <p>They are gone then, with their history.</p>
        </Confirm>
      )}
    </>
  ); // prettier-ignore
}

/** Ask until there is no more, as the answers say how to go on. Stops where the gateway does. */
export async function rounds(verb: Verb, wanted: object, ask: (body: object) => Promise<Answer>): Promise<string> {
  let done = 0;
  let body: Record<string, unknown> = { ...wanted };
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const answer = await ask(body);
    done += answer.redriven ?? answer.discarded ?? 0;
    if (answer.stopped) return `${count(done)} ${verb}n; stopped: ${answer.stopped}.`.replace("discardn", "discarded");
    if (!answer.more) break;
    const match = body.match as object | undefined;
    body = { ...body, before_ms: answer.before_ms, ...(match && { match: { ...match, after_id: answer.after_id } }) };
  }
  return `${count(done)} ${verb === "redrive" ? "put back" : "discarded"}.`;
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
          <span class="line">{letter.error ?? "no error given"}</span>
          <span class="dim">
            {letter.group} · {count(letter.deliveries)} deliveries, {count(letter.failures)} failures ·{" "}
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
            <time>{stamp(one.at_ms)}</time> <b>{one.how}</b> {one.subject} {one.error && <q>{one.error}</q>}
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
