"""Long polls: what is leased to whom, how long such a session lives, and that an abandoned request loses nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pushwire.wire.frames import Ack, Auth, Draft, Goodbye, Messages, Ok, Publish, Subscribe, Unsubscribe
from pushwire_gateway.api import make_app
from support.asgi_client import Call, Caller
from support.gateway_parts import Client, Parts, cap

PATH = "/v1/topics/t/groups/g/messages"


class Scene:
    """A gateway, a producer, and callers."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.app = make_app(parts.gateway)
        self.producer: Client

    @classmethod
    async def set(cls, *, groups: tuple[str, ...] = ("g",), **settings: Any) -> Scene:
        scene = cls(await Parts(**settings).start())
        scene.producer = await scene.parts.client("producer")
        for group in groups:
            await scene.producer.ok(Subscribe("t", group, group, ref=1, start="earliest"))
            await scene.producer.ok(Unsubscribe(group, 2))
        return scene

    def caller(self, subject: str = "ann", *caps: dict[str, Any], **more: Any) -> Caller:
        return Caller(self.app, self.parts.token(subject, *caps, **more))

    async def publish(self, *bodies: bytes, topic: str = "t") -> None:
        await self.producer.ok(Publish(topic, [Draft("", body) for body in bodies], 1))

    async def waiting(self, call: Call) -> Call:
        """This poll, once it waits inside the gateway."""
        for _ in range(50):
            await asyncio.sleep(0)
        assert call.waits, call.body
        return call

    async def get(self, caller: Caller, **query: Any) -> list[dict[str, Any]]:
        """What a poll brings that need not wait for a publish. A first one looks into the store for a moment."""
        call = caller.poll(PATH, **query)
        await self.settle_down(call)
        return await caller.polled(call)

    async def settle_down(self, call: Call) -> None:
        for _ in range(200):
            if call.task.done():
                return
            await asyncio.sleep(0)
        self.parts.step(0.3)

    def leases(self) -> int:
        """Held by anybody."""
        return sum(len(seqs["leased"]) for seqs in self.parts.engine.core.census().values())


def data(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["data"] for message in messages]


def tokens(messages: list[dict[str, Any]]) -> list[str]:
    return [message["lease"] for message in messages]


async def test_a_poll_leases_what_is_there_with_everything_a_push_would_say() -> None:
    scene = await Scene.set()
    await scene.publish(b"1", b"2", b"3")
    ann = scene.caller()
    got = await scene.get(ann, max=2)
    assert data(got) == [1, 2]
    assert {"lease", "topic", "seq", "id", "attempt", "redelivered", "priority", "published_at_ms"} <= set(got[0])
    assert (got[0]["expires_in_ms"], got[0]["attempt"], got[0]["redelivered"]) == (30_000, 1, False)
    assert await ann.settle("ack", tokens(got)) == {"settled": 2, "stale": []}
    assert data(await scene.get(ann, max=2)) == [3]


async def test_a_poll_waits_and_is_woken_in_the_turn_of_the_commit() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    call = await scene.waiting(ann.poll(PATH, wait=20))
    scene.parts.store.hold()
    scene.producer.say(Publish("t", [Draft("a", b"1")], 1))
    await scene.waiting(call)
    assert scene.leases() == 0
    scene.parts.store.release()
    await scene.producer.next(Ok)  # the receipt, written in the turn that learned of the commit
    assert scene.leases() == 1
    assert data(await ann.polled(call)) == [1]


async def test_a_wait_that_is_over_answers_nothing_and_nothing_is_leased_after() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    call = await scene.waiting(ann.poll(PATH, wait=20))
    scene.parts.step(19.9)
    await scene.waiting(call)
    scene.parts.step(0.1)
    assert await ann.polled(call) == []
    await scene.publish(b"1", b"2")
    assert scene.leases() == 0
    assert data(await scene.get(ann)) == [1, 2]


async def test_without_a_wait_the_answer_comes_at_once() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    assert await scene.get(ann) == []
    assert await ann.polled(ann.poll(PATH)) == []  # the group is open: no clock has to move


async def test_never_more_than_asked_for_whatever_is_settled_meanwhile() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    await scene.publish(*[b"%d" % number for number in range(6)])
    first = await scene.get(ann, max=4)
    second = await scene.get(ann, max=2)
    assert (len(first), len(second)) == (4, 2)
    waiting = await scene.waiting(ann.poll(PATH, wait=20, max=1))
    assert (await ann.settle("ack", tokens(first)))["settled"] == 4
    await scene.publish(b"6", b"7", b"8")
    assert data(await ann.polled(waiting)) == [6]
    assert scene.leases() == 3


async def test_the_window_is_the_largest_of_a_subscription_and_the_tokens() -> None:
    scene = await Scene.set()
    ann = scene.caller(limits={"prefetch": 3})
    await scene.publish(*[b"%d" % number for number in range(6)])
    first = await scene.get(ann, max=1000)
    assert data(first) == [0, 1, 2]
    assert await scene.get(ann) == []
    await ann.settle("ack", tokens(first)[:1])
    assert data(await scene.get(ann)) == [3]


async def test_the_bytes_in_flight_of_a_session_are_bounded() -> None:
    scene = await Scene.set(in_flight_bytes_max=2048)
    ann = scene.caller()
    await scene.publish(*[b'"%s"' % (b"x" * 900) for _ in range(6)])
    first = await scene.get(ann)
    assert len(first) == 2
    call = await scene.waiting(ann.poll(PATH, wait=20))
    await ann.settle("ack", tokens(first))
    assert len(await ann.polled(call)) == 2


async def test_polls_of_one_session_are_served_in_turn() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    await scene.get(ann)
    calls = [await scene.waiting(ann.poll(PATH, wait=20, max=1)) for _ in range(3)]
    await scene.publish(b"1", b"2", b"3")
    assert [data(await ann.polled(call)) for call in calls] == [[1], [2], [3]]


async def test_a_nack_a_reject_a_release_and_an_extension() -> None:
    scene = await Scene.set()
    ann, bob = scene.caller(), scene.caller("bob")
    await scene.publish(b"1", b"2", b"3", b"4")
    one, two, three, four = tokens(await scene.get(ann))
    assert await ann.settle("nack", [one], delay_ms=5000, error="why") == {"settled": 1, "stale": []}
    assert await ann.settle("reject", [two], error="bad") == {"settled": 1, "stale": []}
    assert await ann.settle("release", [three]) == {"settled": 1, "stale": []}
    assert data(await scene.get(bob)) == [3]
    scene.parts.step(20)
    assert await ann.settle("extend", [four, one]) == {"settled": 1, "stale": [one], "expires_in_ms": 30_000}
    scene.parts.step(29)
    assert await ann.settle("ack", [four, four]) == {"settled": 1, "stale": [four]}
    assert data(await scene.get(ann)) == [1, 3]  # bob's session has ended meanwhile


async def test_a_settlement_is_answered_after_its_commit() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    await scene.publish(b"1")
    got = await scene.get(ann)
    scene.parts.store.hold()
    call = ann.begin("POST", "/v1/leases/ack", {"leases": tokens(got)})
    await scene.waiting(call)
    scene.parts.store.release()
    assert (await call.answer()).json() == {"settled": 1, "stale": []}


async def test_who_settles_while_too_much_is_not_durable_waits_and_is_not_refused() -> None:
    scene = await Scene.set(batcher_bytes_max=1 << 20, in_flight_bytes_max=4 << 20, message_bytes_max=1 << 20)
    ann = scene.caller()
    await scene.publish(b'"%s"' % (b"x" * 1_000_000))
    await scene.publish(b'"%s"' % (b"x" * 1_000_000))
    await scene.publish(b"3")
    first = await scene.get(ann, max=2) + await scene.get(ann)
    assert len(first) == 3
    scene.parts.store.hold()
    large = ann.begin("POST", "/v1/leases/ack", {"leases": tokens(first)[:2]})
    await scene.waiting(large)
    assert scene.parts.engine.batcher.behind
    small = ann.begin("POST", "/v1/leases/ack", {"leases": tokens(first)[2:]})
    await scene.waiting(small)
    assert scene.leases() == 1
    scene.parts.store.release()
    assert (await large.answer()).json()["settled"] == 2
    assert (await small.answer()).json()["settled"] == 1


# --- sessions


async def test_a_session_ends_an_ack_timeout_after_its_last_request_and_others_get_its_leases_at_once() -> None:
    scene = await Scene.set()
    ann, bob = scene.caller(), scene.caller("bob")
    await scene.publish(b"1", b"2")
    got = await scene.get(ann, ack_timeout=10)
    waiting = await scene.waiting(bob.poll(PATH, wait=30, ack_timeout=60))
    scene.parts.step(9)
    assert scene.leases() == 2
    assert waiting.waits
    scene.parts.step(1)
    taken = await bob.polled(waiting)
    assert [(row["data"], row["attempt"], row["redelivered"]) for row in taken] == [(1, 2, True), (2, 2, True)]
    assert scene.parts.engine.core.counters.timed_out == 0  # a lost client is no failure of its messages
    assert await ann.settle("ack", tokens(got)) == {"settled": 0, "stale": tokens(got)}


async def test_every_request_keeps_the_session_and_its_longest_timeout_counts() -> None:
    scene = await Scene.set(groups=("g", "h"))
    ann = scene.caller()
    await scene.publish(b"1", b"2")
    (one, two) = tokens(await scene.get(ann, ack_timeout=10))
    other = ann.poll("/v1/topics/t/groups/h/messages", ack_timeout=40)
    await scene.settle_down(other)
    await ann.polled(other)
    for _ in range(3):
        scene.parts.step(9)
        await ann.settle("extend", [one, two])
    scene.parts.step(9)
    assert await ann.settle("ack", [one, two]) == {"settled": 2, "stale": []}
    scene.parts.step(39)
    assert len(scene.parts.gateway.polls) == 1
    scene.parts.step(1.1)
    assert len(scene.parts.gateway.polls) == 0
    assert scene.leases() == 0


async def test_a_session_that_waits_lives_and_its_leases_run_out_as_any() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    await scene.publish(b"1")
    await scene.get(ann, ack_timeout=5)
    call = await scene.waiting(ann.poll(PATH, wait=30, ack_timeout=5))
    scene.parts.step(5.1)
    assert scene.parts.engine.core.counters.timed_out == 1
    await scene.parts.elapse(2)
    (row,) = await ann.polled(call)
    assert (row["data"], row["attempt"]) == (1, 2)


async def test_without_the_header_each_request_begins_a_session_and_idle_ones_make_room() -> None:
    scene = await Scene.set(poll_sessions_per_subject=3)
    ann = scene.caller()
    secrets = set()
    for _ in range(6):
        ann.session = None
        await scene.get(ann)
        secrets.add(ann.session)
    assert len(secrets) == 6
    assert len(scene.parts.gateway.polls) == 3
    for number in range(3):
        ann.session = None
        await scene.publish(b"%d" % number)
        assert data(await scene.get(ann)) == [number]
    ann.session = None
    answer = await ann.poll(PATH).answer()
    assert (answer.status, answer.json()["code"]) == (503, "too_many_connections")
    assert answer.headers["retry-after"] == "1"


async def test_a_foreign_secret_begins_a_new_session_and_settles_nothing() -> None:
    scene = await Scene.set()
    ann, eve = scene.caller(), scene.caller("eve")
    other = scene.caller("ann", tenant="other")
    await scene.publish(b"1")
    got = await scene.get(ann)
    secret = ann.session
    for stranger in (eve, other):
        stranger.session = secret
        assert await stranger.settle("ack", tokens(got)) == {"settled": 0, "stale": tokens(got)}
    eve.session = secret
    assert await scene.get(eve) == []
    assert eve.session not in (None, secret)
    ann.session = "n1.unknown"
    assert await scene.get(ann) == []
    assert ann.session not in ("n1.unknown", secret)
    ann.session = secret
    assert await ann.settle("ack", tokens(got)) == {"settled": 1, "stale": []}


async def test_a_lease_of_another_session_of_the_same_subject_is_stale() -> None:
    scene = await Scene.set()
    one, two = scene.caller(), scene.caller()
    await scene.publish(b"1")
    got = await scene.get(one)
    await scene.get(two)
    assert await two.settle("ack", tokens(got)) == {"settled": 0, "stale": tokens(got)}
    assert await one.settle("ack", tokens(got)) == {"settled": 1, "stale": []}


# --- over two transports


async def test_a_lease_from_the_socket_is_settled_over_http_and_the_socket_lives_on() -> None:
    scene = await Scene.set()
    socket = await scene.parts.client("ann")
    await socket.ok(Subscribe("t", "g", "s", prefetch=1, ref=1))
    await scene.publish(b"1", b"2")
    (one,) = await socket.delivered()
    ann = scene.caller()
    ann.session = socket.welcome.session
    assert await ann.settle("ack", [one.lease]) == {"settled": 1, "stale": []}
    (two,) = await socket.delivered()  # the window is free again
    assert (two.message.seq, socket.closed) == (2, None)


async def test_a_lease_from_http_is_settled_over_the_socket_that_takes_the_session_over() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    await scene.publish(b"1", b"2")
    got = await scene.get(ann, max=1)
    secret = ann.session
    waiting = await scene.waiting(ann.poll("/v1/topics/u/groups/g/messages", wait=30))
    assert secret is not None
    socket = await scene.parts.client("ann")
    ok = await socket.ok(Auth(scene.parts.token("ann"), 7, secret))
    assert (ok.session, ok.resumed) == (secret, True)
    assert [lease for leases in (ok.subs or {}).values() for lease in leases] == tokens(got)
    gone = await waiting.answer()
    assert (gone.status, gone.json()["code"]) == (409, "conflict")
    await socket.ok(Ack(tokens(got), ref=8))
    scene.parts.step(100)
    assert not socket.seen  # nothing is pushed through what requests had asked for
    await socket.ok(Subscribe("t", "g", "s", ref=9))
    assert [row.message.seq for row in await socket.delivered()] == [2]


async def test_a_poll_with_a_sockets_session_takes_it_over_with_its_leases() -> None:
    scene = await Scene.set()
    socket = await scene.parts.client("ann")
    await socket.ok(Subscribe("t", "g", "s", prefetch=1, ref=1))
    await scene.publish(b"1", b"2")
    (one,) = await socket.delivered()
    ann = scene.caller()
    ann.session = secret = socket.welcome.session
    assert data(await scene.get(ann)) == [2]
    assert (await socket.next(Goodbye)).code == 4409
    assert ann.session == secret
    assert await ann.settle("ack", [one.lease]) == {"settled": 1, "stale": []}
    await scene.publish(b"3")
    assert scene.leases() == 1  # the socket's subscription is there, and takes nothing
    back, ok = await scene.parts.back(secret)
    assert (ok.resumed, "s" in (ok.subs or {})) == (True, True)
    assert [row.message.seq for row in (await back.next(Messages)).deliveries] == [3]


async def test_a_poll_takes_over_a_session_that_is_away() -> None:
    scene = await Scene.set()
    socket = await scene.parts.client("ann")
    await socket.ok(Auth(scene.parts.token("ann"), 1, None, 30_000))
    await socket.ok(Subscribe("t", "g", "s", prefetch=1, ref=2))
    await scene.publish(b"1", b"2", b"3")
    (one,) = await socket.delivered()
    socket.lose()
    ann = scene.caller()
    ann.session = socket.welcome.session
    assert await ann.settle("extend", [one.lease]) == {"settled": 1, "stale": [], "expires_in_ms": 30_000}
    scene.parts.step(20)
    assert data(await scene.get(ann, max=1)) == [2]
    scene.parts.step(9)
    assert await ann.settle("ack", [one.lease]) == {"settled": 1, "stale": []}
    assert scene.leases() == 1
    scene.parts.step(31)  # one ack timeout, not a grace
    assert scene.leases() == 0


# --- who goes


async def test_an_abandoned_request_loses_nothing() -> None:
    scene = await Scene.set()
    ann, bob = scene.caller(), scene.caller("bob")
    await scene.get(ann)
    call = await scene.waiting(ann.poll(PATH, wait=30))
    call.leave()
    await call.answer()
    await scene.publish(b"1")
    assert scene.leases() == 0
    assert scene.parts.gateway.polls.waiting == 0
    (row,) = await scene.get(bob)
    assert (row["data"], row["attempt"]) == (1, 1)


@pytest.mark.parametrize("reading", [True, False])
async def test_an_answer_that_nobody_took_goes_back_uncounted(reading: bool) -> None:
    scene = await Scene.set()
    ann, bob = scene.caller(), scene.caller("bob")
    await scene.get(ann)
    call = await scene.waiting(ann.poll(PATH, wait=30))
    call.read(on=reading)
    if reading:
        call.leave()
        scene.producer.say(Publish("t", [Draft("", b"1")], 1))
        await scene.producer.next(Ok)
    else:
        await scene.publish(b"1")
        await asyncio.sleep(0)
        assert scene.leases() == 1
        call.leave()
    await call.answer()
    assert scene.leases() == 0
    (row,) = await scene.get(bob)
    assert (row["data"], row["attempt"], row["redelivered"]) == (1, 1, False)


async def test_a_session_whose_secret_nobody_heard_ends_with_its_request() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    call = await scene.waiting(ann.poll(PATH, wait=30))
    assert len(scene.parts.gateway.polls) == 1
    call.leave()
    await call.answer()
    assert len(scene.parts.gateway.polls) == len(scene.parts.gateway.registry) - 1 == 0


async def test_the_end_of_its_token_ends_a_poll_and_its_session() -> None:
    scene = await Scene.set()
    ann, bob = scene.caller(life_s=100), scene.caller("bob")
    await scene.publish(b"1")
    await scene.get(ann, max=1)
    scene.parts.step(25)
    ann.session, first = None, ann.session
    await scene.get(ann, ack_timeout=60)
    ann.session = first
    scene.parts.step(4)
    await scene.get(ann)
    scene.parts.step(29)
    await scene.get(ann)
    scene.parts.step(29)
    await scene.get(ann)
    scene.parts.step(20)
    call = await scene.waiting(ann.poll(PATH, wait=30))
    scene.parts.step(24)
    answer = await call.answer()
    assert (answer.status, answer.json()["code"]) == (401, "unauthorized")
    assert (await ann.poll(PATH).answer()).status == 401
    await scene.parts.elapse(2)
    assert data(await scene.get(bob)) == [1]


async def test_a_revoked_token_ends_its_polls_and_its_sessions_at_once() -> None:
    scene = await Scene.set()
    ann, bob, admin = scene.caller(), scene.caller("bob"), scene.parts.principal("admin")
    await scene.publish(b"1")
    got = await scene.get(ann)
    assert data(got) == [1]
    call = await scene.waiting(ann.poll(PATH, wait=30))
    waiting = await scene.waiting(bob.poll(PATH, wait=30))
    await scene.parts.admin.revoke(admin, subject="ann")
    assert (await call.answer()).status == 401
    assert data(await bob.polled(waiting)) == [1]
    assert (await ann.poll(PATH).answer()).status == 401


async def test_a_drain_tells_who_waits_and_counts_nothing() -> None:
    scene = await Scene.set()
    ann = scene.caller()
    await scene.publish(b"1")
    await scene.get(ann)
    call = await scene.waiting(ann.poll(PATH, wait=30))
    scene.parts.gateway.drain(lambda: 1500)
    answer = await call.answer()
    assert (answer.status, answer.json()["code"], answer.headers["retry-after"]) == (503, "going_away", "2")
    assert scene.leases() == 0
    assert not [one for batch in scene.parts.store.batches for one in batch.settlements]
    assert (await ann.poll(PATH).answer()).json()["code"] == "going_away"


async def test_a_group_that_is_deleted_ends_its_polls() -> None:
    scene = await Scene.set()
    ann, admin = scene.caller(), scene.parts.principal("admin")
    call = await scene.waiting(ann.poll(PATH, wait=30))
    await scene.parts.admin.delete_group(admin, "t", "g")
    answer = await call.answer()
    assert (answer.status, answer.json()["code"]) == (404, "group_not_found")


async def test_a_newer_token_with_fewer_rights_gives_back_what_it_does_not_allow() -> None:
    scene = await Scene.set(groups=("g", "h"))
    ann, bob = scene.caller(), scene.caller("bob")
    await scene.publish(b"1")
    got = await scene.get(ann)
    ann.token = scene.parts.token("ann", cap("consume", groups="h"))
    assert await ann.settle("ack", tokens(got)) == {"settled": 0, "stale": tokens(got)}
    answer = await ann.poll(PATH).answer()
    assert (answer.status, answer.json()["code"]) == (403, "forbidden")
    assert data(await scene.get(bob)) == [1]


# --- refusals


REFUSED = {
    "no token": ({"authorization": "Bearer x.y.z"}, PATH, 401, "unauthorized"),
    "bad topic": ({}, "/v1/topics/a*b/groups/g/messages", 400, "bad_topic"),
    "bad group": ({}, "/v1/topics/t/groups/a b/messages", 400, "bad_group"),
    "wait no number": ({}, PATH + "?wait=soon", 400, "bad_request"),
    "wait too long": ({}, PATH + "?wait=30.001", 400, "bad_request"),
    "wait below zero": ({}, PATH + "?wait=-1", 400, "bad_request"),
    "wait twice": ({}, PATH + "?wait=1&wait=1", 400, "bad_request"),
    "max none": ({}, PATH + "?max=0", 400, "bad_request"),
    "max too large": ({}, PATH + "?max=1001", 400, "bad_request"),
    "max no number": ({}, PATH + "?max=1.5", 400, "bad_request"),
    "ack_timeout too short": ({}, PATH + "?ack_timeout=0.05", 400, "bad_request"),
    "ack_timeout too long": ({}, PATH + "?ack_timeout=43201", 400, "bad_request"),
    "session too long": ({"pushwire-session": "x" * 65}, PATH, 400, "bad_request"),
    "session empty": ({"pushwire-session": ""}, PATH, 400, "bad_request"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_poll_that_is_wrong_is_refused_and_leases_nothing(name: str) -> None:
    headers, path, status, code = REFUSED[name]
    scene = await Scene.set()
    await scene.publish(b"1")
    call = await scene.caller().begin("GET", path, **headers).answer()
    assert (call.status, call.json()["code"]) == (status, code)
    assert call.headers["content-type"] == "application/problem+json"
    assert (scene.leases(), len(scene.parts.gateway.polls), scene.parts.gateway.polls.waiting) == (0, 0, 0)


@pytest.mark.parametrize(
    ("caps", "path", "status", "code"),
    [
        ([cap("publish")], PATH, 403, "forbidden"),
        ([cap("consume", groups="h")], PATH, 403, "forbidden"),
        ([cap("consume")], "/v1/topics/u/groups/g/messages", 404, "topic_not_found"),
        ([cap("consume")], "/v1/topics/t/groups/x/messages", 404, "group_not_found"),
        ([cap()], "/v1/topics/t/groups/mine/messages", 404, "group_not_found"),
    ],
)
async def test_rights_and_names_of_a_poll(caps: list[Any], path: str, status: int, code: str) -> None:
    scene = await Scene.set()
    await scene.producer.ok(Subscribe("t", "mine", "m", ref=1, client_id="phone"))
    call = await scene.caller("ann", *caps).begin("GET", path).answer()
    assert (call.status, call.json()["code"]) == (status, code)


async def test_too_many_topics_and_groups() -> None:
    scene = await Scene.set(topics_per_tenant=1, groups_per_topic=1)
    ann = scene.caller()
    for path, code in (("/v1/topics/u/groups/g/messages", "too_many_topics"), (PATH[:-10] + "h/messages", None)):
        answer = await ann.begin("GET", path.replace("groups/h", "groups/g2") if code else path).answer()
        assert answer.json()["code"] == (code or "too_many_groups")


async def test_polls_of_a_subject_and_in_total_are_bounded() -> None:
    scene = await Scene.set(polls_per_subject=2, polls_max=3)
    ann, bob = scene.caller(), scene.caller("bob")
    calls = [await scene.waiting(ann.poll(PATH, wait=30)) for _ in range(2)]
    calls.append(await scene.waiting(bob.poll(PATH, wait=30)))
    for caller in (ann, bob):
        answer = await caller.poll(PATH, wait=30).answer()
        assert (answer.status, answer.json()["code"]) == (503, "too_many_connections")
    scene.parts.step(30)
    for call in calls:
        assert (await call.answer()).status == 200
    assert scene.parts.gateway.polls.waiting == 0


async def test_polls_have_the_rate_of_control_operations_and_settlements_none() -> None:
    scene = await Scene.set(controls_per_s=1, controls_burst=2)
    ann = scene.caller()
    await scene.publish(b"1")
    got = await scene.get(ann)
    for _ in range(2):
        assert await scene.get(ann) == []
    answer = await ann.poll(PATH).answer()
    assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["retry-after"] == "1"
    for _ in range(20):
        assert (await ann.settle("extend", tokens(got)))["settled"] == 1


SETTLED_BADLY = {
    "no session": ({"pushwire-session": None}, {"leases": ["a"]}, 400, "bad_request"),
    "no leases": ({}, {}, 400, "bad_request"),
    "none": ({}, {"leases": []}, 400, "bad_request"),
    "no list": ({}, {"leases": "a"}, 400, "bad_request"),
    "no strings": ({}, {"leases": [1]}, 400, "bad_request"),
    "too many": ({}, {"leases": ["a"] * 1001}, 413, "batch_too_large"),
    "a delay too long": ({}, {"leases": ["a"], "delay_ms": 900_001}, 400, "bad_request"),
    "the socket's form": ({}, {"lease": "a"}, 400, "bad_request"),
    "no object": ({}, [1], 400, "bad_request"),
    "no json": ({}, b"{", 400, "bad_request"),
}


@pytest.mark.parametrize("name", SETTLED_BADLY)
async def test_a_settlement_that_is_wrong_is_refused(name: str) -> None:
    headers, body, status, code = SETTLED_BADLY[name]
    scene = await Scene.set()
    ann = scene.caller()
    ann.session = None if "pushwire-session" in headers else "n1.x"
    call = await ann.ask("POST", "/v1/leases/nack", body)
    assert (call.status, call.json()["code"]) == (status, code)


async def test_a_head_leases_nothing() -> None:
    scene = await Scene.set()
    await scene.publish(b"1")
    call = await scene.caller().ask("HEAD", PATH)
    assert (call.status, scene.leases()) == (405, 0)
