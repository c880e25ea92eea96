"""Scenarios `io` and `points`: the n-th file operation of a gateway fails, with EIO or ENOSPC, once or from then on, or
the process is killed instead of doing it; for each n.

Owns the sweep and what must hold: after an I/O error nothing is confirmed that the disk does not hold, the process ends
with a code of its own within a second, and the next start is clean; a full disk refuses, keeps, and recovers by itself.
A case counts only if the fault fired.
"""

from __future__ import annotations

import asyncio
import errno
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from faults import journal, power
from faults.confirmed import GROUPS, UNCLEAR, Told, Traffic
from faults.preload import DIE, EVERYTHING, FOR_GOOD, OFF, ON_READ, ONCE, TAKES_SPACE, ShimmedGateway
from faults.reopened import unrecognised
from faults.supervisor import SETTINGS
from support.ws_client import WsClient

PUBLISHES, PUBLISHES_MAX = 6, 60
EXIT_BROKEN, EXIT_CONFIG = 74, 3
EXIT_S_MAX = 1.0
RECOVER_S_MAX = 5.0
FULL_S = 0.3
"""How long the disk stays full: longer than the pause between two attempts."""
KILLED = "SIGKILL"
ERRORS = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, KILLED: 0}
UNHANDLED = re.compile(r"^Traceback|^Exception in|never retrieved|never awaited", re.MULTILINE)
HOW = {"once": ONCE, "for good": FOR_GOOD, KILLED: DIE}
ENDS = {"EIO": EXIT_BROKEN, "ENOSPC": EXIT_BROKEN, KILLED: -signal.SIGKILL}
"""The exit code, if it ends."""


@dataclass
class Sweep:
    """What the cases have shown."""

    cases: int = 0
    fired: int = 0
    fired_on: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    exit_s_max: float = 0.0
    recover_s_max: float = 0.0
    refusals: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return "\n".join([self.summary(), *[f"PROBLEM {problem}" for problem in self.problems[:40]]])

    def summary(self) -> str:
        return (
            f"{self.cases} cases, the fault fired in {self.fired} ({_counted(self.fired_on)}): {_counted(self.ends)}; "
            f"exit at most {self.exit_s_max:.2f} s after the error; back at most {self.recover_s_max:.2f} s after "
            f"space returned; refused: {_counted(self.refusals) or 'nothing'}"
        )


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def run(folder: Path, stride: int, seed: int) -> Sweep:
    """Every `stride`-th operation, beginning at a random one: of a running gateway, and of a start."""
    sweep, rng = Sweep(), random.Random(seed)
    for name, mask in (("EIO", EVERYTHING), ("ENOSPC", TAKES_SPACE)):
        _sweep(folder, sweep, name, ("once", "for good"), mask, stride, rng)
    if not sweep.refusals["insufficient_storage"]:
        sweep.problems.append("no publish was refused for want of space: the sweep proves nothing of a full disk")
    return sweep


def kill_everywhere(folder: Path, stride: int, seed: int) -> Sweep:
    """Killed instead of every `stride`-th operation: of a running gateway, and of a start (migrations included)."""
    sweep = Sweep()
    _sweep(folder, sweep, KILLED, (KILLED,), EVERYTHING & ~ON_READ, stride, random.Random(seed))
    return sweep


def _sweep(
    folder: Path, sweep: Sweep, error: str, hows: Sequence[str], mask: int, stride: int, rng: random.Random
) -> None:
    running, starting = _counts(folder / f"count-{error}", mask)
    for how in hows:
        for nth in range(1 + rng.randrange(min(stride, running)), running + 1, stride):
            Case(folder / "case", sweep, error, how, nth, mask).while_running()
        for nth in range(1 + rng.randrange(min(stride, starting)), starting + 1, stride):
            Case(folder / "case", sweep, error, how, nth, mask).while_starting()
    if sweep.fired < sweep.cases * 0.9:
        sweep.problems.append(f"the fault fired in {sweep.fired} of {sweep.cases} cases only: the sweep proves nothing")


def _counts(folder: Path, mask: int) -> tuple[int, int]:
    """How many operations a short run has, and a start."""
    gateway = ShimmedGateway(folder, settings=SETTINGS)
    try:
        gateway.control.arm(OFF, 0, mask=mask)
        gateway.start()
        starting = gateway.control.count
        gateway.control.arm(OFF, 0, mask=mask)
        asyncio.run(_publish(Traffic(gateway, 1), PUBLISHES))
        return gateway.control.count, starting
    finally:
        gateway.stop()
        shutil.rmtree(folder)


async def _publish(
    traffic: Traffic, count: int, unfired: Callable[[], bool] = lambda: False, deadline_s: float = 30.0
) -> None:
    """Consumers that settle, and publishes one after the other, each until it is accepted. More than `count` while the
    fault has not fired, since how many operations a publish takes differs from run to run. Raises UNCLEAR."""
    clients = [await traffic.consumer(traffic.gateway.token("io"), group) for group in GROUPS]
    clients.append(await WsClient.open(traffic.gateway.port, traffic.gateway.token("io")))
    until = time.monotonic() + deadline_s
    try:
        for number in range(PUBLISHES_MAX):
            if number >= count and not unfired():
                break
            ids = traffic.draft()
            while (await traffic.publish(clients[-1], ids))["op"] != "ok":
                if time.monotonic() > until:
                    raise TimeoutError("refused for too long")
                await asyncio.sleep(0.05)
    finally:
        for client in clients:
            client.abort()


class Case:
    """One gateway, one fault."""

    def __init__(self, folder: Path, sweep: Sweep, error: str, how: str, nth: int, mask: int) -> None:
        self._sweep = sweep
        self._error, self._how, self._nth, self._mask = error, how, nth, mask
        shutil.rmtree(folder, ignore_errors=True)
        self._gateway = ShimmedGateway(folder, settings=SETTINGS)
        self._traffic = Traffic(self._gateway, nth)
        self._where = ""

    def _problem(self, text: str) -> None:
        self._sweep.problems.append(f"{self._where} operation {self._nth}, {self._error} {self._how}: {text}")

    def _arm(self) -> None:
        self._gateway.control.arm(HOW[self._how], self._nth, ERRORS[self._error], self._mask)

    def while_running(self) -> None:
        """The fault meets traffic."""
        self._where = "running,"
        gateway, sweep = self._gateway, self._sweep
        sweep.cases += 1
        try:
            gateway.start()
            self._arm()
            asyncio.run(self._meet())
            gateway.control.disarm()
            if gateway.control.fired:
                sweep.fired += 1
                sweep.fired_on[gateway.control.fired_on] += 1
            self._ended()
            self._check()
        finally:
            gateway.stop()

    async def _meet(self) -> None:
        """Traffic; a full disk has space again after a while."""
        control = self._gateway.control
        work = asyncio.ensure_future(_publish(self._traffic, PUBLISHES, lambda: not control.fired))
        while not work.done():
            if control.fired and self._error == "ENOSPC" and time.monotonic() > control.fired_s + FULL_S:
                control.disarm()
                began = time.monotonic()
                await asyncio.wait([work], timeout=RECOVER_S_MAX)
                if not work.done():
                    work.cancel()
                    self._problem(f"not back {RECOVER_S_MAX} s after space returned")
                self._sweep.recover_s_max = max(self._sweep.recover_s_max, time.monotonic() - began)
                break
            await asyncio.wait([work], timeout=0.01)
        try:
            await work
        except UNCLEAR:
            return  # the gateway has gone, as it should after an I/O error: `_ended` looks at that
        except asyncio.CancelledError:
            return  # given up above, where the reason is noted

    def _ended(self) -> None:
        gateway, sweep = self._gateway, self._sweep
        fired_s = gateway.control.fired_s
        while gateway.alive and fired_s and self._error != "ENOSPC" and time.monotonic() < fired_s + EXIT_S_MAX + 1:
            time.sleep(0.005)
        took_s = time.monotonic() - fired_s
        if not gateway.alive:
            sweep.ends[f"exit {gateway.running.returncode}"] += 1
            if gateway.running.returncode != ENDS[self._error]:
                self._problem(f"exit code {gateway.running.returncode}: {gateway.last_words()[-300:]}")
            if self._error == "EIO":
                sweep.exit_s_max = max(sweep.exit_s_max, took_s)
                if took_s > EXIT_S_MAX:
                    self._problem(f"gone after {took_s:.2f} s")
        else:
            sweep.ends["served on"] += 1
            if self._error != "ENOSPC" and fired_s:
                self._problem(f"serves on {took_s:.1f} s after an error on {gateway.control.fired_on}")
        sweep.refusals.update(self._traffic.refusals)

    def _check(self) -> None:
        """What was confirmed is on the disk, even if everything unsynced is lost now; and in the files as they are."""
        disk, told = journal.Disk(), Told(self._traffic.meanings)
        for record in journal.read(self._gateway.journal):
            disk.feed(record)
            told.feed(record)
        with power.laid_out(disk.worst()) as folder:
            for kind, text in power.check(folder, told, self._traffic, closely=True):
                self._problem(f"{kind} with the power: {text}")
        copy = self._gateway.folder / "copy"
        self._gateway.stop()
        shutil.copytree(self._gateway.data, copy)
        for text in unrecognised(copy, told.receipts, self._traffic.bodies):
            self._problem(f"after a restart: {text}")
        self._check_log()

    def _check_log(self) -> None:
        """The log may say where the disk has failed, inside an event; nothing may have gone unhandled."""
        found = UNHANDLED.search(self._gateway.log)
        if found:
            self._problem(f"unhandled: {self._gateway.log[found.start() :][:800]}")

    def while_starting(self) -> None:
        """The fault meets a start: it may fail, with a code of its own, and the next one must not."""
        self._where = "starting,"
        gateway, sweep = self._gateway, self._sweep
        sweep.cases += 1
        try:
            self._arm()
            gateway.spawn()
            for _ in _while(lambda: gateway.alive and not gateway.ready_file.exists(), 10.0):
                pass
            if gateway.control.fired:
                sweep.fired += 1
                sweep.fired_on[gateway.control.fired_on] += 1
            gateway.control.disarm()
            if gateway.alive:
                sweep.ends["started"] += 1
                gateway.stop()
            else:
                sweep.ends[f"start refused with {gateway.running.returncode}"] += 1
            if gateway.running.returncode not in {0, EXIT_CONFIG, ENDS[self._error]}:
                self._problem(f"exit code {gateway.running.returncode}: {gateway.last_words()[-800:]}")
            self._check_log()
            gateway.start()
            asyncio.run(_publish(self._traffic, 1))
        except Exception as error:  # noqa: BLE001 - whatever keeps the next start from working is the finding
            self._problem(f"the next start: {error!r}"[:600])
        finally:
            gateway.stop()


def _while(condition: Callable[[], bool], within_s: float) -> Iterator[None]:
    until = time.monotonic() + within_s
    while condition() and time.monotonic() < until:
        time.sleep(0.005)
        yield
