"""A real gateway in a process of its own, for tests that need one: started, awaited, killed, stopped, looked at.

Owns the process, its folder and the tokens it accepts. Must end no process but its own, and leaves none behind when
`stop` is called. Waiting is bounded polling; every wait has a limit in seconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pushwire_gateway.auth import SigningKey, sign_token

T = TypeVar("T")
READY_S = 15.0
"""Longest wait for readiness: generous, because a test that wants less says so with `ready_s`."""
STOP_S = 15.0
"""Longest wait for an exit: a drain may take 10 s."""
POLL_S = 0.01

EVERYTHING = ("publish:*", "consume:*@*", "create:*@*")
GENEROUS: Mapping[str, str] = {
    "publish_per_s": "1000000",
    "publish_burst": "1000000",
    "publish_bytes_per_s": str(1024**3),
    "publish_bytes_burst": str(1024**3),
    "connects_per_s_per_ip": "100000",
    "connects_burst_per_ip": "100000",
    "connects_per_s": "100000",
    "connects_burst": "100000",
    "connections_per_ip": "0",
    "unauthenticated_per_ip": "200",
    "controls_per_s": "10000",
    "controls_burst": "10000",
}
"""Rates that no test of something else runs into."""

_EPHEMERAL_FROM = 32_000
_PORTS = range(20_000, _EPHEMERAL_FROM)


def free_port() -> int:
    """A port nobody listens on, below the kernel's own range: a client that keeps knocking on a port of that range
    while the gateway is down may be given the same port as its own and then talk to itself."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(condition: Callable[[], T], what: str, within_s: float = 10.0) -> T:
    """What `condition` gives, once that is true. Raises TimeoutError, saying what was waited for."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s} s")
        time.sleep(POLL_S)
    return value


async def until_async(condition: Callable[[], T], what: str, within_s: float = 10.0) -> T:
    """As `until`, and the event loop goes on meanwhile."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s} s")
        await asyncio.sleep(POLL_S)
    return value


def clean_env(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without settings that somebody left in it, plus these (by their names in settings.py)."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PUSHWIRE_")}
    env["PYTHONUNBUFFERED"] = "1"
    for name, value in (settings or {}).items():
        env[f"PUSHWIRE_{name.upper()}"] = value
    return env


class GatewayFailed(Exception):
    """The gateway did not start. The text ends with what it wrote."""


class GatewayProcess:
    """One gateway on one folder: `start` and `kill` as often as wanted, on the same files and the same port."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Mapping[str, str] | None = None,
        generous: bool = True,
        port: int | None = None,
        data: str | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.data = Path(data) if data else folder / "data"
        self.port = port or free_port()
        self.secret = secrets.token_urlsafe(48)
        self.settings = {**(GENEROUS if generous else {}), **(settings or {})}
        self.settings.setdefault("keys", json.dumps([{"kid": "main", "alg": "HS256", "secret": self.secret}]))
        self.ready_file = folder / "ready.json"
        self.log_file = folder / "gateway.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_s = 0.0
        self.tokens: list[str] = []

    # --- life -----------------------------------------------------------------------------------------------

    def command(self) -> Sequence[str]:
        python = [sys.executable, "-m", "pushwire_gateway", "serve"]
        return [*python, "--data", str(self.data), "--port", str(self.port), "--ready-file", str(self.ready_file)]

    def spawn(self) -> None:
        """Start without waiting."""
        assert self.process is None or self.process.poll() is not None
        self.ready_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=clean_env(self.settings), stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def start(self, within_s: float = READY_S) -> None:
        """Start and wait until it is ready; `ready_s` is how long that took."""
        began = time.monotonic()
        self.spawn()
        self.wait_ready(within_s)
        self.ready_s = time.monotonic() - began

    def wait_ready(self, within_s: float = READY_S) -> None:
        deadline = time.monotonic() + within_s
        while not self.ready_file.exists():
            if self.running.poll() is not None:
                raise GatewayFailed(f"exit code {self.running.returncode}:\n{self.last_words()}")
            if time.monotonic() > deadline:
                self.kill()
                raise GatewayFailed(f"not ready within {within_s} s:\n{self.last_words()}")
            time.sleep(POLL_S)

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None
        return self.process

    @property
    def pid(self) -> int:
        return self.running.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        self.running.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.running.kill()
        self.running.wait(STOP_S)

    def wait(self, within_s: float = STOP_S) -> int:
        """The exit code, once it ends by itself. Raises TimeoutExpired."""
        return self.running.wait(within_s)

    def terminate(self, within_s: float = STOP_S) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(within_s)

    def stop(self) -> None:
        """End it, however it is. Harmless when repeated."""
        if self.process is None:
            return
        if self.alive:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()

    # --- what clients need ----------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def token(
        self,
        subject: str = "tester",
        allow: Sequence[str] = EVERYTHING,
        *,
        ttl_s: int = 900,
        now: float | None = None,
        tenant: str = "default",
    ) -> str:
        """A token that this gateway accepts."""
        token = sign_token(
            SigningKey("main", "HS256", self.secret.encode()), subject=subject, audience="pushwire", issuer="pushwire",
            now=time.time() if now is None else now, allow=allow, ttl_s=ttl_s, tenant=tenant,
        )  # fmt: skip
        self.tokens.append(token)
        return token

    # --- what it leaves behind ------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def last_words(self) -> str:
        return self.log[-3000:]

    def check_log(self) -> None:
        """No token that was made for it, no secret and no unhandled exception is in anything it wrote."""
        log = self.log
        for token in self.tokens:
            assert token.rpartition(".")[2] not in log, "a token's signature is in the log"
        assert self.secret not in log, "the secret is in the log"
        assert "Traceback" not in log, log[-6000:]
        assert not re.search(r"never awaited|was destroyed but it is pending|never retrieved", log), log[-6000:]

    def database(self) -> Path:
        """The one SQLite file of its data folder."""
        found = sorted(self.data.glob("*.db"))
        assert len(found) == 1, f"expected one database, found {found}"
        return found[0]

    def memory_kib(self) -> int:
        """Resident memory (proc(5): status, VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise GatewayFailed("no VmRSS: the gateway is gone")

    def sockets(self) -> int:
        """Open sockets of the process, those it listens on included."""
        count = 0
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                count += str(entry.readlink()).startswith("socket:")
            except FileNotFoundError:
                continue
        return count

    def ready(self) -> dict[str, Any]:
        """What the ready file says."""
        value: dict[str, Any] = json.loads(self.ready_file.read_bytes())
        return value
