// Bundles the tests (Node 20 runs no TypeScript) and runs them with Node's own runner. Arguments: names of test files.
import { spawnSync } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

process.chdir(dirname(dirname(fileURLToPath(import.meta.url))));
rmSync("build", { recursive: true, force: true });
const wanted = process.argv.slice(2);
const files = readdirSync("test")
  .filter((name) => /\.test\.tsx?$/.test(name) && (!wanted.length || wanted.some((part) => name.includes(part))))
  .map((name) => join("test", name));
await build({
  absWorkingDir: process.cwd(), // esbuild has taken the one before chdir
  entryPoints: files,
  outdir: "build",
  outExtension: { ".js": ".mjs" },
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  packages: "external",
  sourcemap: true,
  logLevel: "warning",
});
const built = readdirSync("build")
  .filter((name) => name.endsWith(".test.mjs"))
  .map((name) => join("build", name));
const flags = ["--enable-source-maps", "--test", "--test-reporter=spec"];
const { status } = spawnSync(process.execPath, [...flags, ...built], { stdio: "inherit" });
process.exit(status ?? 1);
