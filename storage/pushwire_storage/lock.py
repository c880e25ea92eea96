"""One process per database: a flock on a file of its own, which holds the owner's pid for people.

It must not open the database, its -wal or its -shm: closing any descriptor of those drops every lock that this
process holds on them, SQLite's included.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from .base import StoreBroken, StoreLocked


class FileLock:
    """Held from `take` to `release`; the kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises StoreLocked, naming the owner, when another process (or this one) holds it."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreBroken(f"cannot open the lock file {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except BlockingIOError as error:
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise StoreLocked(f"the store is in use by process {owner} (lock file {self.path})") from error
        except OSError as error:
            os.close(descriptor)
            raise StoreBroken(f"cannot lock {self.path}: {error.strerror}") from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Harmless when not held. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
