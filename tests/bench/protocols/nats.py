"""NATS with JetStream as the load generator speaks it: the client protocol, one stream a topic, push consumers.

Owns the translation. A stream is kept in files with the default retention (limits), a group is a durable push consumer
with a deliver group and explicit acknowledgements; what follows a tail subscribes to the stream's subject, which shows
a message before it is stored. The body begins with the message's id; no `Nats-Msg-Id`, which the server would have to
remember.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from bench.dialects import HELLO, Answer, Delivered, Done, Event, Plan, Receipt, filler
from bench.framing import BINARY
from bench.links import LoadError

ACK_WAIT_NS = 30 * 10**9
OPTIONS = b'{"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"bench","version":"1"}'
INBOX_SID = b"1"


class Nats:
    opcode: int | None = BINARY

    def __init__(self, body_bytes: int) -> None:
        self.filler = filler(body_bytes)
        self._inboxes = itertools.count(1)

    def talk(self, plan: Plan) -> NatsTalk:
        return NatsTalk(self.filler, plan, f"_INBOX.{next(self._inboxes)}")


class NatsTalk:
    """A byte stream: what the server says may begin and end anywhere in a frame. The subjects of the inbox carry what
    an answer is for: `P.ref.id` a publish, `D.ref` anything else."""

    def __init__(self, body_filler: bytes, plan: Plan, inbox: str) -> None:
        self._plan = plan
        self._inbox = inbox
        size = 36 + len(body_filler)
        self._tail = body_filler + b"\r\n"
        self._size = f" {size}\r\n".encode()
        self._pongs: deque[int] = deque()
        self._rest = b""

    def hello(self) -> bytes:
        self._pongs.append(HELLO)
        return b"CONNECT %b\r\nSUB %b.> %b\r\nPING\r\n" % (OPTIONS, self._inbox.encode(), INBOX_SID)

    def setup(self, refs: Iterator[int]) -> list[bytes]:
        plan, stream = self._plan, _stream(self._plan.topic)
        wanted: list[tuple[str, dict[str, Any]]] = [
            (f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [plan.topic], "storage": "file"})
        ]
        for group in plan.groups if plan.acked else ():
            config: dict[str, Any] = {
                "durable_name": group, "deliver_subject": _deliver(plan.topic, group), "deliver_group": group,
                "ack_policy": "explicit", "ack_wait": ACK_WAIT_NS, "deliver_policy": "all",
                "max_ack_pending": plan.prefetch * plan.members,
            }  # fmt: skip
            wanted.append((f"CONSUMER.DURABLE.CREATE.{stream}.{group}", {"stream_name": stream, "config": config}))
        return [self._ask(call, orjson.dumps(body), next(refs)) for call, body in wanted]

    def _ask(self, call: str, body: bytes, ref: int) -> bytes:
        return f"PUB $JS.API.{call} {self._inbox}.D.{ref} {len(body)}\r\n".encode() + body + b"\r\n"

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes:
        self._pongs.append(ref)
        if not self._plan.acked:
            return f"SUB {topic} 2\r\nPING\r\n".encode()
        return f"SUB {_deliver(topic, group)} {group} 2\r\nPING\r\n".encode()

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes:
        head, size, tail = f"PUB {topic} {self._inbox}.P.{ref}.".encode(), self._size, self._tail
        return b"".join([b"%b%b%b%b%b" % (head, raw, size, raw, tail) for raw in map(str.encode, ids)])

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes:
        said = "".join([f"PUB {lease} 4\r\n+ACK\r\n" for lease in leases[:-1]])
        # With a reply subject the server answers when it has the acknowledgement.
        reply = "" if ref is None else f" {self._inbox}.D.{ref}"
        return f"{said}PUB {leases[-1]}{reply} 4\r\n+ACK\r\n".encode()

    def events(self, payload: bytes) -> list[Event]:
        data = self._rest + payload if self._rest else payload
        events: list[Event] = []
        ids: list[str] = []
        leases: list[str] = []
        receipts: dict[int, list[str]] = {}
        at, end = 0, len(data)
        while (line_end := data.find(b"\r\n", at)) >= 0:
            line, body = data[at:line_end], line_end + 2
            if line.startswith(b"MSG "):
                fields = line.split()
                stop = body + int(fields[-1])
                if stop + 2 > end:
                    break
                if fields[2] == INBOX_SID:
                    self._answer(fields[1], data[body:stop], receipts, events)
                else:
                    ids.append(data[body : body + 36].decode())
                    if self._plan.acked:
                        leases.append(fields[3].decode())
                at = stop + 2
            else:
                self._rare(line, events)
                at = body
        self._rest = data[at:]
        events += [Receipt(ref, some) for ref, some in receipts.items()]
        if ids:
            events.append(Delivered(ids, leases))
        return events

    def _answer(self, subject: bytes, body: bytes, receipts: dict[int, list[str]], events: list[Event]) -> None:
        if b'"error"' in body:
            raise LoadError(f"the broker says {body!r:.300}")
        kind, ref, *id_ = subject.decode().removeprefix(self._inbox + ".").split(".")
        if kind == "P":
            if b'"duplicate"' in body:
                raise LoadError(f"a new id was called a duplicate: {body!r:.300}")
            receipts.setdefault(int(ref), []).extend(id_)
        else:
            events.append(Done(int(ref)))

    def _rare(self, line: bytes, events: list[Event]) -> None:
        if line == b"PING":
            events.append(Answer(b"PONG\r\n"))
        elif line == b"PONG":
            events.append(Done(self._pongs.popleft()))
        elif not line.startswith((b"INFO ", b"+OK")):
            raise LoadError(f"the broker says {line!r:.300}")


def _stream(topic: str) -> str:
    return topic.replace(".", "_")


def _deliver(topic: str, group: str) -> str:
    return f"deliver.{_stream(topic)}.{group}"
