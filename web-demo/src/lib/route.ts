/** What the address says: which view, of what. Pure. The fragment is never sent to a server. */

export type Route =
  | { view: "overview" }
  | { view: "topics" }
  | { view: "topic"; topic: string }
  | { view: "life"; topic: string; seq: number }
  | { view: "dead"; topic: string }
  | { view: "connections" }
  | { view: "tail"; topic: string }
  | { view: "worker"; topic: string; group: string };

const enc = encodeURIComponent;

export function hrefOf(route: Route): string {
  switch (route.view) {
    case "overview":
      return "#/";
    case "topics":
    case "connections":
      return `#/${route.view}`;
    case "topic":
      return `#/topics/${enc(route.topic)}`;
    case "life":
      return `#/topics/${enc(route.topic)}/messages/${route.seq}`;
    case "dead":
    case "tail":
      return route.topic ? `#/${route.view}/${enc(route.topic)}` : `#/${route.view}`;
    case "worker":
      return `#/worker${route.topic ? `/${enc(route.topic)}${route.group ? `/${enc(route.group)}` : ""}` : ""}`;
  }
}

/** Whatever it says that is not known leads to the overview. */
export function routeOf(hash: string): Route {
  const [view = "", first = "", second = "", third = ""] = hash.replace(/^#\/?/, "").split("/").map(decoded);
  if (view === "topics" && first && second === "messages" && /^[1-9]\d{0,15}$/.test(third)) {
    return { view: "life", topic: first, seq: Number(third) };
  }
  if (view === "topics") return first ? { view: "topic", topic: first } : { view };
  if (view === "dead" || view === "tail") return { view, topic: first };
  if (view === "worker") return { view, topic: first, group: second };
  if (view === "connections") return { view };
  return { view: "overview" };
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray percent sign is text
  }
}
