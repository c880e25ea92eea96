"""Messages of a taken key that the core let go of, because there were too many: they come back in order, end when the
store says that their TTL is over, and leave nothing in memory meanwhile."""

from __future__ import annotations

import weakref

from pushwire_gateway.core.keys import PARKED_MAX
from support.core_keys import Row, core, lease_of, pushed, rows, session


def test_a_dropped_message_expires_once_and_is_not_taken_back():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 3000, now=0)
    many = 3 * PARKED_MAX
    d.arrived("g", 1, [Row(1), *(Row(seq, expires_ms=9000) for seq in range(2, many + 1)), Row(many + 1)], None, now=0)
    assert pushed(d) == [1]
    d.lapsed("g", [Row(seq, expires_ms=9000) for seq in range(2, many + 1)], now=9)
    died = [each.message.seq for each in d.effects().settlements]
    assert sorted(died) == list(range(2, many + 1)), "those in memory by the timer, the others as the store says"
    assert (d.group("g").ready, d.ready_bytes()) == (0, 0)
    d.ack(s, [lease_of(sub, 1)], now=10)
    (want,) = d.effects().key_wants
    d.arrived_key("g", 1, "k", [Row(many + 1)], None, many + 1, now=10)
    assert pushed(d) == [many + 1]
    assert want.after_seq <= PARKED_MAX + 1


def test_a_dropped_message_that_comes_back_expires_when_its_time_is_over():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 3000, now=0)
    many = 3 * PARKED_MAX
    mortal = [Row(seq, expires_ms=9000 if seq > PARKED_MAX + 1 else None) for seq in range(1, many + 1)]
    d.arrived("g", 1, mortal, None, now=0)
    for seq in range(1, PARKED_MAX + 2):
        assert pushed(d) == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    (want,) = d.effects().key_wants
    d.arrived_key("g", 1, "k", mortal[want.after_seq : want.after_seq + 5], None, want.after_seq + 5, now=1)
    assert pushed(d) == [PARKED_MAX + 2]
    d.handle_timer(now=9)
    died = [each.message.seq for each in d.effects().settlements]
    assert died == [*range(PARKED_MAX + 3, PARKED_MAX + 7)], "what is back"
    d.lapsed("g", mortal[PARKED_MAX + 1 :], now=9)
    died = [each.message.seq for each in d.effects().settlements]
    assert died == list(range(PARKED_MAX + 7, many + 1)), "what is not; the leased one is its lease's"
    assert d.census()["g"] == {"ready": [], "leased": [PARKED_MAX + 2], "parked": []}
    assert d.ready_bytes() == 0


def test_what_ends_while_the_store_is_asked_is_not_taken_from_the_answer():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 3000, now=0)
    many = PARKED_MAX + 4
    mortal = [Row(seq, expires_ms=9000 if seq > PARKED_MAX + 2 else None) for seq in range(1, many + 1)]
    d.arrived("g", 1, mortal, None, now=0)
    for seq in range(1, PARKED_MAX + 2):
        assert pushed(d) == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    assert d.effects().key_wants
    queue = d.group("g").lanes[1].keys["k"]
    d.lapsed("g", mortal[-1:], now=9)
    assert [each.message.seq for each in d.effects().settlements] == [many]
    d.arrived_key("g", 1, "k", mortal[PARKED_MAX + 1 :], None, many, now=9)
    effects = d.effects()
    assert [each.message.seq for each in effects.settlements] == [many - 1], "the other one has ended"
    assert [p.message.seq for each in effects.pushes.values() for p in each] == [PARKED_MAX + 2]
    assert not queue.over
    assert d.counters.expired == 2


def test_a_dropped_message_that_comes_back_too_late_is_never_delivered():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 3000, now=0)
    many = PARKED_MAX + 4
    mortal = [Row(seq, expires_ms=9000 if seq == many - 1 else None) for seq in range(1, many + 1)]
    d.arrived("g", 1, mortal, None, now=0)
    for seq in range(1, PARKED_MAX + 2):
        assert pushed(d) == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    d.effects()
    d.arrived_key("g", 1, "k", mortal[PARKED_MAX + 1 :], None, many, now=9)
    effects = d.effects()
    assert [each.message.seq for each in effects.settlements] == [many - 1]
    assert [p.message.seq for queue in effects.pushes.values() for p in queue] == [PARKED_MAX + 2]
    d.lapsed("g", [mortal[many - 2]], now=9)
    assert not d.effects().settlements, "it ended already"


def test_what_is_dropped_after_its_ttl_was_said_to_be_over_has_ended():
    d, s = core(), session()
    d.subscribe(s, "a", "g", 1, 3000, now=0)
    late = Row(100, expires_ms=9000)
    d.arrived("g", 1, [*rows(50), *rows(*range(51, 50 + PARKED_MAX)), late], None, now=0)
    d.lapsed("g", [late], now=9)  # before the timer's turn
    assert [each.message.seq for each in d.effects().settlements] == [100]
    d.arrived("g", 1, rows(*range(1, 40)), None, now=9)  # lower ones fall due: what was parked is dropped
    d.handle_timer(now=10)
    assert not d.effects().settlements
    assert len(d.census()["g"]["parked"]) == PARKED_MAX


def test_what_is_leased_or_replaced_or_forgotten_does_not_end_twice():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 0, 3000, now=0)
    mortal = {seq: Row(seq, expires_ms=9000) for seq in range(100, 200)}
    d.arrived("g", 1, list(mortal.values()), None, now=0)
    d.arrived("g", 1, rows(1), None, now=0)  # takes the place of 100, which is parked; the last that was, is dropped
    d.flow(sub, 1, now=0)
    assert pushed(d) == [1]
    d.lapsed("g", list(mortal.values()), now=9)
    assert sorted(each.message.seq for each in d.effects().settlements) == list(mortal)
    d.reset("g", now=10)
    d.lapsed("g", list(mortal.values()), now=10)
    d.unsubscribe(s, [sub], now=10)
    d.lapsed("g", list(mortal.values()), now=10)
    assert not d.effects().settlements


def test_lower_ones_that_are_dropped_while_the_store_is_asked_are_asked_for_again():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    high = list(range(1001, 1001 + PARKED_MAX + 3))
    d.arrived("g", 1, rows(*high), None, now=0)
    for seq in high[: PARKED_MAX + 1]:
        assert pushed(d) == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    (want,) = d.effects().key_wants
    low = list(range(1, PARKED_MAX + 6))
    d.arrived("g", 1, rows(*low), None, now=1)  # all of them fall due before the answer is there
    left = [*low, *high[PARKED_MAX + 1 :]]
    d.arrived_key("g", 1, "k", rows(*high[PARKED_MAX + 1 :]), None, high[-1], now=1)
    served = []
    while left:
        effects = d.effects()
        for want in effects.key_wants:
            found = [seq for seq in left if seq > want.after_seq][: want.count]
            d.arrived_key("g", 1, "k", rows(*found), None, found[-1], now=1)
            effects = d.effects()
        (pending,) = (p for queue in effects.pushes.values() for p in queue)
        served.append(pending.message.seq)
        left.remove(pending.message.seq)
        d.ack(s, [pending.lease], now=1)
    assert served == [*low, *high[PARKED_MAX + 1 :]]


def test_of_what_is_dropped_nothing_is_kept():
    d, s = core(), session()
    d.subscribe(s, "a", "g", 1, 3000, now=0)
    alive = weakref.WeakSet()
    for first in range(1, 20_001, 500):
        batch = [Row(seq, expires_ms=9000 + seq) for seq in range(first, first + 500)]
        alive.update(batch)
        d.arrived("g", 1, batch, None, now=0)
        del batch
    d.effects()
    assert len(alive) == PARKED_MAX + 1
    queue = d.group("g").lanes[1].keys["k"]
    sizes = {name: len(getattr(queue, name)) for name in queue.__slots__ if hasattr(getattr(queue, name), "__len__")}
    assert sizes == {"over": 0, "parked": PARKED_MAX, "seen": 0}
    for first in range(1, 20_001, 500):
        d.lapsed("g", [Row(seq, expires_ms=9000 + seq) for seq in range(first, first + 500)], now=100)
        d.effects()
    assert (len(queue.parked), len(queue.seen), len(queue.over)) == (PARKED_MAX, 0, 0)
    assert d.counters.expired == 20_000 - 1


def test_what_comes_while_the_store_is_asked_is_asked_for_again():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 3000, now=0)
    last = PARKED_MAX + 4
    at_once = [seq for seq in range(1, last + 1) if seq != PARKED_MAX + 2]
    d.arrived("g", 1, rows(*at_once), None, now=0)
    for seq in range(1, PARKED_MAX + 2):
        assert pushed(d) == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    (want,) = d.effects().key_wants
    late = want.after_seq + 1
    d.arrived("g", 1, rows(late), None, now=1)  # due only now: the answer that is on its way does not know it
    d.arrived_key("g", 1, "k", rows(late + 1, last), None, last, now=1)
    (again,) = d.effects().key_wants
    assert again.after_seq == want.after_seq
    d.arrived_key("g", 1, "k", rows(late, late + 1, last), None, last, now=1)
    for seq in (late, late + 1, last):
        assert pushed(d) == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    assert not d.effects().key_wants
    assert d.ready_bytes() == 0
