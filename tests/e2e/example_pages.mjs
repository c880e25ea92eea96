/**
 * The pages of the examples in Chromium, as test_examples_web.py serves them: what somebody at a desk sees. Owns the
 * browser and its tabs; the back end and the gateway are given.
 */

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { after, afterEach, test } from "node:test";

const require = createRequire(new URL("../../web-demo/package.json", import.meta.url));
const { chromium } = require("playwright-core");
const { pages, gateway, token, user, password, executablePath } = JSON.parse(process.env.EXAMPLE_PAGES);

const PATIENCE_MS = 10_000;
const authorization = `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;
const args = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage"];
const browser = await chromium.launch({ executablePath, args });
const contexts = [];
const trouble = [];

after(() => browser.close());
afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()));
  assert.deepEqual(trouble.splice(0), []);
});

/** A tab of somebody who signs in when asked. It asks nobody but the back end and the gateway. */
async function tab(path) {
  const context = await browser.newContext({ httpCredentials: { username: user, password, origin: pages } });
  context.setDefaultTimeout(PATIENCE_MS);
  contexts.push(context);
  const page = await context.newPage();
  const known = [pages, gateway, gateway.replace("http", "ws"), "data:"];
  page.on("request", (request) => {
    if (!known.some((origin) => request.url().startsWith(origin))) trouble.push(`a request to ${request.url()}`);
  });
  page.on("console", (line) => line.type() === "error" && trouble.push(`console: ${line.text()}`));
  page.on("pageerror", (error) => trouble.push(`exception: ${error.stack}`));
  page.on("dialog", (dialog) => (trouble.push(`a dialog: ${dialog.message()}`), dialog.dismiss()));
  await page.goto(pages + path);
  return page;
}

async function order(item, count = 1) {
  const headers = { authorization, "content-type": "application/json" };
  const answer = await fetch(`${pages}/orders`, { method: "POST", headers, body: JSON.stringify({ item, count }) });
  assert.equal(answer.status, 202);
  return answer.json();
}

async function topic(name) {
  const answer = await fetch(`${gateway}/v1/admin/topics/${name}`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(answer.status, 200);
  return answer.json();
}

/** Wait until this holds. */
async function until(what, holds) {
  const deadline = Date.now() + PATIENCE_MS;
  while (!(await holds())) {
    assert.ok(Date.now() < deadline, `not within ${PATIENCE_MS} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

const settled = () => until("every order is settled", async () => (await topic("orders")).messages === 0);
const says = (page, text) => page.getByRole("status").filter({ hasText: text }).waitFor();

test("an order appears on the desk; done, it is counted and gone for good", async () => {
  const desk = await tab("/desk/");
  await says(desk, "connected, 0 done");
  await order("soup", 2);
  await desk.getByText(`2 × soup for ${user}, attempt 1`).waitFor();
  await desk.getByRole("button", { name: "Done: soup" }).click();
  await says(desk, "1 done");
  assert.equal(await desk.getByRole("listitem").count(), 0);
  await settled();
});

test("put off, it comes again", async () => {
  const desk = await tab("/desk/");
  await order("tea");
  await desk.getByRole("button", { name: "Later: tea" }).click();
  await desk.getByText("1 × tea").waitFor({ state: "detached" });
  await desk.getByText(`1 × tea for ${user}, attempt 2`).waitFor();
  await desk.getByRole("button", { name: "Done: tea" }).click();
  await settled();
});

for (const [how, leave] of [
  ["a closed tab", (page) => page.close()],
  ["somebody who leaves", (page) => page.getByRole("button", { name: "Leave" }).click()],
]) {
  test(`what lies with ${how} moves to the next desk`, async () => {
    const first = await tab("/desk/");
    await order("bread");
    await first.getByText(`1 × bread for ${user}, attempt 1`).waitFor();
    const second = await tab("/desk/");
    await says(second, "connected, 0 done");
    await leave(first);
    await second.getByText(`1 × bread for ${user}, attempt 2`).waitFor();
    if (!first.isClosed()) await says(first, "closed, 0 done");
    await second.getByRole("button", { name: "Done: bread" }).click();
    await says(second, "1 done");
    await settled();
  });
}

test("markup in an order is shown as text", async () => {
  const desk = await tab("/desk/");
  const item = `<img src=x onerror="alert(1)">`;
  await order(item);
  await desk.getByText(`1 × ${item} for`).waitFor();
  await desk.getByRole("button", { name: "Done" }).click();
  await settled();
});

test("the kitchen in React does orders by itself and announces each once", async () => {
  const kitchen = await tab("/react/");
  await says(kitchen, "connected, open, 0 done");
  const before = (await topic("orders.done")).messages;
  for (const item of ["fish", "rice", "figs"]) await order(item);
  await says(kitchen, "3 done");
  await kitchen.getByText(`1 × figs for ${user}, attempt 1`).waitFor();
  assert.equal((await topic("orders.done")).messages - before, 3);
  await settled();
  await kitchen.getByRole("button", { name: "Close the kitchen" }).click();
  await says(kitchen, "closed");
  await until("it has left the group", async () => (await topic("orders")).groups[0].member_count === 0);
  await order("cake");
  await kitchen.getByRole("button", { name: "Open the kitchen" }).click();
  await says(kitchen, "open, 4 done");
  await settled();
});
