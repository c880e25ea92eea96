"""Demand and supply of every open lane: who is to be given what next, from commit, backlog and due retries.

Owns the loop's side of a store's promise "once per open, in seq order, never more than wanted, never before it is
due". It reads no disk and no clock: it asks for a `Scan`, which the store runs on its writer in the order of its
batches, and is told of every commit. That order is what makes it exact, so results must come back in it too.

Where one lane stands, and what that means, is `lane.py`'s. While a lane is caught up, commits feed it from memory; as
soon as demand runs out it falls behind, and scans feed it, each in its turn.

What a lane has not come to, and what waits for its retry, is the store's, and so is the end of its TTL: `expired` is
said here, once per message and group until it is settled. So is `lapsed`, of what was handed over and has a key.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection, Sequence
from operator import itemgetter

from .base import PRIORITIES, Batch, Consumer, Dead, Done, Group, Message, Retry
from .lane import KeyWant, Lane
from .planning import Lapsed, group_lane
from .scans import Scan, Scanned

SCANS_QUEUED_MAX = 2
"""Scans given to the writer and not yet back: a batch waits behind these at most; the writer has the next at hand."""
DUES_SLACK = 64
"""Stale entries the heap of dues may hold beside one per lane, before it is built anew."""


class LaneFeed:
    """All open lanes of one store. Every method runs on the loop."""

    def __init__(self, submit: Callable[[Scan], None], now_ms: int, consumer: Consumer) -> None:
        self.now_ms = now_ms
        self.returns = 0
        """How often messages that were in hand became the store's again, some of which may have expired there."""
        self._submit = submit
        self._consumer = consumer
        self._lanes: dict[int, Lane] = {}
        self._open_lanes: Collection[int] | None = None
        """A copy of the keys, for the writer's thread; made anew only after a change, because there may be many."""
        self._live: dict[int, dict[Lane, None]] = {}
        """Caught-up lanes by topic lane: those a commit has to look at, however many others exist."""
        self._hungry: deque[Lane | KeyWant] = deque()
        """Lanes whose scan waits for its turn, and keys asked for."""
        self._unseen: deque[Lane] = deque()
        """Those of them that no scan has been back for."""
        self._unseen_next = False
        self._stalled: dict[Lane, None] = {}
        """Lanes whose last scan failed."""
        self._stalled_keys: list[KeyWant] = []
        """Keys whose last scan failed."""
        self._reported: set[tuple[int, int]] = set()
        """(group id, seq) of expired messages that were said to be so and are not yet settled."""
        self._scans = 0
        self._dues: list[tuple[int, int, Lane]] = []
        self._pushes = 0

    # -- what the gateway says

    def want(self, group: Group, priority: int, count: int) -> None:
        key = group_lane(group.id, priority)
        if key not in self._lanes:
            self._open(group)
        lane = self._lanes[key]
        lane.demand = count
        if count > 0:
            if lane.owed_until_ms is not None:
                lane.asked_until_ms, lane.owed_until_ms = lane.owed_until_ms, None
            self._feed(lane)

    def _open(self, group: Group) -> None:
        """All lanes of a group at once: what the first one brings may have to wait for the others."""
        opened = {group_lane(group.id, each): Lane(group, each, self.now_ms) for each in range(PRIORITIES)}
        self._lanes.update(opened)
        self._open_lanes = None
        for lane in opened.values():
            if group.start_seq >= group.topic.last_seq:  # a new group, mostly: there is nothing yet that it is owed
                lane.caught_up = lane.seen = True
                self._live.setdefault(lane.topic_lane, {})[lane] = None
            self._tell(lane)

    def forget(self, group: Group) -> None:
        self._open_lanes = None
        for priority in range(PRIORITIES):
            lane = self._lanes.pop(group_lane(group.id, priority), None)
            if lane is not None:
                lane.closed = True
                self.returns += 1
                self._leave(lane)

    def open_lanes(self) -> Collection[int]:
        if self._open_lanes is None:
            self._open_lanes = frozenset(self._lanes)
        return self._open_lanes

    def gone(self, group: Group) -> None:
        """The group was deleted, or moved: nothing of what was said of it holds, and may have to be said again."""
        self.forget(group)
        held = {each for each in self._reported if each[0] != group.id}
        if len(held) < len(self._reported):
            self._reported = held
            self.returns += 1

    def want_key(self, group: Group, priority: int, key: str, after_seq: int, count: int) -> None:
        lane = self._lanes[group_lane(group.id, priority)]
        self._hungry.append(KeyWant(lane, key, after_seq, count))
        self._pump()

    def due(self, now_ms: int) -> None:
        self.now_ms = max(self.now_ms, now_ms)
        while (due_ms := self.next_due_ms()) is not None and due_ms <= now_ms:
            lane = heapq.heappop(self._dues)[2]
            lane.noted_ms = None
            lane.asked_until_ms = now_ms
            self._feed(lane)

    def next_due_ms(self) -> int | None:
        """Lanes being served already do not count: they come back by themselves."""
        dues = self._dues
        while dues:
            due_ms, _, lane = dues[0]
            if lane.noted_ms == due_ms and self._waits(lane) and lane.next_due_ms() == due_ms:
                return due_ms
            heapq.heappop(dues)
            if lane.noted_ms == due_ms:
                lane.noted_ms = None
                self._note(lane)
        return None

    # -- what the store says, in the order of its work

    def settled(self, batch: Batch) -> None:
        """The batch's settlements are durable."""
        lanes = self._lanes
        for settlement in batch.settlements:
            if isinstance(settlement, Done):
                self._gone(settlement.group, settlement.messages)
                if self._reported:
                    self._reported -= {(settlement.group.id, message.seq) for message in settlement.messages}
                continue
            self._reported.discard((settlement.group.id, settlement.message.seq))
            message = settlement.message
            lane = lanes.get(group_lane(settlement.group.id, message.priority))
            if lane is None:
                continue
            if isinstance(settlement, Dead):
                lane.lapsed.discard(message.seq)
            if lane.waiting:
                lane.waiting.pop(message.seq, None)
            if isinstance(settlement, Retry) and message.expires_ms is not None and message.expires_ms <= self.now_ms:
                self.returns += 1
            if isinstance(settlement, Retry) and message.seq <= lane.cursor:
                lane.waits_again((settlement.due_ms, message.seq))
                self._note(lane)

    def _gone(self, group: Group, messages: Sequence[Message]) -> None:
        for priority in range(PRIORITIES):
            lane = self._lanes.get(group_lane(group.id, priority))
            if lane is not None and (lane.waiting or lane.lapsed):
                for message in messages:
                    if message.priority == priority:
                        lane.waiting.pop(message.seq, None)
                        lane.lapsed.discard(message.seq)

    def fell_behind(self, topic_lanes: Sequence[int]) -> None:
        """These got messages that only a scan finds."""
        for key in topic_lanes:
            for lane in list(self._live.get(key, ())):
                lane.caught_up = False
                self._leave(lane)
                self._feed(lane)
                self._tell(lane)

    def promoted(self, rows: Sequence[tuple[int, int, int]]) -> None:
        """Messages that were scheduled have become due: (group lane, seq, due). A lane that has passed their place gets
        them like retries."""
        asked: dict[Lane, int] = {}
        for key, seq, due_ms in [row for row in rows if row[0] in self._lanes]:
            lane = self._lanes[key]
            asked[lane] = due_ms
            if lane.caught_up and not lane.busy:  # nothing else was deliverable above its cursor, nor is on its way
                lane.cursor = max(lane.cursor, seq)
            if seq <= lane.cursor:
                lane.waits_again((due_ms, seq))
                self._note(lane)
            elif lane.caught_up:
                lane.caught_up = False
                self._leave(lane)
        for lane, due_ms in asked.items():
            if lane.demand > 0:
                lane.asked_until_ms = max(due_ms, lane.asked_until_ms or 0)
                self._feed(lane)
            elif lane.next_due_ms() is not None:
                lane.owed_until_ms = due_ms
            self._tell(lane)

    def committed(self, fresh: dict[int, list[Message]], *, expiring: bool) -> None:
        """New messages are durable: hand them to the lanes that wait for nothing else. A higher priority comes first:
        what is stored together is there together, so a lower one must not get ahead of it."""
        for key, messages in sorted(fresh.items(), key=itemgetter(0), reverse=True):
            for lane in list(self._live.get(key, ())):
                if not lane.closed and lane.caught_up:  # an arrival before may have changed that
                    self._hand_fresh(lane, messages, expiring=expiring)
        if self._stalled:
            stalled, self._stalled = self._stalled, {}
            for lane in stalled:
                self._feed(lane)
        if self._stalled_keys:
            self._hungry.extend(self._stalled_keys)
            self._stalled_keys.clear()
            self._pump()

    def _hand_fresh(self, lane: Lane, messages: Sequence[Message], *, expiring: bool) -> None:
        if messages[0].seq <= lane.group.start_seq:  # stored by the commit that made the group, and before it
            messages = [each for each in messages if each.seq > lane.group.start_seq]
            if not messages:
                return
        over: Sequence[Message] = ()
        if expiring:
            over = [each for each in messages if each.expires_ms is not None and each.expires_ms <= self.now_ms]
            messages = [each for each in messages if each.expires_ms is None or each.expires_ms > self.now_ms]
        count = min(lane.demand, len(messages))
        if count < len(messages):
            lane.caught_up = False
            self._leave(lane)
            messages = messages[:count]
        elif over:
            lane.cursor = max(lane.cursor, over[-1].seq)
        if count > 0:
            lane.cursor = max(lane.cursor, messages[-1].seq)
            lane.demand -= count
        over = [each for each in over if each.seq <= lane.cursor]
        if count > 0:
            self._consumer.arrived(lane.group, lane.priority, messages, None, ())
        if over:
            self._report(lane.group, over)
        self._tell(lane)

    def scanned(self, scan: Scan, result: Scanned) -> None:
        """A scan is back. What no longer fits the demand is left where it was."""
        self._scans -= 1
        lane = scan.lane
        assert isinstance(lane, Lane)
        if scan.key is not None:
            self._answer(lane, scan, result)
            return
        lane.busy = False
        lane.seen = True
        if lane.closed:
            self._pump()
            return
        before = lane.cursor
        taken = lane.take(scan, result)
        if lane.caught_up:
            self._live.setdefault(lane.topic_lane, {})[lane] = None
        if result.failed:
            lane.asked_until_ms = None
            self._stalled[lane] = None
        else:
            if lane.horizon == result.horizon:  # else something it found was left, above the horizon
                lane.next_on_disk_ms = result.next_due_ms
            self._feed(lane)
        self._pump()
        blocked = [(seq, key) for seq, key in result.blocked if before < seq <= lane.cursor]
        expired = [each for each in result.expired if each.seq <= lane.cursor]
        if taken or blocked:
            counts = [result.counts[index] for index in taken] if result.counts else None
            messages = [result.messages[index] for index in taken]
            self._consumer.arrived(lane.group, lane.priority, messages, counts, blocked)
        if expired:
            self._report(lane.group, expired)
        self._tell(lane)

    def _tell(self, lane: Lane) -> None:
        if lane.told != lane.caught_up and not lane.closed:
            lane.told = lane.caught_up
            self._consumer.caught_up(lane.group, lane.priority, lane.told)

    def _answer(self, lane: Lane, scan: Scan, result: Scanned) -> None:
        """One key's messages are back."""
        self._pump()
        if lane.closed:
            return
        assert scan.key is not None
        if result.failed:
            self._stalled_keys.append(KeyWant(lane, scan.key, scan.cursor, scan.limit))
            return
        # Those that wait come through the lane's demand, like every retry. Those whose TTL is over are the gateway's to
        # settle, as the lane has handed them out; others it has been told of.
        counts = result.counts or [(0, 0)] * len(result.messages)
        rows = [*zip(result.messages, counts, strict=True), *((message, (0, 0)) for message in result.expired)]
        found = sorted((row for row in rows if self._answers(lane, row[0])), key=lambda row: row[0].seq)
        messages, each = [row[0] for row in found], [row[1] for row in found] if result.counts else None
        self._consumer.arrived_key(lane.group, lane.priority, scan.key, messages, each, result.cursor)

    def _answers(self, lane: Lane, message: Message) -> bool:
        return message.seq not in lane.waiting and (lane.group.id, message.seq) not in self._reported

    # -- TTLs

    def lapsed(self, found: Sequence[Lapsed]) -> None:
        """The TTL of these is over. Say so for those that are the store's; and for those that are not, but have a key:
        behind a taken key the gateway keeps nothing of them, not even when they end."""
        said: dict[Group, list[Message]] = {}
        told: dict[Group, list[Message]] = {}
        for each in found:
            message = each.message
            for group, due_ms in each.owed:
                lane = self._lanes.get(group_lane(group.id, message.priority))
                if lane is None or each.unseen or not lane.in_hand(message.seq, due_ms):
                    said.setdefault(group, []).append(message)
                elif message.key is None or message.seq in lane.lapsed:
                    continue
                elif (group.id, message.seq) not in self._reported:  # else it ended before the lane came to it
                    lane.lapsed.add(message.seq)
                    told.setdefault(group, []).append(message)
        for group, messages in said.items():
            self._report(group, messages)
        for group, messages in told.items():
            self._consumer.lapsed(group, messages)

    def _report(self, group: Group, messages: Sequence[Message]) -> None:
        news = [message for message in messages if (group.id, message.seq) not in self._reported]
        if news:
            self._reported.update([(group.id, message.seq) for message in news])
            self._consumer.expired(group, news)

    # -- scans

    def _feed(self, lane: Lane) -> None:
        """Queue the scan the lane needs, if it needs one."""
        if lane.demand <= 0:
            lane.asked_until_ms = None  # `next_due_ms` will tell again once there is demand
        if lane.busy or lane.closed or lane.demand <= 0:
            return
        if lane.asked_until_ms is not None or not lane.caught_up:
            lane.busy = True
            if lane.seen:
                self._hungry.append(lane)
            else:
                self._unseen.append(lane)
            self._pump()
        self._note(lane)

    def _pump(self) -> None:
        while (self._hungry or self._unseen) and self._scans < SCANS_QUEUED_MAX:
            lane = self._next()
            if isinstance(lane, KeyWant):
                if not lane.lane.closed:
                    self._scans += 1
                    self._submit(lane.scan(self.now_ms))
                continue
            if lane.closed or lane.demand <= 0:
                lane.busy = False
                continue
            self._scans += 1
            self._submit(lane.scan(self.now_ms))

    def _next(self) -> Lane | KeyWant:
        """By turns one that is being served and one that nobody has looked at: tens of thousands of lanes may be opened
        at once, and those that have traffic must not wait for them all."""
        self._unseen_next = not self._unseen_next
        if self._unseen and (self._unseen_next or not self._hungry):
            return self._unseen.popleft()
        return self._hungry.popleft()

    def _leave(self, lane: Lane) -> None:
        """The lane is fed by commits no longer."""
        live = self._live.get(lane.topic_lane)
        if live is not None:
            live.pop(lane, None)
            if not live:
                del self._live[lane.topic_lane]

    # -- dues

    def _waits(self, lane: Lane) -> bool:
        return lane.demand > 0 and lane.asked_until_ms is None and not lane.closed

    def _note(self, lane: Lane) -> None:
        """Put the lane's next due into the heap, where it is not there already."""
        due_ms = lane.next_due_ms()
        if due_ms is None or due_ms == lane.noted_ms or not self._waits(lane):
            return
        lane.noted_ms = due_ms
        self._pushes += 1  # ties go in order; lanes do not compare
        heapq.heappush(self._dues, (due_ms, self._pushes, lane))
        if len(self._dues) > 2 * len(self._lanes) + DUES_SLACK:
            self._dues = [entry for entry in self._dues if entry[2].noted_ms == entry[0] and not entry[2].closed]
            heapq.heapify(self._dues)
