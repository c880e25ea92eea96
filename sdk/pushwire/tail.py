"""A tail as the user sees it: an async context manager and a cancel-safe async iterator.

Owns who waits for the next entry. What has come and where it stands is the follower's.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from .consumer import Phase
from .follower import Follower, Gap, Position, TailMessage
from .turnstile import Turnstile


class TailDesk(Protocol):
    """What a tail asks of its client."""

    async def open(self, member: Follower) -> None: ...
    async def leave(self, member: Follower) -> None: ...
    def refill(self, follower: Follower) -> None: ...


class Tail:
    """Every message of a topic, without a group and without leases. Made by `Client.tail`; opened by `async with`.

    `async for` gives, in the order of the topic, TailMessage, and Gap for what retention dropped before it could be
    read: look at the type, for a gap is a loss. A cancelled wait loses nothing. After a lost connection it goes on by
    itself from where it was; after a restart of this program it goes on from `position`, if that was kept and is given
    to `Client.tail`. It ends when it or the client is closed, and raises what ended it otherwise: EpochChanged when the
    gateway's database was restored meanwhile, Forbidden when a fresh token no longer allows it, SubscribeError with
    code `topic_not_found` when the topic was deleted.
    """

    def __init__(self, desk: TailDesk, follower: Follower) -> None:
        self._desk = desk
        self._follower = follower
        self._turnstile = Turnstile(lambda: bool(follower.queue))
        follower.on_ready = self._turnstile.wake

    @property
    def topic(self) -> str:
        return self._follower.topic

    @property
    def active(self) -> bool:
        """Granted on the current connection and not ended. Not so for a while when its reader has fallen behind."""
        return self._follower.phase is Phase.ACTIVE

    @property
    def position(self) -> Position:
        """After what was handed out last. Keep it once that is worked off, and `client.tail(topic, epoch=…,
        after_seq=…)` goes on there. Raises RuntimeError before the tail was opened."""
        position = self._follower.position
        if position is None:
            raise RuntimeError("a tail has a position once it was opened")
        return position

    async def __aenter__(self) -> Self:
        """Returns once the gateway has granted it. Raises Forbidden, SubscribeError, EpochChanged, NotConnected,
        RequestTimeout."""
        await self._desk.open(self._follower)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._desk.leave(self._follower)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TailMessage | Gap:
        follower = self._follower
        while not follower.queue:
            if follower.phase is Phase.NEW:
                raise RuntimeError("open the tail with `async with` before iterating over it")
            if follower.over():
                raise StopAsyncIteration
            await self._turnstile.wait()
        entry = follower.take()
        if follower.relieved():
            self._desk.refill(follower)
        return entry

    def __repr__(self) -> str:
        return f"Tail(topic={self.topic!r}, phase={self._follower.phase.value!r})"
