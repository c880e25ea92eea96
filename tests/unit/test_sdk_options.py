"""What a user may ask for in the second version: schedules, places to begin, private groups; and new endings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from pushwire import ConsumerUnhealthy, PublishError, PublishItem, SubscribeError
from pushwire.drafts import make_draft
from pushwire.wire import frames
from pushwire.wire.codec import loads
from support.sdk_memory import MemoryClient, turns
from support.sdk_pair import Pair

WHEN = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=2)))
WHEN_MS = 1_772_359_200_000


@pytest.mark.parametrize(
    ("options", "due_ms", "expires_ms"),
    [
        ({"delay_s": 1.5}, -1500, None),
        ({"delay_s": 0}, None, None),
        ({"deliver_at": WHEN}, WHEN_MS, None),
        ({"ttl_s": 60}, None, -60_000),
        ({"delay_s": 366 * 86400, "ttl_s": 366 * 86400}, -31_622_400_000, -31_622_400_000),
        ({"ttl_s": 0.001, "priority": 3, "key": "k"}, None, -1),
    ],
)
def test_schedules_become_what_the_wire_says(options, due_ms, expires_ms):
    draft, _ = make_draft(1, **options)
    assert (draft.due_ms, draft.expires_ms) == (due_ms, expires_ms)


@pytest.mark.parametrize(
    "options",
    [{"delay_s": -1}, {"delay_s": 366 * 86400 + 1}, {"delay_s": float("nan")}, {"ttl_s": 0}, {"ttl_s": 366 * 86400 + 1},
     {"delay_s": 1, "deliver_at": WHEN}, {"deliver_at": datetime(2026, 1, 1)},  # noqa: DTZ001 - naive is the point
     {"deliver_at": datetime(1960, 1, 1, tzinfo=UTC)}],
)  # fmt: skip
def test_a_schedule_that_is_none_is_refused_before_it_is_sent(options):
    with pytest.raises(PublishError) as caught:
        make_draft(1, **options)
    assert caught.value.code == "bad_request"


async def test_schedules_reach_the_wire():
    async with MemoryClient() as client:
        await client.publish("orders", 1, delay_s=2, ttl_s=9)
        await client.publish_many("orders", [PublishItem(2, deliver_at=WHEN), 3])
    drafts = [draft for op in client.peer.link.of(frames.Publish) for draft in op.messages]
    assert [(draft.due_ms, draft.expires_ms) for draft in drafts] == [(-2000, -9000), (WHEN_MS, None), (None, None)]


def test_the_size_allowance_covers_every_field():
    draft, size_bytes = make_draft(
        b"x" * 3000, "i" * 128, "\x01" * 255, 3, {"h" * 200: "v" * 500}, "t" * 127, None, WHEN, 366 * 86400
    )
    line = Pair().session._codec.encode(frames.Publish("t", [draft], 1))
    body = line.removeprefix(b'{"op":"publish","ref":1,"topic":"t",')
    assert len(body) < len(line)
    assert len(body) <= size_bytes


@pytest.mark.parametrize(
    ("start", "wire"),
    [("new", "new"), ("earliest", "earliest"), (7, {"seq": 7}), (WHEN, {"time_ms": WHEN_MS})],
)
async def test_a_group_begins_where_it_is_told(start, wire):
    async with MemoryClient() as client, client.subscribe("orders", start=start):
        (asked,) = client.link.of(frames.Subscribe)
        line = Pair().session._codec.encode(asked)
        assert loads(line)["start"] == wire


@pytest.mark.parametrize("start", ["latest", 0, -5, True, 1.5, datetime(2026, 1, 1)])  # noqa: DTZ001 - naive is the point
async def test_a_start_that_is_none_is_refused(start):
    async with MemoryClient() as client:
        with pytest.raises(ValueError):
            client.subscribe("orders", start=start)


async def test_a_private_group_names_its_client():
    async with (
        MemoryClient() as client,
        client.subscribe("orders", "inbox", private=True, client_id="phone-1", inactive_ttl_s=3600),
    ):
        (asked,) = client.link.of(frames.Subscribe)
        assert (asked.client_id, asked.inactive_ttl_ms) == ("phone-1", 3_600_000)
        client.cut()
        client.connect()
        await turns(3)
        (asked,) = client.link.of(frames.Subscribe)
        assert (asked.client_id, asked.inactive_ttl_ms) == ("phone-1", 3_600_000)


@pytest.mark.parametrize(
    "options",
    [{"private": True}, {"client_id": "phone"}, {"private": True, "client_id": "a b"}, {"inactive_ttl_s": 0.5},
     {"inactive_ttl_s": 367 * 86400}],
)  # fmt: skip
async def test_private_and_its_client_go_together(options):
    async with MemoryClient() as client:
        with pytest.raises(ValueError):
            client.subscribe("orders", **options)


def test_a_redriven_message_says_so():
    pair = Pair()
    pair.peer.fill("orders", 2)
    pair.peer.stored["orders"][0].redriven = True
    consumer, _ = pair.subscribe()
    assert [message.redriven for message in pair.take(consumer, 2)] == [True, False]


@pytest.mark.parametrize(
    ("code", "kind"), [("consumer_unhealthy", ConsumerUnhealthy), ("group_not_found", SubscribeError)]
)
def test_the_gateway_ends_a_subscription_with_a_reason(code, kind):
    pair = Pair()
    pair.peer.fill("orders", 1)
    consumer, _ = pair.subscribe()
    message = pair.take(consumer)[0]
    pair.link.say(frames.Error(code, "because", sub=consumer.name))
    pair.pump()
    with pytest.raises(kind) as caught:
        consumer.over()
    assert caught.value.code == code
    assert message.lost.is_set()
