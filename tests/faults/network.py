"""Scenario `network`: the whole load of a fault run through a proxy that hurts it with one toxic after the other.

Owns which toxic is on when. The load, the history and most of the verdict are the supervisor's: whatever the network
does, nothing confirmed is lost, stored twice or acked by two. The gateway stays up all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.supervisor import Supervisor, Verdict
from faults.toxics import Bandwidth, HalfOpen, Latency, ProxyThread, Reset, Slicer, SlowReader, Toxic
from support.checker import Limits

ROUNDS = 4
TOXIC_S, CLEAR_S = 4.0, 1.0
SILENCE_S = 1.0
LIMITS = Limits(10, 50, slack_ns=900_000_000, late_ns=4_000_000_000)
"""As in supervisor.py, and so late may a delivery come through the proxy, a window of large ones longer than one."""
SETTINGS = {
    "ping_interval_s": str(SILENCE_S),
    "pong_timeout_s": str(SILENCE_S),
    "write_stall_s": "1",
}
"""So that one toxic outlasts what the gateway waits for."""
REQUIRED = ("backoff", "duplicate", "expiry", "stale")


def _toxics(supervisor: Supervisor) -> list[Callable[[], Toxic]]:
    rng = supervisor.rng
    return [
        lambda: Latency(0.05, 0.1, rng),
        lambda: Bandwidth(256 * 1024),
        lambda: Slicer(rng),
        lambda: Reset(0.01, rng),
        HalfOpen,
        SlowReader,
    ]


@dataclass
class Hurt:
    """The verdict, and how often each toxic was felt."""

    verdict: Verdict
    fired: dict[str, int]

    def text(self) -> str:
        figures = self.verdict.figures
        felt = ", ".join(f"{name} {count}" for name, count in self.fired.items())
        return (
            f"felt: {felt}; {figures['confirmed']} receipts, {figures['redeliveries']} redeliveries, "
            f"{len(self.verdict.problems)} violations"
        )


def run(
    folder: Path,
    rounds: int = ROUNDS,
    seed: int = 1,
    toxic_s: float = TOXIC_S,
    clear_s: float = CLEAR_S,
    required: Sequence[str] = REQUIRED,
) -> Hurt:
    supervisor = Supervisor(folder, seed, SETTINGS, limits=LIMITS)
    proxy = None
    try:
        supervisor.start_gateway()
        asyncio.run(supervisor.create_groups())
        proxy = ProxyThread(supervisor.gateway.port)
        supervisor.client_port = proxy.port
        supervisor.start_clients()
        supervisor.watch(clear_s)
        for _ in range(rounds):
            for make in _toxics(supervisor):
                proxy.put_on(make())
                supervisor.watch(toxic_s)
                proxy.put_on(Toxic())
                supervisor.watch(clear_s)
        supervisor.stop_clients()
        verdict = supervisor.finish(required)
    finally:
        if proxy is not None:
            proxy.stop()
        supervisor.close()
    fired = {name: count for name, count in proxy.proxy.fired.items() if name != Toxic.name}
    verdict.problems += [f"never felt: {make().name}" for make in _toxics(supervisor) if not fired.get(make().name)]
    return Hurt(verdict, fired)
