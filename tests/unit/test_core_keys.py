"""Ordering keys in the core: one of a key at a time, lowest seq first, and nothing hidden behind a taken key."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

import pytest

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.keys import PARKED_MAX
from pushwire_gateway.core.model import Died, Policy, Retried, Session, Settled


@dataclass(eq=False)
class Row:
    seq: int
    key: str | None = "k"
    priority: int = 1
    size_bytes: int = 100
    expires_ms: int | None = None


_names = itertools.count()


def session():
    return Session(link=None, lease_prefix=f"n1.{next(_names):016d}", bytes_max=1 << 20)


def core():
    return Delivery(lambda: 0.5)


def pushed(delivery):
    return [p.message.seq for queue in delivery.effects().pushes.values() for p in queue]


def lease_of(sub, seq):
    return next(lease for lease, pending in sub.leases.items() if pending.message.seq == seq)


def rows(*seqs, key="k"):
    return [Row(seq, key) for seq in seqs]


def test_one_message_of_a_key_is_out_and_others_pass_it():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, [*rows(1, 2), *rows(3, key="other"), *rows(4, key=None)], None, now=0)
    assert pushed(d) == [1, 3, 4]
    d.ack(s, [lease_of(sub, 1)], now=1)
    assert pushed(d) == [2]


def test_a_key_stays_taken_through_its_back_off():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    d.nack(s, [lease_of(sub, 1)], None, None, now=1)
    assert pushed(d) == [1]
    d.arrived("g", 1, rows(1), [(1, 1)], now=2)
    assert pushed(d) == [1]
    d.ack(s, [lease_of(sub, 1)], now=3)
    assert pushed(d) == [2]


def test_a_dead_letter_frees_the_key():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    d.reject(s, [lease_of(sub, 1)], "no", now=1)
    assert pushed(d) == [1, 2]


def test_a_released_message_keeps_its_key():
    d, s, other = core(), session(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(1, 2), None, now=0)
    d.effects()
    d.release(s, [lease_of(sub, 1)], now=1)
    assert pushed(d) == []
    d.subscribe(other, "b", "g", 10, 30, now=1.5)
    assert pushed(d) == [1]


def test_a_lower_seq_that_falls_due_goes_before_what_waits():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(5, 6), None, now=0)
    d.arrived("g", 1, rows(2), None, now=0)
    assert pushed(d) == [5]
    d.ack(s, [lease_of(sub, 5)], now=1)
    assert pushed(d) == [2]


def test_a_lower_seq_replaces_a_holder_that_only_waits():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 0, 30, now=0)
    d.arrived("g", 1, rows(5, 6), None, now=0)
    d.arrived("g", 1, rows(2), None, now=0)
    d.flow(sub, 10, now=0)
    assert pushed(d) == [2]
    d.ack(s, [lease_of(sub, 2)], now=1)
    assert pushed(d) == [5]


def test_a_blocked_key_of_many_rows_hides_nothing_and_costs_no_memory():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(*range(1, 5001)), None, now=0)
    assert pushed(d) == [1]
    assert d.ready_bytes() == PARKED_MAX * (100 + 512)
    d.arrived("g", 1, rows(*range(5001, 5005), key="x") + rows(6001, 6002, key=None), None, now=0)
    assert pushed(d) == [5001, 6001, 6002]
    assert len(d.census()["g"]["parked"]) == PARKED_MAX + 3
    served = [1]
    while True:
        d.ack(s, [lease_of(sub, served[-1])], now=1)
        effects = d.effects()
        for want in effects.key_wants:
            assert (want.key, want.after_seq) == ("k", served[-1])
            batch = list(range(want.after_seq + 1, 5001))[: want.count]
            d.arrived_key("g", 1, "k", rows(*batch), None, batch[-1] if batch else 5004, now=1)
            effects = d.effects()
        got = [p.message.seq for queue in effects.pushes.values() for p in queue]
        if not got:
            break
        served += got
    assert served == list(range(1, 5001))
    assert "k" not in d.group("g").lanes[1].keys


def test_rows_that_come_while_the_store_is_asked_are_not_lost():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    count = PARKED_MAX + 2
    d.arrived("g", 1, rows(*range(1, count + 1)), None, now=0)
    for seq in range(1, count):
        d.effects()
        d.ack(s, [lease_of(sub, seq)], now=1)
    (want,) = d.effects().key_wants
    assert want.after_seq == count - 1
    d.arrived("g", 1, rows(count + 1), None, now=1)
    assert pushed(d) == []
    d.arrived_key("g", 1, "k", rows(count), None, count, now=1)  # looked before the last one was committed
    assert pushed(d) == [count]
    d.ack(s, [lease_of(sub, count)], now=1)
    (want,) = d.effects().key_wants
    assert want.after_seq == count
    d.arrived_key("g", 1, "k", rows(count + 1), None, count + 1, now=1)
    assert pushed(d) == [count + 1]


def test_a_key_that_backs_off_on_disk_is_taken_from_the_start():
    d, s = core(), session()
    d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, rows(2, 3) + rows(4, key="x"), None, now=0, blocked=[(1, "k")])
    assert pushed(d) == [4]
    d.vanished("g", 1, [1], now=1)
    assert pushed(d) == [2]


def test_a_ttl_that_ends_frees_the_key_and_leaves_the_lane():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 0, 30, now=0)
    first, second = rows(1, 2)
    first.expires_ms = 5000
    d.arrived("g", 1, [first, second], None, now=0)
    assert d.next_deadline() == 5.0
    d.handle_timer(5.0)
    (died,) = d.effects().settlements
    assert isinstance(died, Died)
    assert (died.reason, died.drop) == ("expired", False)
    d.flow(sub, 10, now=5)
    assert pushed(d) == [2]


def test_an_expired_message_is_never_delivered_and_a_leased_one_may_be_acked():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0, policy=Policy(expired_dead=False))
    late, live = Row(1, None, expires_ms=1000), Row(2, None, expires_ms=9000)
    d.arrived("g", 1, [late, live], None, now=2)
    effects = d.effects()
    assert [(e.message.seq, e.drop) for e in effects.settlements] == [(1, True)]
    d.handle_timer(9.5)
    assert not d.effects().settlements
    d.ack(s, [lease_of(sub, 2)], now=10)
    assert [type(e) for e in d.effects().settlements] == [Settled]


def test_a_lease_that_fails_after_its_ttl_dies_instead_of_waiting():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, [Row(1, None, expires_ms=1000)], None, now=0)
    d.effects()
    d.nack(s, list(sub.leases), None, "card refused", now=2)
    (died,) = d.effects().settlements
    assert isinstance(died, Died)
    assert died.reason == "expired"
    assert (died.how, died.error, died.session) == ("nacked", "card refused", s)  # its history knows of the delivery


def test_a_lease_given_back_after_its_ttl_dies_and_its_history_says_who_held_it():
    d, s = core(), session()
    d.subscribe(s, "a", "g", 10, 30, now=0)
    d.arrived("g", 1, [Row(1, None, expires_ms=1000)], None, now=0)
    d.effects()
    d.disconnect(s, now=2)
    (died,) = d.effects().settlements
    assert isinstance(died, Died)
    assert (died.reason, died.how, died.session, died.deliveries) == ("expired", "returned", s, 1)


class World:
    """A small store on one side, members that ack, nack, release, leave and time out on the other."""

    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.core = core()
        self.keys = [None, "a", "b", "c", "d"]
        self.disk = {seq: Row(seq, self.rng.choice(self.keys)) for seq in range(1, 301)}
        self.waiting = []
        self.first = {key: [] for key in self.keys if key}
        self.seen = set()
        self.fed = 0
        self.now = 0.0
        self.members = []

    def step(self):
        d, rng = self.core, self.rng
        self.now += rng.random()
        if rng.random() < 0.5 or not self.members:
            self.members.append(session())
            d.subscribe(self.members[-1], "s", "g", rng.randint(1, 20), 5.0, self.now)
            self.drain()
        due = [entry for entry in self.waiting if entry[0] <= self.now]
        self.waiting = [entry for entry in self.waiting if entry[0] > self.now]
        for _, row, *counts in due:
            d.arrived("g", 1, [row], [tuple(counts)], self.now)
            self.drain()
        before, self.fed = self.fed, min(300, self.fed + 40)
        self.arrive([seq for seq in range(before + 1, self.fed + 1) if seq not in self.away()])
        d.handle_timer(self.now)
        self.drain()
        for member in list(self.members):
            self.act(member)
        out = [p.message.key for m in self.members for sub in m.subs.values() for p in sub.leases.values()]
        out = [key for key in out if key]
        assert len(out) == len(set(out)), "two of one key are out"

    def away(self):
        """What the store holds back."""
        return {row.seq for _, row, *_ in self.waiting}

    def arrive(self, seqs):
        self.core.arrived("g", 1, [self.disk[seq] for seq in seqs], None, self.now)
        self.drain()

    def act(self, member):
        d, rng = self.core, self.rng
        for lease in [lease for sub in member.subs.values() for lease in sub.leases]:
            act = rng.random()
            if act < 0.5:
                d.ack(member, [lease], self.now)
            elif act < 0.6:
                d.nack(member, [lease], None, None, self.now)
            elif act < 0.65:
                d.release(member, [lease], self.now)
            self.drain()
        if len(self.members) > 1 and rng.random() < 0.2:
            self.members.remove(member)
            d.disconnect(member, self.now)
            self.drain()

    def drain(self):
        while effects := self.core.effects():
            for e in effects.settlements:
                if isinstance(e, Settled):
                    for p in e.held:
                        del self.disk[p.message.seq]
                elif isinstance(e, Retried):
                    self.waiting.append((e.due, e.message, e.deliveries, e.failures))
                elif isinstance(e, Died):
                    del self.disk[e.message.seq]
            for p in (p for queue in effects.pushes.values() for p in queue):
                if p.message.seq not in self.seen:
                    self.delivered_first(p.message)
                self.seen.add(p.message.seq)
            for want in effects.key_wants:
                self.answer(want)

    def delivered_first(self, row):
        if row.key:
            self.first[row.key].append(row.seq)

    def answer(self, want):
        away = self.away()
        rows = [self.disk[seq] for seq in sorted(self.disk) if want.after_seq < seq <= self.fed and seq not in away]
        found = [row for row in rows if row.key == want.key][: want.count]
        through = found[-1].seq if len(found) == want.count else self.fed
        self.core.arrived_key("g", 1, want.key, found, None, through, self.now)


@pytest.mark.parametrize("seed", range(100))
def test_first_deliveries_of_each_key_are_in_order_whatever_happens(seed):
    world = World(seed)
    while world.disk and world.now < 3000:
        world.step()
    assert not world.disk
    for key, order in world.first.items():
        assert order == sorted(order), key


def test_a_holder_that_was_replaced_has_its_turn_when_the_lower_one_is_settled():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(1, key=None), None, now=0)
    d.arrived("g", 1, rows(3, 4), None, now=0)
    d.arrived("g", 1, rows(2), None, now=0)
    for seq in (1, 2, 3, 4):
        assert pushed(d) == [seq]
        assert d.census()["g"]["leased"] == [seq]
        d.ack(s, [lease_of(sub, seq)], now=1)
    assert d.group("g").ready == d.ready_bytes() == 0


def test_what_is_given_back_lets_a_lower_one_go_first_that_became_due_meanwhile():
    d, s = core(), session()
    sub = d.subscribe(s, "a", "g", 1, 30, now=0)
    d.arrived("g", 1, rows(5), None, now=0)
    d.arrived("g", 1, rows(2), None, now=0)  # due only now, behind the one that is out
    assert pushed(d) == [5]
    d.release(s, [lease_of(sub, 5)], now=0)
    d.arrived("g", 1, rows(3), None, now=0)
    d.handle_timer(now=1)
    for seq in (2, 3, 5):
        assert pushed(d) == [seq]
        d.ack(s, list(sub.leases), now=1)


class Timed(World):
    """Some messages are scheduled, some expire, and the store takes its time to answer."""

    def __init__(self, seed):
        super().__init__(seed)
        self.scheduled = {}
        self.came = set()
        self.asked = []
        self.told = set()
        for row in self.disk.values():
            if self.rng.random() < 0.3:
                self.scheduled[row.seq] = self.rng.uniform(0, 60)
            if self.rng.random() < 0.2:
                row.expires_ms = int(1000 * (self.scheduled.get(row.seq, 0) + self.rng.uniform(1, 40)))

    def step(self):
        for seq, due in list(self.scheduled.items()):
            if due <= self.now and seq <= self.fed:
                del self.scheduled[seq]
                self.arrive([seq])
        if self.rng.random() < 0.3:
            self.sweep()
        for want in list(self.asked):
            if self.rng.random() < 0.3:
                self.asked.remove(want)
                super().answer(want)
                self.drain()
        if self.rng.random() < 0.3:
            self.sweep()
        super().step()
        group, census = self.core.group("g"), self.core.census()["g"]
        assert group.ready == len(census["ready"])
        everywhere = [seq for place in census.values() for seq in place]
        assert len(everywhere) == len(set(everywhere)), "nothing is in two places"

    def sweep(self):
        """As the store does: say once what has expired in hand. Now and then the timer comes first."""
        over = [row for row in self.disk.values() if row.expires_ms and row.expires_ms / 1000 <= self.now]
        over = [row for row in over if row.seq in self.came - self.told - self.away() and row.key]
        self.told.update(row.seq for row in over)
        self.core.lapsed("g", over, self.now)
        self.drain()

    def away(self):
        return super().away() | set(self.scheduled)

    def arrive(self, seqs):
        self.came.update(seqs)
        super().arrive(seqs)

    def answer(self, want):
        self.asked.append(want)

    def delivered_first(self, row):
        assert row.seq in self.disk, "delivered after its death"
        if row.key:
            lower = [self.disk[seq] for seq in self.came - self.seen if seq < row.seq and seq in self.disk]
            lower = [each for each in lower if each.key == row.key]
            assert all(each.expires_ms and each.expires_ms / 1000 <= self.now for each in lower), (row, lower)


@pytest.mark.parametrize("seed", range(200))
def test_keys_hold_whatever_falls_due_or_expires_meanwhile(seed):
    world = Timed(seed)
    while world.disk and world.now < 3000:
        world.step()
    assert not world.disk
    assert world.core.ready_bytes() == 0
