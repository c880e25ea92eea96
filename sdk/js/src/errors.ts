/**
 * The errors of the SDK. Owns their classes; the codes are those of PROTOCOL.md §6, and the few that only a client can
 * have: `timeout`, `aborted`, `closed`, `closed_<close code>`, `not_connected`, `buffer_full`, `lease_lost`,
 * `already_settled`.
 */

/** What a refusal is made of. */
export interface ErrorDetails {
  /** Whether the same request may succeed later. */
  retryable?: boolean;
  /**
   * Of a publish: whether the message may be stored all the same. Only a retry with the same id tells after "maybe".
   */
  stored?: "no" | "maybe";
  /** Of `epoch_changed`: the gateway's epoch now. */
  epoch?: string | undefined;
}

/** Everything that this package throws or reports. Programs look at `code`; `message` is for people. */
export class PushwireError extends Error implements ErrorDetails {
  override name = "PushwireError";
  /** A stable name of what went wrong. */
  declare readonly code: string;
  declare readonly retryable?: boolean;
  declare readonly stored?: "no" | "maybe";
  declare readonly epoch?: string | undefined;

  constructor(code: string, message: string, details?: ErrorDetails) {
    super(message);
    this.code = code;
    Object.assign(this, details);
  }
}

/** The token was not accepted. Thrown by a token callback, it stops the client for good: nobody is signed in. */
export class Unauthorized extends PushwireError {
  override name = "Unauthorized";
  constructor(message = "the token was not accepted") {
    super("unauthorized", message);
  }
}

/** Thrown by a handler: deliver this message again, after `delayMs` (at most 15 minutes) or the gateway's back-off. */
export class Retry extends Error {
  override name = "Retry";
  readonly delayMs: number | undefined;
  constructor(delayMs?: number, message = "retry") {
    super(message);
    this.delayMs = delayMs;
  }
}

/** Thrown by a handler: this message can never succeed. It goes to the dead letters, with the text as its reason. */
export class Reject extends Error {
  override name = "Reject";
}

export const asError = (thrown: unknown): Error => (thrown instanceof Error ? thrown : new Error(String(thrown)));

export const closedError = (): PushwireError => new PushwireError("closed", "it was closed");

export const leaseLost = (): PushwireError => new PushwireError("lease_lost", "the lease is gone");
