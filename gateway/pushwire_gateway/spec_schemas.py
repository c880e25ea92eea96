"""The objects of the HTTP API and of the socket as JSON Schema (2020-12), for openapi.py and asyncapi.py.

Owns their fields. Bounds are taken from the modules that hold to them, and tests compare the rest with what the code
really takes and gives. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pushwire.wire import decode
from pushwire.wire.codec import INTEGER_MAX
from pushwire.wire.codes import ERRORS
from pushwire.wire.frames import LEASES_PER_OP_MAX, MESSAGES_PER_OP_MAX

from .sysstats import TALLY_FIELDS
from .topic_config import AGE_MS_MAX, WEIGHT_MAX

Schema = dict[str, Any]

NAME: Final[Schema] = {"type": "string", "pattern": r"^(?!\.\.?$)[A-Za-z0-9_.:\-]{1,255}$"}
TEXT: Final[Schema] = {"type": "string"}
FLAG: Final[Schema] = {"type": "boolean"}
ANY: Final[Schema] = {}
REASONS: Final = ("failures", "deliveries", "rejected", "expired", "corrupt")
BODIES: Final = ("data", "data_text", "data_b64")


def integer(low: int = 0, high: int = INTEGER_MAX) -> Schema:
    """An integer within bounds, both inclusive."""
    return {"type": "integer", "minimum": low, "maximum": high}


def text(most: int, least: int = 0) -> Schema:
    """A string of so many characters."""
    return {"type": "string", "minLength": least, "maxLength": most}


def one_of(*values: str) -> Schema:
    """One of these strings."""
    return {"type": "string", "enum": list(values)}


def nullable(schema: Schema) -> Schema:
    """The same, or null."""
    return {**schema, "type": [schema["type"], "null"]}


def listed(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    """A list."""
    return {"type": "array", "items": items, "minItems": least, **({} if most is None else {"maxItems": most})}


def record(fields: Mapping[str, Schema], *, optional: tuple[str, ...] = (), closed: bool = False) -> Schema:
    """An object. `closed`: other fields are refused; else they are ignored, and may be added one day."""
    schema: Schema = {"type": "object", "properties": dict(fields)}
    required = [name for name in fields if name not in optional]
    if required:
        schema["required"] = required
    if closed:
        schema["additionalProperties"] = False
    return schema


def ref(name: str) -> Schema:
    """One of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def with_body(schema: Schema) -> Schema:
    """The object with exactly one of the three fields that carry a message's body."""
    bodies = {"data": ANY, "data_text": TEXT, "data_b64": BASE64}
    choice = [{"required": [body]} for body in BODIES]
    return {**schema, "properties": {**schema["properties"], **bodies}, "oneOf": choice}


BASE64: Final[Schema] = {
    "type": "string",
    "contentEncoding": "base64",
    "pattern": "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
}
HEADERS: Final[Schema] = {
    "type": "object",
    "maxProperties": decode.HEADERS_MAX,
    "propertyNames": NAME,
    "additionalProperties": TEXT,
    "description": f"at most {decode.HEADERS_BYTES_MAX} bytes as JSON",
}
KEY: Final[Schema] = {**text(decode.KEY_BYTES_MAX, 1), "description": "bounds are bytes of UTF-8"}
CONTENT_TYPE: Final[Schema] = {"type": "string", "pattern": r"^[\x20-\x7e]{1,127}$"}
ID: Final[Schema] = {"type": "string", "pattern": r"^[A-Za-z0-9_.:\-]{1,128}$"}
PRIORITY: Final[Schema] = integer(0, 3)
LEASE: Final[Schema] = {"type": "string", "pattern": f"^[\\x00-\\x7f]{{1,{decode.LEASE_CHARS_MAX}}}$"}
LEASES: Final[Schema] = listed(LEASE, 1, LEASES_PER_OP_MAX)
PLACE: Final[Schema] = {
    "oneOf": [
        one_of("earliest", "new"),
        record({"seq": integer(1)}, closed=True),
        record({"time_ms": integer(1)}, closed=True),
    ],
    "description": "where to begin",
}
SETTLE_DELAY_MS: Final[Schema] = integer(0, decode.DELAY_MS_MAX)
ERROR_TEXT: Final[Schema] = text(decode.ERROR_TEXT_MAX)

DRAFT_FIELDS: Final[dict[str, Schema]] = {
    "id": ID,
    "priority": PRIORITY,
    "key": KEY,
    "headers": HEADERS,
    "content_type": CONTENT_TYPE,
    "delay_ms": integer(0, decode.SCHEDULE_MS_MAX),
    "deliver_at_ms": integer(),
    "ttl_ms": integer(1, decode.SCHEDULE_MS_MAX),
}
SHOWN_FIELDS: Final[dict[str, Schema]] = {
    "topic": TEXT,
    "seq": integer(1),
    "id": ID,
    "priority": PRIORITY,
    "published_at_ms": integer(),
    "key": KEY,
    "headers": HEADERS,
    "content_type": CONTENT_TYPE,
    "redriven": FLAG,
}
LEASED_FIELDS: Final[dict[str, Schema]] = {
    "lease": LEASE,
    "attempt": integer(1),
    "redelivered": FLAG,
    "expires_in_ms": integer(),
}
SOMETIMES: Final = ("key", "headers", "content_type", "redriven")

DRAFT: Final = with_body(record(DRAFT_FIELDS, optional=tuple(DRAFT_FIELDS)))
DRAFTS: Final = listed(ref("Draft"), 1, MESSAGES_PER_OP_MAX)
DELIVERY: Final = with_body(record({**SHOWN_FIELDS, **LEASED_FIELDS}, optional=SOMETIMES))
TAIL_MESSAGE: Final = with_body(record({**SHOWN_FIELDS, "due_ms": integer()}, optional=(*SOMETIMES, "due_ms")))
RECEIPT: Final = record({"id": ID, "seq": integer(1), "duplicate": FLAG})

CONFIG_FIELDS: Final[dict[str, Schema]] = {
    "ack_timeout_ms": nullable(integer(decode.ACK_TIMEOUT_MS_MIN, decode.ACK_TIMEOUT_MS_MAX)),
    "max_failures": nullable(integer(1, 1000)),
    "max_deliveries": nullable(integer(1, 10_000)),
    "weights": {**listed(integer(1, WEIGHT_MAX), 4, 4), "description": "of priority 0 to 3"},
    "strict": FLAG,
    "retain_ms": integer(0, AGE_MS_MAX),
    "max_age_ms": integer(0, AGE_MS_MAX),
    "retain_bytes": nullable(integer(1, 1024**4)),
    "quota_messages": nullable(integer(1, 1_000_000_000)),
    "quota_bytes": nullable(integer(64 * 1024, 1024**4)),
    "expired": one_of("dead", "drop"),
    "ledger": one_of("off", "settled", "full"),
    "dedupe": FLAG,
}
_TOPIC_INFO: Final[dict[str, Schema]] = {
    "name": NAME,
    "last_seq": integer(),
    "messages": integer(),
    "bytes": integer(),
    "scheduled": integer(),
    "dead_letters": integer(),
    "group_count": integer(),
    "member_count": integer(),
    "in_flight": integer(),
    "config": ref("TopicConfig"),
}
_GROUP_INFO: Final[dict[str, Schema]] = {
    "name": NAME,
    "topic": NAME,
    "start_seq": integer(),
    "paused": FLAG,
    "owner": nullable(TEXT),
    "inactive_ttl_ms": integer(0, decode.INACTIVE_TTL_MS_MAX),
    "member_count": integer(),
    "in_flight": integer(),
    "ready": integer(),
}
_MEMBER: Final = record(
    {
        "sub": NAME,
        "subject": TEXT,
        "connection": nullable(TEXT),
        "prefetch": integer(0, decode.PREFETCH_MAX),
        "in_flight": integer(),
        "ack_timeout_ms": integer(),
        "timeouts_in_a_row": integer(),
        "away": FLAG,
    }
)
_MESSAGE_INFO: Final = record(
    {
        **{name: SHOWN_FIELDS[name] for name in SHOWN_FIELDS if name != "topic"},
        "size_bytes": integer(),
        "due_ms": integer(),
        "expires_ms": integer(),
    },
    optional=(*SOMETIMES, "due_ms", "expires_ms"),
)
_DEAD_INFO: Final[dict[str, Schema]] = {
    "id": integer(1),
    "topic": NAME,
    "group": NAME,
    "reason": one_of(*REASONS),
    "error": nullable(TEXT),
    "deliveries": integer(),
    "failures": integer(),
    "at_ms": integer(),
    "message": ref("MessageInfo"),
}
_ATTEMPT: Final = record({"at_ms": integer(), "how": TEXT, "subject": TEXT, "error": nullable(TEXT)})
_EVENT: Final = record(
    {"at_ms": integer(), "event": TEXT, "group": NAME, "subject": TEXT, "attempt": integer(), "detail": nullable(TEXT)}
)
_CONNECTION: Final = record(
    {
        "id": TEXT,
        "subject": TEXT,
        "ip": TEXT,
        "opened_at_ms": integer(),
        "expires_in_ms": integer(),
        "subscriptions": listed(
            record({"sub": NAME, "topic": NAME, "group": NAME, "prefetch": integer(), "in_flight": integer()})
        ),
        "tails": integer(),
        "refused": integer(),
        "in_flight": integer(),
        "in_flight_bytes": integer(),
        "unsent_bytes": integer(),
        "resume_grace_ms": integer(),
    }
)
_STAT_NAMES: Final = (
    *("at_ms", "topics", "groups", "messages", "bytes", "scheduled", "dead_letters"),
    *("connections", "sessions", "sessions_away", "subscriptions", "tails", "in_flight", "ready"),
    *TALLY_FIELDS,
)
_TOPIC_STATS: Final = record(
    {name: integer() for name in ("last_seq", "messages", "bytes", "scheduled", "dead_letters", "groups")}
)
_DEAD_FILTER: Final[dict[str, Schema]] = {
    "group": NAME,
    "reason": one_of(*REASONS),
    "key": KEY,
    "after_id": integer(),
}
_WANTED_IDS: Final = record({"ids": listed(integer(1), 1, 1000), "before_ms": integer()}, optional=("before_ms",))
_WANTED_MATCH: Final = record(
    {"match": record(_DEAD_FILTER, optional=tuple(_DEAD_FILTER), closed=True), "before_ms": integer()},
    optional=("before_ms",),
)
_PROBLEM: Final = record(
    {
        "type": {"type": "string", "pattern": "^urn:pushwire:error:"},
        "title": TEXT,
        "status": integer(400, 599),
        "code": one_of(*ERRORS),
        "retryable": FLAG,
        "detail": TEXT,
        "retry_after_ms": integer(),
    },
    optional=("detail", "retry_after_ms"),
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Place": PLACE,
    "Draft": DRAFT,
    "Receipt": RECEIPT,
    "Delivery": DELIVERY,
    "TailMessage": TAIL_MESSAGE,
    "TopicConfig": record(CONFIG_FIELDS, closed=True),
    "TopicConfigPart": record(CONFIG_FIELDS, optional=tuple(CONFIG_FIELDS), closed=True),
    "TopicInfo": record(_TOPIC_INFO),
    "TopicDetail": record({**_TOPIC_INFO, "groups": listed(ref("GroupInfo"))}),
    "GroupInfo": record(_GROUP_INFO),
    "GroupDetail": record({**_GROUP_INFO, "members": listed(_MEMBER)}),
    "MessageInfo": _MESSAGE_INFO,
    "MessageDetail": with_body(_MESSAGE_INFO),
    "Peek": record(
        {
            "messages": listed(ref("MessageDetail")),
            "gaps": listed(record({"from": integer(1), "to": integer(1)})),
            "through": integer(),
        }
    ),
    "History": record({"seq": integer(1), "ledger": one_of("off", "settled", "full"), "events": listed(_EVENT)}),
    "DeadLetterInfo": record(_DEAD_INFO),
    "DeadLetterDetail": record({**_DEAD_INFO, "message": ref("MessageDetail"), "attempts": listed(_ATTEMPT)}),
    "Wanted": {
        "oneOf": [
            {**_WANTED_IDS, "not": {"required": ["match"]}},
            {**_WANTED_MATCH, "not": {"required": ["ids"]}},
        ]
    },
    "ConnectionInfo": _CONNECTION,
    "RevocationInfo": record(
        {"jti": TEXT, "subject": TEXT, "issued_before_s": integer(), "expires_at_ms": integer()},
        optional=("jti", "subject", "issued_before_s"),
    ),
    "Stats": record(
        {
            **{name: integer() for name in _STAT_NAMES},
            "push_ms": listed({"type": "array", "prefixItems": [nullable(integer()), integer()], "minItems": 2}),
            "by_topic": {"type": "object", "additionalProperties": _TOPIC_STATS},
        }
    ),
    "Problem": _PROBLEM,
}
