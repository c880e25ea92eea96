/** How it looks: every view in both schemes and two widths fits, passes axe, and works with the keyboard. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { before, test } from "node:test";
import { api, AXE, go, publish, tab, tokens, until, URL_, work } from "./page.mjs";

const VIEWS = {
  overview: "#/", topics: "#/topics", topic: "#/topics/looks", life: "#/topics/looks/messages/1", dead: "#/dead",
  letters: "#/dead/looks", connections: "#/connections", tail: "#/tail/looks", worker: "#/worker/looks/desk",
};
const READY = {
  overview: "Commit batch", topics: "Newest seq", topic: "From seq", life: "Content", dead: "Dead letters", letters: "1 delivery",
  connections: "Token ends in", tail: "seen", worker: "Connect this tab",
};
/** Where screenshots are put; without, none are taken. */
const { PUSHWIRE_SHOTS: shots } = process.env;

before(async () => {
  await api("PUT", "/v1/admin/topics/looks", { ledger: "full", retain_ms: 600000 });
  const page = await tab();
  await work(page, "looks", "desk");
  for (const n of [1, 2, 3]) await publish("looks", { data: { n, note: "long ".repeat(60) }, key: `customer-${n}` });
  await page.getByRole("button", { name: "Reject 1", exact: true }).click();
  await page.getByRole("button", { name: "Ack 2", exact: true }).click();
  await until("one is dead", async () => (await api("GET", "/v1/admin/topics/looks")).dead_letters === 1);
});

async function judge(page, name, width) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= width, `${name} is ${wide} px wide of ${width}`);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 120)).join(" | ")}`);
  assert.deepEqual(found, [], name);
  if (shots) await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
}

for (const colorScheme of ["light", "dark"]) {
  // Each scheme and each width once; all four where pictures are wanted.
  for (const width of shots ? [1280, 390] : [colorScheme === "light" ? 1280 : 390]) {
    test(`every view fits and passes axe: ${colorScheme}, ${width} px`, async () => {
      // Injected by a debugger, axe is no part of the page: its own content security policy stays in force.
      const page = await tab("#/", { colorScheme, viewport: { width, height: 900 } });
      await page.evaluate((await import("node:fs")).readFileSync(AXE, "utf8"));
      for (const [name, view] of Object.entries(VIEWS)) {
        await go(page, view);
        await page.getByText(READY[name]).locator("visible=true").first().waitFor();
        if (name === "topic" || name === "tail") await page.locator("details.message summary").first().click({ timeout: 500 }).catch(() => 0);
        await judge(page, `${name}-${colorScheme}-${width}`, width);
      }
      await work(page, "looks", "other");
      await publish("looks", { data: { to: "work on" }, key: "customer-1" });
      await page.getByRole("button", { name: /^Ack/ }).first().waitFor();
      await judge(page, `working-${colorScheme}-${width}`, width);
      await page.getByRole("button", { name: "Sign out" }).click();
      await page.getByLabel("Token").waitFor();
      await judge(page, `login-${colorScheme}-${width}`, width);
    });
  }
}

test("the keyboard reaches everything: skip link, navigation, sorting, a dialog that closes and gives the focus back", async () => {
  const page = await tab("#/topics");
  const focused = () => page.evaluate(() => document.activeElement?.textContent?.trim() || document.activeElement?.tagName);
  await page.getByRole("link", { name: "looks", exact: true }).waitFor();
  await page.reload(); // the focus begins at the top
  await page.getByRole("link", { name: "looks", exact: true }).waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Skip to the content");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement?.id), "main");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "INPUT");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "Topic");
  await page.keyboard.press("Enter");
  assert.equal(await page.getByRole("columnheader", { name: "Topic" }).getAttribute("aria-sort"), "ascending");
  await page.getByRole("link", { name: "looks", exact: true }).press("Enter");
  const purge = page.getByRole("button", { name: "Purge…" });
  await purge.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await until("it is closed", async () => (await page.getByRole("dialog").count()) === 0);
  assert.equal(await focused(), "Purge…");
});

test("an address that signs in does so in a tab that is open, and leaves no token in the address", async () => {
  const page = await tab("#/", { token: "" });
  await page.getByLabel("Token").waitFor();
  await page.goto(`${URL_}/#token=${tokens.root}`);
  await page.getByText("connected", { exact: true }).first().waitFor();
  assert.equal(new URL(page.url()).hash, "#/");
  await page.goto(`${URL_}/#token=${tokens.user}`);
  await page.locator(".who").getByText("user", { exact: true }).waitFor();
});
