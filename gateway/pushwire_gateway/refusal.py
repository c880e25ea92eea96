"""What became of a request that did not succeed, the same over every transport."""

from __future__ import annotations

from dataclasses import dataclass

from pushwire.wire.codes import ERRORS

BUSY_RETRY_MS = 5000
"""What a client refused for a cap is told to wait: about as long as it takes for unauthenticated ones to be gone."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A code of `pushwire.wire.codes.ERRORS`, with what is particular to this case."""

    code: str
    detail: str = ""
    retry_after_ms: int | None = None
    final: bool = False
    """Not retryable although the code usually is (a batch larger than its own burst)."""

    @property
    def message(self) -> str:
        text = ERRORS[self.code].message
        return f"{text}: {self.detail}" if self.detail else text

    @property
    def retryable(self) -> bool:
        return ERRORS[self.code].retryable and not self.final


class Refused(Exception):
    """A request that did not succeed, where it is awaited."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal
