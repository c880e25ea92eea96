"""What the benchmark counts: percentiles, medians, message ids and the exactly-once ledger.

Owns arithmetic only: no socket, no clock, no file.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Sequence


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile of an ascending sequence: the smallest value that at least `share` (0 < share <= 1)
    of all values do not exceed. Raises ValueError for an empty sequence: no samples is no result."""
    if not ordered:
        raise ValueError("no samples")
    if not 0 < share <= 1:
        raise ValueError("share must be above 0 and at most 1")
    # The small tolerance undoes binary rounding: 0.07 * 100 is 7.000000000000001, whose rank is 7.
    return ordered[max(0, math.ceil(share * len(ordered) - 1e-9) - 1)]


def median(values: Iterable[float]) -> float:
    """The middle value; of an even number the mean of the middle two. Raises ValueError for no values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


class Ids:
    """Unique message ids of several producers, each a UUID version 7 (RFC 9562 §5.7) as the SDKs make them: ordered by
    millisecond, and within one ascending from a random start per producer (§6.2). The last 48 bits count the messages
    of all producers, so uniqueness needs no luck and an id can be told from one of another run."""

    def __init__(self, seed: int, start: int = 0) -> None:
        self._rng = random.Random(seed)
        self._counter = itertools.count(start)
        self._heads: dict[int, tuple[int, str]] = {}  # producer -> (millisecond, first 24 digits)
        self.start = start
        self.made = 0

    def take(self, count: int, unix_ms: int, producer: int = 0) -> list[str]:
        """`count` new ids of this millisecond, ascending."""
        made_ms, head = self._heads.get(producer, (-1, ""))
        if unix_ms > made_ms:
            stamp, bits = f"{unix_ms:012x}", self._rng.getrandbits(26)
            head = f"{stamp[:8]}-{stamp[8:]}-7{bits & 0xFFF:03x}-{0x8000 | bits >> 12:04x}-"
            self._heads[producer] = unix_ms, head
        self.made += count
        counter = self._counter
        return [f"{head}{next(counter):012x}" for _ in range(count)]

    def known(self, id: str) -> bool:
        """Whether this id was made here (an id that was not comes from another run, or is garbage)."""
        try:
            return self.start <= int(id[-12:], 16) < self.start + self.made
        except ValueError:
            return False


class Ledger:
    """Whether every message arrived exactly once. Memory follows what is outstanding, not what has passed."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._outstanding: set[str] = set()
        self.published = 0
        self.arrived = 0
        self.duplicates = 0
        self.foreign = 0

    def publish(self, ids: Sequence[str]) -> None:
        self._outstanding.update(ids)
        self.published += len(ids)

    def arrive(self, ids: Sequence[str]) -> None:
        before = len(self._outstanding)
        self._outstanding.difference_update(ids)
        fresh = before - len(self._outstanding)
        self.arrived += fresh
        if fresh != len(ids):
            self._blame(ids, len(ids) - fresh)

    def _blame(self, ids: Sequence[str], surplus: int) -> None:
        foreign = sum(not self._ids.known(id) for id in ids)
        self.foreign += foreign
        self.duplicates += surplus - foreign

    @property
    def outstanding(self) -> int:
        return len(self._outstanding)

    def fault(self) -> str | None:
        """What is wrong, or None when each message published so far arrived exactly once."""
        faults = []
        if self.outstanding:
            faults.append(f"{self.outstanding} of {self.published} messages did not arrive")
        if self.duplicates:
            faults.append(f"{self.duplicates} messages arrived twice")
        if self.foreign:
            faults.append(f"{self.foreign} messages that were never published")
        return "; ".join(faults) or None
