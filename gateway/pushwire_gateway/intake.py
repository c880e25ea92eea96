"""How fast a connection is read: a slice of bytes or a few operations a loop turn, whatever comes in.

Owns what was read and has not been looked at yet, and whether the socket is read at all. Knows no WebSocket and no
operation. Without it one client that fills the largest message with the smallest operations, or the largest read with
the smallest frames, would hold up everybody else for a second, as often as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

SLICE_BYTES: Final = 8 * 1024
"""Bytes parsed in one turn. Filled with frames of 7 bytes that takes about 7 ms; of larger frames it costs a turn
without much to do, 0.02 ms, for every 8 KiB. A read is up to 256 KiB, and uvloop makes up to 32 of them in a turn."""


class Intake:
    """Bytes of one connection on their way to the parser, and whether more are wanted."""

    __slots__ = ("_at", "_busy", "_held", "_loop", "_parse", "_reading", "_scheduled", "_transport", "_unread", "_work")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        parse: Callable[[bytes], None],
        work: Callable[[], None],
        busy: Callable[[], bool],
    ) -> None:
        """`parse` takes the next bytes; `busy` tells whether operations are left over from it, and `work` does some of
        them. All three are forgotten with `stop`."""
        self._loop = loop
        self._transport = transport
        self._parse = parse
        self._work = work
        self._busy = busy
        self._unread = b""  # at most two reads: what comes after reading was paused is one
        self._at = 0  # of `_unread`, so much has been parsed
        self._held = False  # the session wants nothing more for now
        self._reading = True
        self._scheduled = False

    def behind(self) -> bool:
        """Something that was read has not been looked at."""
        return self._at < len(self._unread) or self._busy()

    def take(self, data: bytes) -> None:
        """The socket was read."""
        if self.behind():
            self._unread = self._unread[self._at :] + data
            self._at = 0
            return
        if len(data) <= SLICE_BYTES:
            self._parse(data)
        else:
            self._unread, self._at = data, 0
            self._step()
        if self.behind():
            self._later()

    def finish(self) -> None:
        """Nothing more will come: look at all there is, now."""
        while self.behind():
            self._step()

    def stop(self) -> None:
        """The connection is gone."""
        self._unread, self._at = b"", 0
        self._parse, self._work, self._busy = _nothing, _nothing, _never

    def pause(self) -> None:
        """Read nothing, and go on with nothing that was read, until `resume`."""
        self._held = True
        self._set_reading()

    def resume(self) -> None:
        """Go on. Harmless when nothing was paused."""
        self._held = False
        if self.behind():
            self._later()
        else:
            self._set_reading()

    def _step(self) -> None:
        if self._busy():
            self._work()
            return
        start, self._at = self._at, self._at + SLICE_BYTES
        chunk = self._unread[start : self._at]
        if self._at >= len(self._unread):
            self._unread, self._at = b"", 0
        self._parse(chunk)

    def _later(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._go_on)
        self._set_reading()

    def _go_on(self) -> None:
        self._scheduled = False
        if self._held:
            return
        if self.behind():
            self._step()
        if self.behind():
            self._later()
        else:
            self._set_reading()

    def _set_reading(self) -> None:
        wanted = not (self._held or self.behind())
        if wanted == self._reading or self._transport.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()


def _nothing(_chunk: bytes = b"") -> None:
    """After the end."""


def _never() -> bool:
    return False


def is_utf8(data: bytes) -> bool:
    """Whether a message may be called a text (RFC 6455 §8.1). The library leaves this to us; nearly all messages are
    ASCII, which is seen at a glance."""
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
