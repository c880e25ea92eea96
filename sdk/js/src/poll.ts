/**
 * The second way to a gateway, where WebSockets are blocked: long polls and posts (docs/http.md §2), spoken to the client
 * as if they were a WebSocket. Owns the HTTP session, its polls and its streams. The leases are the same.
 */

import { NO_CLOSE_FRAME, REJECTED } from "./codes.js";
import type { ClientOp, ErrorOp, MessagesOp, PublishOp, Row, ServerOp, SettleOp, SubscribeOp } from "./frames.js";
import type { Link, LinkEvents } from "./links.js";
import type { Runtime } from "./runtime.js";
import { readEvents } from "./sse.js";

/** How long one poll may wait for messages. Below what proxies commonly allow, and below the default ack timeout. */
const WAIT_S = 20;
/** How long an answer may take on top. */
const PATIENCE_MS = 15_000;
/** Requests that wait, at a time: browsers open 6 connections to a host over HTTP/1.1, and two are for settlements. */
const WAITING_MAX = 4;
/** Before a refused poll is repeated, where the gateway names no time. */
const RETRY_MS = 1000;

type Problem = Pick<ErrorOp, "code" | "message" | "retryable"> & { retry_after_ms?: number };
type Answer = { body: Record<string, unknown>; problem?: Problem; response: Response };

/** One subscription or tail. */
interface Line {
  op: SubscribeOp;
  window: number;
  held: Set<string>;
  over: boolean;
  abort?: AbortController;
  wake?: () => void;
}

/** What is kept from one link to the next: the secret of the HTTP session. */
export interface PollMemory {
  session?: string;
}

export interface PollOptions {
  base: string;
  fetch: typeof fetch;
  runtime: Runtime;
  token: string | undefined;
  /** Another token: the last one was not accepted. */
  renew(): Promise<string | undefined>;
  memory: PollMemory;
}

/** A link that polls. */
export class PollLink implements Link {
  private _lines = new Map<string, Line>();
  private _closed = false;
  private _settling: Promise<unknown> = Promise.resolve(); // one post after the other, as they were said
  private _publishing: Promise<unknown> = Promise.resolve();
  private _waiting = 0;
  private _queue: (() => void)[] = [];

  constructor(
    private _options: PollOptions,
    private _events: LinkEvents,
  ) {
    void this._greet();
  }

  send(ops: ClientOp[]): void {
    for (const op of ops) this._do(op);
  }

  /** By this side: what is held goes back. */
  close(): void {
    const leases = [...this._lines.values()].flatMap((line) => [...line.held]);
    this._end();
    if (leases.length) void this._settle({ op: "release", leases });
  }

  private _end(): void {
    this._closed = true;
    for (const name of this._lines.keys()) this._stop(name);
  }

  private _do(op: ClientOp): void {
    switch (op.op) {
      case "auth":
        this._options.token = op.token;
        return this._say({ op: "ok", ref: op.ref, resumed: false });
      case "ping":
        return void this._call("POST", "/v1/tickets").then(({ problem }) => !problem && this._say({ op: "pong" }), () => 0);
      case "pong":
        return;
      case "publish":
        this._publishing = this._publishing.then(() => this._publish(op));
        return;
      case "subscribe":
        return void this._subscribe(op);
      case "unsubscribe": {
        const held = this._stop(op.sub);
        if (held?.size) void this._settle({ op: "release", leases: [...held] });
        return this._say({ op: "ok", ref: op.ref });
      }
      case "flow": {
        const line = this._lines.get(op.sub);
        if (line) this._flow(line, op.prefetch);
        return this._say({ op: "ok", ref: op.ref, prefetch: op.prefetch });
      }
      default:
        for (const line of this._lines.values()) {
          if (op.op !== "extend") for (const lease of op.leases) if (line.held.delete(lease)) line.wake?.();
        }
        // What a page gives back on its way out must leave at once.
        if (op.op === "release") void this._settle(op);
        else this._settling = this._settling.then(() => this._settle(op));
    }
  }

  private _say(...ops: ServerOp[]): void {
    // In a turn of its own: the client is in the middle of sending.
    void Promise.resolve().then(() => this._closed || this._events.received(ops));
  }

  /** See whether HTTP works and the token is good; a ticket is the cheapest thing to ask for. */
  private async _greet(): Promise<void> {
    const answer = await this._call("POST", "/v1/tickets").catch(() => undefined);
    if (this._closed || !answer) return;
    if (answer.problem) return this._lose(NO_CLOSE_FRAME, answer.problem.message);
    this._events.opened();
    this._events.received([
      { op: "welcome", session: "", epoch: "", heartbeat_ms: 0, pong_timeout_ms: 0, expires_in_ms: 0, limits: {} },
    ]);
  }

  private _lose(code: number, reason: string): void {
    if (this._closed) return;
    this._end();
    this._events.lost(code, reason);
  }

  // --- requests

  /** Ask. Rejects, and ends the link, when there is no answer or the token is refused twice. */
  private async _call(
    method: string,
    path: string,
    init: RequestInit = {},
    waitMs = 0,
    renewed = false,
  ): Promise<Answer> {
    const { base, fetch, runtime, memory, token } = this._options;
    const headers: Record<string, string> = { ...(init.headers as Record<string, string>) };
    if (token !== undefined) headers.authorization = `Bearer ${token}`;
    if (memory.session !== undefined) headers["pushwire-session"] = memory.session;
    if (init.body) headers["content-type"] = "application/json";
    const abort = new AbortController();
    const stop = () => abort.abort();
    init.signal?.addEventListener("abort", stop);
    const cancel = runtime.setTimer(stop, waitMs + PATIENCE_MS);
    let answer: Answer;
    try {
      const response = await fetch(base + path, { ...init, method, headers, signal: abort.signal });
      answer = { response, body: {} };
      if (!response.ok || !/event-stream/.test(response.headers.get("content-type") ?? "")) {
        answer = { response, ...(await read(response)) };
      }
    } catch (thrown) {
      if (!init.signal?.aborted) this._lose(NO_CLOSE_FRAME, "no answer over HTTP");
      throw thrown;
    } finally {
      cancel();
      // A stream goes on: it is stopped through its own signal.
      if (!init.headers) init.signal?.removeEventListener("abort", stop);
    }
    memory.session = answer.response.headers.get("pushwire-session") ?? memory.session!;
    if (answer.response.status !== 401) return answer;
    const fresh = renewed ? undefined : await this._options.renew();
    if (fresh === undefined) {
      this._lose(REJECTED, "unauthorized");
      throw new Error("unauthorized");
    }
    this._options.token = fresh;
    return this._call(method, path, init, waitMs, true);
  }

  private async _publish({ ref, topic, fields }: PublishOp): Promise<void> {
    const path = `/v1/topics/${encodeURIComponent(topic)}/messages`;
    const answer = await this._call("POST", path, { body: `{${fields}}` }).catch(() => undefined);
    if (!answer) return;
    if (answer.problem) this._say({ op: "error", ref, ...answer.problem });
    else this._say({ op: "ok", ref, receipts: answer.body.receipts as [] });
  }

  private async _settle({ op, ref, ...fields }: SettleOp): Promise<void> {
    const body = JSON.stringify(fields);
    const answer = await this._call("POST", `/v1/leases/${op}`, { body, keepalive: op === "release" }).catch(() => undefined);
    if (!answer) return;
    const { problem } = answer;
    const { stale, expires_in_ms } = answer.body as { stale?: string[]; expires_in_ms?: number };
    if (problem) return this._say({ op: "error", ref, leases: fields.leases, ...problem });
    if (stale?.length) {
      this._say({ op: "error", ref, code: "stale_lease", message: "the lease is gone", retryable: false, leases: stale });
    } else if (ref !== undefined) {
      this._say({ op: "ok", ref, ...(expires_in_ms ? { expires_in_ms } : {}) });
    }
  }

  // --- subscriptions

  private async _subscribe(op: SubscribeOp): Promise<void> {
    const line: Line = { op, window: op.prefetch ?? 32, held: new Set(), over: false };
    const waiting = [...this._lines.values()].filter((other) => other.op.tail).length;
    const refusal =
      op.private || (op.tail && waiting >= WAITING_MAX / 2)
        ? { code: "unsupported", message: "this needs a WebSocket, and none can be had", retryable: false }
        : await this._prepare(op);
    if (this._closed) return;
    if (refusal) return this._say({ op: "error", ref: op.ref, ...refusal });
    this._lines.set(op.sub, line);
    const { sub, ref } = op;
    this._say({ op: "ok", ref, sub, prefetch: line.window });
    // Whatever ends a line has been told to the client by then.
    await (op.tail ? this._follow(line) : this._poll(line)).catch(() => undefined);
  }

  /** Make the group where it is to begin somewhere; a group that is there stays as it is. */
  private async _prepare({ topic, group = "default", start, inactive_ttl_ms }: SubscribeOp): Promise<Problem | undefined> {
    if (start === undefined && inactive_ttl_ms === undefined) return undefined;
    const path = `/v1/admin/topics/${encodeURIComponent(topic)}/groups/${encodeURIComponent(group)}`;
    const answer = await this._call("PUT", path, { body: JSON.stringify({ start, inactive_ttl_ms }) }).catch(() => undefined);
    // Without the right to make it, it may still be there to be joined.
    return answer?.problem?.code === "forbidden" ? undefined : answer?.problem;
  }

  private async _poll(line: Line): Promise<void> {
    const { topic, group = "default", ack_timeout_ms, sub } = line.op;
    const path = `/v1/topics/${encodeURIComponent(topic)}/groups/${encodeURIComponent(group)}/messages`;
    const timeout = ack_timeout_ms ? `&ack_timeout=${ack_timeout_ms / 1000}` : "";
    while (!line.over) {
      const room = line.window - line.held.size;
      if (room <= 0) {
        await new Promise<void>((resolve) => (line.wake = resolve));
        continue;
      }
      await this._slot();
      const wait = this._lines.size > WAITING_MAX ? 1 : WAIT_S;
      line.abort = new AbortController();
      const { signal } = line.abort;
      const query = `?wait=${wait}&max=${room}${timeout}`;
      const answer = await this._call("GET", path + query, { signal }, wait * 1000)
        .catch(() => undefined)
        .finally(() => this._free());
      if (line.over || this._closed) return;
      if (!answer) continue; // called off, because the window changed
      if (answer.problem) await this._refused(line, answer.problem);
      const messages = (answer.body.messages ?? []) as Row[];
      for (const { lease } of messages) line.held.add(lease!);
      if (messages.length) this._events.received([{ op: "messages", sub, messages }]);
    }
  }

  private async _refused(line: Line, problem: Problem): Promise<void> {
    if (!problem.retryable) {
      this._stop(line.op.sub);
      this._events.received([{ op: "error", sub: line.op.sub, ...problem }]);
      return;
    }
    await this._pause(line, problem.retry_after_ms);
  }

  private async _pause(line: Line, wait = RETRY_MS * (1 + this._options.runtime.random())): Promise<void> {
    await new Promise<void>((resolve) => {
      line.wake = resolve;
      this._options.runtime.setTimer(resolve, wait);
    });
  }

  /** A tail is a stream of events. It goes on after its last one. */
  private async _follow(line: Line): Promise<void> {
    const { topic, sub, from, epoch, after_seq } = line.op;
    let last = epoch === undefined ? undefined : `${epoch}:${after_seq}`;
    const place = typeof from === "object" ? Object.entries(from)[0]!.join(":") : (from ?? "new");
    const path = `/v1/topics/${encodeURIComponent(topic)}/tail`;
    while (!line.over) {
      line.abort = new AbortController();
      const headers = { accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) };
      const query = last ? "" : `?from=${place}`;
      const answer = await this._call("GET", path + query, { headers, signal: line.abort.signal });
      if (answer.problem) {
        await this._refused(line, answer.problem);
        continue;
      }
      await readEvents(answer.response, (event, id, data) => {
        if (line.over) return;
        if (id) last = id;
        const at = id.lastIndexOf(":");
        if (event === "message") {
          const op: MessagesOp = { op: "messages", sub, messages: [data as Row], epoch: id.slice(0, at) };
          this._events.received([op]);
        } else if (event === "gap") {
          this._events.received([{ op: "gap", sub, ...(data as { from: number; to: number }) }]);
        }
      }).catch(() => line.over || this._lose(NO_CLOSE_FRAME, "the stream broke"));
      if (!line.over) await this._pause(line); // the gateway ended it: asked again, it says why
    }
  }

  private _flow(line: Line, window: number): void {
    line.window = window;
    line.wake?.();
    if (window <= line.held.size) line.abort?.abort();
  }

  private _stop(name: string): Set<string> | undefined {
    const line = this._lines.get(name);
    if (!line) return undefined;
    this._lines.delete(name);
    line.over = true;
    line.wake?.();
    line.abort?.abort();
    return line.held;
  }

  private async _slot(): Promise<void> {
    while (this._waiting >= WAITING_MAX) await new Promise<void>((resolve) => this._queue.push(resolve));
    this._waiting++;
  }

  private _free(): void {
    this._waiting--;
    this._queue.shift()?.();
  }
}

/** A body, or the problem that it describes. What comes from a proxy in between is none of ours, and may be anything. */
async function read(response: Response): Promise<{ body: Record<string, unknown>; problem?: Problem }> {
  const text = await response.text();
  let body: Record<string, unknown> = {};
  try {
    body = JSON.parse(text || "{}");
  } catch {
    // not ours: the status decides
  }
  if (response.ok) return { body };
  const { code = "unavailable", title, detail, retryable = true, retry_after_ms } = body as Record<string, never>;
  const message = String(detail ?? title ?? `HTTP ${response.status}`);
  return { body, problem: { code, message, retryable, ...(retry_after_ms ? { retry_after_ms } : {}) } };
}
