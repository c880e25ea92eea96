"""The bare limits as contestants of their own few cases; what they do lies in bench/bare.py."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Contestant, versions_of

SOURCE = Path(__file__).parent.parent / "bare.py"


class BareFrames(Contestant):
    name = "bare-frames"
    durable = "nothing is stored: websockets' Sans-I/O protocol alone"
    subprotocol = None
    kind = "frames"

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        return [sys.executable, str(SOURCE), self.kind, "--ready-file", str(ready_file)]

    def versions(self) -> dict[str, str]:
        return versions_of("websockets", "uvloop")


class BareBroadcast(BareFrames):
    name = "bare-broadcast"
    durable = "nothing is stored: websockets.broadcast alone"
    kind = "broadcast"
