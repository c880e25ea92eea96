"""Room on the disk: known before it runs out, and a reserve for what must not be refused.

Owns the limit below which nothing new is stored, and the ballast, a file that is given up when a commit meets a full
disk, so that settlements (which free space in the end) go on. It decides nothing about a batch.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

log = logging.getLogger("pushwire.storage")

BALLAST = "pushwire.ballast"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EOPNOTSUPP, errno.EINVAL})
"""The disk has less room than it said, or no way to reserve any."""


class Space:
    """The filesystem of one directory. 0 turns either part off."""

    def __init__(self, folder: Path, free_bytes_min: int, ballast_bytes: int) -> None:
        self.free_bytes_min = free_bytes_min
        self.ballast_bytes = ballast_bytes
        self._folder = folder
        self._ballast = folder / BALLAST

    def free_bytes(self) -> int:
        """What this process may still write."""
        room = os.statvfs(self._folder)
        return room.f_bavail * room.f_frsize

    def short(self) -> bool:
        """Whether there is too little room for anything new."""
        return self.free_bytes_min > 0 and self.free_bytes() < self.free_bytes_min

    def release(self) -> None:
        """The disk is full: give the ballast up."""
        if self._ballast.exists():
            try:
                self._ballast.unlink()
            except OSError as error:
                log.warning("cannot give up the ballast: %s", error.strerror)
            else:
                log.warning("the disk is full: gave up the ballast of %d bytes", self.ballast_bytes)

    def refill(self) -> bool:
        """Make the ballast, or make it again, where that leaves room enough. Returns whether it is still to be made.
        Raises OSError, but not for want of room."""
        wanted = self.ballast_bytes
        if not wanted or self._ballast.exists():
            return False
        if self.free_bytes() < wanted + self.free_bytes_min:
            return True
        partial = self._ballast.with_name(f"{BALLAST}.partial")
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, wanted)
            finally:
                os.close(descriptor)
            partial.replace(self._ballast)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            log.warning("no ballast: %s", error.strerror)
            partial.unlink(missing_ok=True)
            return True
        return False
