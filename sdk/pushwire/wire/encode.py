"""Frames become bytes of pushwire.v1 JSON.

Owns the shape of every operation on the wire. Stored bodies are spliced in as they are (they were re-serialised
when they came in, so they hold no newline). The gateway writes names, ids and leases without escaping: it admitted
or made them, and their alphabet holds nothing that JSON escapes. A client's are whatever its user passed, so they are
escaped, and a bad one is refused by the gateway instead of breaking the frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .codec import b64encode, dumps, quote
from .frames import (
    JSON,
    SUBPROTOCOL,
    TEXT,
    Ack,
    Auth,
    DeliveryLike,
    Error,
    Extend,
    Flow,
    Gap,
    Goodbye,
    MessageLike,
    Messages,
    Nack,
    Ok,
    Ping,
    Pong,
    Publish,
    Ref,
    Reject,
    Release,
    Start,
    Subscribe,
    SubscribeTail,
    TailBatch,
    Tailed,
    Unsubscribe,
    Welcome,
)


def _ref(ref: Ref | None) -> str:
    if ref is None:
        return ""
    return f',"ref":{ref}' if type(ref) is int else f',"ref":{dumps(ref).decode()}'


def _body(message: MessageLike) -> bytes:
    if message.encoding == JSON:
        return b',"data":' + message.data
    if message.encoding == TEXT:
        return b',"data_text":' + dumps(message.data.decode())
    return b',"data_b64":"' + b64encode(message.data).encode() + b'"'


def _extras(message: MessageLike) -> bytes:
    parts = b""
    if message.key is not None:
        parts += b',"key":' + dumps(message.key)
    if message.headers is not None:
        parts += b',"headers":' + message.headers
    if message.content_type is not None:
        parts += b',"content_type":' + dumps(message.content_type)
    return parts


def messages(frame: Messages) -> bytes:
    """The hot one: all deliveries of one push."""
    return b'{"op":"messages","sub":"%b","messages":[%b]}' % (frame.sub.encode(), delivered(frame))


def delivered(frame: Messages) -> bytes:
    """The deliveries alone, with commas between them: what a long poll answers."""
    middle = f'"topic":"{frame.topic}","expires_in_ms":{frame.expires_in_ms},"seq":'
    parts = []
    for delivery in frame.deliveries:
        m = delivery.message
        attempt = delivery.deliveries
        flag = "true" if attempt > 1 else "false"
        head = (
            f'{{"lease":"{delivery.lease}",{middle}{m.seq},"id":"{m.id}","attempt":{attempt},"redelivered":{flag},'
            f'"priority":{m.priority},"published_at_ms":{m.published_at_ms}'
        ).encode()
        if m.encoding == JSON and m.key is None and m.headers is None and m.content_type is None and not m.redriven:
            parts.append(b'%b,"data":%b}' % (head, m.data))
        else:
            parts.append(head + _marks(m) + _extras(m) + _body(m) + b"}")
    return b",".join(parts)


def _marks(message: MessageLike) -> bytes:
    return b',"redriven":true' if message.redriven else b""


def tailed(frame: Tailed) -> bytes:
    """The messages are written once, whoever and however many they go to; only the name before them differs."""
    batch, named = frame.batch, frame.batch.named
    if named is not None and named[0] == frame.sub:
        return named[1]
    rows = batch.encoded.get(SUBPROTOCOL)
    if rows is None:
        rows = batch.encoded[SUBPROTOCOL] = _tail_rows(batch)
    encoded = b'{"op":"messages","sub":"%b",%b' % (frame.sub.encode(), rows)
    batch.named = (frame.sub, encoded)
    return encoded


def _tail_rows(batch: TailBatch) -> bytes:
    return b'"messages":[%b]}' % b",".join([shown(batch.topic, m) for m in batch.messages])


def shown(topic: str, m: MessageLike) -> bytes:
    """One message as a tail shows it, on one line."""
    head = (
        f'{{"topic":"{topic}","seq":{m.seq},"id":"{m.id}","priority":{m.priority},"published_at_ms":{m.published_at_ms}'
    ).encode()
    due = b"" if m.due_ms is None else b',"due_ms":%d' % m.due_ms
    return b"%b%b%b%b%b}" % (head, due, _marks(m), _extras(m), _body(m))


def receipts(ref: Ref | None, messages: Sequence[Any]) -> bytes:
    """The other hot one: what became of a publish."""
    rows = ",".join(
        [f'{{"id":"{m.id}","seq":{m.seq},"duplicate":{"true" if m.duplicate else "false"}}}' for m in messages]
    )
    return f'{{"op":"ok"{_ref(ref)},"receipts":[{rows}]}}'.encode()


def ok(frame: Ok) -> bytes:
    if frame.receipts is not None:
        return receipts(frame.ref, frame.receipts)
    fields = ""
    if frame.sub is not None:
        fields += f',"sub":"{frame.sub}"'
    for name in ("prefetch", "ack_timeout_ms", "expires_in_ms", "seq"):
        value = getattr(frame, name)
        if value is not None:
            fields += f',"{name}":{value}'
    if frame.epoch is not None:
        fields += f',"epoch":{quote(frame.epoch)}'
    if frame.session is not None:
        fields += f',"session":{quote(frame.session)}'
    if frame.resumed is not None:
        fields += f',"resumed":{"true" if frame.resumed else "false"}'
    if frame.subs is not None:
        fields += f',"subs":{dumps({sub: list(leases) for sub, leases in frame.subs.items()}).decode()}'
    return f'{{"op":"ok"{_ref(frame.ref)}{fields}}}'.encode()


def error(frame: Error) -> bytes:
    fields = f',"code":"{frame.code}","message":{quote(frame.message)}'
    fields += f',"retryable":{"true" if frame.retryable else "false"}'
    if frame.retry_after_ms is not None:
        fields += f',"retry_after_ms":{frame.retry_after_ms}'
    if frame.sub is not None:
        fields += f',"sub":"{frame.sub}"'
    if frame.leases is not None:
        fields += f',"leases":{dumps(list(frame.leases)).decode()}'
    return f'{{"op":"error"{_ref(frame.ref)}{fields}}}'.encode()


def _fields(op: str, ref: Ref | None, **fields: Any) -> bytes:
    body: dict[str, Any] = {"op": op}
    if ref is not None:
        body["ref"] = ref
    body.update((name, value) for name, value in fields.items() if value is not None)
    return dumps(body)


def _draft(message: MessageLike) -> bytes:
    id = dumps(message.id) if message.id else b"null"
    head = b'"id":%b' % id if message.priority == 1 else b'"id":%b,"priority":%d' % (id, message.priority)
    m = message
    if m.due_ms is not None:
        head += b',"deliver_at_ms":%d' % m.due_ms if m.due_ms >= 0 else b',"delay_ms":%d' % -m.due_ms
    if m.expires_ms is not None:
        head += b',"ttl_ms":%d' % -m.expires_ms
    if m.encoding == JSON and m.key is None and m.headers is None and m.content_type is None:
        return b'%b,"data":%b' % (head, m.data)
    return head + _extras(m) + _body(m)


def publish(frame: Publish) -> bytes:
    head = b'{"op":"publish"%b,"topic":%b,' % (_ref(frame.ref).encode(), dumps(frame.topic))
    if len(frame.messages) == 1:
        return head + _draft(frame.messages[0]) + b"}"
    return head + b'"messages":[' + b",".join(b"{%b}" % _draft(m) for m in frame.messages) + b"]}"


def ack(frame: Ack) -> bytes:
    if frame.through is not None:
        return f'{{"op":"ack"{_ref(frame.ref)},"ack_through":{dumps(frame.through).decode()}}}'.encode()
    return f'{{"op":"ack"{_ref(frame.ref)},"leases":{dumps(list(frame.leases)).decode()}}}'.encode()


def welcome(f: Welcome) -> bytes:
    return _fields(
        "welcome",
        None,
        session=f.session,
        server=f.server,
        epoch=f.epoch,
        heartbeat_ms=f.heartbeat_ms,
        pong_timeout_ms=f.pong_timeout_ms,
        expires_in_ms=f.expires_in_ms,
        limits=f.limits,
    )


def goodbye(f: Goodbye) -> bytes:
    return _fields(
        "goodbye", None, code=f.code, reason=f.reason, reconnect=f.reconnect, retry_after_ms=f.retry_after_ms
    )


def subscribe(f: Subscribe) -> bytes:
    return _fields(
        "subscribe",
        f.ref,
        topic=f.topic,
        group=f.group,
        sub=f.sub,
        prefetch=f.prefetch,
        ack_timeout_ms=f.ack_timeout_ms,
        start=_start(f.start),
        private=None if f.client_id is None else True,
        client_id=f.client_id,
        inactive_ttl_ms=f.inactive_ttl_ms,
    )


def _start(start: Start | None) -> Any:
    if isinstance(start, int):
        return {"seq": start} if start > 0 else {"time_ms": -start}
    return start


def subscribe_tail(f: SubscribeTail) -> bytes:
    resumes = f.epoch is not None
    return _fields(
        "subscribe",
        f.ref,
        topic=f.topic,
        tail=True,
        sub=f.sub,
        **{"from": None if resumes else _start(f.start)},
        epoch=f.epoch,
        after_seq=f.after_seq if resumes else None,
    )


ENCODERS: dict[type, Any] = {
    Auth: lambda f: _fields("auth", f.ref, token=f.token, session=f.session, resume_grace_ms=f.resume_grace_ms),
    Subscribe: subscribe,
    SubscribeTail: subscribe_tail,
    Unsubscribe: lambda f: _fields("unsubscribe", f.ref, sub=f.sub),
    Publish: publish,
    Ack: ack,
    Nack: lambda f: _fields("nack", f.ref, leases=list(f.leases), delay_ms=f.delay_ms, error=f.error),
    Reject: lambda f: _fields("reject", f.ref, leases=list(f.leases), error=f.error),
    Release: lambda f: _fields("release", f.ref, leases=list(f.leases)),
    Extend: lambda f: _fields("extend", f.ref, leases=list(f.leases)),
    Flow: lambda f: _fields("flow", f.ref, sub=f.sub, prefetch=f.prefetch),
    Ping: lambda f: _fields("ping", f.ref),
    Pong: lambda f: _fields("pong", f.ref),
    Welcome: welcome,
    Ok: ok,
    Error: error,
    Messages: messages,
    Tailed: tailed,
    Gap: lambda f: dumps({"op": "gap", "sub": f.sub, "from": f.from_seq, "to": f.to_seq}),
    Goodbye: goodbye,
}


def encode(frame: Any) -> bytes:
    """One frame, one line."""
    return ENCODERS[type(frame)](frame)  # type: ignore[no-any-return]  # every encoder gives bytes


__all__ = ["DeliveryLike", "encode"]
