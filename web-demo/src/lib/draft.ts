/** The publish form: what was typed in, checked field by field, as what the SDK publishes. Pure. */

import type { MessageOptions } from "pushwire";

export interface Form {
  encoding: "json" | "text";
  body: string;
  id: string;
  key: string;
  priority: string;
  delay: string;
  ttl: string;
  headers: string;
}

export const BLANK: Form = {
  encoding: "json", body: '{\n  "hello": "world"\n}', id: "", key: "", priority: "1", delay: "", ttl: "", headers: "",
}; // prettier-ignore

export type Errors = Partial<Record<keyof Form, string>>;
export type Checked = { errors: Errors; draft?: undefined } | { errors?: undefined; draft: Draft };

export interface Draft {
  data: unknown;
  options: MessageOptions;
}

const NAME = /^[A-Za-z0-9_.:-]{1,255}$/;
const DAYS_366_MS = 366 * 24 * 3600 * 1000;
const KEY_BYTES_MAX = 255;

export function checked(form: Form): Checked {
  const errors: Errors = {};
  const note = <T>(field: keyof Form, read: () => T): T | undefined => {
    try {
      return read();
    } catch (thrown) {
      errors[field] = (thrown as Error).message;
      return undefined;
    }
  };
  const data = note("body", () => bodyOf(form));
  const options: MessageOptions = {
    id: note("id", () => idOf(form.id)),
    key: note("key", () => keyOf(form.key)),
    priority: note("priority", () => priorityOf(form.priority)),
    delayMs: note("delay", () => spanOf(form.delay)),
    ttlMs: note("ttl", () => spanOf(form.ttl, 1)),
    headers: note("headers", () => headersOf(form.headers)),
    text: form.encoding === "text" || undefined,
  };
  return Object.keys(errors).length ? { errors } : { draft: { data, options } };
}

function bodyOf({ encoding, body }: Form): unknown {
  if (encoding === "text") return body;
  if (!body.trim()) throw new Error("A body is needed; null is one, too.");
  try {
    return JSON.parse(body) as unknown;
  } catch (thrown) {
    throw new Error(`Not JSON: ${(thrown as Error).message}`);
  }
}

function idOf(text: string): string | undefined {
  if (!text) return undefined;
  if (!NAME.test(text) || text.length > 128 || text === "." || text === "..") {
    throw new Error("1 to 128 of A-Z a-z 0-9 _ . : -");
  }
  return text;
}

function keyOf(text: string): string | undefined {
  if (new TextEncoder().encode(text).length > KEY_BYTES_MAX) throw new Error(`At most ${KEY_BYTES_MAX} bytes.`);
  return text || undefined;
}

function priorityOf(text: string): number {
  if (!/^[0-3]$/.test(text)) throw new Error("0 (lowest) to 3.");
  return Number(text);
}

const SPAN = /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?$/;
const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 };

/** "90", "90s", "1.5 h": milliseconds; seconds where no unit is given. */
export function spanOf(text: string, leastMs = 0): number | undefined {
  if (!text.trim()) return undefined;
  const [, value, unit = "s"] = SPAN.exec(text.trim()) ?? [];
  if (value === undefined) throw new Error("Such as 500ms, 90s, 5m, 2h or 1d.");
  const ms = Math.round(Number(value) * (UNIT_MS[unit] ?? 1000));
  if (ms < leastMs || ms > DAYS_366_MS) throw new Error(`${leastMs ? "At least 1 ms, at" : "At"} most 366 days.`);
  return ms;
}

/** One `name: value` a line. */
function headersOf(text: string): Record<string, string> | undefined {
  const headers = new Map<string, string>(); // an object would take `__proto__` for its own
  for (const line of text.split("\n").filter((one) => one.trim())) {
    const at = line.indexOf(":");
    const name = line.slice(0, at).trim();
    if (at < 1 || !NAME.test(name)) throw new Error(`Not "name: value": ${line.trim().slice(0, 40)}`);
    headers.set(name, line.slice(at + 1).trim());
  }
  if (headers.size > 32) throw new Error("At most 32.");
  return headers.size ? Object.fromEntries(headers) : undefined;
}

/** Why a name of a topic or group will be refused; undefined when it will not. */
export function nameError(name: string): string | undefined {
  if (!name) return "A name is needed.";
  return NAME.test(name) && name !== "." && name !== ".." ? undefined : "1 to 255 of A-Z a-z 0-9 _ . : -";
}
