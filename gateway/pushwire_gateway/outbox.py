"""What a client is still to be sent: the bounded queue before the transport, and the verdict on who does not read.

Owns the marks, the limit and the stall rule of one connection. Encodes frames as they come and writes once a turn;
must not know what a frame means, read a clock or touch a socket.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pushwire.wire.codes import CLOSES
from pushwire.wire.frames import Goodbye, ServerFrame

from .ports import Link, ServerCodec

SLOW_CONSUMER: Final = 4000

MESSAGE_BYTES_MAX: Final = 1024 * 1024 + 16 * 1024
"""Largest WebSocket message we put together from several frames: a message of the largest size and its envelope,
which is what clients are told to be ready for. A single larger frame is sent as it is."""

TRANSPORT_HIGH_BYTES: Final = 64 * 1024
TRANSPORT_LOW_BYTES: Final = 16 * 1024
"""Marks of the transport's own buffer. High: what one write of a well filled turn may leave over without pausing
anything; it is multiplied by the number of slow clients, so not more. Low: a quarter, enough to keep the socket busy
until the next write comes."""


class Outbox:
    """Frames of one connection, encoded, until the transport takes them.

    While the transport is full (`hold`) nothing is handed to it, so that what can still be dropped lies here and
    not in a buffer nobody can take back. Memory of one connection: `bytes_max` and one frame.
    """

    __slots__ = ("_buffered_bytes", "_bytes_max", "_codec", "_held", "_link", "_parts", "closed", "high_bytes")

    def __init__(self, codec: ServerCodec, link: Link, bytes_max: int) -> None:
        self._codec = codec
        self._link = link
        self._bytes_max = bytes_max
        self.high_bytes = max(bytes_max // 8, TRANSPORT_HIGH_BYTES)
        self._parts: list[bytes] = []
        self._buffered_bytes = 0
        self._held = False  # the transport is above its high mark
        self.closed = False  # nothing is taken any more

    @property
    def size_bytes(self) -> int:
        """Unsent bytes: buffered here and in the transport."""
        return self._buffered_bytes + self._link.unsent_bytes

    @property
    def above_high(self) -> bool:
        """So much is unsent that whatever makes more of it should pause: stop reading this client. To be asked after
        `flush`; `writable` will come.

        An eighth of the limit, so that a client that reads at all does not come near the limit itself.
        """
        return self.size_bytes > self.high_bytes

    @property
    def below_low(self) -> bool:
        """Reading may go on. A quarter of the high mark, so that the two do not alternate with every frame; never
        less than what the transport may still hold when it says that it has drained."""
        return self.size_bytes <= max(self._bytes_max // 32, TRANSPORT_LOW_BYTES)

    def send(self, frame: ServerFrame) -> None:
        """Encode now, write at `flush`. With more than `bytes_max` unsent already, the client is cut off instead."""
        self.send_encoded(self._codec.encode(frame))

    def send_encoded(self, part: bytes) -> None:
        """As `send`, for a frame that was encoded once for many."""
        if self.closed:
            return
        if self.size_bytes > self._bytes_max:
            self._cut_off()
            return
        self._parts.append(part)
        self._buffered_bytes += len(part)

    def flush(self) -> None:
        """Hand everything to the transport in one write, unless it is full."""
        if self._parts and not self._held:
            self._write()

    def hold(self) -> None:
        """The transport is above its high mark."""
        self._held = True

    def release(self) -> bool:
        """The transport is below its low mark: continue. False when what was waiting filled it again."""
        self._held = False
        self.flush()
        return not self._held

    def finish(self) -> None:
        """Hand over what is buffered even to a full transport and take nothing more: the close frame is next."""
        if self._parts:
            self._write()
        self.closed = True

    def drop(self) -> None:
        """Forget what is buffered and take nothing more."""
        self._parts = []
        self._buffered_bytes = 0
        self.closed = True

    def _write(self) -> None:
        parts, self._parts = self._parts, []
        self._buffered_bytes = 0
        self._link.write(parts)

    def _cut_off(self) -> None:
        """The client reads too slowly for what it asked for. It gets a word of why if it still reads at all."""
        close = CLOSES[SLOW_CONSUMER]
        self.drop()
        self._link.write([self._codec.encode(Goodbye(SLOW_CONSUMER, close.reason, close.reconnect))])
        self._link.close(SLOW_CONSUMER, close.reason)


class StallWatch:
    """Whether a peer has stopped reading: nothing has left for a while although something wants to.

    Looks at amounts, not at marks: a lone ping that cannot leave counts as much as a full buffer, and what the peer
    sends meanwhile does not count at all.
    """

    __slots__ = ("_drained", "_since", "settled")

    def __init__(self) -> None:
        self.settled = 0  # of the bytes written so far, this many had left when we last looked
        self._drained = 0
        self._since = -1.0  # -1: not waiting for anything

    def stalled(self, written: int, unsent: int, now: float, limit_s: float) -> bool:
        """True once no byte has left for `limit_s` seconds with something to send all the while.

        `written`: bytes ever handed to the transport (0 if nobody counts them: then only a shrinking `unsent` shows
        that something left). `unsent`: how many of them are still on this machine.
        """
        drained = written - unsent
        if unsent == 0:
            self.settled = written
            self._since = -1.0
        elif self._since < 0 or drained > self._drained:
            self._since = now
        self._drained = drained
        return unsent > 0 and now - self._since >= limit_s


def grouped(parts: Sequence[bytes], bytes_max: int) -> list[list[bytes]]:
    """Parts in their order, in few groups of at most `bytes_max` with one byte between them; a larger part alone."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for part in parts:
        size += len(part) + 1
        if size > bytes_max and groups[-1]:
            groups.append([])
            size = len(part) + 1
        groups[-1].append(part)
    return groups
