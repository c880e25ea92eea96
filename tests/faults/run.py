"""`make faults`: the fault scenarios on real gateways, at full length. ARGS: `kill --cycles 200 --seed 7`.

Owns the command line and the printout; each scenario is a module beside this one. Exit code 0: all passed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from faults import drain, kill, locked, pause

KILL_CYCLES, DRAIN_CYCLES = 200, 30


def _kill(folder: Path, options: argparse.Namespace) -> bool:
    verdict = kill.run(folder, options.cycles or KILL_CYCLES, options.seed)
    print(verdict.text())
    return verdict.passed


def _drain(folder: Path, options: argparse.Namespace) -> bool:
    verdict = drain.run(folder, options.cycles or DRAIN_CYCLES, options.seed)
    print(verdict.text())
    return verdict.passed


def _locked(folder: Path, _options: argparse.Namespace) -> bool:
    refusal = locked.run(folder)
    print(f"second gateway: exit code {refusal.code} after {refusal.took_s:.2f} s: {refusal.words.strip()}")
    in_time = refusal.took_s <= locked.TOOK_S_MAX
    return refusal.code == locked.EXIT_CONFIG and refusal.names_owner and refusal.first_still_works and in_time


def _pause(folder: Path, _options: argparse.Namespace) -> bool:
    report = pause.run(folder)
    print(f"figures: {report.figures}; seen: {dict(report.seen)}")
    for code, text in report.violations:
        print(f"PROBLEM {code} {text}")
    return report.passed


SCENARIOS: dict[str, Callable[[Path, argparse.Namespace], bool]] = {
    "kill": _kill,
    "drain": _drain,
    "locked": _locked,
    "pause": _pause,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hurt a real gateway and judge what it did.")
    parser.add_argument("scenarios", nargs="*", metavar="scenario", help=f"of {', '.join(SCENARIOS)}; default: all")
    parser.add_argument("--cycles", type=int, help=f"kills ({KILL_CYCLES}) or drains ({DRAIN_CYCLES})")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--keep", type=Path, help="write histories and logs here and keep them")
    options = parser.parse_args(argv)
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    passed = True
    for name in options.scenarios or SCENARIOS:
        folder = options.keep / name if options.keep else Path(tempfile.mkdtemp(prefix=f"pushwire-{name}-"))
        began = time.monotonic()
        print(f"== {name} (seed {options.seed})", flush=True)
        good = SCENARIOS[name](folder, options)
        print(f"== {name}: {'passed' if good else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
        passed = passed and good
        if good and not options.keep:
            shutil.rmtree(folder)
        elif not good:
            print(f"histories and logs: {folder}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
