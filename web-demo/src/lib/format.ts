/** Numbers, sizes, times and bodies as people read them. Pure: whatever depends on now takes it. */

import type { Bodied } from "./types.js";

const INTEGER = new Intl.NumberFormat("en-US");
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** 1234567 -> 1,234,567 */
export const count = (value: number): string => INTEGER.format(value);

/** 1 tail, 2 tails */
export const many = (value: number, one: string, several = `${one}s`): string =>
  `${count(value)} ${value === 1 ? one : several}`;

/** As many digits as a glance takes in: 0, 0.4, 12.3, 1,234. */
export function rate(value: number | null | undefined): string {
  if (value == null || !Number.isFinite(value)) return "–";
  return value > 0 && value < 100 && !Number.isInteger(value) ? value.toFixed(1) : INTEGER.format(Math.round(value));
}

export function bytes(value: number): string {
  let unit = 0;
  let size = value;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit++;
  }
  return `${unit && size < 100 ? size.toFixed(1) : Math.round(size)} ${UNITS[unit]}`;
}

/** 850 ms, 1.5 s, 2 min 5 s, 3 h 20 min, 2 d 3 h */
export function duration(ms: number): string {
  if (ms < 0) return `-${duration(-ms)}`;
  if (ms < 1000) return `${ms < 10 && !Number.isInteger(ms) ? ms.toFixed(1) : Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10 && !Number.isInteger(s)) return `${s.toFixed(1)} s`;
  const whole = Math.round(s);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(whole, 60, "min", "s");
  if (whole < 86400) return two(Math.floor(whole / 60), 60, "h", "min");
  return two(Math.floor(whole / 3600), 24, "d", "h");
}

function two(value: number, base: number, large: string, small: string): string {
  const rest = value % base;
  return `${Math.floor(value / base)} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

const pad = (value: number, digits = 2): string => String(value).padStart(digits, "0");

/** Time of day to the millisecond, in the reader's zone. */
export function clock(ms: number): string {
  const at = new Date(ms);
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
}

export function stamp(ms: number): string {
  const at = new Date(ms);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${clock(ms)}`;
}

/** "3 s ago", "in 2 min" */
export function ago(ms: number, now: number): string {
  const gone = now - ms;
  if (Math.abs(gone) < 1000) return "now";
  return gone > 0 ? `${duration(Math.floor(gone / 1000) * 1000)} ago` : `in ${duration(Math.ceil(-gone / 1000) * 1000)}`;
}

const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** Text as it is, not as it would like to be read: characters that turn its direction round are written out. */
export const plain = (text: string): string =>
  text.replace(TURNS, (char) => `\\u${char.charCodeAt(0).toString(16)}`); // in JSON this means the same

/** Characters of JSON that are still laid out: indents of deeply nested values are a hundred times what they indent. */
export const LAID_OUT_MAX = 16_384;

/** A body as text, whole. */
export function bodyText(message: Bodied): string {
  if (message.data_text !== undefined) return plain(message.data_text);
  if (message.data_b64 !== undefined) return message.data_b64;
  const text = JSON.stringify(message.data) ?? "";
  return plain(text.length > LAID_OUT_MAX ? text : JSON.stringify(message.data, null, 2) ?? "");
}

/** What the SDK gives as `data`, as the API would show it. */
export function bodied(data: unknown, encoding: "json" | "text" | "binary"): Bodied {
  if (encoding === "text") return { data_text: String(data) };
  if (encoding === "binary" && data instanceof Uint8Array) {
    let text = "";
    for (const byte of data) text += String.fromCharCode(byte);
    return { data_b64: btoa(text) };
  }
  return { data };
}

/** A body on one line, short enough for a table. */
export function preview(message: Bodied, chars = 120): string {
  const text = "data" in message ? plain(JSON.stringify(message.data) ?? "") : bodyText(message);
  const line = text.replace(/\s+/g, " ");
  return line.length > chars ? `${line.slice(0, chars - 1)}…` : line;
}

export const encodingOf = (message: Bodied): "json" | "text" | "binary" =>
  message.data_text !== undefined ? "text" : message.data_b64 !== undefined ? "binary" : "json";
