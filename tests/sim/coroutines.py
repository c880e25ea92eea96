"""The few coroutines of the gateway, run in virtual time: each goes on when the simulated reader has answered.

Owns a stand-in for the `asyncio` module inside tails.py and gateway.py, and the store whose reads take their time. No
rule of the gateway is repeated; what a task does is the gateway's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any

from pushwire_storage.base import READ_BYTES_MAX, Page, StoreError, Topic
from pushwire_storage.inline import InlineSqliteStore

from .world import World

FAILS = 0.01
"""Chance that a read fails, where the disk does such things."""


class Pause:
    """Awaited by the simulated reader: so long until it goes on."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s

    def __await__(self) -> Generator[Pause, None, None]:
        yield self


class Task:
    """A coroutine under way in one incarnation of the gateway. It dies with it."""

    def __init__(self, loop: Any, work: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._work = work
        self._done: list[Callable[[Task], object]] = []
        loop.call_soon(self._step)

    def add_done_callback(self, callback: Callable[[Task], object]) -> None:
        self._done.append(callback)

    def _step(self) -> None:
        try:
            pause = self._work.send(None)
        except StopIteration:
            for callback in self._done:
                callback(self)
            return
        assert isinstance(pause, Pause), "a task waited for what is not simulated"
        self._loop.call_later(pause.delay_s, self._step)

    def close(self) -> None:
        self._work.close()


class Asyncio:
    """What the gateway's modules know as `asyncio`."""

    def __init__(self, running_loop: Callable[[], Any]) -> None:
        self.get_running_loop = running_loop


class SlowReads(InlineSqliteStore):
    """The store whose reader is a thread of its own: commits come between the question and its answer."""

    def __init__(self, world: World, path: Any, **options: Any) -> None:
        super().__init__(path, **options)
        self._world = world
        self.failing = False

    async def read(self, topic: Topic, after_seq: int, limit: int, bytes_max: int = READ_BYTES_MAX) -> Page:
        world = self._world
        await Pause(world.between(0.0001, 0.02))
        if self.failing and world.chance(FAILS):
            raise StoreError("the reader failed")
        page = await super().read(topic, after_seq, limit, bytes_max)
        await Pause(world.between(0.0001, 0.02))
        return page
