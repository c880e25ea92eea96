/**
 * The JSON codec of subprotocol pushwire.v1: operations to text and back, a line each (PROTOCOL.md §2, §4). Owns what
 * may be said and what can be read. Knows no state. Reading never throws: what cannot be read is left out.
 */

import { PushwireError } from "./errors.js";
import type { ClientOp, Receipt, Row, ServerOp, WireStart } from "./frames.js";

export const SUBPROTOCOL = "pushwire.v1";
/** Of one settlement, and of one publish. */
export const LEASES_PER_OP_MAX = 1000;
export const MESSAGES_PER_OP_MAX = 1000;
/** Characters of the error text kept with a dead letter. */
export const ERROR_TEXT_MAX = 1024;
/** A nack's delay: at most 15 minutes. */
export const DELAY_MS_MAX = 900_000;

/** Where to begin: what is kept, what comes, a seq (the first to get), or a time (the first published from then on). */
export type Start = "earliest" | "new" | { seq: number } | Date;

/** What a message may carry beside its body. */
export interface MessageOptions {
  /** The dedupe key within the topic; by default a time-ordered UUID. A retry needs the same one. */
  id?: string | undefined;
  /** Ordering key: messages of one key reach a group in order. */
  key?: string | undefined;
  /** 0 (lowest) to 3; default 1. */
  priority?: number | undefined;
  headers?: Record<string, string> | undefined;
  /** Deliver it not before so long from now. */
  delayMs?: number | undefined;
  /** The same as a time of the gateway's clock. */
  deliverAt?: Date | undefined;
  /** Do not deliver it from so long on after it became deliverable. */
  ttlMs?: number | undefined;
  contentType?: string | undefined;
  /** Send a string as plain text instead of JSON. */
  text?: boolean | undefined;
}

/** One of several messages that are published together. */
export interface Draft extends MessageOptions {
  data: unknown;
}

/** The place as the wire has it. */
export function wireStart(start: Start | undefined): WireStart | undefined {
  return start instanceof Date ? { time_ms: start.getTime() } : start;
}

/** An integer that half of all JSON readers would round without a word; larger numbers are written with an exponent. */
function checked(_key: string, value: unknown): unknown {
  if (typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < 1e21) {
    throw new TypeError("an integer beyond 2^53 - 1 would lose digits: send it as a string");
  }
  return value;
}

/** JSON as a gateway takes it. Throws a PushwireError for what it would refuse. */
export function toJson(value: unknown): string {
  let text: string | undefined;
  let why = "this value has no form in JSON";
  try {
    text = JSON.stringify(value, checked);
  } catch (thrown) {
    why = (thrown as Error).message;
  }
  // JSON.stringify escapes lone surrogates, and only them, as \udXXX.
  if (text !== undefined && /(^|[^\\])(\\\\)*\\ud[89a-f]/.test(text)) {
    text = undefined;
    why = "a lone surrogate is no text";
  }
  if (text === undefined) throw new PushwireError("bad_request", why, { stored: "no" });
  return text;
}

/** The fields of one message as JSON text without the braces. */
export function messageFields(data: unknown, id: string, options: MessageOptions = {}): string {
  const { key, priority, headers, delayMs, deliverAt, ttlMs, contentType, text } = options;
  const body: Record<string, unknown> = {
    id,
    key,
    priority,
    headers,
    delay_ms: delayMs,
    deliver_at_ms: deliverAt?.getTime(),
    ttl_ms: ttlMs,
    content_type: contentType,
  };
  if (data instanceof Uint8Array) body.data_b64 = toBase64(data);
  else if (text) body.data_text = String(data);
  else if (data === undefined) throw new PushwireError("bad_request", "a message needs a body", { stored: "no" });
  else body.data = data;
  return toJson(body).slice(1, -1);
}

/** One operation as a line. */
export function encode(op: ClientOp): string {
  if (op.op !== "publish") return JSON.stringify(op);
  return `{"op":"publish","ref":${op.ref},"topic":${JSON.stringify(op.topic)},${op.fields}}`;
}

/** The operations of one WebSocket message. What this client does not know is skipped: v1 grows by addition. */
export function decode(text: string): ServerOp[] {
  const ops: ServerOp[] = [];
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    let op: unknown;
    try {
      op = JSON.parse(line);
    } catch {
      continue; // no JSON: only this line is lost
    }
    if (isObject(op)) {
      for (const name in op) if (op[name] === null) delete op[name]; // null counts as absent
      if (READABLE.get(op.op as string)?.(op)) ops.push(op as unknown as ServerOp);
    }
  }
  return ops;
}

type Fields = Record<string, unknown>;

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Whether the fields have these types: s string, i integer, b boolean; a capital one may be absent. */
function has(op: Fields, types: Record<string, string>): boolean {
  for (const name in types) {
    const value = op[name];
    const type = types[name]!;
    if (value === undefined) {
      if (type < "a") continue;
      return false;
    }
    const kind = type.toLowerCase();
    if (kind === "i" ? !Number.isSafeInteger(value) : typeof value !== (kind === "s" ? "string" : "boolean")) {
      return false;
    }
  }
  return true;
}

const strings = (value: unknown): boolean => Array.isArray(value) && value.every((item) => typeof item === "string");
const absentOr = (value: unknown, test: (value: unknown) => boolean): boolean => value === undefined || test(value);
const refIsFine = (op: Fields): boolean => absentOr(op.ref, (ref) => typeof ref === "string" || Number.isInteger(ref));

const ROW = {
  ...{ topic: "s", seq: "i", id: "s", priority: "i", published_at_ms: "i" },
  ...{ lease: "S", attempt: "I", expires_in_ms: "I", due_ms: "I" },
  ...{ key: "S", content_type: "S", redriven: "B", data_text: "S", data_b64: "S" },
};

function isRow(row: unknown): boolean {
  if (!isObject(row)) return false;
  for (const name in row) if (row[name] === null && name !== "data") delete row[name];
  const { headers } = row;
  const leased = (row.lease === undefined) === (row.attempt === undefined);
  const body = "data" in row || row.data_text !== undefined || row.data_b64 !== undefined;
  return (
    body && leased && has(row, ROW) && absentOr(headers, (value) => isObject(value) && strings(Object.values(value)))
  );
}

const READERS: Record<string, (op: Fields) => boolean> = {
  messages: (op) => has(op, { sub: "s" }) && Array.isArray(op.messages) && !!op.messages[0] && op.messages.every(isRow),
  ok: (op) =>
    refIsFine(op) &&
    has(op, { sub: "S", prefetch: "I", ack_timeout_ms: "I", expires_in_ms: "I", epoch: "S", seq: "I" }) &&
    has(op, { session: "S", resumed: "B" }) &&
    absentOr(op.receipts, (rows) => Array.isArray(rows) && rows.every(isReceipt)) &&
    absentOr(op.subs, (subs) => isObject(subs) && Object.values(subs).every(strings)),
  error: (op) =>
    refIsFine(op) &&
    has(op, { code: "s", message: "s", retryable: "b", retry_after_ms: "I", sub: "S" }) &&
    absentOr(op.leases, strings),
  welcome: (op) =>
    has(op, { session: "s", server: "s", epoch: "s", heartbeat_ms: "i", pong_timeout_ms: "i", expires_in_ms: "i" }) &&
    isObject(op.limits),
  ping: refIsFine,
  pong: refIsFine,
  gap: (op) => has(op, { sub: "s", from: "i", to: "i" }),
  goodbye: (op) => has(op, { code: "i", reason: "s", reconnect: "b", retry_after_ms: "I" }),
};

/** A Map, so that no operation can be called like something that every object has. */
const READABLE = new Map(Object.entries(READERS));

function isReceipt(row: unknown): row is Receipt {
  return isObject(row) && has(row, { id: "s", seq: "i", duplicate: "b" });
}

/** The body of a row: a JSON value, a string, or bytes. */
export function bodyOf(row: Row): unknown {
  if (row.data_text !== undefined) return row.data_text;
  return row.data_b64 === undefined ? row.data : fromBase64(row.data_b64);
}

/** Standard base64, padded. */
export function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}

/** The bytes; none for what is no base64. */
export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

/** How many bytes of UTF-8 a text takes. */
export function utf8Bytes(text: string): number {
  let bytes = text.length;
  for (let at = 0; at < text.length; at++) {
    const unit = text.charCodeAt(at);
    if (unit > 0x7f) bytes += unit > 0x7ff && (unit < 0xd800 || unit > 0xdfff) ? 2 : 1;
  }
  return bytes;
}
