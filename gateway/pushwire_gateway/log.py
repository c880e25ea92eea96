"""How the gateway writes its log: one event a line, structured, never a payload or a token.

Owns the format (JSON, or coloured text on a terminal) and the redaction that stands behind every handler, so that even
a library's debug line cannot carry a token out. Log subject first, then fields.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from .settings import Settings

_JWT = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)+")
"""Three base64url parts (or more, should something with a dot stand before it): what a token looks like, also in the
middle of a header or a URL. This and those below look at each character a bounded number of times."""
_TOKEN = re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
"""As `_JWT`, for tracebacks, where dotted names of modules must stay readable: a JWT begins with an encoded `{"`."""
_SECRET = re.compile(r"(?<![\w.-])[a-z0-9]{1,8}\.(?:[A-Za-z0-9_-]{43}|[A-Za-z0-9_-]{22})(?![\w-])")
"""A ticket, or a session's secret: the node's id, a dot, and 32 or 16 random bytes in base64url."""
_NAMES = r"(?:\w{1,32}[_-])?(?:ticket|token|secret|password|authorization|pushwire-session)"
_NAMED = re.compile(rf"(?i)(\b{_NAMES}['\"]?\s{{0,8}}[=:]\s{{0,8}}['\"]?(?:(?:Bearer|Basic)\s)?)(?!\[)[^\s&;,'\"<>}}]+")
"""What stands behind a name that is a credential's: in a URL's query, a header line, a setting."""
_FIELD = re.compile(rf"(?i){_NAMES}")
"""A field of an event that is called like a credential."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_QUIET = ("websockets", "aiosqlite", "uvicorn", "asyncio", "httptools")
"""Libraries whose DEBUG lines repeat what clients send (headers, tokens, SQL): never below INFO."""


def redact(text: str) -> str:
    """The text without anything that looks like a credential, and without control characters (one event, one line)."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found.group()):02x}", _without(_JWT, text))


def _without(tokens: re.Pattern[str], text: str) -> str:
    return _NAMED.sub(r"\1[secret]", _SECRET.sub("[secret]", tokens.sub("[token]", text)))


def _redacted(value: Any) -> Any:
    """The same of whatever an event carries, inside of it too. What JSON does not know becomes its text first, because
    the renderer would write that."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact(str(name)): _field(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    return redact(value if isinstance(value, str) else str(value))


def _redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name == "exception":
            event[name] = _without(_TOKEN, str(value))
        elif not name.startswith("_"):  # structlog's own, which the formatter takes out again
            event[name] = _field(name, value)
    return event


def _field(name: str, value: Any) -> Any:
    return "[secret]" if _FIELD.fullmatch(name) and value is not None else _redacted(value)


def configure(settings: Settings) -> None:
    """Send every log line of the process to stderr in the chosen format. Call once, before anything logs."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=False, timestamp_key="ts")
    )
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
