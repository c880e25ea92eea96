"""Mosquitto over WebSocket, QoS 1 with sessions that outlive their connection: a speed reference, no durable peer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Installed
from bench.processes import LOOPBACK, free_port


class Mosquitto(Installed):
    name = "mosquitto"
    program = "mosquitto"
    package = "mosquitto"
    durable = (
        "memory, written to disk every 30 minutes and at exit: a crash loses what was confirmed "
        "(1,100 messages: no sync)"
    )
    dialect = "mqtt"
    subprotocol = "mqtt"
    path = "/mqtt"
    limits_raised = {  # noqa: RUF012  never changed; a Mapping in the base class
        "max_inflight_messages": "1000",  # also what a producer may have unconfirmed
        "max_queued_messages": "0",
    }

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        self.port = free_port()
        lines = [
            f"listener {free_port()} {LOOPBACK}",  # without a plain one it exits: it counts no others
            f"listener {self.port} {LOOPBACK}",
            "protocol websockets",
            "allow_anonymous true",
            "persistence true",
            f"persistence_location {data}/",
            "set_tcp_nodelay true",
            *(["user root"] if os.geteuid() == 0 else []),  # else it gives up its right to `data`
            *(f"{name} {value}" for name, value in self.limits_raised.items()),
        ]
        path = data / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n")
        return [self.where(), "-c", str(path)]
