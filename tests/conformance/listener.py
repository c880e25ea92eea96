"""The consumer of the random test: every call of a store is held against the model at the moment it comes.

Owns what the gateway would know: which lanes are open, what they are owed, what is in hand. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from conformance.model import Model, ModelTopic, content
from pushwire_storage.base import Counts, Group, Message, Topic

Arrival = Callable[[Group, int, Sequence[Message]], None]


@dataclass
class ListenedLane:
    """One open lane: what is in the gateway's hands, and what may still come."""

    demand: int = 0
    caught_up: bool = True
    """As the store last said; it says no when a lane is opened that may have something."""
    in_hand: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    """Everything that arrived since it was opened."""
    blocked: set[int] = field(default_factory=set)
    highest: int = 0
    """Highest seq that arrived without having waited for anything."""
    asked: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(key, after_seq, count, highest seq that had arrived) of keys not yet answered."""
    lapsed: set[int] = field(default_factory=set)
    """Said to have expired while in hand, and not yet settled."""


class Listener:
    """See `pushwire_storage.base.Consumer`."""

    def __init__(self, model: Model, on_arrival: Arrival, on_expiry: Callable[[Group, Message], None]) -> None:
        self.model = model
        self.now_ms = 0
        """The latest time that the store was told."""
        self.lanes: dict[tuple[str, str, int], ListenedLane] = {}
        self.reported: set[tuple[str, str, int]] = set()
        self.watched: set[str] = set()
        self._on_arrival = on_arrival
        self._on_expiry = on_expiry

    # -- what the test says

    def lane(self, group: Group, priority: int) -> ListenedLane:
        return self.lanes[(group.topic.name, group.name, priority)]

    def want(self, group: Group, priority: int, count: int) -> None:
        for each in range(4):  # the first demand opens all lanes of the group
            self.lanes.setdefault((group.topic.name, group.name, each), ListenedLane())
        self.lane(group, priority).demand = count

    def ask(self, group: Group, priority: int, key: str, after_seq: int, count: int) -> None:
        lane = self.lane(group, priority)
        lane.asked.append((key, after_seq, count, max(lane.seen, default=0)))

    def forget(self, group: Group) -> None:
        for priority in range(4):
            self.lanes.pop((group.topic.name, group.name, priority), None)

    def dropped(self, topic: str, group: str | None) -> None:
        """The topic, or the group, was deleted or moved."""
        self.reported = {each for each in self.reported if each[0] != topic or group not in {None, each[1]}}

    def reopened(self) -> None:
        self.lanes.clear()
        self.reported.clear()
        self.watched.clear()
        self.model.news = {}

    def committed(self) -> None:
        """The model has taken a batch in: what it settled is in nobody's hands."""
        for topic, group, seq in self.model.settled:
            self.reported.discard((topic, group, seq))
            for priority in range(4):
                lane = self.lanes.get((topic, group, priority))
                if lane is not None:
                    lane.in_hand.discard(seq)
                    if not self.model.topics[topic].owed(group, seq):
                        lane.lapsed.discard(seq)

    # -- what the store says

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        topic, lane = self.model.topics[group.topic.name], self.lane(group, priority)
        assert messages or blocked
        seqs = [message.seq for message in messages]
        assert seqs == sorted(set(seqs)), f"out of order: {seqs}"
        lane.demand -= len(seqs)
        assert lane.demand >= 0, "more than wanted"
        for index, message in enumerate(messages):
            got = tuple(counts[index]) if counts is not None else (0, 0)
            assert got == topic.kept[message.seq].counts.get(group.name, (0, 0)), f"counts of seq {message.seq}"
            self._arrives(topic, lane, group, priority, message)
        for seq, key in blocked:
            assert topic.owed(group.name, seq)
            assert topic.kept[seq].key == key
            assert topic.kept[seq].retry_ms.get(group.name) or topic.kept[seq].promoted_ms, f"seq {seq} does not wait"
            assert seq not in lane.in_hand
            lane.blocked.add(seq)
        self._on_arrival(group, priority, messages)

    def _arrives(self, topic: ModelTopic, lane: ListenedLane, group: Group, priority: int, message: Message) -> None:
        seq = message.seq
        self._sound(topic, group, message)
        kept = topic.kept[seq]
        assert message.priority == priority
        assert seq not in lane.in_hand, f"seq {seq} arrived twice"
        retry_ms = kept.retry_ms.get(group.name, 0)
        assert retry_ms <= self.now_ms, f"seq {seq} is early"
        assert not kept.scheduled, f"seq {seq} is scheduled"
        # (A change of the topic's age limit may give it more time.)
        expired = (group.topic.name, group.name, seq) in self.reported and self._over(topic, seq)
        assert not expired, f"seq {seq} has expired"
        if retry_ms == 0 and kept.promoted_ms is None:
            assert seq > lane.highest, f"seq {seq} after {lane.highest}"
            lane.highest = seq
        lane.in_hand.add(seq)
        lane.seen.add(seq)

    def _sound(self, topic: ModelTopic, group: Group, message: Message) -> None:
        seq = message.seq
        assert topic.owed(group.name, seq), f"seq {seq} is settled, unknown, or not owed"
        kept = topic.kept[seq]
        assert (message.id, content(message)) == (kept.id, kept.content)
        assert message.redriven is kept.redriven
        got = (message.due_ms, message.expires_ms)
        assert got == (kept.due_ms, kept.expires_ms), f"seq {seq}: {got}, not {(kept.due_ms, kept.expires_ms)}"

    def caught_up(self, group: Group, priority: int, yes: bool) -> None:
        lane = self.lane(group, priority)
        assert yes is not lane.caught_up, "said twice"
        lane.caught_up = yes

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        topic, lane = self.model.topics[group.topic.name], self.lane(group, priority)
        asked_key, after_seq, count, seen = lane.asked.pop(0)
        assert asked_key == key
        seqs = [message.seq for message in messages]
        assert seqs == sorted(set(seqs))
        assert sum(not self._over(topic, seq) for seq in seqs) <= count
        assert all(after_seq < seq <= through for seq in seqs)
        for message in messages:
            self._sound(topic, group, message)
            assert (message.key, message.priority) == (key, priority)
        # Those that are in hand, and nobody has said when they are to be retried, are there in any case.
        there = {
            seq
            for seq in lane.in_hand
            if after_seq < seq <= through and topic.owed(group.name, seq) and topic.kept[seq].key == key
        }
        sure = {seq for seq in there if not self._waits(topic, group.name, seq) and not self._over(topic, seq)}
        assert sure <= set(seqs), f"of key {key}, {sure - set(seqs)} are there"
        looked_at = sum(topic.kept[seq].key == key for seq in topic.kept if after_seq < seq <= through)
        assert through >= seen or looked_at >= count, "it was not looked far enough"

    @staticmethod
    def _waits(topic: ModelTopic, group: str, seq: int) -> bool:
        kept = topic.kept[seq]
        return bool(kept.retry_ms.get(group)) or kept.promoted_ms is not None

    def _over(self, topic: ModelTopic, seq: int) -> bool:
        expires_ms = topic.kept[seq].expires_ms
        return expires_ms is not None and expires_ms <= self.now_ms

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        assert topic.name in self.watched
        assert [message.seq for message in messages] == self.model.news.pop(topic.name)
        for message in messages:
            kept = self.model.topics[topic.name].kept.get(message.seq)  # None: its TTL was over when it came
            assert kept is None or message.id == kept.id

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        topic = self.model.topics[group.topic.name]
        for message in messages:
            seq = message.seq
            self._sound(topic, group, message)
            assert self._over(topic, seq), f"seq {seq} has not expired"
            assert not topic.kept[seq].scheduled
            lane = self.lanes.get((group.topic.name, group.name, message.priority))
            assert lane is None or seq not in lane.in_hand, f"seq {seq} is in hand"
            mark = (group.topic.name, group.name, seq)
            assert mark not in self.reported, f"seq {seq} was said to have expired before"
            self.reported.add(mark)
            self._on_expiry(group, message)

    def lapsed(self, group: Group, messages: Sequence[Message]) -> None:
        topic = self.model.topics[group.topic.name]
        for message in messages:
            seq = message.seq
            self._sound(topic, group, message)
            assert message.key is not None
            assert self._over(topic, seq), f"seq {seq} has not expired"
            lane = self.lane(group, message.priority)
            assert seq in lane.in_hand, f"seq {seq} is not in hand"
            assert seq not in lane.lapsed, f"seq {seq} was said to have expired before"
            lane.lapsed.add(seq)

    def turn_over(self) -> None:
        assert not self.watched & self.model.news.keys(), "new messages that the tails were not told of"
        self.model.news = {}

    # -- at rest

    def missing(self, group: Group, priority: int) -> set[int]:
        """What is owed to the lane and neither arrived nor expired."""
        return self._missing((group.topic.name, group.name, priority))

    def _missing(self, key: tuple[str, str, int]) -> set[int]:
        topic_name, group, priority = key
        topic = self.model.topics[topic_name]
        owed = {seq for seq, kept in topic.kept.items() if kept.priority == priority and topic.owed(group, seq)}
        lane = self.lanes[key]
        return {seq for seq in owed - lane.in_hand if (topic_name, group, seq) not in self.reported}

    def check_at_rest(self, next_due_ms: int | None, next_tick_ms: int | None) -> None:
        """Nothing is under way: what a hungry lane still lacks waits for its time, and the store knows until when."""
        for key, lane in self.lanes.items():
            assert not lane.asked, "a key was not answered"
            self._check_lapsed(self.model.topics[key[0]], lane)
            if lane.demand <= 0:
                self._check_known(key, lane)
                continue
            assert lane.caught_up, "somebody still waits for what does not come"
            topic = self.model.topics[key[0]]
            for seq in self._missing(key):
                kept = topic.kept[seq]
                if kept.scheduled:
                    self._will_be_looked_at(seq, next_tick_ms, kept.due_ms or 0)
                    continue
                if self._over(topic, seq) and not kept.retry_ms.get(key[1]):
                    self._will_be_looked_at(seq, next_tick_ms, kept.expires_ms or 0)
                    continue
                due_ms = max(kept.retry_ms.get(key[1], 0), kept.promoted_ms or 0)
                assert due_ms > 0, f"seq {seq} is wanted, and did not come"
                self._will_be_looked_at(seq, next_due_ms, due_ms)
                if kept.key is not None and kept.promoted_ms is None and seq not in lane.seen:
                    assert seq in lane.blocked, f"seq {seq} holds its key, and nobody was told"
        self._check_ticks(next_tick_ms)

    def _check_lapsed(self, topic: ModelTopic, lane: ListenedLane) -> None:
        """Of keyed messages in hand everybody was told whose TTL is over, and that was looked at."""
        for seq in lane.in_hand - lane.lapsed:
            kept = topic.kept.get(seq)
            over = kept is not None and kept.key is not None and self._over(topic, seq)
            assert not over, f"the TTL of seq {seq} is over, and nobody was told"

    def _check_known(self, key: tuple[str, str, int], lane: ListenedLane) -> None:
        """Who asks for nothing now will wait for what is there, once it asks again."""
        topic = self.model.topics[key[0]]
        for seq in self._missing(key):
            kept = topic.kept[seq]
            waits = kept.scheduled or kept.retry_ms.get(key[1]) or kept.promoted_ms or self._over(topic, seq)
            assert waits or not lane.caught_up, f"seq {seq} lies on the disk, and nobody was told"

    @staticmethod
    def _will_be_looked_at(seq: int, at_ms: int | None, due_ms: int) -> None:
        assert at_ms is not None, f"seq {seq} waits for {due_ms}, and will not be looked at"
        assert at_ms <= due_ms, f"seq {seq} waits for {due_ms}, and will be late"

    def _check_ticks(self, next_tick_ms: int | None) -> None:
        for topic in self.model.topics.values():
            for seq, kept in topic.kept.items():
                if kept.scheduled and not kept.looked_at:
                    self._will_be_looked_at(seq, next_tick_ms, kept.due_ms or 0)
                if kept.expires_ms is not None and not kept.looked_at:
                    self._will_be_looked_at(seq, next_tick_ms, kept.expires_ms)
