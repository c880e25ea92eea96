/**
 * A browser for the tests: Debian's Chromium, one for a test file, and tabs that are watched. Every tab must end without an
 * error on the console, a report of the content security policy, an uncaught exception or a request to anybody but the
 * gateway; `watched` says so after each test. Owns no scenario.
 */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename } from "node:path";
import { after, afterEach } from "node:test";

const require = createRequire(new URL("../../web-demo/package.json", import.meta.url));
const { chromium } = require("playwright-core");

export const AXE = require.resolve("axe-core/axe.min.js");
export const { url: URL_, control, tokens } = JSON.parse(process.env.PUSHWIRE_BROWSER_TEST);
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

/**
 * A profile of its own: its tabs share a session storage with nobody. `base`: where they find the gateway. `expected`:
 * what the scenario itself makes the browser write on the console.
 */
export async function profile({ base = URL_, expected = [], ...options } = {}) {
  const context = await (await browser()).newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(PATIENCE_MS);
  context.base = base;
  context.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(`${base}/`) && !url.startsWith(`${base.replace("http", "ws")}/`)) trouble.push(`a request to ${url}`);
  });
  context.on("console", (line) => {
    const text = line.text();
    if (line.type() === "error" && !expected.some((one) => one.test(text))) trouble.push(`console: ${text} (${line.location().url})`);
  });
  context.on("weberror", (error) => trouble.push(`exception: ${error.error().stack}`));
  await context.exposeFunction("tellTrouble", (text) => trouble.push(text));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      window.tellTrouble(`CSP: ${event.violatedDirective} ${event.blockedURI} ${event.sample}`);
    });
  });
  contexts.push(context);
  return context;
}

/** A watched tab, signed in through the fragment, at a view such as "#/topics". `shows`: the state that it waits for. */
export async function tab(view = "#/", { token = tokens.root, context, shows = "connected", ...options } = {}) {
  const its = context ?? (await profile(options));
  const page = await its.newPage();
  page.on("dialog", (dialog) => (trouble.push(`a dialog: ${dialog.message()}`), dialog.dismiss()));
  await page.goto(token ? `${its.base}/#token=${token}` : `${its.base}/`);
  if (token) await page.getByText(shows, { exact: true }).first().waitFor();
  if (view !== "#/") await go(page, view);
  return page;
}

/** Let the pages of a profile `import("/sdk/index.js")`: the SDK as it is built, under the gateway's own origin and policy. */
export async function withSdk(context) {
  const dist = new URL("../../sdk/js/dist/", import.meta.url);
  await context.route(/\/sdk\/[a-z]+\.js$/, (route) =>
    route.fulfill({ contentType: "text/javascript", body: readFileSync(new URL(basename(route.request().url()), dist)) }),
  );
  return context;
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

/** Kill or start the gateway, or have a token made. */
export async function command(verb, body = {}) {
  const response = await fetch(`${control}/${verb}`, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  assert.ok(response.ok, `${verb}: ${answer.error}`);
  return answer;
}

/** Wait until this holds, in a test's own terms. */
export async function until(what, holds, patienceMs = PATIENCE_MS) {
  const deadline = Date.now() + patienceMs;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not within ${patienceMs} ms: ${what}`);
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
