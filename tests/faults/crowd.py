"""Thousands of light clients under one epoll: each follows a tail, checks what it is shown, and comes back if it must.

Owns the sockets, the state of each client and the times that are measured. Who is cut off when, and what is too much,
is the scenario's (connections.py). When to come back is decided by the SDK's own Reconnector, so that a storm of these
is a storm of SDKs.
"""

from __future__ import annotations

import heapq
import itertools
import json
import random
import resource
import select
import socket
import time
from array import array
from collections import Counter
from collections.abc import Sequence

from bench import framing
from pushwire.backoff import Backoff, Loss, Reconnector
from pushwire.wire.frames import SUBPROTOCOL

RECV_BYTES = 64 * 1024
READS_PER_TURN = 1000
CONNECTING_MAX = 100
"""Handshakes under way at once while the crowd gathers: below the gateway's queue of those not yet accepted. Who comes
back after a loss does not wait for others."""
RECONNECT = Backoff()
"""As an SDK has it by default."""
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ANSWER_S = 10.0
"""A client that has waited so long for a handshake gives up and tries again, as an SDK does."""
ADDRESSES = 200
"""Of loopback, that the clients come from: neither ports nor the limits by address run short."""
IP_BIND_ADDRESS_NO_PORT = 24
"""linux/in.h: the port is chosen when connecting. Only Python 3.12 has a name for it."""
RST = b"\x01\0\0\0\0\0\0\0"
"""SO_LINGER of no time: close() sends RST."""


def raise_descriptors(wanted: int) -> None:
    """As many open files as that, or ValueError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ValueError(f"{wanted} open files are needed, {hard} is the limit")
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Member:
    """One client: down, waiting (to come back), connecting, asked (for the upgrade), subscribing or up."""

    __slots__ = (
        "address", "due_at", "fd", "head", "last", "lost_at", "reader", "reconnector", "since", "sock", "state",
        "token", "waited_s",
    )  # fmt: skip

    def __init__(self, number: int, token: str, rng: random.Random) -> None:
        # From 127.0.1.1 on: the scenario's own clients are at 127.0.0.1.
        self.address = f"127.0.{1 + number % ADDRESSES // 200}.{1 + number % ADDRESSES % 200}"
        self.token = token
        self.state = "down"
        self.sock: socket.socket | None = None
        self.fd = -1
        self.reader = framing.Reader()
        self.head = b""
        self.last: int | None = None
        self.since = 0.0
        self.lost_at = 0.0
        self.waited_s: list[tuple[float, float]] = []  # after each loss: what the jitter asked for, what was waited
        self.due_at = 0.0
        self.reconnector = Reconnector(RECONNECT, rng.random, refreshable=False)


class Crowd:
    """All of them. `turn` does whatever is to be done."""

    def __init__(self, port: int, topic: str, tokens: Sequence[str], seed: int) -> None:
        rng = random.Random(seed)
        self.members = [Member(number, token, rng) for number, token in enumerate(tokens)]
        self.port = port
        self.up = 0
        self.latencies_s = array("d")
        self.problems: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        """Connections that ended and were not ended by us, by how."""
        self.published_at: dict[int, float] = {}
        self._epoll = select.epoll()
        self._by_fd: dict[int, Member] = {}
        self._timers: list[tuple[float, int, Member]] = []
        self._ties = itertools.count()
        subscribe = json.dumps({"op": "subscribe", "topic": topic, "tail": True, "sub": "t", "ref": 1}).encode()
        self._subscribe = framing.encode(subscribe)
        self._known: dict[bytes, list[int]] = {}  # payloads of deliveries: all clients get the same one

    # --- connecting -----------------------------------------------------------------------------------------

    def gather(self, members: Sequence[Member], within_s: float, per_s: float) -> None:
        """Connect all of these, so many a second at most. Raises TimeoutError."""
        began, before = time.monotonic(), self.up
        waiting, started = [member for member in reversed(members) if member.state == "down"], 0
        while waiting or any(member.state != "up" for member in members):
            passed_s = time.monotonic() - began
            if passed_s > within_s:
                raise TimeoutError(f"{self.up} of {len(self.members)} are connected: {dict(self.problems)}")
            while waiting and started < passed_s * per_s and started - (self.up - before) < CONNECTING_MAX:
                self.connect(waiting.pop())
                started += 1
            self.turn(0.01)

    def connect(self, member: Member) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((member.address, 0))
        member.sock, member.fd, member.state = sock, sock.fileno(), "connecting"
        member.reader, member.head, member.last = framing.Reader(), b"", None
        member.since = time.monotonic()
        self._by_fd[member.fd] = member
        sock.connect_ex(("127.0.0.1", self.port))
        self._epoll.register(member.fd, select.EPOLLIN | select.EPOLLOUT)
        self._later(member.since + ANSWER_S, member)

    def close(self, member: Member, how: str) -> None:
        """Our own wish: politely with a close frame, or with RST."""
        assert member.sock is not None
        if how == "rst":
            member.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        else:
            member.sock.send(framing.encode(b"\x03\xe8", framing.CLOSE))
        self._drop(member)

    def _drop(self, member: Member) -> None:
        assert member.sock is not None
        self._epoll.unregister(member.fd)
        del self._by_fd[member.fd]
        member.sock.close()
        self.up -= member.state == "up"
        member.sock, member.state = None, "down"

    def _lost(self, member: Member, how: str, retry_after_s: float | None = None) -> None:
        """The connection is gone, or was never made: the SDK's rules say when to try again."""
        if member.state == "up":
            self.lost[how] += 1
        now = time.monotonic()
        self._drop(member)
        due = member.reconnector.down(Loss(retry_after_s=retry_after_s), None, now)
        assert isinstance(due, float), due
        member.state, member.lost_at, member.due_at = "waiting", now, due
        self._later(due, member)

    def _later(self, at: float, member: Member) -> None:
        heapq.heappush(self._timers, (at, next(self._ties), member))

    def _due(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, _, member = heapq.heappop(self._timers)
            if member.state == "waiting" and now >= member.due_at:
                member.waited_s.append((member.due_at - member.lost_at, now - member.lost_at))
                self.connect(member)
            elif member.state in ("connecting", "asked", "subscribing") and now - member.since >= ANSWER_S:
                self.problems["no answer"] += 1
                self._lost(member, "no answer")

    # --- the sockets ----------------------------------------------------------------------------------------

    def turn(self, timeout_s: float) -> None:
        """Wait at most so long for something to happen, and do it."""
        if self._timers:
            timeout_s = min(timeout_s, max(0.0, self._timers[0][0] - time.monotonic()))
        for fd, mask in self._epoll.poll(timeout_s, READS_PER_TURN):
            member = self._by_fd[fd]
            if mask & select.EPOLLOUT and not mask & (select.EPOLLERR | select.EPOLLHUP):
                self._connected(member)
            if mask & ~select.EPOLLOUT:
                self._readable(member)
        self._due(time.monotonic())

    def spend(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.turn(left)

    def _connected(self, member: Member) -> None:
        assert member.sock is not None
        if member.state == "connecting":
            request = framing.upgrade_request("a", "/v1/ws", KEY, SUBPROTOCOL, member.token)
            member.sock.send(request)  # a fresh socket takes it whole
            member.state = "asked"
            self._epoll.modify(member.fd, select.EPOLLIN)

    def _readable(self, member: Member) -> None:
        assert member.sock is not None
        try:
            data = member.sock.recv(RECV_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(member, type(error).__name__)
            return
        if not data:
            self._lost(member, "EOF")
            return
        if member.state == "asked":
            data = self._upgraded(member, data)
        if data:
            self._frames(member, data)

    def _upgraded(self, member: Member, data: bytes) -> bytes:
        """What follows the head of the answer."""
        member.head += data
        if b"\r\n\r\n" not in member.head:
            return b""
        if not member.head.startswith(b"HTTP/1.1 101 "):
            status = member.head[9:12].decode()
            after = member.head.lower().partition(b"retry-after: ")[2].partition(b"\r\n")[0]
            self.problems[f"refused with {status}"] += 1
            self._lost(member, status, float(after) if after else None)
            return b""
        rest = framing.read_upgrade(member.head, KEY, SUBPROTOCOL)
        member.head, member.state = b"", "subscribing"
        assert member.sock is not None
        member.sock.send(self._subscribe)
        return rest or b""

    def _frames(self, member: Member, data: bytes) -> None:
        for opcode, payload in member.reader.feed(data):
            if opcode == framing.TEXT:
                if not payload.startswith(b'{"op":"messages"'):
                    self._other(member, payload)
                elif b"\n" in payload:
                    for line in payload.split(b"\n"):
                        self._other(member, line)
                else:
                    self._shown(member, payload)
            elif opcode == framing.CLOSE:
                code = int.from_bytes(payload[:2], "big")
                self._lost(member, f"close {code}")
                return

    def _shown(self, member: Member, payload: bytes) -> None:
        now = time.monotonic()
        numbers = self._known.get(payload)
        if numbers is None:
            numbers = self._known[payload] = [row["data"] for row in json.loads(payload)["messages"]]
            if len(self._known) > 100:
                del self._known[next(iter(self._known))]
        if member.last is not None and numbers[0] != member.last + 1:
            self.problems["a message twice, or none"] += 1
        member.last = numbers[-1]
        self.latencies_s.extend([now - self.published_at[number] for number in numbers])

    def _other(self, member: Member, payload: bytes) -> None:
        for line in payload.split(b"\n"):
            op = json.loads(line)
            kind = op["op"]
            if kind == "ping":
                assert member.sock is not None
                pong = {"op": "pong", **({"ref": op["ref"]} if "ref" in op else {})}
                member.sock.send(framing.encode(json.dumps(pong).encode()))
            elif kind == "messages":
                self._shown(member, line)
            elif kind == "ok":
                member.state = "up"
                member.reconnector.up(time.monotonic())
                self.up += 1
            elif kind not in ("welcome", "goodbye"):
                self.problems[f"{kind} {op.get('code', '')}"] += 1

    def end(self) -> None:
        """Close whatever is open."""
        for member in list(self._by_fd.values()):
            self._drop(member)
        self._epoll.close()
