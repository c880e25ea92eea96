"""Processes that end: within their time, and in good order when they are told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.bounded import run_bounded

TESTS = Path(__file__).resolve().parents[1]
ENV = {**os.environ, "PYTHONPATH": str(TESTS)}

IN_ORDER = """
import signal, sys
from support.bounded import exit_on_sigterm
exit_on_sigterm()
try:
    print("begun", flush=True)
    signal.pause()
finally:
    print("ending", flush=True)
    sys.stdin.readline()
    print("ended", flush=True)
"""


def test_what_is_over_in_time_has_its_code_and_its_words():
    words = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(7)"
    assert run_bounded([sys.executable, "-c", words], 60) == (7, "out\nerr\n")


def test_what_is_not_over_in_time_is_asked_to_end():
    waiting = "trap 'kill $!; echo asked; exit 0' TERM; sleep 300 > /dev/null & echo begun; wait"
    assert run_bounded(["sh", "-c", waiting], 1, grace_s=60) == (None, "begun\nasked\n")


def test_what_does_not_end_when_asked_is_killed_with_its_children():
    deaf = f"trap '' TERM INT; '{sys.executable}' -c 'import signal; signal.pause()'; echo never"
    assert run_bounded(["sh", "-c", deaf], 0.5, asked=signal.SIGINT, grace_s=0.5) == (None, "")


def test_a_process_told_to_end_does_what_it_has_to_do_first_and_does_it_once():
    with subprocess.Popen(
        [sys.executable, "-c", IN_ORDER], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "begun\n"
        child.terminate()
        assert child.stdout.readline() == "ending\n"
        child.terminate()
        assert child.communicate("\n", timeout=60)[0] == "ended\n"
    assert child.returncode == 128 + signal.SIGTERM
