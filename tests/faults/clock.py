"""Scenario `clock`: the wall clock of a running gateway is stepped, by an hour and by ten years, to and fro, and
strobed.

Owns the steps and what must hold: no lease ends early or late, nothing waits for ever, nobody is cut off, the rate
limit stays what it is, a seq never goes back. The monotonic clock goes on, as it does in a real step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.preload import ShimmedGateway
from faults.supervisor import SETTINGS
from support.ws_client import WsClient

HOUR_S, DECADE_S = 3_600, 10 * 365 * 86_400
STEPS_S = (HOUR_S, -HOUR_S, DECADE_S, -DECADE_S)
STROBES = 100
TOPIC = "faults.clock"
ACK_TIMEOUT_MS = 1_000
HELD = 5
LATE_S_MAX = 1.5
"""After the timeout: the longest back-off of SETTINGS and the machine's own pace."""
RATE, BURST = 20, 20
"""A burst of a second: while the client is held up for less than that, no token goes to waste."""
RATE_SETTINGS = {"publish_per_s": str(RATE), "publish_burst": str(BURST)}


@dataclass
class Stepped:
    """What was seen."""

    steps: int = 0
    back_s: list[float] = field(default_factory=list)
    """From the delivery of a lease that nobody settled until it came again."""
    accepted: int = 0
    refused: int = 0
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        back = f"{min(self.back_s):.2f} to {max(self.back_s):.2f} s" if self.back_s else "never"
        return (
            f"{self.steps} steps; leases of {ACK_TIMEOUT_MS} ms came back after {back}; {self.accepted} publishes "
            f"accepted, {self.refused} refused by the rate limit"
        )


def run(folder: Path, steps_s: Sequence[int] = STEPS_S) -> Stepped:
    stepped = Stepped()
    gateway = ShimmedGateway(folder, settings={**SETTINGS, **RATE_SETTINGS})
    try:
        gateway.start()
        try:
            asyncio.run(_story(gateway, steps_s, stepped))
        except TimeoutError:
            stepped.problems.append(f"after {stepped.steps} steps something was waited for in vain")
        gateway.control.step_clock(0)
        if (code := gateway.terminate()) != 0:
            stepped.problems.append(f"exit code {code}")
        gateway.check_log()
    finally:
        gateway.stop()
    return stepped


async def _story(gateway: ShimmedGateway, steps_s: Sequence[int], stepped: Stepped) -> None:
    """One client that is never cut off sees every step, then the strobe."""
    client = await WsClient.open(gateway.port, gateway.token("clock"))
    other = await WsClient.open(gateway.port, gateway.token("limited"))
    await client.subscribe(TOPIC, group="main", sub="s", prefetch=100, start="earliest", ack_timeout_ms=ACK_TIMEOUT_MS)
    seq = 0
    for by_s in steps_s:
        seq = await _held(gateway, client, by_s, seq, stepped)
        await _limited(gateway, other, by_s, stepped)
    for number in range(STROBES):
        gateway.control.step_clock(STEPS_S[number % len(STEPS_S)])
        stepped.steps += 1
        await asyncio.sleep(0.005)
        if number % 10 == 0:
            seq = await _stored(client, seq, stepped)
            await _acked(client, await client.take(1))
    if not client.is_open or not other.is_open:
        stepped.problems.append("a client was cut off")
    client.abort()
    other.abort()


async def _held(gateway: ShimmedGateway, client: WsClient, by_s: int, seq: int, stepped: Stepped) -> int:
    """Leases are held over the step: they end when their time is over, neither with the step nor never."""
    for _ in range(HELD):
        seq = await _stored(client, seq, stepped)
    first = {row["seq"]: row for row in await client.take(HELD)}
    gateway.control.step_clock(by_s)
    stepped.steps += 1
    again = await client.take(HELD, timeout_s=ACK_TIMEOUT_MS / 1000 + LATE_S_MAX + 2)
    for row in again:
        back_s = row["at"] - first[row["seq"]]["at"]
        stepped.back_s.append(back_s)
        if not ACK_TIMEOUT_MS / 1000 - 0.01 <= back_s <= ACK_TIMEOUT_MS / 1000 + LATE_S_MAX:
            stepped.problems.append(f"step of {by_s} s: seq {row['seq']} came back after {back_s:.2f} s")
    await _acked(client, again)
    gateway.control.step_clock(0)  # and back: a step of the same size the other way
    stepped.steps += 1
    return await _stored(client, seq, stepped, settle=True)


async def _stored(client: WsClient, seq: int, stepped: Stepped, *, settle: bool = False) -> int:
    """Publish one; wait out the rate limit, which concerns this client too."""
    while (answer := await client.ask({"op": "publish", "topic": TOPIC, "data": seq}))["op"] != "ok":
        assert answer["code"] == "rate_limited", answer
        if answer["retry_after_ms"] > 1_000:
            stepped.problems.append(f"to wait {answer['retry_after_ms']} ms at {RATE} a second")
        await asyncio.sleep(1 / RATE)
    new = int(answer["receipts"][0]["seq"])
    if new <= seq:
        stepped.problems.append(f"seq {new} after {seq}")
    if settle:
        await _acked(client, await client.take(1))
    return new


async def _acked(client: WsClient, rows: list[dict[str, Any]]) -> None:
    await client.ok({"op": "ack", "leases": [row["lease"] for row in rows]})


async def _limited(gateway: ShimmedGateway, client: WsClient, by_s: int, stepped: Stepped) -> None:
    """As fast as it goes for a second, with the step in the middle: as many are accepted as without one."""
    await client.ask({"op": "publish", "topic": f"{TOPIC}.limited", "data": 0})  # makes the topic, which takes time
    await asyncio.sleep(BURST / RATE)  # the bucket is full
    began, accepted = time.monotonic(), 0
    stepped_yet = refused = False
    while (passed_s := time.monotonic() - began) < 1 or not refused:  # ends with an empty bucket: nothing is left over
        if passed_s > 0.5 and not stepped_yet:
            gateway.control.step_clock(by_s)
            stepped.steps += 1
            stepped_yet = True
        answer = await client.ask({"op": "publish", "topic": f"{TOPIC}.limited", "data": 1})
        refused = answer["op"] != "ok"
        accepted += not refused
        stepped.refused += refused
    expected = RATE * passed_s + BURST
    stepped.accepted += accepted
    if not expected - 2 <= accepted <= expected + 1:
        stepped.problems.append(f"step of {by_s} s: {accepted} publishes accepted, not {expected:.1f}")
    gateway.control.step_clock(0)
    stepped.steps += 1
