/**
 * A frozen tab gives back what it holds. Driven by the devtools protocol itself: Playwright keeps every tab in the
 * foreground, and Chromium freezes none there. Owns its browser.
 */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import { after, test } from "node:test";
import { api, FLAGS, PATIENCE_MS, publish, tokens, until, URL_ } from "./page.mjs";

const { WebSocket } = createRequire(new URL("../../sdk/js/package.json", import.meta.url))("ws");
let chromium;

after(async () => {
  if (chromium && chromium.exitCode === null) {
    chromium.kill();
    await new Promise((resolve) => chromium.once("exit", resolve));
  }
});

/** A browser's devtools: a function that sends a command to it, or to the tab of a session, and gives the answer. */
async function devtools() {
  const flags = [...FLAGS, "--headless", "--remote-debugging-port=0", `--user-data-dir=${process.env.PUSHWIRE_PROFILE}`];
  chromium = spawn(process.env.PUSHWIRE_CHROMIUM, flags, { stdio: ["ignore", "ignore", "pipe"] });
  const address = await new Promise((resolve, reject) => {
    chromium.stderr.on("data", (text) => /ws:\/\/\S+/.test(String(text)) && resolve(/ws:\/\/\S+/.exec(String(text))[0]));
    chromium.once("exit", (code) => reject(new Error(`Chromium ended with ${code}`)));
    setTimeout(() => reject(new Error("no devtools in time")), PATIENCE_MS).unref();
  });
  const socket = new WebSocket(address);
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  const waiting = new Map();
  socket.on("message", (text) => {
    const { id, result, error } = JSON.parse(text);
    if (id !== undefined) waiting.get(id)[error ? 1 : 0](error ? new Error(error.message) : result);
  });
  return (method, params = {}, sessionId) =>
    new Promise((resolve, reject) => {
      const id = waiting.size + 1;
      waiting.set(id, [resolve, reject]);
      socket.send(JSON.stringify({ id, method, params, sessionId }));
    });
}

/** A tab: `send` to it, `evaluate` in it, and its `id`. */
async function openTab(send, url) {
  const { targetId: id } = await send("Target.createTarget", { url });
  const { sessionId } = await send("Target.attachToTarget", { targetId: id, flatten: true });
  const sendIt = (method, params) => send(method, params, sessionId);
  const evaluate = async (expression) => {
    let answer;
    try {
      answer = await sendIt("Runtime.evaluate", { expression, returnByValue: true });
    } catch (error) {
      if (/execution context/.test(error.message)) return undefined; // the page is on its way: asked again
      throw error;
    }
    assert.equal(answer.exceptionDetails, undefined);
    return answer.result.value;
  };
  return { id, send: sendIt, evaluate };
}

test("a frozen tab gives back what it holds within two seconds, and works again when it thaws", async () => {
  await publish("frozen", { data: 1 });
  const send = await devtools();
  const tab = await openTab(send, `${URL_}/#token=${tokens.root}`);
  const shows = (text) => until(`the tab shows ${text}`, () => tab.evaluate(`document.body?.innerText.includes(${JSON.stringify(text)})`));
  const press = (label) =>
    until(`${label} is there`, () =>
      tab.evaluate(`(() => { const found = [...document.querySelectorAll("button")].find((one) =>
        (one.ariaLabel ?? one.textContent) === ${JSON.stringify(label)}); found?.click(); return !!found; })()`));
  const inFlight = async () => (await api("GET", "/v1/admin/topics/frozen")).in_flight;
  await shows("connected");
  await tab.evaluate('void (location.hash = "#/worker/frozen/desk")');
  await press("Connect this tab");
  await shows("Holds 1 of 3");
  assert.equal(await inFlight(), 1);

  const other = await openTab(send, "about:blank");
  await send("Target.activateTarget", { targetId: other.id });
  await until("it is behind", () => tab.evaluate('document.visibilityState === "hidden"'));
  const began = performance.now();
  await tab.send("Page.setWebLifecycleState", { state: "frozen" });
  await until("nobody holds it", async () => (await inFlight()) === 0);
  const tookMs = performance.now() - began;
  assert.ok(tookMs < 2000, `${tookMs} ms`);

  await tab.send("Page.setWebLifecycleState", { state: "active" });
  await send("Target.activateTarget", { targetId: tab.id });
  await shows("attempt 2");
  await shows("lost 1.");
  await press("Ack 1");
  await until("it is settled", async () => (await api("GET", "/v1/admin/topics/frozen")).messages === 0);
});
