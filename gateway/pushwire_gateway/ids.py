"""Message ids made by the gateway for producers that send none."""

from __future__ import annotations

import os


def uuid7(now_ms: int) -> str:
    """A time-ordered UUID (RFC 9562 §5.7): 48 bits of milliseconds, 74 random bits. Time order keeps the table of
    remembered ids append-only."""
    value = now_ms << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
