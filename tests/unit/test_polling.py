"""Long polls: what is leased, when they are woken, and settling over HTTP what came over the socket and back."""

from __future__ import annotations

from pushwire.wire.frames import Ack, Auth, Draft, Goodbye, Messages, Ok, Publish, Subscribe
from support.poll_scene import PATH, Scene, data, tokens


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
    assert await ann.polled(ann.poll(PATH)) == []


async def test_without_a_wait_it_does_wait_until_the_store_was_read_but_not_for_ever() -> None:
    scene = await Scene.set()
    await scene.publish(b"1")
    scene.parts.store.hold()
    scene.producer.say(Subscribe("t", "other", "o", ref=1))  # a commit is under way, and keeps the group from opening
    ann, bob = scene.caller(), scene.caller("bob")
    call = await scene.waiting(ann.poll("/v1/topics/t/groups/new/messages"))
    scene.parts.store.release()
    await scene.settle_down(call)
    assert await ann.polled(call) == []
    scene.parts.engine.core.coming = lambda _group: True
    call = await scene.waiting(bob.poll("/v1/topics/t/groups/empty/messages"))
    scene.parts.step(1)
    assert await bob.polled(call) == []
    assert not scene.parts.engine._looking


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
    assert await ann.settle("ack", [four, four]) == {"settled": 1, "stale": []}
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
