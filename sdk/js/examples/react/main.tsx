/**
 * A React page that works on orders by itself: each is announced as done, and only then acked. `npm run example` builds
 * it, sdk/examples/backend.py serves it and gives the token.
 */

import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { Client, Unauthorized } from "pushwire";
import { PushwireProvider, useConnectionState, usePublish, useSubscription } from "pushwire/react";

interface Order {
  item: string;
  count: number;
  by: string;
}

interface Done extends Order {
  id: string;
  attempt: number;
}

async function ask(): Promise<{ url: string; token: string }> {
  const answer = await fetch("/push-token", { method: "POST" });
  if (answer.status === 401) throw new Unauthorized("nobody is signed in");
  if (!answer.ok) throw new Error(`no token: ${answer.status}`);
  return answer.json();
}

function Kitchen() {
  const state = useConnectionState();
  const announce = usePublish("orders.done");
  const [done, setDone] = useState<readonly Done[]>([]);
  const [open, setOpen] = useState(true);

  const { ready, error } = useSubscription<Order>(
    "orders",
    async ({ id, attempt, data }) => {
      // Under the order's own id: should it come again within ten minutes, it is announced once all the same.
      await announce({ order: id, item: data.item }, { id: `done-${id}` });
      setDone((before) => [...before, { ...data, id, attempt }]);
    },
    { group: "desk", prefetch: 8, enabled: open },
  );

  return (
    <main>
      <h1>The kitchen</h1>
      <p role="status">
        {state}, {error ? error.code : ready ? "open" : "closed"}, {done.length} done
      </p>
      <button onClick={() => setOpen(!open)}>{open ? "Close the kitchen" : "Open the kitchen"}</button>
      <ul>
        {done.map(({ id, attempt, item, count, by }) => (
          <li key={`${id} ${attempt}`}>
            {count} × {item} for {by}, attempt {attempt}
          </li>
        ))}
      </ul>
    </main>
  );
}

// Once, and outside of components: it outlives their renders.
const { url } = await ask();
const client = new Client(url, { token: async () => (await ask()).token });
createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <PushwireProvider client={client}>
      <Kitchen />
    </PushwireProvider>
  </StrictMode>,
);
