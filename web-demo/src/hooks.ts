/** What several views need of time, the address and the API. */

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import { told } from "./lib/http.js";
import { routeOf } from "./lib/route.js";
import type { Route } from "./lib/route.js";
import { useSession } from "./session.js";

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const look = () => setHash(location.hash);
    addEventListener("hashchange", look);
    return () => removeEventListener("hashchange", look);
  }, []);
  return routeOf(hash);
}

export function useVisible(): boolean {
  const [visible, setVisible] = useState(document.visibilityState !== "hidden");
  useEffect(() => {
    const look = () => setVisible(document.visibilityState !== "hidden");
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  return visible;
}

/** The time, again and again while the tab is in sight. */
export function useNow(everyMs: number): number {
  const [now, setNow] = useState(Date.now());
  const visible = useVisible();
  useEffect(() => {
    if (!visible) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [visible, everyMs]);
  return now;
}

export interface Loaded<T> {
  data: T | undefined;
  error: unknown;
  /** Ask again now. */
  reload(): void;
}

/**
 * What `load` gives: again when `key` changes, after `reload`, and every so often while the tab is in sight. An error
 * keeps what was there before, unless it was of another key. An empty key loads nothing.
 */
export function useLoad<T>(key: string, load: (signal: AbortSignal) => Promise<T>, everyMs?: number): Loaded<T> {
  const [state, setState] = useState<{ key: string; data: T | undefined; error: unknown }>({
    key: "", data: undefined, error: undefined,
  }); // prettier-ignore
  const [turn, setTurn] = useState(0);
  const visible = useVisible();
  const loader = useRef(load);
  loader.current = load;
  useEffect(() => {
    if (!key || !visible) return;
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const again = () => everyMs !== undefined && !abort.signal.aborted && (timer = setTimeout(ask, everyMs));
    const ask = () =>
      void loader.current(abort.signal).then(
        (data) => {
          if (abort.signal.aborted) return;
          setState({ key, data, error: undefined });
          again();
        },
        (error: unknown) => {
          if (abort.signal.aborted) return;
          setState((old) => ({ key, data: old.key === key ? old.data : undefined, error }));
          const { status = 0 } = error as { status?: number };
          if (status !== 403 && status !== 404) again(); // rights do not grow while one waits, and who makes it reloads
        },
      );
    ask();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [key, visible, everyMs, turn]);
  const reload = useCallback(() => setTurn((value) => value + 1), []);
  return { data: state.key === key ? state.data : undefined, error: state.key === key ? state.error : undefined, reload };
}

/** Do something that may be refused, once at a time, and say how it ended. */
export function useAction(): { busy: boolean; run(what: () => Promise<string>): Promise<boolean> } {
  const { say } = useSession();
  const [busy, setBusy] = useState(false);
  const run = async (what: () => Promise<string>) => {
    setBusy(true);
    try {
      say(await what());
      return true;
    } catch (thrown) {
      say(told(thrown), true);
      return false;
    } finally {
      setBusy(false);
    }
  };
  return { busy, run };
}
