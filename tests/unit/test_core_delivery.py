"""The delivery core, step by step: who gets what, until when, and what becomes of it. The clock is a number."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.model import OVERHEAD_BYTES, Counted, Died, Policy, Retried, Session, Settled
from pushwire_gateway.core.retry import RetryPolicy


@dataclass(eq=False)
class Row:
    seq: int
    priority: int = 1
    size_bytes: int = 100
    key: str | None = None
    expires_ms: int | None = None


STERN = Policy(RetryPolicy(max_failures=2, max_deliveries=5))
_names = itertools.count()


def session(bytes_max=1 << 20):
    return Session(link=None, lease_prefix=f"n1.{next(_names):016d}", bytes_max=bytes_max)


def core(**options):
    return Delivery(lambda: 0.5, **options)


def rows(*seqs, **fields):
    return [Row(seq, **fields) for seq in seqs]


def pushed(delivery):
    """(subscription name, seq, attempt) of everything pushed since the last look."""
    return [
        (sub.name, pending.message.seq, pending.deliveries)
        for sub, queue in delivery.effects().pushes.items()
        for pending in queue
    ]


def leases_of(sub):
    return {pending.message.seq: lease for lease, pending in sub.leases.items()}


def test_a_message_goes_to_one_member_and_the_window_holds():
    d = core()
    one, two = session(), session()
    d.subscribe(one, "a", "g", 2, 30, now=0)
    d.subscribe(two, "b", "g", 2, 30, now=0)
    d.arrived("g", 1, rows(*range(1, 11)), None, now=0)
    got = pushed(d)
    assert sorted(seq for _, seq, _ in got) == [1, 2, 3, 4]
    assert sorted(name for name, _, _ in got) == ["a", "a", "b", "b"]
    assert d.census()["g"]["ready"] == [5, 6, 7, 8, 9, 10]


def test_ready_messages_are_spread_over_the_waiting_members():
    d = core()
    for name in "abcd":
        d.subscribe(session(), name, "g", 100, 30, now=0)
    d.arrived("g", 1, rows(*range(1, 9)), None, now=0)
    counts = [name for name, _, _ in pushed(d)]
    assert {name: counts.count(name) for name in "abcd"} == {"a": 2, "b": 2, "c": 2, "d": 2}


def test_an_ack_settles_and_frees_the_window_for_the_next():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    (lease,) = sub.leases
    d.effects()
    assert d.ack(s, [lease], now=1) == []
    effects = d.effects()
    assert [(e.group, [p.message.seq for p in e.held]) for e in effects.settlements] == [("g", [1])]
    assert [p.message.seq for p in effects.pushes[sub]] == [2]


def test_stale_and_foreign_and_repeated_leases_have_no_effect():
    d = core()
    s, other = session(), session()
    sub = d.subscribe(s, "a", "g", 5, 30, now=0)
    d.subscribe(other, "b", "other", 5, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    first, second = sub.leases
    d.effects()
    assert d.ack(other, [first], now=1) == [first]
    assert d.ack(s, [first, first, "n1.nonsense", ""], now=1) == [first, "n1.nonsense", ""]
    assert d.nack(s, [first], None, None, now=1) == [first]
    (settled,) = d.effects().settlements
    assert isinstance(settled, Settled)
    assert [p.message.seq for p in settled.held] == [1]
    assert list(sub.leases) == [second]


def test_ack_through_settles_what_this_subscription_was_granted_up_to_it():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.subscribe(s, "b", "h", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2, 3), None, now=0)
    d.arrived("h", 1, rows(1, 2), None, now=0)
    leases = leases_of(sub)
    d.extend(s, [leases[1]], now=5)  # moves to the end of the order of deadlines, not of grants
    d.effects()
    assert d.ack_through(s, leases[2], now=6) == []
    assert [sorted(p.message.seq for p in e.held) for e in d.effects().settlements] == [[1, 2]]
    assert d.ack_through(s, leases[2], now=6) == [leases[2]]


def test_a_nack_waits_its_back_off_outside_the_window():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    d.effects()
    d.nack(s, list(sub.leases), None, "no", now=10)
    effects = d.effects()
    (retried,) = effects.settlements
    assert isinstance(retried, Retried)
    assert (retried.message.seq, retried.due, retried.deliveries, retried.failures) == (1, 10.5, 1, 1)
    assert [p.message.seq for p in effects.pushes[sub]] == [2]


def test_a_nack_with_a_delay_replaces_the_back_off():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.nack(s, list(sub.leases), 90.0, None, now=10)
    (retried,) = d.effects().settlements
    assert retried.due == 100.0


def test_back_off_doubles_to_its_cap():
    policy = RetryPolicy(cap_s=1, cap_s_max=300)
    assert [policy.cap(n) for n in (1, 2, 3, 9, 10, 500)] == [1, 2, 4, 256, 300, 300]
    assert policy.backoff_s(3, lambda: 0.25) == 1.0


def test_a_retried_message_comes_back_to_its_place_with_its_counts():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, 2, 3), None, now=0)
    d.nack(s, list(sub.leases), 1.0, None, now=0)
    d.effects()
    d.arrived("g", 1, rows(1), [(1, 1)], now=1)
    d.ack(s, list(sub.leases), now=2)
    assert pushed(d) == [("a", 1, 2)]


def test_a_timeout_counts_as_failure_and_frees_the_window():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=100)
    d.effects()
    assert d.next_deadline() == 130
    d.handle_timer(129.999)
    assert not d.effects()
    d.handle_timer(130)
    effects = d.effects()
    (retried,) = effects.settlements
    assert (retried.failures, retried.due) == (1, 130.5)
    assert [p.message.seq for p in effects.pushes[sub]] == [2]


def test_extend_renews_for_one_ack_timeout_up_to_the_age_limit():
    d = core(lease_age_s_max=50)
    s = session()
    sub = d.subscribe(s, "a", "g", 5, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    leases = leases_of(sub)
    assert d.extend(s, [leases[1]], now=20) == (50, [])
    d.effects()
    d.handle_timer(30)
    assert [e.message.seq for e in d.effects().settlements] == [2]
    assert d.extend(s, [leases[1], leases[2]], now=40) == (50, [leases[2]])
    assert d.next_deadline() == 50
    d.handle_timer(50)
    assert [e.message.seq for e in d.effects().settlements] == [1]


def test_a_disconnect_gives_back_at_once_in_order_and_counts_only_the_delivery():
    d = core()
    gone, other = session(), session()
    d.subscribe(gone, "a", "g", 32, 30, now=0)
    d.arrived("g", 1, rows(*range(1, 41)), None, now=0)
    d.subscribe(other, "b", "g", 40, 30, now=0)
    d.effects()
    d.disconnect(gone, now=1)
    effects = d.effects()
    assert [(c.message.seq, c.deliveries, c.failures) for c in effects.settlements] == [(n, 1, 0) for n in range(1, 33)]
    assert all(isinstance(c, Counted) for c in effects.settlements)
    queues = list(effects.pushes.values())
    assert [p.message.seq for queue in queues for p in queue] == list(range(1, 33))
    assert {p.deliveries for queue in queues for p in queue} == {2}


def test_a_drain_gives_back_without_counting():
    d = core()
    gone, other = session(), session()
    d.subscribe(gone, "a", "g", 5, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.subscribe(other, "b", "g", 5, 30, now=0)
    d.effects()
    d.disconnect(gone, now=1, drained=True)
    effects = d.effects()
    assert effects.settlements == []
    assert [p.deliveries for queue in effects.pushes.values() for p in queue] == [1]


def test_a_disconnecting_session_is_handed_nothing_on_its_way_out():
    d = core()
    s = session(bytes_max=100)
    d.subscribe(s, "a", "g", 5, 30, now=0)
    sub = d.subscribe(s, "b", "h", 5, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.arrived("h", 1, rows(1), None, now=0)
    assert sub in s.starved
    d.effects()
    d.disconnect(s, now=1)
    effects = d.effects()
    assert not effects.pushes
    assert [(c.group, c.message.seq) for c in effects.settlements] == [("g", 1)]
    assert sorted(effects.forgets) == ["g", "h"]


def test_a_released_message_is_not_offered_to_the_same_session_for_a_while():
    d = core(release_hold_s=1.0)
    s, other = session(), session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.effects()
    d.release(s, list(sub.leases), now=5)
    assert pushed(d) == []
    assert d.next_deadline() == 6.0
    d.handle_timer(6.0)
    assert pushed(d) == [("a", 1, 2)]
    d.release(s, list(sub.leases), now=7)
    d.effects()
    d.subscribe(other, "b", "g", 1, 30, now=7.1)
    assert pushed(d) == [("b", 1, 3)]


def test_a_release_hold_of_a_closed_group_ends_without_effect():
    d = core(release_hold_s=1.0)
    s = session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.release(s, list(sub.leases), now=5)
    d.disconnect(s, now=5.5)
    d.effects()
    d.handle_timer(6.0)
    assert not d.effects()


def test_reject_and_exhaustion_go_to_the_dead_letters():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 5, 30, now=0, policy=STERN)
    d.arrived("g", 1, rows(1, 2, 3), [(0, 0), (1, 1), (4, 0)], now=0)
    leases = leases_of(sub)
    d.effects()
    d.reject(s, [leases[1]], "bad card", now=1)
    d.nack(s, [leases[2]], None, "again", now=1)
    d.unsubscribe(s, [sub], now=1)
    dead = [e for e in d.effects().settlements if isinstance(e, Died)]
    assert [(e.message.seq, e.reason, e.error) for e in dead] == [
        (1, "rejected", "bad card"),
        (2, "failures", "again"),
        (3, "deliveries", None),
    ]


def test_a_message_at_its_limit_on_disk_is_not_delivered_once_more():
    d = core()
    d.subscribe(session(), "a", "g", 5, 30, now=0, policy=STERN)
    d.arrived("g", 1, rows(1), [(5, 0)], now=0)
    effects = d.effects()
    assert not effects.pushes
    assert [e.reason for e in effects.settlements] == ["deliveries"]


def test_the_window_counts_bytes_but_one_message_always_fits():
    d = core()
    s = session(bytes_max=250)
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2, 3) + rows(4, size_bytes=9999), None, now=0)
    assert [seq for _, seq, _ in pushed(d)] == [1, 2]
    d.ack(s, [leases_of(sub)[1], leases_of(sub)[2]], now=1)
    assert [seq for _, seq, _ in pushed(d)] == [3]
    d.ack(s, list(sub.leases), now=2)
    assert [seq for _, seq, _ in pushed(d)] == [4]


def test_bytes_freed_by_one_subscription_feed_another_of_the_session():
    d = core()
    s = session(bytes_max=100)
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.subscribe(s, "b", "h", 10, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.arrived("h", 1, rows(7), None, now=0)
    assert [seq for _, seq, _ in pushed(d)] == [1]
    d.ack(s, list(sub.leases), now=1)
    assert pushed(d) == [("b", 7, 1)]


def test_what_settlements_keep_in_memory_is_told_with_them():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2, 3), None, now=0)
    size_bytes = next(iter(sub.leases.values())).message.size_bytes + OVERHEAD_BYTES
    assert d.effects().settled_bytes == 0
    d.ack(s, list(sub.leases)[:2], now=1)
    assert d.effects().settled_bytes == 2 * size_bytes
    d.handle_timer(now=31)
    effects = d.effects()
    assert len(effects.settlements) == 1
    assert effects.settled_bytes == size_bytes


@pytest.mark.parametrize("end", ["reset", "take back", "drain"])
def test_a_lease_that_ends_without_a_settlement_keeps_nothing_in_memory(end):
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    if end == "reset":
        d.reset("g", now=1)
    elif end == "take back":
        d.take_back(s, list(sub.leases), now=1)
    else:
        d.end(s, now=1, drained=True)
    effects = d.effects()
    assert (effects.settlements, effects.settled_bytes) == ([], 0)


def test_what_dies_on_its_arrival_is_counted_as_kept():
    d = core()
    d.subscribe(session(), "a", "g", 10, 30, now=0)
    worn = rows(1)
    d.arrived("g", 1, worn, [(50, 0)], now=0)
    effects = d.effects()
    assert [settlement.reason for settlement in effects.settlements] == ["deliveries"]
    assert effects.settled_bytes == worn[0].size_bytes + OVERHEAD_BYTES


def test_flow_changes_the_window_and_zero_pauses():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 0, 30, now=0)
    d.arrived("g", 1, rows(1, 2, 3), None, now=0)
    assert pushed(d) == []
    d.flow(sub, 2, now=1)
    assert [seq for _, seq, _ in pushed(d)] == [1, 2]
    d.flow(sub, 0, now=2)
    d.ack(s, [leases_of(sub)[1]], now=3)
    assert pushed(d) == []


def test_busy_lanes_share_by_weight_and_none_starves():
    d = core()
    s = session()
    sub = d.subscribe(s, "a", "g", 15, 30, now=0)
    for priority in range(4):
        d.arrived("g", priority, rows(*range(priority * 1000 + 1, priority * 1000 + 400), priority=priority), None, 0)
    served = []
    for turn in range(40):
        served += [p.message.priority for p in sub.leases.values()]
        d.ack(s, list(sub.leases), now=turn)
    last = served[-300:]
    assert [last.count(priority) for priority in range(4)] == [20, 40, 80, 160]


def test_demand_opens_with_the_first_member_and_ends_with_the_last():
    d = core()
    s = session()
    d.subscribe(s, "a", "g", 10, 30, now=0)
    assert {priority: count for (_, priority), count in d.effects().wants.items()} == dict.fromkeys(range(4), 4096)
    d.arrived("g", 1, rows(*range(1, 2001)), None, now=0)
    assert d.effects().wants == {}  # what is held and still asked for together are plenty
    d.arrived("g", 1, rows(*range(2001, 4097)), None, now=0)
    sub = s.subs["a"]
    while len(d.census()["g"]["ready"]) >= 2048:
        assert d.effects().wants == {}
        d.ack(s, list(sub.leases), now=0)
    assert d.effects().wants == {("g", 1): 4096 - len(d.census()["g"]["ready"])}
    d.disconnect(s, now=1)
    effects = d.effects()
    assert effects.forgets == ["g"]
    assert effects.wants == {}
    assert d.ready_bytes() == 0


def test_memory_is_bounded_and_scarcity_starves_nobody():
    d = core(ready_bytes_max=100_000)
    slow, quick = session(), session()
    d.subscribe(slow, "a", "g", 1, 30, now=0)
    sub = d.subscribe(quick, "b", "h", 1, 30, now=0)
    d.effects()
    d.arrived("g", 1, rows(*range(1, 300)), None, now=0)
    wants = d.effects().wants
    assert all(count <= 1 for count in wants.values())
    assert wants[("h", 1)] == 1
    d.arrived("h", 1, rows(1), None, now=0)
    assert pushed(d) == [("b", 1, 1)]
    d.ack(quick, list(sub.leases), now=1)
    assert d.effects().wants[("h", 1)] == 1
    d.disconnect(slow, now=2)
    assert d.effects().wants[("h", 1)] == 4096


def test_messages_of_a_group_that_closed_meanwhile_are_let_go():
    d = core()
    d.arrived("gone", 1, rows(1), None, now=0)
    assert not d.effects()
    assert d.census() == {}


def test_lease_tokens_never_repeat_within_a_session():
    d = core()
    s = session()
    seen = set()
    for turn in range(20):
        sub = d.subscribe(s, "a", "g", 10, 30, now=turn)
        d.arrived("g", 1, rows(*range(turn * 100, turn * 100 + 10)), None, now=turn)
        assert len(sub.leases) == 10
        assert not seen & set(sub.leases)
        seen |= set(sub.leases)
        d.unsubscribe(s, [sub], now=turn)
    assert len(seen) == 200
