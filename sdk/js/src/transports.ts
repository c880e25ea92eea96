/**
 * Which way to a gateway to try next. Owns what has worked: remembered for the life of the tab, where the browser lets
 * it. A page cannot tell a blocked WebSocket from a gateway that is away, so both ways get their turn.
 */

/** After so many WebSockets in a row that came to nothing, one long poll is tried. */
const FAILURES = 2;
const KEY = "pushwire:poll";

export class Transports {
  /** The way that was chosen last. */
  _polling = false;
  #wanted: "auto" | "websocket" | "poll";
  #failures = 0;

  constructor(wanted: "auto" | "websocket" | "poll") {
    this.#wanted = wanted;
    // Long polls have worked here, WebSockets have not.
    if (storage((store) => store.getItem(KEY))) this.#failures = FAILURES;
  }

  /** True: a long poll. */
  _choose(): boolean {
    return (this._polling = this.#wanted === "poll" || (this.#wanted === "auto" && this.#failures >= FAILURES));
  }

  /** The gateway has said welcome. */
  _welcomed(): void {
    this.#failures = 0;
    if (this._polling) storage((store) => store.setItem(KEY, "1"));
  }

  /** The connection is gone; `welcomed`: it was one. `silently`: without a close frame, as a blocked one is. */
  _lost(welcomed: boolean, silently: boolean): void {
    if (this._polling) {
      // The network is another one, perhaps, and WebSockets get another chance.
      this.#failures = 0;
      storage((store) => store.removeItem(KEY));
    } else if (silently && !welcomed) {
      this.#failures++;
    }
  }
}

function storage<T>(use: (store: Storage) => T): T | undefined {
  try {
    return use(sessionStorage);
  } catch {
    return undefined; // none here; or private modes and sandboxed frames, which throw: nothing is remembered
  }
}
