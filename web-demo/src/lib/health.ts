/** Which topics and groups need somebody: the rules of the badges. Pure. */

import type { GroupInfo, TopicInfo } from "./types.js";

/** Messages wait in the topic, and none of its groups has a member. */
export const topicStuck = (topic: TopicInfo): boolean =>
  topic.group_count > 0 && topic.member_count === 0 && topic.messages > topic.scheduled;

/** It may take messages, the topic keeps some that it may be owed, and nobody is there to take them. */
export const groupStuck = (group: GroupInfo, topic: TopicInfo): boolean =>
  !group.paused && group.member_count === 0 && topic.messages > topic.scheduled && topic.last_seq > group.start_seq;

export type GroupState = "paused" | "stuck" | "busy" | "idle";

export function groupState(group: GroupInfo, topic: TopicInfo): GroupState {
  if (group.paused) return "paused";
  if (groupStuck(group, topic)) return "stuck";
  return group.in_flight || group.ready ? "busy" : "idle";
}
