/** What a topic keeps, page by page. Looking leases nothing and settles nothing. */

import { useEffect, useMemo, useState } from "preact/hooks";
import { useLoad } from "../hooks.js";
import { bytes, count, plain, preview, stamp } from "../lib/format.js";
import { topicPath } from "../lib/http.js";
import { hrefOf } from "../lib/route.js";
import type { MessageInfo, Peek as Page, TopicDetail } from "../lib/types.js";
import { Body } from "../parts/Body.js";
import { Loading, Notice, Trouble } from "../parts/Notice.js";
import { useSession } from "../session.js";

const PAGE = 20;

export function Peek({ topic }: { topic: TopicDetail }) {
  const { api } = useSession();
  const newest = Math.max(0, topic.last_seq - PAGE);
  const [after, setAfter] = useState(newest);
  const [from, setFrom] = useState("");
  useEffect(() => setFrom(""), [after]);
  const { data, error, reload } = useLoad(`peek ${topic.name} ${after}`, (signal) =>
    api.get<Page>(topicPath(topic.name, "messages"), { after_seq: after, limit: PAGE }, signal),
  );
  const go = (event: Event) => {
    event.preventDefault();
    setAfter(Math.max(0, Math.round(Number(from) || 1) - 1));
  };
  return (
    <section aria-labelledby="peek">
      <h2 id="peek">Messages</h2>
      <form class="row" onSubmit={go}>
        <label class="inline">
          From seq
          <input type="number" min="1" value={from} placeholder={String(after + 1)} onInput={(e) => setFrom(e.currentTarget.value)} />
        </label>
        <button type="submit">Show</button>
        <button type="button" onClick={() => setAfter(0)}>Oldest</button>
        <button type="button" disabled={!data?.messages.length} onClick={() => data && setAfter(data.through)}>Next</button>
        <button type="button" onClick={() => (after === newest ? reload() : setAfter(newest))}>Newest</button>
      </form>
      <Trouble error={error} right="admin on this topic" />
      {data ? <Rows page={data} topic={topic.name} /> : error === undefined && <Loading />}
    </section>
  );
}

function Rows({ page, topic }: { page: Page; topic: string }) {
  if (!page.messages.length) return <Notice>Nothing is kept there. What is settled is not kept, unless the topic retains it.</Notice>;
  return (
    <ol class="messages">
      {page.messages.map((message) => (
        <li key={message.seq}>
          <MessageRow message={message} topic={topic} />
        </li>
      ))}
    </ol>
  );
}

export function MessageRow({ message, topic }: { message: MessageInfo; topic: string }) {
  const [open, setOpen] = useState(false);
  const line = useMemo(() => preview(message), [message]);
  return (
    <details class="message" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <b class="num">{count(message.seq)}</b>
        <span class="line">{line}</span>
        {message.key !== undefined && <span class="badge">{plain(message.key)}</span>}
        {message.redriven && <span class="badge warn">redriven</span>}
      </summary>
      {open && (
        <>
          <Facts message={message} />
          <Body of={message} />
          <p>
            <a href={hrefOf({ view: "life", topic, seq: message.seq })}>Its life</a>
          </p>
        </>
      )}
    </details>
  );
}

export function Facts({ message }: { message: MessageInfo }) {
  const rows: [string, string | undefined][] = [
    ["id", message.id],
    ["published", stamp(message.published_at_ms)],
    ["priority", String(message.priority)],
    ["key", message.key],
    ["size", bytes(message.size_bytes)],
    ["content type", message.content_type],
    ["due", message.due_ms === undefined ? undefined : stamp(message.due_ms)],
    ["expires", message.expires_ms === undefined ? undefined : stamp(message.expires_ms)],
    ...Object.entries(message.headers ?? {}).map(([name, value]): [string, string] => [`header ${name}`, value]),
  ];
  return (
    <dl class="pairs">
      {rows.map(([name, value]) => value !== undefined && (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{plain(value)}</dd>
        </div>
      ))}
    </dl>
  ); // prettier-ignore
}
