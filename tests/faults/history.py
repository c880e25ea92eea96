"""The record of a fault run: one file of JSON lines a process, in the format that support/checker.py documents.

Owns writing and reading it. A line is written with one unbuffered write before an operation is sent and after its
answer has come, so that a killed process loses nothing that had happened; it judges nothing.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OUT_OF_ORDER_MAX = 200
"""Lines of one file that may be written in another order than their times: a connection is dated before it was opened,
and is noted once it is."""
SHA_CHARS = 20
"""Of the hash of a body: 80 bits, far more than a run has messages."""


class Recorder:
    """One process's file. Call it with the event's name and fields; `t` (CLOCK_MONOTONIC ns) is now unless given."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, ev: str, *, t: int | None = None, **fields: Any) -> None:
        self.all([{"t": time.monotonic_ns() if t is None else t, "ev": ev, **fields}])

    def all(self, events: Sequence[dict[str, Any]]) -> None:
        """Several events in one write."""
        os.write(self._file, b"".join([json.dumps(event).encode() + b"\n" for event in events]))


def stream(folder: Path) -> Iterator[dict[str, Any]]:
    """All events of a run, by time, one after the other: a long run has millions."""
    return heapq.merge(*[_sorted(path) for path in sorted(folder.glob("*.jsonl"))], key=lambda event: event["t"])


def _sorted(path: Path) -> Iterator[dict[str, Any]]:
    waiting: list[tuple[int, int, dict[str, Any]]] = []
    for number, event in enumerate(_events(path)):
        heapq.heappush(waiting, (event["t"], number, event))
        if len(waiting) > OUT_OF_ORDER_MAX:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _events(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):  # a process killed in the middle of a line had not sent what the line announces
                yield json.loads(line)


def fingerprint(encoding: str, body: bytes) -> str:
    """A hash of a body that is equal before and after the gateway: JSON is equal as JSON, the rest byte for byte."""
    if encoding == "json":
        body = json.dumps(json.loads(body), sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(encoding.encode() + b":" + body).hexdigest()[:SHA_CHARS]
