"""Rows with keys and what one asks of a core that was given them, for the tests of ordering keys. It tests nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.model import Session, Subscription


@dataclass(eq=False)
class Row:
    seq: int
    key: str | None = "k"
    priority: int = 1
    size_bytes: int = 100
    expires_ms: int | None = None


_names = itertools.count()


def session() -> Session:
    return Session(link=None, lease_prefix=f"n1.{next(_names):016d}", bytes_max=1 << 20)


def core() -> Delivery:
    return Delivery(lambda: 0.5)


def pushed(delivery: Delivery) -> list[int]:
    return [p.message.seq for queue in delivery.effects().pushes.values() for p in queue]


def lease_of(sub: Subscription, seq: int) -> str:
    return next(lease for lease, pending in sub.leases.items() if pending.message.seq == seq)


def rows(*seqs: int, key: str = "k") -> list[Row]:
    return [Row(seq, key) for seq in seqs]
