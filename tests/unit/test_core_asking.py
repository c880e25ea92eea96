"""Members that take messages only when they ask, and deliveries that never reached their client."""

from __future__ import annotations

from dataclasses import dataclass

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.model import Pending, Session, Subscription


@dataclass(eq=False)
class Row:
    seq: int
    priority: int = 1
    size_bytes: int = 100
    key: str | None = None
    expires_ms: int | None = None


def rows(*seqs: int, **fields: object) -> list[Row]:
    return [Row(seq, **fields) for seq in seqs]


def pushed(d: Delivery) -> dict[str, list[int]]:
    return {sub.name: [pending.message.seq for pending in queue] for sub, queue in d.effects().pushes.items()}


def asking(d: Delivery, prefetch: int = 100, name: str = "a") -> tuple[Session, Subscription]:
    """A member that has a window and has not asked yet."""
    s = Session(None, f"n1.{name * 16}", 1 << 20)
    sub = d.subscribe(s, name, "g", 0, 30, now=0)
    d.ask(sub, 0, now=0)
    d.flow(sub, prefetch, now=0)
    return s, sub


def held(sub: Subscription) -> list[Pending]:
    return list(sub.leases.values())


def test_one_that_does_not_ask_is_given_nothing_whatever_happens() -> None:
    d = Delivery(lambda: 0.5)
    s, sub = asking(d)
    d.arrived("g", 1, rows(1, 2, 3), None, now=0)
    d.ask(sub, 2, now=1)
    assert pushed(d) == {"a": [1, 2]}
    d.arrived("g", 1, rows(4), None, now=1)
    d.ack(s, [held(sub)[0].lease], now=2)
    d.nack(s, [held(sub)[0].lease], 1.0, None, now=2)
    d.flow(sub, 50, now=2)
    d.handle_timer(now=40)
    assert pushed(d) == {}
    assert d.census()["g"]["ready"] == [3, 4]


def test_what_is_asked_for_comes_as_it_arrives_and_never_more() -> None:
    d = Delivery(lambda: 0.5)
    _, sub = asking(d)
    d.ask(sub, 3, now=0)
    for seq in range(1, 6):
        d.arrived("g", 1, rows(seq), None, now=seq)
    assert pushed(d) == {"a": [1, 2, 3]}
    d.ask(sub, 1, now=9)
    assert pushed(d) == {"a": [4]}


def test_its_window_and_its_bytes_still_count() -> None:
    d = Delivery(lambda: 0.5)
    s, sub = asking(d, prefetch=2)
    d.arrived("g", 1, rows(*range(1, 9)), None, now=0)
    d.ask(sub, 5, now=0)
    assert pushed(d) == {"a": [1, 2]}
    d.ack(s, [held(sub)[0].lease], now=1)
    assert pushed(d) == {"a": [3]}
    s.bytes_max = 250
    d.flow(sub, 10, now=2)
    assert pushed(d) == {}
    d.ack(s, [one.lease for one in held(sub)], now=3)
    assert pushed(d) == {"a": [4, 5]}  # five in all: two, one and two
    d.ack(s, [one.lease for one in held(sub)], now=4)
    assert pushed(d) == {}


def test_it_shares_with_others_and_takes_part_as_before_when_it_no_longer_asks() -> None:
    d = Delivery(lambda: 0.5)
    _, sub = asking(d)
    d.subscribe(Session(None, "n1." + "b" * 16, 1 << 20), "b", "g", 100, 30, now=0)
    d.ask(sub, 1, now=0)
    d.arrived("g", 1, rows(*range(1, 9)), None, now=0)
    got = pushed(d)
    assert (len(got["a"]), len(got["b"])) == (1, 7)
    d.ask(sub, None, now=1)
    d.arrived("g", 1, rows(9, 10), None, now=1)
    assert {len(seqs) for seqs in pushed(d).values()} == {1}


def test_what_never_reached_its_client_goes_back_as_if_it_had_not_been_handed_out() -> None:
    d = Delivery(lambda: 0.5)
    s, sub = asking(d)
    d.arrived("g", 1, rows(1, 2, 3, key="k") + rows(4), None, now=0)
    d.ask(sub, 2, now=0)
    assert pushed(d) == {"a": [1, 4]}
    leases = [one.lease for one in held(sub)]
    d.take_back(s, [*leases, "n1.unknown"], now=1)
    effects = d.effects()
    assert (effects.settlements, effects.pushes, s.bytes_in_flight) == ([], {}, 0)
    assert d.ack(s, leases, now=1) == leases
    other = d.subscribe(Session(None, "n1." + "b" * 16, 1 << 20), "b", "g", 100, 30, now=2)
    assert pushed(d) == {"b": [1, 4]}
    assert [one.deliveries for one in held(other)] == [1, 1]


def test_what_goes_back_frees_bytes_for_a_subscription_that_waited_for_them() -> None:
    d = Delivery(lambda: 0.5)
    s, sub = asking(d)
    s.bytes_max = 150
    other = d.subscribe(s, "b", "h", 100, 30, now=0)
    d.arrived("g", 1, rows(1), None, now=0)
    d.ask(sub, 1, now=0)
    d.arrived("h", 1, rows(1, 2), None, now=0)
    assert pushed(d) == {"a": [1]}
    d.take_back(s, [held(sub)[0].lease], now=1)
    assert pushed(d) == {"b": [1]}
    assert len(other.leases) == 1
