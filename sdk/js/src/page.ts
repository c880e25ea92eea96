/**
 * The life of a page: what the browser says of it, told to the client. Owns the listeners. A hidden page gives its
 * window back after a while, a frozen or left one at once, so that a sleeping phone holds no work.
 */

/** As much of `document` and `window` as is listened to; `globalThis` of a page is one. */
export interface PageEvents {
  document?: (EventSource & { readonly visibilityState?: string }) | undefined;
  window?: EventSource | undefined;
}

interface EventSource {
  addEventListener(type: string, listener: (event: { persisted?: boolean }) => void): void;
  removeEventListener(type: string, listener: (event: { persisted?: boolean }) => void): void;
}

/** What is done about it. */
export interface PageActions {
  background(): void;
  foreground(): void;
  suspend(): void;
  restore(): void;
  online(): void;
  offline(): void;
}

/** Listen. Returns what stops it. */
export function watchPage({ document, window }: PageEvents, actions: PageActions): () => void {
  const look = () => (document?.visibilityState === "hidden" ? actions.background() : actions.foreground());
  const back = () => {
    actions.restore();
    look();
  };
  const away = () => actions.suspend();
  const listeners: [EventSource | undefined, string, (event: { persisted?: boolean }) => void][] = [
    [document, "visibilitychange", look],
    [document, "freeze", away],
    [document, "resume", back],
    [window, "pagehide", away],
    [window, "pageshow", ({ persisted }) => persisted && back()],
    [window, "online", () => actions.online()],
    [window, "offline", () => actions.offline()],
  ];
  for (const [source, type, listener] of listeners) source?.addEventListener(type, listener);
  if (document?.visibilityState === "hidden") actions.background();
  return () => {
    for (const [source, type, listener] of listeners) source?.removeEventListener(type, listener);
  };
}
