/** The life of one message: from what the gateway keeps of it to what a timeline shows. Pure. */

import type { History, HistoryEvent, MessageInfo } from "./types.js";

export type Tone = "plain" | "good" | "warn" | "bad";

export interface Step {
  atMs: number;
  title: string;
  tone: Tone;
  group: string;
  /** Who, which attempt, why. */
  notes: string[];
  /** Since the step before (ms). */
  afterMs: number | undefined;
}

const KNOWN: Record<string, [title: string, tone: Tone]> = {
  delivered: ["Delivered", "plain"],
  acked: ["Acked", "good"],
  nacked: ["Failed (nack)", "warn"],
  timed_out: ["Lease ran out", "warn"],
  released: ["Given back unworked", "plain"],
  returned: ["Given back: its consumer was gone", "warn"],
  dead: ["Dead letter", "bad"],
};

/** Steps in time. Of a message that is still kept, the publish is known even without a ledger. */
export function stepsOf(history: History | undefined, message: MessageInfo | undefined): Step[] {
  const events = history?.events ?? [];
  const steps: Omit<Step, "afterMs">[] = events.map(stepOf);
  if (message && !events.some(({ event }) => event === "published")) {
    const notes = [`id ${message.id}`, ...(message.key ? [`key ${message.key}`] : [])];
    steps.unshift({ atMs: message.published_at_ms, title: "Published", tone: "plain", group: "", notes });
  }
  steps.sort((a, b) => a.atMs - b.atMs);
  return steps.map((step, at) => ({ ...step, afterMs: at ? step.atMs - steps[at - 1]!.atMs : undefined }));
}

function stepOf({ at_ms, event, group, subject, attempt, detail }: HistoryEvent): Omit<Step, "afterMs"> {
  const [title, tone] = KNOWN[event] ?? [event, "plain" as const];
  const notes = [];
  if (subject) notes.push(subject);
  if (attempt) notes.push(`attempt ${attempt}`);
  if (detail) notes.push(detail);
  return { atMs: at_ms, title, tone, group, notes };
}
