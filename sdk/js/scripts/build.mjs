// Builds dist/: one minified module for each entry point, and its types. What is shipped is what the tests measure.
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
process.chdir(root);
rmSync("dist", { recursive: true, force: true });
await build({
  entryPoints: ["src/index.ts", "src/react.ts"],
  outdir: "dist",
  chunkNames: "[name]-[hash]",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "neutral",
  target: ["es2022"],
  external: ["react", "pushwire"],
  minify: true,
  mangleProps: /^_/,
  sourcemap: true,
  legalComments: "none",
  logLevel: "warning",
});
execFileSync(process.execPath, [join("node_modules", "typescript", "bin", "tsc"), "-p", "tsconfig.build.json"], {
  stdio: "inherit",
});
const licence = join(root, "..", "..", "LICENSE");
if (existsSync(licence)) copyFileSync(licence, join("dist", "LICENSE"));
