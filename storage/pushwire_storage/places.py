"""Where the work of a catalog is done: beside the loop and the writer, or at once for a store that is stepped.

Owns the thread for long work and its end. It must not know a driver or SQL: the store gives it ways to run things.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from .base import StoreError
from .maintenance import PAUSE_S, Connect, Job
from .queries import Connection, Execute
from .transaction import Writer

T = TypeVar("T")
STOP_AGAIN_S = 0.02
"""From one attempt to end long work to the next."""

Classify = Callable[[Exception], StoreError]


class Ask(Protocol):
    """Run a question on a connection that cannot write, on its thread. Raises StoreError."""

    def __call__(self, question: Callable[[Connection], T]) -> Awaitable[T]: ...


class Tell(Protocol):
    """Run a function on the writer's thread, behind what is queued there."""

    def __call__(self, work: Callable[[Writer], T]) -> Awaitable[T]: ...


class Lent:
    """A connection that belongs to somebody else: closing it gives it back as it was."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._text_factory = connection.text_factory

    @property
    def execute(self) -> Execute:
        return self._connection.execute

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    @property
    def text_factory(self) -> Any:
        return self._connection.text_factory

    @text_factory.setter
    def text_factory(self, factory: Any) -> None:
        self._connection.text_factory = factory

    def interrupt(self) -> None:
        self._connection.interrupt()

    def close(self) -> None:
        self._connection.text_factory = self._text_factory


class ThreadedPlaces:
    """See `catalog.Places`."""

    def __init__(self, ask: Ask, tell: Tell, connect: Connect, classify: Classify) -> None:
        self._ask = ask
        self._tell = tell
        self._connect = connect
        self._classify = classify
        # One: a copy and a check at once would only take each other's disk.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pushwire-care")
        self._running: dict[Job, Future[Any]] = {}
        """Until its thread is done with it, whoever has given up waiting."""

    async def read(self, question: Callable[[Connection], T]) -> T:
        return await self._ask(question)

    async def change(self, work: Callable[[Execute], T]) -> T:
        return await self._tell(lambda writer: writer.transact(work))

    async def apart(self, work: Callable[[Job], T]) -> T:
        job = Job(self._connect, PAUSE_S)
        future = self._running[job] = self._thread.submit(work, job)
        future.add_done_callback(lambda _: self._running.pop(job, None))
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            job.stop()
            raise
        except Exception as error:
            raise StoreError("the store is closing") if job.stopped else self._classify(error) from error

    async def close(self) -> None:
        """End what is under way, and wait for that."""
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        # Again and again: an interrupt that comes between two statements is lost.
        while running := dict(self._running):
            for job in running:
                job.stop()
            wait(running.values(), timeout=STOP_AGAIN_S)
        self._thread.shutdown()


class InlinePlaces:
    """The same without threads: everything is done when it is asked for. The coroutines never suspend."""

    def __init__(
        self, reading: Connection, writer: Writer, connect: Connect, classify: Classify, worked: Callable[[], None]
    ) -> None:
        """`worked` is called after each piece of the writer's work."""
        self._worked = worked
        self._reading = reading
        self._writer = writer
        self._connect = connect
        self._classify = classify

    async def read(self, question: Callable[[Connection], T]) -> T:
        return self._classified(lambda: question(self._reading))

    async def change(self, work: Callable[[Execute], T]) -> T:
        try:
            return self._writer.transact(work)
        finally:
            self._worked()

    async def apart(self, work: Callable[[Job], T]) -> T:
        return self._classified(lambda: work(Job(self._connect)))

    def _classified(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:
            raise self._classify(error) from error
