"""What each contestant's protocol looks like to the load generator: requests as payloads, answers as events.

Owns the vocabulary of that translation, and pushwire's own. roles.py keeps windows and counts. Another protocol joins
as one more module in protocols/.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import orjson

from bench.framing import TEXT
from bench.links import LoadError


class Delivered(NamedTuple):
    """Messages pushed to a consumer, with what acknowledges each; nothing where the plan says so."""

    ids: list[str]
    leases: list[str]


class Receipt(NamedTuple):
    """The durable answer to one publish request, or to some of its messages."""

    ref: int
    ids: list[str]


class Done(NamedTuple):
    """Any other request succeeded."""

    ref: int | None


class Answer(NamedTuple):
    """The dialect itself must say this (a heartbeat)."""

    payload: bytes


Event = Delivered | Receipt | Done | Answer


HELLO = 0
"""The ref of the greeting; all others are higher."""


@dataclass(frozen=True)
class Plan:
    """What a measurement is about to use. A broker that must be told beforehand is told."""

    topic: str
    groups: Sequence[str]
    prefetch: int
    members: int = 1
    """Of each group."""
    acked: bool = True
    """Whether what is delivered is acknowledged. Else it is only shown, to each of the groups (a tail)."""

    @property
    def queue(self) -> bool:
        """Whether one group shares the work; otherwise each group gets every message."""
        return list(self.groups) == ["default"]


class Dialect(Protocol):
    """A protocol, for one measurement."""

    opcode: int | None
    """Of the frames it travels in; None: bytes on the bare connection."""

    def talk(self, plan: Plan) -> Talk:
        """A new connection's conversation."""
        ...


class Talk(Protocol):
    """How to say and hear, on one connection, what a benchmark needs."""

    def hello(self) -> bytes:
        """What opens the conversation, to be answered with Done(HELLO); empty: nothing does."""
        ...

    def setup(self, refs: Iterator[int]) -> list[bytes]:
        """Requests that prepare the plan, each to be answered with the Done of a ref taken from `refs`."""
        ...

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes: ...

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes: ...

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes:
        """With a ref: answered with Done when the broker has it."""
        ...

    def events(self, payload: bytes) -> list[Event]:
        """What a payload says. Raises LoadError for a refusal or anything unknown."""
        ...


class PushwireV1:
    """pushwire.v1 JSON. The body is a JSON string of `body_bytes` bytes with its quotes, the same for each message.
    Each of its conversations is the same, because no answer depends on an earlier one."""

    acked = True

    opcode: int | None = TEXT

    def __init__(self, body_bytes: int) -> None:
        text = ("The quick brown fox jumps over the lazy dog. " * (body_bytes // 45 + 1))[: max(0, body_bytes - 2)]
        self._tail = b'","data":' + orjson.dumps(text) + b"}"
        self._tails: Iterator[bytes] | None = None
        """When messages differ in more than their id."""

    def talk(self, plan: Plan) -> PushwireV1:
        self.acked = plan.acked
        return self

    def hello(self) -> bytes:
        return b""  # the token went with the handshake

    def setup(self, refs: Iterator[int]) -> list[bytes]:
        return []  # subscribing creates what it needs

    def rotate(self, fields: Sequence[bytes]) -> None:
        """Messages published from now on carry these fields in turn; each ends with a comma."""
        self._tails = itertools.cycle([b'",' + field + self._tail[2:] for field in fields])

    def delay(self, delay_ms: int) -> None:
        """What is published from now on is not to be delivered before so long."""
        self._tail = f'","delay_ms":{delay_ms},'.encode() + self._tail[2:]

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes:
        # start: a group that the bench creates misses nothing, whoever comes first
        if not self.acked:
            return orjson.dumps({"op": "subscribe", "topic": topic, "tail": True, "from": "new", "ref": ref})
        op = {"op": "subscribe", "topic": topic, "group": group, "prefetch": prefetch, "start": "earliest", "ref": ref}
        return orjson.dumps(op)

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes:
        head = f'{{"op":"publish","ref":{ref},"topic":"{topic}",'.encode()
        if self._tails is not None:
            rows = b',{"id":"'.join([id.encode() + next(self._tails) for id in ids])
            return head + b'"messages":[{"id":"' + rows + b"]}"
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
                events.append(Delivered([row["id"] for row in rows], [row["lease"] for row in rows if self.acked]))
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


def filler(body_bytes: int) -> bytes:
    """What follows an id of 36 bytes in the body of a protocol whose messages carry none; the body is never shorter
    than the id."""
    return (b"The quick brown fox jumps over the lazy dog. " * (body_bytes // 45 + 1))[: max(0, body_bytes - 36)]
