"""Messages of a fault run: made at random, recognised again in whatever shape they come back.

Owns the bodies and their fingerprints; sends nothing.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from faults.history import fingerprint

KEYS = [None, "k1", "k2", "k3", "k4", "k5"]
LARGE_BYTES = 16_000
LARGE_SHARE = 0.02
"""Now and then a body that fills pages and socket buffers."""
DELAY_SHARE, DELAY_MS = 0.1, (100, 1500)
"""Scheduled messages; the longest wait outlives a kill and the start after it."""
TTL_SHARE, TTL_MS = 0.1, (100, 600)
"""Messages that expire, most of them only when a gateway dies in their time."""


class Draft:
    """One message as it is published, with what the history says of it."""

    def __init__(self, mid: str, rng: random.Random) -> None:
        self.mid = mid
        self.key = rng.choice(KEYS)
        size = LARGE_BYTES if rng.random() < LARGE_SHARE else rng.randrange(10, 300)
        pad = "".join(rng.choices('abc \u00e9\u4e2d\n"\\', k=8)) * (size // 8)
        self.fields: dict[str, Any] = {"id": mid}
        if self.key is not None:
            self.fields["key"] = self.key
        if rng.random() < 0.2:
            self.fields["priority"] = rng.randrange(4)
        if rng.random() < 0.2:
            self.fields["headers"] = {"traceparent": f"00-{rng.getrandbits(128):032x}-{rng.getrandbits(64):016x}-01"}
        self.delay_ns = self.ttl_ns = 0
        if rng.random() < DELAY_SHARE:
            self.delay_ns = self._time("delay_ms", rng.randrange(*DELAY_MS))
        if rng.random() < TTL_SHARE:
            self.ttl_ns = self._time("ttl_ms", rng.randrange(*TTL_MS))
        kind = rng.random()
        if kind < 0.6:
            self.fields["data"] = {"id": mid, "pad": pad, "n": [rng.random(), rng.getrandbits(50), None, True]}
        elif kind < 0.8:
            self.fields["data_text"] = f"{mid} {pad}"
        else:
            self.fields["data_b64"] = base64.b64encode(f"{mid} ".encode() + rng.randbytes(size)).decode()
        self.sha = sha_of_row(self.fields)

    def _time(self, field: str, ms: int) -> int:
        self.fields[field] = ms
        return ms * 1_000_000

    @property
    def recorded(self) -> dict[str, Any]:
        """What the history says of it when it is published."""
        times = {"delay_ns": self.delay_ns, "ttl_ns": self.ttl_ns}
        return {"sha": self.sha, "key": self.key, **{name: time for name, time in times.items() if time}}


def sha_of_row(row: dict[str, Any]) -> str:
    """The fingerprint of a message's fields as they are on the wire."""
    if "data_text" in row:
        return fingerprint("text", row["data_text"].encode())
    if "data_b64" in row:
        return fingerprint("binary", base64.b64decode(row["data_b64"]))
    return fingerprint("json", json.dumps(row["data"]).encode())
