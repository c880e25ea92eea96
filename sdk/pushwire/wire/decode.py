"""Bytes of pushwire.v1 JSON become frames: hand-written validators, one per operation.

Owns what a valid operation is. Every refusal is a `Malformed` frame with a code of codes.py; nothing here raises
for what a peer can send, and unknown fields are ignored. Does no checks of rights, limits or state: the session
does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .codec import INTEGER_MAX, BadJson, b64decode, loads, pack
from .frames import (
    BINARY,
    ID,
    JSON,
    LEASES_PER_OP_MAX,
    MESSAGES_PER_OP_MAX,
    NAME,
    STATS_TOPIC,
    TEXT,
    Ack,
    Auth,
    ClientFrame,
    Extend,
    Flow,
    Malformed,
    Nack,
    Ping,
    Pong,
    Publish,
    Ref,
    Reject,
    Release,
    Start,
    Subscribe,
    SubscribeTail,
    Unsubscribe,
)

KEY_BYTES_MAX = 255
"""As long as a name: a key is one, but may be any text."""
HEADERS_MAX = 32
"""Entries. traceparent, tracestate and a few of the user's own."""
HEADERS_BYTES_MAX = 8192
"""What HTTP servers commonly allow for one header line."""
ERROR_TEXT_MAX = 1024
"""Characters of an error text kept with a dead letter."""
LEASE_CHARS_MAX = 64
CONTENT_TYPE = re.compile(r"[\x20-\x7e]{1,127}")
"""Printable ASCII: a media type (RFC 9110 §8.3.1) must be able to travel in an HTTP header as it is."""
TOKEN_CHARS_MAX = 7168
"""The header line that may carry it is 8 KiB."""
DELAY_MS_MAX = 15 * 60 * 1000
"""nack(delay): at most 15 minutes."""
ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_MS_MAX = 100, 12 * 3600 * 1000
PREFETCH_MAX = 1000
SCHEDULE_MS_MAX = 366 * 24 * 3600 * 1000
"""delay_ms, ttl_ms: a year. Longer is a mistake of units more often than a wish."""
INACTIVE_TTL_MS_MIN, INACTIVE_TTL_MS_MAX = 1000, SCHEDULE_MS_MAX
"""At least what the gateway's look-round takes, once a second."""
RESUME_GRACE_MS_MAX = 60_000
SESSION_CHARS_MAX = 64
EPOCH_CHARS_MAX = 64

GROUP_ONLY = ("group", "prefetch", "ack_timeout_ms", "start", "private", "client_id", "inactive_ttl_ms")
TAIL_ONLY = ("from", "epoch", "after_seq")
"""Fields of the two forms of subscribe. Refused in the other one, never ignored: who asks for a window has no tail in
mind."""

MakeMessage = Callable[..., Any]


class Invalid(Exception):
    """An operation that cannot be read: becomes a Malformed frame."""

    def __init__(self, message: str, code: str = "bad_request") -> None:
        super().__init__(message)
        self.code = code


def decode_line(line: bytes, make_message: MakeMessage) -> ClientFrame:
    """One line, one operation."""
    ref: Ref | None = None
    try:
        op = loads(line)
        if type(op) is not dict:
            raise Invalid("an operation is a JSON object")
        ref = _ref(op)
        name = op.get("op")
        if name == "publish":
            return publish(op, ref, make_message, len(line))
        if name == "ack":
            return _ack(op, ref)
        decoder = _DECODERS.get(name) if type(name) is str else None
        if decoder is None:
            raise Invalid("unknown operation", "unknown_op")
        return decoder(op, ref)
    except Invalid as exc:
        return Malformed(exc.code, str(exc), ref)
    except BadJson as exc:
        return Malformed("bad_request", str(exc), ref)


def _ref(op: dict[str, Any]) -> Ref | None:
    ref = op.get("ref")
    if ref is None or (type(ref) is int and 0 <= ref < 2**53) or (type(ref) is str and NAME.fullmatch(ref)):
        return ref
    raise Invalid("ref must be a non-negative integer or a name")


def _name(op: dict[str, Any], field: str, code: str = "bad_request") -> str:
    value = op.get(field)
    if type(value) is str and NAME.fullmatch(value):
        return value
    raise Invalid(f"{field} must be 1 to 255 of A-Z a-z 0-9 _ . : -", code)


def _integer(op: dict[str, Any], field: str, low: int, high: int) -> int | None:
    value = op.get(field)
    if value is None:
        return None
    if type(value) is int and low <= value <= high:
        return value
    raise Invalid(f"{field} must be an integer from {low} to {high}")


def _text(op: dict[str, Any], field: str, chars_max: int) -> str | None:
    value = op.get(field)
    if value is None:
        return None
    if type(value) is str and len(value) <= chars_max:
        return value
    raise Invalid(f"{field} must be a string of at most {chars_max} characters")


def _flag(op: dict[str, Any], field: str) -> bool:
    value = op.get(field)
    if value is None or type(value) is bool:
        return value is True
    raise Invalid(f"{field} must be true or false")


def _refuse(op: dict[str, Any], fields: tuple[str, ...], why: str) -> None:
    for field in fields:
        if op.get(field) is not None:
            raise Invalid(f"{field} {why}")


def publish(op: dict[str, Any], ref: Ref | None, make_message: MakeMessage, size_bytes: int) -> Publish:
    """A publish: either one message spread in the operation itself, or `messages`. Raises Invalid, BadJson.

    `op` is the whole operation, its name and (if it is not None) its `ref` included.
    """
    topic = _name(op, "topic", "bad_topic")
    many = op.get("messages")
    if many is None:
        # The common shapes first, here and below: beside name, topic and ref only an id and a JSON body to look at.
        if len(op) == (4 if ref is None else 5) and "data" in op:
            id = op.get("id")
            if type(id) is str and ID.fullmatch(id):
                return Publish(topic, [make_message(id, pack(op["data"]), 0)], ref, size_bytes)
        return Publish(topic, [message(op, make_message, "message")], ref, size_bytes)
    if type(many) is not list or not many:
        raise Invalid("messages must be a non-empty list")
    if len(many) > MESSAGES_PER_OP_MAX:
        raise Invalid(f"at most {MESSAGES_PER_OP_MAX} messages in one operation", "batch_too_large")
    drafts = []
    for index, item in enumerate(many):
        if type(item) is dict and len(item) == 2 and "data" in item:
            id = item.get("id")
            if type(id) is str and ID.fullmatch(id):
                drafts.append(make_message(id, pack(item["data"]), 0))
                continue
        drafts.append(message(item, make_message, f"messages[{index}]"))
    return Publish(topic, drafts, ref, size_bytes)


def message(item: Any, make_message: MakeMessage, where: str) -> Any:
    """One published message. Raises Invalid or BadJson."""
    if type(item) is not dict:
        raise Invalid(f"{where} must be an object")
    id = item.get("id")
    if id is None:
        id = ""  # the gateway makes one
    elif type(id) is not str or not ID.fullmatch(id):
        raise Invalid(f"{where}.id must be 1 to 128 of A-Z a-z 0-9 _ . : -")
    data, encoding = _body(item, where)
    try:
        priority = _integer(item, "priority", 0, 3)
        key = _text(item, "key", KEY_BYTES_MAX)
        content_type = _text(item, "content_type", 127)
        due_ms, expires_ms = _times(item)
    except Invalid as exc:
        raise Invalid(f"{where}.{exc}") from None
    if content_type is not None and not CONTENT_TYPE.fullmatch(content_type):
        raise Invalid(f"{where}.content_type must be 1 to 127 printable ASCII characters")
    if key is not None and not 1 <= len(key.encode()) <= KEY_BYTES_MAX:
        raise Invalid(f"{where}.key must be 1 to {KEY_BYTES_MAX} bytes of UTF-8")
    headers = _headers(item.get("headers"), where)
    level = 1 if priority is None else priority
    return make_message(id, data, 0, encoding, level, key, headers, content_type, due_ms, expires_ms)


def _times(item: dict[str, Any]) -> tuple[int | None, int | None]:
    """(due_ms, expires_ms) as `Draft` has them: below 0 from now on."""
    delay_ms = _integer(item, "delay_ms", 0, SCHEDULE_MS_MAX)
    due_ms = _integer(item, "deliver_at_ms", 0, INTEGER_MAX)
    ttl_ms = _integer(item, "ttl_ms", 1, SCHEDULE_MS_MAX)
    if delay_ms is not None:
        if due_ms is not None:
            raise Invalid("delay_ms and deliver_at_ms exclude each other")
        due_ms = -delay_ms or None
    return due_ms, None if ttl_ms is None else -ttl_ms


def _body(item: dict[str, Any], where: str) -> tuple[bytes, int]:
    given = [field for field in ("data", "data_text", "data_b64") if field in item]
    if len(given) != 1:
        raise Invalid(f"{where} needs exactly one of data, data_text, data_b64")
    field = given[0]
    value = item[field]
    if field == "data":
        return pack(value), JSON
    if type(value) is not str:
        raise Invalid(f"{where}.{field} must be a string")
    return (value.encode(), TEXT) if field == "data_text" else (b64decode(value), BINARY)


def _headers(value: Any, where: str) -> bytes | None:
    if value is None or value == {}:
        return None
    if type(value) is not dict or len(value) > HEADERS_MAX:
        raise Invalid(f"{where}.headers must be an object of at most {HEADERS_MAX} entries")
    for name, text in value.items():
        if type(text) is not str or not NAME.fullmatch(name):
            raise Invalid(f"{where}.headers must map names to strings")
    packed = pack(value)
    if len(packed) > HEADERS_BYTES_MAX:
        raise Invalid(f"{where}.headers are larger than {HEADERS_BYTES_MAX} bytes")
    return packed


def _leases(op: dict[str, Any]) -> list[str]:
    leases = op.get("leases")
    if leases is None:
        leases = [op.get("lease")]
    elif op.get("lease") is not None:
        raise Invalid("lease and leases exclude each other")
    if type(leases) is not list or not leases:
        raise Invalid("leases must be a non-empty list of strings")
    if len(leases) > LEASES_PER_OP_MAX:
        raise Invalid(f"at most {LEASES_PER_OP_MAX} leases in one operation", "batch_too_large")
    for lease in leases:
        if type(lease) is not str or not 0 < len(lease) <= LEASE_CHARS_MAX or not lease.isascii():
            raise Invalid("leases must be a non-empty list of strings")
    return leases


def settlement(name: str, op: dict[str, Any]) -> Ack | Nack | Reject | Release | Extend:
    """The body of one settlement over HTTP. Raises Invalid."""
    _refuse(op, ("lease", "ack_through"), "is for the socket: send leases")
    settle: dict[str, Callable[..., Any]] = {
        "ack": lambda op, ref: Ack(_leases(op), None, ref),
        "nack": _nack,
        "reject": _reject,
        "release": _release,
        "extend": _extend,
    }
    frame: Ack | Nack | Reject | Release | Extend = settle[name](op, None)
    return frame


def _ack(op: dict[str, Any], ref: Ref | None) -> Ack:
    through = op.get("ack_through")
    if through is None:
        return Ack(_leases(op), None, ref)
    if op.get("leases") is not None or op.get("lease") is not None:
        raise Invalid("leases and ack_through exclude each other")
    if type(through) is not str or not 0 < len(through) <= LEASE_CHARS_MAX or not through.isascii():
        raise Invalid("ack_through must be a lease")
    return Ack((), through, ref)


def _auth(op: dict[str, Any], ref: Ref | None) -> Auth:
    token = op.get("token")
    if type(token) is not str or not 0 < len(token) <= TOKEN_CHARS_MAX:
        raise Invalid(f"token must be a string of 1 to {TOKEN_CHARS_MAX} characters")
    grace_ms = _integer(op, "resume_grace_ms", 0, RESUME_GRACE_MS_MAX)
    return Auth(token, ref, _opaque(op, "session", SESSION_CHARS_MAX), grace_ms)


def _opaque(op: dict[str, Any], field: str, chars_max: int) -> str | None:
    value = _text(op, field, chars_max)
    if value is not None and not (value and value.isascii()):
        raise Invalid(f"{field} must be a string of 1 to {chars_max} ASCII characters")
    return value


def start(op: dict[str, Any], field: str) -> Start | None:
    """Where a group or a tail begins, or moves to. Raises Invalid."""
    value = op.get(field)
    if value is None or value in ("earliest", "new"):
        return value
    if type(value) is dict:
        seq = _integer(value, "seq", 1, INTEGER_MAX)
        time_ms = _integer(value, "time_ms", 1, INTEGER_MAX)
        if seq is None and time_ms is not None:
            return -time_ms
        if seq is not None and time_ms is None:
            return seq
    raise Invalid(f'{field} must be "earliest", "new", {{"seq": n}} or {{"time_ms": t}}')


def _subscribe(op: dict[str, Any], ref: Ref | None) -> Subscribe | SubscribeTail:
    if _flag(op, "tail"):
        return _subscribe_tail(op, ref)
    _refuse(op, TAIL_ONLY, "goes with tail")
    client_id = None if op.get("client_id") is None else _name(op, "client_id")
    if _flag(op, "private") != (client_id is not None):
        raise Invalid("private and client_id go together")
    return Subscribe(
        _name(op, "topic", "bad_topic"),
        "default" if op.get("group") is None else _name(op, "group", "bad_group"),
        None if op.get("sub") is None else _name(op, "sub"),
        _integer(op, "prefetch", 0, PREFETCH_MAX),
        _integer(op, "ack_timeout_ms", ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_MS_MAX),
        start(op, "start"),
        ref,
        client_id,
        _integer(op, "inactive_ttl_ms", INACTIVE_TTL_MS_MIN, INACTIVE_TTL_MS_MAX),
    )


def _subscribe_tail(op: dict[str, Any], ref: Ref | None) -> SubscribeTail:
    _refuse(op, GROUP_ONLY, "does not go with tail")
    topic = STATS_TOPIC if op.get("topic") == STATS_TOPIC else _name(op, "topic", "bad_topic")
    sub = None if op.get("sub") is None else _name(op, "sub")
    epoch, after_seq = _opaque(op, "epoch", EPOCH_CHARS_MAX), _integer(op, "after_seq", 0, INTEGER_MAX)
    if epoch is None and after_seq is None:
        begin = start(op, "from")
        return SubscribeTail(topic, sub, "new" if begin is None else begin, None, 0, ref)
    if epoch is None or after_seq is None or op.get("from") is not None:
        raise Invalid("epoch and after_seq go together, and without from")
    return SubscribeTail(topic, sub, "new", epoch, after_seq, ref)


def _unsubscribe(op: dict[str, Any], ref: Ref | None) -> Unsubscribe:
    return Unsubscribe(_name(op, "sub"), ref)


def _nack(op: dict[str, Any], ref: Ref | None) -> Nack:
    delay = _integer(op, "delay_ms", 0, DELAY_MS_MAX)
    return Nack(_leases(op), delay, _text(op, "error", ERROR_TEXT_MAX), ref)


def _reject(op: dict[str, Any], ref: Ref | None) -> Reject:
    return Reject(_leases(op), _text(op, "error", ERROR_TEXT_MAX), ref)


def _release(op: dict[str, Any], ref: Ref | None) -> Release:
    return Release(_leases(op), ref)


def _extend(op: dict[str, Any], ref: Ref | None) -> Extend:
    return Extend(_leases(op), ref)


def _flow(op: dict[str, Any], ref: Ref | None) -> Flow:
    prefetch = _integer(op, "prefetch", 0, PREFETCH_MAX)
    if prefetch is None:
        raise Invalid("flow needs prefetch")
    return Flow(_name(op, "sub"), prefetch, ref)


_DECODERS: dict[str, Callable[[dict[str, Any], Ref | None], ClientFrame]] = {
    "auth": _auth,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "nack": _nack,
    "reject": _reject,
    "release": _release,
    "extend": _extend,
    "flow": _flow,
    "ping": lambda _op, ref: Ping(ref),
    "pong": lambda _op, ref: Pong(ref),
}
