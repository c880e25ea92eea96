"""What a message's own times promise: none comes before it is due, and none once its TTL is over.

Owns the judgement of `delay_ms` and `ttl_ms` over a history; the rest is the checker's. The gateway counts a message's
times from when it took it in, which is after the first attempt to publish it and before the first receipt.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NAMES = frozenset({"delayed", "delayed_over_stop"})
"""Rare states that `Times.seen` counts."""


@dataclass(slots=True)
class Stored:
    """One message, by its id."""

    first_t: int
    delay_ns: int
    ttl_ns: int | None
    ok_t: int | None = None

    @property
    def due_t(self) -> int:
        """It was not due earlier than this."""
        return self.first_t + self.delay_ns


class Times:
    """Reads a history in the order of time."""

    def __init__(self, early_ns: int, late_ns: int) -> None:
        """`early_ns`: so far may the gateway's clock and its clients' be apart. `late_ns`: so late may a client note
        what it was sent in time."""
        self._early_ns, self._late_ns = early_ns, late_ns
        self._messages: dict[tuple[str, str], Stored] = {}
        self._stops: list[int] = []
        self._due: set[tuple[str, str, str]] = set()
        self.problems: list[str] = []
        self.seen: Counter[str] = Counter()

    def feed(self, e: Mapping[str, Any]) -> None:
        ev = e["ev"]
        if ev == "pub_inv":
            times = Stored(e["t"], e.get("delay_ns", 0), e.get("ttl_ns"))
            self._messages.setdefault((e["q"], e["mid"]), times)
        elif ev == "pub_ok":
            stored = self._messages[e["q"], e["mid"]]
            if stored.ok_t is None:
                stored.ok_t = e["t"]
        elif ev in ("srv_kill", "srv_exit"):
            self._stops.append(e["t"])
        elif ev == "dlv":
            self._delivered(e)

    def _delivered(self, e: Mapping[str, Any]) -> None:
        stored = self._messages.get((e["q"], e["mid"]))
        if stored is None:
            return  # the checker says so
        if e["t"] < stored.due_t - self._early_ns:
            early_ms = (stored.due_t - e["t"]) // 1_000_000
            self.problems.append(f"{e['mid']} was delivered to {e['grp']} {early_ms} ms before it was due")
        if stored.ttl_ns is not None and stored.ok_t is not None:
            over_ns = e["t"] - (stored.ok_t + stored.delay_ns + stored.ttl_ns)
            if over_ns > self._late_ns:
                self.problems.append(f"{e['mid']} was delivered to {e['grp']} {over_ns // 1_000_000} ms after its TTL")
        where = e["q"], e["mid"], e["grp"]
        if stored.delay_ns and where not in self._due:
            self._due.add(where)
            self.seen["delayed"] += 1
            stored_t = stored.ok_t
            waited = stored_t is not None and any(stored_t < stop < stored.due_t for stop in self._stops)
            self.seen["delayed_over_stop"] += waited
