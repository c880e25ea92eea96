/**
 * The second way to a gateway, where WebSockets are blocked: long polls and posts (docs/http.md §2), spoken to the
 * client as if they were a WebSocket. Owns the HTTP session, its polls and its streams. The leases are the same.
 */

import type { hinted } from "./backoff.js";
import type { readable } from "./codec.js";
import type { ClientOp, ErrorOp, MessagesOp, PublishOp, Row, ServerOp, SettleOp, SubscribeOp } from "./frames.js";
import type { Link, LinkEvents } from "./links.js";
import type { Runtime } from "./runtime.js";
import { lookForSocket } from "./probe.js";
import { readEvents } from "./sse.js";

/** How long one poll may wait for messages. Below what proxies commonly allow, and below the default ack timeout. */
const WAIT_S = 20;
/** How long an answer may take on top. */
const PATIENCE_MS = 15_000;
/** Requests that wait, at a time: browsers open 6 connections to a host over HTTP/1.1, and two are for settlements. */
const WAITING_MAX = 4;
/** How long what is held may take to be settled before a WebSocket that was found; then the polls go on. */
const PARTING_MS = 30_000;
/** Before a refused poll is repeated, where the gateway names no time. */
const RETRY_MS = 1000;

/** Close 4401, which stands for a token that was not accepted. */
const REJECTED = 4401;
/** See transports.ts; shared by name, so that neither module has to load the other. */
const KEY = "pushwire:poll";

type Problem = Pick<ErrorOp, "code" | "message" | "retryable"> & { retry_after_ms?: number };
type Answer = { body: Record<string, unknown>; problem?: Problem; response: Response };

/** One subscription or tail. */
interface Line {
  op: SubscribeOp;
  window: number;
  /** Leases, and when each runs out. */
  held: Map<string, number>;
  over: boolean;
  /** A request is under way that may bring messages. */
  polling?: boolean;
  abort?: AbortController;
  wake?: () => void;
}

/** What is kept from one link to the next: the secret of the HTTP session. */
export interface PollMemory {
  session?: string;
}

export interface PollOptions {
  _base: string;
  /** Where it is not the platform's own. */
  _fetch: typeof fetch | undefined;
  _runtime: Runtime;
  _token: string | undefined;
  /** Another token: the last one was not accepted. */
  _renew(): Promise<string | undefined>;
  _memory: PollMemory;
  /** These are the core's own: a module that is loaded later brings nothing twice. */
  _hinted: typeof hinted;
  _readable: typeof readable;
  /** Opens a WebSocket; false where none is wanted. */
  _probe: false | ((events: LinkEvents) => Link);
}

/** A link that polls. */
export class PollLink implements Link {
  #lines = new Map<string, Line>();
  #closed = false;
  #settling: Promise<unknown> = Promise.resolve(); // one post after the other, as they were said
  #publishing: Promise<unknown> = Promise.resolve();
  #waiting = 0;
  #parting = false; // nothing new is taken: a WebSocket was found
  #cancel = (): void => undefined;
  #queue: (() => void)[] = [];

  #options: PollOptions;
  #events: LinkEvents;

  constructor(options: PollOptions, events: LinkEvents) {
    this.#options = options;
    this.#events = events;
    void this.#greet();
  }

  send(ops: ClientOp[]): void {
    for (const op of ops) this.#do(op);
  }

  /** By this side: what is held goes back. */
  close(): void {
    const leases = [...this.#lines.values()].flatMap((line) => [...line.held.keys()]);
    this.#end();
    if (leases.length) void this.#settle({ op: "release", leases });
  }

  #end(): void {
    this.#closed = true;
    this.#cancel();
    for (const name of this.#lines.keys()) this.#stop(name);
  }

  #do(op: ClientOp): void {
    switch (op.op) {
      case "auth":
        this.#options._token = op.token;
        return this.#say({ op: "ok", ref: op.ref, resumed: false });
      case "ping":
        return void this.#call("POST", "/v1/tickets").then(
          ({ problem }) => !problem && this.#say({ op: "pong" }),
          () => 0,
        );
      case "pong":
        return;
      case "publish":
        this.#publishing = this.#publishing.then(() => this.#publish(op));
        return;
      case "subscribe":
        return void this.#subscribe(op);
      case "unsubscribe": {
        const held = this.#stop(op.sub);
        if (held?.size) void this.#settle({ op: "release", leases: [...held.keys()] });
        return this.#say({ op: "ok", ref: op.ref });
      }
      case "flow": {
        const line = this.#lines.get(op.sub);
        if (line) this.#flow(line, op.prefetch);
        return this.#say({ op: "ok", ref: op.ref, prefetch: op.prefetch });
      }
      default:
        if (op.op !== "extend") this.#settled(op.leases);
        // What a page gives back on its way out must leave at once.
        if (op.op === "release") void this.#settle(op);
        else this.#settling = this.#settling.then(() => this.#settle(op));
    }
  }

  #settled(leases: string[]): void {
    for (const line of this.#lines.values()) for (const lease of leases) if (line.held.delete(lease)) line.wake?.();
  }

  #say(...ops: ServerOp[]): void {
    // In a turn of its own: the client is in the middle of sending.
    void Promise.resolve().then(() => this.#closed || this.#events._received(ops));
  }

  /** See whether HTTP works and the token is good; a ticket is the cheapest thing to ask for. */
  async #greet(): Promise<void> {
    const answer = await this.#call("POST", "/v1/tickets").catch(() => undefined);
    if (this.#closed || !answer) return;
    if (answer.problem) return this.#lose(undefined, answer.problem.message);
    remember(true);
    this.#events._opened();
    this.#events._received([
      { op: "welcome", session: "", epoch: "", heartbeat_ms: 0, pong_timeout_ms: 0, expires_in_ms: 0, limits: {} },
    ]);
    this.#wait();
  }

  // --- back to a WebSocket

  #wait(): void {
    const { _probe, _runtime } = this.#options;
    if (_probe && !this.#closed) this.#cancel = lookForSocket(_probe, _runtime, () => this.#part());
  }

  /** Take nothing new, and end once everything that is held is settled; or go on, when that takes too long. */
  #part(): void {
    this.#parting = true;
    for (const { abort, op } of this.#lines.values()) if (!op.tail) abort?.abort();
    this.#cancel = this.#options._runtime.setTimer(() => {
      this.#parting = false;
      for (const line of this.#lines.values()) line.wake?.();
      this.#wait();
    }, PARTING_MS);
    void this.#leave();
  }

  async #leave(): Promise<void> {
    if (this.#closed || !this.#parting) return;
    await Promise.all([this.#settling, this.#publishing]);
    // Polls that were called off have ended by then: what one of them still brought is held.
    for (const line of this.#lines.values()) if (line.polling || this.#room(line) < line.window) return;
    this.#lose(undefined, "a WebSocket can be had");
  }

  #lose(code: number | undefined, reason: string): void {
    if (this.#closed) return;
    remember(false);
    this.#end();
    this.#events._lost(code, reason);
  }

  // --- requests

  /** Ask. Rejects, and ends the link, when there is no answer or the token is refused twice. */
  async #call(method: string, path: string, init: RequestInit = {}, waitMs = 0, renewed = false): Promise<Answer> {
    const { _base: base, _fetch: fetch = globalThis.fetch, _runtime: runtime } = this.#options;
    const { _memory: memory, _token: token } = this.#options;
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
      if (!init.signal?.aborted) this.#lose(undefined, "no answer over HTTP");
      throw thrown;
    } finally {
      cancel();
      // A stream goes on: it is stopped through its own signal.
      if (!init.headers) init.signal?.removeEventListener("abort", stop);
    }
    memory.session = answer.response.headers.get("pushwire-session") ?? memory.session!;
    if (answer.response.status !== 401) return answer;
    const fresh = renewed ? undefined : await this.#options._renew().catch(() => undefined);
    if (fresh === undefined) {
      this.#lose(REJECTED, "unauthorized");
      throw new Error("unauthorized");
    }
    this.#options._token = fresh;
    return this.#call(method, path, init, waitMs, true);
  }

  async #publish({ ref, topic, fields }: PublishOp): Promise<void> {
    const path = `/v1/topics/${encodeURIComponent(topic)}/messages`;
    const answer = await this.#call("POST", path, { body: `{${fields}}` }).catch(() => undefined);
    if (!answer) return;
    if (answer.problem) this.#say({ op: "error", ref, ...answer.problem });
    // Success without receipts is a proxy's, not the gateway's: nothing may be stored.
    else if (!Array.isArray(answer.body.receipts)) {
      this.#say({ op: "error", ref, code: "unavailable", message: "no receipts in the answer", retryable: true });
    } else this.#say({ op: "ok", ref, receipts: answer.body.receipts as [] });
  }

  async #settle({ op, ref, ...fields }: SettleOp): Promise<void> {
    const body = JSON.stringify(fields);
    const answer = await this.#call("POST", `/v1/leases/${op}`, { body, keepalive: op === "release" }).catch(
      () => undefined,
    );
    if (!answer) return;
    const { problem } = answer;
    if (op === "extend") this.#extended(fields.leases, answer.body);
    const { stale, expires_in_ms } = answer.body as { stale?: string[]; expires_in_ms?: number };
    if (problem) return this.#say({ op: "error", ref, leases: fields.leases, ...problem });
    if (!Array.isArray(stale)) {
      // A proxy's success, as above: whether anything was settled is not known.
      const { leases } = fields;
      this.#say({ op: "error", ref, code: "unavailable", message: "no outcome in the answer", retryable: true, leases });
    } else if (stale.length) {
      this.#say({
        op: "error",
        ref,
        code: "stale_lease",
        message: "the lease is gone",
        retryable: false,
        leases: stale,
      });
    } else if (ref !== undefined) {
      this.#say({ op: "ok", ref, ...(expires_in_ms ? { expires_in_ms } : {}) });
    }
  }

  #extended(leases: string[], { expires_in_ms }: { expires_in_ms?: number }): void {
    if (!Number.isSafeInteger(expires_in_ms)) return;
    const until = this.#options._runtime.now() + expires_in_ms!;
    for (const { held } of this.#lines.values()) for (const lease of leases) if (held.has(lease)) held.set(lease, until);
  }

  // --- subscriptions

  async #subscribe(op: SubscribeOp): Promise<void> {
    const line: Line = { op, window: op.prefetch ?? 32, held: new Map(), over: false };
    const waiting = [...this.#lines.values()].filter((other) => other.op.tail).length;
    const refusal =
      op.private || (op.tail && waiting >= WAITING_MAX / 2)
        ? { code: "unsupported", message: "this needs a WebSocket, and none can be had", retryable: false }
        : await this.#prepare(op);
    if (this.#closed) return;
    if (refusal) return this.#say({ op: "error", ref: op.ref, ...refusal });
    this.#lines.set(op.sub, line);
    const { sub, ref } = op;
    this.#say({ op: "ok", ref, sub, prefetch: line.window });
    // Whatever ends a line has been told to the client by then.
    await (op.tail ? this.#follow(line) : this.#poll(line)).catch(() => undefined);
  }

  /** Make the group where it is to begin somewhere, and its topic; what is there stays as it is. */
  async #prepare({ topic, group = "default", start, inactive_ttl_ms }: SubscribeOp): Promise<Problem | undefined> {
    if (start === undefined && inactive_ttl_ms === undefined) return undefined;
    const path = `/v1/admin/topics/${encodeURIComponent(topic)}`;
    const make = (what: string, config: object) =>
      this.#call("PUT", path + what, { body: JSON.stringify(config), headers: { "if-none-match": "*" } }).catch(
        () => undefined,
      );
    await make("", {}); // refused where it is there; where it may not be made, the group's answer says so
    const answer = await make(`/groups/${encodeURIComponent(group)}`, { start, inactive_ttl_ms });
    // There already; or without the right to make it, it may still be there to be joined.
    return ["conflict", "forbidden"].includes(answer?.problem?.code ?? "") ? undefined : answer?.problem;
  }

  async #poll(line: Line): Promise<void> {
    const { topic, group = "default", ack_timeout_ms, sub } = line.op;
    const { _readable: readable, _runtime: runtime } = this.#options;
    const path = `/v1/topics/${encodeURIComponent(topic)}/groups/${encodeURIComponent(group)}/messages`;
    const timeout = ack_timeout_ms ? `&ack_timeout=${ack_timeout_ms / 1000}` : "";
    while (!line.over) {
      const room = this.#room(line);
      if (room <= 0 || this.#parting) {
        void this.#leave();
        const soonest = Math.min(...line.held.values());
        if (soonest < Infinity) await this.#pause(line, soonest - runtime.now());
        else await new Promise<void>((resolve) => (line.wake = resolve));
        continue;
      }
      await this.#slot();
      if (this.#parting) {
        this.#free();
        continue;
      }
      line.polling = true;
      const wait = this.#lines.size > WAITING_MAX ? 1 : WAIT_S;
      line.abort = new AbortController();
      const { signal } = line.abort;
      const query = `?wait=${wait}&max=${room}${timeout}`;
      const askedAt = runtime.now();
      const answer = await this.#call("GET", path + query, { signal }, wait * 1000)
        .catch(() => undefined)
        .finally(() => this.#free());
      line.polling = false;
      if (line.over || this.#closed) return;
      if (!answer) continue; // called off, because the window changed
      if (answer.problem) await this.#refused(line, answer.problem);
      const rows = Array.isArray(answer.body.messages) ? (answer.body.messages as Row[]) : [];
      // What the client would not take must not fill the window.
      const messages = rows.filter((row) => row?.lease && readable({ op: "messages", sub, messages: [row] }));
      for (const { lease, expires_in_ms } of messages) line.held.set(lease!, runtime.now() + expires_in_ms!);
      if (messages[0]) this.#events._received([{ op: "messages", sub, messages }]);
      // Nothing, and long before the time was up: something between here and the gateway answers, and would at once
      // again. Without a pause the two would keep each other busy.
      else if (!answer.problem && runtime.now() - askedAt < wait * 500) await this.#pause(line);
    }
  }

  /** How many more it may hold. A lease that has run out is held no more, and nobody says so. */
  #room({ held, window }: Line): number {
    for (const [lease, at] of held) if (at <= this.#options._runtime.now()) held.delete(lease);
    return window - held.size;
  }

  async #refused(line: Line, problem: Problem): Promise<void> {
    if (!problem.retryable) {
      this.#stop(line.op.sub);
      this.#events._received([{ op: "error", sub: line.op.sub, ...problem }]);
      return;
    }
    await this.#pause(line, problem.retry_after_ms);
  }

  async #pause(line: Line, asked?: number): Promise<void> {
    const { _runtime: runtime, _hinted: hinted } = this.#options;
    await new Promise<void>((resolve) => {
      line.wake = resolve;
      runtime.setTimer(resolve, hinted(asked, RETRY_MS * (1 + runtime.random())));
    });
  }

  /** A tail is a stream of events. It goes on after its last one. */
  async #follow(line: Line): Promise<void> {
    const { topic, sub, from, epoch, after_seq } = line.op;
    let last = epoch === undefined ? undefined : `${epoch}:${after_seq}`;
    const place = typeof from === "object" ? Object.entries(from)[0]!.join(":") : (from ?? "new");
    const path = `/v1/topics/${encodeURIComponent(topic)}/tail`;
    while (!line.over) {
      line.abort = new AbortController();
      const headers = { accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) };
      const query = last ? "" : `?from=${place}`;
      const answer = await this.#call("GET", path + query, { headers, signal: line.abort.signal });
      if (answer.problem) {
        await this.#refused(line, answer.problem);
        continue;
      }
      await readEvents(answer.response, (event, id, data) => {
        if (line.over) return;
        if (id) last = id;
        const at = id.lastIndexOf(":");
        if (event === "message") {
          const op: MessagesOp = { op: "messages", sub, messages: [data as Row], epoch: id.slice(0, at) };
          this.#events._received([op]);
        } else if (event === "gap") {
          this.#events._received([{ op: "gap", sub, ...(data as { from: number; to: number }) }]);
        }
      }).catch(() => line.over || this.#lose(undefined, "the stream broke"));
      if (!line.over) await this.#pause(line); // the gateway ended it: asked again, it says why
    }
  }

  #flow(line: Line, window: number): void {
    line.window = window;
    line.wake?.();
    if (window <= line.held.size) line.abort?.abort();
  }

  #stop(name: string): Map<string, number> | undefined {
    const line = this.#lines.get(name);
    if (!line) return undefined;
    this.#lines.delete(name);
    line.over = true;
    line.wake?.();
    line.abort?.abort();
    return line.held;
  }

  async #slot(): Promise<void> {
    while (this.#waiting >= WAITING_MAX) await new Promise<void>((resolve) => this.#queue.push(resolve));
    this.#waiting++;
  }

  #free(): void {
    this.#waiting--;
    this.#queue.shift()?.();
  }
}

/**
 * A body, or the problem that it describes. What comes from a proxy in between is none of ours, and may be anything.
 */
async function read(response: Response): Promise<{ body: Record<string, unknown>; problem?: Problem }> {
  const text = await response.text();
  let body: Record<string, unknown> = {};
  try {
    body = JSON.parse(text || "{}") ?? {};
  } catch {
    // not ours: the status decides
  }
  if (response.ok) return { body };
  const { code = "unavailable", title, detail, retryable = true, retry_after_ms } = body as Record<string, never>;
  const message = String(detail ?? title ?? `HTTP ${response.status}`);
  return { body, problem: { code, message, retryable, ...(retry_after_ms ? { retry_after_ms } : {}) } };
}

/** That long polls work, for the next page of this tab. */
function remember(works: boolean): void {
  try {
    if (works) sessionStorage.setItem(KEY, "1");
    else sessionStorage.removeItem(KEY);
  } catch {
    // none here; or private modes and sandboxed frames, which throw: nothing is remembered
  }
}
