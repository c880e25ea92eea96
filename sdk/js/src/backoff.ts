/**
 * When to come back: the back-off of reconnects and retries, and the verdict on each lost connection. Owns attempts,
 * uptime, hints and the one token refresh after a rejection. Pure: `now` and chance are handed in.
 */

import { REJECTED, shouldReconnect } from "./codes.js";
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
}

/** Full jitter, so that clients that lost the same gateway do not come back together. */
export const delayMs = ({ baseMs, capMs }: Backoff, attempt: number, random: () => number): number =>
  random() * Math.min(capMs, baseMs * 2 ** attempt);

/**
 * The longest wait that a gateway may ask for: 15 minutes, as long as a nack may put a message off. What a gateway asks
 * for is seconds; a number that was mangled on its way must not keep a client away for good.
 */
const HINT_MS_MAX = 900_000;

/** How long the gateway asks to wait; `otherwise` where it says nothing, or what is no time. */
export const hinted = (ms: number | undefined, otherwise: number): number =>
  Number.isFinite(ms) && ms! >= 0 ? Math.min(ms!, HINT_MS_MAX) : otherwise;

/** Decides after each loss: come back when, or stop with which error. */
export class Reconnector {
  /** Why the next connection's token is asked for. */
  _reason: TokenReason = "connect";
  /** Losses since the last good connection. */
  _attempt = 0;
  #upAt = Infinity;
  #rejected = false;

  /** The gateway has said welcome. */
  _up(now: number): void {
    this.#upAt = now;
    this._reason = "connect";
  }

  /**
   * How long to wait before connecting again, at least the gateway's hint; or why never. `refreshable`: asking for
   * another token can give another one.
   */
  _down(
    loss: Loss,
    goodbye: Goodbye | undefined,
    now: number,
    refreshable: boolean,
    backoff: Backoff,
    random: () => number,
  ): number | PushwireError {
    if (now - this.#upAt >= MIN_UPTIME_MS) {
      this._attempt = 0;
      this.#rejected = false;
    }
    this.#upAt = Infinity;
    // The close frame may not arrive (1006 then); goodbye came before it and says the same.
    const { code, reason } = goodbye ?? loss;
    if (code === REJECTED) {
      if (this.#rejected || !refreshable) return new Unauthorized();
      this.#rejected = true;
      this._reason = "rejected";
    } else if (!(goodbye?.reconnect ?? shouldReconnect(code))) {
      return new PushwireError(`closed_${code}`, reason || `closed with ${code}`);
    }
    return Math.max(delayMs(backoff, this._attempt++, random), hinted(goodbye?.retry_after_ms, 0));
  }
}
