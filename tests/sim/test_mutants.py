"""The simulator must find what is broken on purpose: every patch of tests/mutants is caught within a few seeds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.mutate import ROOTS, BadPatch, apply_patch, copy_sources, read_patch

REPOSITORY = Path(__file__).resolve().parents[2]
PATCHES = sorted((REPOSITORY / "tests" / "mutants").glob("*.patch"))
SEEDS_MAX = 300
"""Far more than any of them needs."""
EXAMPLE = """A test of the tests.
--- a/gateway/a.py
+++ b/gateway/a.py
@@ -1,2 +1,2 @@
 one
-two
+three
"""


def simulate(sources: Path) -> subprocess.CompletedProcess[str]:
    """Run the simulator against these sources, in a process of its own, until a seed fails."""
    tests = REPOSITORY / "tests"
    paths = os.pathsep.join(str(path) for path in (*(sources / root for root in ROOTS), tests))
    command = [sys.executable, str(tests / "sim" / "run.py"), "--first", "--jobs", "1", "--seeds", str(SEEDS_MAX)]
    return subprocess.run(
        [*command, "--sources", str(sources)],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_the_mutant_is_caught(path: Path, tmp_path: Path) -> None:
    copy_sources(REPOSITORY, tmp_path)
    apply_patch(read_patch(path.read_text()), tmp_path)
    run = simulate(tmp_path)
    # By an assertion or an invariant: a mutant that cannot even run would prove nothing.
    assert re.search(r"^(seed \d+ FAILED: (assertion:|[SL]\d+'?)|  scenario \S+ FAILED:) ", run.stdout, re.MULTILINE), (
        run.stdout + run.stderr
    )
    assert run.returncode == 1


def test_there_are_mutants_of_every_promise() -> None:
    assert len(PATCHES) >= 39


def test_a_patch_is_applied_where_it_fits(tmp_path: Path) -> None:
    target = tmp_path / "gateway" / "a.py"
    target.parent.mkdir()
    target.write_text("zero\none\ntwo\n")
    apply_patch(read_patch(EXAMPLE), tmp_path)
    assert target.read_text() == "zero\none\nthree\n"


@pytest.mark.parametrize("text", ["one\nfour\n", "one\ntwo\none\ntwo\n"], ids=["nowhere", "twice"])
def test_a_patch_that_does_not_fit_is_an_error(text: str, tmp_path: Path) -> None:
    target = tmp_path / "gateway" / "a.py"
    target.parent.mkdir()
    target.write_text(text)
    with pytest.raises(BadPatch):
        apply_patch(read_patch(EXAMPLE), tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        EXAMPLE.replace("A test of the tests.\n", ""),
        EXAMPLE.replace("+three\n", "".join(f"+{n}\n" for n in range(9))),
        EXAMPLE.replace("-two\n+three\n", " two\n"),
        EXAMPLE + EXAMPLE,
    ],
    ids=["no story", "too large", "no change", "two files"],
)
def test_a_bad_patch_is_refused(text: str) -> None:
    with pytest.raises(BadPatch):
        read_patch(text)
