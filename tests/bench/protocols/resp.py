"""Redis streams as the load generator speaks them: RESP on a bare connection, pipelined.

Owns the translation. A topic is a stream, a group a consumer group; a consumer asks for as many messages as its
prefetch and asks again with the acknowledgement of the last of them. The first field carries the message's id.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from collections.abc import Iterator, Sequence

from bench.dialects import Delivered, Done, Event, Plan, Receipt, filler
from bench.links import LoadError

READ = -1
"""In the line of expected answers: that of the blocking read. A ref is not negative."""
UNCONFIRMED, GROUP = -2, -3
"""Of an acknowledgement nobody waits for, and of a group that may exist already."""
_BATCH = re.compile(rb"\*1\r\n\*2\r\n\$\d+\r\n[^\r]+\r\n\*(\d+)\r\n")
_ADDED = re.compile(rb"\$\d+\r\n\d+-\d+\r\n")
_LINE = re.compile(rb"([+:-])([^\r]*)\r\n")


class Redis:
    opcode: int | None = None

    def __init__(self, body_bytes: int) -> None:
        self.filler = filler(body_bytes)
        self._names = itertools.count(1)

    def talk(self, plan: Plan) -> RedisTalk:
        return RedisTalk(self.filler, plan, f"c{next(self._names)}")


class RedisTalk:
    """Answers come in the order of the requests, so a line of what is expected gives each its meaning."""

    def __init__(self, body_filler: bytes, plan: Plan, name: str) -> None:
        self._plan = plan
        self._name = name
        size = len(body_filler)
        self._tail = b"\r\n$1\r\nb\r\n$%d\r\n%b\r\n" % (size, body_filler)
        self._entry = re.compile(
            rb"\*2\r\n\$\d+\r\n(\d+-\d+)\r\n\*4\r\n\$2\r\nid\r\n\$36\r\n(.{36})\r\n\$1\r\nb\r\n\$%d\r\n.{%d}\r\n"
            % (size, size),
            re.DOTALL,
        )
        self._expected: deque[tuple[int, str | None]] = deque()  # ref, and of a message its id
        self._rest = b""
        self._read = b""
        self._group = b""
        self._unacked = 0

    def hello(self) -> bytes:
        return b""

    def setup(self, refs: Iterator[int]) -> list[bytes]:
        # Of earlier measurements nothing is needed, and a stream does not shrink by acknowledging.
        calls: list[tuple[str, ...]] = [("FLUSHALL",)]
        calls += [("XGROUP", "CREATE", self._plan.topic, group, "0", "MKSTREAM") for group in self._plan.groups]
        for _ in calls:
            self._expected.append((next(refs), None))
        return [_call(*call) for call in calls]

    def subscribe(self, topic: str, group: str, prefetch: int, ref: int) -> bytes:
        self._group = group.encode()
        self._read = _call(
            "XREADGROUP", "GROUP", group, self._name, "COUNT", str(prefetch), "BLOCK", "0", "STREAMS", topic, ">"
        )
        self._expected += [(GROUP, None), (ref, None), (READ, None)]
        return _call("XGROUP", "CREATE", topic, group, "0", "MKSTREAM") + _call("PING") + self._read

    def publish(self, topic: str, ids: Sequence[str], ref: int) -> bytes:
        self._expected.extend([(ref, id_) for id_ in ids])
        head, tail = _call("XADD", topic, "*", "id", count=7) + b"$36\r\n", self._tail
        return b"".join([b"%b%b%b" % (head, id_.encode(), tail) for id_ in ids])

    def ack(self, leases: Sequence[str], ref: int | None) -> bytes:
        said = _call("XACK", self._plan.topic, self._group.decode(), *leases)
        self._expected.append((UNCONFIRMED if ref is None else ref, None))
        self._unacked -= len(leases)
        if self._unacked:
            return said
        self._expected.append((READ, None))
        return said + self._read

    def events(self, payload: bytes) -> list[Event]:
        data = self._rest + payload if self._rest else payload
        events: list[Event] = []
        receipts: dict[int, list[str]] = {}
        at = 0
        while at < len(data):
            if not self._expected:
                raise LoadError(f"the broker says unasked {data[at : at + 100]!r}")
            ref, id_ = self._expected[0]
            line = _LINE.match(data, at)
            if line and line[1] == b"-" and not (ref == GROUP and line[2].startswith(b"BUSYGROUP")):
                raise LoadError(f"the broker says {line[2]!r}")
            if ref == READ:
                at, found = self._batch(data, at)
                if found is None:
                    break
                events.append(found)
            elif id_ is not None:
                added = _ADDED.match(data, at)
                if not added:
                    break
                receipts.setdefault(ref, []).append(id_)
                at = added.end()
            elif line:
                if ref >= 0:
                    events.append(Done(ref))
                at = line.end()
            else:
                break
            self._expected.popleft()
        self._rest = data[at:]
        return [Receipt(ref, some) for ref, some in receipts.items()] + events

    def _batch(self, data: bytes, start: int) -> tuple[int, Delivered | None]:
        """The messages of one complete read, and where it ends; else nothing, and where it began."""
        head = _BATCH.match(data, start)
        if not head:
            return start, None
        at, ids, leases = head.end(), [], []
        match = self._entry.match
        for _ in range(int(head[1])):
            entry = match(data, at)
            if not entry:
                return start, None
            leases.append(entry[1].decode())
            ids.append(entry[2].decode())
            at = entry.end()
        self._unacked += len(ids)
        return at, Delivered(ids, leases)


def _call(*words: str, count: int | None = None) -> bytes:
    """A command; with `count` the beginning of one that has so many words."""
    parts = [b"*%d\r\n" % (count or len(words))]
    parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in map(str.encode, words)]
    return b"".join(parts)
