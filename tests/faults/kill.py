"""Scenario `kill`: SIGKILL of the gateway at random moments under load, again and again, on the same files.

Owns the loop and its bars. Nothing that was confirmed may be lost, doubled or undone, and the gateway must be back
in time; a run whose kills did not meet publishes in flight proves nothing and is no pass.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from faults.supervisor import BETWEEN_S, Supervisor, Verdict

LIFE_S = (0.05, 1.5)
"""From ready to the kill."""
READY_S_MAX = 2.0
IN_FLIGHT_SHARE_MIN = 0.9

REQUIRED = (
    "ack_through", "backoff", "close", "dead_expired", "dead_rejected", "delayed", "delayed_nack", "delayed_over_stop",
    "duplicate", "expiry", "id_conflict", "open_publish_kept", "redelivery_after_kill", "release", "retry_after_kill",
    "reverted_ack", "stale", "unsubscribe",
)  # fmt: skip
"""Rare states that every run must have seen. 20 kills see each of them many times."""


def run(folder: Path, cycles: int, seed: int) -> Verdict:
    """`cycles` kills, then the verdict."""
    supervisor = Supervisor(folder, seed)
    try:
        supervisor.start_gateway()
        asyncio.run(supervisor.create_groups())
        supervisor.start_clients()
        for life_s in _lives_s(supervisor.rng, cycles):
            supervisor.watch(life_s)
            supervisor.kill_gateway()
            supervisor.watch(BETWEEN_S)
            supervisor.start_gateway()
        supervisor.watch(LIFE_S[1])
        supervisor.stop_clients()
        verdict = supervisor.finish(REQUIRED)
    finally:
        supervisor.close()
    _bars(verdict, cycles)
    return verdict


def _lives_s(rng: random.Random, cycles: int) -> list[float]:
    """One at random from each of as many equal parts of the range, in any order: ten lives are never ten short ones,
    in which nothing that takes its time is seen."""
    low, high = LIFE_S
    lives_s = [low + (high - low) * (part + rng.random()) / cycles for part in range(cycles)]
    rng.shuffle(lives_s)
    return lives_s


def _bars(verdict: Verdict, cycles: int) -> None:
    figures = verdict.figures
    if figures["ready s max"] > READY_S_MAX:
        verdict.problems.append(f"ready after {figures['ready s max']} s, at most {READY_S_MAX} s")
    share = figures["deaths that met a publish in flight"] / cycles
    if share < IN_FLIGHT_SHARE_MIN:
        verdict.problems.append(f"only {share:.0%} of the kills met a publish in flight: the run proves nothing")
    if figures["kills"] != cycles:
        verdict.problems.append(f"{figures['kills']} kills instead of {cycles}")
