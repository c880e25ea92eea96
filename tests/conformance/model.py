"""What a store must do, kept in plain dictionaries, and the checks of everything it says against that.

It owns no randomness and talks to no store: `driver.py` does both. Its rules are those of `pushwire_storage.base`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pushwire_storage.base import (
    Append,
    Batch,
    Counted,
    Counts,
    CreateGroup,
    CreateTopic,
    Dead,
    Done,
    Group,
    Message,
    Retry,
    Settlement,
    Topic,
)
from pushwire_storage.planning import ID_BYTES

Content = tuple[bytes, int, str | None]


def content(message: Message) -> Content:
    return message.data, message.priority, message.key


@dataclass
class Kept:
    """A stored message."""

    id: str
    content: Content
    size_bytes: int
    settled: set[str] = field(default_factory=set)
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    due_ms: dict[str, int] = field(default_factory=dict)
    """By group: it waits for its retry since the last `Retry`, or is in hand (0) since the last `Counted`."""

    @property
    def priority(self) -> int:
        return self.content[1]


@dataclass
class ModelTopic:
    """A topic as it must be after the last commit."""

    last_seq: int = 0
    kept: dict[int, Kept] = field(default_factory=dict)
    ids: dict[str, tuple[int, Content]] = field(default_factory=dict)
    starts: dict[str, int] = field(default_factory=dict)
    dead: list[tuple[str, int]] = field(default_factory=list)

    def owed(self, group: str, seq: int) -> bool:
        kept = self.kept.get(seq)
        return kept is not None and seq > self.starts[group] and group not in kept.settled

    def bytes(self) -> int:
        return sum(kept.size_bytes for kept in self.kept.values()) + ID_BYTES * len(self.ids)


@dataclass
class ModelLane:
    """One open lane: what is in the gateway's hands, and what may still come."""

    demand: int = 0
    in_hand: set[int] = field(default_factory=set)
    highest: int = 0
    """Highest seq that arrived without having waited for a retry."""


class Model:
    """The whole store."""

    def __init__(self, quota_messages: int) -> None:
        self.quota_messages = quota_messages
        self.now_ms = 0
        self.topics: dict[str, ModelTopic] = {}
        self.lanes: dict[tuple[str, str, int], ModelLane] = {}

    # -- what the test says

    def want(self, group: Group, priority: int, count: int) -> None:
        self.lanes.setdefault((group.topic.name, group.name, priority), ModelLane()).demand = count

    def forget(self, group: Group) -> None:
        for priority in range(4):
            self.lanes.pop((group.topic.name, group.name, priority), None)

    def reopened(self) -> None:
        self.lanes.clear()

    # -- what the store says

    def committed(self, batch: Batch, *, receipts: bool = True) -> None:
        """The batch is durable; `receipts`: and its answers are to be checked."""
        for change in batch.changes:
            if isinstance(change, CreateTopic):
                self.topics.setdefault(change.name, ModelTopic())
            else:
                self._create_group(change)
        for append in batch.appends:
            self._append(append, receipts)
        for settlement in batch.settlements:
            self._settle(settlement)

    def _create_group(self, change: CreateGroup) -> None:
        topic = self.topics[change.topic.name]
        if change.name not in topic.starts:
            start = change.start or ("new" if topic.starts else "earliest")
            topic.starts[change.name] = 0 if start == "earliest" else topic.last_seq

    def _append(self, append: Append, receipts: bool) -> None:
        topic = self.topics[append.topic.name]
        fresh: dict[str, tuple[int, Content]] = {}
        answers: list[tuple[int, bool]] = []
        refused = None
        for message in append.messages:
            first = fresh.get(message.id) or topic.ids.get(message.id)
            if first is None:
                first = fresh[message.id] = (topic.last_seq + len(fresh) + 1, content(message))
                answers.append((first[0], False))
            elif first[1] == content(message):
                answers.append((first[0], True))
            else:
                refused = "id_conflict"
                break
        if refused is None and fresh and len(topic.kept) + len(fresh) > self.quota_messages:
            refused = "topic_full"
        if receipts:
            assert (append.refused.code if append.refused else None) == refused
            got = [(message.seq, message.duplicate) for message in append.messages]
            assert got == (answers if refused is None else [(0, False)] * len(got))
        if refused is None:
            topic.ids.update(fresh)
            topic.last_seq += len(fresh)
            for message in append.messages:
                seq = fresh[message.id][0] if message.id in fresh else 0
                if seq and seq not in topic.kept:
                    topic.kept[seq] = Kept(message.id, content(message), message.size_bytes)

    def _settle(self, settlement: Settlement) -> None:
        group = settlement.group
        topic = self.topics[group.topic.name]
        for message in settlement.messages if isinstance(settlement, Done) else [settlement.message]:
            if not topic.owed(group.name, message.seq):
                continue
            kept = topic.kept[message.seq]
            lane = self.lanes.get((group.topic.name, group.name, kept.priority), ModelLane())
            if isinstance(settlement, Retry | Counted):
                before = kept.counts.get(group.name, (0, 0))
                kept.counts[group.name] = (
                    max(before[0], settlement.deliveries),
                    max(before[1], settlement.failures),
                )
                kept.due_ms[group.name] = settlement.due_ms if isinstance(settlement, Retry) else 0
                if isinstance(settlement, Retry):
                    lane.in_hand.discard(message.seq)
                continue
            if isinstance(settlement, Dead):
                topic.dead.append((group.name, message.seq))
            kept.settled.add(group.name)
            lane.in_hand.discard(message.seq)
            if len(kept.settled) >= sum(start < message.seq for start in topic.starts.values()):
                del topic.kept[message.seq]

    def arrived(self, group: Group, priority: int, messages: Sequence[Message], counts: Counts | None) -> None:
        """Check one call of `arrivals`."""
        topic = self.topics[group.topic.name]
        lane = self.lanes[(group.topic.name, group.name, priority)]
        if not messages:
            return  # a hint that the next due has changed
        seqs = [message.seq for message in messages]
        assert seqs == sorted(set(seqs)), f"out of order: {seqs}"
        lane.demand -= len(seqs)
        assert lane.demand >= 0, "more than wanted"
        for index, message in enumerate(messages):
            seq = message.seq
            assert topic.owed(group.name, seq), f"seq {seq} is settled, unknown, or not owed"
            kept = topic.kept[seq]
            assert (message.id, content(message)) == (kept.id, kept.content)
            assert message.priority == priority
            assert seq not in lane.in_hand, f"seq {seq} arrived twice"
            due_ms = kept.due_ms.get(group.name, 0)
            assert due_ms <= self.now_ms, f"seq {seq} is early"
            if due_ms == 0:
                assert seq > lane.highest, f"seq {seq} after {lane.highest}"
                lane.highest = seq
            got = tuple(counts[index]) if counts is not None else (0, 0)
            assert got == kept.counts.get(group.name, (0, 0)), f"counts of seq {seq}"
            lane.in_hand.add(seq)

    # -- at rest

    def missing(self, group: Group, priority: int) -> set[int]:
        """What is owed to the lane and has not arrived."""
        topic = self.topics[group.topic.name]
        owed = {seq for seq, kept in topic.kept.items() if kept.priority == priority and topic.owed(group.name, seq)}
        return owed - self.lanes[(group.topic.name, group.name, priority)].in_hand

    def check_at_rest(self, next_due_ms: int | None) -> None:
        """Nothing is under way: what a hungry lane still lacks waits for its retry, and the store knows until when."""
        for (topic_name, group, priority), lane in self.lanes.items():
            if lane.demand > 0:
                topic = self.topics[topic_name]
                owed = {seq for seq in topic.kept if topic.kept[seq].priority == priority and topic.owed(group, seq)}
                for seq in owed - lane.in_hand:
                    due_ms = topic.kept[seq].due_ms.get(group, 0)
                    assert due_ms > 0, f"seq {seq} is wanted, and did not come"
                    assert next_due_ms is not None, f"seq {seq} waits for {due_ms}, and will not be looked at"
                    assert next_due_ms <= due_ms, f"seq {seq} waits for {due_ms}, and will be late"

    def check_books(self, topic: Topic) -> None:
        model = self.topics[topic.name]
        assert topic.last_seq == model.last_seq
        assert topic.messages == len(model.kept)
        assert topic.bytes == model.bytes()
        assert topic.dead_letters == len(model.dead)
        assert {name: group.start_seq for name, group in topic.groups.items()} == model.starts
