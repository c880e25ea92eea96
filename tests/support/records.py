"""What the history checker keeps of a history: publishes, connections, leases, and the limits they are judged by.

Owns plain records and no judgement. Standard library only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .judges import FOREVER, Schedule

Event = Mapping[str, Any]
Where = tuple[str, str, int]
SOMETIMES = frozenset({
    "ack_through", "backoff", "close", "dead_deliveries", "dead_expired", "dead_failures", "dead_rejected", "delayed",
    "delayed_nack", "dropped", "duplicate", "expiry", "expiry_extended", "gap", "id_conflict", "key_waited",
    "late_answer", "open_publish_kept", "open_publish_lost", "parted", "paused", "purged", "redelivery_after_kill",
    "redriven", "refused", "release", "resumed_lease_settled", "retry_after_kill", "reverted_ack", "sought", "stale",
    "tail_resumed", "token", "unsubscribe",
})  # fmt: skip
"""Rare states. A run that has not seen those it asked for proves little: it is invalid, not passed."""


@dataclass(frozen=True, slots=True)
class Limits:
    max_failures: int
    max_deliveries: int
    forgotten_max: int = 2  # deliveries of one message that a stop forgets: the last, one given back a moment before
    slack_ns: int = 50_000_000  # how far recorded times may be from the gateway's
    late_ns: int = 1_000_000_000  # delivery stops so soon after a token's end; or is seen so late without `granted`
    behind_ns: int = 5_000_000_000  # what fell due has joined its key by then, however slow the disk


@dataclass(slots=True)
class Pub:
    """One message id: what was asked (op -> content) and what was answered (op -> "" ok fail info)."""

    first_t: int
    floor: int  # highest seq of the topic that was confirmed before the first attempt
    ops: dict[Any, str] = field(default_factory=dict)
    shas: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    attempts: int = 0
    seqs: set[int] = field(default_factory=set)
    fresh: int = 0
    ok_t: int = FOREVER
    schedule: Schedule = field(default_factory=Schedule)
    answered: dict[Any, int] = field(default_factory=dict)


@dataclass(slots=True)
class Settle:
    kind: str
    ids: tuple[Any, Any]  # op, cid
    t: int
    named: bool  # else ack_through may cover it
    delay_ns: int
    result: str = ""  # "" | ok | stale


@dataclass(slots=True)
class Span:
    """A connection or a subscription on one: why and when it may have ended."""

    ends: list[tuple[str, int]]
    boot: int = 0
    scope: Any = None
    closed: int = FOREVER


@dataclass(slots=True)
class Lease:
    token: str
    con: Span
    sub: Span
    attempt: int
    granted: int
    exact: bool
    expires: int
    settles: list[Settle]
    over: list[tuple[str, int]]
    key: Any = None
    pri: int = 1
    extended: bool = False

    @property
    def ended(self) -> int:
        """The first moment at which it may have been settled for good."""
        return min((s.t for s in self.settles if s.kind in {"ack", "reject"} and s.result != "stale"), default=FOREVER)

    @property
    def returned(self) -> int:
        """The first moment at which another delivery may have followed."""
        return min((s.t for s in self.settles if s.result != "stale"), default=self.granted)

    def has(self, kind: str, *results: str) -> bool:
        return any(s.kind == kind and s.result in results for s in self.settles)


@dataclass(slots=True)
class Report:
    violations: list[tuple[str, str]]
    seen: Counter[str]
    missing: list[str]
    figures: dict[str, int]

    @property
    def passed(self) -> bool:
        return not self.violations and not self.missing
