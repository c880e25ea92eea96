"""What a message costs while everything else grows: topics, connections, groups, payload, lanes, keys, remembered ids.

Owns the plan and the measurement: one busy pair as in the throughput scenario, batched, beside what merely exists. A
fresh broker for each, so that a row knows nothing of the one before. (Scheduled messages are in backlog.py.)
"""

from __future__ import annotations

import http.client
import itertools
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.dialects import PushwireV1
from bench.links import LoadError
from bench.roles import Consumer, Producer
from bench.scenarios import throughput
from bench.scenarios.base import DRAIN_S, SETUP_S, Case, Load, Metric
from bench.stats import Ids, Ledger

SUBSCRIPTIONS_MAX = 125
"""Of one connection; a gateway allows 128."""
SUBSCRIBING_AHEAD = 2000
VISITED_AHEAD = 100
METRICS = (
    Metric("broker CPU", "us/message", higher_is_better=False),
    Metric("messages", "1/s", higher_is_better=True),
)
DELIVERIES = (
    Metric("broker CPU", "us/delivery", higher_is_better=False),
    Metric("deliveries", "1/s", higher_is_better=True),
)
"""Where several groups each get every message."""
BASE = {"producers": 1, "consumers": 1, **throughput.MODES["batched"]}
JSON = {"content-type": "application/json"}
LIMITS_OFF = dict.fromkeys(("PUSHWIRE_PUBLISH_PER_S", "PUSHWIRE_PUBLISH_BYTES_PER_S", "PUSHWIRE_CONTROLS_PER_S"), "0")


def cases(quick: bool) -> list[Case]:
    """None in a quick run: each needs a broker of its own."""
    if quick:
        return []
    rows: list[tuple[str, dict[str, Any], Mapping[str, str]]] = [("nothing else", {}, {})]
    rows += [(f"{count:,} topics", {"topics": count}, {}) for count in (100, 9_900)]
    rows.append(("9,900 topics, all active", {"active_topics": 9_900, "visited": True}, {}))
    rows.append(("9,900 topics, each for the first time", {"active_topics": 9_900}, {}))
    rows += [(f"{count:,} connections", {"idle": count}, {}) for count in (100, 5_000)]
    rows += [(f"{count} groups, all active", {"groups": count}, {}) for count in (4, 16)]
    rows += [(f"payload {size:,} B", {"body_bytes": size}, {}) for size in (20, 2_000)]
    rows.append(("payload 32,000 B", {"body_bytes": 32_000, "per_op": 20}, {}))  # 50 are more than a frame may hold
    rows += [
        ("4 lanes", {"fields": [f'"priority":{lane},' for lane in range(4)]}, {}),
        ("1,000 keys", {"fields": [f'"key":"k{number}",' for number in range(1000)]}, {}),
        ("ledger: settled", {"config": {"ledger": "settled"}}, {}),
        ("ledger: full", {"config": {"ledger": "full"}}, {}),
        ("limits off", {}, LIMITS_OFF),
        ("random ids", {"random_ids": True}, {}),
        ("1,000,000 ids remembered", {"remembered": 1_000_000}, {}),
        ("1,000,000 ids remembered, random ids", {"remembered": 1_000_000, "random_ids": True}, {}),
    ]
    return [
        Case(
            "growth", name, {**BASE, "warm_s": 0.5, "measure_s": 2.0, **params},
            DELIVERIES if "groups" in params else METRICS, fresh=True,
            connections=params.get("idle", 0) + _topics_of(params) // SUBSCRIPTIONS_MAX + 32,
            systems=("pushwire",), env=env,
        )
        for name, params, env in rows
    ]  # fmt: skip


def _topics_of(params: Mapping[str, Any]) -> int:
    return int(params.get("topics") or params.get("active_topics") or 0)


class RandomIds(Ids):
    """UUIDs of version 4 with the same counter at their end, so that the ledger knows them."""

    def take(self, count: int, unix_ms: int, producer: int = 0) -> list[str]:
        self.made += count
        bits = self._rng.getrandbits
        return [
            f"{str(uuid.UUID(int=bits(128), version=4))[:24]}{number:012x}"
            for number in itertools.islice(self._counter, count)
        ]


def measure(load: Load, params: dict[str, Any]) -> dict[str, float]:
    if params.get("fields"):
        if not isinstance(load.dialect, PushwireV1):
            raise LoadError("only pushwire's protocol has these fields")
        load.dialect.rotate([field.encode() for field in params["fields"]])
    if params.get("config"):
        _configure(load, params["config"])
    kind = RandomIds if params.get("random_ids") else Ids
    if params.get("topics"):
        _topics(load, params["topics"])
    if params.get("idle"):
        _idle(load, params["idle"])
    if params.get("remembered"):
        _remember(load, params["remembered"], kind(load.seed + 1_000_000))
    if params.get("active_topics"):
        return _active(load, params, kind(load.seed))
    groups = [f"g{number}" for number in range(params["groups"])] if params.get("groups") else ["default"]
    figures = throughput.measure(load, params, groups, kind(load.seed))
    if params.get("groups"):
        figures["deliveries"] = figures.pop("messages")
    return figures


def _configure(load: Load, config: Mapping[str, Any]) -> None:
    """Make the busy pair's topic with this configuration, as an administrator does."""
    target, headers = load.loop.target, {"authorization": f"Bearer {next(load.tokens)}"}
    connection = http.client.HTTPConnection(target.host, target.port, timeout=SETUP_S)
    try:
        connection.request("PUT", f"/v1/admin/topics/{load.topic}", json.dumps(config), JSON | headers)
        answer = connection.getresponse()
        if answer.status not in (200, 201):
            raise LoadError(f"the topic was not made: {answer.status} {answer.read(300)!r}")
    finally:
        connection.close()


class RoundProducer(Producer):
    """Each operation goes to the next topic."""

    topics: Iterator[str]

    def publish(self, count: int, per_op: int, ledgers: Sequence[Ledger]) -> list[str]:
        ids = []
        for _ in range(0, count, per_op):
            self.topic = next(self.topics)
            ids += super().publish(per_op, per_op, ledgers)
        return ids


def _active(load: Load, params: dict[str, Any], ids: Ids) -> dict[str, float]:
    """One producer that goes round all topics, each of which has a member; it comes to some 2,000."""
    ledger = Ledger(ids)
    producer = RoundProducer(load.loop, load.talk(), "", ids)
    producer.topics = itertools.cycle(_other_topics(params["active_topics"]))
    load.connect([producer])
    members = _topics(load, params["active_topics"], ledger, params["prefetch"])
    if params.get("visited"):
        _visit(load, producer, params["active_topics"], ledger)
    return throughput.sustain(load, params, [producer], members, [ledger])


def _visit(load: Load, producer: RoundProducer, count: int, ledger: Ledger) -> None:
    """A message to each topic: what is measured then is a topic's traffic, and not its first message."""
    for at in range(0, count, VISITED_AHEAD):
        producer.publish(min(VISITED_AHEAD, count - at), 1, [ledger])
        load.wait(lambda: not (producer.in_flight or ledger.outstanding), "first messages", 30)


def _other_topics(count: int) -> list[str]:
    return [f"bench.other.t{number}" for number in range(count)]


def _topics(load: Load, count: int, ledger: Ledger | None = None, prefetch: int = 1) -> list[Consumer]:
    """So many topics with a group and a member each; silent, unless somebody publishes there."""
    ledger = ledger or Ledger(Ids(0))
    peers = [
        Consumer(load.loop, load.talk(), f"member {at}", ledger, batched=True)
        for at in range(0, count, SUBSCRIPTIONS_MAX)
    ]
    load.connect(peers)
    for number, topic in enumerate(_other_topics(count)):
        peers[number // SUBSCRIPTIONS_MAX].subscribe(topic, "default", prefetch)
        if number % SUBSCRIBING_AHEAD == SUBSCRIBING_AHEAD - 1 or number == count - 1:
            load.wait(lambda: not any(peer.waiting for peer in peers), "subscriptions", 30)
    return peers


def _idle(load: Load, count: int) -> None:
    """So many connections that subscribe the same few topics, silent."""
    ledger = Ledger(Ids(0))
    peers = [Consumer(load.loop, load.talk(), f"idle {n}", ledger, batched=True) for n in range(count)]
    load.connect(peers)
    for number, peer in enumerate(peers):
        peer.subscribe(f"bench.other.t{number % 50}", "default", 1)
    load.wait(lambda: not any(peer.waiting for peer in peers), "subscriptions", 30)


def _remember(load: Load, count: int, ids: Ids) -> None:
    """Publish and settle so many messages on another topic: only their ids are left of them."""
    topic, ledger = f"{load.topic}.before", Ledger(ids)
    producer = Producer(load.loop, load.talk(), topic, ids)
    consumer = Consumer(load.loop, load.talk(), "before", ledger, batched=True)
    load.connect([producer, consumer])
    consumer.subscribe(topic, "default", 1000)
    load.wait(lambda: not consumer.waiting, "subscription")

    def pressed() -> bool:
        if ledger.published < count:
            producer.fill(4000, 500, (ledger,))
        return ledger.published >= count and not (ledger.outstanding or producer.in_flight)

    load.wait(pressed, lambda: f"{count - ledger.arrived:,} messages", 60 + DRAIN_S)
    load.check(ledger)
