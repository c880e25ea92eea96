/**
 * The JSON codec of subprotocol pushwire.v1: operations to text and back, a line each (PROTOCOL.md §2, §4). Owns what
 * may be said and what can be read. Knows no state. Reading never throws: what cannot be read is left out. The types of
 * the fields of what a gateway says are the gateway's word, held by the shared vectors.
 */

import { refuse } from "./errors.js";
import type { ClientOp, Row, ServerOp, WireStart } from "./frames.js";

export const SUBPROTOCOL = "pushwire.v1";
/** Leases of one settlement, messages of one publish. */
export const PER_OP_MAX = 1000;
/** Characters of the error text kept with a dead letter. */
export const ERROR_TEXT_MAX = 1024;
/** A nack's delay: at most 15 minutes. */
export const DELAY_MS_MAX = 900_000;
/** Of a WebSocket message, where a gateway does not say. */
export const FRAME_BYTES_MAX = 1_064_960;

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
export const wireStart = (start: Start | undefined): WireStart | undefined =>
  start instanceof Date ? { time_ms: +start } : start;

/** An integer that half of all JSON readers would round without a word; larger numbers are written with an exponent. */
function checked(_key: string, value: unknown): unknown {
  if (Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value as number) < 1e21) {
    throw new RangeError("an integer beyond 2^53: send it as a string");
  }
  return value;
}

/** JSON as a gateway takes it. Throws a PushwireError for what it would refuse. */
export function toJson(value: unknown): string {
  try {
    const text = JSON.stringify(value, checked);
    // JSON.stringify escapes lone surrogates, and only them, as \udXXX.
    if (!/(^|[^\\])(\\\\)*\\ud[89a-f]/.test(text)) return text;
  } catch (thrown) {
    throw refuse("bad_request", String(thrown));
  }
  throw refuse("bad_request", "a lone surrogate is no text");
}

/** The fields of one message as JSON text without the braces. */
export function messageFields(data: unknown, id: string, options: MessageOptions): string {
  const { key, priority, headers, delayMs, deliverAt, ttlMs, contentType, text } = options;
  if (data === undefined) throw refuse("bad_request", "a message needs a body");
  return toJson({
    id,
    key,
    priority,
    headers,
    delay_ms: delayMs,
    deliver_at_ms: deliverAt && +deliverAt,
    ttl_ms: ttlMs,
    content_type: contentType,
    ...(data instanceof Uint8Array ? { data_b64: toBase64(data) } : text ? { data_text: data } : { data }),
  }).slice(1, -1);
}

/** One operation as a line. */
export const encode = (op: ClientOp): string =>
  op.op === "publish"
    ? `{"op":"publish","ref":${op.ref},"topic":${JSON.stringify(op.topic)},${op.fields}}`
    : JSON.stringify(op);

/** The operations of one WebSocket message. Of what is no operation only the line is lost. */
export function decode(text: string): ServerOp[] {
  return text.split("\n").flatMap((line): ServerOp[] => {
    try {
      const op = JSON.parse(line);
      return op?.op ? [op] : [];
    } catch {
      return []; // empty, or no JSON
    }
  });
}

/** The body of a row: a JSON value, a string, or bytes. */
export const bodyOf = ({ data, data_text, data_b64 }: Row): unknown =>
  data_b64 != null ? Uint8Array.from(atob(data_b64), (char) => char.charCodeAt(0)) : (data_text ?? data);

/** Standard base64, padded. */
export function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
