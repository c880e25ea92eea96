/** The objects of the HTTP API (docs/http.md §8), as far as the dashboard shows them. Owns no behaviour. */

/** What `$sys.stats` shows once a second. Fields may be missing where a gateway is older than this page. */
export interface Stats {
  at_ms: number;
  topics: number;
  groups: number;
  messages: number;
  bytes: number;
  scheduled: number;
  dead_letters: number;
  connections: number;
  sessions: number;
  subscriptions: number;
  tails: number;
  in_flight: number;
  ready?: number;
  published: number;
  refused: number;
  delivered: number;
  redelivered?: number;
  acked: number;
  nacked: number;
  rejected: number;
  released: number;
  stale: number;
  /** Pushes by how long their newest message had been here: upper bound (ms, null: none) and count up to it. */
  push_ms?: [number | null, number][];
}

export interface TopicConfig {
  ack_timeout_ms: number | null;
  max_failures: number | null;
  max_deliveries: number | null;
  weights: number[];
  strict: boolean;
  retain_ms: number;
  max_age_ms: number;
  retain_bytes: number | null;
  quota_messages: number | null;
  quota_bytes: number | null;
  expired: "dead" | "drop";
  ledger: "off" | "settled" | "full";
  dedupe: boolean;
}

export interface TopicInfo {
  name: string;
  last_seq: number;
  messages: number;
  bytes: number;
  scheduled: number;
  dead_letters: number;
  group_count: number;
  member_count?: number;
  in_flight?: number;
  config: TopicConfig;
}

export interface GroupInfo {
  name: string;
  topic: string;
  start_seq: number;
  paused: boolean;
  owner: string | null;
  inactive_ttl_ms: number;
  member_count: number;
  in_flight: number;
  ready?: number;
}

export interface TopicDetail extends TopicInfo {
  groups: GroupInfo[];
}

/** One body, under the name that says how it is encoded. */
export interface Bodied {
  data?: unknown;
  data_text?: string;
  data_b64?: string;
}

export interface MessageInfo extends Bodied {
  seq: number;
  id: string;
  priority: number;
  published_at_ms: number;
  size_bytes: number;
  key?: string;
  headers?: Record<string, string>;
  content_type?: string;
  due_ms?: number;
  expires_ms?: number;
  redriven?: true;
}

export interface Peek {
  messages: MessageInfo[];
  gaps: { from: number; to: number }[];
  through: number;
}

export interface HistoryEvent {
  at_ms: number;
  event: string;
  group: string;
  subject: string;
  attempt: number;
  detail: string | null;
}

export interface History {
  seq: number;
  ledger: "off" | "settled" | "full";
  events: HistoryEvent[];
}

export interface DeadLetter {
  id: number;
  topic: string;
  group: string;
  reason: string;
  error: string | null;
  deliveries: number;
  failures: number;
  at_ms: number;
  message: MessageInfo;
}

export interface DeadLetterDetail extends DeadLetter {
  attempts: { at_ms: number; how: string; subject: string; error: string | null }[];
}

export interface ConnectionInfo {
  id: string;
  subject: string;
  ip: string;
  opened_at_ms: number;
  expires_in_ms: number;
  subscriptions: { sub: string; topic: string; group: string; prefetch: number; in_flight: number }[];
  tails: number;
  refused?: number;
  in_flight: number;
  in_flight_bytes: number;
  unsent_bytes: number;
}
