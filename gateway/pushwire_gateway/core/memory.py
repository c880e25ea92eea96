"""The bodies that the core holds ready, all groups together, against one limit."""

from __future__ import annotations

from .model import ENDED, OVERHEAD_BYTES, Group, Pending


class Ready:
    """A sum, a limit, and who was cut short by it."""

    __slots__ = ("bytes", "bytes_max", "dry", "tight")

    def __init__(self, bytes_max: int) -> None:
        self.bytes = 0
        self.bytes_max = bytes_max
        self.tight = False  # above the high mark: lanes may hold no more than their members are about to take
        self.dry: dict[Group, None] = {}  # groups that asked for less than they would, to be asked again

    def add(self, size_bytes: int) -> None:
        self.bytes += size_bytes + OVERHEAD_BYTES

    def remove(self, size_bytes: int) -> None:
        self.bytes -= size_bytes + OVERHEAD_BYTES

    def forget(self, pending: Pending) -> None:
        """It is held no longer; one that ended while it waited was taken off then."""
        if pending.place != ENDED:
            pending.place = ENDED
            self.remove(pending.message.size_bytes)
