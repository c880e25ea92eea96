"""Scenario `migration`: the process is killed before each statement of each migration, from each golden file.

Owns the process that kills itself there and the comparison: the next start completes the migration, and the file then
holds what an undisturbed one makes, row by row. (What that serves is tests/e2e/test_golden.py's.)
"""

from __future__ import annotations

import gzip
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.reopened import NOW_MS, Nobody
from golden.make import GOLDEN
from pushwire_storage import schema
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.offline import open_for_check
from pushwire_storage.queries import Connection, Cursor
from pushwire_storage.sqlite import DATABASE
from support.gateway_process import clean_env

DIES_S_MAX = 60


@dataclass
class Migrated:
    """What the kills have shown."""

    kills: int = 0
    before: int = 0
    """Of those, after which the file was still of an older schema."""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return f"{self.kills} kills, {self.before} of which left an older schema, whole"


class Deadly:
    """A connection that kills its process instead of running the `nth` statement."""

    def __init__(self, connection: Connection, nth: int) -> None:
        self._connection = connection
        self._left = nth

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, *statement: object) -> Cursor:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return self._connection.execute(*statement)


def run(folder: Path, stride: int, seed: int) -> Migrated:
    """Every `stride`-th statement of what brings each older golden file up to date, from one of the first on."""
    result, rng = Migrated(), random.Random(seed)
    newest = len(schema.MIGRATIONS)
    for version in range(1, newest):
        whole = _laid_out(folder / "whole", version)
        _start(whole)
        wanted = _dump(whole)
        # BEGIN, the statements, the version, COMMIT: of each migration; the first kill comes before the first BEGIN.
        steps = sum(len(statements) + 3 for statements in schema.MIGRATIONS[version:])
        for nth in range(1 + rng.randrange(stride), steps + 1, stride):
            _case(folder / "case", version, nth, wanted, result)
    return result


def _case(place: Path, version: int, nth: int, wanted: list[str], result: Migrated) -> None:
    _laid_out(place, version)
    command = [sys.executable, "-m", "faults.migrating", str(place), str(nth)]
    env = {**clean_env(), "PYTHONPATH": os.pathsep.join(sys.path)}
    died = subprocess.run(command, env=env, check=False, timeout=DIES_S_MAX)
    where = f"schema {version}, statement {nth}"
    if died.returncode != -signal.SIGKILL:
        result.problems.append(f"{where}: ended with {died.returncode} instead of being killed")
        return
    result.kills += 1
    copy = place.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(place, copy)
    with closing(sqlite3.connect(copy / DATABASE)) as connection:
        left = connection.execute("PRAGMA user_version").fetchone()[0]
    result.before += left < len(schema.MIGRATIONS)
    if not version <= left <= len(schema.MIGRATIONS):
        result.problems.append(f"{where}: schema {left} is left")
    _start(place)
    if _dump(place) != wanted:
        result.problems.append(f"{where}: the next start makes something else of the file")
    result.problems += [f"{where}: {finding}" for finding in open_for_check(place)]


def _laid_out(place: Path, version: int) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True, mode=0o700)
    (place / DATABASE).write_bytes(gzip.decompress((GOLDEN / f"schema-{version}.db.gz").read_bytes()))
    return place


def _start(place: Path) -> None:
    store = InlineSqliteStore(place)
    store.start(Nobody(), NOW_MS)
    store.stop()


def _dump(place: Path) -> list[str]:
    with closing(sqlite3.connect(place / DATABASE)) as connection:
        return [*connection.iterdump(), str(connection.execute("PRAGMA user_version").fetchone())]


if __name__ == "__main__":
    _migrate = schema.migrate
    _deadly: Any = Deadly  # as much of a connection as a migration uses
    schema.migrate = lambda connection, version: _migrate(_deadly(connection, int(sys.argv[2])), version)
    _start(Path(sys.argv[1]))
