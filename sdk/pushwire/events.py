"""Changes of state as the user watches them: bounded, so that nobody has to watch.

Owns the queues between the client and `client.events()`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from typing import Self

from .states import State, StateChange

EVENTS_MAX = 64
"""Changes kept for one reader. A flapping connection makes one or two a second; of older ones only the newest matter,
and those are kept."""


class EventStream:
    """An async iterator over changes of state from now on; ends when the client is closed. A reader that falls behind
    misses the oldest: `missed` counts them."""

    def __init__(self, *, ended: bool) -> None:
        self.missed = 0
        self._changes: deque[StateChange] = deque()
        self._ended = ended
        self._waiter: asyncio.Future[None] | None = None

    def put(self, change: StateChange) -> None:
        if len(self._changes) == EVENTS_MAX:
            self._changes.popleft()
            self.missed += 1
        self._changes.append(change)
        self._ended = change.state is State.CLOSED
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> StateChange:
        while not self._changes:
            if self._ended:
                raise StopAsyncIteration
            if self._waiter is None or self._waiter.done():
                self._waiter = asyncio.get_running_loop().create_future()
            # Shared by whoever waits here; the shield keeps one's cancellation from waking the rest for nothing.
            await asyncio.shield(self._waiter)
        return self._changes.popleft()


class Events:
    """All readers of one client. One that was forgotten is forgotten here too."""

    def __init__(self) -> None:
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()

    def open(self, *, ended: bool) -> EventStream:
        stream = EventStream(ended=ended)
        self._streams.add(stream)
        return stream

    def put(self, change: StateChange) -> None:
        for stream in self._streams:
            stream.put(change)
