"""Redis streams with an append-only file that is synced before each answer. No WebSocket: bare RESP, pipelined."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Installed
from bench.processes import LOOPBACK, free_port


class Redis(Installed):
    name = "redis"
    program = "redis-server"
    package = "redis-server"
    durable = (
        "append-only file, appendfsync always: one sync for all commands of an event loop's turn "
        "(1,100 messages: 1,994 syncs)"
    )
    dialect = "resp"
    subprotocol = None
    path = ""

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        self.port = free_port()
        options = {
            "port": str(self.port), "bind": LOOPBACK, "dir": str(data), "save": "",
            "appendonly": "yes", "appendfsync": "always", "auto-aof-rewrite-percentage": "0",
        }  # fmt: skip
        return [self.where(), *(word for name, value in options.items() for word in (f"--{name}", value))]
