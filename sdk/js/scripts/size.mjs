// Says how large the built modules are, gzipped, and fails when the core is larger than it may be.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

export const CORE_BYTES_MAX = 8 * 1024;

export function gzipped(name) {
  return gzipSync(readFileSync(new URL(`../dist/${name}`, import.meta.url)), { level: 9 }).length;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const core = gzipped("index.js");
  console.log(`index.js ${core} bytes gzipped, at most ${CORE_BYTES_MAX}; react.js ${gzipped("react.js")}`);
  if (core > CORE_BYTES_MAX) process.exit(1);
}
