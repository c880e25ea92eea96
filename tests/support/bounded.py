"""Processes that end: a child within its time, whatever it does, and this one in good order when it is told to.

What a test run starts may be in sessions of its own, so that no signal of a terminal reaches it: it ends because
whoever has started it ends it, in a `finally`. A process that is killed has none.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE_S = 10.0


def run_bounded(
    command: Sequence[str],
    within_s: float,
    *,
    asked: signal.Signals = signal.SIGTERM,
    grace_s: float = GRACE_S,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[int | None, str]:
    """Its exit code and all that it wrote. None: it was not over within that time, was asked to end by that signal, and
    killed after the grace. So it is if we are interrupted ourselves."""
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", start_new_session=True,
    ) as child:  # fmt: skip
        try:
            output, _ = child.communicate(timeout=within_s)
        except subprocess.TimeoutExpired:
            return None, _ended(child, asked, grace_s)
        except BaseException:
            _ended(child, asked, grace_s)
            raise
        return child.returncode, output


def _ended(child: subprocess.Popen[str], asked: signal.Signals, grace_s: float) -> str:
    """What it wrote, as far as that can be had."""
    child.send_signal(asked)
    try:
        return child.communicate(timeout=grace_s)[0]
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)  # not waited for yet, so the number is still its own
    try:
        return child.communicate(timeout=grace_s)[0]
    except subprocess.TimeoutExpired:  # something that has left its group holds the other end
        return ""


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process through every `finally`, with the exit code of a shell. Only the first one counts: a
    second one must not cut short what the first has begun."""

    def leave(number: int, _frame: object) -> None:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which children would inherit
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
