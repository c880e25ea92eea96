/** The frame of the page: who is signed in, the navigation, and which view is shown. */

import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { State } from "pushwire";
import { useNow, useRoute } from "./hooks.js";
import { nameError } from "./lib/draft.js";
import { duration, plain } from "./lib/format.js";
import { hrefOf } from "./lib/route.js";
import type { Route } from "./lib/route.js";
import { forgetToken, keepToken } from "./lib/token.js";
import { Notice } from "./parts/Notice.js";
import { open, SessionContext, useSession } from "./session.js";
import type { Session } from "./session.js";
import { Connections } from "./views/Connections.js";
import { Dead } from "./views/Dead.js";
import { Life } from "./views/Life.js";
import { Login } from "./views/Login.js";
import { Overview } from "./views/Overview.js";
import { TailView } from "./views/Tail.js";
import { Topic } from "./views/Topic.js";
import { Topics } from "./views/Topics.js";
import { Worker } from "./views/Worker.js";

export function App({ token: first }: { token: string | undefined }) {
  const [token, setToken] = useState(first);
  const [why, setWhy] = useState("");
  const signIn = (given: string) => {
    keepToken(given, sessionStorage);
    setWhy("");
    setToken(given);
  };
  const signOut = useCallback((reason: string) => {
    forgetToken(token, sessionStorage);
    setWhy(reason);
    setToken(undefined);
  }, [token]);
  if (token === undefined) return <Login why={why} onToken={signIn} />;
  return <Signed key={token} token={token} onOut={signOut} />;
}

interface Said {
  text: string;
  bad: boolean;
  number: number;
}

/** How long a line stays (ms). */
const SAID_MS = 8000;

function Signed({ token, onOut }: { token: string; onOut(why: string): void }) {
  const opened = useMemo(() => open(token), [token]);
  const [said, setSaid] = useState<Said>();
  const session = useMemo<Session>(() => {
    const say = (text: string, bad = false) => setSaid((old) => ({ text, bad, number: (old?.number ?? 0) + 1 }));
    return { ...opened, say, signOut: () => onOut("") };
  }, [opened, onOut]);
  useEffect(() => {
    const refused = () => onOut("The token is not accepted, or has run out. Sign in with another one.");
    opened.api.onUnauthorized = refused;
    const off = opened.client.on("state", ({ state, error }) => {
      if (state === "closed" && error?.code === "unauthorized") refused();
    });
    opened.client.connect();
    return () => {
      off();
      opened.client.close();
    };
  }, [opened, onOut]);
  useEffect(() => {
    const timer = setTimeout(() => setSaid(undefined), SAID_MS);
    return () => clearTimeout(timer);
  }, [said?.number]);
  return (
    <SessionContext.Provider value={session}>
      <Frame />
      <div class="said" role="status" aria-live="polite">
        {said && <p key={said.number} class={said.bad ? "bad" : "good"}>{said.text}</p>}
      </div>
    </SessionContext.Provider>
  );
}

const LINKS: [title: string, route: Route, also: Route["view"][]][] = [
  ["Overview", { view: "overview" }, []],
  ["Topics", { view: "topics" }, ["topic", "life"]],
  ["Dead letters", { view: "dead", topic: "" }, []],
  ["Connections", { view: "connections" }, []],
  ["Live tail", { view: "tail", topic: "" }, []],
  ["This tab as a worker", { view: "worker", topic: "", group: "" }, []],
];

const TITLES: Record<Route["view"], string> = {
  overview: "Overview", topics: "Topics", topic: "Topic", life: "Message", dead: "Dead letters",
  connections: "Connections", tail: "Live tail", worker: "Worker",
}; // prettier-ignore

function Frame() {
  const route = useRoute();
  const main = useRef<HTMLElement>(null);
  const where = hrefOf(route);
  const before = useRef(where);
  useEffect(() => {
    document.title = `${TITLES[route.view]} · pushwire`;
    if (before.current !== where) main.current?.focus(); // where a keyboard or screen reader goes on
    before.current = where;
  }, [where]);
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), main.current?.focus())}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href="#/">
          <img src="/favicon.svg" alt="" width="24" height="24" /> pushwire
        </a>
        <Status />
      </header>
      <nav class="nav" aria-label="Views">
        <ul>
          {LINKS.map(([title, target, also]) => {
            const here = target.view === route.view || also.includes(route.view);
            return (
              <li key={title}>
                <a href={hrefOf(target)} aria-current={here ? "page" : undefined}>{title}</a>
              </li>
            );
          })}
        </ul>
      </nav>
      <main ref={main} tabIndex={-1} id="main">
        <View route={route} />
      </main>
    </>
  );
}

function View({ route }: { route: Route }) {
  const wrong = "topic" in route && route.topic ? nameError(route.topic) : undefined;
  if (wrong) {
    return (
      <>
        <h1>{TITLES[route.view]}</h1>
        <Notice tone="bad">No topic can be called “{plain((route as { topic: string }).topic)}”: {wrong}</Notice>
      </>
    );
  }
  switch (route.view) {
    case "overview":
      return <Overview />;
    case "topics":
      return <Topics />;
    case "topic":
      return <Topic key={route.topic} topic={route.topic} />;
    case "life":
      return <Life key={`${route.topic}/${route.seq}`} topic={route.topic} seq={route.seq} />;
    case "dead":
      return <Dead key={route.topic} topic={route.topic} />;
    case "connections":
      return <Connections />;
    case "tail":
      return <TailView key={route.topic} topic={route.topic} />;
    case "worker":
      return <Worker key={`${route.topic}/${route.group}`} topic={route.topic} group={route.group} />;
  }
}

/** From then on the end of the token is shown (ms). */
const EXPIRY_SHOWN_MS = 10 * 60_000;

function Status() {
  const { client, claims, signOut } = useSession();
  const [state, setState] = useState<State>(client.state);
  const now = useNow(5000);
  useEffect(() => client.on("state", (event) => setState(event.state)), [client]);
  const left = (claims?.expiresAtMs ?? Infinity) - now;
  return (
    <div class="status">
      <span class={`dot ${state}`} aria-hidden="true" />
      <span>{state === "connected" && client.transport === "poll" ? "connected by long poll" : state}</span>
      {claims?.subject && <span class="who">{claims.subject}</span>}
      {left < EXPIRY_SHOWN_MS && <span class="warn">token ends in {duration(Math.max(0, left))}</span>}
      <button type="button" class="quiet" onClick={signOut}>Sign out</button>
    </div>
  );
}
