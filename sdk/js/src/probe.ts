/**
 * The look for a WebSocket beside the long polls: an outage may have passed that looked like a wall. Owns when one is
 * tried, and its end. Shows no more than that one can be had.
 */

import type { Link, LinkEvents } from "./links.js";
import type { Runtime } from "./runtime.js";

/**
 * After so long, half more or less, a WebSocket is tried: seldom enough to cost nothing, often enough that a tab is not
 * left behind for a day. The spread keeps tabs that one outage sent to polls from coming back together.
 */
const AFTER_MS = 600_000;
/** How long it may take to open. */
const OPEN_MS = 15_000;

/** Try until one opens, then say so once. Returns what stops it. */
export function lookForSocket(open: (events: LinkEvents) => Link, runtime: Runtime, found: () => void): () => void {
  let link: Link | undefined;
  let cancel: () => void;
  const stop = () => {
    cancel();
    link?.close();
    link = undefined;
  };
  const wait = () => {
    cancel = runtime.setTimer(look, AFTER_MS * (0.5 + runtime.random()));
  };
  const again = () => {
    stop();
    wait();
  };
  const look = () => {
    cancel = runtime.setTimer(again, OPEN_MS);
    const opened = () => {
      stop();
      found();
    };
    try {
      link = open({ _opened: opened, _received: () => undefined, _lost: again });
    } catch {
      again();
    }
  };
  wait();
  return stop;
}
