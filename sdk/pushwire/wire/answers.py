"""Bytes of pushwire.v1 JSON become the gateway's frames: the client's half of decoding.

Owns how a client reads what a gateway sends. A newer gateway may send operations and fields this client does not
know; those become `Malformed` and are skipped, so that v1 can grow. Nothing here raises for what a peer can send.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .codec import BadJson, b64decode, loads, pack
from .frames import (
    BINARY,
    JSON,
    TEXT,
    Delivery,
    Draft,
    Error,
    Gap,
    Goodbye,
    Malformed,
    Messages,
    Ok,
    Ping,
    Pong,
    Receipt,
    Ref,
    ServerFrame,
    TailBatch,
    Tailed,
    Welcome,
)


def decode_line(line: bytes) -> ServerFrame:
    """One line, one frame."""
    try:
        op = loads(line)
        if type(op) is not dict:
            raise BadJson("an operation is a JSON object")
        name = op.get("op")
        decoder = _DECODERS.get(name) if type(name) is str else None
        if decoder is None:
            return Malformed("unknown_op", "unknown operation", None)
        return decoder(op)
    except BadJson as exc:
        return Malformed("bad_request", str(exc), None)
    except KeyError as exc:
        return Malformed("bad_request", f"{exc.args[0]} is missing", None)


def _must(op: dict[str, Any], field: str, kind: type) -> Any:
    value = op.get(field)
    if type(value) is kind:  # not isinstance: true is no integer
        return value
    raise BadJson(f"{field} is missing or has the wrong type")


def _may(op: dict[str, Any], field: str, kind: type) -> Any:
    return None if op.get(field) is None else _must(op, field, kind)


def _rows(op: dict[str, Any], field: str, kind: type) -> list[Any]:
    rows: list[Any] = _must(op, field, list)
    if all(type(row) is kind for row in rows):
        return rows
    raise BadJson(f"{field} is missing or has the wrong type")


def _ref(op: dict[str, Any]) -> Ref | None:
    ref = op.get("ref")
    if ref is None or type(ref) is int or type(ref) is str:
        return ref
    raise BadJson("ref has the wrong type")


LEASED = ("lease", "attempt", "expires_in_ms")
"""What a delivery of a group has, and one of a tail has not."""


def _messages(op: dict[str, Any]) -> Messages | Tailed:
    rows = _rows(op, "messages", dict)
    if not rows:
        raise BadJson("messages is empty")
    sub, topic = _must(op, "sub", str), _must(rows[0], "topic", str)
    if not any(field in rows[0] for field in LEASED):
        return Tailed(sub, TailBatch(topic, [_shown(row) for row in rows]))
    return Messages(sub, topic, _must(rows[0], "expires_in_ms", int), [_delivery(row) for row in rows])


def _delivery(row: dict[str, Any]) -> Delivery:
    lease, attempt = row["lease"], row["attempt"]
    if type(lease) is not str or type(attempt) is not int:
        raise BadJson("lease or attempt has the wrong type")
    return Delivery(lease, attempt, _draft(row))


def _shown(row: dict[str, Any]) -> Draft:
    draft = _draft(row)
    draft.due_ms = _may(row, "due_ms", int)
    return draft


def _draft(row: dict[str, Any]) -> Draft:
    id, seq, priority, published_at_ms = row["id"], row["seq"], row["priority"], row["published_at_ms"]
    if type(id) is not str:
        raise BadJson("id has the wrong type")
    if not (type(seq) is type(priority) is type(published_at_ms) is int):
        raise BadJson("seq, priority or published_at_ms has the wrong type")
    if "data" in row:
        data, encoding = pack(row["data"]), JSON
    elif "data_text" in row:
        data, encoding = _must(row, "data_text", str).encode(), TEXT
    else:
        data, encoding = b64decode(_must(row, "data_b64", str)), BINARY
    draft = Draft(id, data, published_at_ms, encoding, priority)
    draft.seq = seq
    if "key" in row:
        draft.key = _may(row, "key", str)
    if "headers" in row:
        draft.headers = _headers(row)
    if "content_type" in row:
        draft.content_type = _may(row, "content_type", str)
    if "redriven" in row:
        draft.redriven = _may(row, "redriven", bool) is True
    return draft


def _headers(row: dict[str, Any]) -> bytes | None:
    headers = _may(row, "headers", dict)
    if not headers:
        return None
    if all(type(value) is str for value in headers.values()):
        return pack(headers)
    raise BadJson("headers has the wrong type")


def _receipt(row: dict[str, Any]) -> Receipt:
    id, seq, duplicate = row["id"], row["seq"], row["duplicate"]
    if type(id) is str and type(seq) is int and type(duplicate) is bool:
        return Receipt(id, seq, duplicate)
    raise BadJson("id, seq or duplicate has the wrong type")


def _ok(op: dict[str, Any]) -> Ok:
    receipts = None
    if op.get("receipts") is not None:
        receipts = [_receipt(row) for row in _rows(op, "receipts", dict)]
    return Ok(
        _ref(op),
        receipts,
        _may(op, "sub", str),
        _may(op, "prefetch", int),
        _may(op, "ack_timeout_ms", int),
        _may(op, "expires_in_ms", int),
        _may(op, "epoch", str),
        _may(op, "seq", int),
        _may(op, "session", str),
        _may(op, "resumed", bool),
        None if op.get("subs") is None else _held(_must(op, "subs", dict)),
    )


def _held(subs: dict[str, Any]) -> dict[str, list[str]]:
    return {name: _rows(subs, name, str) for name in subs}


def _error(op: dict[str, Any]) -> Error:
    return Error(
        _must(op, "code", str),
        _must(op, "message", str),
        _ref(op),
        _must(op, "retryable", bool),
        _may(op, "retry_after_ms", int),
        _may(op, "sub", str),
        None if op.get("leases") is None else _rows(op, "leases", str),
    )


def _welcome(op: dict[str, Any]) -> Welcome:
    return Welcome(
        _must(op, "session", str),
        _must(op, "server", str),
        _must(op, "epoch", str),
        _must(op, "heartbeat_ms", int),
        _must(op, "pong_timeout_ms", int),
        _must(op, "expires_in_ms", int),
        # A limit of a kind this client does not know is an unknown field.
        {name: value for name, value in _must(op, "limits", dict).items() if type(value) is int},
    )


def _gap(op: dict[str, Any]) -> Gap:
    return Gap(_must(op, "sub", str), _must(op, "from", int), _must(op, "to", int))


def _goodbye(op: dict[str, Any]) -> Goodbye:
    return Goodbye(
        _must(op, "code", int),
        _must(op, "reason", str),
        _must(op, "reconnect", bool),
        _may(op, "retry_after_ms", int),
    )


_DECODERS: dict[str, Callable[[dict[str, Any]], ServerFrame]] = {
    "messages": _messages,
    "ok": _ok,
    "error": _error,
    "welcome": _welcome,
    "ping": lambda op: Ping(_ref(op)),
    "pong": lambda op: Pong(_ref(op)),
    "gap": _gap,
    "goodbye": _goodbye,
}
