"""Message ids: time-ordered UUIDs, made here so that every retry of a publish carries the same one.

Owns nothing but the generator. The only place of the SDK that reads the wall clock: an id's time is a hint for the
gateway's index (neighbours in time are neighbours there), no promise.
"""

from __future__ import annotations

import os
import threading
import time

_RANDOM_BITS = 74
_lock = threading.Lock()
_last = 0  # the timestamp and the random bits of the newest id, as one number


def uuid7() -> str:
    """A UUID version 7 (RFC 9562 §5.7), larger than every one this process made before: within a millisecond, and
    after the clock went back, the random bits count on from the last by a random step (§6.2, method 2)."""
    global _last  # noqa: PLW0603 - one sequence a process is what makes them monotonic
    stamp_ms = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10), "big")  # 80 bits; also safe after a fork
    with _lock:
        fresh = stamp_ms << _RANDOM_BITS | noise >> 6
        _last = fresh if fresh >> _RANDOM_BITS > _last >> _RANDOM_BITS else _last + 1 + (noise >> 48)
        value = _last
    rand_a, rand_b = value >> 62 & 0xFFF, value & (1 << 62) - 1
    digits = f"{value >> _RANDOM_BITS << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
