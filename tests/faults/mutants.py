"""`make mutants`: what the simulator cannot see is broken on purpose, and a fault run or a test must notice.

Owns the patches of tests/mutants/faults, which say what they break, who notices (`By:`) and what that says (`Seen:`, a
regular expression). The sources are copied, never touched. Takes minutes, so it is no part of `make test`, except that
every patch must still fit.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from sim.mutate import ROOTS, Patch, apply_patch, copy_sources, read_patch
from support.bounded import exit_on_sigterm, run_bounded

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "mutants" / "faults"
MUTANT_S_MAX = 400
ENDS_S_MAX = 60.0
"""From being told to end to having ended a gateway, which may drain, and its clients."""
HEAD = re.compile(r"(?P<story>.+)\nBy: (?P<by>(faults|pytest) .+)\nSeen: (?P<seen>.+)", re.DOTALL)


@dataclass(frozen=True)
class Mutant:
    """One patch."""

    name: str
    patch: Patch
    by: str
    seen: str


def mutants() -> list[Mutant]:
    """All of them. Raises BadPatch for what is no patch."""
    found = []
    for path in sorted(FOLDER.glob("*.patch")):
        patch = read_patch(path.read_text(encoding="utf-8"))
        head = HEAD.fullmatch(patch.story)
        assert head, f"{path.name}: a patch says what it breaks, By: whom it is noticed, and what is Seen: then"
        found.append(Mutant(path.stem, patch, head["by"], head["seen"]))
    return found


def broken(mutant: Mutant, target: Path) -> None:
    """A copy of the sources with the patch. Raises BadPatch when it does not fit any more."""
    copy_sources(ROOT, target)
    apply_patch(mutant.patch, target)


def notice(mutant: Mutant) -> str | None:
    """Run it. None if it was noticed, else what was written."""
    with tempfile.TemporaryDirectory(prefix="pushwire-mutant-") as name:
        sources = Path(name)
        broken(mutant, sources)
        paths = [*(sources / root for root in ROOTS), ROOT / "web-demo", ROOT / "tests"]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONSAFEPATH": "1"}
        tool, *words = mutant.by.split()
        tests = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = [sys.executable, *([str(ROOT / "tests/faults/run.py")] if tool == "faults" else tests), *words]
        asked = signal.SIGTERM if tool == "faults" else signal.SIGINT  # at which pytest ends its fixtures
        code, output = run_bounded(command, MUTANT_S_MAX, asked=asked, grace_s=ENDS_S_MAX, cwd=ROOT, env=env)
    if code is None:
        return f"not over after {MUTANT_S_MAX} s\n{output[-1500:]}"
    if code == 1 and re.search(mutant.seen, output):
        return None
    return f"exit code {code}, not seen: {mutant.seen}\n{output[-1500:]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Break the gateway on purpose and see whether it is noticed.")
    parser.add_argument("names", nargs="*", metavar="name", help="of the patches; default: all")
    names = parser.parse_args(argv).names
    escaped = 0
    for mutant in mutants():
        if names and mutant.name not in names:
            continue
        began = time.monotonic()
        missed = notice(mutant)
        escaped += missed is not None
        verdict = "caught" if missed is None else f"ESCAPED: {missed}"
        print(f"{mutant.name} ({mutant.by}): {verdict} ({time.monotonic() - began:.0f} s)", flush=True)
    return 1 if escaped else 0


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
