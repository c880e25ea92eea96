"""A client that stops reading is gone within 6 s, and the 19 others do not care.

Twenty consumers, each with a group of its own on one topic, at a steady rate. Latencies are taken in short windows,
with and without the one that does not read, in turn: whatever else the machine does meets both alike. Everything runs
with the default timeouts; only rates are raised.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import itertools
import json
import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import framing
from bench.links import Link, Loop, Target
from bench.processes import cores, pinned_to
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

OTHERS = 19
PAIRS_MAX = 9
MAJORITY = 5
"""Of the pairs within the bar: then the median of all nine is, whatever the others say, and they need not be run."""
RATE_PER_S = 50
WINDOW_S = 2.0
STALL_S = 0.4
"""From the subscription of the slow one to the measurement: its window has been pushed by then."""
GONE_S_MAX = 6.0
RATIO_MAX = 1.5
LATE_S_MAX = 0.050
FAT_MESSAGES, FAT_BYTES = 40, 60_000
"""2.4 MB for the slow one: more than its window (1 MiB), and far more than a socket with a small buffer takes."""
FIONREAD = 0x541B


class Room:
    """The producer and the 19, under one epoll."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.gateway = gateway
        self.loop = Loop(Target("127.0.0.1", gateway.port, "/v1/ws", "pushwire.v1"))
        self.latencies: list[float] = []
        self._sent_at: dict[int, float] = {}
        self._numbers = itertools.count()
        self._waiting = 0
        self.producer = Link(self.loop, "producer", self._answered)
        self.consumers: list[Link] = []
        for number in range(OTHERS):
            link = Link(self.loop, f"consumer-{number}", lambda _: None)
            link.on_payload = lambda payload, link=link: self._received(link, payload)  # type: ignore[misc] # bound now
            self.consumers.append(link)

    def open(self) -> None:
        roles = [(self.producer, self.gateway.token("producer"))]
        roles += [(link, self.gateway.token(link.name)) for link in self.consumers]
        self.loop.connect(roles, time.monotonic() + 10)
        for link in self.consumers:
            op = {"op": "subscribe", "topic": "steady", "group": link.name, "start": "new", "ref": 0}
            self._waiting += 1
            link.send([json.dumps(op).encode()])
        self.wait()

    def wait(self) -> None:
        self.loop.run_until(lambda: not self._waiting, time.monotonic() + 10, "answers")

    def ask(self, op: dict) -> None:
        self._waiting += 1
        self.producer.send([json.dumps(op).encode()])

    def _answered(self, payload: bytes) -> None:
        for line in payload.split(b"\n"):
            op = json.loads(line)
            if op["op"] == "ok":
                self._waiting -= 1
            else:
                assert op["op"] in ("welcome", "ping"), op

    def _received(self, link: Link, payload: bytes) -> None:
        now = time.perf_counter()
        for line in payload.split(b"\n"):
            op = json.loads(line)
            if op["op"] == "messages":
                self.latencies += [now - self._sent_at[row["data"]] for row in op["messages"]]
                link.send([json.dumps({"op": "ack", "leases": [row["lease"] for row in op["messages"]]}).encode()])
            elif op["op"] == "ping":
                link.send([b'{"op":"pong"}'])
            elif op["op"] == "ok":
                self._waiting -= 1
            else:
                assert op["op"] == "welcome", op

    def window(self, seconds: float) -> list[float]:
        """Publish at the rate for so long; the latency of every push, sorted."""
        self.latencies = []
        begin = time.perf_counter()
        count = int(seconds * RATE_PER_S)
        for number in range(count):
            while (left := begin + number / RATE_PER_S - time.perf_counter()) > 0:
                self.loop.turn_precise(left)
            ident = next(self._numbers)
            self._sent_at[ident] = time.perf_counter()
            self.ask({"op": "publish", "topic": "steady", "data": ident, "ref": ident})
            self.loop.flush()
        self.loop.run_until(lambda: len(self.latencies) == count * OTHERS, time.monotonic() + 10, "pushes")
        return sorted(self.latencies)


class Slow:
    """One that subscribes and then reads nothing, with the smallest buffer the kernel gives."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", gateway.port))
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        self.sock.sendall(framing.upgrade_request("a", "/v1/ws", key, "pushwire.v1", gateway.token("slow")))
        head = b""
        while b"welcome" not in head:
            head += self.sock.recv(4096)
        for topic in ("fat", "steady"):
            op = {
                "op": "subscribe",
                "topic": topic,
                "group": "slow",
                "sub": topic,
                "prefetch": 1000,
                "start": "earliest",
            }
            self.sock.sendall(framing.encode(json.dumps(op).encode()))
        self.silent_since = time.monotonic()

    def unread_bytes(self) -> int:
        return int.from_bytes(fcntl.ioctl(self.sock, FIONREAD, bytes(4)), "little")


def _p99(samples: list[float]) -> float:
    return samples[int(len(samples) * 0.99)]


@contextmanager
def _calm() -> Iterator[None]:
    """This process on a core of its own, without pauses for garbage: it measures."""
    _, mine = cores()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with pinned_to(mine):
            yield
    finally:
        gc.enable()
        gc.unfreeze()


def _stuff(room: Room) -> None:
    """What waits for the slow one: each time it connects, all of it is pushed again."""
    for _ in range(FAT_MESSAGES // 10):
        rows = [{"data_text": "x" * FAT_BYTES} for _ in range(10)]
        room.ask({"op": "publish", "topic": "fat", "messages": rows, "ref": 0})
        room.wait()


def _measure(room: Room, gateway: GatewayProcess) -> tuple[list[float], list[float], list[float]]:
    """The ratios of the pairs' p99, and the latest push of each window without and with the slow one."""
    ratios: list[float] = []
    undisturbed, latest = [], []
    while len(ratios) < PAIRS_MAX and sum(ratio <= RATIO_MAX for ratio in ratios) < MAJORITY:
        without = room.window(WINDOW_S)
        slow = Slow(gateway)
        until = time.monotonic() + STALL_S
        while time.monotonic() < until:
            room.loop.turn(0.05)
        with_slow = room.window(WINDOW_S)
        assert slow.unread_bytes() > 0
        slow.sock.close()
        ratios.append(_p99(with_slow) / _p99(without))
        undisturbed.append(without[-1])
        latest.append(with_slow[-1])
    return ratios, undisturbed, latest


def _gone_after(room: Room, gateway: GatewayProcess) -> tuple[float, float]:
    """Seconds until the gateway has dropped one that stays silent, and the latest push to the others meanwhile."""
    room.window(0.2)  # the one before is gone by then
    sockets = gateway.sockets()
    slow = Slow(gateway)
    assert gateway.sockets() == sockets + 1
    latest = 0.0
    while gateway.sockets() > sockets:
        latest = max(latest, room.window(0.1)[-1])
        assert time.monotonic() < slow.silent_since + 2 * GONE_S_MAX, "still connected"
    gone_s = time.monotonic() - slow.silent_since
    slow.sock.close()
    return gone_s, latest


async def _what_it_held(gateway: GatewayProcess) -> dict:
    """The first message of the slow one's group, at a consumer that reads."""
    heir = await WsClient.open(gateway.port, gateway.token("heir"))
    await heir.subscribe("fat", group="slow", prefetch=1)
    (row,) = await heir.take(1, timeout_s=1)
    heir.abort()
    return row


def _report(ratios: list[float], undisturbed: float, latest: float, gone_s: float) -> None:
    print(f"p99 with/without: {[round(ratio, 2) for ratio in ratios]}, median {statistics.median(ratios):.2f}")
    print(f"latest push without {undisturbed * 1e3:.1f} ms, with {latest * 1e3:.1f} ms")
    print(f"gone after {gone_s:.2f} s; load average {os.getloadavg()[0]:.1f}")


@pytest.mark.slow
def test_one_that_stops_reading_is_gone_and_19_others_do_not_care(tmp_path):
    gateway = GatewayProcess(tmp_path)
    gateways_core, _ = cores()
    with pinned_to(gateways_core):
        gateway.start()
    room = Room(gateway)
    try:
        room.open()
        _stuff(room)
        with _calm():
            room.window(1.0)  # warm
            ratios, undisturbed, latest = _measure(room, gateway)
            gone_s, late_at_the_end_s = _gone_after(room, gateway)
        latest_s = max(*latest, late_at_the_end_s)
        _report(ratios, max(undisturbed), latest_s, gone_s)
        assert gone_s <= GONE_S_MAX
        assert asyncio.run(_what_it_held(gateway))["redelivered"]
        assert sum(ratio <= RATIO_MAX for ratio in ratios) >= MAJORITY
        # Where pushes come later than that also without the slow one, others use this machine, and no bar in
        # milliseconds can hold: then the slow one must not make it worse.
        assert latest_s <= max(LATE_S_MAX, RATIO_MAX * max(undisturbed))
    finally:
        room.loop.close()
        gateway.stop()
    gateway.check_log()
