"""A subscription as the user sees it: an async context manager and a cancel-safe async iterator.

Owns who waits for the next message. What is held, and what the gateway knows, is the consumer's and the session's; this
module never awaits user code except in `run`, which is user code's own task.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Protocol, Self

from .consumer import Consumer, Phase
from .errors import LeaseLost, PushwireError
from .message import Message
from .turnstile import Turnstile

log = logging.getLogger("pushwire")

DRAIN_TIMEOUT_S = 30.0
"""How long a drain waits for handlers: as long as a message may be held by default."""
Handler = Callable[[Message], Awaitable[object]]


class Desk(Protocol):
    """What a subscription asks of its client."""

    async def open(self, member: Consumer) -> None: ...
    async def leave(self, member: Consumer) -> None: ...
    async def drain_one(self, consumer: Consumer, timeout_s: float) -> bool: ...
    def set_flow(self, consumer: Consumer) -> None: ...


class Subscription:
    """A member of a group. Made by `Client.subscribe`; opened by `async with`.

    `async for` gives messages, in any number of tasks at once, each to one of them. It ends when the subscription is
    drained or closed, and raises what ended it otherwise (ConsumerUnhealthy: too many leases in a row ran out). A
    cancelled wait loses nothing. After a lost connection it goes on by itself; messages not yet handed out then come
    again, except when the client has a `resume_grace_s` and is back within it: then all that is held stays valid.
    """

    def __init__(self, desk: Desk, consumer: Consumer) -> None:
        self._desk = desk
        self._consumer = consumer
        self._queue = consumer.queue
        self._turnstile = Turnstile(lambda: bool(consumer.queue))
        consumer.on_ready = self._turnstile.wake

    @property
    def topic(self) -> str:
        return self._consumer.topic

    @property
    def group(self) -> str:
        return self._consumer.group

    @property
    def prefetch(self) -> int:
        """Messages it may hold, as granted."""
        return self._consumer.prefetch

    @property
    def ack_timeout_s(self) -> float:
        """Seconds a message may be held, as granted."""
        return self._consumer.ack_timeout_s

    @property
    def active(self) -> bool:
        """Granted on the current connection, and neither draining nor ended."""
        return self._consumer.phase is Phase.ACTIVE

    async def __aenter__(self) -> Self:
        """Returns once the gateway has granted it. Raises Forbidden, SubscribeError, NotConnected, RequestTimeout."""
        await self._desk.open(self._consumer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Settlements given so far are sent; everything else that is held goes back at once."""
        await self._desk.leave(self._consumer)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        if self._queue:
            return self._queue.popleft()
        message = await self._next()
        if message is None:
            raise StopAsyncIteration
        return message

    async def _next(self) -> Message | None:
        """The next message; None at the end. Raises the error that ended the subscription. Nothing is taken out of the
        queue before it is returned, so a cancellation has nothing to put back."""
        while not self._queue:
            self._check_open()
            if self._consumer.over():
                return None
            await self._turnstile.wait()
        return self._queue.popleft()

    def _check_open(self) -> None:
        if self._consumer.phase is Phase.NEW:
            raise RuntimeError("open the subscription with `async with` before iterating over it")

    async def run(self, handler: Handler, concurrency: int = 16) -> None:
        """Call `handler(message)` for every message, at most `concurrency` at a time, each as in `async with message:`.
        A handler that fails is logged and never stops the others. Returns when the subscription is drained; raises what
        ended it otherwise. Cancelled, it cancels its handlers, and their messages are released."""
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._check_open()
        async with asyncio.TaskGroup() as workers:
            for _ in range(concurrency):
                workers.create_task(self._work(handler))
        self._consumer.over()  # raises what ended it

    async def _work(self, handler: Handler) -> None:
        """One of the handlers of `run`: a task for its whole life, not one for each message."""
        while True:
            try:
                message = await self._next()
            except PushwireError:
                return  # `run` raises it once, after the other handlers are done
            if message is None:
                return
            try:
                async with message:
                    await handler(message)
            except LeaseLost as exc:
                log.warning("%s", exc)
            except Exception:
                log.exception("the handler failed on %r", message)

    def pause(self) -> None:
        """Ask the gateway for no more messages. Those already here are still handed out."""
        if not self._consumer.paused:
            self._consumer.paused = True
            self._desk.set_flow(self._consumer)

    def resume(self) -> None:
        """Undo `pause`."""
        if self._consumer.paused:
            self._consumer.paused = False
            self._desk.set_flow(self._consumer)

    async def drain(self, timeout_s: float = DRAIN_TIMEOUT_S) -> bool:
        """Take no more messages, end the iteration, give back what was not handed out, wait for handlers to finish and
        for their settlements to be confirmed. True when all of that was done in time. Not from inside a handler, which
        would wait for itself."""
        return await self._desk.drain_one(self._consumer, timeout_s)

    def __repr__(self) -> str:
        consumer = self._consumer
        return f"Subscription(topic={consumer.topic!r}, group={consumer.group!r}, phase={consumer.phase.value!r})"
