"""What the benchmark asks of a contestant: how it is started, spoken to and described.

Owns the common half of every contestant. Knows no protocol's operations; each contestant is a small module beside
this one, and run.py lists them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench import peers
from bench.processes import LOOPBACK, ProcessFailed, Ready, Server, file_ready, port_ready


class Contestant:
    """A broker that may run or not. Subclasses say how it is started."""

    name = ""
    durable = ""
    """What a confirmed message survives there."""
    dialect = "pushwire.v1"
    subprotocol: str | None = "pushwire.v1"
    path = "/v1/ws"
    limits_raised: Mapping[str, str] = {}
    """Settings that differ from the contestant's defaults, by name."""

    def __init__(self, folder: Path, cpu: int | None) -> None:
        self._folder = folder
        self._cpu = cpu
        self._server: Server | None = None
        self.extra_env: Mapping[str, str] = {}
        """Of the case at hand."""

    def missing(self) -> str | None:
        """Why it cannot be started here, or None."""
        return None

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        """What starts it on the data in `data`. Called once a start, so it may prepare files there."""
        raise NotImplementedError

    def ready(self, ready_file: Path) -> Ready:
        """How it shows that it is ready."""
        return file_ready(ready_file)

    def env(self) -> dict[str, str]:
        """The environment of its process: ours without settings somebody left in it."""
        return {name: value for name, value in os.environ.items() if not name.startswith("PUSHWIRE_")}

    def versions(self) -> dict[str, str]:
        raise NotImplementedError

    def tokens(self, count: int) -> list[str]:
        """One token a connection, each of a subject of its own. Empty: this contestant has no tokens."""
        return []

    @property
    def alive(self) -> bool:
        return self._server is not None and self._server.alive

    @property
    def died(self) -> bool:
        """Whether it was started, not stopped, and is gone."""
        return self._server is not None and not self._server.alive

    def start(self) -> None:
        """Start with an empty database. Raises ProcessFailed."""
        self.stop()
        data = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=self._folder))
        ready_file = data / "ready.json"
        self._server = Server(self.name, data)
        try:
            command = self.command(data, ready_file)
            self._server.start(command, {**self.env(), **self.extra_env}, self._cpu, self.ready(ready_file))
        except BaseException:
            self.stop()
            raise

    def restart(self) -> float:
        """End the process and start it again on its data. Returns after how many seconds it was ready."""
        assert self._server is not None
        ready_file = self._server.folder / "ready.json"
        self._server.stop()
        ready_file.unlink(missing_ok=True)
        began = time.monotonic()
        command = self.command(self._server.folder, ready_file)
        self._server.start(command, {**self.env(), **self.extra_env}, self._cpu, self.ready(ready_file))
        return time.monotonic() - began

    def stop(self) -> None:
        """End the process and delete its data."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()
            shutil.rmtree(server.folder, ignore_errors=True)

    def job(self) -> dict[str, Any]:
        """The part of a load generator's job that says where and how to connect."""
        assert self._server is not None
        ready = self._server.ready
        return {
            "host": LOOPBACK,
            "port": ready["port"],
            "path": self.path,
            "subprotocol": self.subprotocol,
            "dialect": self.dialect,
            "broker_pids": [self._server.pid],
        }

    def last_words(self) -> str:
        return self._server.last_words() if self._server else ""


class Installed(Contestant):
    """A broker of somebody else: a program that is there or not, told its port, ready when it accepts connections."""

    program = ""
    package = ""
    """Debian's, for the version."""

    def __init__(self, folder: Path, cpu: int | None) -> None:
        super().__init__(folder, cpu)
        self.port = 0

    def missing(self) -> str | None:
        return None if peers.program(self.program) else f"no {self.program} here; make bench-peers fetches it"

    def where(self) -> str:
        """The program's path. Raises ProcessFailed."""
        found = peers.program(self.program)
        if found is None:
            raise ProcessFailed(f"no {self.program}")
        return str(found)

    def env(self) -> dict[str, str]:
        return {**super().env(), **peers.library_path()}

    def ready(self, ready_file: Path) -> Ready:
        return port_ready(self.port)

    def versions(self) -> dict[str, str]:
        return {self.package: peers.package_version(self.package)}


def versions_of(*packages: str) -> dict[str, str]:
    """Installed versions by distribution name; a package that is not there is said to be absent."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found
