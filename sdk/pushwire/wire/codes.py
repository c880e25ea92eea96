"""The two tables of pushwire.v1: error replies (the connection lives on) and close codes (it does not).

Owns every code that client and gateway exchange, with its sentence and what the client should do next. Code that
raises, sends or interprets one looks it up here; nothing else may invent one.
"""

from __future__ import annotations

from typing import NamedTuple


class ErrorCode(NamedTuple):
    """One kind of refusal: what to tell a person, whether the same request may succeed later, its HTTP status."""

    message: str
    retryable: bool
    http_status: int


ERRORS: dict[str, ErrorCode] = {
    "bad_request": ErrorCode("the request is malformed", False, 400),
    "unknown_op": ErrorCode("this operation is not known", False, 400),
    "unsupported": ErrorCode("this gateway does not support that", False, 501),
    "bad_topic": ErrorCode("the topic name is not valid", False, 400),
    "bad_group": ErrorCode("the group name is not valid", False, 400),
    "unauthorized": ErrorCode("the token was not accepted", False, 401),
    "forbidden": ErrorCode("the token does not allow this", False, 403),
    "topic_not_found": ErrorCode("there is no such topic", False, 404),
    "group_not_found": ErrorCode("there is no such group", False, 404),
    "unknown_subscription": ErrorCode("this connection has no such subscription", False, 404),
    "already_subscribed": ErrorCode("this connection already has a subscription of that name", False, 409),
    "too_many_subscriptions": ErrorCode("the connection may hold no more subscriptions", False, 429),
    "too_many_topics": ErrorCode("the tenant may hold no more topics", False, 429),
    "too_many_groups": ErrorCode("the topic may hold no more groups", False, 429),
    "too_many_connections": ErrorCode("too many connections", True, 503),
    "message_too_large": ErrorCode("the message is larger than the limit", False, 413),
    "batch_too_large": ErrorCode("the batch is larger than the limit", False, 413),
    "epoch_changed": ErrorCode("the database was restored and has another epoch", False, 409),
    "consumer_unhealthy": ErrorCode("the consumer let lease after lease run out", False, 409),
    "bad_config": ErrorCode("the configuration is not valid", False, 400),
    "conflict": ErrorCode("this contradicts what is there", False, 409),
    "stale_lease": ErrorCode("the lease is not, or no longer, held by this session", False, 409),
    "id_conflict": ErrorCode("the id was used for a message with other content", False, 409),
    "topic_full": ErrorCode("the topic is at its quota", True, 507),
    "insufficient_storage": ErrorCode("the gateway is out of storage", True, 507),
    "rate_limited": ErrorCode("too many requests", True, 429),
    "rate_limited_bytes": ErrorCode("too many bytes", True, 429),
    "busy": ErrorCode("the gateway is busy", True, 503),
    "unavailable": ErrorCode("the outcome is unknown: retry with the same id", True, 503),
    "going_away": ErrorCode("the gateway is shutting down", True, 503),
    "not_found": ErrorCode("there is nothing here", False, 404),
    "method_not_allowed": ErrorCode("this method is not allowed here", False, 405),
    "unsupported_media_type": ErrorCode("the content type or encoding is not supported", False, 415),
    "internal": ErrorCode("the gateway failed; this is its fault", True, 500),
}

DEFINITE_FAILURES = frozenset(ERRORS) - {"unavailable", "internal", "going_away"}
"""A publish answered with one of these was not stored. After any other end (an error not listed, silence, a closed
connection) it may or may not have been: retry with the same id."""


class CloseCode(NamedTuple):
    """Why the gateway ended a connection, and whether the client should come back."""

    reason: str
    reconnect: bool
    """False: the same client will be refused again; stop and tell a person."""


CLOSES: dict[int, CloseCode] = {
    1000: CloseCode("finished", False),
    1001: CloseCode("going away", True),
    1002: CloseCode("WebSocket protocol error", False),
    1003: CloseCode("unsupported data", False),
    1007: CloseCode("not UTF-8", False),
    1009: CloseCode("frame too large", False),
    1011: CloseCode("internal error", True),
    1012: CloseCode("restarting", True),
    1013: CloseCode("overloaded", True),
    4000: CloseCode("slow consumer: the client stopped reading", True),
    4001: CloseCode("no pong", True),
    4400: CloseCode("too many malformed frames", False),
    4401: CloseCode("token not accepted or expired: fetch a new one, once", True),
    4403: CloseCode("kicked", False),
    4406: CloseCode("subprotocol not supported", False),
    4408: CloseCode("not authenticated in time", True),
    4409: CloseCode("session taken over by a newer connection", False),
    4429: CloseCode("too many connections of this subject", True),
}


def should_reconnect(close_code: int) -> bool:
    """Whether a client that saw this close code should connect again. Codes not in the table (a proxy's, or 1006:
    no close frame at all) mean yes."""
    known = CLOSES.get(close_code)
    return known is None or known.reconnect
