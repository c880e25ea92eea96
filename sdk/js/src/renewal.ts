/**
 * One token after another on a live connection. Owns when the next one is asked for. Loaded with the first connection
 * of a client whose token comes from a function: another can do nothing about the end of its token.
 */

import type { TokenReason } from "./backoff.js";
import type { Core } from "./core.js";

/** Of a token's life: late enough to use it, early enough for a few tries. */
const REFRESH_AT = 0.8;
/** Between two tokens asked for on one connection, so that a gateway that refuses them all is not a busy loop. */
const RETRY_MS = 1000;

/** What it needs of the client. */
export interface Source {
  _token(reason: TokenReason): Promise<string | undefined>;
  /** None could be had. */
  _failed(thrown: unknown): void;
  _emit(name: "warning", event: { code: string; message: string }): boolean;
}

/** The tokens of one client, over all its connections. */
export class Renewal {
  #asking = false;
  #askedAt = -Infinity;
  #endsAt = 0;
  #core: Core;
  #source: Source;
  #now: () => number;

  constructor(core: Core, source: Source, now: () => number) {
    this.#core = core;
    this.#source = source;
    this.#now = now;
  }

  /** The gateway has accepted one, good for so long; 0: for ever. */
  _accepted(expiresInMs: number): void {
    this.#asking = false;
    this.#endsAt = this.#now() + expiresInMs;
    if (expiresInMs) this.#later(expiresInMs * REFRESH_AT, "expiring");
  }

  #later(delayMs: number, reason: TokenReason): void {
    this.#core._exchange._after(delayMs, () => this._want(reason));
  }

  /** Get another one. */
  _want(reason: TokenReason): void {
    if (this.#asking) return;
    const now = this.#now();
    const wait = this.#askedAt + RETRY_MS - now;
    if (wait > 0) return this.#later(wait, reason);
    this.#asking = true;
    this.#askedAt = now;
    void this.#ask(reason);
  }

  async #ask(reason: TokenReason): Promise<void> {
    let token: string | undefined;
    try {
      token = await this.#source._token(reason);
    } catch (thrown) {
      if (!this.#core._wanted()) return; // closed or suspended meanwhile: nobody waits for it
      const { name, message = String(thrown) } = (thrown ?? {}) as Partial<Error>;
      if (name === "Unauthorized") this.#source._failed(thrown);
      this.#source._emit("warning", { code: "no_token", message });
    }
    // That of a connection that is gone is of no use: the next one asks for its own.
    if (this.#asking && this.#core._exchange._connected) this.#show(token);
  }

  /** None could be had: asked again in half the time that is left. */
  #show(token: string | undefined): void {
    this.#asking = false;
    if (token == null) return this.#later(Math.max(RETRY_MS, (this.#endsAt - this.#now()) / 2), "expiring");
    const core = this.#core;
    core._token = token;
    core._exchange._request(
      (ref) => ({ op: "auth", ref, token }),
      (frame) => {
        if (frame?.op === "ok") {
          core._authorise(frame.expires_in_ms);
          core._roster._restore();
        } else if (frame && !core._refused(frame)) {
          // The old token may still have time. When it has none, the gateway closes, and the reconnect decides.
          this.#source._emit("warning", frame);
          this.#later(RETRY_MS, "rejected");
        }
      },
    );
  }

  /** What was asked for on this connection is not waited for any more. */
  _lost(): void {
    this.#asking = false;
  }
}
