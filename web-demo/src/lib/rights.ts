/**
 * What a token says that it allows: so that a view which needs more says so without asking in vain. A hint only; the
 * gateway alone decides, and a token that cannot be read here is always asked with. Pure.
 */

export interface Cap {
  topics: string[];
  allow: string[];
}

export interface Need {
  /** Any of these will do. */
  rights: string[];
  /** A topic; "any": a topic, whichever; "all": every topic. */
  on: { topic: string } | "any" | "all";
}

/** The `caps` claim, if it has the form that the gateway takes. */
export function capsIn(claim: unknown): Cap[] | undefined {
  if (!Array.isArray(claim)) return undefined;
  const words = (value: unknown) => (Array.isArray(value) ? value.filter((one): one is string => typeof one === "string") : []);
  return claim.map((one: Record<string, unknown> | null) => ({ topics: words(one?.topics), allow: words(one?.allow) }));
}

/** What a GET of this path needs. */
export function needOf(path: string): Need | undefined {
  const [bare = ""] = path.split("?");
  if (bare === "/v1/admin/topics") return { rights: ["admin"], on: "any" };
  const [, topic, rest = ""] = /^\/v1\/admin\/topics\/([^/]+)(.*)$/.exec(bare) ?? [];
  if (topic !== undefined) {
    const rights = rest.endsWith("/history") ? ["admin", "replay"] : ["admin"];
    return { rights, on: { topic: decodeURIComponent(topic) } };
  }
  return bare.startsWith("/v1/admin/") || bare === "/metrics" ? { rights: ["admin"], on: "all" } : undefined;
}

export function allows(caps: readonly Cap[] | undefined, { rights, on }: Need): boolean {
  if (!caps) return true;
  return caps.some(({ topics, allow }) => {
    if (!rights.some((right) => allow.includes(right))) return false;
    if (on === "any") return topics.length > 0;
    if (on === "all") return topics.includes("*");
    return topics.some((pattern) => covers(pattern, on.topic));
  });
}

/** The same name, or `prefix*` and at least one character after the prefix. */
const covers = (pattern: string, name: string): boolean =>
  pattern.endsWith("*") ? name.length >= pattern.length && name.startsWith(pattern.slice(0, -1)) : pattern === name;
