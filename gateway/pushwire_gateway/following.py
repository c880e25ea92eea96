"""The tails of one connection: what it follows, and what of it is sent now.

Owns which tails a connection has and when one that lagged goes on. Where each stands is tails.py's; what a tail may
follow is operations.py's. Must not read the store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pushwire.wire.frames import Gap, TailBatch, Tailed
from pushwire_storage.base import Message, StoreError, Topic

from .outbox import Outbox
from .rights import Principal
from .tails import Tail

if TYPE_CHECKING:
    from .gateway import Gateway

PAGE_PART = 8
"""A page for a tail that lags is this part of the outbox: as much as may be unsent when it is asked for. Several follow
each other before a client that reads is near the limit, in whatever form its bytes are sent."""

ENVELOPE_BYTES = 256
"""What a message of a tail takes in its frame beside its body, at most but for long names."""


class Batches:
    """The newest messages shown to tails, as they go to each of them: a commit of a topic comes to all its tails one
    after the other, so that one place to remember is enough to build its frame once."""

    __slots__ = ("_batch", "_messages", "_size_bytes", "built")

    def __init__(self) -> None:
        self._messages: Sequence[Message] | None = None
        self._batch = TailBatch("", ())
        self._size_bytes = 0
        self.built = 0  # frames built, however many they went to

    def of(self, topic: Topic, messages: Sequence[Message]) -> tuple[TailBatch, int]:
        """The batch of these messages, and about how many bytes it takes."""
        if messages is not self._messages:
            self._messages = messages
            self._batch = TailBatch(topic.name, messages)
            self._size_bytes = sum(message.size_bytes for message in messages) + ENVELOPE_BYTES * len(messages)
            self.built += 1
        return self._batch, self._size_bytes

    def forget(self) -> None:
        """Nothing is being shown: the bodies need not be kept."""
        self._messages = None
        self._batch = TailBatch("", ())


class Following:
    """A `Viewer` of tails.py and of sysstats.py."""

    __slots__ = (
        "_gateway",
        "_lagging",
        "_outbox",
        "_shown_bytes_max",
        "_stats",
        "_tails",
        "_trouble",
        "page_bytes_max",
        "shown",
    )

    def __init__(self, gateway: Gateway, outbox: Outbox, trouble: Callable[[str, str], None]) -> None:
        """`trouble(code, name)` tells the client that a tail has ended."""
        self._gateway = gateway
        self._outbox = outbox
        self._trouble = trouble
        self._tails: dict[str, Tail] = {}
        self._stats: set[str] = set()
        self._lagging = False
        self._shown_bytes_max = gateway.settings.outbox_bytes_max // 2
        self.page_bytes_max = gateway.settings.outbox_bytes_max // PAGE_PART
        self.shown = 0
        """Messages sent to tails."""

    def __len__(self) -> int:
        return len(self._tails) + len(self._stats)

    def __contains__(self, name: object) -> bool:
        return name in self._tails or name in self._stats

    # --- what the session does ---------------------------------------------------------------------------------

    def follow(self, name: str, topic: Topic, seq: int) -> None:
        """A tail that stands at `seq` begins."""
        tail = self._tails[name] = Tail(self, name, topic, seq)
        self._gateway.engine.tails.add(tail)

    def follow_stats(self, name: str, tenant: str) -> None:
        """A tail of the gateway's numbers begins."""
        self._gateway.stats.add(self, tenant)
        self._stats.add(name)

    def stop(self, name: str) -> None:
        """A tail ends, by its client's wish or not."""
        tail = self._tails.pop(name, None)
        if tail is not None:
            self._gateway.engine.tails.remove(tail)
        elif name in self._stats:
            self._stats.remove(name)
            if not self._stats:
                self._gateway.stats.remove(self)

    def stop_all(self, code: str | None = None) -> None:
        """Every tail ends. `code`: why, for a client that is still there."""
        for name in [*self._tails, *self._stats]:
            self.stop(name)
            if code is not None:
                self._trouble(code, name)

    def drop_forbidden(self, principal: Principal) -> None:
        """Tails that these rights do not allow end."""
        lost = [name for name, tail in self._tails.items() if not principal.may("replay", tail.topic.name)]
        if not principal.may("admin", None):
            lost += self._stats
        for name in lost:
            self.stop(name)
            self._trouble("forbidden", name)

    def catch_up(self) -> None:
        """The client takes more again: tails that lagged go on from the store."""
        if not self._lagging or not self._takes_more():
            return
        self._lagging = False
        for tail in list(self._tails.values()):
            self._gateway.engine.tails.resume(tail)

    # --- what tails.py calls (Viewer) --------------------------------------------------------------------------

    def show(self, tail: Tail, messages: Sequence[Message]) -> None:
        batch, _ = self._gateway.batches.of(tail.topic, messages)
        self._tails[tail.name] = self._tails.pop(tail.name)  # the others come before its next page
        self.shown += len(messages)
        self._outbox.send(Tailed(tail.name, batch))

    def offer(self, tail: Tail, messages: Sequence[Message]) -> bool:
        batch, size_bytes = self._gateway.batches.of(tail.topic, messages)
        unsent_bytes = self._outbox.size_bytes
        # A large commit would fill the outbox of a client that does nothing wrong: it gets it in pages.
        if unsent_bytes > self._outbox.high_bytes or unsent_bytes + size_bytes > self._shown_bytes_max:
            self._lagging = True
            return False
        self.shown += len(messages)
        self._outbox.send(Tailed(tail.name, batch))
        return True

    def gap(self, tail: Tail, from_seq: int, to_seq: int) -> None:
        self._outbox.send(Gap(tail.name, from_seq, to_seq))

    def keeps_up(self) -> bool:
        keeps_up = self._takes_more()
        if not keeps_up:
            self._lagging = True
        return keeps_up

    def _takes_more(self) -> bool:
        return not self._outbox.above_high and self._outbox.size_bytes <= self._shown_bytes_max

    def put_off(self) -> None:
        self._lagging = True

    def tail_failed(self, tail: Tail, error: StoreError) -> None:
        if self._tails.get(tail.name) is tail:
            self.stop(tail.name)
            self._trouble(error.code, tail.name)
            self._gateway.engine.touch(self)

    def flush(self) -> None:
        self._outbox.flush()
        if self._lagging:
            self.catch_up()

    # --- what sysstats.py calls (StatsViewer) ------------------------------------------------------------------

    def show_stats(self, batch: TailBatch) -> None:
        """The newest numbers. A client that does not take them now gets the next ones: these would be old then."""
        if not self._outbox.above_high:
            for name in self._stats:
                self._outbox.send(Tailed(name, batch))
