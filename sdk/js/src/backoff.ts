/**
 * When to come back: the back-off of reconnects and retries, and the verdict on each lost connection. Owns attempts,
 * uptime, hints and the one token refresh after a rejection. Pure: `now` and chance are handed in.
 */

import { NO_CLOSE_FRAME, REJECTED, shouldReconnect } from "./codes.js";
import { PushwireError, Unauthorized } from "./errors.js";
import type { Goodbye } from "./frames.js";

/**
 * Why a token is asked for: for a new connection; because the current one is about to expire; because the gateway did
 * not accept the last one, so a cached token must not be given again.
 */
export type TokenReason = "connect" | "expiring" | "rejected";

/** A connection that lived this long was a good one: the next loss starts the back-off from the beginning. */
const MIN_UPTIME_MS = 5000;

/** A random time from 0 up to a cap that starts at `baseMs` and doubles to `capMs`. */
export interface Backoff {
  baseMs: number;
  capMs: number;
}

/** How a connection ended, or why none began. */
export interface Loss {
  code: number;
  reason: string;
  /** Set when trying again cannot help. */
  fatal?: PushwireError;
}

/** Full jitter, so that clients that lost the same gateway do not come back together. */
export function delayMs(backoff: Backoff, attempt: number, random: () => number): number {
  return random() * Math.min(backoff.capMs, backoff.baseMs * 2 ** attempt);
}

/** Decides after each loss: come back when, or stop with which error. */
export class Reconnector {
  /** Why the next connection's token is asked for. */
  _reason: TokenReason = "connect";
  private _attempt = 0;
  private _upAt: number | undefined;
  private _rejected = false;

  constructor(
    private _backoff: Backoff,
    private _random: () => number,
    /** Whether asking for another token can give another one. */
    private _refreshable: boolean,
  ) {}

  /** The gateway has said welcome. */
  _up(now: number): void {
    this._upAt = now;
    this._reason = "connect";
  }

  /** There is reason to think that the next attempt will do: back to the short waits. */
  _reset(): void {
    this._attempt = 0;
  }

  /** When to connect again, or why never. A hint of the gateway is a minimum. */
  _down(loss: Loss, goodbye: Goodbye | undefined, now: number): number | PushwireError {
    if (this._upAt !== undefined && now - this._upAt >= MIN_UPTIME_MS) {
      this._attempt = 0;
      this._rejected = false;
    }
    this._upAt = undefined;
    const error = this._final(loss, goodbye);
    if (error) return error;
    const wait = delayMs(this._backoff, this._attempt++, this._random);
    return now + Math.max(wait, goodbye?.retry_after_ms ?? 0);
  }

  private _final(loss: Loss, goodbye: Goodbye | undefined): PushwireError | undefined {
    if (loss.fatal) return loss.fatal;
    // The close frame may not arrive (1006 then); goodbye came before it and says the same.
    const { code, reason } = goodbye ?? loss;
    if (code === REJECTED) {
      if (this._rejected || !this._refreshable) return new Unauthorized(reason || undefined);
      this._rejected = true;
      this._reason = "rejected";
    } else if (!(goodbye ? goodbye.reconnect : shouldReconnect(code))) {
      return new PushwireError(`closed_${code}`, `the gateway closed the connection: ${code} ${reason}`);
    }
    return undefined;
  }
}

/** A loss without a close frame. */
export const lostFor = (reason: string): Loss => ({ code: NO_CLOSE_FRAME, reason });
