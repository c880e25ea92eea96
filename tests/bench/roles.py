"""Producers and consumers: what sits on a link and keeps the load going.

Owns windows, refs and stamps. What a scenario measures is the scenario's; how bytes move is links.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from bench.dialects import HELLO, Answer, Delivered, Done, Receipt, Talk
from bench.links import Link, LoadError, Loop
from bench.stats import Ids, Ledger

BACKLOG_MAX = 20_000
"""Messages published and not yet delivered, all producers together. A broker that confirms faster than it delivers is
measured at the rate it delivers, not by how much it can pile up."""


class Peer:
    """A link with the answers it waits for."""

    def __init__(self, loop: Loop, talk: Talk, name: str) -> None:
        self.talk = talk
        self.link = Link(loop, name, self._payload)
        self.waiting: set[int] = set()
        self._ref = HELLO

    def greet(self) -> None:
        """Open the conversation; it is open when nothing is waited for."""
        hello = self.talk.hello()
        if hello:
            self.waiting.add(HELLO)
            self.link.send((hello,))

    def next_ref(self) -> int:
        self._ref += 1
        return self._ref

    def _payload(self, payload: bytes) -> None:
        for event in self.talk.events(payload):
            if type(event) is Delivered:
                self.delivered(event)
            elif type(event) is Receipt:
                self.receipt(event)
            elif type(event) is Answer:
                self.link.send((event.payload,))
            elif type(event) is Done and event.ref is not None:
                self.waiting.discard(event.ref)

    def delivered(self, event: Delivered) -> None:
        raise LoadError(f"{self.link.name}: messages for a connection without a subscription")

    def receipt(self, event: Receipt) -> None:
        raise LoadError(f"{self.link.name}: a receipt for a connection that published nothing")


class Producer(Peer):
    """Publishes with a bounded window of unconfirmed messages."""

    def __init__(self, loop: Loop, talk: Talk, topic: str, ids: Ids, number: int = 0) -> None:
        super().__init__(loop, talk, f"producer {number}")
        self.topic = topic
        self.ids = ids
        self.number = number
        self.unconfirmed: dict[int, int] = {}  # ref -> messages
        self.in_flight = 0
        self.confirmed = 0
        self.on_receipt: Callable[[list[str]], None] | None = None

    def publish(self, count: int, per_op: int, ledgers: Sequence[Ledger]) -> list[str]:
        """Send `count` messages, `per_op` in each frame. Returns their ids."""
        ids = self.ids.take(count, time.time_ns() // 1_000_000, self.number)
        for ledger in ledgers:
            ledger.publish(ids)
        frames = []
        for at in range(0, count, per_op):
            part = ids[at : at + per_op]
            ref = self.next_ref()
            self.unconfirmed[ref] = len(part)
            frames.append(self.talk.publish(self.topic, part, ref))
        self.in_flight += count
        self.link.send(frames)
        return ids

    def receipt(self, event: Receipt) -> None:
        count, expected = len(event.ids), self.unconfirmed.pop(event.ref, None)
        if expected is None or count > expected:
            raise LoadError(f"{self.link.name}: a receipt for {count} messages, {expected} expected")
        if count < expected:
            self.unconfirmed[event.ref] = expected - count
        self.in_flight -= count
        self.confirmed += count
        if self.on_receipt:
            self.on_receipt(event.ids)

    def fill(self, window: int, per_op: int, ledgers: Sequence[Ledger]) -> None:
        """Publish whole operations up to the window of unconfirmed messages and the common backlog."""
        backlog = max(ledger.outstanding for ledger in ledgers)
        free = min(window - self.in_flight, BACKLOG_MAX - backlog) // per_op * per_op
        if free > 0:
            self.publish(free, per_op, ledgers)


class Consumer(Peer):
    """Subscribes, books what arrives, acknowledges it at once: each message in its own frame, or (batched) with one
    operation all that came in one frame. `confirm` asks for the durable answer to each acknowledgement."""

    def __init__(self, loop: Loop, talk: Talk, name: str, ledger: Ledger, batched: bool) -> None:
        super().__init__(loop, talk, name)
        self.ledger = ledger
        self.batched = batched
        self.confirm = False
        self.on_ids: Callable[[list[str]], None] | None = None

    def subscribe(self, topic: str, group: str, prefetch: int) -> None:
        ref = self.next_ref()
        self.waiting.add(ref)
        self.link.send((self.talk.subscribe(topic, group, prefetch, ref),))

    def delivered(self, event: Delivered) -> None:
        if self.on_ids:  # first of all: it takes the time stamp
            self.on_ids(event.ids)
        self.ledger.arrive(event.ids)
        if not event.leases:
            return
        parts = (event.leases,) if self.batched else [(lease,) for lease in event.leases]
        self.link.send([self.talk.ack(leases, self._ack_ref()) for leases in parts])

    def _ack_ref(self) -> int | None:
        if not self.confirm:
            return None
        ref = self.next_ref()
        self.waiting.add(ref)
        return ref
