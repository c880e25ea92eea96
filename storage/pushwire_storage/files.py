"""What the filesystem is asked for beside SQLite: where a directory lies, and that names and contents are safe.

Owns no file and keeps none open. Whoever calls it for a database must do so before SQLite opens that: closing a
descriptor drops SQLite's locks.
"""

from __future__ import annotations

import os
from pathlib import Path

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
