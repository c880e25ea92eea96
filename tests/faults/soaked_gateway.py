"""The gateway's own main, with a look inside on SIGUSR1: for the soak alone, and no part of what is shipped.

Owns the counting of objects, tasks and threads of its process, written to the file that SOAK_FILE names. What it counts
is what lives after a full collection. It also takes the store's caches of pages and statements down, so that they are
full after a warm-up and memory can be told from cache.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import sys
import threading
import traceback
import urllib.parse
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, cast

from pushwire_gateway.__main__ import main
from pushwire_gateway.server import Server
from pushwire_storage import sqlite

CACHE_BYTES = 2 * 1024 * 1024
STATEMENTS_CACHED = 16
"""Fewer than any load of seconds uses."""
DEBUG_NOTES = (traceback.FrameSummary, traceback.StackSummary)
"""asyncio's debug mode notes where each future and handle was made: as many frames as the stack was deep. The future
and the handle are counted themselves."""
SLOW_CALLBACK_S = 1.0
"""asyncio's debug mode reports what holds up the loop for 0.1 s, which a busy machine does by itself."""

_numbers = itertools.count(1)
_start = Server.start


def _look(path: Path) -> None:
    """Written whole or not at all."""
    cast("Any", urllib.parse).clear_cache()  # the standard library's, bounded, and full only in its own time
    gc.collect()
    kinds: Counter[str] = Counter()
    for thing in gc.get_objects():
        kind = type(thing)
        if kind in DEBUG_NOTES:
            continue
        name = f"{kind.__module__}.{kind.__qualname__}"
        if isinstance(thing, weakref.ReferenceType):  # says little by itself
            target = thing()
            if target is None:
                continue  # sqlite3 keeps those to its last 200 cursors, dead or not, and lets go of them in one go
            name = f"{name} to {type(target).__qualname__}"
            if isinstance(target, type):
                name = f"{name} {target.__qualname__}"
        kinds[name] += 1
    seen = {
        "number": next(_numbers),
        "objects": kinds,
        "tasks": sorted(task.get_name().rstrip("-0123456789") for task in asyncio.all_tasks()),
        "threads": threading.active_count(),
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(seen))
    partial.replace(path)


async def _start_and_watch(self: Server) -> None:
    await _start(self)
    loop = asyncio.get_running_loop()
    loop.slow_callback_duration = SLOW_CALLBACK_S
    assert loop.get_debug(), "the soak runs in asyncio's debug mode"
    loop.add_signal_handler(signal.SIGUSR1, _look, Path(os.environ["SOAK_FILE"]))


if __name__ == "__main__":
    changed: Any = sqlite
    changed.CACHE_BYTES = CACHE_BYTES
    changed.STATEMENTS_CACHED = STATEMENTS_CACHED
    Server.start = _start_and_watch
    sys.argv[0] = "pushwire"
    main()
