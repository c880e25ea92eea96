"""A gateway small enough to see through, for tests of the SDK: it speaks the real codec and keeps the real rules.

Owns topics, groups and leases in memory, and lets a test refuse, delay or cut what it likes. No I/O and no clock: a
test moves the bytes, in memory or over a real socket.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from typing import Any

from pushwire.wire import frames
from pushwire.wire.jsonv1 import JsonServerCodec

LIMITS = {"message_bytes_max": 64 * 1024, "frame_bytes_max": 1024 * 1024 + 16 * 1024, "prefetch_max": 1000}
STALE = "the lease is not, or no longer, held by this session"


class Sub:
    """A subscription as the gateway sees it."""

    def __init__(self, frame: frames.Subscribe, prefetch: int) -> None:
        self.name = frame.sub or "unnamed"
        self.key = (frame.topic, frame.group)
        self.prefetch = prefetch
        self.held: dict[str, frames.Delivery] = {}


class PeerTail:
    """A tail as the gateway sees it: everything up to `seq` was shown, or announced as a gap."""

    def __init__(self, name: str, topic: str, seq: int) -> None:
        self.name = name
        self.topic = topic
        self.seq = seq


class Peer:
    """The gateway's memory, shared by its connections."""

    def __init__(self, **welcome: Any) -> None:
        self.welcome: dict[str, Any] = {
            "session": "secret",
            "server": "peer",
            "epoch": "e1",
            "heartbeat_ms": 20_000,
            "pong_timeout_ms": 10_000,
            "expires_in_ms": 3_600_000,
            "limits": dict(LIMITS),
        } | welcome
        self.greets = True
        """Says welcome by itself."""
        self.answers = True
        """False: takes everything, does it, and the answers are lost."""
        self.stored: dict[str, list[frames.Draft]] = {}
        self.by_id: dict[tuple[str, str], frames.Draft] = {}
        self.waiting: dict[tuple[str, str], deque[frames.Delivery]] = {}
        self.settled: list[tuple[str, str, int]] = []
        """(verb, group, seq), in the order in which they came."""
        self.ack_timeout_ms = 30_000
        self.links: list[PeerLink] = []
        self.away: dict[str, dict[str, Sub]] = {}
        """Session secret -> what it holds while it has no connection and its grace runs."""
        self.dropped: dict[str, int] = {}
        """Topic -> the seq up to which retention has dropped its messages."""
        self.page = 100
        """Messages of one frame for a tail."""
        self.refuse: Callable[[Any], frames.Error | frames.Ok | None] = lambda _frame: None
        """May answer an operation in the peer's place, mostly with an error (its ref is filled in)."""
        self._leases = itertools.count(1)

    def connect(self) -> PeerLink:
        link = PeerLink(self)
        self.links.append(link)
        if self.greets:
            link.greet()
        return link

    @property
    def link(self) -> PeerLink:
        """The newest connection."""
        return self.links[-1]

    def store(self, topic: str, draft: frames.Draft) -> frames.Receipt:
        known = self.by_id.get((topic, draft.id))
        if known is not None:
            return frames.Receipt(draft.id, known.seq, duplicate=True)
        rows = self.stored.setdefault(topic, [])
        draft.seq = len(rows) + 1
        rows.append(draft)
        self.by_id[topic, draft.id] = draft
        for key, queue in self.waiting.items():
            if key[0] == topic:
                queue.append(frames.Delivery("", 0, draft))
        return frames.Receipt(draft.id, draft.seq, duplicate=False)

    def fill(self, topic: str, count: int) -> None:
        """So many messages, {"n": 1} and on, without a producer."""
        for _ in range(count):
            number = len(self.stored.get(topic, ())) + 1
            self.store(topic, frames.Draft(f"m{number}", b'{"n":%d}' % number, 1_700_000_000_000 + number))
        self.push_all()

    def group(self, key: tuple[str, str]) -> deque[frames.Delivery]:
        if key not in self.waiting:
            self.waiting[key] = deque(frames.Delivery("", 0, draft) for draft in self.stored.get(key[0], ()))
        return self.waiting[key]

    def take_back(self, key: tuple[str, str], deliveries: list[frames.Delivery]) -> None:
        queue = self.waiting[key]
        queue.extend(deliveries)
        self.waiting[key] = deque(sorted(queue, key=lambda delivery: delivery.message.seq))

    def push_all(self) -> None:
        for link in self.links:
            link.push()

    def end_grace(self) -> None:
        """Nobody came back in time."""
        away, self.away = self.away, {}
        for subs in away.values():
            for sub in subs.values():
                self.take_back(sub.key, list(sub.held.values()))
        self.push_all()

    def lease(self) -> str:
        return f"p.{next(self._leases)}"

    def acked(self) -> list[int]:
        return [seq for verb, _group, seq in self.settled if verb == "ack"]

    def held(self) -> int:
        return sum(len(sub.held) for link in self.links for sub in link.subs.values())


class PeerLink:
    """One connection, seen from the gateway."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.codec = JsonServerCodec()
        self.subs: dict[str, Sub] = {}
        self.tails: dict[str, PeerTail] = {}
        self.secret = f"{peer.welcome['session']}-{len(peer.links)}"
        self.grace_ms = 0
        self.out: list[bytes] = []
        """Lines for the client that nobody has moved yet."""
        self.messages: list[list[Any]] = []
        """Operations received, by WebSocket message."""
        self.closed = False
        self.close_code: int | None = None
        """Set by a test or a goodbye: what the mover of bytes is to close with."""

    # --- what a test sees and says -----------------------------------------------------------------------------

    @property
    def ops(self) -> list[Any]:
        return [op for message in self.messages for op in message]

    def of(self, kind: type) -> list[Any]:
        return [op for op in self.ops if type(op) is kind]

    def say(self, frame: Any) -> None:
        self.out.append(self.codec.encode(frame))

    def greet(self) -> None:
        self.say(frames.Welcome(**(self.peer.welcome | {"session": self.secret})))

    def goodbye(self, code: int, *, reconnect: bool = True, retry_after_ms: int | None = None) -> None:
        self.say(frames.Goodbye(code, "because", reconnect, retry_after_ms))
        self.close_code = code

    def disconnected(self) -> None:
        self.closed = True
        self.tails.clear()
        if self.grace_ms and self.subs:
            self.peer.away[self.secret], self.subs = self.subs, {}
        for name in list(self.subs):
            self._end(name)
        self.peer.push_all()

    # --- bytes -------------------------------------------------------------------------------------------------

    def feed(self, data: bytes | str) -> None:
        ops = list(self.codec.feed(data))
        self.messages.append(ops)
        for op in ops:
            self._handle(op)
        self.push()

    def take(self) -> bytes | None:
        """What there is for the client, as one WebSocket message."""
        lines, self.out = self.out, []
        return self.codec.join(lines) if lines else None

    # --- the rules ---------------------------------------------------------------------------------------------

    def _handle(self, op: Any) -> None:
        refusal = self.peer.refuse(op)
        if refusal is not None:
            refusal.ref = getattr(op, "ref", None)
            self.say(refusal)
            return
        answer = getattr(self, f"_{type(op).__name__.lower()}")(op)
        if answer is not None and self.peer.answers:
            self.say(answer)

    def _ok(self, op: Any, **fields: Any) -> frames.Ok | None:
        return None if op.ref is None else frames.Ok(op.ref, **fields)

    def _publish(self, op: frames.Publish) -> frames.Ok | None:
        receipts = [self.peer.store(op.topic, draft) for draft in op.messages]
        self.peer.push_all()
        return self._ok(op, receipts=receipts)

    def _subscribe(self, op: frames.Subscribe) -> frames.Ok | None:
        prefetch = 32 if op.prefetch is None else op.prefetch
        sub = Sub(op, prefetch)
        self.peer.group(sub.key)
        self.subs[sub.name] = sub
        ack_timeout_ms = op.ack_timeout_ms or self.peer.ack_timeout_ms
        return self._ok(op, sub=sub.name, prefetch=prefetch, ack_timeout_ms=ack_timeout_ms)

    def _unsubscribe(self, op: frames.Unsubscribe) -> frames.Ok | frames.Error | None:
        if self.tails.pop(op.sub, None) is not None:
            return self._ok(op)
        if op.sub not in self.subs:
            return frames.Error("unknown_subscription", "no such subscription", op.ref)
        self._end(op.sub)
        return self._ok(op)

    def _end(self, name: str) -> None:
        sub = self.subs.pop(name)
        self.peer.take_back(sub.key, list(sub.held.values()))

    def _flow(self, op: frames.Flow) -> frames.Ok | None:
        self.subs[op.sub].prefetch = op.prefetch
        return self._ok(op, prefetch=op.prefetch)

    def _auth(self, op: frames.Auth) -> frames.Ok | None:
        ok = self._ok(op, expires_in_ms=self.peer.welcome["expires_in_ms"])
        if ok is None or (op.session is None and op.resume_grace_ms is None):
            return ok
        if op.resume_grace_ms is not None:
            self.grace_ms = op.resume_grace_ms
        subs = self.peer.away.pop(op.session or "", None)
        if op.session is not None and subs is not None:
            assert not self.subs, "a session is resumed before the first subscription"
            self.secret, self.subs = op.session, subs
            ok.subs = {name: list(sub.held) for name, sub in subs.items()}
        ok.session, ok.resumed = self.secret, subs is not None
        return ok

    def _subscribetail(self, op: frames.SubscribeTail) -> frames.Ok | frames.Error | None:
        epoch, last = self.peer.welcome["epoch"], len(self.peer.stored.get(op.topic, ()))
        if op.epoch not in (None, epoch):
            return frames.Error("epoch_changed", f"the database was restored: {epoch}", op.ref)
        seq = op.after_seq
        if op.epoch is None:
            if isinstance(op.start, int):
                seq = op.start - 1
            else:
                seq = last if op.start == "new" else self.peer.dropped.get(op.topic, 0)
        tail = self.tails[op.sub or "unnamed"] = PeerTail(op.sub or "unnamed", op.topic, seq)
        return self._ok(op, sub=tail.name, epoch=epoch, seq=seq)

    def _ping(self, op: frames.Ping) -> frames.Pong:
        return frames.Pong(op.ref)

    def _pong(self, op: frames.Pong) -> None:
        return None

    def _ack(self, op: frames.Ack) -> frames.Ok | frames.Error | None:
        return self._settle("ack", op)

    def _nack(self, op: frames.Nack) -> frames.Ok | frames.Error | None:
        return self._settle("nack", op)

    def _reject(self, op: frames.Reject) -> frames.Ok | frames.Error | None:
        return self._settle("reject", op)

    def _release(self, op: frames.Release) -> frames.Ok | frames.Error | None:
        return self._settle("release", op)

    def _extend(self, op: frames.Extend) -> frames.Ok | frames.Error | None:
        stale = [lease for lease in op.leases if self._holder(lease) is None]
        if stale:
            return frames.Error("stale_lease", STALE, op.ref, leases=stale)
        return self._ok(op, expires_in_ms=self.peer.ack_timeout_ms)

    def _holder(self, lease: str) -> Sub | None:
        return next((sub for sub in self.subs.values() if lease in sub.held), None)

    def _settle(self, verb: str, op: Any) -> frames.Ok | frames.Error | None:
        stale = []
        for lease in op.leases:
            sub = self._holder(lease)
            if sub is None:
                stale.append(lease)
                continue
            delivery = sub.held.pop(lease)
            self.peer.settled.append((verb, sub.key[1], delivery.message.seq))
            if verb in ("nack", "release"):
                self.peer.take_back(sub.key, [delivery])
        if stale:
            return frames.Error("stale_lease", STALE, op.ref, leases=stale)
        return self._ok(op)

    def expire(self, lease: str) -> None:
        """The lease times out: its message goes to whoever is there."""
        sub = self._holder(lease)
        assert sub is not None
        self.peer.take_back(sub.key, [sub.held.pop(lease)])

    def push(self) -> None:
        """Fill every window."""
        if self.closed:
            return
        for tail in self.tails.values():
            self._show(tail)
        for sub in self.subs.values():
            queue = self.peer.waiting[sub.key]
            deliveries = []
            while queue and len(sub.held) < sub.prefetch:
                waiting = queue.popleft()
                delivery = frames.Delivery(self.peer.lease(), waiting.deliveries + 1, waiting.message)
                sub.held[delivery.lease] = delivery
                deliveries.append(delivery)
            if deliveries:
                self.say(frames.Messages(sub.name, sub.key[0], self.peer.ack_timeout_ms, deliveries))

    def _show(self, tail: PeerTail) -> None:
        dropped = self.peer.dropped.get(tail.topic, 0)
        if tail.seq < dropped:
            self.say(frames.Gap(tail.name, tail.seq + 1, dropped))
            tail.seq = dropped
        rows = self.peer.stored.get(tail.topic, [])
        while tail.seq < len(rows):
            part = rows[tail.seq : tail.seq + self.peer.page]
            self.say(frames.Tailed(tail.name, frames.TailBatch(tail.topic, part)))
            tail.seq = part[-1].seq
