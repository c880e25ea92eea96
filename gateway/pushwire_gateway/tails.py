"""Tails: subscriptions without a group. Everybody sees every message, in seq order, without leases.

Owns where each tail stands. A tail that keeps up is fed from the commit, with one frame built for all of a topic; one
that lags (its outbox is full, or it starts in the past) is fed from the store, page by page, at its own pace; what the
store no longer has is announced as a gap. Bounded: a page a viewer, of as many bytes as it says, and what its outbox
allows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pushwire_storage.base import Message, Page, Store, StoreError, Topic

if TYPE_CHECKING:
    from .engine import Engine

PAGE_MESSAGES_MAX = 256
"""Messages of one read for a lagging tail: a frame of usual messages, and short enough for the reader's turn."""


class Viewer(Protocol):
    """Who reads a tail: a WebSocket session or a stream of events."""

    @property
    def page_bytes_max(self) -> int:
        """Bytes it wants at once of what it has missed; one message may be more."""

    def show(self, tail: Tail, messages: Sequence[Message]) -> None:
        """Messages of a page, flushed at the end of the turn."""

    def offer(self, tail: Tail, messages: Sequence[Message]) -> bool:
        """As `show`, for what was just committed, if there is room for it. After False it calls `Tails.resume` once it
        takes more."""

    def gap(self, tail: Tail, from_seq: int, to_seq: int) -> None:
        """These are lost to this tail."""

    def keeps_up(self) -> bool:
        """Whether it takes more now. After False it calls `Tails.resume` once it does."""

    def put_off(self) -> None:
        """A page is on its way to it, or has come. It calls `Tails.resume` at the next flush after which it takes
        more."""

    def tail_failed(self, tail: Tail, error: StoreError) -> None:
        """The store could not be read: end the subscription."""

    def flush(self) -> None:
        """Hand what was queued to the transport."""


class Tail:
    """One subscription: everything up to `seq` was shown, or announced as a gap."""

    __slots__ = ("live", "name", "seq", "topic", "viewer")

    def __init__(self, viewer: Viewer, name: str, topic: Topic, seq: int) -> None:
        self.viewer = viewer
        self.name = name
        self.topic = topic
        self.seq = seq
        self.live = seq >= topic.last_seq  # fed by commits


class Tails:
    """All tails of one gateway, by topic."""

    def __init__(self, store: Store, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._by_topic: dict[Topic, dict[Tail, None]] = {}
        self._reads: set[asyncio.Task[None]] = set()
        self._reading: set[Viewer] = set()
        self.shown = 0
        self.gaps = 0

    def add(self, tail: Tail) -> None:
        """A tail begins."""
        tails = self._by_topic.get(tail.topic)
        if tails is None:
            tails = self._by_topic[tail.topic] = {}
            self._store.watch(tail.topic, on=True)
        tails[tail] = None
        self.resume(tail)

    def remove(self, tail: Tail) -> None:
        """A tail ends. Harmless when repeated."""
        tails = self._by_topic.get(tail.topic)
        if tails is not None and tail in tails:
            del tails[tail]
            if not tails:
                del self._by_topic[tail.topic]
                self._store.watch(tail.topic, on=False)

    def count(self) -> int:
        """Tails there are."""
        return sum(len(tails) for tails in self._by_topic.values())

    def end_topic(self, topic: Topic) -> list[Tail]:
        """The topic is gone: so are its tails."""
        tails = list(self._by_topic.get(topic, ()))
        for tail in tails:
            self.remove(tail)
        return tails

    def committed(self, topic: Topic, messages: Sequence[Message]) -> None:
        """New messages of a watched topic, in seq order."""
        last = messages[-1].seq
        for tail in list(self._by_topic.get(topic, ())):
            if not tail.live:
                continue
            self._engine.touch(tail.viewer)  # one that was offered too much at once asks for pages when it flushes
            if tail.viewer.offer(tail, messages):
                tail.seq = last
                self.shown += len(messages)
            else:
                tail.live = False

    def resume(self, tail: Tail) -> None:
        """The tail takes more: catch up from the store, then live on commits. One page a viewer is on its way, or those
        of its many tails would be more together than it can hold."""
        if tail.live or tail not in self._by_topic.get(tail.topic, ()):
            return
        if tail.seq >= tail.topic.last_seq:
            tail.live = True
            return
        if tail.viewer in self._reading:
            tail.viewer.put_off()
            return
        self._reading.add(tail.viewer)
        task = asyncio.get_running_loop().create_task(self._read(tail))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _read(self, tail: Tail) -> None:
        viewer = tail.viewer
        try:
            page = await self._store.read(tail.topic, tail.seq, PAGE_MESSAGES_MAX, viewer.page_bytes_max)
        except StoreError as error:
            if tail in self._by_topic.get(tail.topic, ()):
                self.remove(tail)
                viewer.tail_failed(tail, error)
        else:
            if tail in self._by_topic.get(tail.topic, ()):
                self._page(tail, page)
        finally:
            self._reading.discard(viewer)
        viewer.put_off()  # which of its tails is next it knows
        self._engine.touch(viewer)
        self._engine.turn()

    def _page(self, tail: Tail, page: Page) -> None:
        gaps = list(page.gaps)
        shown: list[Message] = []
        for message in page.messages:
            while gaps and gaps[0][0] < message.seq:
                self._flush_shown(tail, shown)
                self._gap(tail, *gaps.pop(0))
            shown.append(message)
        self._flush_shown(tail, shown)
        for gap in gaps:
            self._gap(tail, *gap)
        tail.seq = max(tail.seq, page.through)

    def _flush_shown(self, tail: Tail, shown: list[Message]) -> None:
        if shown:
            tail.seq = shown[-1].seq
            self.shown += len(shown)
            tail.viewer.show(tail, list(shown))
            self._engine.touch(tail.viewer)
            shown.clear()

    def _gap(self, tail: Tail, from_seq: int, to_seq: int) -> None:
        self.gaps += 1
        tail.viewer.gap(tail, from_seq, to_seq)
        self._engine.touch(tail.viewer)
