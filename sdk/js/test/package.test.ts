/**
 * The package as it is shipped: what is in it, how large it is, and whether a strict TypeScript project and plain
 * JavaScript find its types. Needs `npm run build`.
 */

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after, before, test } from "node:test";

const root = process.cwd();
const tsc = resolve("node_modules/typescript/bin/tsc");
const project = mkdtempSync(join(tmpdir(), "pushwire-pack-"));
let packed: string[] = [];

before(() => {
  assert.ok(existsSync("dist/index.js"), "npm run build comes first");
  const [{ filename, files }] = JSON.parse(
    execFileSync("npm", ["pack", "--json", "--pack-destination", project], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    }),
  );
  packed = files.map(({ path }: { path: string }) => path);
  const home = join(project, "node_modules", "pushwire");
  mkdirSync(home, { recursive: true });
  execFileSync("tar", ["xzf", join(project, filename), "-C", home, "--strip-components=1"]);
  for (const name of ["react", "@types"])
    symlinkSync(join(root, "node_modules", name), join(project, "node_modules", name));
  writeFileSync(join(project, "package.json"), '{"type":"module"}');
});

after(() => rmSync(project, { recursive: true }));

function check(name: string, text: string, ...flags: string[]): string {
  writeFileSync(join(project, name), text);
  const base = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--types", "node"];
  const lib = ["--lib", "es2022,dom", "--jsx", "react-jsx"];
  const { stdout } = spawnSync(process.execPath, [tsc, ...base, ...lib, ...flags, name], {
    cwd: project,
    encoding: "utf8",
  });
  return stdout;
}

const USE = `
import { Client, PushwireError, Retry } from "pushwire";
const client = new Client("wss://x", { token: async ({ reason }) => reason, resumeGraceMs: 1000 });
interface Order { id: number }
const sub = client.subscribe<Order>("orders", { group: "g", prefetch: 16 });
async function main(): Promise<number> {
  for await (const message of sub) {
    const id: number = message.data.id;
    if (id > 3) throw new Retry(1000);
    const taken: boolean = message.nack({ delayMs: 1000 });
    if (!taken) return message.expiresInMs;
    message.signal.throwIfAborted();
  }
  for await (const { data } of client.tail<string>("prices", { from: { seq: 3 } })) data.trim();
  const { seq, duplicate } = await client.publish("orders", { id: 1 }, { key: "k", deliverAt: new Date() });
  client.on("state", ({ state, error }) => console.log(state === "closed", error?.code));
  try { await client.drain(); } catch (error) { if (error instanceof PushwireError) console.log(error.stored); }
  return duplicate ? seq : 0;
}
void main();
`;

for (const [module, resolution] of [
  ["nodenext", "nodenext"],
  ["esnext", "bundler"],
] as const) {
  test(`types resolve in a strict TypeScript project (${resolution})`, () => {
    const flags = ["--module", module, "--moduleResolution", resolution];
    assert.equal(check("use.ts", USE, ...flags), "");
    const hooks = `import { useSubscription } from "pushwire/react";
      export function Page() {
        const { ready } = useSubscription<{ n: number }>("t", (m) => m.data.n.toFixed());
        return <p>{String(ready)}</p>;
      }`;
    assert.equal(check("page.tsx", hooks, ...flags), "");
    assert.match(check("wrong.ts", `import { Client } from "pushwire"; new Client(7);`, ...flags), /TS2345/);
  });
}

test("types resolve in plain JavaScript", () => {
  const flags = ["--allowJs", "--checkJs", "--module", "nodenext", "--moduleResolution", "nodenext"];
  assert.equal(
    check(
      "use.js",
      `import { Client } from "pushwire";\nnew Client("ws://x").subscribe("t", (m) => m.ack());`,
      ...flags,
    ),
    "",
  );
  const hooks = `import { useSubscription } from "pushwire/react";
    export const useOrders = () => useSubscription("orders", (m) => m.ack()).error?.code.trim();`;
  assert.equal(check("hooks.js", hooks, ...flags), "");
  assert.match(
    check("wrong.js", `import { Client } from "pushwire";\nnew Client("ws://x").subscibe("t");`, ...flags),
    /subscibe/,
  );
});

test("the package runs as it is, without dependencies", () => {
  const text = `import * as all from "pushwire"; console.log(Object.keys(all).sort().join());`;
  writeFileSync(join(project, "run.js"), text);
  const names = execFileSync(process.execPath, ["run.js"], { cwd: project, encoding: "utf8" }).trim();
  assert.equal(names, "Client,Message,PushwireError,Reject,Retry,Subscription,Tail,TailMessage,Unauthorized");
  const { dependencies, version } = JSON.parse(readFileSync("package.json", "utf8"));
  assert.equal(dependencies, undefined);
  assert.match(readFileSync("../pushwire/version.py", "utf8"), new RegExp(`"${version.replaceAll(".", "\\.")}"`));
});

test("nothing is packed but what is used", () => {
  const strange = packed.filter(
    (path) => !/^(dist\/.*\.(js|js\.map|d\.ts)|dist\/LICENSE|README\.md|package\.json)$/.test(path),
  );
  assert.deepEqual(strange, []);
  for (const path of ["dist/index.js", "dist/index.d.ts", "dist/react.js", "dist/react.d.ts", "README.md"]) {
    assert.ok(packed.includes(path), path);
  }
});

test("the core is at most 8 KiB, minified and gzipped", () => {
  const { status, stdout } = spawnSync(process.execPath, ["scripts/size.mjs"], { encoding: "utf8" });
  assert.match(stdout, /'index\.js': \d+/);
  assert.equal(status, 0, stdout);
});

test("no address of a registry is in the lock file", () => {
  assert.doesNotMatch(readFileSync("package-lock.json", "utf8"), /"resolved"/);
});
