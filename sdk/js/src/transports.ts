/**
 * Which way to a gateway to try next. Owns what has worked: remembered for the life of the tab, where the browser lets
 * it. A page cannot tell a blocked WebSocket from a gateway that is away, so both ways get their turn.
 */

/** After so many WebSockets in a row that came to nothing, one long poll is tried. */
const FAILURES = 2;

export class Transports {
  /** The way that was chosen last. */
  _polling: boolean;
  private _works: boolean; // long polls have worked, WebSockets have not
  private _welcome = false;
  private _failures = 0;
  private _key: string;

  constructor(
    private _wanted: "auto" | "websocket" | "poll",
    base: string,
  ) {
    this._key = `pushwire:poll:${base}`;
    this._works = this._wanted === "auto" && this._storage((storage) => storage.getItem(this._key)) === "1";
    this._polling = this._wanted === "poll" || this._works;
  }

  /** True: a long poll. */
  _choose(): boolean {
    this._welcome = false;
    const auto = this._works || this._failures >= FAILURES;
    return (this._polling = this._wanted === "poll" || (this._wanted === "auto" && auto));
  }

  /** The gateway has said welcome. */
  _welcomed(): void {
    this._welcome = true;
    this._failures = 0;
    this._remember(this._polling);
  }

  /** The connection is gone; `silently`: without a close frame, as a blocked one is. */
  _lost(silently: boolean): void {
    // A long poll that breaks: the network is another one, perhaps, and WebSockets get another chance.
    if (this._polling) {
      this._failures = 0;
      this._remember(false);
    } else if (silently && !this._welcome) {
      this._failures++;
    }
  }

  private _remember(works: boolean): void {
    if (this._wanted !== "auto" || works === this._works) return;
    this._works = works;
    this._storage((storage) => (works ? storage.setItem(this._key, "1") : storage.removeItem(this._key)));
  }

  private _storage<T>(use: (storage: Storage) => T): T | undefined {
    try {
      return globalThis.sessionStorage && use(globalThis.sessionStorage);
    } catch {
      return undefined; // private modes and sandboxed frames throw: nothing is remembered then
    }
  }
}
