"""Tasks that wait for the next entry of a queue, let in one by one.

Owns who waits. An entry is taken by whoever was let in, after the wait, so that a cancelled wait has nothing to put
back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable


class Turnstile:
    """`more`: whether there is an entry for somebody else."""

    def __init__(self, more: Callable[[], bool]) -> None:
        self._more = more
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Until `wake` says that there is something, or that all is over: look again, for another may have been
        quicker."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                with contextlib.suppress(ValueError):  # already passed over
                    self._waiters.remove(waiter)
            elif self._more():
                self.wake(1)  # it was told of an entry and will not take it: tell another
            raise

    def wake(self, count: int) -> None:
        """So many entries more; 0: the end, for everybody."""
        waiters = self._waiters
        count = count or len(waiters)
        while count and waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1
