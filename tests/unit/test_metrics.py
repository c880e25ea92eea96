"""`/metrics`: who may read it, that its numbers are those of what happened, and that it cannot grow without bound."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pushwire.wire.frames import Ack, Draft, Nack, Publish, Reject, Subscribe, SubscribeTail
from pushwire_gateway.app import whole_app
from pushwire_gateway.histogram import Histogram
from pushwire_gateway.hub import Stats
from support.gateway_parts import Parts, cap
from support.spec import check_answer


async def scrape(parts, *, port=None, address="192.0.2.7", token=None, **headers):
    """The response to a scrape from this address; a token of the default tenant's root unless told otherwise."""
    if token is None:
        token = parts.token("root", tenant="default")
    transport = httpx.ASGITransport(whole_app(parts.gateway, lambda: port or Stats()), client=(address, 1234))
    lines = {"authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        response = await client.get("/metrics", headers={**lines, **headers})
    body = response.text if response.status_code == 200 else response.json()
    check_answer("GET", "/metrics", response.status_code, response.headers["content-type"], body)
    return response


def samples(response):
    """(name, labels) -> value."""
    assert response.status_code == 200, response.text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def numbers(parts, **more):
    """What has no labels, by name without prefix; and the rest."""
    found = samples(await scrape(parts, **more))
    return {name.removeprefix("pushwire_"): value for (name, labels), value in found.items() if not labels}, found


async def test_it_counts_what_happened():
    parts = await Parts().start()
    client = await parts.client()
    await client.ok(Subscribe("t", "g", "s", ref=1, prefetch=10))
    await client.ok(Publish("t", [Draft("", b"%d" % n) for n in range(5)], 2))
    rows = await client.delivered(5)
    await client.ok(Ack([row.lease for row in rows[:2]], ref=3))
    await client.ok(Nack([rows[2].lease], ref=4))
    await client.ok(Reject([rows[3].lease], "bad", 5))
    await client.error(Ack(["n1.nothing.1"], ref=6))
    port = Stats(accepted=7, websockets_opened=3)
    port.websockets_closed.update({1000: 2, 4999: 1, 3999: 1})
    port.refused["rate"] += 4
    plain, all_of = await numbers(parts, port=port)
    expected = {
        "connections": 1, "connections_accepted_total": 7, "connections_opened_total": 3, "subscriptions": 1,
        "messages_published_total": 5, "messages_delivered_total": 5, "messages_acked_total": 2,
        "messages_nacked_total": 1, "messages_rejected_total": 1, "settlements_stale_total": 1,
        "messages_in_flight": 1, "messages_kept": 2, "dead_letters_kept": 1, "topics": 1, "groups": 1,
        "store_broken": 0, "store_batches_failed_total": 0,
    }  # fmt: skip
    assert {name: plain[name] for name in expected} == expected
    assert all_of["pushwire_messages_dead_lettered_total", (("reason", "rejected"),)] == 1
    assert all_of["pushwire_connections_closed_total", (("code", "1000"),)] == 2
    assert all_of["pushwire_connections_closed_total", (("code", "other"),)] == 2  # a client may close with any code
    assert all_of["pushwire_connections_refused_total", (("cap", "rate"),)] == 4
    assert all_of["pushwire_sessions", (("state", "connected"),)] == 1
    assert all_of["pushwire_lane_delivered_total", (("priority", "1"),)] == 5
    commits = plain["store_batch_size_count"]
    assert commits == parts.engine.batcher.commits > 0
    assert plain["store_transaction_duration_seconds_count"] == commits
    assert plain["store_batch_size_sum"] == 5 + 4
    assert all_of["pushwire_store_batch_size_bucket", (("le", "+Inf"),)] == commits


@pytest.mark.parametrize("expired", ["dead", "drop"])
async def test_what_expires_is_counted_in_memory_and_on_disk(expired):
    parts = await Parts(pong_timeout_s=300).start()
    await parts.admin.create_topic(parts.principal("root"), "t", {"expired": expired})
    client = await parts.client()
    await client.ok(Subscribe("t", "disk", prefetch=0, ref=1))
    await client.ok(Subscribe("t", "memory", prefetch=1, ref=2))
    await client.ok(Publish("t", [Draft("", b"1"), Draft("", b"2", expires_ms=-1000)], 3))
    await client.delivered(1)
    await parts.elapse(2)
    plain, found = await numbers(parts)
    assert plain["messages_expired_total"] == 2
    assert found.get(("pushwire_messages_dead_lettered_total", (("reason", "expired"),)), 0) == 2 * (expired == "dead")


async def test_tails_are_counted_whichever_way_they_come():
    parts = await Parts().start()
    client = await parts.client()
    await client.ok(Publish("t", [Draft("", b"1")], 1))
    await client.ok(SubscribeTail("t", ref=2))
    stream = parts.gateway.streams.open(parts.principal("bob"))
    stream.follow(parts.store.topics["acme", "t"], 1)
    plain, _ = await numbers(parts)
    assert (plain["tails"], plain["streams"], plain["polls_waiting"]) == (2, 1, 0)
    parts.gateway.streams.leave(stream)
    plain, _ = await numbers(parts)
    assert (plain["tails"], plain["streams"]) == (1, 0)


async def test_saturated_lanes_show_the_shares_that_the_weights_promise():
    parts = await Parts().start()
    client = await parts.client()
    for priority in range(4):
        await client.ok(Publish("t", [Draft("", b"1", priority=priority) for _ in range(400)], 2))
    await client.ok(Subscribe("t", "g", "s", start="earliest", prefetch=15, ref=1))
    for _ in range(4):  # until all lanes are in memory
        await parts.settled()
        client.say(Ack([row.lease for row in await client.delivered(15)]))
    before = await contended(parts)
    for _ in range(40):
        client.say(Ack([row.lease for row in await client.delivered(15)]))
    shares = [after - earlier for after, earlier in zip(await contended(parts), before, strict=True)]
    assert shares == [40, 80, 160, 320]


async def contended(parts):
    _, found = await numbers(parts)
    return [found["pushwire_lane_contended_total", (("priority", str(level)),)] for level in range(4)]


async def test_a_lane_that_is_alone_is_served_and_not_contended():
    parts = await Parts().start()
    client = await parts.client()
    await client.ok(Subscribe("t", "g", "s", ref=1))
    await client.ok(Publish("t", [Draft("", b"1")], 2))
    await client.delivered(1)
    _, found = await numbers(parts)
    assert found["pushwire_lane_delivered_total", (("priority", "1"),)] == 1
    assert found["pushwire_lane_contended_total", (("priority", "1"),)] == 0


async def test_refusals_are_counted_by_scope_and_reason():
    parts = await Parts(publish_per_s=1, publish_burst=1).start()
    client = await parts.client()
    await client.ok(Publish("t", [Draft("", b"1")], 1))
    await client.error(Publish("t", [Draft("", b"1")], 2))
    await scrape(parts, token="a.b.c")
    plain, found = await numbers(parts)
    assert found["pushwire_ratelimit_rejections_total", (("scope", "publish"),)] == 1
    assert sum(value for (name, _), value in found.items() if name == "pushwire_auth_failures_total") == 1
    assert plain["publishes_refused_total"] == 1


async def test_the_lag_of_the_loop_is_how_late_a_tick_is():
    parts = await Parts().start()
    parts.step(1.0)
    assert (await numbers(parts))[0]["eventloop_lag_seconds"] == 0
    parts.clock.step(1.25)  # the loop had no time for its timers
    parts.loop.run_until(parts.clock.now())
    assert (await numbers(parts))[0]["eventloop_lag_seconds"] == pytest.approx(0.25)


# --- how much there can be -------------------------------------------------------------------------------------


async def test_names_are_no_labels_unless_asked_for_and_then_so_many_and_no_more():
    for most, topics, groups in ((0, 0, 0), (2, 2, 2)):
        parts = await Parts(metrics_series_max=most).start()
        client = await parts.client()
        for number, topic in enumerate(("a", "b", "c"), start=1):
            await client.ok(Subscribe(topic, "g", topic, ref=1, prefetch=1))
            await client.ok(Publish(topic, [Draft("", b"1") for _ in range(number)], 2))
            await client.delivered(1)
        found = samples(await scrape(parts))
        shown = {
            dict(labels)["topic"]: value for (name, labels), value in found.items() if name == "pushwire_topic_messages"
        }
        assert len(shown) == topics
        assert not shown or shown == {"c": 3, "b": 2}  # those that keep the most
        in_flight = [value for (name, _), value in found.items() if name == "pushwire_group_in_flight"]
        assert in_flight == [1] * groups


async def test_every_name_is_ours_and_none_says_whose():
    parts = await Parts().start()
    client = await parts.client("subject-of-ann")
    await client.ok(Subscribe("topic-of-ann", "group-of-ann", "s", ref=1))
    response = await scrape(parts)
    assert "of-ann" not in response.text
    assert {family.name.split("_")[0] for family in text_string_to_metric_families(response.text)} == {"pushwire"}


# --- who may read it -------------------------------------------------------------------------------------------


async def test_it_is_for_administrators_of_the_default_tenant():
    parts = await Parts().start()
    assert (await scrape(parts)).status_code == 200
    assert (await scrape(parts, token=parts.token("root"))).json()["code"] == "forbidden"  # another tenant's
    narrow = parts.token("root", cap("admin", topics="a.*"), tenant="default")
    assert (await scrape(parts, token=narrow)).json()["code"] == "forbidden"
    assert (await scrape(parts, token="")).json()["code"] == "unauthorized"


async def test_the_metrics_token_opens_the_metrics():
    parts = await Parts(metrics_token="0123456789abcdef").start()
    assert (await scrape(parts, token="0123456789abcdef")).status_code == 200
    for wrong in ("0123456789abcdeg", "0123456789abcde", "ä" * 8):
        headers = {"authorization": f"Bearer {wrong}".encode()}
        assert (await scrape(parts, token="", **headers)).status_code == 401
    assert (await scrape(parts)).status_code == 200  # administrators still may


@pytest.mark.parametrize(
    ("allowed", "address", "headers", "status"),
    [
        (True, "127.0.0.1", {}, 200),
        (True, "127.0.0.1", {"host": "127.0.0.1:8080"}, 200),
        (True, "::1", {"host": "[::1]:8080"}, 200),
        (True, "192.0.2.7", {}, 401),
        (True, "127.0.0.1", {"host": "evil.example"}, 401),  # a page that made its own name lead here
        (True, "127.0.0.1", {"host": "localhost.evil.example"}, 401),
        (True, "127.0.0.1", {"host": "evil.example@localhost"}, 401),
        (True, "127.0.0.1", {"host": "203.0.113.5"}, 401),
        (True, "127.0.0.1", {"x-forwarded-for": "203.0.113.5"}, 401),
        (True, "127.0.0.1", {"forwarded": "for=203.0.113.5"}, 401),
        (False, "127.0.0.1", {}, 401),
    ],
)
async def test_this_machine_may_read_it_where_the_settings_say_so_but_not_for_others(allowed, address, headers, status):
    parts = await Parts(metrics_loopback=allowed).start()
    asked = {"host": "localhost:8080", **headers}
    assert (await scrape(parts, address=address, token="", **asked)).status_code == status


# --- histograms ------------------------------------------------------------------------------------------------


def test_a_histogram_counts_by_upper_bounds_that_are_included():
    histogram = Histogram((1, 2.5))
    for value in (0, 1, 1.5, 2.5, 2.6, -3):
        histogram.observe(value)
    assert histogram.cumulative() == [("1", 3.0), ("2.5", 5.0), ("+Inf", 6.0)]
    assert histogram.total == pytest.approx(4.6)
