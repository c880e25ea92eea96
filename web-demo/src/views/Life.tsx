/** The life of one message as a timeline: who had it when, and how that ended. */

import { useAction, useLoad } from "../hooks.js";
import { clock, duration, plain, stamp } from "../lib/format.js";
import { Refused, topicPath } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import { stepsOf } from "../lib/timeline.js";
import type { Step } from "../lib/timeline.js";
import type { History, MessageInfo, Peek } from "../lib/types.js";
import { Body } from "../parts/Body.js";
import { Loading, Notice, Trouble } from "../parts/Notice.js";
import { useSession } from "../session.js";
import { Facts } from "./Peek.js";

const EVERY_MS = 2000;

export function Life({ topic, seq }: { topic: string; seq: number }) {
  const { api } = useSession();
  const history = useLoad(
    `life ${topic} ${seq}`,
    (signal) => api.get<History>(topicPath(topic, "messages", seq, "history"), {}, signal),
    EVERY_MS,
  );
  const message = useLoad(
    `message ${topic} ${seq}`,
    async (signal) => {
      const { messages } = await api.get<Peek>(topicPath(topic, "messages"), { after_seq: seq - 1, limit: 1 }, signal);
      return messages.find((one) => one.seq === seq) ?? null;
    },
    EVERY_MS,
  );
  const steps = stepsOf(history.data, message.data ?? undefined);
  return (
    <>
      <h1>
        <span class="dim">Message</span> {seq} <span class="dim">of</span>{" "}
        <a href={hrefOf({ view: "topic", topic })}>{topic}</a>
      </h1>
      <Trouble error={history.error} right="admin or replay on this topic" />
      <section aria-labelledby="timeline">
        <h2 id="timeline">Timeline</h2>
        {!history.data && history.error === undefined && <Loading />}
        <Timeline steps={steps} />
        {history.data && (
          <Ledger history={history.data} topic={topic} mayChange={message.data !== undefined} onChange={history.reload} />
        )}
      </section>
      <Content message={message.data} error={message.error} />
    </>
  );
}

function Timeline({ steps }: { steps: Step[] }) {
  if (!steps.length) return <Notice>Nothing is known of it.</Notice>;
  return (
    <ol class="timeline">
      {steps.map((step, at) => (
        <li key={`${step.atMs} ${at}`} class={step.tone}>
          <time dateTime={new Date(step.atMs).toISOString()} title={stamp(step.atMs)}>{clock(step.atMs)}</time>
          <div>
            <b>{step.title}</b>
            {step.group && <span class="badge">{step.group}</span>}
            {step.notes.map((note) => (
              <span key={note} class="note">{plain(note)}</span>
            ))}
            {step.afterMs !== undefined && <small class="dim">after {duration(step.afterMs)}</small>}
          </div>
        </li>
      ))}
    </ol>
  );
}

interface LedgerProps {
  history: History;
  topic: string;
  /** The gateway has answered what only administrators of the topic may ask. */
  mayChange: boolean;
  onChange(): void;
}

/** What the topic writes down, and a way to have it write more. */
function Ledger({ history, topic, mayChange, onChange }: LedgerProps) {
  const { api } = useSession();
  const { busy, run } = useAction();
  if (history.ledger === "full") return null;
  const keep = () =>
    void run(async () => {
      await api.patch(topicPath(topic), { ledger: "full" });
      return "From now on every delivery of this topic is written down.";
    }).then(onChange);
  return (
    <div class="notice plain">
      {history.ledger === "off"
        ? "This topic keeps no ledger, so only what is still stored is known."
        : "This topic writes down how messages end, not who had them before."}{" "}
      {mayChange && <button type="button" disabled={busy} onClick={keep}>Write everything down</button>}
    </div>
  );
}

function Content({ message, error }: { message: MessageInfo | null | undefined; error: unknown }) {
  if (error instanceof Refused && error.status === 403) return null; // the history may be seen with replay alone
  return (
    <section aria-labelledby="content">
      <h2 id="content">Content</h2>
      <Trouble error={error} right="admin on this topic" />
      {message === null && <Notice>It is not kept any more: every group has settled it, or retention has dropped it.</Notice>}
      {message && (
        <div class="card">
          <Facts message={message} />
          <Body of={message} />
        </div>
      )}
    </section>
  );
}
