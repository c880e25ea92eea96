/**
 * The JSON codec of subprotocol pushwire.v1: operations to text and back, a line each (PROTOCOL.md §2, §4). Owns what
 * can be read. Knows no state. Reading never throws: what cannot be read is left out, as v1 has it for what a newer
 * gateway says.
 */

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

/** The place as the wire has it. */
export const wireStart = (start: Start | undefined): WireStart | undefined =>
  start instanceof Date ? { time_ms: +start } : start;

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
      return typeof op?.op === "string" ? [op] : [];
    } catch {
      return []; // empty, or no JSON
    }
  });
}

// Names mean one thing wherever they stand, so that kinds go by name. A hint that is none is not heeded (backoff.ts).
const TEXT = /^(sub|message|id|topic|lease|epoch|session)$/;
const INTEGER = /^(?!retry).*_ms$|^(seq|from|to|prefetch|attempt|priority)$/;
const ROW = "id topic seq priority published_at_ms";
const LEASED_ROW = `${ROW} attempt expires_in_ms`;
/** What must be there. */
const NEEDED: { [op: string]: string } = {
  __proto__: null as never,
  welcome: "heartbeat_ms pong_timeout_ms expires_in_ms limits",
  error: "code message retryable",
  messages: "sub messages",
  gap: "sub from to",
  goodbye: "code reason reconnect",
};

const fits = ([name, value]: [string, any]): boolean => {
  if (value == null) return true; // counts as absent
  if (TEXT.test(name)) return typeof value === "string";
  if (INTEGER.test(name)) return Number.isSafeInteger(value);
  if (name === "leases") return Array.isArray(value);
  if (name !== "messages") return true;
  return (
    Array.isArray(value) && !!value[0] && value.every((row) => whole(row, row?.lease == null ? ROW : LEASED_ROW))
  );
};

const whole = (value: any, needed = "op"): boolean =>
  needed.split(" ").every((name) => value?.[name] != null) && Object.entries(value).every(fits);

/** Whether an operation has what v1 says, in the kinds that v1 says, as far as a client acts on it. */
export const readable = (op: ServerOp): boolean => whole(op, NEEDED[op.op]);

/** The body of a row: a JSON value, a string, or bytes. */
export const bodyOf = ({ data, data_text, data_b64 }: Row): unknown =>
  data_b64 != null ? Uint8Array.from(atob(data_b64), (char) => char.charCodeAt(0)) : (data_text ?? data);
