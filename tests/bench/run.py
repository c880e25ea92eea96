"""`make bench`: every scenario, every contestant, interleaved on loopback in one run.

Owns the order of things: who runs when and where, rounds, and what ends the run. What is measured lies in
scenarios/, who is measured in contestants/, what may be quoted in report.py. It ends only processes it started
and deletes only folders it made.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import bounds, processes, report
from bench.contestants.bare import BareBroadcast, BareFrames
from bench.contestants.base import Contestant
from bench.contestants.mosquitto import Mosquitto
from bench.contestants.naive import Naive
from bench.contestants.nats import Nats, NatsAlways
from bench.contestants.pushwire import Pushwire
from bench.contestants.rabbitmq import RabbitMQ
from bench.contestants.redis import Redis
from bench.loadgen import SCENARIOS
from bench.processes import ProcessFailed
from bench.scenarios.base import CONNECT_S, DRAIN_S, SETUP_S, STAGE_S, Case
from bench.stats import median

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
CONTESTANTS: tuple[type[Contestant], ...] = (
    Pushwire, Naive, RabbitMQ, Nats, NatsAlways, Redis, Mosquitto, BareFrames, BareBroadcast,
)  # fmt: skip
"""The first is compared with each other one."""
QUICK = ("pushwire", "naive", "nats", "bare-frames", "bare-broadcast")
"""In a quick run, unless others are named."""
BODY_BYTES = 200
ROUNDS = 3
START_FAILURES_MAX = 2
"""A contestant that did not start so often is not tried again in this run."""
QUICK_S_MAX = 90
"""Of a quick run: on a machine too slow for all rounds there are fewer, and the rows say so."""
OTHERS_SHARE_MAX = 0.15
"""Of one core, used by other processes, above which the run says that its figures are of a busy machine."""
SPARE_FILES = 600
"""Beside its connections a broker has a database, logs, libraries, and may keep a reserve."""


class Bench:
    """One run."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.broker_cpu, self.load_cpu = (None, None) if options.unpinned else processes.cores()
        wanted = options.system or (QUICK if options.quick else [kind.name for kind in CONTESTANTS])
        asked = [kind(folder, self.broker_cpu) for kind in CONTESTANTS if kind.name in wanted]
        self.missing = {one.name: reason for one in asked if (reason := one.missing())}
        self.contestants = [one for one in asked if one.name not in self.missing]
        self.cases = [case for case in plan(options.quick) if chosen(case, options.only)]
        self.results = report.Results([contestant.name for contestant in self.contestants], self.cases)
        self.others = processes.Others()
        self.start_failures: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH")))),
        }

    def run(self) -> None:
        started, longest_s = time.monotonic(), 0.0
        for number in range(self.options.rounds):
            began = time.monotonic()
            if self.options.quick and began - started + 1.25 * longest_s > QUICK_S_MAX:
                say(f"stopped after {number} rounds: another one would end after {QUICK_S_MAX} s")
                return
            for case in self.cases:
                if case.scenario == "throughput" and case is self.cases[0]:
                    self.measure_bounds()
                for contestant in turned(self.contestants, number):
                    if report.concerns(case, contestant.name):
                        self.round(case, contestant)
            longest_s = max(longest_s, time.monotonic() - began)
            say(f"round {number + 1} of {self.options.rounds} done")

    def measure_bounds(self) -> None:
        job = {
            "folder": tempfile.mkdtemp(prefix="bounds-", dir=self.folder),
            "seconds": 0.5 if self.options.quick else 3.0,
        }
        command = [sys.executable, str(HERE / "bounds.py")]
        try:
            figures = processes.run(command, self.env, self.broker_cpu, {**job, "body_bytes": BODY_BYTES}, 60)
        except ProcessFailed as exc:
            say(f"bounds: {exc}")
            return
        finally:
            shutil.rmtree(str(job["folder"]))
        for name, value in figures.items():
            self.results.bounds.setdefault(name, []).append(value)

    def round(self, case: Case, contestant: Contestant) -> None:
        """One measurement of one contestant; whatever goes wrong ends up in its cell."""
        cell = self.results.cell(case, contestant.name)
        try:
            self.prepare(case, contestant)
            answer = self.staged(case, contestant) if case.stages else self.load(case, contestant)
        except ProcessFailed as exc:
            answer = {"error": str(exc)}
        if "error" in answer:
            what, _, output = str(answer["error"]).partition("\n")
            if contestant.died:
                what, output = f"died: {what}", contestant.last_words()
            cell.failures.append(what)
            say(f"{contestant.name}, {case.scenario}: {case.name}: FAILED: {what}\n{output}".rstrip())
            contestant.stop()  # the next measurement begins with a broker that owes nothing to this one
            return
        if "too_slow" in answer:
            cell.slow.append(answer["too_slow"])
            say(f"{contestant.name}, {case.scenario}: {case.name}: too slow: {answer['too_slow']}")
            contestant.stop()  # what it is behind with is not the next measurement's
            return
        say(f"{contestant.name}, {case.scenario}: {case.name}: {report.brief(answer['figures'])}")
        cell.rounds.append(answer["figures"])
        cell.notes.append(answer["notes"])
        if case.fresh:
            contestant.stop()

    def prepare(self, case: Case, contestant: Contestant) -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if case.connections + SPARE_FILES > limit:
            raise ProcessFailed(f"{case.connections} connections need a higher limit of open files than {limit}")
        if contestant.alive and not case.fresh:
            return
        contestant.extra_env = case.env
        failures = self.start_failures.get(contestant.name, 0)
        if failures >= START_FAILURES_MAX:
            raise ProcessFailed("does not start")
        try:
            contestant.start()
        except (ProcessFailed, OSError) as exc:
            self.start_failures[contestant.name] = failures + 1
            raise ProcessFailed(str(exc)) from exc

    def staged(self, case: Case, contestant: Contestant) -> Any:
        """A round of several measurements, with a new process on the same data for each."""
        figures: dict[str, dict[str, float]] = {}
        notes: dict[str, float] = {}
        for number, stage in enumerate(case.stages):
            ready_s = contestant.restart() if number else 0.0
            answer = self.load(replace(case, params={**case.params, "stage": stage}), contestant)
            if "figures" not in answer:
                return answer
            figures[stage] = {**answer["figures"], "ready_s": ready_s}
            notes |= {name: max(value, notes.get(name, 0.0)) for name, value in answer["notes"].items()}
        return {"figures": SCENARIOS[case.scenario].figures(figures), "notes": notes}

    def load(self, case: Case, contestant: Contestant) -> Any:
        number = next(self._numbers)
        job = {
            **contestant.job(),
            "scenario": case.scenario,
            "params": case.params,
            "topic": f"bench.t{number}",
            "body_bytes": case.params.get("body_bytes", BODY_BYTES),
            "seed": number,
            "tokens": contestant.tokens(case.connections),
        }
        busy_s = case.params.get("warm_s", 0) + case.params.get("measure_s", 0)
        # Every wait inside has its own end; this one is for a load generator that hangs.
        within_s = busy_s + 2 * CONNECT_S + SETUP_S + (STAGE_S if case.stages or case.fresh else DRAIN_S) + 10
        return processes.run([sys.executable, str(HERE / "loadgen.py")], self.env, self.load_cpu, job, within_s)

    def stop(self) -> None:
        for contestant in self.contestants:
            contestant.stop()


def plan(quick: bool) -> list[Case]:
    return [case for module in SCENARIOS.values() for case in module.cases(quick)]


def chosen(case: Case, texts: Sequence[str] | None) -> bool:
    """Whether the case is among those asked for: all, or those whose name holds one of the texts."""
    return not texts or any(text in f"{case.scenario}: {case.name}" for text in texts)


def turned(contestants: Sequence[Contestant], number: int) -> Iterator[Contestant]:
    """All of them, another one first in each round: whoever comes first meets a quieter disk."""
    at = number % len(contestants)
    yield from contestants[at:]
    yield from contestants[:at]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine(bench: Bench) -> dict[str, Any]:
    pinned = "both on all cores"
    if bench.broker_cpu is not None:
        pinned = f"broker on core {bench.broker_cpu}, load generator on core {bench.load_cpu}"
    return {
        "cores": os.cpu_count(),
        "pinning": pinned,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file_system": processes.file_system_of(bench.folder),
        "cpu_share_of_others": round(bench.others.share(), 3),
        "body_bytes": BODY_BYTES,
        "quick": bench.options.quick,
    }


def conclude(bench: Bench, seconds: float) -> int:
    """Print the table, write the JSON. 1 when a contestant failed or the yardstick is a straw man. Call it when all
    children have ended."""
    results, place = bench.results, machine(bench)
    versions = {contestant.name: contestant.versions() for contestant in bench.contestants}
    limits = {contestant.name: dict(contestant.limits_raised) for contestant in bench.contestants}
    print(report.table(results))
    print("\n" + ", ".join(f"{name} {value}" for name, value in place.items()))
    for contestant in bench.contestants:
        known = ", ".join(f"{name} {value}" for name, value in versions[contestant.name].items())
        raised = ", ".join(f"{name}={value}" for name, value in limits[contestant.name].items()) or "none"
        print(f"{contestant.name}: {contestant.durable}\n  versions: {known}\n  limits raised: {raised}")
    for name, reason in bench.missing.items():
        print(f"{name}: MISSING: {reason}")
    for name, values in results.bounds.items():
        print(f"bound: {name}: {report.number(median(values))} rows/s")
    share = results.naive_share(bounds.THREE_HOPS)
    straw = share is not None and share < report.NAIVE_SHARE_MIN
    if share is not None:
        verdict = "BELOW" if straw else "at least"
        print(f"naive reaches {share:.0%} of aiosqlite's three-hop rate ({verdict} {report.NAIVE_SHARE_MIN:.0%})")
    if place["file_system"] in ("tmpfs", "ramfs", "overlay"):
        print(f"warning: the data lies on {place['file_system']}; syncs may cost nothing there")
    if place["cpu_share_of_others"] > OTHERS_SHARE_MAX:
        print(f"warning: other processes used {place['cpu_share_of_others']:.0%} of a core; run it on a quiet machine")
    failed = any(cell.failures for cell in results.cells.values())
    document = {
        "machine": place,
        "seconds": round(seconds, 1),
        "naive_share_of_three_hops": share,
        "missing": bench.missing,
        "durable": {contestant.name: contestant.durable for contestant in bench.contestants},
        "rows": report.rows(results, versions, limits),
    }
    report.write(bench.options.out, document)
    print(f"{seconds:.0f} s; rows in {os.path.relpath(bench.options.out)}")
    return 1 if failed or straw else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description="Benchmarks on loopback.")
    quick = os.environ.get("QUICK", "") not in ("", "0")
    parser.add_argument("--quick", action="store_true", default=quick, help="at most 90 s (also QUICK=1)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"interleaved rounds (default {ROUNDS})")
    parser.add_argument("--system", action="append", choices=[kind.name for kind in CONTESTANTS])
    parser.add_argument(
        "--only", action="append", metavar="TEXT", help="cases whose 'scenario: name' holds TEXT (or one of several)"
    )
    parser.add_argument("--unpinned", action="store_true", help="let broker and load generator share all cores")
    parser.add_argument("--out", type=Path, default=BUILD / "bench.json")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by all children
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through `finally`, so that no child outlives the run
    BUILD.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=BUILD))  # on the disk of the work tree: syncs must count
    bench = Bench(options, folder)
    started = time.monotonic()
    try:
        bench.run()
        bench.stop()
        return conclude(bench, time.monotonic() - started)
    finally:
        bench.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
