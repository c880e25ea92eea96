"""`GET /metrics`: the gateway's numbers as Prometheus text, and who may read them.

Owns the names of the series, and how many there can be. Reads integers that others count anyway; counts nothing, and
nothing of it happens but at a scrape. The only module that knows prometheus_client.
"""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import nlargest
from ipaddress import ip_address
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pushwire.wire.codes import CLOSES
from pushwire_storage.base import Group, StoreStats, Topic

from .api_base import principal_of
from .gateway import Gateway
from .histogram import Histogram
from .hub import Stats
from .problems import SAFE_HEADERS
from .refusal import Refusal, Refused
from .rights import DEFAULT_TENANT
from .session import SERVER

PREFIX: Final = "pushwire_"
FORWARDED: Final = ("x-forwarded-for", "forwarded", "x-real-ip", "via")
"""Headers of requests that somebody else made: a proxy on this machine is not the one who asks."""


def metrics_route(gateway: Gateway, port: Callable[[], Stats]) -> Route:
    """The route. `port`: the counters of the listener, which is made later."""

    async def metrics(request: Request) -> Response:
        await _check_may_read(gateway, request)
        stats = await gateway.engine.store.stats()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Scrape(gateway, port(), stats))
        return Response(generate_latest(registry), 200, {"content-type": CONTENT_TYPE_LATEST, **SAFE_HEADERS})

    return Route("/metrics", metrics, methods=["GET"])


async def _check_may_read(gateway: Gateway, request: Request) -> None:
    """Numbers of all tenants: for administrators of the tenant `default`, the metrics token, and, where the settings
    say so, whoever is on this machine. Raises Refused."""
    settings = gateway.settings
    if settings.metrics_loopback and _from_here(request):
        return
    given = request.headers.get("authorization", "")
    if settings.metrics_token is not None:
        wanted = f"Bearer {settings.metrics_token.get_secret_value()}"
        if hmac.compare_digest(given.encode(), wanted.encode()):
            return
    principal = await principal_of(gateway, request)
    if principal.tenant != DEFAULT_TENANT or not principal.may("admin", None):
        raise Refused(Refusal("forbidden"))


def _from_here(request: Request) -> bool:
    """Whether somebody on this machine asks for this machine. A page in a browser here asks by its own host's name,
    which it may have made lead here, and then names no Origin: so the name must be one that is nobody else's."""
    if request.client is None or any(name in request.headers for name in FORWARDED):
        return False
    host = request.url.hostname or ""
    return _is_loopback(request.client.host) and (host == "localhost" or _is_loopback(host))


def _is_loopback(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False


class _Scrape(Collector):
    """One scrape."""

    def __init__(self, gateway: Gateway, port: Stats, store: StoreStats) -> None:
        self._gateway = gateway
        self._port = port
        self._store = store

    def collect(self) -> Iterator[Metric]:
        versions = {"version": SERVER, "store": self._gateway.engine.store.version}
        yield InfoMetricFamily(f"{PREFIX}build", "What runs here.", versions)
        yield from self._clients()
        yield from self._messages()
        yield from self._writes()
        yield from self._kept()
        if self._gateway.settings.metrics_series_max:
            yield from self._each()

    def _clients(self) -> Iterator[Metric]:
        gateway, port = self._gateway, self._port
        sessions = gateway.sessions
        away = sum(held.away for held in gateway.registry)
        subs = sum(len(held.core.subs) for held in gateway.registry)
        yield _gauge("connections", "WebSockets that are open.", len(sessions))
        yield _counter("connections_accepted", "Connections let in, HTTP and WebSocket.", port.accepted)
        yield _counter("connections_opened", "WebSockets opened.", port.websockets_opened)
        codes: Counter[str] = Counter()
        for code, count in port.websockets_closed.items():
            codes[str(code) if code in CLOSES or code == 1006 else "other"] += count
        yield _counters("connections_closed", "WebSockets closed, by close code.", "code", codes)
        yield _counters("connections_refused", "Connections refused at accept, by cap.", "cap", port.refused)
        yield _counters("http_cut", "HTTP connections ended by the gateway, by cause.", "cause", port.http_cut)
        yield _counter("slow_consumer_disconnects", "Clients cut off because they stopped reading.", port.stalled)
        yield _counter("failures", "Exceptions in the gateway's own code that ended a connection.", port.failures)
        states = {"connected": len(gateway.registry) - away, "away": away}
        yield _gauges("sessions", "Sessions, by whether a connection serves them.", "state", states)
        yield _gauge("subscriptions", "Members of groups.", subs)
        yield _gauge(
            "tails", "Tails, of WebSockets and as streams.", sum(one.tails for one in sessions) + len(gateway.streams)
        )
        yield _gauge("streams", "Tails as streams of events.", len(gateway.streams))
        yield _gauge("polls_waiting", "Long polls being served.", gateway.polls.waiting)
        unsent = sum(one.outbox.size_bytes for one in sessions)
        yield _gauge("send_buffer_bytes", "Bytes queued for clients, not yet with their transports.", unsent)
        yield _counters("ratelimit_rejections", "Refusals by a rate limit.", "scope", gateway.throttle.refused)
        yield _counters("auth_failures", "Credentials refused, by reason.", "reason", gateway.tokens.failures)
        yield _gauge("eventloop_lag_seconds", "How late the newest tick of the event loop was.", gateway.loop_lag_s)

    def _messages(self) -> Iterator[Metric]:
        counters, batcher = self._gateway.engine.core.counters, self._gateway.engine.batcher
        yield _counter("messages_published", "Messages stored, duplicates included.", batcher.messages_committed)
        refused = self._gateway.tallied().refused
        yield _counter("publishes_refused", "Publish operations that were not stored.", refused)
        for name, text in _COUNTED.items():
            yield _counter(f"messages_{name}", text, getattr(counters, name))
        expired = counters.expired + self._gateway.engine.expired_on_disk
        yield _counter("messages_expired", "Messages whose TTL ended before their group had settled them.", expired)
        yield _counters("messages_dead_lettered", "Dead letters made.", "reason", self._gateway.engine.died)
        yield _counters("lane_delivered", "Deliveries by priority.", "priority", _by_priority(counters.served))
        text = "Of those, what was chosen while a lane of another priority of the group had something too."
        yield _counters("lane_contended", text, "priority", _by_priority(counters.contended))
        yield _counter("settlements_stale", "Settlements of leases not held any more.", counters.stale)
        yield _counter("sessions_resumed", "Sessions taken over by a new connection.", counters.resumed)
        yield _counter("subscriptions_unhealthy", "Subscriptions ended: lease after lease ran out.", counters.unhealthy)
        in_flight = sum(len(sub.leases) for held in self._gateway.registry for sub in held.core.subs.values())
        yield _gauge("messages_in_flight", "Messages under a lease.", in_flight)

    def _writes(self) -> Iterator[Metric]:
        batcher, store = self._gateway.engine.batcher, self._store
        yield _histogram(
            "store_transaction_duration_seconds", "From handing a batch over to its COMMIT.", batcher.commit_s
        )
        yield _histogram("store_batch_size", "Messages and settlements of one transaction.", batcher.batch_rows)
        yield _counter("store_batches_failed", "Batches rolled back whole, and written again later.", batcher.failed)
        yield _counter("store_settlements", "Settlements made durable.", batcher.settlements_committed)
        yield _counter("ledger_events", "Lines written to delivery ledgers.", batcher.events_committed)
        yield _gauge("batcher_waiting_messages", "Messages that wait for their transaction.", batcher.waiting_messages)
        yield _gauge("batcher_waiting_bytes", "Bytes that wait for their transaction.", batcher.waiting_bytes)
        yield _gauge(
            "batcher_settled_bytes", "Messages in memory until their settlement is durable.", batcher.settled_bytes
        )
        yield _gauge("store_size_bytes", "Size of the database file.", store.file_bytes)
        yield _gauge("store_wal_bytes", "Size of the write-ahead log.", store.wal_bytes)
        yield _counter("store_corrupt_rows", "Rows met whose checksum did not match.", store.corrupt_rows)
        broken = batcher.broken is not None
        yield _gauge("store_broken", "1 once the store can no longer be trusted; the process ends then.", broken)

    def _kept(self) -> Iterator[Metric]:
        store = self._store
        yield _gauge("topics", "Topics.", store.topics)
        yield _gauge("groups", "Groups.", store.groups)
        yield _gauge("messages_kept", "Messages kept.", store.messages)
        yield _gauge("kept_bytes", "Bytes kept.", store.bytes)
        yield _gauge("dead_letters_kept", "Dead letters kept.", store.dead_letters)
        scheduled = sum(topic.scheduled for topic in self._gateway.engine.store.topics.values())
        yield _gauge("messages_scheduled", "Messages whose time has not come.", scheduled)
        yield _counter(
            "messages_expired_unowed", "Messages whose TTL ended while no group was owed them.", store.expired
        )

    def _each(self) -> Iterator[Metric]:
        """Topics and groups one by one, those that keep the most, up to the cap."""
        most = self._gateway.settings.metrics_series_max
        topics = nlargest(most, self._gateway.engine.store.topics.values(), key=lambda topic: topic.messages)
        yield from _series("topic", ("tenant", "topic"), _TOPIC_SERIES, ((_names(topic), topic) for topic in topics))
        groups: list[Group] = []
        for topic in topics:
            groups += list(topic.groups.values())[: most - len(groups)]
        rows = (((*_names(group.topic), group.name), self._group(group)) for group in groups)
        yield from _series("group", ("tenant", "topic", "group"), _GROUP_SERIES, rows)

    def _group(self, group: Group) -> Mapping[str, float]:
        active = self._gateway.engine.core.group(group)
        members = () if active is None else active.members
        return {
            "members": len(members),
            "in_flight": sum(len(member.leases) for member in members),
            "ready": 0 if active is None else active.ready,
            "paused": group.paused,
        }


_COUNTED: Final = {
    "delivered": "Deliveries.",
    "redelivered": "Deliveries of messages that had been delivered before.",
    "acked": "Deliveries acked.",
    "nacked": "Deliveries that failed.",
    "rejected": "Deliveries rejected.",
    "released": "Deliveries given back unworked.",
    "extended": "Leases extended.",
    "timed_out": "Leases that ran out.",
    "returned": "Deliveries given back because the consumer was gone.",
}
_TOPIC_SERIES: Final = {
    "messages": "Messages kept by a topic.",
    "bytes": "Bytes kept by a topic.",
    "scheduled": "Messages of a topic whose time has not come.",
    "dead_letters": "Dead letters of a topic.",
    "last_seq": "Newest seq of a topic.",
}
_GROUP_SERIES: Final = {
    "members": "Members of a group.",
    "in_flight": "Messages of a group under a lease.",
    "ready": "Messages of a group in memory, waiting for a member.",
    "paused": "Whether a group is paused.",
}


def _names(topic: Topic) -> tuple[str, str]:
    return topic.tenant, topic.name


def _series(
    kind: str, labels: tuple[str, ...], texts: Mapping[str, str], rows: Iterable[tuple[tuple[str, ...], object]]
) -> Iterator[Metric]:
    families = {name: GaugeMetricFamily(f"{PREFIX}{kind}_{name}", text, labels=labels) for name, text in texts.items()}
    for values, row in rows:
        for name, family in families.items():
            family.add_metric(values, float(row[name] if isinstance(row, Mapping) else getattr(row, name)))
    yield from families.values()


def _by_priority(counts: Iterable[int]) -> dict[str, int]:
    return {str(priority): count for priority, count in enumerate(counts)}


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in sorted(values.items()):
        family.add_metric([value], count)
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(PREFIX + name, text, buckets=histogram.cumulative(), sum_value=histogram.total)
