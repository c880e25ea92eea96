"""Event streams, tickets and histories: where a stream begins and goes on, what ends it, and that a slow reader is fed
from the store."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire.wire.frames import Draft, Publish, Subscribe, SubscribeTail
from pushwire_gateway.api import make_app
from pushwire_gateway.streams import QUEUED_BYTES_MAX
from pushwire_storage.base import PurgeTopic, StoreBusy
from support.asgi_client import Call, Caller, turns
from support.gateway_parts import Client, Parts, cap

PATH = "/v1/topics/t/tail"
STATS_PATH = "/v1/topics/$sys.stats/tail"


class Scene:
    """A gateway, a producer, and callers."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.app = make_app(parts.gateway)
        self.producer: Client

    @classmethod
    async def set(cls, *bodies: bytes, **settings: Any) -> Scene:
        scene = cls(await Parts(**settings).start())
        scene.producer = await scene.parts.client("producer")
        await scene.publish(*(bodies or (b"1",)))
        return scene

    def caller(self, subject: str = "ann", *caps: dict[str, Any], **more: Any) -> Caller:
        return Caller(self.app, self.parts.token(subject, *caps, **more))

    async def publish(self, *bodies: bytes) -> None:
        await self.producer.ok(Publish("t", [Draft("", body) for body in bodies], 1))

    async def open(self, caller: Caller, query: str = "", **headers: str) -> Call:
        """A stream that has begun."""
        call = caller.begin("GET", PATH + query, **headers)
        await turns()
        assert call.status == 200, call.body
        return call

    async def purge(self, through_seq: int) -> None:
        topic = self.parts.gateway.topics.find("acme", "t")
        assert topic is not None
        self.parts.gateway.topics.purge(PurgeTopic(topic, through_seq), lambda _error: None)
        await self.parts.settled()


def seqs(events: list[tuple[str, str, Any]]) -> list[int]:
    assert all(kind == "message" and id == f"e1:{data['seq']}" for kind, id, data in events)
    return [data["seq"] for _, _, data in events]


async def test_a_stream_shows_what_comes_with_ids_to_go_on_from() -> None:
    scene = await Scene.set(b"1", b"2")
    call = await scene.open(scene.caller())
    assert call.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (call.headers["cache-control"], "content-length" in call.headers) == ("no-store", False)
    assert call.body == b"retry: 1000\nid: e1:2\n\n"  # goes on from here if nothing else comes
    await scene.publish(b'{"text":"a\\nb"}')
    ((kind, id, data),) = await call.events(1)
    assert (kind, id, data["topic"], data["data"]) == ("message", "e1:3", "t", {"text": "a\nb"})
    assert {"seq", "id", "priority", "published_at_ms"} <= set(data)


@pytest.mark.parametrize(
    ("query", "first"), [("?from=earliest", 1), ("?from=seq:2", 2), ("?from=time_ms:1", 1), ("?from=new", 4), ("", 4)]
)
async def test_a_stream_begins_at_a_place(query: str, first: int) -> None:
    scene = await Scene.set(b"1", b"2", b"3")
    call = await scene.open(scene.caller(), query)
    await scene.publish(b"4")
    assert seqs(await call.events(5 - first)) == list(range(first, 5))


@pytest.mark.parametrize("by_query", [False, True])
async def test_one_that_comes_back_sees_every_seq_once(by_query: bool) -> None:
    scene = await Scene.set()
    ann = scene.caller()
    call, last, seen = await scene.open(ann, "?from=earliest"), "", []
    for number in range(6):
        await scene.publish(b"1", b"2")
        found = await call.events(3 if number == 0 else 2)
        seen += seqs(found)
        last = found[-1][1]
        call.leave()
        await call.answer()
        await scene.publish(b"3")
        if by_query:
            call = await scene.open(ann, f"?from=earliest&last_event_id={last}")
        else:
            call = await scene.open(ann, "?from=earliest", last_event_id=last)
        ((_, last, data),) = await call.events(1)
        seen.append(data["seq"])
        call.leave()
        await call.answer()
        call = await scene.open(ann, last_event_id=last)
    assert seen == list(range(1, 20))
    call.leave()
    await call.answer()
    assert (len(scene.parts.gateway.streams), scene.parts.engine.tails.count()) == (0, 0)


async def test_what_is_not_kept_any_more_is_a_gap() -> None:
    scene = await Scene.set(b"1", b"2", b"3", b"4", b"5")
    await scene.purge(3)
    call = await scene.open(scene.caller(), last_event_id="e1:1")
    gap, *rest = await call.events(3)
    assert gap == ("gap", "e1:3", {"from": 2, "to": 3})
    assert seqs(rest) == [4, 5]


async def test_another_epoch_is_refused_and_named() -> None:
    scene = await Scene.set()
    call = await scene.caller().ask("GET", PATH, last_event_id="e0:7")
    assert (call.status, call.json()["code"], call.json()["detail"]) == (409, "epoch_changed", "e1")


REFUSED = {
    "no token": ({"authorization": "Bearer x.y.z"}, "", 401, "unauthorized"),
    "a bad ticket": ({"authorization": ""}, "?ticket=n1.x", 401, "unauthorized"),
    "two tickets": ({"authorization": ""}, "?ticket=a&ticket=b", 401, "unauthorized"),
    "a bad place": ({}, "?from=there", 400, "bad_request"),
    "a seq of none": ({}, "?from=seq:0", 400, "bad_request"),
    "a seq too large": ({}, "?from=seq:9999999999999999", 400, "bad_request"),
    "two places": ({}, "?from=new&from=new", 400, "bad_request"),
    "an id of nobody": ({"last_event_id": "7"}, "", 400, "bad_request"),
    "an id without seq": ({"last_event_id": "e1:"}, "", 400, "bad_request"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_stream_that_is_asked_for_badly_is_refused(name: str) -> None:
    headers, query, status, code = REFUSED[name]
    scene = await Scene.set()
    ann = scene.caller()
    if headers.get("authorization") == "":
        ann.token, headers = None, {}
    call = await ann.ask("GET", PATH + query, **headers)
    assert (call.status, call.json()["code"]) == (status, code)
    assert len(scene.parts.gateway.streams) == 0


async def test_rights_and_names_of_a_stream() -> None:
    scene = await Scene.set()
    for caps, path, status, code in (
        (cap("consume", "admin"), PATH, 403, "forbidden"),
        (cap(), "/v1/topics/a*b/tail", 400, "bad_topic"),
        (cap("replay"), "/v1/topics/u/tail", 404, "topic_not_found"),
        (cap("replay"), "/v1/topics/$sys.stats/tail", 403, "forbidden"),
        (cap("admin", topics="t"), "/v1/topics/$sys.stats/tail", 403, "forbidden"),
        (cap("admin"), "/v1/topics/$sys.other/tail", 400, "bad_topic"),
    ):
        call = await scene.caller("ann", caps).ask("GET", path)
        assert (call.status, call.json()["code"]) == (status, code)
    assert (await scene.caller().ask("HEAD", PATH)).status == 405


async def test_the_numbers_of_each_second_are_a_stream_too() -> None:
    scene = await Scene.set()
    # Where it was when its connection went says nothing of numbers that are made anew.
    call = scene.caller("root", cap("admin")).begin("GET", STATS_PATH, **{"last-event-id": "e0:7"})
    await turns()
    scene.parts.step(1)
    scene.parts.step(1)
    (_, one, first), (_, two, second) = await call.events(2)
    assert (int(two.split(":")[1]) - int(one.split(":")[1]), second["seq"] - first["seq"]) == (1, 1)
    assert second["data"] == await scene.parts.admin.stats(scene.parts.principal("root"))
    assert second["data"]["published"] == 1

    [stream] = scene.parts.gateway.streams._streams
    call.read(on=False)
    size_bytes = len(call.body) // 2
    for _ in range(QUEUED_BYTES_MAX // size_bytes):
        scene.parts.step(1)
        await turns(1)
    assert QUEUED_BYTES_MAX // 4 < stream.size_bytes < QUEUED_BYTES_MAX * 3 // 4  # the rest was never queued
    call.leave()
    await call.answer()
    asked: list[str] = []
    scene.parts.gateway.stats._numbers_of = lambda tenant: {"asked": asked.append(tenant)}
    scene.parts.step(2)
    assert not asked


async def test_streams_of_a_subject_and_in_total_are_bounded() -> None:
    scene = await Scene.set(streams_per_subject=2, streams_max=3)
    ann, bob = scene.caller(), scene.caller("bob")
    calls = [await scene.open(ann), await scene.open(ann), await scene.open(bob)]
    for caller in (ann, bob):
        call = await caller.ask("GET", PATH)
        assert (call.status, call.json()["code"], call.headers["retry-after"]) == (503, "too_many_connections", "5")
    calls[0].leave()
    await calls[0].answer()
    await scene.open(ann)


async def test_a_slow_reader_is_fed_from_the_store_and_queues_little() -> None:
    scene = await Scene.set()
    slow, quick = await scene.open(scene.caller()), await scene.open(scene.caller("bob"))
    slow.read(on=False)
    body = b'"%s"' % (b"x" * 20_000)
    for _ in range(100):
        await scene.publish(body)
        await turns(1)
    stream = next(one for one in scene.parts.gateway.streams._streams if one.principal.subject == "ann")
    assert stream.size_bytes < QUEUED_BYTES_MAX + 2 * len(body)
    assert seqs(await quick.events(100)) == list(range(2, 102))
    reads = scene.parts.store.reads
    await scene.publish(body)
    await scene.parts.settled()
    assert scene.parts.store.reads == reads  # nothing is read for somebody who takes nothing
    slow.read()
    assert seqs(await slow.events(101)) == list(range(2, 103))
    assert scene.parts.store.reads > reads
    await scene.publish(b"1")
    assert seqs(await slow.events(102))[-1] == 103


async def test_a_commit_larger_than_the_queue_comes_whole_and_in_order() -> None:
    scene = await Scene.set()
    call = await scene.open(scene.caller())
    for _ in range(3):
        await scene.publish(*[b'"%s"' % (b"x" * 20_000)] * 30)
    assert seqs(await call.events(90)) == list(range(2, 92))


async def test_a_stream_that_begins_in_the_past_and_is_not_read_queues_little_however_large_the_messages() -> None:
    scene = await Scene.set()
    for _ in range(30):
        await scene.publish(b'"%s"' % (b"x" * 60_000))
    call = scene.caller().begin("GET", PATH + "?from=earliest")
    call.read(on=False)
    await turns()
    [stream] = scene.parts.gateway.streams._streams
    assert 60_000 < stream.size_bytes <= QUEUED_BYTES_MAX + 70_000
    call.read()
    assert seqs(await call.events(31)) == list(range(1, 32))


async def test_all_streams_and_tails_share_one_frame_and_one_event() -> None:
    scene = await Scene.set()
    socket = await scene.parts.client("sam")
    await socket.ok(SubscribeTail("t", ref=1))
    calls = [await scene.open(scene.caller(f"user-{number}")) for number in range(20)]
    built = scene.parts.gateway.batches.built
    await scene.publish(b"2")
    assert await socket.shown() == [2]
    for call in calls:
        assert seqs(await call.events(1)) == [2]
    assert scene.parts.gateway.batches.built == built + 1


async def test_silence_is_broken_by_a_comment() -> None:
    scene = await Scene.set()
    call = await scene.open(scene.caller())
    before = call.body
    for seconds, comments in ((14, 0), (2, 1), (10, 1), (6, 2)):
        scene.parts.step(seconds)
        await turns()
        assert call.body == before + b": keepalive\n\n" * comments


async def test_the_end_of_its_token_ends_a_stream() -> None:
    scene = await Scene.set()
    call = await scene.open(scene.caller(life_s=100))
    scene.parts.step(129)
    assert not call.complete
    scene.parts.step(2)
    kind, _, data = (await (await call.answer()).events(1))[0]
    assert (kind, data["code"], call.complete) == ("end", "unauthorized", True)
    assert data["message"]


async def test_a_revoked_token_ends_its_streams_and_what_was_queued_is_not_shown() -> None:
    scene = await Scene.set()
    call = await scene.open(scene.caller())
    other = await scene.open(scene.caller("bob"))
    call.read(on=False)
    await scene.publish(b"2")
    await turns(1)
    await scene.publish(b"3")
    await scene.parts.admin.revoke(scene.parts.principal("admin"), subject="ann")
    call.read()
    await call.answer()
    found = await call.events(2)
    assert [kind for kind, _, _ in found] == ["message", "end"]  # the first was given to the transport already
    assert seqs(await other.events(2)) == [2, 3]
    assert len(scene.parts.gateway.streams) == 1


async def test_a_drain_ends_streams_after_what_is_queued() -> None:
    scene = await Scene.set()
    call = await scene.open(scene.caller())
    await scene.publish(b"2")
    scene.parts.gateway.drain(lambda: 0)
    await call.answer()
    found = await call.events(2)
    assert [(kind, data.get("code")) for kind, _, data in found] == [("message", None), ("end", "going_away")]
    scene.parts.gateway.draining = True
    assert (await scene.caller().ask("GET", PATH)).json()["code"] == "going_away"


async def test_a_topic_that_goes_and_a_store_that_fails_end_a_stream() -> None:
    scene = await Scene.set()
    call = await scene.open(scene.caller())
    await scene.parts.admin.delete_topic(scene.parts.principal("admin"), "t")
    kind, _, data = (await (await call.answer()).events(1))[0]
    assert (kind, data["code"]) == ("end", "topic_not_found")
    scene = await Scene.set()
    scene.parts.store.failing = StoreBusy("busy")
    call = await scene.open(scene.caller(), "?from=seq:1")
    kind, _, data = (await (await call.answer()).events(1))[0]
    assert (kind, data["code"]) == ("end", "busy")


# --- tickets


async def test_a_ticket_opens_one_stream_with_the_rights_of_its_token() -> None:
    scene = await Scene.set()
    ann = scene.caller("ann", cap("replay"))
    made = await ann.ask("POST", "/v1/tickets")
    assert (made.status, made.json()["expires_in_ms"]) == (201, 30_000)
    browser = Caller(scene.app)
    ticket = made.json()["ticket"]
    call = await scene.open(browser, f"?ticket={ticket}")
    again = await browser.ask("GET", f"{PATH}?ticket={ticket}")
    assert (again.status, again.json()["code"]) == (401, "unauthorized")
    await scene.publish(b"2")
    assert seqs(await call.events(1)) == [2]
    two = (await ann.ask("POST", "/v1/tickets")).json()["ticket"]
    assert (await ann.ask("GET", f"{PATH}?ticket={two}")).status == 401  # one way to say who one is, not two


async def test_a_ticket_expires_and_one_for_another_origin_is_none() -> None:
    scene = await Scene.set(origins=("https://app.example", "https://other.example"))
    ann = scene.caller()
    for wait, shown_from, status in ((31, "https://app.example", 401), (1, "https://other.example", 401)):
        made = await ann.ask("POST", "/v1/tickets", origin="https://app.example")
        scene.parts.step(wait)
        call = await Caller(scene.app).ask("GET", f"{PATH}?ticket={made.json()['ticket']}", origin=shown_from)
        assert call.status == status
    made = await ann.ask("POST", "/v1/tickets", origin="https://app.example")
    call = await scene.open(Caller(scene.app), f"?ticket={made.json()['ticket']}", origin="https://app.example")
    assert call.headers["access-control-allow-origin"] == "https://app.example"


async def test_tickets_are_refused_without_a_token_and_beyond_their_number() -> None:
    scene = await Scene.set()
    assert (await Caller(scene.app).ask("POST", "/v1/tickets")).status == 401
    ann = scene.caller()
    for _ in range(32):
        assert (await ann.ask("POST", "/v1/tickets")).status == 201
    call = await ann.ask("POST", "/v1/tickets")
    assert (call.status, call.json()["code"]) == (429, "rate_limited")
    scene = await Scene.set(controls_per_s=1, controls_burst=1)
    ann = scene.caller()
    assert [(await ann.ask("POST", "/v1/tickets")).status for _ in range(2)] == [201, 429]


# --- what became of a message


async def test_the_history_of_a_message() -> None:
    scene = await Scene.set()
    admin = scene.parts.principal("admin")
    await scene.parts.admin.configure_topic(admin, "t", {"ledger": "settled"}, replace=False)
    socket = await scene.parts.client("sam")
    await socket.ok(Subscribe("t", "g", ref=1, start="earliest"))
    (row,) = await socket.delivered()
    ann = scene.caller("sam", cap("replay"))
    ann.session = socket.welcome.session
    await ann.settle("ack", [row.lease])
    call = await ann.ask("GET", "/v1/topics/t/messages/1/history")
    assert call.status == 200
    assert (call.json()["seq"], call.json()["ledger"]) == (1, "settled")
    assert [event["event"] for event in call.json()["events"]] == ["acked"]
    for path, status, code in (
        ("/v1/topics/t/messages/x/history", 400, "bad_request"),
        ("/v1/topics/t/messages/0/history", 400, "bad_request"),
        ("/v1/topics/u/messages/1/history", 404, "topic_not_found"),
        ("/v1/topics/a*/messages/1/history", 400, "bad_topic"),
    ):
        call = await ann.ask("GET", path)
        assert (call.status, call.json()["code"]) == (status, code)
    assert (await scene.caller("ann", cap("consume")).ask("GET", "/v1/topics/t/messages/1/history")).status == 403
