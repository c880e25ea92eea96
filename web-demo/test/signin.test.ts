/** The address and the token: routes, the fragment that signs in, requests and their refusals. */

import { describe, expect, it } from "vitest";
import { Api, Refused, told, topicPath, withQuery } from "../src/lib/http.js";
import { allows, capsIn, needOf } from "../src/lib/rights.js";
import { hrefOf, routeOf } from "../src/lib/route.js";
import type { Route } from "../src/lib/route.js";
import { claimsOf, cleaned, forgetToken, keepToken, looksLikeToken, takeToken, tokenInHash } from "../src/lib/token.js";

const TOKEN = `eyJhbGciOiJIUzI1NiJ9.${btoa(JSON.stringify({ sub: "ann", exp: 5 })).replace(/=+$/, "")}.c2ln`;

class Store implements Pick<Storage, "getItem" | "setItem" | "removeItem"> {
  kept = new Map<string, string>();
  getItem = (key: string) => this.kept.get(key) ?? null;
  setItem = (key: string, value: string) => void this.kept.set(key, value);
  removeItem = (key: string) => void this.kept.delete(key);
}

describe("routes", () => {
  const routes: Route[] = [
    { view: "overview" }, { view: "topics" }, { view: "connections" }, { view: "topic", topic: "a:b.c" },
    { view: "life", topic: "messages", seq: 12 }, { view: "dead", topic: "" }, { view: "dead", topic: "t" },
    { view: "tail", topic: "t" }, { view: "worker", topic: "t", group: "g" }, { view: "worker", topic: "", group: "" },
  ];
  it.each(routes)("%o there and back", (route) => expect(routeOf(hrefOf(route))).toEqual(route));

  it.each(["", "#", "#/nowhere", "#/%", "#token=x"])("%s is the overview", (hash) => expect(routeOf(hash)).toEqual({ view: "overview" }));

  it("takes no seq that is none", () => expect(routeOf("#/topics/t/messages/0x")).toEqual({ view: "topic", topic: "t" }));
});

describe("the token", () => {
  it("is found in the fragment, and cleaned", () => {
    expect(tokenInHash(`#token=${TOKEN}`)).toBe(TOKEN);
    expect(tokenInHash("#/token=x")).toBeUndefined();
    expect(cleaned(`  Bearer ${TOKEN}\n`)).toBe(TOKEN);
    expect([looksLikeToken(TOKEN), looksLikeToken("a.b"), looksLikeToken("<b>.c.d")]).toEqual([true, false, false]);
  });

  it("leaves the address at once, and is kept for a reload", () => {
    const store = new Store();
    const seen: string[] = [];
    const location = { hash: `#token=${TOKEN}`, pathname: "/", search: "" } as Location;
    const history = { replaceState: (_data: unknown, _title: string, url: string) => void seen.push(url) } as unknown as History;
    expect(takeToken(location, history, store as unknown as Storage)).toBe(TOKEN);
    expect(seen).toEqual(["/#/"]);
    expect(takeToken({ ...location, hash: "#/topics" }, history, store as unknown as Storage)).toBe(TOKEN);
    expect(seen).toHaveLength(1);
  });

  it("is not replaced by what cannot be one", () => {
    const store = new Store() as unknown as Storage;
    const seen: string[] = [];
    const history = { replaceState: (_data: unknown, _title: string, url: string) => void seen.push(url) } as unknown as History;
    keepToken(TOKEN, store);
    for (const hash of ["#token=x", "#token=<b>", `#token=${"a".repeat(20_000)}`, "#token=a%0d%0a.b.c"]) {
      expect(takeToken({ hash, pathname: "/", search: "" } as Location, history, store)).toBe(TOKEN);
    }
    expect(seen).toEqual(["/#/", "/#/", "/#/", "/#/"]);
  });

  it("is forgotten, but not for the sake of the one before it", () => {
    const store = new Store() as unknown as Storage;
    keepToken("the.new.one", store);
    forgetToken(TOKEN, store);
    expect(takeToken({ hash: "" } as Location, {} as History, store)).toBe("the.new.one");
    forgetToken("the.new.one", store);
    expect(takeToken({ hash: "" } as Location, {} as History, store)).toBeUndefined();
  });

  it("says who it is, if it can be read", () => {
    expect(claimsOf(TOKEN)).toEqual({ subject: "ann", tenant: "default", expiresAtMs: 5000, caps: undefined });
    expect(claimsOf("a.b.c")).toBeUndefined();
  });
});

describe("rights", () => {
  const caps = capsIn([{ topics: ["orders.*", "x"], allow: ["admin"] }, { topics: ["*"], allow: ["replay"] }, null]);
  const may = (path: string) => allows(caps, needOf(path)!);

  it("are those of the gateway's own rule", () => {
    expect([may("/v1/admin/topics"), may("/v1/admin/stats"), may("/metrics"), may("/v1/admin/connections?limit=1")]).toEqual(
      [true, false, false, false]);
    expect(["orders.eu", "orders.", "x", "xy", "t"].map((name) => may(`/v1/admin/topics/${name}/messages?limit=1`))).toEqual(
      [true, false, true, false, false]);
    expect(may("/v1/admin/topics/t/messages/3/history")).toBe(true);
    expect([needOf("/v1/topics/t/messages"), allows(undefined, needOf("/metrics")!), capsIn("*")]).toEqual([undefined, true, undefined]);
  });

  it("spare a question that would be refused", async () => {
    const asked: unknown[] = [];
    const fetcher = (async (url: string) => (asked.push(url), new Response("{}"))) as unknown as typeof fetch;
    const api = new Api("tok", caps, fetcher);
    await expect(api.get("/v1/admin/stats")).rejects.toMatchObject({ code: "forbidden", status: 403 });
    await api.get("/v1/admin/topics/x");
    expect(asked).toEqual(["/v1/admin/topics/x"]);
  });
});

describe("requests", () => {
  const answering = (status: number, body: string, seen: [string, RequestInit][] = []) => {
    const fetcher = (async (url: string, init: RequestInit) => (seen.push([url, init]), new Response(body, { status }))) as unknown as typeof fetch;
    return { api: new Api("tok", undefined, fetcher), seen };
  };

  it("carry the token in a header and nothing else", async () => {
    const { api, seen } = answering(200, '{"a":1}');
    expect(await api.post(topicPath("a:b", "groups", "g", "seek"), { start: "new" })).toEqual({ a: 1 });
    const [url, init] = seen[0]!;
    expect(url).toBe("/v1/admin/topics/a%3Ab/groups/g/seek");
    expect(init).toMatchObject({ method: "POST", credentials: "omit", body: '{"start":"new"}' });
    expect(init.headers).toEqual({ authorization: "Bearer tok", "content-type": "application/json" });
    expect(withQuery("/p", { a: 1, b: undefined, c: "", d: "x y" })).toBe("/p?a=1&d=x+y");
  });

  it("are refused with the gateway's code", async () => {
    const { api } = answering(403, '{"code":"forbidden","title":"not allowed","detail":"<b>"}');
    await expect(api.get("/v1/admin/stats")).rejects.toMatchObject({ code: "forbidden", status: 403, message: "not allowed: <b>" });
  });

  it("tell when the token is no good, and survive a proxy's page", async () => {
    const { api } = answering(401, "<html>");
    let signedOut = 0;
    api.onUnauthorized = () => signedOut++;
    const error: unknown = await api.get("/x").catch((thrown: unknown) => thrown);
    expect([signedOut, (error as Refused).code]).toEqual([1, "internal"]);
    const gone = new Api("tok", undefined, (() => Promise.reject(new TypeError("failed"))) as unknown as typeof fetch);
    expect(told(await gone.get("/x").catch((thrown: unknown) => thrown))).toBe("The gateway does not answer. (offline)");
  });
});
