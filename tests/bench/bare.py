"""The bare limits of WebSocket in Python, as two servers that do nothing but what is measured.

Owns: `frames`, an asyncio.Protocol around websockets' Sans-I/O ServerProtocol, which answers every 100th message it
receives and sends as many frames as it is asked for, each with a write of its own; `broadcast`, websockets' own server
with `websockets.broadcast`. No queue, no storage, no rights.
A request is a text: `send N SIZE` or `cast N SIZE`; any other is a message received.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
from pathlib import Path
from typing import cast

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

ANSWER_EVERY = 100
SENDS_PER_TURN = 50
"""Frames written before the loop turns again, as a broker that has so many messages ready."""


class Frames(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class, only by its methods
        self._protocol = ServerProtocol()
        self._received = 0

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._protocol.send_response(self._protocol.accept(event))
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._text(bytes(event.data))
        self._flush()

    def _text(self, data: bytes) -> None:
        if data.startswith(b"send "):
            _, count, size = data.split()
            self._send(int(count), b"x" * int(size))
            return
        self._received += 1
        if self._received % ANSWER_EVERY == 0:
            self._protocol.send_text(b"%d" % ANSWER_EVERY)

    def _send(self, count: int, body: bytes) -> None:
        for _ in range(min(count, SENDS_PER_TURN)):
            self._protocol.send_text(body)
            self._flush()
        if count > SENDS_PER_TURN and not self._transport.is_closing():
            asyncio.get_running_loop().call_soon(self._send, count - SENDS_PER_TURN, body)

    def _flush(self) -> None:
        if data := b"".join(self._protocol.data_to_send()):
            self._transport.write(data)


class Broadcast:
    """All connections of one server."""

    def __init__(self) -> None:
        self._open: set[ServerConnection] = set()

    async def handle(self, connection: ServerConnection) -> None:
        self._open.add(connection)
        try:
            async for text in connection:
                _, count, size = str(text).split()
                for _ in range(int(count)):
                    broadcast(self._open, "x" * int(size))
        finally:
            self._open.discard(connection)


async def main(kind: str, ready_file: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if kind == "frames":
        server = await loop.create_server(Frames, "127.0.0.1", 0, backlog=1024)
    else:
        server = (await serve(Broadcast().handle, "127.0.0.1", 0, compression=None, backlog=1024)).server
    part = ready_file.with_suffix(".part")
    part.write_text(json.dumps({"pid": os.getpid(), "port": server.sockets[0].getsockname()[1]}))
    part.rename(ready_file)
    await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["frames", "broadcast"])
    parser.add_argument("--ready-file", type=Path, required=True)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.kind, arguments.ready_file))
