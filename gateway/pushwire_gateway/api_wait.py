"""Requests that wait: whether their client is still there, and answers that may come to nobody.

Owns the watch over one request's connection while it waits. Knows no route.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Self

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .api_base import Gone
from .ports import WAITS


class Presence:
    """Notices that a request's client goes away. To be made when the request's body was read, if it has one: what comes
    of it here is dropped. To be closed."""

    def __init__(self, request: Request, left: Callable[[], None] | None = None, *, half_closed: bool = False) -> None:
        """`left` is called once when the client is gone. `half_closed`: one that only sends no more is still there. In
        general it is not: that is how a connection's end begins, and what is handed to nobody is late for others."""
        if not half_closed:
            request.scope.setdefault("state", {})[WAITS] = True
        self._receive: Any = request.receive
        self._left = left
        self.gone = False
        self._watch = asyncio.get_running_loop().create_task(self._look())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Look no more. Harmless when repeated."""
        self._watch.cancel()

    async def _look(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._left is not None:
            self._left()

    def look(self) -> bool:
        """Whether the client is gone, as of now. The watch learns of it a turn later, and until then what is sent goes
        nowhere without a word. Not to be asked when the answer is complete."""
        if not self.gone:
            step = self._receive().__await__()
            try:
                next(step)
            except StopIteration as said:
                self.gone = said.value["type"] == "http.disconnect"
            else:
                step.close()
        return self.gone

    async def wait(self, answer: asyncio.Future[Any]) -> None:
        """Until there is an answer. Raises Gone when the client does not wait for it."""
        await asyncio.wait({answer, self._watch}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Gone


class Handed(Response):
    """An answer that carries something: `lost` is called when the client went before it was all handed over, and
    `over` when it is over, one way or the other."""

    def __init__(
        self,
        body: bytes,
        headers: Mapping[str, str],
        presence: Presence,
        lost: Callable[[], None],
        over: Callable[[], None],
    ) -> None:
        super().__init__(body, 200, dict(headers))
        self._presence = presence
        self._lost = lost
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handed = False
        try:
            if not self._presence.look():
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                # Waits while the transport is full. Returns too when the client is gone: then nothing was sent.
                await send({"type": "http.response.body", "body": self.body, "more_body": True})
                handed = not self._presence.look()
            if handed:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._presence.close()
            if not handed:
                self._lost()
            self._over()
