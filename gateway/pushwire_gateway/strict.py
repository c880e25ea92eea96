"""Base64url and JSON, read only as an encoder would have written them.

Owns the two readers that tokens and key sets share: what two programs could read differently is refused, so that
nobody can be shown one value and us another. Pure; must not know what the bytes mean.
"""

from __future__ import annotations

import base64
import json
from typing import NoReturn


def base64url(part: str) -> bytes:
    """The bytes of a base64url text without padding. Raises ValueError unless it is spelled as an encoder would."""
    raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != part.encode("ascii"):
        raise ValueError("not canonical base64url")
    return raw


def json_object(raw: bytes) -> dict[str, object]:
    """A JSON object in UTF-8. Raises ValueError for other JSON, for a name that stands twice, NaN and Infinity, and
    RecursionError for one that is nested too deeply."""
    value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique_names, parse_constant=_no_constant)
    if type(value) is not dict:
        raise ValueError("not a JSON object")
    return value


def _unique_names(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """RFC 7519 §4: names must be unique. Two readers of one token must never see two different values."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
