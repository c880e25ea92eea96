"""What each contestant's protocol looks like to the load generator: requests as payloads, answers as events.

Owns the translation only. A dialect is stateless; roles.py keeps windows and counts. Another protocol joins as one
more class here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import orjson

from bench.links import LoadError


class Delivered(NamedTuple):
    """Messages pushed to a consumer, with what acknowledges each."""

    ids: list[str]
    leases: list[str]


class Receipt(NamedTuple):
    """The durable answer to one publish request."""

    ref: int
    ids: list[str]


class Done(NamedTuple):
    """Any other request succeeded."""

    ref: int | None


class Answer(NamedTuple):
    """The dialect itself must say this (a heartbeat)."""

    payload: bytes


Event = Delivered | Receipt | Done | Answer


class Dialect(Protocol):
    """How to say and hear what a benchmark needs."""

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes: ...

    def delay(self, delay_ms: int) -> None:
        """What is published from now on is not to be delivered before so long."""

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes: ...

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes: ...

    def events(self, payload: bytes) -> list[Event]:
        """What a payload says. Raises LoadError for a refusal or anything unknown."""
        ...


class PushwireV1:
    """pushwire.v1 JSON. The body is a JSON string of `body_bytes` bytes with its quotes, the same for each message."""

    def __init__(self, body_bytes: int) -> None:
        text = ("The quick brown fox jumps over the lazy dog. " * (body_bytes // 45 + 1))[: max(0, body_bytes - 2)]
        self._tail = b'","data":' + orjson.dumps(text) + b"}"

    def delay(self, delay_ms: int) -> None:
        self._tail = f'","delay_ms":{delay_ms},'.encode() + self._tail[2:]

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes:
        # start: a group that the bench creates misses nothing, whoever comes first
        op = {"op": "subscribe", "topic": topic, "group": group, "prefetch": prefetch, "start": "earliest", "ref": ref}
        return orjson.dumps(op)

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes:
        head = f'{{"op":"publish","ref":{ref},"topic":"{topic}",'.encode()
        if len(ids) == 1:
            return head + b'"id":"' + ids[0].encode() + self._tail
        between = self._tail + b',{"id":"'
        return head + b'"messages":[{"id":"' + between.join([id.encode() for id in ids]) + self._tail + b"]}"

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes:
        head = '{"op":"ack",' if ref is None else f'{{"op":"ack","ref":{ref},'
        return (head + '"leases":["' + '","'.join(leases) + '"]}').encode()

    def events(self, payload: bytes) -> list[Event]:
        lines = payload.split(b"\n") if b"\n" in payload else (payload,)
        events: list[Event] = []
        for line in lines:
            op = orjson.loads(line)
            name = op["op"]
            if name == "messages":
                rows = op["messages"]
                events.append(Delivered([row["id"] for row in rows], [row["lease"] for row in rows]))
            elif name == "ok" and "receipts" in op:
                receipts = op["receipts"]
                if any(row["duplicate"] for row in receipts):
                    raise LoadError(f"a new id was called a duplicate: {op!r:.300}")
                events.append(Receipt(op["ref"], [row["id"] for row in receipts]))
            else:
                events += self._rare(op, name)
        return events

    def _rare(self, op: dict[str, Any], name: str) -> list[Event]:
        if name == "ok":
            return [Done(op.get("ref"))]
        if name == "ping":
            return [Answer(b'{"op":"pong"}' if "ref" not in op else orjson.dumps({"op": "pong", "ref": op["ref"]}))]
        if name in ("welcome", "pong"):
            return []
        raise LoadError(f"the broker says {op!r:.300}")


DIALECTS: dict[str, type[PushwireV1]] = {"pushwire.v1": PushwireV1}
"""By the name a job carries."""
