"""Writes codes.json: the tables of the wire as data that other languages read. Owns its form, and no table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from pushwire.wire import codes, decode, frames
from pushwire.wire.codec import INTEGER_MAX, pretty

CODES = Path(__file__).with_name("codes.json")


def tables() -> dict[str, Any]:
    """What codes.json holds."""
    return {
        "subprotocol": frames.SUBPROTOCOL,
        "errors": {
            code: {"retryable": entry.retryable, "stored": "no" if code in codes.DEFINITE_FAILURES else "maybe"}
            for code, entry in codes.ERRORS.items()
        },
        "closes": {str(code): {"reconnect": entry.reconnect} for code, entry in codes.CLOSES.items()},
        "limits": {
            "integer_max": INTEGER_MAX,
            "leases_per_op_max": frames.LEASES_PER_OP_MAX,
            "messages_per_op_max": frames.MESSAGES_PER_OP_MAX,
            "error_text_max": decode.ERROR_TEXT_MAX,
            "delay_ms_max": decode.DELAY_MS_MAX,
            "prefetch_max": decode.PREFETCH_MAX,
        },
    }


def main() -> int:
    CODES.write_text(pretty(tables()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
