/**
 * The numbers of each second for whoever shows them. Owns the tail of `$sys.stats`: there is one while somebody looks
 * and the tab is in sight, and none otherwise, so that a dashboard nobody sees costs the gateway nothing.
 */

import { PushwireError } from "pushwire";
import type { Client, Tail } from "pushwire";
import { added, EMPTY } from "./series.js";
import type { Series } from "./series.js";
import type { Stats } from "./types.js";

export const STATS_TOPIC = "$sys.stats";

export class StatsFeed {
  series: Series = EMPTY;
  /** Why there are no numbers. */
  error: PushwireError | undefined;
  #client: Client;
  #page: Document;
  #listeners = new Set<() => void>();
  #tail: Tail<Stats> | undefined;

  /** `allowed`: whether the token lets one ask at all. */
  constructor(client: Client, allowed: boolean, page: Document = document) {
    this.#client = client;
    this.#page = page;
    if (!allowed) this.error = new PushwireError("forbidden", "the token does not allow this");
  }

  /** Be called after each change. Returns what ends that. */
  watch(listener: () => void): () => void {
    if (!this.#listeners.size) this.#page.addEventListener("visibilitychange", this.#look);
    this.#listeners.add(listener);
    this.#look();
    return () => {
      this.#listeners.delete(listener);
      if (!this.#listeners.size) this.#page.removeEventListener("visibilitychange", this.#look);
      this.#look();
    };
  }

  #look = (): void => {
    const wanted = !this.error && this.#listeners.size > 0 && this.#page.visibilityState !== "hidden";
    if (wanted && !this.#tail && this.#client.state !== "closed") this.#start();
    else if (!wanted) {
      void this.#tail?.close();
      this.#tail = undefined;
    }
  };

  #start(): void {
    const tail = this.#client.tail<Stats>(STATS_TOPIC, ({ data }) => {
      this.series = added(this.series, data);
      this.#tell();
    });
    this.#tail = tail;
    void tail.closed.then((error) => {
      if (this.#tail !== tail) return;
      this.#tail = undefined;
      this.error = error;
      this.#tell();
    });
  }

  #tell(): void {
    for (const listener of this.#listeners) listener();
  }
}
