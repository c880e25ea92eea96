/**
 * A browser for the tests: Debian's Chromium, one for a test file, and tabs that are watched. Every tab must end without an
 * error on the console, a report of the content security policy, an uncaught exception or a request to anybody but the
 * gateway; `watched` says so after each test. Owns no scenario.
 */

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, afterEach } from "node:test";

const require = createRequire(new URL("../../web-demo/package.json", import.meta.url));
const { chromium } = require("playwright-core");

export const AXE = require.resolve("axe-core/axe.min.js");
export const { url: URL_, tokens } = JSON.parse(process.env.PUSHWIRE_BROWSER_TEST);
/** Longest wait for anything on a page (ms). */
export const PATIENCE_MS = 10_000;

export const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
];

let launched;
let contexts = [];
let trouble = [];

/** Launched with the first tab: hooks of a file do not wait for those of another. */
const browser = () => (launched ??= chromium.launch({ executablePath: process.env.PUSHWIRE_CHROMIUM, args: FLAGS }));

after(async () => (await launched)?.close());
afterEach(async () => {
  const found = trouble;
  trouble = [];
  await Promise.all(contexts.map((context) => context.close()));
  contexts = [];
  assert.deepEqual(found, []);
});

/** A profile of its own: its tabs share a session storage with nobody. */
export async function profile(options = {}) {
  const context = await (await browser()).newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  context.on("request", (request) => {
    if (!request.url().startsWith(URL_) && !request.url().startsWith(URL_.replace("http", "ws"))) {
      trouble.push(`a request to ${request.url()}`);
    }
  });
  await context.exposeFunction("tellTrouble", (text) => trouble.push(text));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      window.tellTrouble(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  contexts.push(context);
  return context;
}

/** A watched tab, signed in through the fragment, at a view such as "#/topics". */
export async function tab(view = "#/", { token = tokens.root, context, ...options } = {}) {
  const page = await (context ?? (await profile(options))).newPage();
  page.on("console", (line) => line.type() === "error" && trouble.push(`console: ${line.text()}`));
  page.on("pageerror", (error) => trouble.push(`exception: ${error.stack}`));
  page.on("dialog", (dialog) => (trouble.push(`a dialog: ${dialog.message()}`), dialog.dismiss()));
  await page.goto(token ? `${URL_}/#token=${token}` : `${URL_}/`);
  if (token) await page.getByText("connected", { exact: true }).first().waitFor();
  if (view !== "#/") await go(page, view);
  return page;
}

export async function go(page, view) {
  await page.evaluate((hash) => void (location.hash = hash), view);
}

/** A request to the gateway's API as `root`. */
export async function api(method, path, body) {
  const headers = { authorization: `Bearer ${tokens.root}`, "content-type": "application/json" };
  const response = await fetch(URL_ + path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}

export const publish = (topic, message) => api("POST", `/v1/topics/${topic}/messages`, message);

/** Wait until this holds, in a test's own terms. */
export async function until(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Join a group in this tab, through the form. */
export async function work(page, topic, group, { window = "3", timeout = "30s" } = {}) {
  await go(page, `#/worker/${topic}/${group}`);
  await page.getByLabel("Window").fill(window);
  await page.getByLabel("Ack timeout").fill(timeout);
  await page.getByRole("button", { name: "Connect this tab" }).click();
  await page.getByText(/^Holds /).waitFor();
}
