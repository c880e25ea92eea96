"""What a consumer can make the core do: no operation may cost more for what somebody released, or left behind."""

from __future__ import annotations

import gc
import weakref
from itertools import count

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.dispatch import HELD_MAX
from pushwire_gateway.core.expiries import ENTRIES_MIN
from pushwire_gateway.core.leases import LEFT_MAX
from pushwire_gateway.core.model import Died, Session

_names = count()


class Row:
    """What the core reads of a message."""

    key = None

    def __init__(self, seq: int, size_bytes: int = 10, expires_ms: int | None = None) -> None:
        self.seq = seq
        self.expires_ms = expires_ms
        self.priority = 1
        self.size_bytes = size_bytes


class Link:
    """A connection, as far as the core sees it."""


def session(bytes_max=1 << 20):
    return Session(link=Link(), lease_prefix=f"n1.{next(_names):016d}", bytes_max=bytes_max)


def rows(first, last, size_bytes=10):
    return [Row(seq, size_bytes) for seq in range(first, last + 1)]


def test_a_session_that_left_is_forgotten_at_once():
    d = Delivery(lambda: 0.5)
    keeps = session()
    d.subscribe(keeps, "keeps", "g", 1, 900, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    gone = session()
    d.subscribe(gone, "gone", "g", 1, 900, now=0)
    d.disconnect(gone, now=1)
    d.effects()
    reference = weakref.ref(gone.link)
    del gone
    gc.collect()
    assert reference() is None


def test_consumers_that_come_and_go_leave_no_deadlines_behind():
    d = Delivery(lambda: 0.5)
    keeps = session()
    d.subscribe(keeps, "keeps", "other", 1, 900, now=0)
    d.arrived("other", 1, rows(1, 1), None, now=0)
    for number in range(1000):
        s = session()
        d.subscribe(s, "a", number, 1, 900, now=0)
        d.arrived(number, 1, rows(1, 1), None, now=0)
        d.disconnect(s, now=0)
        d.effects()
    assert len(d._deadlines._heap) <= 2 * (LEFT_MAX + 1)
    d.handle_timer(now=900)
    assert d.counters.timed_out == 1
    assert d.next_deadline() is None


def test_who_has_released_many_is_offered_more_when_the_hold_is_over():
    d = Delivery(lambda: 0.5, release_hold_s=1.0)
    s = session()
    sub = d.subscribe(s, "a", "g", HELD_MAX, 30, now=0)
    d.arrived("g", 1, rows(1, 3 * HELD_MAX), None, now=0)
    d.release(s, list(sub.leases), now=0)
    assert not sub.leases
    d.handle_timer(now=0.5)
    assert not sub.leases
    d.handle_timer(now=1.0)
    assert [pending.message.seq for pending in sub.leases.values()] == list(range(1, HELD_MAX + 1))
    assert d._groups["g"].held == {}


def test_who_has_released_few_is_offered_others_at_once():
    d = Delivery(lambda: 0.5, release_hold_s=1.0)
    s = session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 20), None, now=0)
    d.release(s, list(sub.leases), now=0)
    assert [pending.message.seq for pending in sub.leases.values()] == list(range(11, 21))


def test_another_member_takes_what_was_released_by_one_that_rests():
    d = Delivery(lambda: 0.5, release_hold_s=1.0)
    one, two = session(), session()
    sub = d.subscribe(one, "a", "g", 2 * HELD_MAX, 30, now=0)
    d.arrived("g", 1, rows(1, 2 * HELD_MAX), None, now=0)
    d.release(one, list(sub.leases), now=0)
    other = d.subscribe(two, "b", "g", 5, 30, now=0)
    assert [pending.message.seq for pending in other.leases.values()] == [1, 2, 3, 4, 5]


def test_a_hold_that_outlives_its_group_ends_without_harm():
    d = Delivery(lambda: 0.5, release_hold_s=1.0)
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, 1), None, now=0)
    d.release(s, list(sub.leases), now=0)
    d.unsubscribe(s, [sub], now=0)
    d.handle_timer(now=1.0)
    d.handle_timer(now=30.0)  # what is left of the lease's deadline
    assert d.next_deadline() is None


def test_a_stale_ack_asks_no_subscription_that_waits_for_bytes():
    d = Delivery(lambda: 0.5)
    s = session(bytes_max=1000)
    for group in ("g", "h"):
        d.subscribe(s, group, group, 10, 30, now=0)
        d.arrived(group, 1, rows(1, 2, size_bytes=900), None, now=0)
    starved = dict(s.starved)
    assert starved
    before = s.starved
    assert d.ack(s, ["nonsense"], now=0) == ["nonsense"]
    assert s.starved is before, "looked at again although no bytes came free"


def test_messages_that_were_settled_before_their_ttl_ended_are_forgotten():
    d = Delivery(lambda: 0.5)
    s = session()
    sub = d.subscribe(s, "s", "g", 100, 30, 0.0)
    references = []
    for step in range(100):
        messages = [Row(step * 100 + n + 1, expires_ms=10**12) for n in range(100)]
        references += map(weakref.ref, messages)
        d.arrived("g", 1, messages, None, 1.0)
        d.ack(s, list(sub.leases), 1.0)
        d.effects()
    del messages
    gc.collect()
    assert sum(reference() is not None for reference in references) <= 2 * ENTRIES_MIN  # of 10,000, with days to go


def test_the_end_of_a_ttl_is_not_forgotten_with_those_that_ended_before():
    d = Delivery(lambda: 0.5)
    s = session()
    d.subscribe(s, "s", "g", 1, 30, 0.0)
    d.arrived("g", 1, [Row(1), Row(2, expires_ms=5000)], None, 1.0)
    held = s.subs["s"].leases
    other = session()
    d.subscribe(other, "t", "h", 100, 30, 1.0)
    for step in range(50):
        d.arrived("h", 1, [Row(step * 100 + n + 2, expires_ms=10**12) for n in range(100)], None, 1.0)
        d.ack(other, list(other.subs["t"].leases), 1.0)
    d.effects()
    assert d.next_deadline() == 5.0
    d.handle_timer(5.0)
    died = [effect.message.seq for effect in d.effects().settlements if isinstance(effect, Died)]
    assert (died, len(held)) == ([2], 1)


def test_a_hold_outlives_another_member_that_had_the_message_meanwhile():
    d = Delivery(lambda: 0.5)
    one, two = session(), session()
    first = d.subscribe(one, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, 1), None, now=0)
    second = d.subscribe(two, "b", "g", 1, 30, now=0)
    d.release(one, list(first.leases), now=0)
    assert [pending.message.seq for pending in second.leases.values()] == [1]
    d.release(two, list(second.leases), now=0.5)
    assert not first.leases
    assert not second.leases
    d.handle_timer(now=1.0)
    assert [pending.message.seq for pending in first.leases.values()] == [1]
