"""How long a failed message waits. Pure arithmetic; the random number is handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Full jitter: uniform between nothing and a cap that doubles with each failure, so that neither one poison message
    nor a crowd of failed ones comes back in step. design.md §2.5, §2.6."""

    max_failures: int = 10
    max_deliveries: int = 50
    cap_s: float = 1.0
    cap_s_max: float = 300.0

    def cap(self, failures: int) -> float:
        """The longest wait after this many failures, seconds."""
        doublings = min(failures - 1, 32)  # beyond that the cap is reached anyway
        return min(self.cap_s * 2.0**doublings, self.cap_s_max)

    def backoff_s(self, failures: int, random: Callable[[], float]) -> float:
        return random() * self.cap(failures)

    def verdict(self, deliveries: int, failures: int) -> str | None:
        """The reason to give up on a message, or None."""
        if failures >= self.max_failures:
            return "failures"
        return "deliveries" if deliveries >= self.max_deliveries else None
