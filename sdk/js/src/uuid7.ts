/**
 * Message ids: time-ordered UUIDs (RFC 9562 §5.7), made here so that every retry of a publish carries the same one.
 * Owns the sequence of this process. The time is a hint for the gateway's index, no promise.
 */

let last = 0; // of the newest id: the millisecond,
let counter = 0; // and its place within it: rand_a and the first bits of rand_b, counted on (§6.2, method 1)

const COUNTER_MAX = 0x3ffffff; // 26 bits: more ids than any machine makes in a millisecond

/** The random bytes; replaced where the platform has no `crypto` (older React Native). */
function fill(bytes: Uint8Array<ArrayBuffer>): Uint8Array {
  const source = globalThis.crypto;
  if (source) return source.getRandomValues(bytes);
  return bytes.map(() => Math.random() * 256);
}

/** A UUID version 7, larger than every one this process made before, also when the clock went back. */
export function uuid7(nowMs: number = Date.now()): string {
  const noise = fill(new Uint8Array(10));
  if (nowMs > last) {
    last = Math.floor(nowMs);
    // The highest bit stays free, so that counting on has room.
    counter = ((noise[0]! << 16) | (noise[1]! << 8) | noise[2]!) << 1;
  } else if (++counter > COUNTER_MAX) {
    last += 1;
    counter = 0;
  }
  const high = counter >>> 14; // 12 bits: rand_a
  const low = counter & 0x3fff; // 14 bits: after the variant
  const hex = (value: number, digits: number) => value.toString(16).padStart(digits, "0");
  const tail = Array.from(noise.subarray(4), (byte) => hex(byte, 2)).join("");
  const time = hex(last, 12);
  return `${time.slice(0, 8)}-${time.slice(8)}-7${hex(high, 3)}-${hex(0x8000 | low, 4)}-${tail}`;
}
