"""NATS with JetStream over its own WebSocket listener, with its default sync and with `sync_interval: always`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Installed
from bench.processes import LOOPBACK, free_port


class Nats(Installed):
    name = "nats"
    program = "nats-server"
    durable = (
        "file store written before the confirmation, synced every 2 minutes (1,100 messages: 1,100 writes, no sync)"
    )
    dialect = "nats"
    subprotocol = None
    path = "/"
    sync = ""
    """The configured interval; empty is the server's default."""

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        self.port = self.port or free_port()  # the same again after a restart on its data
        jetstream = {"store_dir": str(data / "store"), **({"sync_interval": self.sync} if self.sync else {})}
        config = {
            "listen": f"{LOOPBACK}:{free_port()}",
            "websocket": {"host": LOOPBACK, "port": self.port, "no_tls": True, "compression": False},
            "jetstream": jetstream,
            **{name: int(value) for name, value in self.limits_raised.items()},
        }
        path = data / "nats.json"
        path.write_text(json.dumps(config))
        return [self.where(), "-c", str(path)]

    def versions(self) -> dict[str, str]:
        said = subprocess.run([self.where(), "--version"], capture_output=True, text=True, timeout=10, check=True)
        return {"nats-server": said.stdout.strip().rpartition(" ")[2]}


class NatsAlways(Nats):
    name = "nats-always"
    durable = "file store synced at every write, messages and acknowledgements (1,100 messages: 1,127 syncs)"
    sync = "always"
