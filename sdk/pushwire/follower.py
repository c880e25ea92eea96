"""One tail as a state machine: what has come, what was lost, and where to go on after a reconnect.

Owns the local queue and its bound. A reader that falls behind costs no memory and loses nothing: the tail is left, and
taken up again, from where the queue ends, once there is room. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from .consumer import Phase
from .content import Content
from .errors import EpochChanged, PushwireError, again
from .liveness import INFINITY
from .publisher import Waiter
from .wire import frames
from .wire.frames import MessageLike, Ok, Start, SubscribeTail, Tailed

TAIL_MESSAGES_MAX = 1024
"""Messages of one tail that were received and not read: four of the pages in which a gateway sends what it has kept, so
that a reader which keeps up never waits for the next. What one frame brings may come on top."""
TAIL_BYTES_MAX = 4 * 1024 * 1024
"""Their bodies: four full frames."""


class Position(NamedTuple):
    """A place in a topic: everything up to `seq` was read. To go on after it, give both to `Client.tail`."""

    epoch: str
    seq: int


class Gap(NamedTuple):
    """Messages `from_seq` to `to_seq`, both included, were dropped by retention before this tail could read them. (Not
    every number in between was a message's: they need not be dense.)"""

    topic: str
    from_seq: int
    to_seq: int


class TailMessage(Content):
    """A message as a tail shows it: to be read, not to be settled."""

    __slots__ = ("topic",)

    def __init__(self, topic: str, draft: MessageLike) -> None:
        self.topic = topic
        self._draft = draft

    @property
    def due_at(self) -> datetime | None:
        """When groups will be given it, where it was scheduled for later than it was published."""
        due_ms = self._draft.due_ms
        return None if due_ms is None else datetime.fromtimestamp(due_ms / 1000, UTC)

    def __repr__(self) -> str:
        return f"TailMessage(topic={self.topic!r}, seq={self.seq}, id={self.id!r})"


class Follower:
    """State of one tail, over all connections."""

    def __init__(self, name: str, topic: str, start: Start, epoch: str | None = None, after_seq: int = 0) -> None:
        self.name = name
        self.topic = topic
        self.phase = Phase.NEW
        self.error: PushwireError | None = None
        """Why it ended."""
        self.opening: Waiter | None = None
        """Who waits for the first grant."""
        self.queue: deque[TailMessage | Gap] = deque()
        self.on_ready: Callable[[int], None] = lambda _count: None
        """So many entries more, or the end: called to wake whoever waits for them."""
        self._start = start
        self._epoch = epoch
        self._seq = after_seq  # everything up to here is in the queue, or was
        self._read = after_seq  # everything up to here was handed out
        self._size_bytes = 0
        self.stalled = False
        """Left for want of room; `relieved` says when there is some."""

    @property
    def position(self) -> Position | None:
        """After what was handed out last; None before the first grant."""
        return None if self._epoch is None else Position(self._epoch, self._read)

    # --- the gateway -------------------------------------------------------------------------------------------

    def subscribe_frame(self, ref: int) -> SubscribeTail:
        if self._epoch is None:
            return SubscribeTail(self.topic, self.name, self._start, None, 0, ref)
        return SubscribeTail(self.topic, self.name, "new", self._epoch, self._seq, ref)

    def granted(self, ok: Ok) -> None:
        self.phase = Phase.ACTIVE
        if self._epoch is None and ok.epoch is not None and ok.seq is not None:
            self._epoch = ok.epoch
            self._seq = self._read = ok.seq

    def show(self, frame: Tailed) -> None:
        """New messages. Of those that were shown before, and of what comes after it was left, nothing is kept."""
        if self.phase is not Phase.ACTIVE:
            return
        count = len(self.queue)
        for message in frame.batch.messages:
            if message.seq > self._seq:
                self._seq = message.seq
                self._size_bytes += len(message.data)
                self.queue.append(TailMessage(self.topic, message))
        self.on_ready(len(self.queue) - count or 1)

    def gap(self, frame: frames.Gap) -> None:
        """What is lost, as far as it was not known."""
        from_seq = max(frame.from_seq, self._seq + 1)
        if self.phase is Phase.ACTIVE and frame.to_seq >= from_seq:
            self._seq = frame.to_seq
            self.queue.append(Gap(self.topic, from_seq, frame.to_seq))
            self.on_ready(1)

    def overflows(self) -> bool:
        """Whether it has to be left for now."""
        full = len(self.queue) > TAIL_MESSAGES_MAX or self._size_bytes > TAIL_BYTES_MAX
        return full and self.phase is Phase.ACTIVE

    def stall(self, name: str) -> None:
        """It was left. `name`: what it is called when it is taken up again, for messages of the old one may still
        come."""
        self.name = name
        self.phase = Phase.OPENING
        self.stalled = True

    def relieved(self) -> bool:
        """Whether there is room to take it up again: half of what there may be, so that it is not left at once."""
        room = len(self.queue) <= TAIL_MESSAGES_MAX // 2 and self._size_bytes <= TAIL_BYTES_MAX // 2
        return self.stalled and room

    def void(self) -> None:
        """The connection is gone. What has come is as good as it was."""
        if self.phase is Phase.ACTIVE:
            self.phase = Phase.OPENING

    def drain(self) -> None:
        """Nothing new; what has come is still handed out."""
        if self.phase is not Phase.ENDED:
            self.phase = Phase.DRAINING
            self.on_ready(0)

    def end(self, error: PushwireError | None, epoch: str = "") -> None:
        """Over: by the user, or by the gateway with `error`, which says that its epoch is `epoch` now."""
        if self.phase is Phase.ENDED:
            return
        self.phase = Phase.ENDED
        if isinstance(error, EpochChanged):
            error.epoch = epoch
        self.error = error
        if error is None:
            self.queue.clear()
        self.on_ready(0)

    # --- the user ----------------------------------------------------------------------------------------------

    def take(self) -> TailMessage | Gap:
        """The next entry; there must be one."""
        entry = self.queue.popleft()
        if isinstance(entry, Gap):
            self._read = entry.to_seq
        else:
            self._read = entry.seq
            self._size_bytes -= len(entry.data)
        return entry

    def over(self) -> bool:
        """Whether, the queue being empty, iteration has ended. Raises the error that ended it, if one did."""
        if self.error is not None:
            raise again(self.error)
        return self.phase is Phase.DRAINING or self.phase is Phase.ENDED

    def due_at(self) -> float:
        """Nothing here waits for time."""
        return INFINITY
