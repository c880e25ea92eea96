/**
 * The takeover of a former session: what the gateway still holds for it, matched with what is held here. Owns nothing;
 * the parts keep their own. Loaded with the first connection of a client that asks for a grace, as most ask for none.
 */

import type { Roster } from "./roster.js";
import type { Settlements } from "./settlements.js";
import type { AnySubscription } from "./subscription.js";

/** The session was taken over, with these leases by subscription. Call the roster's `_restore` after it. */
export function takeOver(subs: Record<string, string[]>, roster: Roster, settlements: Settlements): void {
  const unknown: string[] = [];
  for (const [name, said] of Object.entries(subs)) {
    const leases = Array.isArray(said) ? said : [];
    const member = roster._members.get(name) as AnySubscription | undefined;
    if (member?._away) {
      unknown.push(...regain(member, leases));
      roster._setFlow(member);
    } else {
      // Left meanwhile, or granted while the connection died: forgotten before it is asked for again.
      roster._unsubscribe(name, false);
    }
  }
  for (const member of roster._subscriptions()) if (member._away) member._void();
  sayAgain(unknown, settlements);
}

/** These were reclaimed; whatever else was held is lost. Returns those that are not known here. */
function regain(member: AnySubscription, leases: string[]): string[] {
  const held = member._leases;
  member._away = false;
  if (member._phase === "opening") member._phase = "active";
  for (const lease of held.keys()) if (!leases.includes(lease)) member._lost(lease);
  return leases.filter((lease) => !held.has(lease));
}

/**
 * The session still holds these leases, which no message holds here: what was said of them did not arrive and is said
 * again; those that never arrived here are given back.
 */
function sayAgain(unknown: string[], settlements: Settlements): void {
  const { _unsure, _sent } = settlements;
  const gathered = [...settlements._batches.values()];
  for (const lease of unknown) {
    if (gathered.some(({ op, leases }) => op !== "extend" && leases.has(lease))) continue;
    const { op = "release", delay_ms, error } = _sent.get(lease) ?? {};
    settlements._add(op, lease, delay_ms, error, _unsure.get(lease));
    _unsure.delete(lease);
  }
  // The rest is gone at the gateway: most likely by our ack, but a lease that ran out looks the same.
  settlements._forget();
}
