"""Virtual time: one heap of things to come, one seeded source of chance, one history. Reads no clock, starts nothing.

Whatever happens in a simulation happens in a callback that `World` runs, one after the other; the same seed gives the
same callbacks in the same order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any

START_S = 1_800_000_000.0
"""The virtual wall clock begins here (2027-01-15)."""
STEP_COST_S = 5e-6
"""Each callback takes this long, so that no timer that is a rounding error early can stop the clock."""


class Timer:
    """Something to come; may be cancelled."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class World:
    """Time, chance and the record of one run."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.rng = Random(seed)
        self.clock_s = START_S
        self.history: list[dict[str, Any]] = []
        self.sink: Callable[[dict[str, Any]], object] = self.history.append  # or a checker, where there is too much
        self.grants: dict[str, int] = {}  # lease -> ns, by the gateway's clock
        self.trace: list[str] | None = [] if tracing else None
        self.steps = 0
        self._heap: list[tuple[float, int, Timer]] = []
        self._serial = 0

    def now(self) -> float:
        """Seconds; what the gateway under test takes for its clock."""
        return self.clock_s

    def at(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Run the callback after a delay. Equal moments come in the order of asking."""
        timer = Timer(callback)
        self._serial += 1
        heappush(self._heap, (self.clock_s + delay_s, self._serial, timer))
        return timer

    def run(self, until_s: float, after: Callable[[], bool]) -> None:
        """Run everything due by then; `after` looks at the state after each callback, and ends the run with True."""
        heap = self._heap
        while heap and heap[0][0] <= until_s:
            when, _, timer = heappop(heap)
            if timer.callback is None:
                continue
            self.clock_s = max(self.clock_s, when) + STEP_COST_S
            self.steps += 1
            timer.callback()
            if after():
                return
        self.clock_s = max(self.clock_s, until_s)

    def record(self, ev: str, **fields: Any) -> None:
        """One event of the history that the checker will judge."""
        self.sink({"t": ns(self.clock_s), "ev": ev, **fields})
        if self.trace is not None:
            self.note(ev, **fields)

    def note(self, what: str, **fields: Any) -> None:
        """A line of the trace that a person reads when a seed fails."""
        if self.trace is not None:
            text = " ".join(f"{name}={value}" for name, value in fields.items())
            self.trace.append(f"{self.clock_s - START_S:9.4f} {what} {text}")

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.rng.random()

    def digest(self) -> str:
        """Equal for equal runs."""
        return hashlib.sha256(json.dumps(self.history, sort_keys=True).encode()).hexdigest()[:16]


def ns(seconds: float) -> int:
    return round(seconds * 1e9)


class SeededSecrets:
    """Stands in for the `secrets` module inside the gateway: tokens that are the same in every run of a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(seed ^ 0x5EC2E7)

    def token_urlsafe(self, size_bytes: int) -> str:
        return self._rng.randbytes(size_bytes).hex()

    def token_hex(self, size_bytes: int) -> str:
        return self._rng.randbytes(size_bytes).hex()
