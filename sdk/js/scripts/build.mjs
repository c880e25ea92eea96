// Builds dist/: one minified module for each entry point, and its types. What is shipped is what the tests measure.
import { execFileSync } from "node:child_process";
import { copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { minify } from "terser";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
process.chdir(root);
rmSync("dist", { recursive: true, force: true });
const { outputFiles } = await build({
  absWorkingDir: process.cwd(), // esbuild has taken the one before chdir
  entryPoints: ["src/index.ts", "src/react.ts"],
  outdir: "dist",
  chunkNames: "[name]",
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
  write: false,
});
mkdirSync("dist");
// A second minifier, that knows more: it takes another 4 % off.
for (const { path, text } of outputFiles.filter(({ path }) => path.endsWith(".js"))) {
  const content = outputFiles.find((other) => other.path === `${path}.map`)?.text;
  const { code, map } = await minify(text, {
    module: true,
    ecma: 2022,
    // What stands where it was written is like what stands elsewhere, and compresses better than what was moved.
    compress: {
      ...{ passes: 4, unsafe: true, unsafe_methods: true, pure_getters: true, keep_fargs: false },
      ...{ reduce_funcs: false, inline: 1, comparisons: false, unsafe_arrows: true },
    },
    sourceMap: { content, url: `${basename(path)}.map` },
  });
  writeFileSync(path, code);
  writeFileSync(`${path}.map`, map);
}
execFileSync(process.execPath, [join("node_modules", "typescript", "bin", "tsc"), "-p", "tsconfig.build.json"], {
  stdio: "inherit",
});
const licence = join(root, "..", "..", "LICENSE");
if (existsSync(licence)) copyFileSync(licence, join("dist", "LICENSE"));
