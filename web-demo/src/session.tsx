/** Who is signed in: the token's API, client and numbers, for every component. Owns making and closing them. */

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { Client } from "pushwire";
import { Api } from "./lib/http.js";
import { StatsFeed } from "./lib/statsfeed.js";
import { claimsOf } from "./lib/token.js";
import type { Claims } from "./lib/token.js";

export interface Session {
  token: string;
  claims: Claims | undefined;
  api: Api;
  client: Client;
  stats: StatsFeed;
  /** A line for the reader, also of a screen reader. */
  say(text: string, bad?: boolean): void;
  signOut(): void;
}

export type Opened = Pick<Session, "token" | "claims" | "api" | "client" | "stats">;

export function open(token: string): Opened {
  const client = new Client(location.origin, { token });
  return { token, claims: claimsOf(token), api: new Api(token), client, stats: new StatsFeed(client) };
}

export const SessionContext = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("no session around this component");
  return session;
}
