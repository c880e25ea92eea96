"""The asyncio half of the SDK joined to a peer in memory: real tasks, futures and cancellations, no socket.

Owns the task that moves bytes. Turns of the event loop are stepped with `turns`, never slept.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self

from pushwire.backoff import Backoff, Loss, Reason
from pushwire.shell import Shell
from support.sdk_peer import Peer, PeerLink


async def turns(count: int = 1) -> None:
    """Let the event loop run everything that is ready, so many times."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


class MemoryClient(Shell):
    """A client whose other side lies in the same process."""

    def __init__(
        self, peer: Peer | None = None, *, request_timeout_s: float = 30.0, resume_grace_s: float = 0.0
    ) -> None:
        super().__init__(
            Backoff(0, 0),
            refreshable=False,
            connect_timeout_s=10.0,
            request_timeout_s=request_timeout_s,
            resume_grace_s=resume_grace_s,
        )
        self.peer = peer or Peer()
        self.link: PeerLink | None = None
        self._mover: asyncio.Task[None] | None = None

    @property
    def session(self) -> Any:
        return self._session

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self.connect()
        self._mover = self._loop.create_task(self._move())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._mover is not None
        self._session.close()
        self.cut()
        self._mover.cancel()
        await asyncio.wait([self._mover])
        if not self._mover.cancelled():
            self._mover.result()
        if self._timer is not None:
            self._timer.cancel()

    def connect(self) -> None:
        assert self._session.next_attempt() is not None
        self.link = self.peer.connect()
        self._session.opened(self._now(), "a-token")
        self.poke()

    def cut(self) -> None:
        link, self.link = self.link, None
        if link is not None:
            link.disconnected()
        self._session.lost(Loss(), self._now())
        self._after()

    def poke(self) -> None:
        """The peer has something to say."""
        self._output.set()

    async def _move(self) -> None:
        while True:
            await self._output.wait()
            self._output.clear()
            link = self.link
            if link is None:
                continue
            for message in self._session.data_to_send(self._now()):
                link.feed(message)
            data = link.take()
            if data is not None:
                self._session.receive(data, self._now())
                self._after()

    def _drop(self, why: str) -> None:
        self.cut()

    def _heard_at(self) -> float:
        return 0.0

    def _want_token(self, reason: Reason) -> None:
        raise AssertionError("it has no token")
