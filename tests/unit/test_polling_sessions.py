"""Sessions of long-polling clients: how long they live, who may name them, and that an abandoned request loses
nothing."""

from __future__ import annotations

from random import Random

import pytest

from pushwire.wire.frames import Draft, Ok, Publish
from support.asgi_client import Call, Caller, turns
from support.gateway_parts import cap
from support.poll_scene import PATH, Scene, data, tokens

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
        await turns(1)
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


@pytest.mark.parametrize("seed", range(40))
async def test_whatever_clients_do_every_message_is_settled_once_and_none_is_lost(seed: int) -> None:
    scene = await Scene.set(
        polls_per_subject=100, poll_sessions_per_subject=100, max_deliveries=1000, max_failures=1000
    )
    chance = Random(seed)
    callers = [scene.caller(f"user-{number % 3}") for number in range(6)]
    calls: list[tuple[Caller, Call]] = []
    acked: list[int] = []
    sent = 0
    for _ in range(400):
        caller = chance.choice(callers)
        what = chance.random()
        if what < 0.3 and sent < 150:
            count = chance.randint(1, 4)
            await scene.publish(*[b"%d" % number for number in range(sent, sent + count)])
            sent += count
        elif what < 0.6:
            call = caller.poll(PATH, wait=chance.choice([0, 5, 30]), max=chance.randint(1, 5), ack_timeout=20)
            call.read(on=chance.random() < 0.7)
            calls.append((caller, call))
        elif what < 0.7 and calls:
            chance.choice(calls)[1].leave()
        elif what < 0.8 and calls:
            chance.choice(calls)[1].read()
        elif what < 0.85:
            scene.parts.step(chance.random() * 15)
        await turns(chance.randint(1, 6))
        for done in [entry for entry in calls if entry[1].task.done()]:
            calls.remove(done)
            acked += await _take(*done, chance)
    for _, call in calls:
        call.leave()
    await turns()
    scene.parts.step(60)
    await scene.parts.settled()
    patience = 10
    while len(acked) < sent:
        got = await scene.get(callers[0], max=50, ack_timeout=20)
        if not got:  # what timed out backs off
            patience -= 1
            assert patience, f"{sent - len(acked)} are lost"
            await scene.parts.elapse(100)
            continue
        acked += data(got)
        await callers[0].settle("ack", tokens(got))
    assert sorted(acked) == list(range(sent))
    assert (scene.leases(), scene.parts.gateway.polls.waiting) == (0, 0)


async def _take(caller: Caller, call: Call, chance: Random) -> list[int]:
    """Ack what the answer holds, if it was taken whole; returns what counted."""
    if not call.complete or call.status != 200:
        return []
    caller.session = call.headers["pushwire-session"]
    got = call.json()["messages"]
    if not got or chance.random() < 0.2:
        return []  # forgets about it: the end of its session, or a timeout, gives it back
    stale = (await caller.settle("ack", tokens(got)))["stale"]
    return [row["data"] for row in got if row["lease"] not in stale]
