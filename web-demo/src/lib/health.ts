/**
 * Which topics and groups need somebody: the rules of the badges. Pure. What is kept and not scheduled waits for a group,
 * unless the topic retains what is settled: then the number of kept messages does not say whether any waits.
 */

import type { GroupInfo, TopicInfo } from "./types.js";

const waits = (topic: TopicInfo): boolean => topic.config.retain_ms === 0 && topic.messages > topic.scheduled;

export type TopicState = "stuck" | "unattended" | "fine";

/** "stuck": messages wait, and no group has a member; "unattended": none has, and nobody can tell what waits. */
export function topicState(topic: TopicInfo): TopicState {
  if (!topic.group_count || topic.member_count !== 0) return "fine";
  if (waits(topic)) return "stuck";
  return topic.config.retain_ms > 0 && topic.messages > topic.scheduled ? "unattended" : "fine";
}

export type GroupState = "paused" | "stuck" | "unattended" | "busy" | "idle";

export function groupState(group: GroupInfo, topic: TopicInfo): GroupState {
  if (group.paused) return "paused";
  if (group.member_count) return group.in_flight || group.ready ? "busy" : "idle";
  return waits(topic) && topic.last_seq > group.start_seq ? "stuck" : "unattended";
}
