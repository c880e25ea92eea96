/** Payloads, keys, headers, errors and names that would like to be markup: all of it is text, in every view. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { api, go, publish, tab, tokens, until, URL_, work } from "./page.mjs";

const SCRIPT = '<script>window.owned = 1</script><img src="//evil.test/x" onerror="window.owned = 1">';
const TURN = "\u202e";
const LINK = "javascript:window.owned=1";

/** Nothing ran, and nothing that would turn the text round is left in it. */
const owned = async (page) => (await harmless(page)) && !(await page.locator("main").innerText()).includes(TURN);
const harmless = (page) => page.evaluate(() => window.owned === undefined && !document.querySelector("main img, main script"));

test("script and markup are shown as text, wherever they are", async () => {
  await api("PUT", "/v1/admin/topics/hostile", { ledger: "full", retain_ms: 600000 });
  const page = await tab();
  await work(page, "hostile", "desk");
  const headers = { link: LINK, html: SCRIPT, turn: TURN };
  await publish("hostile", { data: { [SCRIPT]: SCRIPT }, key: `${TURN}${SCRIPT}`, headers, content_type: "text/html" });
  await publish("hostile", { data_text: `\u202e${SCRIPT}\u0000\n</pre>` });
  await publish("hostile", { data_b64: btoa(SCRIPT) });
  await page.getByText("</script>").first().waitFor();
  assert.ok(await owned(page), "worker");
  await api("PATCH", "/v1/admin/topics/hostile", { ledger: "full" });

  await go(page, "#/topics/hostile");
  await page.locator("details.message summary").first().click();
  await page.locator("details.message").first().getByText("text/html").waitFor();
  assert.ok(await owned(page), "topic");
  assert.equal(await page.locator('a[href^="javascript"]').count(), 0);

  await go(page, "#/topics/hostile/messages/1");
  await page.getByText("Delivered").waitFor();
  assert.ok(await owned(page), "life");

  await go(page, "#/tail/hostile");
  await page.getByLabel("From").selectOption("earliest");
  await until("all three are shown", async () => (await page.locator("details.message").count()) === 3);
  assert.ok(await owned(page), "tail");
});

test("an error that a consumer gave is text", async () => {
  await publish("errors", { data: 1 });
  const path = `${URL_}/v1/topics/errors/groups/desk/messages?max=1&wait=5`;
  const taken = await fetch(path, { headers: { authorization: `Bearer ${tokens.root}` } });
  const [{ lease }] = (await taken.json()).messages;
  const headers = {
    authorization: `Bearer ${tokens.root}`, "content-type": "application/json",
    "pushwire-session": taken.headers.get("pushwire-session"),
  };
  const body = JSON.stringify({ leases: [lease], error: `${TURN}${SCRIPT}` });
  assert.equal((await fetch(`${URL_}/v1/leases/reject`, { method: "POST", headers, body })).status, 200);
  await until("it is dead", async () => (await api("GET", "/v1/admin/topics/errors")).dead_letters === 1);
  const page = await tab("#/dead/errors");
  await page.locator("details.message summary").click();
  await page.getByRole("heading", { name: "Attempts" }).waitFor();
  assert.ok((await page.locator("main").innerText()).includes(SCRIPT));
  assert.ok(await owned(page));
});

/** JSON whose innermost values would each get a line of their own, behind 180 blanks: 90 times as large when laid out. */
const NESTED = JSON.parse(`${"[".repeat(90)}${"1,".repeat(30_000)}1${"]".repeat(90)}`);
const HEAP_BYTES_MAX = 64 * 1024 ** 2;

test("bodies that grow when they are laid out hold up no view", async () => {
  await api("PUT", "/v1/admin/topics/nested", { retain_ms: 600000 });
  const page = await tab();
  await work(page, "nested", "desk", { window: "20" });
  for (let n = 0; n < 20; n++) await publish("nested", { data: NESTED });
  const devtools = await page.context().newCDPSession(page);
  const lean = async (view) => {
    await devtools.send("HeapProfiler.collectGarbage");
    const { usedSize } = await devtools.send("Runtime.getHeapUsage");
    assert.ok(usedSize < HEAP_BYTES_MAX, `${view}: ${usedSize} bytes`);
    assert.ok((await page.locator("main").innerText()).length < 200_000, view);
  };
  await until("leases are shown", async () => (await page.locator(".lease").count()) > 9);
  await lean("worker");
  await go(page, "#/topics/nested");
  await page.locator("details.message").nth(19).waitFor();
  await page.locator("details.message summary").first().click();
  await page.getByRole("button", { name: /^Show all 60,?181 characters$/ }).waitFor();
  await lean("topic");
  await go(page, "#/tail/nested");
  await page.getByLabel("From").selectOption("earliest");
  await until("all are shown", async () => (await page.locator("details.message").count()) === 20);
  await lean("tail");
});

test("an address that would like to be markup leads nowhere", async () => {
  const page = await tab(`#/topics/${encodeURIComponent(`${SCRIPT}${TURN}`)}`);
  await page.getByText(/No topic can be called “<script>/).waitFor();
  assert.ok(await owned(page));
});
