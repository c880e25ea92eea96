/**
 * A small typed emitter. Not an EventTarget, which React Native lacks. Owns the listeners and nothing else.
 */

/** Event names to what their listeners get. */
export class Emitter<Events> {
  #listeners = new Map<keyof Events, Set<(event: never) => void>>();

  /** Call `listener` at each `name` event. Returns what takes it off again. */
  on<K extends keyof Events>(name: K, listener: (event: Events[K]) => void): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => void listeners.delete(listener);
  }

  /**
   * Tell the listeners. One that throws keeps no other from hearing it, and is reported. False when there is none.
   * @internal
   */
  _emit<K extends keyof Events>(name: K, event: Events[K]): boolean {
    const listeners = [...(this.#listeners.get(name) ?? [])];
    for (const listener of listeners) {
      try {
        listener(event as never);
      } catch (thrown) {
        report(thrown);
      }
    }
    return !!listeners[0];
  }
}

/** An error that nobody is there to take: shown where the platform shows such, never swallowed. */
export const report = (error: unknown): void => console.error("pushwire:", error);
