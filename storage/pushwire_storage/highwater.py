"""How far this directory has come, kept outside the database: so that a database which is gone, cut short or older than
that is refused at start instead of served as if nothing had been there.

Owns one small file and the number in the database that it is compared with. SQLite takes whatever part of its log is
valid: without a second witness a deleted or damaged log is a loss in silence. It must never say more than what is safe
on the disk, and it opens neither the database nor its log.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from .errors import StoreRefused
from .files import sync_directory
from .queries import BEGIN, COMMIT, SELECT_META, SET_META, Execute

log = logging.getLogger("pushwire.storage")

MARK = "pushwire.mark"
MARK_S = 1.0
"""Between two marks of a store that commits: a loss younger than this is not noticed, and each costs a small commit."""
_SLOT = struct.Struct(">8sQ16sI")
_MAGIC = b"PWMARK1\0"
_SLOTS_AT = (0, 4096)
"""Written in turn, in sectors of their own: a write that a power cut tears spoils one of them."""


class Mark(NamedTuple):
    """The database `epoch` has come at least to `number`."""

    number: int
    epoch: str


class HighWater:
    """The file of one directory."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / MARK
        self._folder = folder

    def read(self) -> Mark | None:
        """The mark; None where there is none yet. Raises StoreRefused when the file holds something else."""
        if self.path.exists() and not self.path.is_file():  # to read a pipe would be to wait for a writer for ever
            raise StoreRefused(f"{self.path} is no file: whether the database is whole cannot be told")
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        marks = [mark for at in _SLOTS_AT if (mark := _unpacked(raw[at : at + _SLOT.size])) is not None]
        if not marks and raw.strip(b"\0"):
            raise StoreRefused(
                f"{self.path} is damaged: whether the database is whole cannot be told. {self._way_out()}"
            )
        return max(marks, default=None)

    def check(self, execute: Execute, version: int) -> None:
        """Compare the database (`version` of its schema) with the mark. Raises StoreRefused."""
        mark = self.read()
        if mark is None:
            return
        if version == 0:
            raise StoreRefused(f"the database is gone or empty, but {self.path} tells of one. {self._way_out()}")
        if execute(SELECT_META, ("epoch",)).fetchone()[0] != mark.epoch:
            raise StoreRefused(f"this is not the database that {self.path} tells of. {self._way_out()}")
        number = number_of(execute)
        if number < mark.number:
            raise StoreRefused(
                f"the database is older than {self.path} says ({number}, not {mark.number}): it or its log was cut "
                f"short, deleted or replaced by an older copy. {self._way_out()}"
            )

    def _way_out(self) -> str:
        return f"Put the right files back; or, to go on without what is missing, remove {self.path}"

    def write(self, mark: Mark) -> None:
        """Make it last. What it tells of must be safe already. Raises OSError, but not for a full disk: the mark before
        this one holds on."""
        slot = _SLOTS_AT[mark.number % len(_SLOTS_AT)]
        made = not self.path.exists()
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(descriptor, _packed(mark), slot)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if made:
                sync_directory(self._folder)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            log.warning("no room for %s: a loss of what is stored from now on would not be noticed", self.path)


def number_of(execute: Execute) -> int:
    """How far the database says it has come."""
    row = execute(SELECT_META, ("mark",)).fetchone()
    return 0 if row is None else int(row[0])


def advance(execute: Execute) -> int:
    """Count one further in a transaction of its own; with it everything before is safe, if commits are synced."""
    execute(BEGIN)
    number = number_of(execute) + 1
    execute(SET_META, ("mark", number))
    execute(COMMIT)
    return number


def _packed(mark: Mark) -> bytes:
    raw = _SLOT.pack(_MAGIC, mark.number, mark.epoch.encode(), 0)
    return raw[:-4] + struct.pack(">I", crc32(raw[:-4]))


def _unpacked(raw: bytes) -> Mark | None:
    if len(raw) < _SLOT.size or crc32(raw[:-4]) != struct.unpack(">I", raw[-4:])[0]:
        return None
    magic, number, epoch, _ = _SLOT.unpack(raw)
    return Mark(number, epoch.rstrip(b"\0").decode()) if magic == _MAGIC else None
