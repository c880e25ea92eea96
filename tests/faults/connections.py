"""Scenarios `connections` and `storm`: ten thousand clients that come and go; five thousand that lost their gateway.

Owns the two stories and what must hold: nobody is cut off who did not ask for it, memory a connection, how late a push
to all is, and how soon everybody is back after a kill. The crowd itself is crowd.py's. Limits are the defaults but for
those that `SETTINGS` names: connections in all and new ones a second.
"""

from __future__ import annotations

import gc
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import framing
from bench.processes import cores, pinned_to
from faults.crowd import KEY, Crowd, Member, raise_descriptors
from pushwire.wire.frames import SUBPROTOCOL
from support.gateway_process import GatewayProcess, until

COUNT, STORM_COUNT = 10_000, 5_000
SECONDS = 60
WARM = 100
"""Connected before the first reading of memory: what the process needs once is there then."""
CHURN_SHARE = 0.01
"""Of the clients, leaves each second and comes back at once; half say goodbye, half vanish with RST."""
DRAWS_MAX = 10_000
"""For one that is connected: nearly all are, so whoever draws so often in vain has no gateway any more."""
CONNECTS_PER_S = 1_000
GATHER_PER_S = 400
PER_SUBJECT = 10
MEMORY_KIB_MAX = 30.0
P99_S_MAX = 0.5
BACK_S_MAX = 30.0
SPARE = 400
"""Open files that are no client's connection."""
SETTINGS = {"connections_max": "15000", "connects_per_s": str(CONNECTS_PER_S), "connects_burst": str(CONNECTS_PER_S)}
FOLLOW = ("publish:*", "create:*@*", "replay:*")
TOPIC = "crowd"


def missing() -> str | None:
    """Why there can be no such crowd here; None if there can."""
    try:
        raise_descriptors(COUNT + SPARE)
    except ValueError as reason:
        return str(reason)
    return None


@dataclass
class Crowded:
    """What was seen of a crowd."""

    count: int
    churned: int = 0
    pushes: int = 0
    memory_kib: float = 0.0
    """A connection, once all were there; `churned_kib` after the load."""
    churned_kib: float = 0.0
    p50_s: float = 0.0
    p99_s: float = 0.0
    max_s: float = 0.0
    unexpected: int = 0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"{self.count} connections, {self.churned} left and came back, {self.pushes} pushes; {self.unexpected} "
            f"unexpected closes; {self.memory_kib:.1f} KiB each, {self.churned_kib:.1f} after the load; push p50 "
            f"{self.p50_s * 1e3:.0f} ms, p99 {self.p99_s * 1e3:.0f} ms, latest {self.max_s * 1e3:.0f} ms"
        )


@dataclass
class Storm:
    """What was seen of a storm."""

    count: int
    back_s: float = 0.0
    """From the kill until the last one was back; `ready_s` of it without a gateway."""
    ready_s: float = 0.0
    attempts: int = 0
    early: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        refused = ", ".join(f"{how} {count}" for how, count in sorted(self.refused.items())) or "none"
        return (
            f"{self.count} clients back {self.back_s:.1f} s after the kill, {self.ready_s:.1f} s of it without a "
            f"gateway; {self.attempts} attempts, {self.early} sooner than its jitter; refusals: {refused}"
        )


class Publisher:
    """One blocking socket that publishes numbers. What it is answered is looked at when there is time."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = gateway.token("publisher", FOLLOW)
        self._sock.sendall(framing.upgrade_request("a", "/v1/ws", KEY, SUBPROTOCOL, token))
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._sock.recv(4096)
        rest = framing.read_upgrade(head, KEY, SUBPROTOCOL)
        self._reader = framing.Reader(rest or b"")
        self._sock.setblocking(False)
        self.sent = self.confirmed = 0

    def publish(self, crowd: Crowd) -> None:
        self.confirmations()
        op = {"op": "publish", "topic": TOPIC, "data": self.sent, "ref": self.sent}
        crowd.published_at[self.sent] = time.monotonic()
        self._sock.send(framing.encode(json.dumps(op).encode()))
        self.sent += 1

    def confirmations(self) -> int:
        """How many publishes have their receipt."""
        try:
            data = self._sock.recv(1 << 20)
        except BlockingIOError:
            return self.confirmed
        for _, payload in self._reader.feed(data):
            for line in payload.split(b"\n"):
                op = json.loads(line)
                assert op["op"] in ("ok", "welcome", "ping"), op
                self.confirmed += op["op"] == "ok"
        return self.confirmed

    def close(self) -> None:
        self._sock.close()


@contextmanager
def _scene(folder: Path, count: int, seed: int) -> Iterator[tuple[GatewayProcess, Crowd]]:
    """A gateway on a core of its own, and a crowd that nobody of is connected yet. A gateway that is killed meanwhile
    is the scenario's."""
    raise_descriptors(count + SPARE)
    gateway = GatewayProcess(folder / "gateway", settings=SETTINGS, generous=False)
    gateways_core, mine = cores()
    with pinned_to(gateways_core):
        gateway.start()
    subjects = [gateway.token(f"client-{number}", FOLLOW, ttl_s=3600) for number in range(-(-count // PER_SUBJECT))]
    crowd = Crowd(gateway.port, TOPIC, [subjects[number // PER_SUBJECT] for number in range(count)], seed)
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        with pinned_to(mine):
            yield gateway, crowd
    finally:
        gc.enable()
        gc.unfreeze()
        crowd.end()
        gateway.stop()


def _settled(crowd: Crowd, publisher: Publisher, within_s: float = 10.0) -> list[str]:
    """Publish one more, for those that have just come back, and wait until all have seen it. Returns what is wrong."""
    publisher.publish(crowd)
    deadline = time.monotonic() + within_s
    last = publisher.sent - 1
    while publisher.confirmations() < publisher.sent or any(member.last != last for member in crowd.members):
        if time.monotonic() > deadline:
            behind = sum(member.last != last for member in crowd.members)
            return [f"{behind} clients have not seen the last message, {publisher.confirmed} receipts of {last + 1}"]
        crowd.turn(0.05)
    return []


def run(folder: Path, count: int = COUNT, seconds: int = SECONDS, seed: int = 1) -> Crowded:
    crowded = Crowded(count)
    with _scene(folder, count, seed) as (gateway, crowd):
        publisher = Publisher(gateway)
        idle = gateway.sockets()
        crowd.gather(crowd.members[:WARM], 30, GATHER_PER_S)
        for _ in range(5):
            publisher.publish(crowd)
            crowd.spend(0.1)
        base_kib = gateway.memory_kib()
        crowd.gather(crowd.members, 60 + count / GATHER_PER_S, GATHER_PER_S)
        crowd.spend(1)
        crowded.memory_kib = (gateway.memory_kib() - base_kib) / (count - WARM)
        crowd.latencies_s = type(crowd.latencies_s)("d")
        _load(crowd, publisher, seconds, random.Random(seed), crowded)
        crowded.problems += _settled(crowd, publisher)
        crowded.churned_kib = (gateway.memory_kib() - base_kib) / (count - WARM)
        if (open_sockets := gateway.sockets()) != idle + count:
            crowded.problems.append(f"{open_sockets} sockets of the gateway for {count} clients and {idle} others")
        for member in crowd.members:
            crowd.close(member, "goodbye")
        until(lambda: gateway.sockets() <= idle, "the end of all connections", 15)
        publisher.close()
        if (code := gateway.terminate()) != 0:
            crowded.problems.append(f"exit code {code}")
    gateway.check_log()
    _judge(crowd, crowded)
    return crowded


def _load(crowd: Crowd, publisher: Publisher, seconds: int, rng: random.Random, crowded: Crowded) -> None:
    """Each second one message to all, while some leave and come back."""
    began = time.monotonic()
    leaving = max(1, round(len(crowd.members) * CHURN_SHARE))
    for second in range(seconds):
        publisher.publish(crowd)
        for number in range(leaving):  # spread over the second
            member = _someone(crowd, rng)
            crowd.close(member, "goodbye" if number % 2 else "rst")
            crowd.connect(member)
            crowded.churned += 1
            crowd.spend(max(0.0, began + second + (number + 1) / leaving - time.monotonic()))


def _someone(crowd: Crowd, rng: random.Random) -> Member:
    """One that is connected. Raises TimeoutError."""
    for _ in range(DRAWS_MAX):
        member = rng.choice(crowd.members)
        if member.state == "up":
            return member
    raise TimeoutError(f"{crowd.up} of {len(crowd.members)} are connected: {dict(crowd.lost)}")


def _judge(crowd: Crowd, crowded: Crowded) -> None:
    times = sorted(crowd.latencies_s)
    crowded.pushes = len(times)
    crowded.p50_s, crowded.p99_s, crowded.max_s = times[len(times) // 2], times[int(len(times) * 0.99)], times[-1]
    crowded.unexpected = crowd.lost.total()
    seen = {**crowd.lost, **crowd.problems}
    crowded.problems += [f"{how}: {count} times" for how, count in seen.items()]
    if crowded.p99_s > P99_S_MAX:
        crowded.problems.append(f"p99 of a push {crowded.p99_s * 1e3:.0f} ms")
    if max(crowded.memory_kib, crowded.churned_kib) > MEMORY_KIB_MAX:
        crowded.problems.append("more memory a connection than it may have")


def storm(folder: Path, count: int = STORM_COUNT, seed: int = 1) -> Storm:
    """SIGKILL, a new start on the same files, and everybody comes back by the SDK's rules."""
    seen = Storm(count)
    with _scene(folder, count, seed) as (gateway, crowd):
        publisher = Publisher(gateway)
        publisher.publish(crowd)
        crowd.gather(crowd.members, 60 + count / GATHER_PER_S, GATHER_PER_S)
        seen.problems += _settled(crowd, publisher)
        crowd.problems.clear()
        publisher.close()
        killed = time.monotonic()
        gateway.kill()
        gateway.spawn()
        while crowd.up < count or not gateway.ready_file.exists():
            crowd.turn(0.02)
            now = time.monotonic()
            if not seen.ready_s and gateway.ready_file.exists():
                seen.ready_s = now - killed
            if now - killed > 2 * BACK_S_MAX:
                break
        seen.back_s = time.monotonic() - killed
        waits = [wait for member in crowd.members for wait in member.waited_s]
        seen.attempts, seen.early = len(waits), sum(waited < asked for asked, waited in waits)
        seen.refused = {**crowd.problems}
        seen.problems += _served_again(gateway, crowd)
        if (code := gateway.terminate()) != 0:
            seen.problems.append(f"exit code {code}")
    gateway.check_log()
    if seen.back_s > BACK_S_MAX:
        seen.problems.append(f"after {seen.back_s:.0f} s {count - crowd.up} were not back")
    if seen.early:
        seen.problems.append(f"{seen.early} attempts came sooner than their jitter")
    return seen


def _served_again(gateway: GatewayProcess, crowd: Crowd) -> list[str]:
    """All of them see what is published now."""
    publisher = Publisher(gateway)
    crowd.problems.clear()
    wrong = _settled(crowd, publisher)
    publisher.close()
    return wrong + [f"{how}: {count} times" for how, count in crowd.problems.items()]
