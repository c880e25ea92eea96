/**
 * Which way to a gateway to try next. Owns what has worked. A page cannot tell a blocked WebSocket from a gateway that
 * is away, so both ways get their turn.
 */

/** Kept for the life of the tab by poll.ts: long polls have worked here, and WebSockets had not. */
const KEY = "pushwire:poll";
/** After so many WebSockets in a row that came to nothing, one long poll is tried. */
const FAILURES = 2;

export class Transports {
  /** The way that was chosen last. */
  _polling = false;
  readonly _wanted: "auto" | "websocket" | "poll";
  #failures = 0;

  constructor(wanted: "auto" | "websocket" | "poll") {
    this._wanted = wanted;
    try {
      if (sessionStorage.getItem(KEY)) this.#failures = FAILURES;
    } catch {
      // none here; or private modes and sandboxed frames, which throw: nothing is remembered
    }
  }

  /** True: a long poll. */
  _choose(): boolean {
    return (this._polling = this._wanted === "poll" || (this._wanted === "auto" && this.#failures >= FAILURES));
  }

  /** The gateway has said welcome. */
  _welcomed(): void {
    this.#failures = 0;
  }

  /** The connection is gone; `welcomed`: it was one. `silently`: without a close frame, as a blocked one is. */
  _lost(welcomed: boolean, silently: boolean): void {
    // When a long poll breaks, or ends because a WebSocket opened beside it, WebSockets get another chance.
    if (this._polling) this.#failures = 0;
    else if (silently && !welcomed) this.#failures++;
  }
}
