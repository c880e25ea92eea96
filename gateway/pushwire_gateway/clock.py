"""The one place that reads a clock.

Owns the anchored timeline: the wall clock is read once, at start, and from then on advanced by the monotonic clock.
So stamps mean something to people and to the next start, and a step of the machine's clock changes nothing until then.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What everything else knows of time."""

    def now(self) -> float:
        """Seconds on the anchored timeline. Never goes back."""


class AnchoredClock:
    """The clock of a running gateway."""

    __slots__ = ("_anchor_s",)

    def __init__(self) -> None:
        self._anchor_s = time.time() - time.monotonic()

    def now(self) -> float:
        return self._anchor_s + time.monotonic()


def to_ms(seconds: float) -> int:
    """Anchored seconds as the milliseconds that stores and wires carry."""
    return int(seconds * 1000)
