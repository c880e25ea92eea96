/**
 * A stepped world for the client: a clock, timers and turns that move when told, and a gateway's end of each socket.
 * Owns no expectation.
 */

import type { ServerOp } from "../src/frames.js";
import type { WebSocketConstructor, WebSocketLike } from "../src/links.js";
import type { Runtime } from "../src/runtime.js";

// Loaded by the client when it needs them: here before the first test, as loading takes turns of its own.
await Promise.all([
  import("../src/page.js"),
  import("../src/poll.js"),
  import("../src/publisher.js"),
  import("../src/renewal.js"),
  import("../src/resume.js"),
]);

export type Op = Record<string, unknown> & { op: string; ref?: number };

/** What the gateway says first. */
export const WELCOME: Op = {
  op: "welcome",
  session: "n1.secret",
  server: "pushwire/0.1",
  epoch: "e1",
  heartbeat_ms: 20_000,
  pong_timeout_ms: 10_000,
  expires_in_ms: 3_600_000,
  limits: { frame_bytes_max: 1_064_960 },
};

/** One delivery. */
export function row(seq: number, lease: string, more: object = {}): object {
  return {
    ...{ topic: "orders", seq, id: `m-${seq}`, priority: 1, published_at_ms: 1, lease, attempt: 1, redelivered: false },
    ...{ expires_in_ms: 30_000, data: { n: seq } },
    ...more,
  };
}

/** The gateway's end of one socket. */
export class Socket implements WebSocketLike {
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  onerror: ((event: never) => void) | null = null;
  closed = false;
  closedWith: number | undefined;
  readonly messages: string[] = [];
  private _read = 0;

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {}

  send(data: string): void {
    if (this.closed) throw new Error("sent after close");
    this.messages.push(data);
  }

  close(code?: number): void {
    this.closed = true;
    this.closedWith = code;
  }

  /** What the client said since the last look. */
  said(): Op[] {
    const text = this.messages.slice(this._read).join("\n");
    this._read = this.messages.length;
    return text ? text.split("\n").map((line) => JSON.parse(line) as Op) : [];
  }

  open(): void {
    (this.onopen as (() => void) | null)?.();
  }

  say(...ops: Op[]): void {
    this.hear(ops.map((op) => JSON.stringify(op)).join("\n"));
  }

  /** Let the client hear this, whatever it is. */
  hear(data: string): void {
    (this.onmessage as ((event: { data: string }) => void) | null)?.({ data });
  }

  end(code: number, reason = ""): void {
    this.closed = true;
    (this.onclose as ((event: object) => void) | null)?.({ code, reason });
  }
}

export class World {
  time = 1000;
  chance = 0.5;
  readonly sockets: Socket[] = [];
  private _timers: { at: number; run: () => void }[] = [];
  private _turns: (() => void)[] = [];

  readonly runtime: Runtime = {
    now: () => this.time,
    random: () => this.chance,
    turn: (run) => void this._turns.push(run),
    setTimer: (run, delayMs) => {
      const timer = { at: this.time + delayMs, run };
      this._timers.push(timer);
      return () => void (this._timers = this._timers.filter((other) => other !== timer));
    },
  };

  readonly WebSocket: WebSocketConstructor = ((world: World) =>
    class extends Socket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        world.sockets.push(this);
      }
    })(this);

  get socket(): Socket {
    return this.sockets.at(-1)!;
  }

  /** Everything that is ready to run. */
  async settle(): Promise<void> {
    for (let quiet = 0; quiet < 3; quiet++) {
      // Promises, and the loading of modules, take real turns.
      await new Promise<void>((resolve) => setImmediate(resolve));
      const turns = this._turns.splice(0);
      if (turns.length) quiet = -1;
      for (const turn of turns) turn();
    }
  }

  /** Let time pass, timer by timer. */
  async pass(ms: number): Promise<void> {
    const end = this.time + ms;
    await this.settle();
    for (;;) {
      const next = this._timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this._timers = this._timers.filter((other) => other !== next);
      this.time = Math.max(this.time, next.at);
      next.run();
      await this.settle();
    }
    this.time = end;
  }

  /** Open the newest socket, and welcome its client. Returns what it said after that. */
  async welcome(more: Op = WELCOME): Promise<Op[]> {
    await this.settle();
    const { socket } = this;
    socket.open();
    await this.settle();
    const auth = socket.said().find(({ op }) => op === "auth");
    socket.say(more, ...(auth ? [{ op: "ok", ref: auth.ref!, expires_in_ms: 3_600_000 } as Op] : []));
    await this.settle();
    return socket.said();
  }

  /** Answer each of these with `ok` and what `more` says of it. */
  async grant(ops: Op[], more: (op: Op) => object = () => ({})): Promise<Op[]> {
    const { socket } = this;
    socket.say(...ops.filter(({ ref }) => ref !== undefined).map((op) => ({ op: "ok", ref: op.ref!, ...more(op) })));
    await this.settle();
    return socket.said();
  }

  /** A socket, welcomed, with its first subscription granted. */
  async subscribed(prefetch = 32): Promise<Op> {
    const [subscribe] = await this.welcome();
    await this.grant([subscribe!], ({ sub }) => ({ sub, prefetch, ack_timeout_ms: 30_000 }));
    return subscribe!;
  }
}

/** For the core's own tests. */
export const asServer = (op: Op): ServerOp => op as unknown as ServerOp;
