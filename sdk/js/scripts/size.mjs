// Says how large the package is in a page, minified and gzipped, and fails when the core is larger than it may be. The
// core is what `import "pushwire"` loads, bundled as a page's bundler does it; the others are loaded by
// it when they are needed.
import { readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

export const CORE_BYTES_MAX = 8 * 1024;
const dist = fileURLToPath(new URL("../dist/", import.meta.url));
const later = ["page.js", "poll.js", "publisher.js", "renewal.js", "resume.js"];

async function gzipped(name) {
  const { outputFiles } = await build({
    entryPoints: [dist + name],
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    // What is loaded later brings nothing twice: what it shares with the core is there by then.
    external: [...later, "react", ...(name === "index.js" ? [] : ["chunk.js"])].map((other) =>
      other.endsWith(".js") ? `./${other}` : other,
    ),
    write: false,
  });
  return gzipSync(outputFiles[0].contents, { level: 9 }).length;
}

/** Bytes of the core, and of each module that is loaded later. */
export async function sizes() {
  const names = readdirSync(dist).filter((name) => name.endsWith(".js") && name !== "chunk.js");
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await gzipped(name)])));
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const found = await sizes();
  console.log(`gzipped bytes, of index.js at most ${CORE_BYTES_MAX}:`, found);
  if (found["index.js"] > CORE_BYTES_MAX) process.exit(1);
}
