/** Redriving and discarding more than one request does: asking again as the answers say. Pure but for what it is given. */

import { count } from "./format.js";

export type Verb = "redrive" | "discard";

export interface Answer {
  redriven?: number;
  discarded?: number;
  more: boolean;
  after_id: number;
  before_ms: number;
  stopped?: string;
}

/** Requests one press of a button makes at most; what is left is told. */
const ROUNDS_MAX = 100;

const PAST = { redrive: "put back", discard: "discarded" };

/** Ask until there is no more, as the answers say how to go on. Stops where the gateway does. */
export async function rounds(verb: Verb, wanted: object, ask: (body: object) => Promise<Answer>): Promise<string> {
  let done = 0;
  let more = false;
  let body: Record<string, unknown> = { ...wanted };
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const answer = await ask(body);
    done += answer.redriven ?? answer.discarded ?? 0;
    if (answer.stopped) return `${count(done)} ${PAST[verb]}; then the gateway stopped: ${answer.stopped}.`;
    more = answer.more;
    if (!more) break;
    const match = body.match as object | undefined;
    body = { ...body, before_ms: answer.before_ms, ...(match && { match: { ...match, after_id: answer.after_id } }) };
  }
  return `${count(done)} ${PAST[verb]}${more ? "; there are more" : ""}.`;
}
