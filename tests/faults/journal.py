"""What a gateway did to its files, as the shim noted it, and what a power cut at any moment leaves of them.

Owns the journal's format and the model of a disk. The model promises what POSIX does and no more: a file's content is
safe once the file was synced, a name once its directory was. Everything after that may be there or not, by sectors, in
any combination; names change in order. It knows no database and judges nothing.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BOOT, CREATE, WRITE, TRUNCATE, SYNC, DIRSYNC, UNLINK, RENAME, CONNECTION, SEND, FAULT = range(1, 12)
HEAD = struct.Struct("=BQQQI")
SECTORS = (512, 4096)
"""A disk writes one of these whole or not at all; which one is drawn for each cut."""


@dataclass(slots=True)
class Record:
    """One line of the journal. `file` is an inode, for CONNECTION and SEND a descriptor; `offset` also a size."""

    kind: int
    file: int
    offset: int
    ns: int
    data: bytes


def read(path: Path) -> Iterator[Record]:
    """The records, in order. A last one that the death of the process has cut off is left out."""
    raw = path.read_bytes()
    at = 0
    while at + HEAD.size <= len(raw):
        kind, file, offset, ns, length = HEAD.unpack_from(raw, at)
        at += HEAD.size
        if at + length > len(raw):
            return
        yield Record(kind, file, offset, ns, raw[at : at + length])
        at += length


@dataclass(slots=True)
class _File:
    safe: bytearray = field(default_factory=bytearray)
    pending: list[Record] = field(default_factory=list)


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


class Disk:
    """What is safe, and what is on its way. Feed it the journal; `cut` as often as wanted."""

    def __init__(self) -> None:
        self._inodes: dict[int, _File] = {}
        self._names: dict[str, _File] = {}
        self._moves: list[tuple[int, str, _File | str | None]] = []
        """Changes of names that are not safe yet, in order."""

    def feed(self, record: Record) -> None:
        kind = record.kind
        if kind in (WRITE, TRUNCATE):
            self._inodes[record.file].pending.append(record)
        elif kind == SYNC:
            file = self._inodes[record.file]
            for one in file.pending:
                _apply(file.safe, one)
            file.pending.clear()
        elif kind == CREATE:
            made = self._inodes[record.file] = _File()
            self._moves.append((kind, record.data.decode(), made))
        elif kind == UNLINK:
            self._moves.append((kind, record.data.decode(), None))
        elif kind == RENAME:
            old, _, new = record.data.partition(b"\0")
            self._moves.append((kind, old.decode(), new.decode()))
        elif kind == DIRSYNC:
            self._names = self._moved(len(self._moves))
            self._moves.clear()

    def _moved(self, count: int) -> dict[str, _File]:
        names = dict(self._names)
        for kind, name, what in self._moves[:count]:
            if kind == CREATE:
                assert isinstance(what, _File)
                names[name] = what
            elif kind == UNLINK:
                names.pop(name, None)
            elif name in names:
                assert isinstance(what, str)
                names[what] = names.pop(name)
        return names

    @property
    def unsafe(self) -> int:
        """How many operations a cut now could lose."""
        return len(self._moves) + sum(len(file.pending) for file in self._inodes.values())

    def cut(self, rng: random.Random) -> dict[str, bytes]:
        """The files after a loss of power now."""
        sector = rng.choice(SECTORS)
        # How likely a sector made it: rarely all or none of them, which two cuts in ten are anyway.
        share = rng.choice((0.0, 1.0, *[rng.random() for _ in range(8)]))
        names = self._moved(rng.randint(0, len(self._moves)))
        return {name: bytes(_torn(file, sector, share, rng)) for name, file in names.items()}

    def worst(self) -> dict[str, bytes]:
        """The files if nothing is left but what is safe."""
        return {name: bytes(file.safe) for name, file in self._names.items()}


def _apply(content: bytearray, record: Record) -> None:
    if record.kind == WRITE:
        _write(content, record.offset, record.data)
    else:
        _truncate(content, record.offset)


def _torn(file: _File, sector: int, share: float, rng: random.Random) -> bytearray:
    """The content with some of what is pending."""
    content = bytearray(file.safe)
    for record in file.pending:
        if record.kind == TRUNCATE:
            if rng.random() < share:
                _truncate(content, record.offset)
            continue
        data, start = record.data, record.offset
        at = 0
        while at < len(data):
            end = min(len(data), at + sector - (start + at) % sector)
            if rng.random() < share:
                _write(content, start + at, data[at:end])
            at = end
    return content
