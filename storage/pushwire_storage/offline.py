"""The care of a database without its gateway: `pushwire db check`.

Owns the way in: it finds the file, opens it so that it cannot be written, and leaves what to look at to maintenance.py.
It must not run in the gateway's own process; that one asks its catalog.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from . import maintenance
from .base import StoreRefused
from .sqlite import BUSY_TIMEOUT_S, DATABASE, Driver


def open_for_check(path: Path | str, driver: str = "sqlite3") -> Sequence[str]:
    """What is wrong with the database at `path`, a store's directory or a file such as a backup, whether a gateway
    runs on it or not: nothing is good. Raises StoreRefused for what is no database of ours, and StoreError."""
    database = Path(path)
    if database.is_dir():
        database /= DATABASE
    if not database.is_file():
        raise StoreRefused(f"there is no database at {path}")
    engine = Driver(driver)
    try:
        return maintenance.check(
            maintenance.Job(lambda file, mode: engine.connect(file, mode, BUSY_TIMEOUT_S)), database
        )
    except Exception as error:
        raise engine.damage(error) from error
