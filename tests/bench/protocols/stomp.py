"""STOMP 1.2 as the load generator speaks it to RabbitMQ's web-STOMP.

Owns the translation. One group that shares the work is a durable queue; groups that each get every message are durable
queues bound to a topic exchange. Every message is persistent and has a receipt of its own. The body begins with the
message's id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.dialects import HELLO, Delivered, Done, Event, Plan, Receipt, filler
from bench.framing import TEXT
from bench.links import LoadError

HELLO_FRAME = b"CONNECT\naccept-version:1.2\nhost:/\nlogin:guest\npasscode:guest\nheart-beat:0,0\n\n\0"


class Stomp:
    opcode: int | None = TEXT

    def __init__(self, body_bytes: int) -> None:
        self.filler = filler(body_bytes)

    def talk(self, plan: Plan) -> StompTalk:
        return StompTalk(self.filler, plan)


class StompTalk:
    """Receipts are named `D.ref` or, of a message, `P.ref.id`."""

    def __init__(self, body_filler: bytes, plan: Plan) -> None:
        self._plan = plan
        self._length = 36 + len(body_filler)
        self._tail = body_filler.decode() + "\0"
        self._rest = b""

    def hello(self) -> bytes:
        return HELLO_FRAME

    def setup(self, refs: Iterator[int]) -> list[bytes]:
        return []  # subscribing declares and binds the queue

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes:
        named = "" if self._plan.queue else f"x-queue-name:{topic}.{group}\ndurable:true\nauto-delete:false\n"
        return (
            f"SUBSCRIBE\nid:0\ndestination:{self._destination(topic)}\nack:client-individual\n{named}"
            f"prefetch-count:{prefetch}\nreceipt:D.{ref}\n\n\0"
        ).encode()

    def _destination(self, topic: str) -> str:
        return f"/queue/{topic}" if self._plan.queue else f"/topic/{topic}"

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes:
        head = f"SEND\ndestination:{self._destination(topic)}\npersistent:true\ncontent-length:{self._length}\n"
        tail = self._tail
        return "".join([f"{head}receipt:P.{ref}.{id_}\n\n{id_}{tail}" for id_ in ids]).encode()

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes:
        said = "".join([f"ACK\nid:{lease}\n\n\0" for lease in leases[:-1]])
        receipt = "" if ref is None else f"receipt:D.{ref}\n"
        return f"{said}ACK\nid:{leases[-1]}\n{receipt}\n\0".encode()

    def events(self, payload: bytes) -> list[Event]:
        data = self._rest + payload if self._rest else payload
        events: list[Event] = []
        ids: list[str] = []
        leases: list[str] = []
        receipts: dict[int, list[str]] = {}
        at = 0
        while True:
            while data[at : at + 1] in (b"\n", b"\r"):  # heartbeats, and what may follow a frame
                at += 1
            head_end = data.find(b"\n\n", at)
            if head_end < 0:
                break
            command, headers = _head(data[at:head_end])
            body = head_end + 2
            length = headers.get("content-length")
            stop = body + int(length) if length else data.find(b"\0", body)
            if stop < 0 or stop >= len(data):
                break
            if command == "MESSAGE":
                ids.append(data[body : body + 36].decode())
                leases.append(headers["ack"])
            else:
                self._rare(command, headers, data[body:stop], receipts, events)
            at = stop + 1
        self._rest = data[at:]
        events += [Receipt(ref, some) for ref, some in receipts.items()]
        if ids:
            events.append(Delivered(ids, leases))
        return events

    def _rare(
        self, command: str, headers: dict[str, str], body: bytes, receipts: dict[int, list[str]], events: list[Event]
    ) -> None:
        if command == "RECEIPT":
            kind, ref, *id_ = headers["receipt-id"].split(".")
            if kind == "P":
                receipts.setdefault(int(ref), []).extend(id_)
            else:
                events.append(Done(int(ref)))
        elif command == "CONNECTED":
            events.append(Done(HELLO))
        else:
            raise LoadError(f"the broker says {command} {headers} {body!r:.300}")


def _head(lines: bytes) -> tuple[str, dict[str, str]]:
    command, *rest = lines.decode().split("\n")
    headers: dict[str, str] = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers.setdefault(
            name, value.replace("\\c", ":")
        )  # the first of a name counts; of the escapes only this occurs
    return command, headers
