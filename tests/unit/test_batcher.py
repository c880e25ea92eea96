"""Group commit: what shares a transaction, what waits, and what a failed one leaves owed. No clock, no disk."""

from __future__ import annotations

import pytest

from pushwire_gateway.batcher import Batcher
from pushwire_storage.base import Append, Done, Group, Message, StoreBroken, StoreBusy, Topic

TOPIC = Topic(1, "default", "t")
GROUP = Group(1, TOPIC, "g", 0)


class RecordingStore:
    """Takes batches and ends them when told."""

    def __init__(self):
        self.batches = []
        self.done = None

    def write(self, batch, done):
        assert self.done is None, "two batches at once"
        self.batches.append(batch)
        self.done = done

    def finish(self, error=None):
        done, self.done = self.done, None
        self.batches[-1].error = error
        done(self.batches[-1])


class World:
    def __init__(self, **limits):
        self.store = RecordingStore()
        self.soon = []
        self.later = []
        self.broken = []
        self.turns = 0
        options = {
            "batch_messages_max": 10,
            "batch_bytes_max": 1000,
            "waiting_messages_max": 20,
            "waiting_bytes_max": 2000,
            **limits,
        }
        self.batcher = Batcher(
            self.store,
            lambda: 0,
            self.soon.append,
            lambda delay, call: self.later.append(call),
            self.broken.append,
            self.turn,
            **options,
        )

    def turn(self):
        self.turns += 1

    def run(self):
        while self.soon:
            self.soon.pop(0)()

    def publish(self, count=1, size_bytes=10, log=None, name=""):
        append = Append(TOPIC, [Message(f"m{n}", b"1", 0) for n in range(count)])
        self.batcher.append(append, size_bytes, lambda error: log.append((name, error)) if log is not None else None)
        return append


def test_everything_of_one_turn_shares_a_transaction():
    w, log = World(), []
    first, second = w.publish(log=log, name="a"), w.publish(log=log, name="b")
    w.batcher.settle([Done(GROUP, [])], 0)
    assert w.store.batches == []
    w.run()
    (batch,) = w.store.batches
    assert list(batch.appends) == [first, second]
    assert len(batch.settlements) == 1
    assert log == []
    w.store.finish()
    assert log == [("a", None), ("b", None)]
    assert w.batcher.idle


def test_what_comes_while_a_batch_is_under_way_is_the_next_group():
    w = World()
    w.publish()
    w.run()
    late = [w.publish() for _ in range(3)]
    w.run()
    assert len(w.store.batches) == 1
    w.store.finish()
    assert [list(batch.appends) for batch in w.store.batches[1:]] == [late]


def test_the_writer_has_the_next_group_before_receipts_go_out():
    w, seen = World(), []
    append = Append(TOPIC, [Message("x", b"1", 0)])
    w.batcher.append(append, 1, lambda _error: seen.append(len(w.store.batches)))
    w.run()
    w.publish()
    w.store.finish()
    assert seen == [2]


@pytest.mark.parametrize(("count", "size_bytes"), [(6, 10), (1, 600)])
def test_a_batch_is_bounded_in_messages_and_bytes_but_takes_at_least_one(count, size_bytes):
    w = World()
    for _ in range(3):
        w.publish(count, size_bytes)
    huge = w.publish(99, 99_999)
    w.run()
    for _ in range(4):
        w.store.finish()
    assert [len(batch.appends) for batch in w.store.batches] == [1, 1, 1, 1]
    assert list(w.store.batches[-1].appends) == [huge]


def test_full_means_busy_until_half_empty():
    w, relieved = World(), []
    w.publish(10)
    w.run()
    w.publish(10)
    assert w.batcher.full
    w.batcher.when_relieved(lambda: relieved.append(w.batcher.waiting_messages))
    w.store.finish()
    assert relieved == [10]
    assert not w.batcher.full


def test_full_by_bytes():
    w = World()
    w.publish(1, 2000)
    assert w.batcher.full


def test_what_is_reserved_counts_as_waiting():
    w = World()
    w.batcher.reserve(1, 2000)
    assert w.batcher.full
    w.batcher.unreserve(1, 2000)
    assert not w.batcher.full
    w.batcher.reserve(20, 1)
    assert w.batcher.full


def test_settlements_beyond_the_limit_put_it_behind_until_half_of_them_are_durable():
    w, relieved = World(), []
    w.batcher.settle([Done(GROUP, [])], 1500)
    w.run()
    w.batcher.settle([Done(GROUP, [])], 1500)
    assert w.batcher.behind
    assert not w.batcher.full, "publishes are another matter"
    w.batcher.when_relieved(lambda: relieved.append(w.batcher.settled_bytes))
    w.store.finish()
    assert (relieved, w.batcher.behind) == ([], False)
    w.store.finish()
    assert relieved == [0]


def test_a_batch_rolled_back_leaves_it_as_far_behind():
    w = World()
    w.batcher.settle([Done(GROUP, [])], 1500)
    w.run()
    w.batcher.settle([Done(GROUP, [])], 600)
    w.store.finish(StoreBusy("held"))
    assert (w.batcher.settled_bytes, w.batcher.behind) == (2100, True)
    w.later.pop()()
    w.run()
    w.store.finish()
    assert w.batcher.settled_bytes == 0


def test_relief_is_told_once_and_not_to_who_has_gone():
    w, relieved = World(), []
    gone, waits = lambda: relieved.append("gone"), lambda: relieved.append("waits")
    for call in (gone, waits, waits):
        w.batcher.when_relieved(call)
    w.batcher.forget_relief(gone)
    w.publish()
    w.run()
    w.store.finish()
    assert relieved == ["waits"]


def test_a_confirmation_waits_for_the_commit_that_holds_its_settlement():
    w, log = World(), []
    w.publish()
    w.run()
    w.batcher.settle([Done(GROUP, [])], 0)
    w.batcher.after_commit(log.append)
    w.store.finish()
    assert log == []
    w.store.finish()
    assert log == [None]


def test_a_confirmation_of_nothing_comes_at_once():
    w, log = World(), []
    w.batcher.after_commit(log.append)
    w.run()
    assert log == [None]
    assert w.store.batches == []
    assert w.turns == 1


def test_a_batch_rolled_back_keeps_its_settlements_and_their_confirmations_owed():
    w, log = World(), []
    w.publish(log=log, name="publish")
    settled = Done(GROUP, [])
    w.batcher.settle([settled], 0)
    w.batcher.after_commit(lambda error: log.append(("confirm", error)))
    w.run()
    busy = StoreBusy("held")
    w.store.finish(busy)
    assert log == [("publish", busy)]
    assert not w.batcher.settled
    w.publish()
    w.run()
    assert len(w.store.batches) == 1, "it rests before it tries again"
    (again,) = w.later
    again()
    w.run()
    assert w.store.batches[1].settlements[0] is settled
    w.store.finish()
    assert log[-1] == ("confirm", None)
    assert w.batcher.settled


def test_a_broken_store_is_told_once_and_nothing_more_is_written():
    w, log = World(), []
    w.publish(log=log, name="a")
    w.run()
    error = StoreBroken("EIO")
    w.publish(log=log, name="b")
    w.store.finish(error)
    assert log == [("a", error)]
    assert w.broken == [error]
    assert w.batcher.full
    assert len(w.store.batches) == 1


def test_after_the_stop_nothing_more_is_written():
    """The store is being closed by then: what it said of a batch would end the process as if it were broken."""
    w, log = World(), []
    w.publish(log=log, name="under way")
    w.batcher.settle([Done(GROUP, [])], 0)
    w.run()
    w.publish(log=log, name="waits")
    w.batcher.stop()
    w.store.finish(StoreBusy("held"))
    assert [name for name, _ in log] == ["under way"]
    for rested in w.later:
        rested()
    w.run()
    assert (len(w.store.batches), w.broken) == (1, [])
