"""Child processes of the benchmark: started on their core, awaited, measured through /proc and ended.

Owns only children it started: it ends no process by name, and leaves none behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

READY_S = 15
"""From start to the ready file: imports, migrations and listening, on a busy machine."""
STOP_S = 12
"""From SIGTERM to the end: a gateway may take 10 s to drain."""
LOOPBACK = "127.0.0.1"
CLOCK_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class ProcessFailed(Exception):
    """A child did not start, died or gave no result. The first line says what; what it wrote follows."""


@contextlib.contextmanager
def pinned_to(cpu: int | None) -> Iterator[None]:
    """Children started inside inherit this core: set in the parent, there is no moment when they run elsewhere."""
    if cpu is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores() -> tuple[int | None, int | None]:
    """(core of the broker, core of the load generator), or two None on a machine with one core."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[-1]) if len(usable) > 1 else (None, None)


Ready = Callable[[], dict[str, Any] | None]
"""What a broker tells when it is ready, at least its `port`; None while it is not."""


def file_ready(path: Path) -> Ready:
    """Ready when it has written this file, a JSON object."""

    def ready() -> dict[str, Any] | None:
        try:
            said: dict[str, Any] = json.loads(path.read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):  # not there, or half written
            return None
        return said

    return ready


def port_ready(port: int) -> Ready:
    """Ready when it accepts connections there."""

    def ready() -> dict[str, Any] | None:
        with socket.socket() as probe:
            return {"port": port} if probe.connect_ex((LOOPBACK, port)) == 0 else None

    return ready


def free_port() -> int:
    """A port that nobody had a moment ago, for a broker that cannot choose one itself."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class Server:
    """A broker process: alive from `start` to `stop`, its output in a file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.ready: dict[str, Any] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "output.log"

    def start(self, command: Sequence[str], env: Mapping[str, str], cpu: int | None, ready: Ready) -> None:
        """Start and wait until `ready` says where it is. Raises ProcessFailed."""
        with self._log.open("ab") as log, pinned_to(cpu):
            self._process = subprocess.Popen(
                command, env=dict(env), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the bench alone, which then ends its children in order
            )  # fmt: skip
        deadline = time.monotonic() + READY_S
        while (said := ready()) is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(0.02)  # the wait between two looks at the file
                raise ProcessFailed(f"{self.name} ended at once with exit code {code}{self.last_words()}")
            if time.monotonic() > deadline:
                self.stop()
                raise ProcessFailed(f"{self.name} was not ready within {READY_S} s{self.last_words()}")
        self.ready = said

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it: SIGTERM, then SIGKILL. Does nothing when it has ended or never began."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def last_words(self) -> str:
        """The end of what it wrote, for a message about its failure."""
        text = self._log.read_bytes()[-1500:].decode("utf-8", "replace").strip() if self._log.exists() else ""
        return f"\n{text}" if text else " and wrote nothing"


def run(command: Sequence[str], env: Mapping[str, str], cpu: int | None, given: Any, timeout_s: float) -> Any:
    """Run a child to its end: JSON on its stdin, JSON on its stdout. Raises ProcessFailed."""
    with pinned_to(cpu):
        process = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
    try:
        out, err = process.communicate(json.dumps(given).encode(), timeout_s)
    except subprocess.TimeoutExpired:
        raise ProcessFailed(f"no result within {timeout_s:.0f} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        raise ProcessFailed(f"exit code {process.returncode}\n{err.decode('utf-8', 'replace').strip()[-1500:]}")
    return json.loads(out)


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds used so far by these processes, all threads, user and system (proc(5): stat, fields 14 and 15)."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * CLOCK_TICK_S


class Others:
    """CPU time that everything but this run used on the machine: a benchmark beside other work says little."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._busy = self._machine_s() - self._ours_s()

    def share(self) -> float:
        """As a fraction of one core since the beginning. Counts only children that have ended as ours."""
        return max(0.0, (self._machine_s() - self._ours_s() - self._busy) / (time.monotonic() - self._start))

    @staticmethod
    def _machine_s() -> float:
        # proc(5): stat, the line of all cores: user nice system idle iowait irq softirq
        user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
        return sum(map(int, (user, nice, system, irq, softirq))) * CLOCK_TICK_S

    @staticmethod
    def _ours_s() -> float:
        used = os.times()
        return used.user + used.system + used.children_user + used.children_system


def rss_kib(pids: Sequence[int]) -> int:
    """Resident memory of these processes in KiB (proc(5): status, VmRSS)."""
    return _status_kib(pids, "VmRSS:")


def peak_kib(pids: Sequence[int]) -> int:
    """The most they ever had (VmHWM)."""
    return _status_kib(pids, "VmHWM:")


def _status_kib(pids: Sequence[int], name: str) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                total += int(line.split()[1])
    return total


def file_system_of(folder: Path) -> str:
    """Type of the file system that holds `folder` (proc(5): mountinfo): a benchmark of syncs needs a disk."""
    best, kind = "", "unknown"
    where = str(folder.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mount = left.split()[4]
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, right.split()[0]
    return kind
