/**
 * Messages as they are published (PROTOCOL.md §4): what a caller says of one, as JSON text that a gateway takes. Owns
 * the checks without which a gateway could not even say what was wrong.
 */

import { PushwireError } from "./errors.js";

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

/** A publish that was not stored. */
export const refuse = (code: string, message: string): PushwireError =>
  new PushwireError(code, message, { stored: "no" });

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

/** Standard base64, padded. */
export function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return btoa(text);
}
