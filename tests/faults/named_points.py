"""Scenario `named`: under load, the gateway kills itself at each named point of its work, again and again.

Owns the order of the points and the wait for each death; crashing.py says what they are, the supervisor's checker what
must hold. A point that was not reached makes the run prove nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection
from pathlib import Path

from faults.crashing import AFTER_SIGTERM, POINTS, RARE
from faults.supervisor import BETWEEN_S, SETTINGS, Supervisor, Verdict
from support.gateway_process import EVERYTHING, GatewayProcess

REACHED_S = 12.0
"""Longest wait for a point to be passed."""
PASSES = (20, 120)
"""A point that is passed many times a second kills at one of these."""
LIVED_S = 0.3
REQUIRED = ("duplicate", "redelivery_after_kill", "open_publish_kept")


class CrashingGateway(GatewayProcess):
    """A real gateway that dies where it is told to."""

    def __init__(self, folder: Path) -> None:
        backups = folder / "backups"
        backups.mkdir(parents=True)
        super().__init__(folder, settings={**SETTINGS, "backup_dir": str(backups)})
        self.control = folder / "point"
        self.control.write_text("")
        self.fired = self.control.with_suffix(".fired")

    def command(self) -> Sequence[str]:
        words = list(super().command())
        tests = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
        at = words.index("pushwire_gateway")
        return ["env", f"PYTHONPATH={path}", *words[:at], "faults.crashing", str(self.control), *words[at + 1 :]]

    def arm(self, name: str, passes: int) -> None:
        self.fired.unlink(missing_ok=True)
        self.control.write_text(f"{name} {passes}")

    def back_up(self, name: str) -> None:
        """Ask for a copy; the answer may never come."""
        token = self.token("backup", (*EVERYTHING, "admin:*"))
        connection = HTTPConnection("127.0.0.1", self.port, timeout=REACHED_S)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/admin/backup", json.dumps({"path": name}), headers)
            connection.getresponse().read()
        except OSError:
            pass  # it has died of it, as it should
        finally:
            connection.close()


def run(folder: Path, times: int, seed: int, points: Sequence[str] = POINTS) -> tuple[Verdict, Counter[str]]:
    """Each point so many times. Returns the verdict and how often each has killed."""
    supervisor = Supervisor(folder, seed)
    gateway = supervisor.gateway = CrashingGateway(folder / "gateway")
    killed: Counter[str] = Counter()
    numbers = itertools.count()
    try:
        supervisor.start_gateway()
        asyncio.run(supervisor.create_groups())
        supervisor.start_clients()
        for name in [name for _ in range(times) for name in points]:
            supervisor.watch(LIVED_S)
            gateway.arm(name, 1 if name in RARE or name in AFTER_SIGTERM else supervisor.rng.randrange(*PASSES))
            if name in AFTER_SIGTERM:
                gateway.signal(signal.SIGTERM)
            elif name == "backup_copied":
                gateway.back_up(f"{next(numbers)}.db")
            _await_death(supervisor, gateway)
            if gateway.fired.exists() and gateway.running.returncode == -signal.SIGKILL:
                killed[name] += 1
            else:
                supervisor.problems.append(f"{name}: not reached, exit code {gateway.running.poll()}")
            if gateway.alive:
                supervisor.kill_gateway()
            else:
                supervisor.died_gateway()
            gateway.control.write_text("")
            supervisor.watch(BETWEEN_S)
            supervisor.start_gateway()
        supervisor.watch(LIVED_S)
        supervisor.stop_clients()
        return supervisor.finish(REQUIRED), killed
    finally:
        supervisor.close()


def _await_death(supervisor: Supervisor, gateway: CrashingGateway) -> None:
    until = time.monotonic() + REACHED_S
    while gateway.alive and time.monotonic() < until:
        supervisor.watch(0.02)
