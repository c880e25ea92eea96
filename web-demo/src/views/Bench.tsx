/** What a connected worker holds. Owns its own connection, so that closing it gives back everything, at once. */

import { useEffect, useMemo, useReducer, useState } from "preact/hooks";
import { Client } from "pushwire";
import type { Message, State } from "pushwire";
import { useNow } from "../hooks.js";
import { bodied, clock, count, duration, plain } from "../lib/format.js";
import { told } from "../lib/http.js";
import * as leases from "../lib/leases.js";
import type { Bench as Holding, Outcome } from "../lib/leases.js";
import { hrefOf } from "../lib/route.js";
import { Body } from "../parts/Body.js";
import { Notice } from "../parts/Notice.js";
import { useSession } from "../session.js";
import type { Job } from "./Worker.js";

type Step = { arrived: Message } | { ended: Message; outcome: Outcome } | { denied: Message } | "sweep";

function reduced(state: Holding<Message>, step: Step): Holding<Message> {
  const now = Date.now();
  if (step === "sweep") return leases.swept(state, now);
  if ("denied" in step) return leases.denied(state, step.denied);
  return "arrived" in step ? leases.arrived(state, step.arrived) : leases.ended(state, step.ended, step.outcome, now);
}

/** How often the countdowns are drawn (ms). */
const DRAW_MS = 250;

function useWork({ topic, group, prefetch, ackTimeoutMs }: Job) {
  const { token, say } = useSession();
  const [state, step] = useReducer(reduced, leases.bench<Message>());
  const [link, setLink] = useState<State>("connecting");
  const [joined, setJoined] = useState(false);
  const [error, setError] = useState<unknown>();
  useEffect(() => {
    const client = new Client(location.origin, { token });
    const off = client.on("state", ({ state: now, error: why }) => {
      setLink(now);
      if (now === "closed" && why) setError(why);
    });
    client.on("warning", (warning) => say(told(warning), true)); // among others: a verb that came too late
    const options = { group, prefetch, ackTimeoutMs, ack: "manual" as const };
    const subscription = client.subscribe(topic, options, (message) => step({ arrived: message }));
    void subscription.ready.then(() => setJoined(true), () => undefined); // `closed` says why not
    void subscription.closed.then((why) => why && setError(why));
    return () => {
      off();
      client.close();
    };
  }, [token, say, topic, group, prefetch, ackTimeoutMs]);
  return { state, step, link, joined, error };
}

export function Bench({ job, onClose }: { job: Job; onClose(): void }) {
  const { state, step, link, joined, error } = useWork(job);
  const now = useNow(DRAW_MS);
  useEffect(() => step("sweep"), [now, step]);
  return (
    <>
      <p class="actions">
        <span>
          Worker of <a href={hrefOf({ view: "topic", topic: job.topic })}>{job.topic}</a>{" "}
          <span class="badge">{job.group}</span> <span class={`dot ${link}`} aria-hidden="true" /> {link}
        </span>
        <button type="button" class="danger" onClick={onClose}>Close the connection</button>
      </p>
      {error !== undefined && <Notice tone="bad">{told(error)}</Notice>}
      <p role="status">
        {joined
          ? `Holds ${count(state.held.length)} of ${count(job.prefetch)}. ${totals(state)}`
          : error === undefined && "Joining the group…"}
      </p>
      <ol class="leases">
        {state.held.map((message) => (
          <Lease key={message.lease} message={message} job={job} step={step} />
        ))}
      </ol>
      {joined && !state.held.length && error === undefined && <Notice>It holds nothing. Messages come as they are published.</Notice>}
      <Log state={state} topic={job.topic} />
    </>
  );
}

const totals = ({ counts: { acked, nacked, rejected, released, lost } }: Holding<Message>): string =>
  `Acked ${count(acked)}, failed ${count(nacked)}, rejected ${count(rejected)}, given back ${count(released)}, lost ${count(lost)}.`;

interface LeaseProps {
  message: Message;
  job: Job;
  step(step: Step): void;
}

/** What the buttons of a lease do. The second press of a double click falls on the lease that moved up: it is none. */
function useVerbs({ message, step }: LeaseProps) {
  const { say } = useSession();
  const tooLate = () => say(`${message.seq}: its lease had run out, so it is delivered again.`, true);
  const end = (outcome: Outcome, verb: () => void) => (event: MouseEvent) => {
    if (event.detail > 1 || message.settled) return;
    const alive = leases.endable(message);
    if (alive) verb();
    else tooLate();
    step({ ended: message, outcome: alive ? outcome : "lost" });
  };
  const ack = () =>
    void message.ackConfirmed().catch(() => {
      step({ denied: message });
      say(`${message.seq}: the ack was not confirmed, so it may be delivered again.`, true);
    });
  const extend = () => void ((leases.endable(message) && message.extend()) || tooLate());
  return { end, ack, extend };
}

function Lease(props: LeaseProps) {
  const { message, job } = props;
  const { end, ack, extend } = useVerbs(props);
  const body = useMemo(() => bodied(message.data, message.encoding), [message]); // the same one at every drawing
  const { expiresInMs, seq } = message;
  const share = leases.shareLeft(message, job.ackTimeoutMs);
  return (
    <li class="card lease">
      <h2>
        <a href={hrefOf({ view: "life", topic: job.topic, seq })}>{seq}</a>
        {message.redelivered && <span class="badge warn">attempt {message.attempt}</span>}
        {message.key !== undefined && <span class="badge">{plain(message.key)}</span>}
      </h2>
      <p class="countdown">
        <meter aria-label={`Lease of ${seq}`} min={0} max={1} low={0.25} high={0.5} optimum={1} value={share} />
        <span>{duration(Math.ceil(expiresInMs / 1000) * 1000)}</span>
      </p>
      <Body of={body} />
      <p class="actions">
        <button type="button" class="primary" onClick={end("acked", ack)} aria-label={`Ack ${seq}`}>Ack</button>
        <button
          type="button" aria-label={`Nack ${seq}`}
          onClick={end("nacked", () => message.nack({ error: "failed by hand in the dashboard" }))}
        >
          Nack
        </button>
        <button
          type="button" aria-label={`Reject ${seq}`}
          onClick={end("rejected", () => message.reject("rejected by hand in the dashboard"))}
        >
          Reject
        </button>
        <button type="button" onClick={end("released", () => message.release())} aria-label={`Release ${seq}`}>Release</button>
        <button type="button" onClick={extend} aria-label={`Extend ${seq}`}>Extend</button>
      </p>
    </li>
  ); // prettier-ignore
}

function Log({ state, topic }: { state: Holding<Message>; topic: string }) {
  if (!state.ended.length) return null;
  return (
    <section aria-labelledby="ended">
      <h2 id="ended">What became of the others</h2>
      <ol class="attempts">
        {state.ended.map(({ seq, attempt, outcome, atMs }) => (
          <li key={`${seq} ${attempt} ${atMs}`}>
            <time>{clock(atMs)}</time> <a href={hrefOf({ view: "life", topic, seq })}>{seq}</a> attempt {attempt}{" "}
            <b class={outcome === "acked" ? "good" : outcome === "lost" ? "bad" : ""}>{outcome}</b>
          </li>
        ))}
      </ol>
    </section>
  );
}
