"""What the filesystem is asked for beside SQLite: where a directory lies, and that names and contents are safe.

Owns no file and keeps none open. Whoever calls it for a database must do so before SQLite opens that: closing a
descriptor drops SQLite's locks.
"""

from __future__ import annotations

import os
from pathlib import Path

from .errors import StoreRefused

NETWORK_FILESYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "ncpfs"})
"""Locks and syncs of these do not keep SQLite's promises: SQLite itself warns of them."""


def sync_directory(path: Path) -> None:
    """Make new names in a directory survive the loss of power."""
    sync_file(path)


def sync_file(path: Path) -> None:
    """Make what a file holds survive the loss of power, whoever has written it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def refuse_foreign_log(database: Path, wal: Path) -> None:
    """A copy that was put in the place of a database whose gateway was killed lies beside the log of that one. SQLite
    would take the log for the copy's own: at best the copy counts for nothing, at worst the pages of both are mixed.
    Raises StoreRefused."""
    with database.open("rb") as file:
        versions = file.read(20)[18:]  # 1 and 1 until a database has its first log (SQLite's file format, 1.3.3)
    if versions == b"\1\1" and wal.exists() and wal.stat().st_size > 0:
        raise StoreRefused(
            f"{database} is a copy, and {wal} is the log of another database. Remove the log, and what the copy does "
            "not have is gone; or put the database back that it belongs to"
        )


def filesystem_of(path: Path) -> str | None:
    """The type of the filesystem that `path` lies on, where /proc tells (Linux)."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = Path("/proc/self/mountinfo")
    if mounts.exists():
        for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
            left, _, right = line.partition(" - ")
            if left.split()[2] == number:
                return right.split()[0]
    return None
