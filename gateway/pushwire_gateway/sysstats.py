"""The numbers of one tenant: as a snapshot, and once a second to the tails of `$sys.stats`.

Owns what is counted for a tenant and who watches it. Nothing is counted per message, nothing here is stored, and no
number of one tenant says anything of another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from heapq import nlargest
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Protocol

from pushwire.wire.codec import dumps
from pushwire.wire.frames import STATS_TOPIC, TailBatch
from pushwire_storage.base import Message

from .clock import to_ms
from .core.model import Pending
from .histogram import Histogram

if TYPE_CHECKING:
    from .engine import Engine
    from .gateway import Gateway

TOPICS_SHOWN_MAX = 50
"""Topics listed one by one, those that keep the most messages: a screenful, however many there are."""


PUSH_BOUNDS_MS = (1, 2, 3, 5, 8, 12, 20, 35, 60, 100, 200, 500, 1000, 5000, 30_000)
"""Messages are stamped in whole milliseconds; the upper ones are for queues that wait for their consumers."""


@dataclass(slots=True)
class Tally:
    """What happened in one tenant since the gateway started: plain integers, raised once per operation or push."""

    published: int = 0
    """Messages stored, duplicates included."""
    refused: int = 0
    """Publish operations that were not stored."""
    delivered: int = 0
    redelivered: int = 0
    acked: int = 0
    nacked: int = 0
    rejected: int = 0
    released: int = 0
    extended: int = 0
    stale: int = 0
    """Settlements that came too late."""
    push_ms: Histogram = field(default_factory=lambda: Histogram(PUSH_BOUNDS_MS))
    """From the moment in which a message was taken to its push; one observation a push."""

    def pushed(self, deliveries: Sequence[Pending], now: float) -> None:
        """These were handed to one client. Of them the newest first delivery says how long a message took: that of the
        oldest would say how long the queue is. One that was scheduled took as long as it was told to."""
        self.delivered += len(deliveries)
        self.redelivered += len([None for pending in deliveries if pending.deliveries > 1])
        newest = deliveries[-1]
        if newest.deliveries == 1 and newest.message.due_ms is None:
            self.push_ms.observe(to_ms(now) - newest.message.published_at_ms)


TALLY_FIELDS = tuple(one.name for one in fields(Tally) if one.name != "push_ms")


def numbers(gateway: Gateway, tenant: str) -> dict[str, Any]:
    """Everything that is counted of a tenant, as of now."""
    topics = gateway.topics.of(tenant)
    held = list(gateway.registry.of(tenant))
    connections = gateway.sessions_of(tenant)
    subs = [sub for one in held for sub in one.core.subs.values()]
    tally = gateway.tally(tenant)
    largest = nlargest(TOPICS_SHOWN_MAX, topics.values(), key=lambda topic: topic.messages)
    return {
        "at_ms": to_ms(gateway.clock.now()),
        "topics": len(topics),
        "groups": sum(len(topic.groups) for topic in topics.values()),
        "messages": sum(topic.messages for topic in topics.values()),
        "bytes": sum(topic.bytes for topic in topics.values()),
        "scheduled": sum(topic.scheduled for topic in topics.values()),
        "dead_letters": sum(topic.dead_letters for topic in topics.values()),
        "connections": len(connections),
        "sessions": len(held),
        "sessions_away": sum(one.away for one in held),
        "subscriptions": len(subs),
        "tails": sum(one.tails for one in connections),
        "in_flight": sum(len(sub.leases) for sub in subs),
        "ready": sum(group.ready for group in {sub.group for sub in subs}),
        **{name: getattr(tally, name) for name in TALLY_FIELDS},
        "push_ms": [
            [bound, count]
            for bound, count in zip((*PUSH_BOUNDS_MS, None), accumulate(tally.push_ms.counts), strict=True)
        ],
        "by_topic": {
            topic.name: {
                "last_seq": topic.last_seq,
                "messages": topic.messages,
                "bytes": topic.bytes,
                "scheduled": topic.scheduled,
                "dead_letters": topic.dead_letters,
                "groups": len(topic.groups),
            }
            for topic in largest
        },
    }


class StatsViewer(Protocol):
    """Who watches `$sys.stats`."""

    def show_stats(self, batch: TailBatch) -> None:
        """The numbers of this second, flushed at the end of the turn."""

    def flush(self) -> None:
        """Hand what was queued to the transport."""


class SysStats:
    """The tails of `$sys.stats`, by tenant."""

    def __init__(self, engine: Engine, numbers_of: Callable[[str], Mapping[str, Any]]) -> None:
        self._engine = engine
        self._numbers_of = numbers_of
        self._viewers: dict[str, dict[StatsViewer, None]] = {}
        self.seq = 0
        """Of the newest message: the second it was made in, so that it goes on rising after a restart."""

    def add(self, viewer: StatsViewer, tenant: str) -> None:
        """It sees the tenant's numbers from the next second on. Harmless when repeated."""
        self._viewers.setdefault(tenant, {})[viewer] = None

    def remove(self, viewer: StatsViewer) -> None:
        """It sees them no longer. Harmless when repeated."""
        for tenant, viewers in list(self._viewers.items()):
            viewers.pop(viewer, None)
            if not viewers:
                del self._viewers[tenant]

    def tick(self, now: float) -> None:
        """Called once a second. Costs nothing while nobody watches."""
        self.seq = max(self.seq + 1, int(now))
        for tenant, viewers in self._viewers.items():
            message = Message(f"stats-{self.seq}", dumps(self._numbers_of(tenant)), to_ms(now))
            message.seq = self.seq
            batch = TailBatch(STATS_TOPIC, (message,))
            for viewer in viewers:
                viewer.show_stats(batch)
                self._engine.touch(viewer)
