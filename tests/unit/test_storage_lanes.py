"""The loop's side of the lanes by itself: what is asked of the writer, how much at a time, and what waits for what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from conformance.harness import START_MS, message
from pushwire_storage.base import Batch, Counts, Done, Group, Message, Retry, Topic
from pushwire_storage.lanes import DUES_SLACK, SCANS_QUEUED_MAX, LaneFeed
from pushwire_storage.planning import SEQ_MAX, group_lane, topic_lane
from pushwire_storage.scans import SCAN_MESSAGES_MAX, Scan, Scanned


class Feed:
    """A LaneFeed whose scans the test answers."""

    def __init__(self, groups: int = 1) -> None:
        self.topic = Topic(1, "t", "orders", last_seq=1)  # so that a group that begins before it may have a backlog
        self.groups = [Group(number + 1, self.topic, f"g{number}", 0) for number in range(groups)]
        self.scans: list[Scan] = []
        self.calls: list[tuple[Group, list[int]]] = []
        self.keys: list[tuple[str, list[int], int]] = []
        self.ended: list[tuple[Group, list[int]]] = []
        self.said: list[tuple[Group, list[int]]] = []
        self.told: dict[Group, bool] = {}
        self.lanes = LaneFeed(self.scans.append, START_MS, self)

    # -- the consumer

    def arrived(
        self,
        group: Group,
        priority: int,
        messages: Sequence[Message],
        counts: Counts | None,
        blocked: Sequence[tuple[int, str]],
    ) -> None:
        self.calls.append((group, [each.seq for each in messages]))

    def caught_up(self, group: Group, priority: int, yes: bool) -> None:
        self.told[group] = yes

    def arrived_key(
        self, group: Group, priority: int, key: str, messages: Sequence[Message], counts: Counts | None, through: int
    ) -> None:
        self.keys.append((key, [each.seq for each in messages], through))

    def tailed(self, topic: Topic, messages: Sequence[Message]) -> None:
        raise AssertionError("tails are no business of lanes")

    def expired(self, group: Group, messages: Sequence[Message]) -> None:
        self.ended.append((group, [each.seq for each in messages]))

    def lapsed(self, group: Group, messages: Sequence[Message]) -> None:
        self.said.append((group, [each.seq for each in messages]))

    def turn_over(self) -> None:
        raise AssertionError("turns are the front's business")

    # -- the test's side

    def catch_up(self, group: Group, demand: int = 10) -> None:
        """Open a lane with an empty backlog."""
        self.lanes.want(group, 1, demand)
        self.answer()

    def answer(self, *messages: Message, **fields: Any) -> None:
        """Answer the oldest scan."""
        scan = self.scans.pop(0)
        fields = {"cursor": scan.cursor, "horizon": scan.horizon, "exhausted": True, **fields}
        self.lanes.scanned(scan, Scanned(list(messages), **fields))

    def retry(self, group: Group, seq: int, due_ms: int) -> None:
        self.lanes.settled(Batch(settlements=[Retry(group, stored(seq), due_ms, 1, 1)]))


def stored(seq: int) -> Message:
    each = message(str(seq))
    each.seq = seq
    return each


def fresh(feed: Feed, *seqs: int) -> dict[int, list[Message]]:
    return {topic_lane(feed.topic.id, 1): [stored(seq) for seq in seqs]}


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


def test_a_lane_with_traffic_waits_behind_few_scans_however_many_are_opened() -> None:
    feed = Feed(500)
    busy, *others = feed.groups
    feed.catch_up(busy, 1)
    for group in others:
        feed.lanes.want(group, 1, 5)
    for seq in (1, 3, 5):
        feed.lanes.committed(fresh(feed, seq, seq + 1), expiring=False)  # one more than it wants
        feed.lanes.want(busy, 1, 1)
        waited = 0
        while feed.scans[0].group is not busy:
            feed.answer()
            waited += 1
        assert waited <= SCANS_QUEUED_MAX + 1
        feed.answer(stored(seq + 1), cursor=seq + 1)
        feed.lanes.want(busy, 1, 1)
    assert [seq for group, seqs in feed.calls if group is busy for seq in seqs] == [1, 2, 3, 4, 5, 6]
    while feed.scans:
        feed.answer()
    feed.calls.clear()
    feed.lanes.committed(fresh(feed, 7), expiring=False)
    assert len(feed.calls) == 500, "and all others had their turn"


def test_a_group_that_is_owed_nothing_yet_needs_no_scan() -> None:
    feed = Feed()
    feed.topic.last_seq = 3
    group = Group(7, feed.topic, "new", 3)
    feed.lanes.want(group, 1, 10)
    assert not feed.scans
    assert group not in feed.told, "nothing to wait for"
    # 2 and 3 were stored by the commit that then made the group
    feed.lanes.committed(fresh(feed, 2, 3), expiring=False)
    assert not feed.calls
    feed.lanes.committed(fresh(feed, 3, 4), expiring=False)
    assert feed.calls == [(group, [4])]


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
        feed.catch_up(group, 1)
    feed.calls.clear()
    feed.lanes.committed(fresh(feed, 1), expiring=False)
    assert len(feed.calls) == 100
    feed.lanes.committed(fresh(feed, 2), expiring=False)
    assert feed.lanes._live == {}, "they have fallen behind, and are not looked at again"
    feed.lanes.want(feed.groups[7], 1, 5)
    assert [scan.cursor for scan in feed.scans] == [1]


def test_the_writer_is_told_the_open_lanes_by_a_copy_made_anew_only_after_a_change() -> None:
    feed = Feed(100)
    for group in feed.groups[:99]:
        feed.catch_up(group, 1)
    before = feed.lanes.open_lanes()
    assert feed.lanes.open_lanes() is before, "a copy for each batch would cost what merely exists"
    feed.catch_up(feed.groups[99])
    feed.lanes.forget(feed.groups[0])
    lanes_of = [{group_lane(group.id, priority) for priority in range(4)} for group in feed.groups]
    assert before == set().union(*lanes_of[:99]), "the writer may be reading it still"
    assert feed.lanes.open_lanes() == set().union(*lanes_of[1:])


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
        feed.catch_up(group)
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
    feed.catch_up(group)
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
        feed.catch_up(group)
    for step in range(5000):
        feed.retry(feed.groups[step % 4], 0, START_MS + 10**6 - step)
        assert len(feed.lanes._dues) <= 2 * len(feed.lanes.open_lanes()) + DUES_SLACK + 1
    assert feed.lanes.next_due_ms() == START_MS + 10**6 - 4999


def test_due_looks_at_the_lanes_that_are_due_only() -> None:
    feed = Feed(200)
    for group in feed.groups:
        feed.catch_up(group)
        feed.retry(group, 0, START_MS + 1000 * group.id)
    feed.lanes.due(START_MS + 1500)
    assert [scan.group for scan in feed.scans] == feed.groups[:1]


def test_what_is_waiting_goes_before_what_is_on_the_disk() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group, 2)
    feed.lanes.committed(fresh(feed, 1, 2), expiring=False)
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
    feed.lanes.committed({}, expiring=False)
    assert len(feed.scans) == 1
    feed.answer(failed=True, exhausted=False)
    feed.lanes.want(group, 1, 5)
    assert len(feed.scans) == 1


def test_a_settled_message_waits_no_longer() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group)
    feed.lanes.committed(fresh(feed, 1, 2), expiring=False)
    for seq in (1, 2):
        feed.retry(group, seq, START_MS)
    feed.lanes.settled(Batch(settlements=[Done(group, [stored(1), stored(2)])]))
    assert feed.lanes.next_due_ms() is None


def test_a_key_waits_for_its_turn_and_is_asked_for_outside_the_demand() -> None:
    feed = Feed(2)
    one, two = feed.groups
    feed.catch_up(one, 3)
    feed.lanes.committed(fresh(feed, 1, 2), expiring=False)
    for _ in range(SCANS_QUEUED_MAX + 1):
        feed.lanes.want_key(one, 1, "k", 0, 4)
    assert [(scan.key, scan.cursor, scan.through, scan.limit) for scan in feed.scans] == [("k", 0, 2, 4)] * 2
    for _ in range(SCANS_QUEUED_MAX + 1):
        feed.answer(stored(1), cursor=2)
    assert feed.keys == [("k", [1], 2)] * 3
    feed.lanes.committed(fresh(feed, 3), expiring=False)
    assert feed.calls[-1] == (one, [3]), "the demand is as it was"
    feed.lanes.want(two, 1, 1)
    assert [scan.key for scan in feed.scans] == [None]


def test_a_key_asked_for_is_not_answered_when_the_group_is_forgotten() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group)
    feed.lanes.want_key(group, 1, "k", 0, 4)
    feed.lanes.forget(group)
    feed.answer(stored(1), cursor=1)
    assert feed.keys == []


def test_what_expired_before_it_was_handed_over_is_said_so_and_not_handed_over() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group)
    messages = fresh(feed, 1, 2, 3)
    messages[topic_lane(1, 1)][1].expires_ms = START_MS
    feed.lanes.committed(messages, expiring=True)
    assert feed.calls == [(group, [1, 3])]
    assert feed.ended == [(group, [2])]


def test_a_scheduled_message_below_the_cursor_comes_like_a_retry() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group)
    feed.lanes.committed(fresh(feed, 1, 3), expiring=False)
    feed.lanes.promoted([(group_lane(group.id, 1), 2, START_MS + 5)])
    (scan,) = feed.scans
    assert (scan.due_until_ms, scan.horizon) == (START_MS + 5, (START_MS, SEQ_MAX))


def test_a_scheduled_message_above_the_cursor_of_a_lane_that_is_caught_up_comes_like_a_retry() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group)
    feed.lanes.promoted([(group_lane(group.id, 1), 2, START_MS + 5)])
    (scan,) = feed.scans
    assert (scan.due_until_ms, scan.cursor) == (START_MS + 5, 2)
    assert feed.told[group], "nobody need wait for its backlog"
    feed.answer(stored(2), horizon=(START_MS + 5, SEQ_MAX), marks=[(START_MS + 5, 2)])
    assert not feed.scans
    feed.lanes.committed(fresh(feed, 3), expiring=False)
    assert feed.calls == [(group, [2]), (group, [3])]


def test_a_scheduled_message_above_the_cursor_that_a_scan_may_have_passed_is_left_to_the_backlog() -> None:
    feed = Feed()
    (group,) = feed.groups
    feed.catch_up(group)
    feed.lanes.committed(fresh(feed, 1), expiring=False)
    feed.retry(group, 1, START_MS + 3)
    feed.lanes.due(START_MS + 5)
    feed.lanes.promoted([(group_lane(group.id, 1), 2, START_MS + 5)])  # known only after that scan was asked for
    feed.answer(horizon=(START_MS + 5, SEQ_MAX))
    while feed.scans[0].due_until_ms is not None:
        feed.answer(horizon=(START_MS + 5, SEQ_MAX))
    (scan,) = feed.scans
    assert (scan.due_until_ms, scan.cursor) == (None, 1)
