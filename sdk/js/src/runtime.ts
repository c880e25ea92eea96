/**
 * Time, chance and turns of the event loop, as the rest of the package sees them. Owns the defaults; a test or an odd
 * platform gives its own. Nothing else here reads a clock or sets a timer.
 */

/** What a client needs of the platform. All times are milliseconds. */
export interface Runtime {
  /** A clock that never goes back. */
  now(): number;
  /** Run this once, so much later. Returns what calls it off. */
  setTimer(run: () => void, delayMs: number): () => void;
  /** Run this soon, after what is ready to run now: what gathers until then leaves in one message. */
  turn(run: () => void): void;
  /** A number from 0 up to, not including, 1. */
  random(): number;
}

interface Platform {
  setImmediate(run: () => void): void;
  MessageChannel: typeof MessageChannel;
}

/** A turn that background tabs do not slow down: a message port where there is one, else a timer. */
function makeTurn(): (run: () => void) => void {
  const { setImmediate, MessageChannel } = globalThis as Partial<Platform>;
  if (setImmediate || !MessageChannel) return setImmediate ?? setTimeout;
  const { port1, port2 } = new MessageChannel();
  const waiting: (() => void)[] = [];
  port1.onmessage = () => waiting.shift()!();
  return (run) => {
    waiting.push(run);
    port2.postMessage(0);
  };
}

let turn: ((run: () => void) => void) | undefined;

/** The platform's own. */
export const defaultRuntime = (): Runtime => ({
  now: () => performance.now(),
  setTimer(run, delayMs) {
    // Longer delays than 2^31 - 1 ms would fire at once.
    const timer = setTimeout(run, Math.min(delayMs, 0x7fffffff));
    return () => clearTimeout(timer);
  },
  turn: (run) => void (turn ??= makeTurn())(run),
  random: Math.random,
});
