"""Many outcomes for one caller: what a `publish_many` waits for.

Owns the order of the outcomes and when the last one is in. Pure.
"""

from __future__ import annotations

from .errors import BatchError, PushwireError
from .publisher import Waiter
from .wire.frames import Receipt


class Collector:
    """Gathers `count` outcomes and resolves `whole` with the receipts, or with a BatchError."""

    def __init__(self, count: int, whole: Waiter) -> None:
        self.whole = whole
        self._outcomes: list[Receipt | PushwireError | None] = [None] * count
        self._left = count
        self._failed = False

    def put(self, index: int, outcome: Receipt | PushwireError) -> None:
        self._outcomes[index] = outcome
        self._failed = self._failed or isinstance(outcome, PushwireError)
        self._left -= 1
        if self._left or self.whole.done():
            return
        if self._failed:
            self.whole.set_exception(BatchError([outcome for outcome in self._outcomes if outcome is not None]))
        else:
            self.whole.set_result(self._outcomes)


class Slot:
    """The waiter of one of them."""

    __slots__ = ("_collector", "_done", "_index")

    def __init__(self, collector: Collector, index: int) -> None:
        self._collector = collector
        self._index = index
        self._done = False

    def done(self) -> bool:
        return self._done or self._collector.whole.done()

    def set_result(self, receipt: Receipt, /) -> None:
        self._done = True
        self._collector.put(self._index, receipt)

    def set_exception(self, error: BaseException, /) -> None:
        assert isinstance(error, PushwireError)  # the publisher has no other
        self._done = True
        self._collector.put(self._index, error)
