"""A session that outlives its connection: what it keeps, for how long, for whom; and what ends it all the same."""

from __future__ import annotations

import pytest

from pushwire.wire.frames import (
    Ack,
    Auth,
    Draft,
    Error,
    Extend,
    Goodbye,
    Messages,
    Ok,
    Publish,
    Release,
    Subscribe,
    SubscribeTail,
    Welcome,
)
from support.gateway_parts import Client, Parts, cap


async def publish(parts: Parts, count: int, topic: str = "t") -> None:
    bob = await parts.client("publisher")
    await bob.ok(Publish(topic, [Draft("", b"1") for _ in range(count)], 1))
    bob.lose()


async def holder(parts: Parts, grace_ms: int = 30_000, prefetch: int = 2) -> tuple[Client, list[str]]:
    """A client with a grace that holds two leases of `t`."""
    ann = await parts.client()
    ok = await ann.ok(Auth(parts.token(), 1, resume_grace_ms=grace_ms))
    assert (ok.session, ok.resumed, ok.subs) == (ann.welcome.session, False, None)
    await ann.ok(Subscribe("t", "g", "s", prefetch, ref=2))
    return ann, [delivery.lease for delivery in await ann.delivered(2)]


async def other(parts: Parts) -> Client:
    """Somebody else in the same group."""
    eve = await parts.client("eve")
    await eve.ok(Subscribe("t", "g", prefetch=10, ref=1))
    return eve


async def test_leases_wait_for_their_session_and_nobody_else_gets_them() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    eve = await other(parts)
    ann.lose()
    parts.step(20)
    assert not eve.seen
    back, ok = await parts.back(ann.welcome.session)
    assert (ok.session, ok.resumed, ok.subs) == (ann.welcome.session, True, {"s": leases})
    await back.ok(Ack(leases, ref=5))
    await publish(parts, 2)  # the subscription goes on
    got = len((await back.next(Messages)).deliveries) + len((await eve.next(Messages)).deliveries)
    assert got == 2


async def test_tokens_and_deadlines_run_on_and_can_be_extended() -> None:
    parts = await Parts(ack_timeout_s=40).start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    ann.lose()
    parts.step(25)
    back, ok = await parts.back(ann.welcome.session)
    assert ok.resumed
    await back.ok(Extend([leases[0]], 5))
    parts.step(15.2)  # 40.2 s after the grant: the other one is late, and backs off
    stale = await back.error(Ack([leases[1]], ref=6))
    assert (stale.code, stale.leases) == ("stale_lease", [leases[1]])
    await back.ok(Ack([leases[0]], ref=7))


async def test_after_the_grace_they_go_to_others_and_resuming_is_no_error() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, leases = await holder(parts, grace_ms=20_000)
    eve = await other(parts)
    ann.lose()
    assert len(parts.gateway.registry) == 2
    parts.step(19.9)
    assert not eve.seen
    parts.step(0.2)
    assert [delivery.deliveries for delivery in await eve.delivered(2)] == [2, 2]
    assert len(parts.gateway.registry) == 1
    back, ok = await parts.back(ann.welcome.session)
    assert (ok.resumed, ok.subs) == (False, None)
    assert ok.session == back.welcome.session != ann.welcome.session
    assert (await back.error(Ack(leases, ref=5))).code == "stale_lease"


async def test_without_a_grace_they_go_at_once() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, _ = await holder(parts, grace_ms=0)
    eve = await other(parts)
    ann.lose()
    assert len(await eve.delivered(2)) == 2
    assert (await parts.back(ann.welcome.session))[1].resumed is False


async def test_the_grace_stays_with_the_session_until_it_is_changed() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    ann.lose()
    back, _ = await parts.back(ann.welcome.session)
    back.lose()
    parts.step(20)
    back, ok = await parts.back(ann.welcome.session, resume_grace_ms=0)
    assert ok.subs == {"s": leases}
    eve = await other(parts)
    back.lose()
    assert len(await eve.delivered(2)) == 2


async def test_the_first_auth_may_resume_and_the_welcome_names_that_session() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    ann.lose()
    back = parts.connect(None)
    back.say(Auth(parts.token(), None, ann.welcome.session))
    welcome = await back.next(Welcome)
    ok = await back.next(Ok)
    assert welcome.session == ok.session == ann.welcome.session
    assert ok.subs == {"s": leases}


async def test_what_was_lost_on_its_way_is_listed_and_can_be_given_back() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann = await parts.client()
    await ann.ok(Auth(parts.token(), 1, resume_grace_ms=30_000))
    await ann.ok(Subscribe("t", "g", "s", ref=2))
    await ann.delivered(2)  # pushed, and lost on the way as far as the client is concerned
    ann.lose()
    eve = await other(parts)
    back, ok = await parts.back(ann.welcome.session)
    assert ok.subs is not None
    assert len(ok.subs["s"]) == 2
    await back.ok(Release(ok.subs["s"], 3))
    assert [delivery.deliveries for delivery in await eve.delivered(2)] == [2, 2]


async def test_a_session_that_is_still_served_moves_and_its_old_connection_is_told() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    await ann.ok(SubscribeTail("t", "tail", ref=7))
    back, ok = await parts.back(ann.welcome.session)
    assert (ok.resumed, ok.subs) == (True, {"s": leases})
    assert (await ann.next(Goodbye)).code == ann.closed == 4409
    assert parts.engine.tails.count() == 0  # tails belong to the connection
    eve = await other(parts)
    ann.lose()
    assert not eve.seen  # the old connection has nothing to give back any more
    await back.ok(Ack(leases, ref=5))
    await publish(parts, 1)
    await parts.settled()
    assert len(back.seen) + len(eve.seen) == 1


async def test_the_seat_of_the_old_connection_is_free_for_the_new_one() -> None:
    parts = await Parts(connections_per_subject=1).start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    back = parts.connect(None)
    back.say(Auth(parts.token(), 1, ann.welcome.session))
    await back.next(Welcome)
    assert (await back.next(Ok)).subs == {"s": leases}
    assert ann.closed == 4409
    third = parts.connect(None)
    third.say(Auth(parts.token(), 1))
    assert (await third.next(Error)).code == "too_many_connections"


@pytest.mark.parametrize("who", ["subject", "tenant", "guess"])
async def test_a_secret_is_of_use_to_its_own_tenant_and_subject_only(who: str) -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    ann.lose()
    subject = "eve" if who == "subject" else "ann"
    tenant = "other" if who == "tenant" else "acme"
    thief = await parts.client(subject, tenant=tenant)
    secret = "n1.guess" if who == "guess" else ann.welcome.session
    ok = await thief.ok(Auth(parts.token(subject, tenant=tenant), 9, secret))
    assert (ok.resumed, ok.session) == (False, thief.welcome.session)
    assert (await parts.back(ann.welcome.session))[1].resumed is True


async def test_a_connection_with_subscriptions_of_its_own_cannot_take_over_another_session() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    ann.lose()
    for subscribe in (Subscribe("u", ref=1), SubscribeTail("u", ref=1)):
        back = await parts.client()
        await back.ok(subscribe)
        assert (await back.error(Auth(parts.token(), 2, ann.welcome.session))).code == "conflict"
        assert (await back.ok(Auth(parts.token(), 3, back.welcome.session))).resumed is False
        back.lose()
    assert (await parts.back(ann.welcome.session))[1].resumed is True


async def test_rights_that_the_new_token_lacks_end_those_subscriptions() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    await ann.ok(Subscribe("u", "g", "extra", ref=3))
    ann.lose()
    eve = await other(parts)
    back = await parts.client("ann", cap("consume", topics="u"))
    ok = await back.ok(Auth(parts.token("ann", cap("consume", topics="u")), 4, ann.welcome.session))
    assert ok.subs == {"extra": []}
    assert len(await eve.delivered(2)) == 2
    assert (await back.error(Ack(leases, ref=5))).code == "stale_lease"


async def test_no_grace_outlives_the_token() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann = await parts.client("ann", life_s=40)
    await ann.ok(Auth(parts.token(life_s=40), 1, resume_grace_ms=60_000))
    await ann.ok(Subscribe("t", "g", "s", ack_timeout_ms=200_000, ref=2))
    await ann.delivered(2)
    eve = await other(parts)
    parts.step(15)
    ann.lose()
    parts.step(54.5)  # with 30 s of leeway the token is good until second 70; the grace alone would end at 75
    await parts.settled()
    assert not eve.seen
    parts.step(1)
    assert len(await eve.delivered(2)) == 2


@pytest.mark.parametrize(("how", "code"), [("kick", 4403), ("revoke", 4401), ("drain", 1012)])
async def test_an_end_of_our_making_leaves_no_grace(how: str, code: int) -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    eve = await other(parts)
    root = parts.principal("root", jti="root-1")
    if how == "kick":
        await parts.admin.kick(root, ann.session.id)
    elif how == "revoke":
        await parts.admin.revoke(root, subject="ann")
    else:
        ann.session.drain(0)
        parts.engine.turn()
    assert (await ann.next(Goodbye)).code == ann.closed == code
    [first, second] = await eve.delivered(2)
    assert first.deliveries == second.deliveries == (1 if how == "drain" else 2)
    assert (await parts.back(ann.welcome.session))[1].resumed is False if how != "revoke" else True


async def test_a_missing_pong_is_a_lost_connection() -> None:
    parts = await Parts(ping_interval_s=20).start()
    await publish(parts, 2)
    ann, leases = await holder(parts)
    parts.step(20)
    parts.step(10)
    assert ann.closed == 4001
    _, ok = await parts.back(ann.welcome.session)
    assert ok.resumed
    assert ok.subs is not None
    assert set(ok.subs["s"]) <= set(leases)


async def test_a_revoked_session_that_is_away_ends_within_a_second() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    eve = await other(parts)
    ann.lose()
    await parts.tokens.revocations.revoke_subject("acme", "ann", parts.clock.now())
    parts.step(1)
    assert len(await eve.delivered(2)) == 2
    assert len(parts.gateway.registry) == 1


async def test_a_drain_ends_sessions_that_are_away_without_counting_a_delivery() -> None:
    parts = await Parts().start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    ann.lose()
    parts.gateway.drain(lambda: 0)
    await parts.settled()
    assert not [settlement for batch in parts.store.batches for settlement in batch.settlements]
    assert len(parts.gateway.registry) == 0


@pytest.mark.parametrize("limit", ["sessions_away_max", "sessions_away_per_subject"])
async def test_only_so_many_may_be_away(limit: str) -> None:
    parts = await Parts(**{limit: 1}).start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    second = await parts.client()
    await second.ok(Auth(parts.token(), 1, resume_grace_ms=1000))
    await second.ok(Subscribe("t", "h", ref=2))
    ann.lose()
    second.lose()
    assert (await parts.back(ann.welcome.session))[1].resumed is True
    assert (await parts.back(second.welcome.session))[1].resumed is False
    assert len(parts.gateway.registry) == 2


async def test_the_grace_is_cut_to_the_setting() -> None:
    parts = await Parts(resume_grace_s_max=5).start()
    ann = await parts.client()
    assert ann.welcome.limits["resume_grace_ms_max"] == 5000
    await ann.ok(Auth(parts.token(), 1, resume_grace_ms=60_000))
    await ann.ok(Subscribe("t", ref=2))
    ann.lose()
    parts.step(5.1)
    assert (await parts.back(ann.welcome.session))[1].resumed is False


async def test_a_session_without_subscriptions_has_nothing_to_keep() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(Auth(parts.token(), 1, resume_grace_ms=60_000))
    ann.lose()
    assert len(parts.gateway.registry) == 0


async def test_an_absent_consumer_that_lets_leases_run_out_loses_its_subscription() -> None:
    parts = await Parts(unhealthy_timeouts=2, ack_timeout_s=10).start()
    await publish(parts, 2)
    ann, _ = await holder(parts)
    ann.lose()
    parts.step(11)
    back, ok = await parts.back(ann.welcome.session)
    assert (ok.resumed, ok.subs) == (True, {})
    await back.ok(Subscribe("t", "g", "s", ref=3))
