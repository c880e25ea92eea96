"""Publishing: what times mean when a message is taken in, and what is refused before anything is stored."""

from __future__ import annotations

import pytest

from pushwire.wire.decode import SCHEDULE_MS_MAX
from pushwire.wire.frames import Ack, Auth, Draft, Error, Nack, Ok, Publish, Reject, Release, Subscribe
from pushwire_gateway.auth import TokenVerifier, UnknownKey
from pushwire_gateway.rights import Principal
from pushwire_storage.base import Message, StoreBusy
from support.gateway_parts import Parts, cap

DAY_MS = 86_400_000


async def stored(parts: Parts, due_ms: int | None, expires_ms: int | None) -> Message:
    ann = await parts.client()
    await ann.ok(Publish("t", [Draft("a", b"1", due_ms=due_ms, expires_ms=expires_ms)], 1))
    [message] = await parts.store.kept("acme", "t")
    return message


@pytest.mark.parametrize(
    ("due_ms", "expires_ms", "kept"),
    [
        (None, None, (None, None)),
        (-5000, None, (5000, None)),
        (None, -7000, (None, 7000)),
        (-5000, -7000, (5000, 12_000)),
        (0, -7000, (None, 7000)),  # deliver_at_ms long past: at once
        (-SCHEDULE_MS_MAX, -SCHEDULE_MS_MAX, (SCHEDULE_MS_MAX, 2 * SCHEDULE_MS_MAX)),
    ],
)
async def test_times_from_now_are_settled_when_the_message_is_taken_in(
    due_ms: int | None, expires_ms: int | None, kept: tuple[int | None, int | None]
) -> None:
    parts = await Parts().start()
    message = await stored(parts, due_ms=due_ms, expires_ms=expires_ms)
    now_ms = int(parts.clock.now() * 1000)
    assert message.published_at_ms == now_ms
    assert (message.due_ms, message.expires_ms) == tuple(at and now_ms + at for at in kept)


async def test_a_time_to_come_is_kept_as_it_was_given() -> None:
    parts = await Parts().start()
    now_ms = int(parts.clock.now() * 1000)
    message = await stored(parts, due_ms=now_ms + 3 * DAY_MS, expires_ms=-1000)
    assert (message.due_ms, message.expires_ms) == (now_ms + 3 * DAY_MS, now_ms + 3 * DAY_MS + 1000)


async def test_what_is_scheduled_beyond_a_year_is_refused_with_all_of_its_batch() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    now_ms = int(parts.clock.now() * 1000)
    far = Draft("b", b"1", due_ms=now_ms + SCHEDULE_MS_MAX + 1)
    error = await ann.error(Publish("t", [Draft("a", b"1"), far], 1))
    assert (error.code, error.retryable) == ("bad_request", False)
    assert "deliver_at_ms" in error.message
    assert not parts.store.topics
    await ann.ok(Publish("t", [Draft("b", b"1", due_ms=now_ms + SCHEDULE_MS_MAX)], 2))


async def test_a_scheduled_message_comes_when_it_is_due_and_not_before() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(Subscribe("t", ref=1))
    await ann.ok(Publish("t", [Draft("a", b"1", due_ms=-5000)], 2))
    parts.step(4.9)
    await parts.settled()
    assert not ann.seen
    parts.step(0.2)
    await parts.settled()
    [delivery] = await ann.delivered(1)
    assert (delivery.message.id, delivery.message.due_ms) == ("a", None)  # the wire says it to tails only


async def test_a_batch_in_flight_when_the_topic_is_made_is_one_transaction_after_it() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    parts.store.hold()
    ann.say(*(Publish("t", [Draft("", b"1")], number) for number in range(3)))
    parts.store.release()
    replies = [await ann.next(Ok) for _ in range(3)]
    assert [reply.receipts[0].seq for reply in replies if reply.receipts] == [1, 2, 3]


async def test_refusals_name_the_cause_and_count() -> None:
    parts = await Parts(message_bytes_max=10).start()
    ann = await parts.client("ann", cap("publish", "create", topics="t"))
    cases = [
        (Publish("u", [Draft("", b"1")], 1), "forbidden"),
        (Publish("t", [Draft("", b'"' + b"x" * 10 + b'"')], 2), "message_too_large"),
    ]
    for frame, code in cases:
        assert (await ann.error(frame)).code == code
    await ann.ok(Publish("t", [Draft("", b"1")], 3))
    root = parts.principal("root")
    await parts.admin.configure_topic(root, "t", {"quota_messages": 1})
    assert (await ann.error(Publish("t", [Draft("", b"1")], 4))).code == "topic_full"
    parts.store.failing = StoreBusy("locked")
    assert (await ann.error(Publish("t", [Draft("", b"1")], 5))).code == "busy"
    bob = await parts.client("bob", cap("publish"))
    assert (await bob.error(Publish("new", [Draft("", b"1")], 6))).code == "topic_not_found"
    tally = parts.gateway.tally("acme")
    assert (tally.published, tally.refused) == (1, 5)


async def test_settlements_are_counted_by_what_they_did() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(Publish("t", [Draft("", b"1") for _ in range(8)], 1))
    await ann.ok(Subscribe("t", ref=2))
    leases = [delivery.lease for delivery in await ann.delivered(8)]
    await ann.ok(Ack((), leases[2], 3))
    await ann.ok(Nack(leases[3:4], 1000, None, 4))
    await ann.ok(Reject(leases[4:6], None, 5))
    await ann.ok(Release(leases[6:7], 6))
    assert (await ann.error(Ack(leases[:1] + leases[7:], ref=7))).leases == leases[:1]
    tally = parts.gateway.tally("acme")
    assert (tally.delivered, tally.acked, tally.nacked, tally.rejected, tally.released, tally.stale) == (
        8,
        4,
        1,
        2,
        1,
        1,
    )


class LateKeys(TokenVerifier):
    """The issuer's key comes a moment after the first token that is signed with it."""

    known = False

    def verify(self, token: str | bytes, now: float) -> Principal:
        if not self.known:
            raise UnknownKey("new")
        return super().verify(token, now)


@pytest.mark.parametrize("comes", [True, False])
async def test_a_token_whose_key_is_being_fetched_is_judged_when_it_is_there(comes: bool) -> None:
    parts = await Parts().start()
    waiting = []
    parts.tokens.verifier.__class__ = LateKeys
    parts.tokens.verify_late = lambda token, done: waiting.append((token, done))  # no network
    ann = parts.connect(None)
    token = parts.token()
    ann.say(Auth(token, 1))
    assert not ann.seen
    assert (await ann.error(Auth(token, 2))).code == "unauthorized"  # one at a time
    LateKeys.known = comes
    [(_, done)] = waiting
    done(parts.tokens.verify(token, parts.clock.now()) if comes else None)
    if comes:
        await ann.next(object)
        assert (await ann.next(Ok)).ref == 1
    else:
        assert (await ann.next(Error)).ref == 1
        assert ann.closed == 4401
    LateKeys.known = False
