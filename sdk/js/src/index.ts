/** The public names of the package. Owns nothing. */

export { Client } from "./client.js";
export type { PublishOptions } from "./publisher.js";
export type { ClientOptions, TokenSource } from "./options.js";
export type { Backoff, TokenReason } from "./backoff.js";
export type { Start } from "./codec.js";
export type { Draft, MessageOptions } from "./draft.js";
export type { ClientEvents, State } from "./core.js";
export { PushwireError, Reject, Retry, Unauthorized } from "./errors.js";
export type { FeedEvents } from "./feed.js";
export type { Receipt } from "./frames.js";
export { Message, TailMessage } from "./message.js";
export type { PageEvents } from "./page.js";
export type { Runtime } from "./runtime.js";
export { Subscription } from "./subscription.js";
export type { SubscribeOptions } from "./subscription.js";
export { Tail } from "./tail.js";
export type { Gap, Position, TailOptions } from "./tail.js";
export type { WebSocketConstructor, WebSocketLike } from "./links.js";
