"""Requests, their replies, and what is to be done later: the bookkeeping of one connection.

Owns refs and who waits for which. Forgets everything with the connection. Pure: `now` is handed in.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from .backoff import believed_s
from .liveness import INFINITY
from .publisher import RETRY
from .wire.frames import Error, Ok

Reply = Callable[[Ok | Error | None, float], None]
"""Called with the answer to a request and the time; None: the connection ended without one."""


class Exchange:
    """What is under way with the gateway."""

    def __init__(self, random: Callable[[], float], wake: Callable[[], None], due: Callable[[float], None]) -> None:
        self._random = random
        self.wake = wake
        """There is something to send."""
        self._due = due
        self.connected = False
        """From the gateway's welcome to the end of the connection."""
        self.leaving = False
        """The gateway has said goodbye: it takes settlements, and nothing new."""
        self.resuming = False
        """A former session is being taken over: until the answer, nothing may be said of subscriptions and leases."""
        self.epoch = ""
        """Of the gateway's database, as its welcome said."""
        self._refs = itertools.count(1)
        self._replies: dict[int, Reply] = {}
        self._first: list[Any] = []
        self._last: list[Any] = []
        self._later: list[tuple[float, int, Callable[[float], None]]] = []

    def next_ref(self) -> int:
        return next(self._refs)

    def send(self, frame: Any) -> None:
        self._first.append(frame)
        self.wake()

    def request(self, make: Callable[[int], Any], reply: Reply, *, last: bool = False) -> None:
        """Send `make(ref)` and have `reply` called once. `last`: after the settlements gathered so far, which it would
        make stale."""
        ref = self.next_ref()
        self._replies[ref] = reply
        (self._last if last else self._first).append(make(ref))
        self.wake()

    def reply(self, ref: int, frame: Ok | Error, now: float) -> None:
        """The answer. One that nobody waits for is none of ours."""
        waiting = self._replies.pop(ref, None)
        if waiting is not None:
            waiting(frame, now)

    def take_first(self) -> list[Any]:
        frames, self._first = self._first, []
        return frames

    def take_last(self) -> list[Any]:
        frames, self._last = self._last, []
        return frames

    def at(self, when: float, action: Callable[[float], None]) -> None:
        """Do this later, if this connection still lives then."""
        heapq.heappush(self._later, (when, self.next_ref(), action))
        self._due(when)

    def retry_at(self, frame: Error, now: float) -> float:
        """When a refused request may be repeated."""
        hint_s = None if frame.retry_after_ms is None else believed_s(frame.retry_after_ms / 1000)
        if hint_s is not None:
            return now + hint_s
        return now + RETRY.base_s + RETRY.delay_s(0, self._random)

    def run_due(self, now: float) -> None:
        while self._later and self._later[0][0] <= now:
            heapq.heappop(self._later)[2](now)

    def due_at(self) -> float:
        return self._later[0][0] if self._later else INFINITY

    def lost(self, now: float) -> None:
        """The connection is gone: nobody gets an answer any more, and each is told so."""
        self.connected = self.leaving = self.resuming = False
        self._first, self._last, self._later = [], [], []
        replies, self._replies = self._replies, {}
        for reply in replies.values():
            reply(None, now)
