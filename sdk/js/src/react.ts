/**
 * React bindings: hooks over a client that the app made. Own no connection and no client: a client outlives the
 * components that use it, so StrictMode's second mount and hot reloads open nothing twice for good.
 */

import {
  createContext,
  createElement,
  useCallback,
  useContext,
  useEffect,
  useRef,
  useState,
  useSyncExternalStore,
} from "react";
import type { ReactElement, ReactNode } from "react";
import type { Client, Message, PublishOptions, PushwireError, Receipt, State, SubscribeOptions } from "./index.js";

const Context = createContext<Client | undefined>(undefined);

/** Gives the components below it their client. Make the client once, outside of components. */
export function PushwireProvider({ client, children }: { client: Client; children?: ReactNode }): ReactElement {
  return createElement(Context.Provider, { value: client }, children);
}

/** The client of the nearest provider. */
export function useClient(): Client {
  const client = useContext(Context);
  if (!client) throw new Error("no <PushwireProvider> above this component");
  return client;
}

/** Where the client is; the component renders anew when that changes. */
export function useConnectionState(): State {
  const client = useClient();
  const subscribe = useCallback((changed: () => void) => client.on("state", changed), [client]);
  return useSyncExternalStore(
    subscribe,
    () => client.state,
    () => "idle",
  );
}

/** `publish(data, options)` to one topic; always the same function for the same topic. */
export function usePublish(topic: string): (data: unknown, options?: PublishOptions) => Promise<Receipt> {
  const client = useClient();
  return useCallback((data, options) => client.publish(topic, data, options), [client, topic]);
}

/** How to subscribe from a component. Options are compared by value: a new object each time changes nothing. */
export interface UseSubscriptionOptions extends Omit<SubscribeOptions, "signal"> {
  /** Default true; false leaves the group. */
  enabled?: boolean;
}

/** How a component's subscription is. */
export interface SubscriptionStatus {
  /** The gateway has granted it. */
  ready: boolean;
  /** What ended it, if anything did. */
  error: PushwireError | undefined;
}

/**
 * Hand each message of a topic to `handler`, which acks when it is done, as long as the component is there. The handler
 * of the last render is the one that is called. Messages that nobody works on when it goes are given back at once.
 */
export function useSubscription<T = unknown>(
  topic: string,
  handler: (message: Message<T>) => unknown,
  options: UseSubscriptionOptions = {},
): SubscriptionStatus {
  const client = useClient();
  const latest = useRef(handler);
  useEffect(() => {
    latest.current = handler;
  });
  const [status, setStatus] = useState<SubscriptionStatus>({ ready: false, error: undefined });
  const { enabled = true, ...rest } = options;
  const same = JSON.stringify(rest);
  const asked = useRef(rest);
  asked.current = rest;
  useEffect(() => {
    if (!enabled) return undefined;
    let gone = false;
    let close = (): void => undefined;
    // In a task of its own: of StrictMode's two mounts only the one that stays is heard of by the gateway.
    void Promise.resolve().then(() => {
      if (gone) return;
      const subscription = client.subscribe<T>(topic, asked.current, (message) => latest.current(message));
      close = () => void subscription.close();
      subscription.ready.then(
        () => gone || setStatus({ ready: true, error: undefined }),
        () => undefined, // `closed` says why
      );
      void subscription.closed.then((error) => gone || setStatus({ ready: false, error }));
    });
    return () => {
      gone = true;
      close();
      setStatus({ ready: false, error: undefined });
    };
  }, [client, topic, enabled, same]);
  return status;
}
