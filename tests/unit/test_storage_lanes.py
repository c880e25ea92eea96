"""The loop's side of the lanes by itself: what is asked of the writer, how much at a time, and what waits for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.harness import START_MS, message
from pushwire_storage.base import Batch, Counts, Done, Group, Message, Retry, Topic
from pushwire_storage.lanes import DUES_SLACK, SCANS_QUEUED_MAX, LaneFeed
from pushwire_storage.planning import SEQ_MAX, Lapsed, group_lane, topic_lane
from pushwire_storage.scans import SCAN_MESSAGES_MAX, Scan, Scanned


class Feed:
    """A LaneFeed whose scans the test answers."""

    def __init__(self, groups: int = 1) -> None:
        self.topic = Topic(1, "t", "orders")
        self.groups = [Group(number + 1, self.topic, f"g{number}", 0) for number in range(groups)]
        self.scans: list[Scan] = []
        self.calls: list[tuple[Group, list[int]]] = []
        self.keys: list[tuple[Group, str, list[int], int]] = []
        self.over: list[tuple[Group, list[int]]] = []
        self.lanes = LaneFeed(self.scans.append, START_MS, self)

    # What a consumer is told.

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        self.calls.append((group, [each.seq for each in messages]))

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        self.keys.append((group, key, [each.seq for each in messages], through))

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        raise AssertionError("a tail is none of the lanes' business")

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        self.over.append((group, [each.seq for each in messages]))

    def turn_over(self) -> None:
        raise AssertionError("the store ends its turns")

    # What a test does.

    def commit(self, *messages: Message) -> None:
        fresh = {topic_lane(self.topic.id, 1): list(messages)} if messages else {}
        self.lanes.committed(fresh, expiring=any(each.expires_ms is not None for each in messages))

    def caught_up(self, group: Group, demand: int = 10) -> None:
        """Open a lane with an empty backlog."""
        self.lanes.want(group, 1, demand)
        self.answer()

    def answer(self, *messages: Message, **fields: object) -> None:
        """Answer the oldest scan."""
        scan = self.scans.pop(0)
        fields = {"cursor": scan.cursor, "horizon": scan.horizon, "exhausted": True, **fields}
        self.lanes.scanned(scan, Scanned(list(messages), **fields))

    def retry(self, group: Group, seq: int, due_ms: int) -> None:
        self.lanes.settled(Batch(settlements=[Retry(group, stored(seq), due_ms, 1, 1)]))


def stored(seq: int, **fields: Any) -> Message:
    each = message(str(seq), **fields)
    each.seq = seq
    return each


def test_a_batch_waits_behind_few_scans_however_many_lanes_are_hungry() -> None:
    feed = Feed(50)
    for group in feed.groups:
        feed.lanes.want(group, 1, 5)
    served = []
    while feed.scans:
        assert len(feed.scans) <= SCANS_QUEUED_MAX
        served.append(feed.scans[0].group)
        feed.answer()
    assert served == feed.groups, "first come, first served"


def test_a_lane_has_one_scan_at_a_time() -> None:
    feed = Feed()
    for count in (1, 7, 3):
        feed.lanes.want(feed.groups[0], 1, count)
    assert len(feed.scans) == 1


def test_a_scan_asks_for_no_more_than_is_wanted_nor_than_it_may() -> None:
    feed = Feed(2)
    feed.lanes.want(feed.groups[0], 1, 3)
    feed.lanes.want(feed.groups[1], 1, 10**6)
    assert [scan.limit for scan in feed.scans] == [3, SCAN_MESSAGES_MAX]


def test_a_lane_without_demand_costs_commits_nothing() -> None:
    feed = Feed(100)
    for group in feed.groups:
        feed.caught_up(group, 1)
    feed.calls.clear()
    feed.commit(stored(1))
    assert len(feed.calls) == 100
    feed.commit(stored(2))
    assert feed.lanes._live == {}, "they have fallen behind, and are not looked at again"
    feed.lanes.want(feed.groups[7], 1, 5)
    assert [scan.cursor for scan in feed.scans] == [1]


def test_a_lane_that_waits_for_its_turn_and_is_forgotten_is_skipped() -> None:
    feed = Feed(5)
    for group in feed.groups:
        feed.lanes.want(group, 1, 5)
    feed.lanes.forget(feed.groups[2])
    feed.lanes.want(feed.groups[3], 1, 0)
    served = []
    while feed.scans:
        served.append(feed.scans[0].group)
        feed.answer()
    assert served == [feed.groups[0], feed.groups[1], feed.groups[4]]
    feed.lanes.want(feed.groups[3], 1, 4)
    assert [scan.group for scan in feed.scans] == [feed.groups[3]]


def test_next_due_is_that_of_lanes_with_demand_only() -> None:
    feed = Feed(3)
    for group, due in zip(feed.groups, (300, 100, 200), strict=True):
        feed.caught_up(group)
        feed.retry(group, 0, START_MS + due)
    lanes = feed.lanes
    assert lanes.next_due_ms() == START_MS + 100
    lanes.want(feed.groups[1], 1, 0)
    assert lanes.next_due_ms() == START_MS + 200
    lanes.forget(feed.groups[2])
    assert lanes.next_due_ms() == START_MS + 300
    lanes.want(feed.groups[1], 1, 1)
    assert lanes.next_due_ms() == START_MS + 100


def test_a_lane_being_served_does_not_count_as_due() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group)
    feed.retry(group, 0, START_MS + 100)
    feed.lanes.due(START_MS + 150)
    assert feed.lanes.next_due_ms() is None
    (scan,) = feed.scans
    assert (scan.due_until_ms, scan.horizon) == (START_MS + 150, (START_MS, SEQ_MAX))
    feed.answer(horizon=(START_MS + 150, SEQ_MAX), next_due_ms=START_MS + 400)
    assert feed.lanes.next_due_ms() == START_MS + 400


def test_the_heap_of_dues_stays_small_whatever_comes_and_goes() -> None:
    feed = Feed(4)
    for group in feed.groups:
        feed.caught_up(group)
    for step in range(5000):
        feed.retry(feed.groups[step % 4], 0, START_MS + 10**6 - step)
        assert len(feed.lanes._dues) <= 2 * 4 + DUES_SLACK + 1
    assert feed.lanes.next_due_ms() == START_MS + 10**6 - 4999


def test_due_looks_at_the_lanes_that_are_due_only() -> None:
    feed = Feed(200)
    for group in feed.groups:
        feed.caught_up(group)
        feed.retry(group, 0, START_MS + 1000 * group.id)
    feed.lanes.due(START_MS + 1500)
    assert [scan.group for scan in feed.scans] == feed.groups[:1]


def test_what_is_waiting_goes_before_what_is_on_the_disk() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group, 2)
    feed.commit(stored(1), stored(2))
    for seq in (2, 1):
        feed.retry(group, seq, START_MS - seq)
    feed.lanes.want(group, 1, 1)
    feed.lanes.due(START_MS)
    (scan,) = feed.scans
    assert (scan.waiting, scan.limit) == ((2,), 1), "the earlier due first"


def test_a_failed_scan_is_tried_again_after_a_commit_and_not_before() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.lanes.want(group, 1, 5)
    feed.answer(failed=True, exhausted=False)
    assert feed.scans == []
    feed.commit()
    assert len(feed.scans) == 1
    feed.answer(failed=True, exhausted=False)
    feed.lanes.want(group, 1, 5)
    assert len(feed.scans) == 1


def test_a_settled_message_waits_no_longer() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group)
    feed.commit(stored(1), stored(2))
    for seq in (1, 2):
        feed.retry(group, seq, START_MS)
    feed.lanes.settled(Batch(settlements=[Done(group, [stored(1), stored(2)])]))
    assert feed.lanes.next_due_ms() is None


def test_a_lane_that_came_past_a_scheduled_message_is_given_it_like_a_retry() -> None:
    feed = Feed(2)
    group, late = feed.groups
    feed.caught_up(group)
    feed.commit(stored(1), stored(3))
    feed.lanes.want(late, 1, 5)
    feed.lanes.promoted([(group_lane(each.id, 1), 2, START_MS) for each in feed.groups])
    backlog, due = feed.scans
    assert (backlog.group, backlog.due_until_ms) == (late, None), "it comes across the message by itself"
    assert (due.group, due.due_until_ms, due.waiting) == (group, START_MS, (2,))


def test_a_lane_without_demand_keeps_a_scheduled_message_for_later() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group, 2)
    feed.commit(stored(1), stored(3))
    feed.lanes.promoted([(group_lane(group.id, 1), 2, START_MS)])
    assert (feed.scans, feed.lanes.next_due_ms()) == ([], None)
    feed.lanes.want(group, 1, 1)
    assert feed.lanes.next_due_ms() == START_MS


def test_what_has_expired_is_told_once_and_never_handed_out() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group)
    mortal = stored(2, expires_ms=START_MS)
    feed.commit(stored(1), mortal, stored(3))
    assert feed.calls == [(group, [1, 3])]
    feed.lanes.lapsed([Lapsed(mortal, [(group, None)], unseen=True)])
    assert feed.over == [(group, [2])]
    feed.lanes.settled(Batch(settlements=[Done(group, [mortal])]))
    assert feed.lanes._reported == set()


def test_what_expires_in_hand_is_left_to_the_gateway() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group)
    mortal = stored(1, expires_ms=START_MS + 5)
    feed.commit(mortal)
    feed.lanes.lapsed([Lapsed(mortal, [(group, None)], unseen=False)])
    assert feed.over == []
    feed.lanes.forget(group)
    feed.lanes.lapsed([Lapsed(mortal, [(group, None)], unseen=False)])
    assert feed.over == [(group, [1])]


def test_a_key_is_asked_for_in_its_turn_and_answered_once() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.caught_up(group, 3)
    feed.commit(stored(1), stored(2), stored(3))
    feed.lanes.want_key(group, 1, "k", 1, 5)
    (scan,) = feed.scans
    assert (scan.key, scan.cursor, scan.through, scan.limit) == ("k", 1, 3, 5)
    feed.answer(stored(2), failed=True)
    assert feed.keys == []
    feed.commit()
    feed.answer(stored(2), cursor=3)
    assert feed.keys == [(group, "k", [2], 3)]
    feed.lanes.want_key(group, 1, "k", 3, 5)
    feed.lanes.forget(group)
    feed.answer(stored(9))
    assert len(feed.keys) == 1, "forgotten meanwhile"
