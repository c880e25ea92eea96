/** The hooks in a real React tree, under StrictMode, over a stepped gateway. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Window } from "happy-dom";
import { act, createElement, StrictMode, useState } from "react";
import type { ReactElement } from "react";
import { Client } from "../src/index.js";
import type { Receipt, SubscribeOptions } from "../src/index.js";
import { PushwireProvider, useConnectionState, usePublish, useSubscription } from "../src/react.js";
import { row, World } from "./world.js";

const window = new Window();
Object.assign(globalThis, {
  window,
  document: window.document,
  navigator: window.navigator,
  IS_REACT_ACT_ENVIRONMENT: true,
});
const { createRoot } = await import("react-dom/client");
const { renderToString } = await import("react-dom/server");

async function mount(element: ReactElement) {
  const world = new World();
  const { runtime, WebSocket } = world;
  const client = new Client("ws://gw", { token: "t", transport: "websocket", runtime, WebSocket, page: false });
  const place = window.document.createElement("div");
  const root = createRoot(place as never);
  await act(async () => {
    root.render(createElement(StrictMode, null, createElement(PushwireProvider, { client, children: element })));
    await world.settle();
  });
  /** Let the world move on inside of React's `act`. */
  const step = async (run: () => unknown) => {
    await act(async () => void (await run()));
    await act(() => world.settle()); // what the effects have begun
    return place.textContent;
  };
  return { world, client, place, root, step };
}

test("under StrictMode one subscription is made, and the last render's handler is called", async () => {
  const seen: string[] = [];
  let show: (label: string) => void = () => undefined;
  function Orders(): ReactElement {
    const [label, setLabel] = useState("first");
    show = setLabel;
    // A new object and a new function with each render.
    const { ready } = useSubscription<{ n: number }>("orders", ({ data }) => void seen.push(`${label} ${data.n}`), {
      prefetch: 4,
    });
    return createElement("p", null, `${useConnectionState()} ${ready}`);
  }
  const { world, step, root, client } = await mount(createElement(Orders));
  let sub: unknown;
  const text = await step(async () => ({ sub } = await world.subscribed(4)));
  assert.equal(text, "connected true");
  assert.equal(world.sockets.length, 1);
  await step(() => world.socket.say({ op: "messages", sub, messages: [row(1, "a")] }));
  await step(() => show("second"));
  await step(() => world.socket.say({ op: "messages", sub, messages: [row(2, "b")] }));
  assert.deepEqual(seen, ["first 1", "second 2"]);
  assert.deepEqual(
    world.socket.said().map(({ op }) => op),
    ["ack", "ack"],
  );
  await step(() => root.unmount());
  assert.deepEqual(
    world.socket.said().map(({ op }) => op),
    ["unsubscribe"],
  );
  assert.equal(client.state, "connected");
});

test("other options or another topic subscribe anew; enabled false leaves", async () => {
  let set: (options: SubscribeOptions & { enabled?: boolean }) => void = () => undefined;
  function Orders(): ReactElement {
    const [options, setOptions] = useState<SubscribeOptions & { enabled?: boolean }>({ group: "a" });
    set = setOptions;
    useSubscription("orders", () => undefined, options);
    return createElement("p");
  }
  const { world, step } = await mount(createElement(Orders));
  await step(() => world.subscribed());
  await step(() => set({ group: "a" }));
  assert.deepEqual(world.socket.said(), []);
  await step(() => set({ group: "b" }));
  const said = world.socket.said();
  assert.deepEqual(
    said.map(({ op, group }) => [op, group]),
    [
      ["subscribe", "b"],
      ["unsubscribe", undefined],
    ],
  );
  await step(() => world.grant(said));
  await step(() => set({ group: "b", enabled: false }));
  assert.deepEqual(
    world.socket.said().map(({ op }) => op),
    ["unsubscribe"],
  );
});

test("what ends a subscription is shown", async () => {
  function Orders(): ReactElement {
    const { error } = useSubscription("orders", () => undefined);
    return createElement("p", null, error?.code ?? "fine");
  }
  const { world, step } = await mount(createElement(Orders));
  const text = await step(async () => {
    const [subscribe] = await world.welcome();
    world.socket.say({ op: "error", ref: subscribe!.ref!, code: "forbidden", message: "no", retryable: false });
  });
  assert.equal(text, "forbidden");
});

test("usePublish gives one function, whose receipt is the gateway's", async () => {
  const functions = new Set<unknown>();
  let receipt: Promise<Receipt> | undefined;
  function Form(): ReactElement {
    const publish = usePublish("orders");
    functions.add(publish);
    return createElement("p", null, useConnectionState());
  }
  const { world, step } = await mount(createElement(Form));
  const publish = [...functions][0] as (data: unknown) => Promise<Receipt>;
  await step(async () => {
    receipt = publish({ n: 1 });
    const [op] = await world.welcome();
    await world.grant([op!], ({ id }) => ({ receipts: [{ id, seq: 3, duplicate: false }] }));
  });
  assert.equal((await receipt!).seq, 3);
  assert.equal(functions.size, 1);
});

test("on a server nothing connects", () => {
  const world = new World();
  const { runtime, WebSocket } = world;
  const client = new Client("ws://gw", { runtime, WebSocket, page: false });
  function Orders(): ReactElement {
    const { ready } = useSubscription("orders", () => undefined);
    return createElement("p", null, `${useConnectionState()} ${ready}`);
  }
  const html = renderToString(createElement(PushwireProvider, { client, children: createElement(Orders) }));
  assert.equal(html, "<p>idle false</p>");
  assert.equal(client.state, "idle");
});
