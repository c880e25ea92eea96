"""`make soak`: load with faults on for half an hour, and at its end a gateway that is as it was after its warm-up.

Owns the phases, the samples and the bars: memory, objects by type, file descriptors, threads, tasks, warnings of
asyncio's debug mode. Clients are killed, cut off, stalled and expired all the time; the gateway stays up. The load is
the supervisor's, with its history and checker; visitors.py brings those that misbehave.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import network
from faults.supervisor import Supervisor, Verdict
from faults.table import Row, renew
from faults.toxics import HalfOpen, Latency, ProxyThread, Reset, Slicer, SlowReader, Toxic
from support.bounded import exit_on_sigterm
from support.checker import Limits
from support.gateway_process import GatewayProcess, until

MINUTES = 30.0
WARM_S_MAX = WINDOW_S_MAX = 300.0
"""Warm-up, and the first and last stretch whose medians are compared; of short runs a fifth each."""
TOXIC_S = 3.0
THINK_S = 0.3
"""A steady load that leaves the machine to others, and the checker a history that fits into memory."""
REST_S = 8.0
"""From the end of the last client to the look inside: longer than any lease, poll session, ticket or group lives that
nobody uses."""
MEMORY_MIB_MAX = 3.0
SHARE_MAX, COUNT_MAX = 0.01, 40
"""Objects of one type, and all together, may be more by so large a share, or by so many: of 50 objects 1 % is none."""
SETTINGS = {
    **network.SETTINGS, "ack_timeout_s": "2", "auth_timeout_s": "1", "token_leeway_s": "0", "dedupe_window_s": "60",
    "ticket_lifetime_s": "2",
}  # fmt: skip
LIMITS = Limits(10, 50, slack_ns=3_000_000_000, late_ns=4_000_000_000)
"""On a machine that does other things too, a toxic holds a delivery for longer than its lease lasts."""
WARNINGS = re.compile(r"never awaited|was destroyed but it is pending|never retrieved|Executing <|unclosed|Traceback")
REQUIRED = ("backoff", "duplicate", "expiry", "stale")


class SoakedGateway(GatewayProcess):
    """A gateway in asyncio's debug mode that counts what lives in it when asked (soaked_gateway.py)."""

    idle_sockets = 0
    """Open when nobody is connected."""

    def command(self) -> Sequence[str]:
        tests = str(Path(__file__).resolve().parent.parent)
        python, *rest = super().command()
        path = ":".join(filter(None, [tests, *sys.path]))
        env = ["env", "PYTHONASYNCIODEBUG=1", f"PYTHONPATH={path}", f"SOAK_FILE={self._seen}"]
        return [*env, python, "-m", "faults.soaked_gateway", *rest[2:]]

    @property
    def _seen(self) -> Path:
        return self.folder / "seen.json"

    def look(self) -> dict[str, Any]:
        """Objects by type, tasks and threads, as of now."""
        self._seen.unlink(missing_ok=True)
        self.signal(signal.SIGUSR1)
        until(self._seen.exists, "a look inside")
        seen: dict[str, Any] = json.loads(self._seen.read_text())
        seen["descriptors"] = self.descriptors()
        return seen

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@dataclass
class Soaked:
    """What was seen."""

    minutes: float
    memory_mib: tuple[float, float] = (0.0, 0.0)
    objects: tuple[int, int] = (0, 0)
    grown: dict[str, tuple[int, int]] = field(default_factory=dict)
    flat: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Descriptors, threads and tasks: after the warm-up, at the end."""
    warnings: int = 0
    visits: Counter[str] = field(default_factory=Counter)
    toxics: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        before, after = self.memory_mib
        flat = ", ".join(f"{name} {one} and {other}" for name, (one, other) in self.flat.items())
        share = self.objects[1] / self.objects[0] - 1 if self.objects[0] else 0.0
        return (
            f"{self.minutes:g} minutes: memory {before:.1f} MiB after the warm-up, {after:.1f} at the end; "
            f"{self.objects[0]:,} objects and {self.objects[1]:,} ({share:+.2%}), {len(self.grown)} types grown; "
            f"{flat}; {self.warnings} asyncio warnings; {self.visits.total()} visits, {self.toxics.total()} toxic "
            f"events, {self.figures.get('confirmed', 0)} receipts"
        )


def _faulty(
    supervisor: Supervisor, proxy: ProxyThread, seconds: float, toxic_s: float, sample: Callable[[], None]
) -> None:
    """The load for so long, one toxic after the other."""
    rng = supervisor.rng
    kinds: list[Callable[[], Toxic]] = [
        lambda: Reset(0.01, rng), Toxic, HalfOpen, Toxic, SlowReader, Toxic, lambda: Latency(0.02, 0.05, rng),
        lambda: Slicer(rng),
    ]  # fmt: skip
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        proxy.put_on(kinds[number % len(kinds)]())
        number += 1
        for _ in range(int(toxic_s)):
            supervisor.watch(1.0)
            sample()
    proxy.put_on(Toxic())


def _at_rest(supervisor: Supervisor, gateway: SoakedGateway, rest_s: float) -> dict[str, Any]:
    """No client: what lives now lives for good. What is owed is on the disk."""
    supervisor.stop_clients()
    until(lambda: gateway.sockets() <= gateway.idle_sockets, "the end of all connections", 15)
    time.sleep(rest_s)
    return gateway.look()


def compare(before: dict[str, Any], after: dict[str, Any], soaked: Soaked) -> None:
    soaked.objects = sum(before["objects"].values()), sum(after["objects"].values())
    for kind, count in after["objects"].items():
        was = before["objects"].get(kind, 0)
        if count - was > max(COUNT_MAX, SHARE_MAX * was):
            soaked.grown[kind] = was, count
    if soaked.objects[1] - soaked.objects[0] > max(COUNT_MAX, SHARE_MAX * soaked.objects[0]):
        grown = +(Counter(after["objects"]) - Counter(before["objects"]))
        soaked.problems.append(f"objects: {soaked.objects[0]} and {soaked.objects[1]}: {grown.most_common(12)}")
    soaked.problems += [f"objects of {kind}: {was} and {now}" for kind, (was, now) in soaked.grown.items()]
    soaked.flat = {
        "descriptors": (before["descriptors"], after["descriptors"]),
        "threads": (before["threads"], after["threads"]),
        "tasks": (len(before["tasks"]), len(after["tasks"])),
    }
    soaked.problems += [f"{name}: {was} and {now}" for name, (was, now) in soaked.flat.items() if was != now]


def remember(samples: Sequence[float], window: int, soaked: Soaked) -> None:
    soaked.memory_mib = statistics.median(samples[:window]) / 1024, statistics.median(samples[-window:]) / 1024
    if soaked.memory_mib[1] - soaked.memory_mib[0] > MEMORY_MIB_MAX:
        soaked.problems.append(f"memory: {soaked.memory_mib[0]:.1f} and {soaked.memory_mib[1]:.1f} MiB")


def _warm_s(minutes: float) -> float:
    return min(WARM_S_MAX, minutes * 60 / 5)


def run(
    folder: Path,
    minutes: float = MINUTES,
    seed: int = 1,
    rest_s: float = REST_S,
    toxic_s: float = TOXIC_S,
    required: Sequence[str] = REQUIRED,
) -> Soaked:
    soaked = Soaked(minutes)
    warm_s = _warm_s(minutes)
    window = max(1, int(min(WINDOW_S_MAX, minutes * 60 / 5)))
    supervisor = Supervisor(folder, seed, SETTINGS, limits=LIMITS, think_s=THINK_S)
    gateway = SoakedGateway(folder / "gateway", settings=supervisor.gateway.settings, port=supervisor.gateway.port)
    gateway.secret = supervisor.gateway.secret
    supervisor.gateway = gateway
    proxy = None
    samples: list[float] = []
    try:
        supervisor.start_gateway()
        gateway.idle_sockets = gateway.sockets()
        asyncio.run(supervisor.create_groups())
        proxy = ProxyThread(gateway.port)
        supervisor.client_port = proxy.port
        reports = [_loaded(supervisor, proxy, warm_s, toxic_s, lambda: None)]
        before = _at_rest(supervisor, gateway, rest_s)
        measured_s = minutes * 60 - warm_s
        reports.append(_loaded(supervisor, proxy, measured_s, toxic_s, lambda: samples.append(gateway.memory_kib())))
        after = _at_rest(supervisor, gateway, rest_s)
        verdict = supervisor.finish(required)
    finally:
        if proxy is not None:
            proxy.stop()
        supervisor.close()
    soaked.toxics = +Counter({name: count for name, count in proxy.proxy.fired.items() if name != Toxic.name})
    compare(before, after, soaked)
    remember(samples, window, soaked)
    _judge(soaked, verdict, reports, gateway)
    return soaked


def _loaded(
    supervisor: Supervisor, proxy: ProxyThread, seconds: float, toxic_s: float, sample: Callable[[], None]
) -> Path:
    """One phase of load. Returns where its visitors' report will be."""
    supervisor.start_clients()
    report = supervisor.folder / f"visitors-{supervisor.phase}.json"
    supervisor.spawn_visitors(report)
    _faulty(supervisor, proxy, seconds, toxic_s, sample)
    return report


def _judge(soaked: Soaked, verdict: Verdict, reports: Sequence[Path], gateway: SoakedGateway) -> None:
    for report in reports:
        soaked.visits.update(json.loads(report.read_text()))
    soaked.figures = verdict.figures
    soaked.problems += verdict.problems
    soaked.problems += [f"visits: {name} {count} times" for name, count in soaked.visits.items() if ":" in name]
    found = WARNINGS.findall(gateway.log)
    soaked.warnings = len(found)
    soaked.problems += [f"log: {text} {count} times" for text, count in Counter(found).items()]


def row(soaked: Soaked) -> Row:
    """Its row of the result table."""
    load = "load in debug mode, misbehaving clients, one toxic of the network after another"
    how = f"{soaked.minutes:g} minutes of {load}"
    target = (
        f"median memory of the last minutes at most {MEMORY_MIB_MAX:g} MiB above that after the warm-up; objects "
        f"within {SHARE_MAX:.0%}, each type too; descriptors, threads and tasks flat; no asyncio warning"
    )
    return Row("soak", how, target, soaked.text(), bool(soaked.toxics and soaked.visits), not soaked.problems)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Load with faults on; nothing may grow.")
    minutes = f"of load ({MINUTES:g}); a fifth warms up, {WARM_S_MAX:.0f} s at most, and too little looks like growth"
    parser.add_argument("--minutes", type=float, default=MINUTES, help=minutes)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", type=Path, help="write histories and logs here and keep them")
    parser.add_argument("--table", type=Path, help="the result table to renew, such as docs/reliability.md")
    options = parser.parse_args(argv)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="pushwire-soak-"))
    print(f"== soak of {options.minutes:g} minutes (seed {options.seed})", flush=True)
    soaked = run(folder, options.minutes, options.seed)
    print("\n".join([soaked.text(), *[f"PROBLEM {problem}" for problem in soaked.problems[:60]]]))
    print(f"visits: {dict(soaked.visits)}; toxics: {dict(soaked.toxics)}")
    if options.table is not None:
        renew(options.table, [row(soaked)])
    if soaked.problems and (warm_s := _warm_s(options.minutes)) < WARM_S_MAX:
        print(f"note: it warmed up for {warm_s:.0f} s, not {WARM_S_MAX:.0f}: what is first used later counts as grown")
    if soaked.problems:
        print(f"histories and logs: {folder}")
    elif not options.keep:
        shutil.rmtree(folder)
    return 1 if soaked.problems else 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
