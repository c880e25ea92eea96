"""MQTT 5 as the load generator speaks it: QoS 1 both ways, sessions that outlive their connection.

Owns the translation. One group that shares the work is a shared subscription; groups that each get every message are
plain subscriptions of clients of their own. The body begins with the message's id.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Sequence

from bench.dialects import HELLO, Delivered, Done, Event, Plan, Receipt, filler
from bench.framing import BINARY
from bench.links import LoadError

SESSION_S = 3600
PACKET_ID_MAX = 65535
CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 0x20, 0x30, 0x40, 0x90, 0xD0


class Mqtt:
    opcode: int | None = BINARY

    def __init__(self, body_bytes: int) -> None:
        self.filler = filler(body_bytes)
        self._clients = itertools.count(1)

    def talk(self, plan: Plan) -> MqttTalk:
        return MqttTalk(self.filler, plan, f"{plan.topic}-{next(self._clients)}")


class MqttTalk:
    """A byte stream of packets. A packet id stands for a message until its PUBACK."""

    def __init__(self, body_filler: bytes, plan: Plan, client: str) -> None:
        self._plan = plan
        self._client = client.encode()
        self._filler = body_filler
        self._packet_id = 0
        self._published: dict[int, tuple[int, str]] = {}  # packet id -> ref and id of the message
        self._subscribed: dict[int, int] = {}  # packet id -> ref
        self._pings: deque[int] = deque()
        self._rest = b""

    def hello(self) -> bytes:
        properties = b"\x11%b\x21%b" % (SESSION_S.to_bytes(4, "big"), self._plan.prefetch.to_bytes(2, "big"))
        head = b"\0\4MQTT\5\x02\0\0%b%b" % (_varint(len(properties)), properties)  # clean start, no keep-alive
        return _packet(0x10, head + _text(self._client))

    def setup(self, refs: Iterator[int]) -> list[bytes]:
        return []

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes:
        number = self._next_id()
        self._subscribed[number] = ref
        name = f"$share/{group}/{topic}" if self._plan.queue else topic
        return _packet(0x82, number.to_bytes(2, "big") + b"\0" + _text(name.encode()) + b"\x01")

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes:
        name, body = _text(topic.encode()), self._filler
        head = b"\x32" + _varint(len(name) + 3 + 36 + len(body)) + name
        parts = []
        for id_ in ids:
            number = self._next_id()
            self._published[number] = ref, id_
            parts.append(b"%b%b\0%b%b" % (head, number.to_bytes(2, "big"), id_.encode(), body))
        return b"".join(parts)

    def _next_id(self) -> int:
        self._packet_id = self._packet_id % PACKET_ID_MAX + 1
        if self._packet_id in self._published:
            raise LoadError(f"no packet id is free: {len(self._published)} messages wait for their PUBACK")
        return self._packet_id

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes:
        said = b"".join([b"\x40\x02" + int(lease).to_bytes(2, "big") for lease in leases])
        if ref is None:
            return said
        self._pings.append(ref)  # a PUBACK has no answer; the packet behind it has one
        return said + b"\xc0\0"

    def events(self, payload: bytes) -> list[Event]:
        data = self._rest + payload if self._rest else payload
        events: list[Event] = []
        ids: list[str] = []
        leases: list[str] = []
        receipts: dict[int, list[str]] = {}
        published = self._published
        at, end = 0, len(data)
        while at + 2 <= end:
            kind, size, body = data[at] & 0xF0, data[at + 1], at + 2
            if size & 0x80:
                size, body = _read_varint(data, at + 1)
            if body < 0 or body + size > end:
                break
            at = body + size
            if kind == PUBLISH:
                start = body + 4 + (data[body] << 8 | data[body + 1])  # behind the topic and the packet id
                leases.append(str(data[start - 2] << 8 | data[start - 1]))
                start += 1 + data[start]  # the properties; a broker here sends few
                ids.append(data[start : start + 36].decode())
            elif kind == PUBACK:
                if size > 2 and data[body + 2] >= 0x80:
                    raise LoadError(f"the broker refused a message with reason {data[body + 2]:#x}")
                ref, id_ = published.pop(data[body] << 8 | data[body + 1])
                if ref in receipts:
                    receipts[ref].append(id_)
                else:
                    receipts[ref] = [id_]
            else:
                events.append(self._rare(kind, data[body:at]))
        self._rest = data[at:]
        events += [Receipt(ref, some) for ref, some in receipts.items()]
        if ids:
            events.append(Delivered(ids, leases))
        return events

    def _rare(self, kind: int, body: bytes) -> Event:
        if kind == CONNACK and body[1] == 0:
            return Done(HELLO)
        if kind == SUBACK and body[-1] < 0x80:
            return Done(self._subscribed.pop(int.from_bytes(body[:2], "big")))
        if kind == PINGRESP:
            return Done(self._pings.popleft())
        raise LoadError(f"the broker says packet {kind:#x} {body[:100]!r}")


def _packet(first: int, body: bytes) -> bytes:
    return b"%c%b%b" % (first, _varint(len(body)), body)


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, index behind it); the index is -1 while it is incomplete."""
    value, shift = 0, 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        if data[at] < 0x80:
            return value, at + 1
        at, shift = at + 1, shift + 7
    return 0, -1
