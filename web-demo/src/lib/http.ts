/** The HTTP API: requests with the token, refusals as `Refused`. Owns no state but the token. Knows no view. */

import { allows, needOf } from "./rights.js";
import type { Cap } from "./rights.js";

/** What the gateway refused, by its code (PROTOCOL.md §6); code "offline" when it could not be asked. */
export class Refused extends Error {
  override name = "Refused";
  constructor(
    readonly code: string,
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

export type Query = Record<string, string | number | undefined>;

const part = encodeURIComponent;

/** The path of a topic's resource under /v1/admin. */
export const topicPath = (topic: string, ...rest: (string | number)[]): string =>
  ["/v1/admin/topics", part(topic), ...rest.map((one) => part(one))].join("/");

export function withQuery(path: string, query: Query): string {
  const pairs = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return pairs.length ? `${path}?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : path;
}

export class Api {
  #token: string;
  #caps: readonly Cap[] | undefined;
  #fetch: typeof fetch;
  /** Called when the token is not accepted any more. */
  onUnauthorized: () => void = () => undefined;

  constructor(token: string, caps?: readonly Cap[], fetcher: typeof fetch = (input, init) => fetch(input, init)) {
    this.#token = token;
    this.#caps = caps;
    this.#fetch = fetcher;
  }

  get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
    return this.#json<T>("GET", withQuery(path, query), undefined, signal);
  }

  post<T>(path: string, body: unknown = {}): Promise<T> {
    return this.#json<T>("POST", path, body);
  }

  patch<T>(path: string, body: unknown): Promise<T> {
    return this.#json<T>("PATCH", path, body);
  }

  async delete(path: string): Promise<void> {
    await this.#send("DELETE", path);
  }

  async text(path: string, signal?: AbortSignal): Promise<string> {
    return (await this.#send("GET", path, undefined, signal)).text();
  }

  async #json<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
    return (await this.#send(method, path, body, signal)).json() as Promise<T>;
  }

  async #send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
    const need = method === "GET" ? needOf(path) : undefined;
    if (need && !allows(this.#caps, need)) throw new Refused("forbidden", "The token does not allow this.", 403);
    const headers: Record<string, string> = { authorization: `Bearer ${this.#token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    const init: RequestInit = { method, headers, cache: "no-store", credentials: "omit" };
    if (body !== undefined) init.body = JSON.stringify(body);
    if (signal) init.signal = signal;
    let response: Response;
    try {
      response = await this.#fetch(path, init);
    } catch (thrown) {
      if (signal?.aborted) throw thrown;
      throw new Refused("offline", "The gateway does not answer.", 0);
    }
    if (response.ok) return response;
    if (response.status === 401) this.onUnauthorized();
    throw await refusalIn(response);
  }
}

async function refusalIn(response: Response): Promise<Refused> {
  try {
    const { code, title, detail } = (await response.json()) as Record<string, unknown>;
    const text = [title, detail].filter((one) => typeof one === "string").join(": ");
    return new Refused(typeof code === "string" ? code : "internal", text || response.statusText, response.status);
  } catch {
    return new Refused("internal", `The answer was ${response.status}.`, response.status); // a proxy's page
  }
}

export const isForbidden = (error: unknown): boolean => error instanceof Refused && error.status === 403;

/** An error as a sentence. */
export function told(error: unknown): string {
  if (error instanceof Refused) return `${error.message} (${error.code})`;
  const code = (error as { code?: unknown }).code;
  const { message } = error as { message?: unknown };
  const text = typeof message === "string" ? message : String(error);
  return typeof code === "string" ? `${text} (${code})` : text;
}
