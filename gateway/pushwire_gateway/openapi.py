"""The HTTP API as an OpenAPI 3.1 document: every route, who may use it, what it takes and what it answers.

Owns the table of routes; tests compare it with the routes that the gateway serves, and real answers with its schemas.
Limits are those of the settings in force. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pushwire.wire import decode
from pushwire.wire.codes import ERRORS
from pushwire.wire.frames import LEASES_PER_OP_MAX

from .admin_base import PAGE_MAX
from .admin_topics import PEEK_MAX
from .problems import MEDIA_TYPE
from .session import SERVER
from .settings import Settings
from .spec_schemas import (
    ERROR_TEXT,
    FLAG,
    ID,
    KEY,
    LEASES,
    NAME,
    REASONS,
    SCHEMAS,
    SETTLE_DELAY_MS,
    TEXT,
    Schema,
    integer,
    listed,
    one_of,
    record,
    ref,
    text,
)

ANY_ROUTE: Final = (
    "unauthorized", "forbidden", "bad_request", "method_not_allowed", "unsupported_media_type", "message_too_large",
    "busy", "unavailable", "going_away", "internal",
)  # fmt: skip
"""What every route may be refused with."""
NO_ROOM: Final = "insufficient_storage"
"""What every administrator's change may be refused with too, and whatever makes topics and groups that are missing."""
OF_TOPIC: Final = ("bad_topic", "topic_not_found")
OF_GROUP: Final = (*OF_TOPIC, "bad_group", "group_not_found")
WAIT_S_MAX: Final = 30
TAIL_FROM: Final = "^(earliest|new|(seq|time_ms):[1-9][0-9]*)$"
NEW_ONLY: Final[Schema] = {"type": "string", "description": "`*`: only make it; anything else says nothing here"}
DECIMALS: Final = "seconds, with at most three decimals"
JSON: Final = "application/json"
SSE: Final = "text/event-stream"
PLAIN: Final = "text/plain"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    right: str
    """What the token needs; empty: no token at all."""
    answers: Mapping[int, Schema | str | None]
    """Status -> the JSON answered, or its media type, or nothing."""
    refusals: tuple[str, ...] = ()
    body: Schema | None = None
    body_required: bool = True
    query: Mapping[str, Schema] = field(default_factory=dict)
    headers: Mapping[str, Schema] = field(default_factory=dict)
    headers_required: bool = False
    gives_headers: Mapping[str, Schema] = field(default_factory=dict)
    ticket: bool = False

    @property
    def stores(self) -> bool:
        """Whether it writes to the store, beside what it names itself."""
        return self.method != "GET" and self.path.startswith("/v1/admin/") and "/connections" not in self.path


def document(settings: Settings) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations(settings):
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pushwire",
            "version": SERVER.partition("/")[2],
            "summary": "A durable message queue that speaks WebSocket",
            "description": "Integers are written without fraction or exponent: 5, not 5.0.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def operations(settings: Settings) -> list[Operation]:
    """Every operation, in the order of docs/http.md."""
    return [*_messages(settings), *_leases(), *_topics(), *_groups(), *_dead(), *_live(), *_open()]


def _messages(settings: Settings) -> list[Operation]:
    topic, group = "/v1/topics/{topic}", "/v1/topics/{topic}/groups/{group}"
    session = {"Pushwire-Session": text(decode.SESSION_CHARS_MAX, 1)}
    drafts = record({"messages": listed(ref("Draft"), 1, settings.http_batch_max)})
    quotas = ("topic_full", NO_ROOM, "rate_limited", "rate_limited_bytes")
    stored = (*OF_TOPIC, "too_many_topics", "batch_too_large", "id_conflict", *quotas)
    mark = {"type": "string", "pattern": f"^[!-9;-~]{{1,{decode.EPOCH_CHARS_MAX}}}:(0|[1-9][0-9]*)$"}
    pulled = (
        *OF_GROUP, "too_many_topics", "too_many_groups", "too_many_subscriptions", "rate_limited",
        "too_many_connections", "consumer_unhealthy", "conflict", NO_ROOM,
    )  # fmt: skip
    ack_timeout_s = {"type": "number", "minimum": decode.ACK_TIMEOUT_MS_MIN / 1000, "description": DECIMALS}
    ack_timeout_s["maximum"] = decode.ACK_TIMEOUT_MS_MAX / 1000  # the gateway's own is granted at most
    return [
        Operation(
            "POST", f"{topic}/messages", "Publish one message or a batch, all or none", "publish",
            {200: record({"receipts": listed(ref("Receipt"), 1)})}, stored, {"oneOf": [ref("Draft"), drafts]},
        ),
        Operation(
            "GET", f"{group}/messages", "Take messages, waiting for some if there are none", "consume",
            {200: record({"messages": listed(ref("Delivery"))})}, pulled,
            query={
                "wait": {"type": "number", "minimum": 0, "maximum": WAIT_S_MAX, "default": 0, "description": DECIMALS},
                "max": {**integer(1, settings.prefetch_max), "default": 32},
                "ack_timeout": ack_timeout_s,
            },
            headers=session, gives_headers=session,
        ),
        Operation(
            "GET", f"{topic}/tail", "Follow a topic as server-sent events", "replay", {200: SSE},
            (*OF_TOPIC, "too_many_topics", "epoch_changed", "rate_limited", "too_many_connections", NO_ROOM),
            query={"from": {"type": "string", "pattern": TAIL_FROM, "default": "new"}, "last_event_id": mark},
            headers={"Last-Event-ID": mark}, ticket=True,
        ),
        Operation(
            "POST", "/v1/tickets", "A credential for a URL: one use, a short life", "any token",
            {201: record({"ticket": TEXT, "expires_in_ms": integer()})}, ("rate_limited",),
        ),
        _history(f"{topic}/messages/{{seq}}/history", ""),
    ]  # fmt: skip


def _history(path: str, more: str) -> Operation:
    summary = f"Who was given a message when, and how it ended{more}"
    return Operation("GET", path, summary, "admin or replay", {200: ref("History")}, (*OF_TOPIC, "rate_limited"))


def _leases() -> list[Operation]:
    session = {"Pushwire-Session": text(decode.SESSION_CHARS_MAX, 1)}
    settled = {"settled": integer(0, LEASES_PER_OP_MAX), "stale": listed(TEXT)}
    table: list[tuple[str, str, dict[str, Schema], dict[str, Schema]]] = [
        ("ack", "Done: never deliver these again", {}, {}),
        ("nack", "Failed: deliver these again later", {"delay_ms": SETTLE_DELAY_MS, "error": ERROR_TEXT}, {}),
        ("reject", "Can never succeed: to the dead letters", {"error": ERROR_TEXT}, {}),
        ("release", "Given back unworked", {}, {}),
        ("extend", "Hold these for one more ack timeout", {}, {"expires_in_ms": integer()}),
    ]
    return [
        Operation(
            "POST", f"/v1/leases/{name}", summary, "a session", {200: record({**settled, **gives})},
            ("batch_too_large",), record({"leases": LEASES, **takes}, optional=tuple(takes)), headers=session,
            headers_required=True,
        )
        for name, summary, takes, gives in table
    ]  # fmt: skip


def _topics() -> list[Operation]:
    topics, topic = "/v1/admin/topics", "/v1/admin/topics/{topic}"
    new_only = {"If-None-Match": NEW_ONLY}
    page = {"after": TEXT, "limit": integer(1, PAGE_MAX)}
    config = ref("TopicConfigPart")
    made = ("bad_topic", "bad_config", "conflict", "too_many_topics")
    purge = record({"through_seq": integer()}, optional=("through_seq",))
    return [
        Operation("GET", topics, "Topics by name, as far as the right goes", "admin",
                  {200: record({"topics": listed(ref("TopicInfo")), "more": FLAG})}, query=page),
        Operation("GET", topic, "One topic with its groups", "admin", {200: ref("TopicDetail")}, OF_TOPIC),
        Operation("PUT", topic, "Make a topic so, or give it this configuration", "create; admin",
                  {201: ref("TopicInfo"), 200: ref("TopicInfo")}, (*made, "topic_not_found"), config, False,
                  headers=new_only),
        Operation("PATCH", topic, "Set some fields of its configuration", "admin", {200: ref("TopicInfo")},
                  (*OF_TOPIC, "bad_config"), config, False),
        Operation("DELETE", topic, "Remove it with everything in it", "admin", {204: None}, OF_TOPIC),
        Operation("POST", f"{topic}/purge", "Remove its messages, for all groups", "admin",
                  {200: record({"removed": integer()})}, OF_TOPIC, purge, False),
        Operation("GET", f"{topic}/messages", "Look at what is kept; never leases", "admin",
                  {200: ref("Peek")}, OF_TOPIC,
                  query={"after_seq": {**integer(), "default": 0}, "limit": integer(1, PEEK_MAX)}),
        _history(f"{topic}/messages/{{seq}}/history", ", for administrators"),
    ]  # fmt: skip


def _groups() -> list[Operation]:
    groups = "/v1/admin/topics/{topic}/groups"
    group = groups + "/{group}"
    ttl_ms = integer(decode.INACTIVE_TTL_MS_MIN, decode.INACTIVE_TTL_MS_MAX)
    begin = record({"start": ref("Place"), "inactive_ttl_ms": ttl_ms}, optional=("start", "inactive_ttl_ms"))
    info = {200: ref("GroupInfo")}
    return [
        Operation("GET", groups, "The groups of a topic, by name", "admin",
                  {200: record({"groups": listed(ref("GroupInfo"))})}, OF_TOPIC),
        Operation("GET", group, "One group with its members", "admin", {200: ref("GroupDetail")}, OF_GROUP),
        Operation("PUT", group, "Make a group", "create on the group", {201: ref("GroupInfo"), **info},
                  (*OF_GROUP, "conflict", "too_many_groups"), begin, False,
                  headers={"If-None-Match": NEW_ONLY}),
        Operation("DELETE", group, "Remove a group", "admin", {204: None}, OF_GROUP),
        Operation("POST", f"{group}/pause", "Hand nothing out any more", "admin", info, OF_GROUP),
        Operation("POST", f"{group}/resume", "Hand out again", "admin", info, OF_GROUP),
        Operation("POST", f"{group}/seek", "Owe it what is kept from a place on", "admin", info, OF_GROUP,
                  record({"start": ref("Place")})),
    ]  # fmt: skip


def _dead() -> list[Operation]:
    dead = "/v1/admin/topics/{topic}/dead"
    rest = {"more": FLAG, "after_id": integer(), "before_ms": integer()}
    redriven = record({"redriven": integer(), **rest, "stopped": one_of(*ERRORS)}, optional=("stopped",))
    match = {
        "group": NAME,
        "reason": one_of(*REASONS),
        "key": KEY,
        "after_id": integer(),
        "limit": integer(1, PAGE_MAX),
    }
    return [
        Operation("GET", dead, "Dead letters, oldest first", "admin",
                  {200: record({"dead_letters": listed(ref("DeadLetterInfo")), "more": FLAG})},
                  (*OF_TOPIC, "bad_group"), query=match),
        Operation("GET", f"{dead}/{{id}}", "One dead letter, with its body and history", "admin",
                  {200: ref("DeadLetterDetail")}, (*OF_TOPIC, "not_found")),
        Operation("POST", f"{dead}/redrive", "Put dead letters back into their groups", "admin", {200: redriven},
                  (*OF_TOPIC, "bad_group", "batch_too_large", "conflict", "topic_full"),
                  ref("Wanted")),
        Operation("POST", f"{dead}/discard", "Remove dead letters for good", "admin",
                  {200: record({"discarded": integer(), **rest})},
                  (*OF_TOPIC, "bad_group", "batch_too_large"), ref("Wanted")),
    ]  # fmt: skip


def _live() -> list[Operation]:
    tenant, connections = "admin on the whole tenant", "/v1/admin/connections"
    default = f"{tenant} `default`"
    page = {"after": TEXT, "limit": integer(1, PAGE_MAX)}
    one = record({"jti": TEXT})
    all_of = record({"subject": TEXT, "issued_before_s": integer()}, optional=("issued_before_s",))
    copied = record({"path": TEXT, "bytes": integer()})
    return [
        Operation("GET", connections, "Open WebSockets, by id", tenant,
                  {200: record({"connections": listed(ref("ConnectionInfo")), "more": FLAG})}, query=page),
        Operation("DELETE", f"{connections}/{{id}}", "End a connection for good", tenant, {204: None}, ("not_found",)),
        Operation("GET", "/v1/admin/stats", "The numbers that $sys.stats shows", tenant, {200: ref("Stats")}),
        Operation("GET", "/v1/admin/revocations", "What is revoked, oldest first", tenant,
                  {200: record({"revocations": listed(ref("RevocationInfo"))})}),
        Operation("POST", "/v1/admin/revocations", "Accept a token, or those of a subject, no longer", tenant,
                  {201: ref("RevocationInfo")}, (), {"oneOf": [one, all_of]}),
        Operation("POST", "/v1/admin/backup", "Copy the database to a new file of its folder", default,
                  {201: copied}, ("unsupported", "conflict"), record({"path": NAME})),
        Operation("GET", "/metrics", "Numbers of the whole gateway for Prometheus", default, {200: PLAIN}),
    ]  # fmt: skip


def _open() -> list[Operation]:
    status = record({"status": TEXT})
    return [
        Operation("GET", "/livez", "Whether the gateway runs", "", {200: status}),
        Operation("GET", "/readyz", "Whether to send work here", "", {200: status, 503: status}),
        Operation("GET", "/v1/openapi.json", "This document", "", {200: {"type": "object"}}),
        Operation("GET", "/v1/asyncapi.json", "The WebSocket protocol as AsyncAPI 3", "", {200: {"type": "object"}}),
    ]


# --- from the table to the document --------------------------------------------------------------------------------


_PATH: Final[dict[str, Schema]] = {"topic": NAME, "group": NAME, "seq": integer(1), "id": ID}


def _operation(operation: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path}").strip("_"),
        "summary": operation.summary,
        "responses": _responses(operation),
    }
    parameters = list(_parameters(operation))
    if parameters:
        made["parameters"] = parameters
    if operation.body is not None:
        content = {JSON: {"schema": operation.body}}
        made["requestBody"] = {"required": operation.body_required, "content": content}
    if not operation.right:
        made["security"] = []
    else:
        made["description"] = f"Right: {operation.right}."
        if operation.ticket:
            made["security"] = [{"token": []}, {"ticket": []}]
    return made


def _parameters(operation: Operation) -> Iterable[dict[str, Any]]:
    for name in re.findall(r"\{(\w+)\}", operation.path):
        # Dead letters are numbered; a connection's id is a name.
        schema = integer(1) if name == "id" and "/dead/" in operation.path else _PATH[name]
        yield {"in": "path", "name": name, "required": True, "schema": schema}
    places = (("query", operation.query, False), ("header", operation.headers, operation.headers_required))
    for place, fields, required in places:
        for name, schema in fields.items():
            yield {"in": place, "name": name, "required": required, "schema": schema}


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        response: dict[str, Any] = {"description": "done" if status < 400 else "not now"}
        if isinstance(answer, str):
            response["content"] = {answer: {"schema": TEXT}}
        elif answer is not None:
            response["content"] = {JSON: {"schema": answer}}
        if operation.gives_headers:
            response["headers"] = {name: {"schema": schema} for name, schema in operation.gives_headers.items()}
        responses[str(status)] = response
    for status, codes in _by_status(operation).items():
        responses.setdefault(str(status), {"description": ", ".join(f"`{code}`" for code in codes)})
        schema = {"allOf": [ref("Problem"), {"properties": {"code": {"enum": codes}}}]}
        responses[str(status)].setdefault("content", {})[MEDIA_TYPE] = {"schema": schema}
        if any(ERRORS[code].retryable for code in codes):
            responses[str(status)].setdefault("headers", {})["Retry-After"] = {"schema": integer()}
    return responses


def _by_status(operation: Operation) -> dict[int, list[str]]:
    """The codes that may come, by their status."""
    codes = [code for code in ANY_ROUTE if operation.right or code not in ("unauthorized", "forbidden")]
    if operation.stores:
        codes.append(NO_ROOM)
    if operation.method == "GET" and operation.path.startswith("/v1/admin/"):
        codes.append("rate_limited")
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys((*codes, *operation.refusals)):
        found.setdefault(ERRORS[code].http_status, []).append(code)
    if "If-None-Match" in operation.headers:
        found[412] = ["conflict"]
    return found
