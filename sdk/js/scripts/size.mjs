// Says how large the built modules are, minified and gzipped, and fails when the core is larger than it may be. The core
// is what importing `pushwire` loads; publisher, page and poll are loaded by it when they are needed.
import { readdirSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

export const CORE_BYTES_MAX = 8 * 1024;
const dist = new URL("../dist/", import.meta.url);

/** A module and what it imports at once, not what it imports when it needs it. */
function closure(name, seen = new Set()) {
  if (seen.has(name)) return seen;
  seen.add(name);
  const text = readFileSync(new URL(name, dist), "utf8");
  for (const [, other] of text.matchAll(/(?:from|import)"\.\/([^"]+)"/g)) closure(other, seen);
  return seen;
}

const gzipped = (names) =>
  gzipSync(Buffer.concat([...names].map((name) => readFileSync(new URL(name, dist)))), { level: 9 }).length;

/** Bytes of the core, and of each module that is loaded later. */
export function sizes() {
  const core = closure("index.js");
  const later = readdirSync(dist).filter((name) => name.endsWith(".js") && !core.has(name));
  return { core: gzipped(core), later: Object.fromEntries(later.map((name) => [name, gzipped([name])])) };
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const { core, later } = sizes();
  console.log(`core: ${core} bytes gzipped, at most ${CORE_BYTES_MAX}; later:`, later);
  if (core > CORE_BYTES_MAX) process.exit(1);
}
