/**
 * Message ids: time-ordered UUIDs (RFC 9562 §5.7), made here so that every retry of a publish carries the same one.
 * Owns the sequence of this process. The time is a hint for the gateway's index, no promise.
 */

let last = 0; // of the newest id: the millisecond,
let counter = 0; // and its place within it, 26 bits: rand_a and the first of rand_b, counted on (§6.2, method 1)

const hex = (value: number, digits: number): string => value.toString(16).padStart(digits, "0");

/** 24 random bits; where the platform has no `crypto` (older React Native), of lesser chance. */
const noise = (): number =>
  (globalThis.crypto?.getRandomValues(new Uint32Array(1))[0] ?? Math.random() * 0x1000000) & 0xffffff;

/** A UUID version 7, larger than every one this process made before, also when the clock went back. */
export function uuid7(nowMs: number = Date.now()): string {
  if (nowMs > last) {
    last = nowMs;
    counter = noise();
  } else if (++counter > 0x3ffffff) {
    last++;
    counter = 0;
  }
  const time = hex(last, 12);
  const rest = hex(0x8000 | (counter & 0x3fff), 4);
  return `${time.slice(0, 8)}-${time.slice(8)}-7${hex(counter >>> 14, 3)}-${rest}-${hex(noise(), 6)}${hex(noise(), 6)}`;
}
