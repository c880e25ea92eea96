"""Scenario `drain`: SIGTERM under full load, with a client that does not read, again and again, on the same files.

Owns the loop and its bars: the gateway says goodbye to everyone who listens, keeps what it confirmed and exits 0 in
time, however often it is told.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from pathlib import Path

from faults.supervisor import Supervisor, Verdict
from support.ws_client import WsClient

LIFE_S = (0.4, 1.0)
DRAIN_S_MAX = 10.0
RESTARTING = 1012
STUCK_TOPIC = "faults.stuck"
STUCK_MESSAGES, STUCK_BYTES = 64, 60_000
"""More than the window of a connection (1 MiB) and what the kernel takes beyond it."""


class Listeners:
    """A client that listens and one that does not, on the gateway of this cycle."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._port = supervisor.gateway.port
        self._token = supervisor.gateway.token("listener")
        self.listener: WsClient
        self.stuck: WsClient

    async def connect(self) -> None:
        self.listener = await WsClient.open(self._port, self._token)
        for _ in range(STUCK_MESSAGES // 16):
            rows = [{"data_text": "x" * STUCK_BYTES} for _ in range(16)]
            await self.listener.ok({"op": "publish", "topic": STUCK_TOPIC, "messages": rows})
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", self._port))
        sock.setblocking(False)
        self.stuck = await WsClient.open(self._port, self._token, sock=sock)
        self.stuck.transport.pause_reading()
        self.stuck.send({"op": "subscribe", "topic": STUCK_TOPIC, "prefetch": 1000})

    def close(self) -> None:
        self.listener.abort()
        self.stuck.abort()


async def _drain_once(supervisor: Supervisor) -> None:
    listeners = Listeners(supervisor)
    await listeners.connect()
    await asyncio.to_thread(supervisor.watch, supervisor.rng.uniform(*LIFE_S))
    told_at = time.monotonic_ns()
    supervisor.gateway.signal(signal.SIGTERM)
    await asyncio.sleep(supervisor.rng.uniform(0, 0.2))
    if supervisor.gateway.alive:
        supervisor.gateway.signal(signal.SIGTERM)  # harmless
    code = await asyncio.to_thread(supervisor.gateway.wait, DRAIN_S_MAX + 5)
    took_s = (time.monotonic_ns() - told_at) / 1e9
    supervisor.lives.append((supervisor.ready_at, told_at))
    supervisor.exited_gateway()
    supervisor.drain_s.append(took_s)
    if code != 0:
        supervisor.problems.append(f"drain {supervisor.boot}: exit code {code}")
    if took_s > DRAIN_S_MAX:
        supervisor.problems.append(f"drain {supervisor.boot}: took {took_s:.1f} s")
    closed = await listeners.listener.close_code()
    goodbye = listeners.listener.goodbye or {}
    if (goodbye.get("code"), goodbye.get("reconnect"), closed) != (RESTARTING, True, RESTARTING):
        supervisor.problems.append(f"drain {supervisor.boot}: goodbye {goodbye}, close code {closed}")
    listeners.close()


def run(folder: Path, cycles: int, seed: int) -> Verdict:
    """`cycles` drains, then the verdict."""
    supervisor = Supervisor(folder, seed)
    try:
        supervisor.start_gateway()
        asyncio.run(supervisor.create_groups())
        supervisor.start_clients()
        for _ in range(cycles):
            asyncio.run(_drain_once(supervisor))
            supervisor.start_gateway()
        supervisor.watch(1.0)
        supervisor.stop_clients()
        verdict = supervisor.finish(())
    finally:
        supervisor.close()
    drains = sorted(supervisor.drain_s)
    verdict.figures["drain s median"] = round(drains[len(drains) // 2], 2)
    verdict.figures["drain s max"] = round(drains[-1], 2)
    return verdict
