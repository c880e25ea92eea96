/**
 * The token: where it comes from, how long it is kept, what it says of itself. It is kept in memory and in this tab's
 * session storage, nowhere else, and leaves this page only in the Authorization header and the first frame.
 */

import { capsIn } from "./rights.js";
import type { Cap } from "./rights.js";

const KEY = "pushwire.token";

/** What a token says, for display only: the gateway alone decides what it allows. */
export interface Claims {
  subject: string;
  tenant: string;
  expiresAtMs: number | undefined;
  caps: Cap[] | undefined;
}

/** The token in a fragment such as `#token=…`, if that is what it is. */
export function tokenInHash(hash: string): string | undefined {
  const found = /^#token=([^&]+)/.exec(hash)?.[1];
  return found === undefined ? undefined : cleaned(found);
}

/** As pasted: without blanks, quotes or a leading `Bearer`. */
export const cleaned = (text: string): string => text.trim().replace(/^bearer\s+/i, "").replace(/^["']|["']$/g, "");

/** Whether it has the form of a JWT. */
export const looksLikeToken = (text: string): boolean => /^[\w-]+\.[\w-]+\.[\w-]+$/.test(text) && text.length <= 7168;

export function claimsOf(token: string): Claims | undefined {
  try {
    const middle = (token.split(".")[1] ?? "").replace(/-/g, "+").replace(/_/g, "/");
    const bytes = Uint8Array.from(atob(middle), (char) => char.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>;
    return {
      subject: typeof claims.sub === "string" ? claims.sub : "",
      tenant: typeof claims.tenant === "string" ? claims.tenant : "default",
      expiresAtMs: typeof claims.exp === "number" ? claims.exp * 1000 : undefined,
      caps: capsIn(claims.caps),
    };
  } catch {
    return undefined; // not a JWT: the gateway will say so
  }
}

/**
 * The token this tab was opened with, or kept. One in the address is taken out of it at once; what cannot be one signs
 * nobody out.
 */
export function takeToken(location: Location, history: History, storage: Storage): string | undefined {
  const given = tokenInHash(location.hash);
  if (given !== undefined) history.replaceState(null, "", `${location.pathname}${location.search}#/`);
  if (given !== undefined && looksLikeToken(given)) storage.setItem(KEY, given);
  return storage.getItem(KEY) ?? undefined;
}

export const keepToken = (token: string, storage: Storage): void => storage.setItem(KEY, token);

/** Forget this one. Another that was pasted meanwhile stays: the refusal of the old one may come after it. */
export function forgetToken(token: string | undefined, storage: Storage): void {
  if (storage.getItem(KEY) === token) storage.removeItem(KEY);
}
