/** This tab as a worker: what it takes, how it ends leases, and where they go when it is closed. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { api, profile, publish, tab, until, work } from "./page.mjs";

const button = (page, verb, seq) => page.getByRole("button", { name: `${verb} ${seq}`, exact: true });
const status = (page) => page.getByText(/^Holds /).innerText();
const history = async (topic, seq) =>
  (await api("GET", `/v1/admin/topics/${topic}/messages/${seq}/history`)).events.map(({ event }) => event);

test("a tab takes messages, acks one and fails one, which comes again", async () => {
  await api("PUT", "/v1/admin/topics/acks", { ledger: "full", retain_ms: 60000 });
  const page = await tab();
  await work(page, "acks", "desk", { window: "2" });
  for (const n of [1, 2, 3]) await publish("acks", { data: { n } });
  await button(page, "Ack", 1).waitFor();
  assert.equal(await button(page, "Ack", 3).count(), 0, "the window is 2");
  await button(page, "Ack", 1).click();
  await button(page, "Ack", 3).waitFor();
  await button(page, "Nack", 2).click();
  await page.getByText("attempt 2", { exact: true }).waitFor();
  await button(page, "Ack", 2).click();
  await button(page, "Reject", 3).click();
  await page.getByText("It holds nothing.").waitFor();
  assert.match(await status(page), /Holds 0 of 2\. Acked 2, failed 1, rejected 1, given back 0, lost 0\./);
  await until("the ledger has both ends", async () => (await history("acks", 2)).at(-1) === "acked");
  assert.deepEqual(await history("acks", 2), ["delivered", "nacked", "delivered", "acked"]);
  await until("the rejected one is a dead letter", async () => (await history("acks", 3)).at(-1) === "dead");
});

test("what a closed tab held is worked on in another", async () => {
  const context = await profile();
  const first = await tab("#/", { context });
  await work(first, "moves", "desk", { window: "1" });
  await publish("moves", { data: "take me" });
  await button(first, "Ack", 1).waitFor();
  const second = await tab("#/", { context });
  await work(second, "moves", "desk", { window: "1" });
  await second.getByText("It holds nothing.").waitFor();
  await first.close();
  await second.getByText("attempt 2", { exact: true }).waitFor();
  await button(second, "Ack", 1).click();
  await until("it is settled", async () => (await api("GET", "/v1/admin/topics/moves")).messages === 0);
});

test("closing only the connection gives back as well", async () => {
  const page = await tab();
  await work(page, "gives", "desk");
  await publish("gives", { data: 1 });
  await button(page, "Ack", 1).waitFor();
  await page.getByRole("button", { name: "Close the connection" }).click();
  await page.getByRole("button", { name: "Connect this tab" }).waitFor();
  const group = async () => (await api("GET", "/v1/admin/topics/gives/groups/desk"));
  await until("the group has no member", async () => (await group()).member_count === 0);
  await page.getByRole("button", { name: "Connect this tab" }).click();
  await page.getByText("attempt 2", { exact: true }).waitFor();
  await button(page, "Release", 1).click();
  await until("it comes again after its second", () => button(page, "Ack", 1).count());
});

test("a lease that runs out is shown as lost, and counted down before", async () => {
  await api("PUT", "/v1/admin/topics/late", { max_failures: 1 });
  const page = await tab();
  await work(page, "late", "desk", { timeout: "1s" });
  await publish("late", { data: 1 });
  const meter = page.getByRole("meter", { name: "Lease of 1" });
  await meter.waitFor();
  const before = Number(await meter.evaluate((element) => element.value));
  assert.ok(before > 0 && before <= 1, `${before}`);
  await page.getByText(/lost 1\./).waitFor();
  await until("it is a dead letter", async () => (await api("GET", "/v1/admin/topics/late")).dead_letters === 1);
});

test("a double click ends one lease, not also the one that moves up", async () => {
  const page = await tab();
  await work(page, "doubles", "desk");
  for (const n of [1, 2, 3]) await publish("doubles", { data: n });
  await until("three are held", async () => (await page.locator(".lease").count()) === 3);
  const { x, y } = await button(page, "Ack", 1).boundingBox();
  await page.mouse.dblclick(x + 5, y + 5, { delay: 30 });
  await until("one is settled", async () => (await api("GET", "/v1/admin/topics/doubles")).messages === 2);
  assert.match(await status(page), /Holds 2 of 3\. Acked 1, /);
  await button(page, "Ack", 2).evaluate((element) => (element.click(), element.click()));
  await page.getByText(/Holds 1 of 3\. Acked 2, /).waitFor();
});

test("a page that stood still until the lease had run out says so, and does not call it acked", async () => {
  const page = await tab();
  await work(page, "still", "desk", { window: "1", timeout: "1s" });
  await publish("still", { data: 1 });
  await button(page, "Ack", 1).waitFor();
  await page.evaluate(() => {
    const [ack, , , , extend] = document.querySelectorAll(".lease button");
    for (const end = performance.now() + 1100; performance.now() < end; );
    extend.click();
    ack.click();
  });
  await page.getByText("1: its lease had run out, so it is delivered again.").waitFor();
  await page.getByText(/Acked 0, .* lost 1\./).waitFor();
});
