"""The naive gateway as a contestant; what it does lies frozen in bench/naive.py."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Contestant, versions_of

SOURCE = Path(__file__).parent.parent / "naive.py"


class Naive(Contestant):
    name = "naive"
    durable = (
        "WAL, synchronous=FULL; INSERT + commit per message, UPDATE + commit per acknowledgement "
        "(1,100 messages: 2,215 syncs)"
    )

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        database = data / "naive.db"
        return [sys.executable, str(SOURCE), "--database", str(database), "--ready-file", str(ready_file)]

    def versions(self) -> dict[str, str]:
        return {**versions_of("websockets", "aiosqlite"), "sqlite": sqlite3.sqlite_version}
