"""Tells where the dashboard's built files lie; it serves nothing and builds nothing."""

from __future__ import annotations

from pathlib import Path

_STATIC = Path(__file__).resolve().parent / "static"


def static_dir() -> Path | None:
    """Return the folder of the built dashboard, or None when it has not been built."""
    return _STATIC if (_STATIC / "index.html").is_file() else None
