"""A fault run that is told to end takes with it all that it has started, in whatever session that is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from faults import run
from faults.supervisor import CLIENTS
from support.gateway_process import clean_env, until


def processes_of(folder: Path) -> list[str]:
    """The command lines that name this folder: its gateway's and its clients'."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            line = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found += [line] if f"{folder}/" in line else []
    return found


def test_sigterm_ends_the_gateway_and_its_clients_too(tmp_path):
    command = [sys.executable, run.__file__, "kill", "--cycles", "1000", "--keep", str(tmp_path)]
    env = {**clean_env(), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ran:
        until(lambda: len(processes_of(tmp_path)) >= 2 + len(CLIENTS), "the clients are there", 60)
        ran.terminate()
        output, _ = ran.communicate(timeout=60)
    assert ran.returncode == 128 + signal.SIGTERM, output
    assert processes_of(tmp_path) == []
