"""A TCP proxy between clients and gateway that does to their bytes what networks do: late, slow, in pieces, cut, lost.

Owns the proxy and its toxics. Knows nothing of what is said through it, and judges nothing: which toxic is on when is
the scenario's (network.py). Runs in a thread of its own, so that a scenario may wait while it works.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import Counter
from collections.abc import Coroutine
from typing import Any, Literal

Direction = Literal["up", "down"]
"""`up` is from the client to the gateway."""

CHUNK_BYTES = 16 * 1024
SMALL_WINDOW_BYTES = 4096
"""The proxy's receive buffer at the gateway's side, for a reader that shall be felt at once when it stops."""


class Cut(Exception):
    """The link ends here. `how` is rst, fin or both sides' silence until then."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Toxic:
    """Does nothing. The others change how a chunk passes."""

    name = "clear"

    def __init__(self) -> None:
        self.fired = 0
        """Chunks that were not passed on as they came, or links that were cut."""

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        await link.write(data, direction)


class Latency(Toxic):
    """Each chunk waits; later ones wait behind it."""

    name = "latency"

    def __init__(self, base_s: float, jitter_s: float, rng: random.Random) -> None:
        super().__init__()
        self._base_s, self._jitter_s, self._rng = base_s, jitter_s, rng

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        self.fired += 1
        await asyncio.sleep(self._base_s + self._rng.random() * self._jitter_s)
        await link.write(data, direction)


class Bandwidth(Toxic):
    """So many bytes a second in each direction of a link."""

    name = "bandwidth"

    def __init__(self, bytes_per_s: float) -> None:
        super().__init__()
        self._bytes_per_s = bytes_per_s

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        self.fired += 1
        for at in range(0, len(data), 1024):
            part = data[at : at + 1024]
            await asyncio.sleep(len(part) / self._bytes_per_s)
            await link.write(part, direction)


SLICED_BYTES = 512
"""Of a chunk; the rest passes whole, or a large one would take seconds, and who waits for it be cut off for silence."""


class Slicer(Toxic):
    """Pieces of 1 to 7 bytes, each a packet of its own."""

    name = "slicing"

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        self.fired += 1
        at = 0
        while at < min(len(data), SLICED_BYTES):
            size = self._rng.randint(1, 7)
            await link.write(data[at : at + size], direction)
            await asyncio.sleep(0)  # the other end reads meanwhile: pieces are not joined again
            at += size
        if at < len(data):
            await link.write(data[at:], direction)


class Reset(Toxic):
    """Now and then RST to both sides, what was on its way is gone."""

    name = "reset"

    def __init__(self, share: float, rng: random.Random) -> None:
        super().__init__()
        self._share, self._rng = share, rng

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        if self._rng.random() < self._share:
            self.fired += 1
            raise Cut("rst")
        await link.write(data, direction)


class HalfOpen(Toxic):
    """Both directions fall silent without a word; who is on the link has to notice. What was swallowed never comes, so
    once the toxic is taken off such a link is cut."""

    name = "half-open"

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        self.fired += not link.broken
        link.broken = True


class SlowReader(Toxic):
    """What comes from the gateway is not read any more, until the link is cut; the other direction works."""

    name = "slow reader"

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        if direction == "down":
            self.fired += 1
            link.broken = True
            await link.over.wait()
        await link.write(data, direction)


class CutAfter(Toxic):
    """The first `count` bytes of a direction pass, the rest of the link does not."""

    name = "cut after n bytes"

    def __init__(self, count: int, direction: Direction, how: str) -> None:
        super().__init__()
        self._left, self._direction, self._how = count, direction, how

    async def passes(self, link: Link, data: bytes, direction: Direction) -> None:
        if direction != self._direction or len(data) <= self._left:
            self._left -= len(data) if direction == self._direction else 0
            await link.write(data, direction)
            return
        await link.write(data[: self._left], direction)
        self.fired += 1
        raise Cut(self._how)


class Link:
    """One client's connection and the proxy's own to the gateway."""

    def __init__(self, proxy: Proxy, client: asyncio.StreamWriter, gateway: asyncio.StreamWriter) -> None:
        self.proxy = proxy
        self.broken = False
        self.over = asyncio.Event()
        self._writers: dict[Direction, asyncio.StreamWriter] = {"up": gateway, "down": client}
        for writer in self._writers.values():
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def write(self, data: bytes, direction: Direction) -> None:
        if self.over.is_set():
            raise ConnectionResetError
        writer = self._writers[direction]
        writer.write(data)
        await writer.drain()

    def cut(self, how: str) -> None:
        """RST, or FIN after what was written, to both sides."""
        if self.over.is_set():
            return
        self.over.set()
        for writer in self._writers.values():
            if how == "rst":
                if not writer.transport.is_closing():  # else there is no socket any more
                    linger = (1).to_bytes(4, "little") + bytes(4)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Listens on `port` for clients of one gateway."""

    def __init__(self, gateway_port: int) -> None:
        self.gateway_port = gateway_port
        self.port = 0
        self.toxic = Toxic()
        self.fired: Counter[str] = Counter()
        """By the name of the toxics that were on and are off again."""
        self.bytes: Counter[Direction] = Counter()
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=CHUNK_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all("rst")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def put_on(self, toxic: Toxic) -> None:
        """From now on, for links that are there and for new ones. The one before it is off."""
        self.fired[self.toxic.name] += self.toxic.fired
        self.toxic = toxic
        for link in [link for link in self._links if link.broken]:
            link.cut("rst")

    def cut_all(self, how: str) -> None:
        for link in list(self._links):
            link.cut(how)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()  # the proxy is being stopped
        finally:
            self._tasks.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW_BYTES)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.gateway_port))
        except OSError:
            sock.close()
            writer.transport.abort()
            return
        from_gateway, to_gateway = await asyncio.open_connection(sock=sock, limit=CHUNK_BYTES)
        link = Link(self, writer, to_gateway)
        self._links.add(link)
        try:
            await asyncio.gather(self._pump(link, reader, "up"), self._pump(link, from_gateway, "down"))
        finally:
            link.cut("rst")
            self._links.discard(link)

    async def _pump(self, link: Link, reader: asyncio.StreamReader, direction: Direction) -> None:
        """Until an end of the link, which is an end for both directions: nobody here speaks half-closed."""
        try:
            while data := await reader.read(CHUNK_BYTES):
                self.bytes[direction] += len(data)
                await self.toxic.passes(link, data, direction)
            link.cut("fin")
        except Cut as cut:
            link.cut(cut.how)
        except OSError:
            link.cut("rst")


class ProxyThread:
    """A proxy with an event loop in a thread of its own. To be stopped."""

    def __init__(self, gateway_port: int) -> None:
        self.proxy = Proxy(gateway_port)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._run(self.proxy.start())

    @property
    def port(self) -> int:
        return self.proxy.port

    def put_on(self, toxic: Toxic) -> None:
        async def change() -> None:
            self.proxy.put_on(toxic)

        self._run(change())

    def stop(self) -> None:
        self._run(self.proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
