/** Who is signed in: the token's API, client and numbers, for every component. Owns making and closing them. */

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import { Client } from "pushwire";
import { Api } from "./lib/http.js";
import { allows } from "./lib/rights.js";
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
  const claims = claimsOf(token);
  const seesStats = allows(claims?.caps, { rights: ["admin"], on: "all" });
  return { token, claims, api: new Api(token, claims?.caps), client, stats: new StatsFeed(client, seesStats) };
}

export const SessionContext = createContext<Session | undefined>(undefined);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("no session around this component");
  return session;
}
