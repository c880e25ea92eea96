"""Where tokens come from: a string, or a function of the user's.

Owns the call of that function and what counts as a token. Never shows or logs one.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable
from typing import Any

from .backoff import Reason
from .errors import Unauthorized

TokenSource = str | Callable[[Reason], str | Awaitable[str]] | None
"""A token, or a function that gives one, told why: "connect", "expiring" or "rejected" (do not give the same again).
It may be async, and may raise Unauthorized to stop the client for good; any other exception means: try again later."""

_TOKEN = re.compile(r"[\x21-\x7e]+")


async def fetch_token(source: TokenSource, reason: Reason) -> str | None:
    """Raises whatever the user's function raises, and Unauthorized for what is no token."""
    if source is None:
        return None
    token: Any = source
    if callable(token):
        token = token(reason)
        if inspect.isawaitable(token):
            token = await token
    if not (isinstance(token, str) and _TOKEN.fullmatch(token)):
        raise Unauthorized("the token is not a string of printable ASCII")
    return token
