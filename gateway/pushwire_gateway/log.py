"""How the gateway writes its log: one event a line, structured, never a payload or a token.

Owns the format (JSON, or coloured text on a terminal) and the redaction that stands behind every handler, so that even
a library's debug line cannot carry a token out. Log subject first, then fields.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from .settings import Settings

_JWT = re.compile(r"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
"""Three base64url parts: what a token looks like, also in the middle of a header or a URL."""
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
"""As `_JWT`, for tracebacks, where dotted names of modules must stay readable: a JWT begins with an encoded `{"`."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_QUIET = ("websockets", "aiosqlite", "uvicorn", "asyncio", "httptools")
"""Libraries whose DEBUG lines repeat what clients send (headers, tokens, SQL): never below INFO."""


def redact(text: str) -> str:
    """The text without anything that looks like a token, and without control characters (one event, one line)."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", _JWT.sub("[token]", text))


def _redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _TOKEN.sub("[token]", value) if name == "exception" else redact(value)
    return event


def configure(settings: Settings) -> None:
    """Send every log line of the process to stderr in the chosen format. Call once, before anything logs."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(root.level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
