/**
 * What codes mean to a client: PROTOCOL.md §6 and §7 as far as it acts on them. Owns no text; the shared vectors hold
 * this against the gateway's own tables.
 */

/** Closes after which the same client would be refused again. Every other code, also an unknown one: come back. */
const FINAL_CLOSES = [1000, 1002, 1003, 1007, 1009, 4400, 4403, 4406, 4409];

/** Errors that leave open whether a publish was stored. */
const MAYBE_STORED = ["unavailable", "internal", "going_away"];

/** The token was not accepted: fetch a new one, once. */
export const REJECTED = 4401;

/** No close frame at all (RFC 6455 §7.1.5). */
export const NO_CLOSE_FRAME = 1006;

/** Closes by the gateway after which the session may be resumed: it lost us, and did not send us away. */
export const STILL_OURS = [4000, 4001];

/** Whether to connect again after this close code. */
export function shouldReconnect(code: number): boolean {
  return !FINAL_CLOSES.includes(code);
}

/** Whether a message may be stored although its publish was answered with this error. */
export function maybeStored(code: string): boolean {
  return MAYBE_STORED.includes(code);
}
