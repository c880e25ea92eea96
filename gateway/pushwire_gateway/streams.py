"""Tails as streams of events (Server-Sent Events): what a browser's EventSource reads.

Owns the form of the events, and what is queued for one stream: bounded, because a stream that is not read is fed from
the store once it is. Where each tail stands is tails.py's; knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Final

from pushwire.wire import encode
from pushwire.wire.codec import dumps
from pushwire.wire.frames import TailBatch
from pushwire_storage.base import Message, StoreError, Topic

from .refusal import Refusal, Refused
from .rights import Principal
from .tails import Tail

if TYPE_CHECKING:
    from .gateway import Gateway

FORM: Final = "sse"
"""Under this the events of a batch are kept, for all streams that show it."""

QUEUED_BYTES_MAX: Final = 256 * 1024
"""Events queued for a stream before its tail lags: a few commits. Above half of it comes one page of the store at most,
which ends with the message that makes it as large again."""

KEEPALIVE_S: Final = 15.0
"""Silence after which a comment is sent: proxies cut a connection that is silent for 30 to 60 s."""

FULL_RETRY_MS: Final = 5000
"""What a client refused for a limit is told to wait."""

RETRY_MS: Final = 1000
"""What an EventSource is told to wait before it comes back. It is its only back-off, so not less."""


def events(batch: TailBatch, epoch: str) -> bytes:
    """The messages as events: written once, however many streams show them."""
    found = batch.encoded.get(FORM)
    if found is None:
        found = batch.encoded[FORM] = b"".join(
            b"event: message\nid: %b:%d\ndata: %b\n\n" % (epoch.encode(), m.seq, encode.shown(batch.topic, m))
            for m in batch.messages
        )
    return found


class EventStream:
    """One tail and what is queued for it: a Viewer of tails.py, or a StatsViewer of sysstats.py."""

    __slots__ = (
        "_epoch",
        "_gateway",
        "_lagging",
        "_parts",
        "_sent_at",
        "_tail",
        "_wake",
        "ended",
        "principal",
        "size_bytes",
    )

    def __init__(self, gateway: Gateway, principal: Principal) -> None:
        self._gateway = gateway
        self._epoch = gateway.engine.store.epoch
        self.principal = principal
        self._tail: Tail | None = None
        self._parts: list[bytes] = []
        self._wake = asyncio.Event()
        self._lagging = False
        self._sent_at = gateway.clock.now()
        self.size_bytes = 0
        """Queued, or handed over and not taken by the transport."""
        self.ended = False
        """Nothing is queued any more."""

    def follow(self, topic: Topic, seq: int) -> None:
        """Begin behind this seq. The first event says so, for a client whose connection goes before the first
        message."""
        self._open_at(seq)
        self._tail = Tail(self, "", topic, seq)
        self._gateway.engine.tails.add(self._tail)

    def follow_stats(self) -> None:
        """Begin with the tenant's numbers of the next second."""
        self._open_at(self._gateway.stats.seq)
        self._gateway.stats.add(self, self.principal.tenant)

    def _open_at(self, seq: int) -> None:
        self._queue(b"retry: %d\nid: %b:%d\n\n" % (RETRY_MS, self._epoch.encode(), seq))

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """What to send, as it comes, until the end. Asking for the next one says that the last was taken."""
        while True:
            self._wake.clear()
            if self._parts:
                piece, self._parts = b"".join(self._parts), []
                yield piece
                self.size_bytes = sum(map(len, self._parts))
                self._sent_at = self._gateway.clock.now()
            elif self.ended:
                return
            self._catch_up()
            if not self._parts and not self.ended:
                await self._wake.wait()

    def keep_alive(self, now: float) -> None:
        """Say something, if nothing was said for long."""
        if now - self._sent_at >= KEEPALIVE_S and not self.size_bytes and not self.ended:
            self._sent_at = now
            self._queue(b": keepalive\n\n")

    def end(self, refusal: Refusal, *, flush: bool = False) -> None:
        """The client is told, and then the stream ends. `flush`: after what is queued."""
        if self.ended:
            return
        if not flush:
            self._parts.clear()
        told = dumps({"code": refusal.code, "message": refusal.message}).decode()
        self._queue(f"event: end\ndata: {told}\n\n".encode())
        self.close()

    def close(self) -> None:
        """Nothing is shown any more. Harmless when repeated."""
        self.ended = True
        if self._tail is not None:
            self._gateway.engine.tails.remove(self._tail)
        self._gateway.stats.remove(self)
        self._wake.set()

    def _queue(self, part: bytes) -> None:
        if not self.ended:
            self._parts.append(part)
            self.size_bytes += len(part)
            self._wake.set()

    def _catch_up(self) -> None:
        if self._lagging and self._tail is not None and self.size_bytes <= QUEUED_BYTES_MAX // 2:
            self._lagging = False
            self._gateway.engine.tails.resume(self._tail)

    # --- what tails.py calls (Viewer) --------------------------------------------------------------------------

    def show(self, tail: Tail, messages: Sequence[Message]) -> None:
        batch, _ = self._gateway.batches.of(tail.topic, messages)
        self._queue(events(batch, self._epoch))

    def offer(self, tail: Tail, messages: Sequence[Message]) -> bool:
        _, size_bytes = self._gateway.batches.of(tail.topic, messages)
        if self.size_bytes and self.size_bytes + size_bytes > QUEUED_BYTES_MAX:  # it comes in pages, when there is room
            self._lagging = True
            return False
        self.show(tail, messages)
        return True

    def gap(self, tail: Tail, from_seq: int, to_seq: int) -> None:
        span = dumps({"from": from_seq, "to": to_seq}).decode()
        self._queue(f"event: gap\nid: {self._epoch}:{to_seq}\ndata: {span}\n\n".encode())

    @property
    def page_bytes_max(self) -> int:
        return QUEUED_BYTES_MAX

    def put_off(self) -> None:
        self._lagging = True

    def keeps_up(self) -> bool:
        keeps_up = self.size_bytes <= QUEUED_BYTES_MAX
        if not keeps_up:
            self._lagging = True
        return keeps_up

    def tail_failed(self, tail: Tail, error: StoreError) -> None:
        self.end(Refusal(error.code, str(error)))

    # --- what sysstats.py calls (StatsViewer) ------------------------------------------------------------------

    def show_stats(self, batch: TailBatch) -> None:
        """The newest numbers. Who has not taken the last ones gets the next: these would be old then."""
        if self.size_bytes <= QUEUED_BYTES_MAX // 2:
            self._queue(events(batch, self._epoch))

    # --- what both call ----------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The request writes by itself. One that was too full for a commit and has nothing queued must look again."""
        self._wake.set()


class Streams:
    """Every stream of one gateway. Bounded, each of one subject and in total."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._streams: dict[EventStream, None] = {}
        self._of: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, principal: Principal) -> EventStream:
        """A stream that follows nothing yet; given back by `leave`. Raises Refused."""
        settings, owner = self._gateway.settings, (principal.tenant, principal.subject)
        if len(self) >= settings.streams_max or self._of[owner] >= settings.streams_per_subject:
            raise Refused(Refusal("too_many_connections", "too many streams", FULL_RETRY_MS))
        stream = EventStream(self._gateway, principal)
        self._streams[stream] = None
        self._of[owner] += 1
        return stream

    def leave(self, stream: EventStream) -> None:
        """Its client is gone, or was told the end. Harmless when repeated."""
        stream.close()
        if stream in self._streams:
            del self._streams[stream]
            owner = (stream.principal.tenant, stream.principal.subject)
            self._of[owner] -= 1
            if not self._of[owner]:
                del self._of[owner]

    def tick(self, now: float) -> None:
        """Once a second: tokens end, and silence is broken."""
        for stream in list(self._streams):
            if now >= stream.principal.valid_until:
                stream.end(Refusal("unauthorized"))
            else:
                stream.keep_alive(now)

    def end_revoked(self, affected: Callable[[Principal], bool]) -> None:
        """Whoever is here by one of these tokens goes."""
        for stream in list(self._streams):
            if affected(stream.principal):
                stream.end(Refusal("unauthorized"))

    def drain(self) -> None:
        """The gateway is going away."""
        for stream in list(self._streams):
            stream.end(Refusal("going_away"), flush=True)
