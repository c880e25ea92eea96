"""The WebSocket protocol as an AsyncAPI 3 document: every operation of both sides, every error and close code.

Owns the table of operations; tests compare it with what the wire's decoders read and with every example of
sdk/PROTOCOL.md, which says what the words mean. The point of view is the gateway's: it receives and sends. Pure.
"""

from __future__ import annotations

from typing import Any, Final

from pushwire.wire import decode
from pushwire.wire.codes import CLOSES, ERRORS
from pushwire.wire.frames import STATS_TOPIC, SUBPROTOCOL

from .handshake import PATH
from .session import SERVER
from .spec_schemas import (
    DELIVERY,
    DRAFT_FIELDS,
    DRAFTS,
    ERROR_TEXT,
    FLAG,
    LEASE,
    LEASES,
    NAME,
    PLACE,
    RECEIPT,
    SCHEMAS,
    SETTLE_DELAY_MS,
    TAIL_MESSAGE,
    TEXT,
    Schema,
    integer,
    listed,
    one_of,
    record,
    text,
    with_body,
)

REF: Final[Schema] = {"oneOf": [integer(), NAME], "description": "echoed by the reply"}
OPAQUE: Final[Schema] = text(decode.SESSION_CHARS_MAX, 1)
PREFETCH: Final[Schema] = integer(0, decode.PREFETCH_MAX)


def _op(name: str, fields: dict[str, Schema], *optional: str, ref: bool = True) -> Schema:
    """One operation. Fields that are not listed are ignored."""
    whole = {"op": {"const": name}, **({"ref": REF} if ref else {}), **fields}
    return record(whole, optional=(*optional, *(("ref",) if ref else ())))


def _settlement(name: str, **more: Schema) -> Schema:
    """`leases`, or a single one as `lease`."""
    schema = _op(name, {"lease": LEASE, "leases": LEASES, **more}, "lease", "leases", *more)
    return {**schema, "oneOf": [{"required": ["lease"]}, {"required": ["leases"]}]}


def _publish() -> Schema:
    """One message spread in the operation itself, or `messages`."""
    one = with_body(_op("publish", {"topic": NAME, **DRAFT_FIELDS}, *DRAFT_FIELDS))
    many = {**DRAFTS, "items": SCHEMAS["Draft"]}
    choices = [*one.pop("oneOf"), {"required": ["messages"]}]
    return {**one, "properties": {**one["properties"], "messages": many}, "oneOf": choices}


def _ack() -> Schema:
    schema = _settlement("ack", ack_through=LEASE)
    return {**schema, "oneOf": [*schema["oneOf"], {"required": ["ack_through"]}]}


_SUBSCRIBE: Final[dict[str, Schema]] = {
    "group": NAME,
    "sub": NAME,
    "prefetch": PREFETCH,
    "ack_timeout_ms": integer(decode.ACK_TIMEOUT_MS_MIN, decode.ACK_TIMEOUT_MS_MAX),
    "start": PLACE,
    "private": FLAG,
    "client_id": NAME,
    "inactive_ttl_ms": integer(decode.INACTIVE_TTL_MS_MIN, decode.INACTIVE_TTL_MS_MAX),
}
_TAIL: Final[dict[str, Schema]] = {
    "sub": NAME,
    "from": PLACE,
    "epoch": text(decode.EPOCH_CHARS_MAX, 1),
    "after_seq": integer(),
}
_OK: Final[dict[str, Schema]] = {
    "receipts": listed(RECEIPT, 1),
    "sub": NAME,
    "prefetch": PREFETCH,
    "ack_timeout_ms": integer(),
    "expires_in_ms": integer(),
    "epoch": TEXT,
    "seq": integer(),
    "session": TEXT,
    "resumed": FLAG,
    "subs": {"type": "object", "propertyNames": NAME, "additionalProperties": listed(LEASE)},
}

RECEIVED: Final[dict[str, Schema]] = {
    "auth": _op(
        "auth",
        {
            "token": text(decode.TOKEN_CHARS_MAX, 1),
            "session": OPAQUE,
            "resume_grace_ms": integer(0, decode.RESUME_GRACE_MS_MAX),
        },
        "session",
        "resume_grace_ms",
    ),
    "subscribe": {
        **_op("subscribe", {"topic": NAME, **_SUBSCRIBE, "tail": {"const": False}}, *_SUBSCRIBE, "tail"),
        "dependentRequired": {"client_id": ["private"]},
    },
    "subscribe_tail": {
        **_op("subscribe", {"topic": {"anyOf": [NAME, one_of(STATS_TOPIC)]}, "tail": {"const": True}, **_TAIL}, *_TAIL),
        "dependentRequired": {"epoch": ["after_seq"], "after_seq": ["epoch"]},
    },
    "unsubscribe": _op("unsubscribe", {"sub": NAME}),
    "publish": _publish(),
    "ack": _ack(),
    "nack": _settlement("nack", delay_ms=SETTLE_DELAY_MS, error=ERROR_TEXT),
    "reject": _settlement("reject", error=ERROR_TEXT),
    "release": _settlement("release"),
    "extend": _settlement("extend"),
    "flow": _op("flow", {"sub": NAME, "prefetch": PREFETCH}),
    "ping": _op("ping", {}),
    "pong": _op("pong", {}),
}
"""What a client says; names that end in `_tail` are forms of the operation before that ending."""

SENT: Final[dict[str, Schema]] = {
    "welcome": _op(
        "welcome",
        {
            "session": TEXT,
            "server": TEXT,
            "epoch": TEXT,
            "heartbeat_ms": integer(),
            "pong_timeout_ms": integer(),
            "expires_in_ms": integer(),
            "limits": {"type": "object", "additionalProperties": integer()},
        },
        ref=False,
    ),
    "ok": _op("ok", _OK, *_OK),
    "messages": _op("messages", {"sub": NAME, "messages": listed(DELIVERY, 1)}, ref=False),
    "messages_tail": _op("messages", {"sub": NAME, "messages": listed(TAIL_MESSAGE, 1)}, ref=False),
    "error": _op(
        "error",
        {
            "code": one_of(*ERRORS),
            "message": TEXT,
            "retryable": FLAG,
            "retry_after_ms": integer(),
            "sub": NAME,
            "leases": listed(LEASE),
        },
        "retry_after_ms",
        "sub",
        "leases",
    ),
    "gap": _op("gap", {"sub": NAME, "from": integer(1), "to": integer(1)}, ref=False),
    "goodbye": _op(
        "goodbye",
        {
            "code": {"type": "integer", "enum": list(CLOSES)},
            "reason": TEXT,
            "reconnect": FLAG,
            "retry_after_ms": integer(),
        },
        "retry_after_ms",
        ref=False,
    ),
    "ping": _op("ping", {}),
    "pong": _op("pong", {}),
}
"""What the gateway says."""


def document() -> dict[str, Any]:
    """The whole document."""
    messages: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for side, action, table in (("client", "receive", RECEIVED), ("gateway", "send", SENT)):
        for name, schema in table.items():
            key = f"{side}_{name}"
            messages[key] = {"name": name.removesuffix("_tail"), "title": f"{name}, by the {side}", "payload": schema}
            operations[key] = {
                "action": action,
                "channel": {"$ref": "#/channels/socket"},
                "messages": [{"$ref": f"#/channels/socket/messages/{key}"}],
            }
    errors = {code: error._asdict() for code, error in ERRORS.items()}
    closes = {str(code): close._asdict() for code, close in CLOSES.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "pushwire", "version": SERVER.partition("/")[2], "license": {"name": "Apache-2.0"}},
        "defaultContentType": "application/json",
        "channels": {
            "socket": {
                "address": PATH.decode(),
                "description": f"WebSocket, subprotocol {SUBPROTOCOL}; one operation a line, several lines a message.",
                "messages": {key: {"$ref": f"#/components/messages/{key}"} for key in messages},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": operations,
        "components": {"messages": messages},
        "x-error-codes": errors,
        "x-close-codes": closes,
    }
