"""How numbers spread, in a few fixed buckets: what a scrape can sum over time and over gateways.

Owns counting. Fed once per commit or turn, never per message; knows no metric's name.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Counts by upper bound. `bounds` rise; what is above the last counts in a bucket without a bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one. Below 0 (a clock that a test turned back) counts in the first bucket."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many were at most that), as Prometheus has them; the last bound is +Inf."""
        rows, count = [], 0
        for bound, more in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            count += more
            rows.append((bound, float(count)))
        return rows
