/**
 * What codes mean to a client: PROTOCOL.md §6 and §7 as far as it acts on them. Owns no text; the shared vectors hold
 * this against the gateway's own tables.
 */

/** The token was not accepted: fetch a new one, once. */
export const REJECTED = 4401;

/** No close frame at all (RFC 6455 §7.1.5). */
export const NO_CLOSE_FRAME = 1006;

/** Whether to connect again after this close code. Codes that are not known mean yes. */
export const shouldReconnect = (code: number): boolean =>
  ![1000, 1002, 1003, 1007, 1009, 4400, 4403, 4406, 4409].includes(code);

/** Whether the session may be resumed after this close by the gateway: it lost us, and did not send us away. */
export const stillOurs = (code: number): boolean => code === 4000 || code === 4001;

/** Whether a message may be stored although its publish was answered with this error. */
export const maybeStored = (code: string): boolean => ["unavailable", "internal", "going_away"].includes(code);
