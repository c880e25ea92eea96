"""The `pushwire` command in processes of its own, for tests: run to its end, or started and listened to.

Owns those processes: `Spawned.end` must be called, and ends them. Adds nothing to the command line.
"""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.gateway_process import clean_env

COMMAND = (sys.executable, "-m", "pushwire_gateway")
TIMEOUT_S = 20.0


def run(
    *args: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run to the end. `env`: variables by their full names."""
    return subprocess.run(
        [*COMMAND, *args], env={**clean_env(), **(env or {})}, input=stdin, capture_output=True, text=True,
        timeout=timeout_s, check=False, cwd=cwd,
    )  # fmt: skip


class Spawned:
    """A process whose lines are read as they come: standard output and error, in one stream."""

    def __init__(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        module: str = "pushwire_gateway",
        script: Path | None = None,
        cwd: Path | None = None,
        command: Sequence[str] = (),
    ) -> None:
        """`command`: what to run instead of a module or script of this Python."""
        program = command or [sys.executable, *([str(script)] if script else ["-m", module])]
        self.process = subprocess.Popen(
            [*program, *args], env={**clean_env(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, cwd=cwd,
        )  # fmt: skip
        self.lines: list[str] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._fresh.put(line.rstrip("\n"))
        self._fresh.put(None)

    def line(self, beginning: str = "", timeout_s: float = TIMEOUT_S) -> str:
        """The next line that begins so (leading blanks aside). Raises AssertionError with everything that came."""
        while True:
            try:
                line = self._fresh.get(timeout=timeout_s)
            except queue.Empty:
                line = None
            assert line is not None, f"no line begins with {beginning!r}:\n" + "\n".join(self.lines)
            if line.lstrip().startswith(beginning):
                return line

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """The exit code; all lines have been read then."""
        code = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return code

    def kill_group(self) -> None:
        """SIGKILL for it and everything it started."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill_group()
        self.process.wait()
        self._reader.join(TIMEOUT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
