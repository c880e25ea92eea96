"""Scenario `rates`: twenty sockets of one subject publish at ten times their rate, beside one that publishes at twice
its own, while the wall clock is stepped; then a limiter with 100,000 keys.

Owns the load and the sums. What a limiter does at the edges is the matter of tests/unit/test_throttle.py; here a real
gateway is asked, and the limiter is measured by the kernel.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.clock import STEPS_S
from faults.preload import ShimmedGateway
from pushwire_gateway.throttle import KEYS_MAX
from support.gateway_process import EVERYTHING, clean_env
from support.throttles import default_throttle
from support.ws_client import WsClient

SOCKETS = 20
RATE, BURST = 100, 100
OVERLOAD, OTHERS_OVERLOAD = 10, 2
SECONDS = 20
STEP_EVERY_S = 0.5
TOLERANCE = 0.01
SETTINGS = {"publish_per_s": str(RATE), "publish_burst": str(BURST), "connections_per_subject": str(SOCKETS)}

HITS_PER_S = 10_000
"""Frames a second that ask the limiter while it holds all its keys: many more than one process takes from clients that
each send a frame of their own."""
MEASURE_S = 2
MEMORY_MIB_MAX = 50.0
CORE_SHARE_MAX = 0.05


@dataclass
class Counted:
    """One client's publishes, sent evenly, with the bucket full at the first and empty at the last."""

    seconds: float = 0.0
    accepted: int = 0
    refused: int = 0

    @property
    def expected(self) -> float:
        return RATE * self.seconds + BURST

    @property
    def off(self) -> float:
        """How far from it, as a share."""
        return self.accepted / self.expected - 1

    def text(self) -> str:
        return f"{self.accepted} of {self.accepted + self.refused} accepted, {self.off * 100:+.2f} %"


@dataclass
class Limited:
    """What was seen."""

    greedy: Counted = field(default_factory=Counted)
    alone: Counted = field(default_factory=Counted)
    beside: Counted = field(default_factory=Counted)
    steps: int = 0
    memory_mib: float = 0.0
    core_share: float = 0.0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"{SOCKETS} sockets: {self.greedy.text()} of rate x time + burst; another alone {self.alone.text()}, "
            f"beside them {self.beside.text()}; {self.steps} clock steps; {KEYS_MAX:,} keys: {self.memory_mib:.1f} MiB,"
            f" {self.core_share * 100:.1f} % of a core at {HITS_PER_S:,} frames a second"
        )


async def _offered(clients: list[WsClient], topic: str, overload: int, seconds: float) -> Counted:
    """So many times the rate, evenly, in turn over the clients."""
    counted = Counted()
    began = time.monotonic()
    asked: list[asyncio.Future[dict[str, object]]] = []
    first = last = 0.0
    turns = itertools.cycle(clients)
    for number in range(round(RATE * overload * seconds)):
        at = began + number / (RATE * overload)
        if (left := at - time.monotonic()) > 0:
            await asyncio.sleep(left)
        last = time.monotonic()
        first = first or last
        asked.append(next(turns).asked({"op": "publish", "topic": topic, "data": number}))
    answers = await asyncio.gather(*asked)
    counted.seconds = last - first
    for answer in answers:
        assert answer["op"] == "ok" or answer["code"] == "rate_limited", answer
        counted.accepted += answer["op"] == "ok"
        counted.refused += answer["op"] != "ok"
    return counted


async def _stepping(gateway: ShimmedGateway, limited: Limited) -> None:
    for by_s in itertools.cycle([*STEPS_S, 0]):
        await asyncio.sleep(STEP_EVERY_S)
        gateway.control.step_clock(by_s)
        limited.steps += 1


async def _story(gateway: ShimmedGateway, seconds: float, limited: Limited) -> None:
    async def opened(subject: str, count: int) -> list[WsClient]:
        token = gateway.token(subject, EVERYTHING)
        clients = [await WsClient.open(gateway.port, token) for _ in range(count)]
        await clients[0].publish(f"rates.{subject}", 0)  # makes the topic, which takes time
        return clients

    greedy, other = await opened("greedy", SOCKETS), await opened("other", 1)
    await asyncio.sleep(2 / RATE)  # the buckets are full again
    limited.alone = await _offered(other, "rates.other", OTHERS_OVERLOAD, seconds)
    await asyncio.sleep(BURST / RATE + 0.1)
    steps = asyncio.ensure_future(_stepping(gateway, limited))
    limited.greedy, limited.beside = await asyncio.gather(
        _offered(greedy, "rates.greedy", OVERLOAD, seconds),
        _offered(other, "rates.other", OTHERS_OVERLOAD, seconds),
    )
    steps.cancel()
    gateway.control.step_clock(0)
    for client in greedy + other:
        if not client.is_open:
            limited.problems.append("a client was cut off")
        client.abort()


def run(folder: Path, seconds: float = SECONDS) -> Limited:
    limited = Limited()
    gateway = ShimmedGateway(folder, settings=SETTINGS)
    try:
        gateway.start()
        asyncio.run(_story(gateway, seconds, limited))
        if (code := gateway.terminate()) != 0:
            limited.problems.append(f"exit code {code}")
    finally:
        gateway.stop()
    gateway.check_log()
    for name, counted in (("greedy", limited.greedy), ("alone", limited.alone), ("beside", limited.beside)):
        if not counted.refused or abs(counted.off) > TOLERANCE:
            limited.problems.append(f"{name}: {counted.text()}")
    limited.memory_mib, limited.core_share = measured()
    if limited.memory_mib > MEMORY_MIB_MAX or limited.core_share > CORE_SHARE_MAX:
        limited.problems.append("the limiter takes more than it may")
    return limited


def measured() -> tuple[float, float]:
    """MiB that a limiter with all its keys takes, and the share of a core that it needs: in a process of its own."""
    env = {**clean_env(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = subprocess.run(
        [sys.executable, "-m", "faults.rates"], env=env, stdout=subprocess.PIPE, text=True, check=True, timeout=120
    )
    memory_mib, core_share = made.stdout.split()
    return float(memory_mib), float(core_share)


def _resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024**2


def _measure() -> None:
    subjects = [f"subject-{number}" for number in range(KEYS_MAX)]
    throttle = default_throttle(time.monotonic)
    before_mib = _resident_mib()
    for subject in subjects:
        # More than comes back until the end, so that no bucket is full and given up meanwhile.
        throttle.publish("tenant", subject, 200, 100)
    began_s = time.process_time()
    for number in range(HITS_PER_S * MEASURE_S):
        throttle.publish("tenant", subjects[number * 7919 % KEYS_MAX], 1, 100)
    share = (time.process_time() - began_s) / MEASURE_S
    assert throttle.keys_held == KEYS_MAX, throttle.keys_held
    sys.stdout.write(f"{_resident_mib() - before_mib} {share}\n")


if __name__ == "__main__":
    _measure()
