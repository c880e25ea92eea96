/**
 * The operations of pushwire.v1 as types (PROTOCOL.md §3). Owns names and shapes as they travel; no behaviour.
 */

/** Where a group or tail begins, on the wire. */
export type WireStart = "earliest" | "new" | { seq: number } | { time_ms: number };

export interface AuthOp {
  op: "auth";
  ref: number;
  token: string;
  session?: string | undefined;
  resume_grace_ms?: number | undefined;
}

export interface SubscribeOp {
  op: "subscribe";
  ref: number;
  topic: string;
  sub: string;
  group?: string | undefined;
  prefetch?: number | undefined;
  ack_timeout_ms?: number | undefined;
  start?: WireStart | undefined;
  private?: true | undefined;
  client_id?: string | undefined;
  inactive_ttl_ms?: number | undefined;
  tail?: true;
  from?: WireStart | undefined;
  epoch?: string | undefined;
  after_seq?: number | undefined;
}

/** `fields` is JSON text: what goes into the operation beside `op`, `ref` and `topic`. */
export interface PublishOp {
  op: "publish";
  ref: number;
  topic: string;
  fields: string;
}

export type Verb = "ack" | "nack" | "reject" | "release" | "extend";

export interface SettleOp {
  op: Verb;
  ref?: number | undefined;
  leases: string[];
  delay_ms?: number | undefined;
  error?: string | undefined;
}

export type ClientOp =
  | AuthOp
  | SubscribeOp
  | PublishOp
  | SettleOp
  | { op: "unsubscribe"; ref: number; sub: string }
  | { op: "flow"; ref: number; sub: string; prefetch: number }
  | { op: "ping" | "pong"; ref?: number | string | undefined };

/** One message as it is delivered; a tail's has no lease, attempt, redelivered and expires_in_ms. */
export interface Row {
  topic: string;
  seq: number;
  id: string;
  priority: number;
  published_at_ms: number;
  lease?: string;
  attempt?: number;
  expires_in_ms?: number;
  key?: string;
  headers?: Record<string, string>;
  content_type?: string;
  redriven?: boolean;
  due_ms?: number;
  data?: unknown;
  data_text?: string;
  data_b64?: string;
}

export interface Welcome {
  op: "welcome";
  session: string;
  epoch: string;
  heartbeat_ms: number;
  pong_timeout_ms: number;
  expires_in_ms: number;
  limits: Record<string, number>;
}

export interface Ok {
  op: "ok";
  ref?: number | undefined;
  receipts?: Receipt[];
  sub?: string;
  prefetch?: number;
  ack_timeout_ms?: number;
  expires_in_ms?: number;
  epoch?: string;
  seq?: number;
  session?: string;
  resumed?: boolean;
  subs?: Record<string, string[]>;
}

export interface ErrorOp {
  op: "error";
  ref?: number | undefined;
  code: string;
  message: string;
  retryable: boolean;
  retry_after_ms?: number;
  sub?: string;
  leases?: string[];
}

/** `epoch` is not on the wire: the long-poll link learns it with the first event of a tail. */
export interface MessagesOp {
  op: "messages";
  sub: string;
  messages: Row[];
  epoch?: string;
}

export interface GapOp {
  op: "gap";
  sub: string;
  from: number;
  to: number;
}

export interface Goodbye {
  op: "goodbye";
  code: number;
  reason: string;
  reconnect: boolean;
  retry_after_ms?: number;
}

export type ServerOp =
  Welcome | Ok | ErrorOp | MessagesOp | GapOp | Goodbye | { op: "ping" | "pong"; ref?: number | string };

/** What became of a published message: durable under `seq`, now or (`duplicate`) by an earlier try with its id. */
export interface Receipt {
  id: string;
  seq: number;
  duplicate: boolean;
}
