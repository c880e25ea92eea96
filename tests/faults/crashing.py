"""A gateway that kills itself at a named point, for tests: `python -m faults.crashing CONTROL serve ...`.

Owns the points and what is wrapped for them; the shipped code knows nothing of it. CONTROL is a file that the runner
writes while the gateway runs: the name of a point and how many times it is still to be passed. It must change nothing
of what happens but the end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAL_BYTES_MAX = 128 << 10
"""So that a run of seconds sees many checkpoints."""

HOOKS = ("before_begin", "before_commit", "after_commit", "before_done")
"""The writer's own: nothing written; all written; committed; committed, and nobody told."""
WRAPPED: dict[str, tuple[str, str, str, bool]] = {
    # name: module, attribute, what is seen there, whether before it (else after)
    "before_push": ("pushwire_gateway.engine", "Engine._push", "committed, not handed to a client", True),
    "before_write": ("pushwire_gateway.outbox", "Outbox._write", "frames made, not given to the kernel", True),
    "after_write": ("pushwire_gateway.outbox", "Outbox._write", "receipts and pushes with the kernel", False),
    "ack_taken": ("pushwire_gateway.engine", "Engine._settle", "an ack is in memory, not in a batch", True),
    "settled": ("pushwire_storage.settling", "_Settling._delete", "settled, not committed", False),
    "requeued": ("pushwire_storage.settling", "_Settling._write_retries", "counts written, not committed", False),
    "letter_copied": ("pushwire_storage.settling", "bury", "in the letters, not yet out of the topic", False),
    "before_checkpoint": ("pushwire_storage.transaction", "Writer.maintain", "the log is long", True),
    "after_checkpoint": ("pushwire_storage.transaction", "Writer.maintain", "the log is in the database", False),
    "before_mark": ("pushwire_storage.highwater", "HighWater.write", "counted, not marked", True),
    "after_mark": ("pushwire_storage.highwater", "HighWater.write", "marked", False),
    "draining": ("pushwire_gateway.listener", "Listener.drain", "SIGTERM, clients told", True),
    "closing": ("pushwire_storage.transaction", "Writer.finish", "SIGTERM, the last checkpoint to come", True),
    "backup_copied": ("pushwire_storage.maintenance", "sync_file", "a copy is made, not yet named", True),
}
POINTS = (*HOOKS, *WRAPPED)
AFTER_SIGTERM = frozenset({"draining", "closing"})
RARE = frozenset(
    {"letter_copied", "before_checkpoint", "after_checkpoint", "before_mark", "after_mark", "backup_copied"}
)
"""Those that a life sees a few times only."""


class Fuse:
    """What the control file says, read when a point is passed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read: tuple[int, str, int] = (0, "", 0)

    def passed(self, name: str) -> None:
        """Die here, if it is time."""
        changed = self._path.stat().st_mtime_ns
        if changed != self._read[0]:
            words = self._path.read_text().split()
            self._read = (changed, words[0], int(words[1])) if len(words) == 2 else (changed, "", 0)
        if self._read[1] == name:
            self._read = (changed, name, self._read[2] - 1)
            if self._read[2] <= 0:
                self._path.with_suffix(".fired").write_text(name)
                os.kill(os.getpid(), signal.SIGKILL)


def due(name: str, subject: Any) -> bool:
    """Whether the wrapped call is one that does what the point is named after."""
    if name.endswith("_checkpoint"):
        return bool(subject._wal_bytes >= subject._wal_bytes_max)
    return True


def wrapped(call: Callable[..., Any], points: list[tuple[str, bool]], fuse: Fuse) -> Callable[..., Any]:
    """`call`, with points before and after it."""

    def calling(*args: Any, **kwargs: Any) -> Any:
        here = [(name, before) for name, before in points if due(name, args[0] if args else None)]
        for name, before in here:
            if before:
                fuse.passed(name)
        answer = call(*args, **kwargs)
        for name, before in here:
            if not before:
                fuse.passed(name)
        return answer

    return calling


def wrap(fuse: Fuse) -> None:
    """Put every point where it belongs."""
    import importlib

    from pushwire_storage import sqlite, transaction

    sqlite.WAL_BYTES_MAX = WAL_BYTES_MAX
    setattr(transaction.NoHooks, "point", lambda _, name: fuse.passed(name))  # noqa: B010 - for mypy
    places: dict[tuple[str, str], list[tuple[str, bool]]] = {}
    for name, (module, attribute, _, before) in WRAPPED.items():
        places.setdefault((module, attribute), []).append((name, before))
    for (module, attribute), points in places.items():
        owner: Any = importlib.import_module(module)
        *path, last = attribute.split(".")
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, last, wrapped(getattr(owner, last), points, fuse))


def main() -> None:
    control, *rest = sys.argv[1:]
    wrap(Fuse(Path(control)))
    from pushwire_gateway.cli import main as cli

    sys.argv = ["pushwire", *rest]
    cli()


if __name__ == "__main__":
    main()
