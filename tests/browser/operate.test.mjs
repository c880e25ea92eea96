/** What an operator does: publish, redrive, discard, pause, seek, purge, kick, watch. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { api, go, profile, publish, tab, tokens, until, URL_, withSdk, work } from "./page.mjs";

const topic = (name) => api("GET", `/v1/admin/topics/${name}`);

test("the publish form says what is wrong, then shows the receipt", async () => {
  await api("PUT", "/v1/admin/topics/forms", {});
  const page = await tab("#/topics/forms");
  const body = page.getByLabel("Body", { exact: true });
  await body.fill("{no json");
  await page.getByLabel("Delay").fill("soon");
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByText(/^Not JSON/).waitFor();
  assert.equal(await body.getAttribute("aria-invalid"), "true");
  await body.fill('{"order": 7}');
  await page.getByLabel("Delay").fill("");
  await page.getByLabel("Key", { exact: true }).fill("ann");
  await page.getByLabel("Id", { exact: true }).fill("order-7");
  await page.getByLabel("Headers").fill("source: form");
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByRole("link", { name: "seq 1" }).waitFor();
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByText(/a duplicate/).waitFor();
  const { messages } = await api("GET", "/v1/admin/topics/forms/messages");
  assert.equal(messages.length, 1);
  const { id, key, headers, data } = messages[0];
  assert.deepEqual({ id, key, headers, data }, { id: "order-7", key: "ann", headers: { source: "form" }, data: { order: 7 } });
  await body.fill('{"order": 8}');
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByText(/id_conflict/).waitFor();
});

test("dead letters are chosen, put back and thrown away", async () => {
  const page = await tab();
  await work(page, "dead", "desk", { window: "5" });
  for (const n of [1, 2, 3]) await publish("dead", { data: { n } });
  for (const n of [1, 2, 3]) await page.getByRole("button", { name: `Reject ${n}`, exact: true }).click();
  await until("three are dead", async () => (await topic("dead")).dead_letters === 3);
  await go(page, "#/dead/dead");
  await page.getByText("rejected by hand in the dashboard").first().waitFor();
  await page.getByLabel("Select message 2").check();
  await page.getByRole("button", { name: "Redrive 1" }).click();
  await page.getByText("1 put back.").waitFor();
  await until("two are left", () => page.locator(".dead").count().then((count) => count === 2));
  await page.getByLabel("All on this page").check();
  await page.getByRole("button", { name: "Discard 2…" }).click();
  const dialog = page.getByRole("dialog");
  const discard = dialog.getByRole("button", { name: "Discard" });
  assert.ok(await discard.isDisabled(), "the word has to be typed first");
  await dialog.getByLabel(/Type/).fill("dead");
  await discard.click();
  await page.getByText("None here.").waitFor();
  await go(page, "#/worker/dead/desk");
  await page.getByRole("button", { name: "Connect this tab" }).click();
  await page.getByRole("button", { name: "Ack 4", exact: true }).click(); // put back, it is the newest
  await until("all is settled", async () => (await topic("dead")).messages === 0);
});

test("a group is paused, resumed and moved; a purge wants its word", async () => {
  await api("PUT", "/v1/admin/topics/moved", { retain_ms: 60000 });
  await api("PUT", "/v1/admin/topics/moved/groups/desk", { start: "new" });
  for (const n of [1, 2]) await publish("moved", { data: n });
  const group = () => api("GET", "/v1/admin/topics/moved/groups/desk");
  const page = await tab("#/topics/moved");
  await page.getByRole("button", { name: "pause desk" }).click();
  await page.getByRole("button", { name: "resume desk" }).waitFor();
  assert.ok((await group()).paused);
  await page.getByRole("button", { name: "resume desk" }).click();
  await page.getByRole("button", { name: "pause desk" }).waitFor();
  await page.getByRole("button", { name: "Seek desk" }).click();
  await page.getByRole("dialog").getByLabel("To").selectOption("seq");
  await page.getByLabel("First seq to deliver").fill("2");
  await page.getByRole("button", { name: "Move" }).click();
  await page.getByText("desk: moved.").waitFor();
  assert.equal((await group()).start_seq, 1);
  await page.getByRole("button", { name: "Purge…" }).click();
  const purge = page.getByRole("dialog").getByRole("button", { name: "Purge" });
  assert.ok(await purge.isDisabled());
  await page.getByRole("dialog").getByLabel(/Type/).fill("moved");
  await purge.click();
  await page.getByText("Purged: 2 messages removed.").waitFor();
  assert.equal((await topic("moved")).messages, 0);
});

test("a group has a button that connects this tab, and publishes that are refused show at their connection", async () => {
  await api("PUT", "/v1/admin/topics/joined", {});
  await api("PUT", "/v1/admin/topics/joined/groups/desk", {});
  await publish("joined", { data: 1 });
  const page = await tab("#/topics/joined", { context: await withSdk(await profile()) });
  await page.getByRole("link", { name: "Connect this tab to desk" }).click();
  await page.getByRole("button", { name: "Connect this tab" }).click();
  await page.getByRole("button", { name: "Ack 1", exact: true }).click();
  const codes = await page.evaluate(async (token) => {
    const { Client } = await import("/sdk/index.js");
    const client = (window.client = new Client(location.origin, { token }));
    const refused = await Promise.allSettled([1, 2].map((n) => client.publish("not-mine", n)));
    return refused.map(({ reason }) => reason?.code);
  }, tokens.user);
  assert.deepEqual(codes, ["forbidden", "forbidden"]);
  await go(page, "#/connections");
  await page.getByText("2 publishes refused").waitFor();
});

test("a connection is kicked, and its tab says so", async () => {
  const worker = await tab();
  await work(worker, "kicks", "desk");
  const page = await tab("#/connections");
  const row = page.getByRole("row").filter({ hasText: "kicks" });
  await row.getByRole("button", { name: /^Kick/ }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Kick" }).click();
  await page.getByText(": disconnected.").waitFor();
  await worker.getByText(/kicked|closed_4403|closed/).first().waitFor();
  await until("the row is gone", async () => (await row.count()) === 0);
});

test("the overview counts, and rests while it is hidden", async () => {
  const page = await tab();
  await publish("counted", { data: 1 });
  await page.getByRole("heading", { name: "Messages per second" }).waitFor();
  await page.getByText("Commit batch").waitFor();
  const tails = async () => (await api("GET", "/v1/admin/stats")).tails;
  await until("it tails the numbers", async () => (await tails()) === 1);
  await page.evaluate(() => {
    Object.defineProperty(document, "visibilityState", { configurable: true, get: () => "hidden" });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("it does no longer", async () => (await tails()) === 0);
  await page.evaluate(() => {
    delete document.visibilityState;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("it does again", async () => (await tails()) === 1);
});

test("a live tail pauses, goes on and filters", async () => {
  await publish("lines", { data: "zero" });
  const page = await tab("#/tail/lines");
  await page.getByText(/0 seen/).waitFor();
  await publish("lines", { data: "red", key: "ann" });
  await page.locator(".line", { hasText: "red" }).waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await publish("lines", { data: "blue" });
  await page.getByText(/1 waiting/).waitFor();
  assert.equal(await page.locator(".line", { hasText: "blue" }).count(), 0);
  await page.getByRole("button", { name: "Go on" }).click();
  await page.locator(".line", { hasText: "blue" }).waitFor();
  await page.getByLabel("Filter").fill("key:ann");
  await until("one is left", async () => (await page.locator("details.message").count()) === 1);
  await page.getByLabel("From").selectOption("earliest");
  await page.getByLabel("Filter").fill("zero");
  await page.locator("details.message").filter({ hasText: "zero" }).waitFor();
});

test("without the admin right nothing can be changed, and nothing is asked in vain", async () => {
  await publish("mine", { data: 1 });
  const page = await tab("#/", { token: tokens.user });
  await page.getByText(/does not have the right admin on all topics/).waitFor();
  await go(page, "#/connections");
  await page.getByText(/does not have the right admin on all topics/).waitFor();
  await go(page, "#/topics");
  await page.getByLabel("Topic", { exact: true }).fill("mine");
  await page.getByRole("button", { name: "Open" }).click();
  await page.getByText(/does not have the right admin on this topic/).waitFor();
  for (const verb of [/Purge/, /Pause/, /Seek/]) assert.equal(await page.getByRole("button", { name: verb }).count(), 0);
  await page.getByRole("button", { name: "Publish" }).click();
  await page.getByRole("link", { name: "seq 2" }).waitFor();
  await go(page, "#/topics/mine/messages/1");
  await page.getByText("This topic keeps no ledger").waitFor();
  assert.equal(await page.getByRole("button", { name: "Write everything down" }).count(), 0);
});

test("a token signs in by the form, leaves the address, survives a reload and is forgotten", async () => {
  const page = await tab("#/", { token: "" });
  await page.getByLabel("Token").fill("nonsense");
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByText(/This is no token/).waitFor();
  await page.getByLabel("Token").fill(`Bearer ${tokens.root}`);
  await page.getByRole("button", { name: "Sign in" }).click();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Overview" }).waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }) + document.cookie), "{}");
  await page.getByRole("button", { name: "Sign out" }).click();
  await page.getByLabel("Token").waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...sessionStorage })), "{}");
  const other = await tab("#/topics");
  assert.equal(other.url(), `${URL_}/#/topics`);
});
