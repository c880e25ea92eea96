/** What stands where data cannot: that it is being loaded, missing, or not allowed. */

import type { ComponentChildren } from "preact";
import { isForbidden, told } from "../lib/http.js";

export function Notice({ tone = "plain", children }: { tone?: "plain" | "bad"; children: ComponentChildren }) {
  return <p class={`notice ${tone}`}>{children}</p>;
}

/** The error in place of what was asked for; `right` names what a token needs to see it. */
export function Trouble({ error, right }: { error: unknown; right: string }) {
  if (error === undefined) return null;
  if (isForbidden(error) || (error as { code?: string } | null)?.code === "forbidden") {
    return <Notice>Your token does not have the right {right}, so this is not shown.</Notice>;
  }
  return <Notice tone="bad">{told(error)}</Notice>;
}

export const Loading = () => <p class="notice plain" aria-busy="true">Loading…</p>;
