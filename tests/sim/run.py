"""Run simulations from the command line: many seeds, or one again with its trace.

    python tests/sim/run.py --seeds 2000 --jobs 2          seeds 0 to 1999
    python tests/sim/run.py --seed 1234                    one seed, with the end of its trace if it fails
    python tests/sim/run.py --seed 1234 --trace            the same, with all of its trace
    python tests/sim/run.py --scenario keys                what must be shown, at full size; `all`: one after the other

Owns nothing but the counting; what a simulation is, simulation.py says.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pushwire_gateway
import pushwire_storage
from pushwire import wire
from sim.scenarios import FULL, SMALL, Shown
from sim.simulation import Result, simulate
from support.checker import SOMETIMES

CHUNK = 25
TRACE_LINES = 60
QUICK = ("lanes", "strict")
"""With --first: scenarios whose promises no single seed is large enough to judge, after the first seeds."""
FAILURES_MAX = 10
"""After so many failed seeds the rest would say the same."""


@dataclass
class Tally:
    """What many seeds came to."""

    seeds: int = 0
    steps: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    failed: dict[int, list[str]] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.steps += result.steps
        self.seen.update(name for name, count in result.seen.items() if count)
        self.figures.update(result.figures)
        if result.problems:
            self.failed[result.seed] = result.problems

    def merge(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.steps += other.steps
        self.seen.update(other.seen)
        self.figures.update(other.figures)
        self.failed.update(other.failed)

    def enough(self, *, first: bool) -> bool:
        """Whether to stop: many seeds have failed; or, with `first`, one has broken a promise (not merely crashed)."""
        broken = any(not problems[0].startswith("exception") for problems in self.failed.values())
        return (first and broken) or len(self.failed) >= FAILURES_MAX

    @property
    def missing(self) -> list[str]:
        return sorted(SOMETIMES - set(self.seen))


def run_seeds(seeds: Iterable[int], *, first: bool = False) -> Tally:
    """Run these seeds one after the other; stops early once enough have failed."""
    logging.disable(logging.CRITICAL)  # broken disks are what this is about
    tally = Tally()
    try:
        for seed in seeds:
            tally.add(simulate(seed))
            if tally.enough(first=first):
                break
    finally:
        logging.disable(logging.NOTSET)
    return tally


def _in_parallel(seeds: Sequence[int], jobs: int, *, first: bool) -> Iterator[Tally]:
    chunks = [seeds[start : start + CHUNK] for start in range(0, len(seeds), CHUNK)]
    run = partial(run_seeds, first=first)
    if jobs == 1:
        yield from map(run, chunks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run, chunks)


def replay(seed: int, *, whole: bool) -> int:
    """One seed with its trace. Returns the exit code."""
    logging.disable(logging.CRITICAL)
    result = simulate(seed, tracing=True)
    lines = result.trace
    if whole or result.problems:
        print(*(lines if whole else lines[-TRACE_LINES:]), sep="\n")
    print(f"seed {seed}: {result.steps} steps, digest {result.digest()}")
    for problem in result.problems:
        print(f"  {problem}")
    return 1 if result.problems else 0


def many(seeds: Sequence[int], jobs: int, *, first: bool) -> int:
    """Many seeds. Returns the exit code."""
    started = time.monotonic()
    total = Tally()
    for number, tally in enumerate(_in_parallel(seeds, jobs, first=first)):
        for seed, problems in tally.failed.items():
            print(f"seed {seed} FAILED: {problems[0]}\n  again: python tests/sim/run.py --seed {seed}", flush=True)
        total.merge(tally)
        if total.enough(first=first):
            break
        if first and not number and any(scenarios(name, SMALL) for name in QUICK):
            return 1
    took_s = time.monotonic() - started
    print(f"{total.seeds} seeds, {total.steps} steps, {took_s:.1f} s ({total.seeds / took_s:.1f} seeds/s)")
    print("  " + ", ".join(f"{name} {count}" for name, count in total.figures.items()))
    print("  seen in seeds: " + ", ".join(f"{name} {total.seen[name]}" for name in sorted(SOMETIMES)))
    if total.missing and len(seeds) >= 500:  # fewer may well miss what is rare
        print(f"INVALID: never seen: {', '.join(total.missing)}")
        return 1
    print(f"{len(total.failed)} failed")
    return 1 if total.failed else 0


def scenarios(name: str, sizes: Mapping[str, Callable[[], Shown]]) -> int:
    """One scenario, or all of them. Returns the exit code."""
    logging.disable(logging.CRITICAL)
    failed = 0
    for each in sizes if name == "all" else [name]:
        started = time.monotonic()
        shown = sizes[each]()
        figures = ", ".join(f"{what}: {figure}" for what, figure in shown.figures.items())
        verdict = "FAILED" if shown.problems else "shown"
        print(f"{shown.name}: {verdict} in {time.monotonic() - started:.1f} s\n  {figures}")
        for problem in shown.problems[:FAILURES_MAX]:
            print(f"  scenario {each} FAILED: {problem}", flush=True)
        failed += bool(shown.problems)
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Seeded simulation of the gateway.")
    parser.add_argument("--seed", type=int, help="run this one, and show its trace if it fails")
    parser.add_argument("--trace", action="store_true", help="with --seed: show all of the trace")
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--sources", type=Path, help="fail unless what is simulated was loaded from here")
    parser.add_argument("--first", action="store_true", help="stop at the first seed that breaks a promise")
    parser.add_argument("--scenario", choices=["all", *FULL], help="show this, instead of running seeds")
    parser.add_argument("--small", action="store_true", help="with --scenario: at the size of the tests")
    options = parser.parse_args()
    for package in (pushwire_gateway, pushwire_storage, wire):
        loaded = Path(str(package.__file__)).resolve()
        if options.sources and options.sources.resolve() not in loaded.parents:
            parser.error(f"{package.__name__} was loaded from {loaded}")
    if options.scenario is not None:
        return scenarios(options.scenario, SMALL if options.small else FULL)
    if options.seed is not None:
        return replay(options.seed, whole=options.trace)
    return many(range(options.start, options.start + options.seeds), options.jobs, first=options.first)


if __name__ == "__main__":
    sys.exit(main())
