"""Tails: where they begin, that they see everything once, that slow ones lose nothing, that all share one frame."""

from __future__ import annotations

from pushwire.wire import encode
from pushwire.wire.frames import Auth, Draft, Error, Gap, Ok, Publish, SubscribeTail, Tailed, Unsubscribe
from pushwire_storage.base import PurgeTopic, StoreBusy
from support.gateway_parts import Client, Parts, cap


async def publish(client: Client, *bodies: bytes, topic: str = "t") -> list[int]:
    ok = await client.ok(Publish(topic, [Draft("", body) for body in bodies], 1))
    assert ok.receipts is not None
    return [receipt.seq for receipt in ok.receipts]


async def test_a_new_tail_sees_what_comes_and_ok_says_where_it_stands() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    await publish(bob, b"1", b"2")
    ok = await ann.ok(SubscribeTail("t", "mine", ref=1))
    assert (ok.sub, ok.seq, ok.epoch, ok.prefetch) == ("mine", 2, "e1", None)
    await publish(bob, b"3", b"4")
    frame = await ann.next(Tailed)
    assert (frame.sub, frame.batch.topic) == ("mine", "t")
    assert [(m.seq, m.data) for m in frame.batch.messages] == [(3, b"3"), (4, b"4")]


async def test_a_tail_begins_at_a_seq_a_time_or_the_oldest_kept() -> None:
    parts = await Parts().start()
    bob = await parts.client("bob")
    await publish(bob, b"1", b"2")
    parts.step(10)
    noon_ms = int(parts.clock.now() * 1000)
    await publish(bob, b"3", b"4")
    for start, seqs in (("earliest", [1, 2, 3, 4]), (3, [3, 4]), (-noon_ms, [3, 4]), (-1, [1, 2, 3, 4])):
        ann = await parts.client()
        ok = await ann.ok(SubscribeTail("t", start=start, ref=1))
        assert ok.seq == seqs[0] - 1
        assert await ann.shown(len(seqs)) == seqs
    for start in (5, 99, -noon_ms - 60_000, "new"):
        ann = await parts.client()
        assert (await ann.ok(SubscribeTail("t", start=start, ref=1))).seq == 4


async def test_what_is_not_kept_any_more_is_a_gap_for_who_goes_on_and_none_for_who_begins() -> None:
    parts = await Parts().start()
    bob = await parts.client("bob")
    await publish(bob, b"1", b"2", b"3", b"4", b"5")
    topic = parts.gateway.topics.find("acme", "t")
    assert topic is not None
    parts.gateway.topics.purge(PurgeTopic(topic, 3), lambda _error: None)
    await parts.settled()
    ann = await parts.client()
    assert (await ann.ok(SubscribeTail("t", "a", epoch="e1", after_seq=1, ref=1))).seq == 1
    assert await ann.next(Gap) == Gap("a", 2, 3)
    assert await ann.shown(2) == [4, 5]
    assert (await ann.ok(SubscribeTail("t", "b", "earliest", ref=2))).seq == 3
    assert await ann.shown(2) == [4, 5]


async def test_another_epoch_is_refused_and_named() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    error = await ann.error(SubscribeTail("t", "a", epoch="e0", after_seq=7, ref=1))
    assert (error.code, error.retryable) == ("epoch_changed", False)
    assert error.message.endswith(": e1")
    assert (await ann.ok(SubscribeTail("t", "a", ref=2))).sub == "a"


async def test_a_seq_that_was_never_given_out_is_cut_to_the_last() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    await publish(bob, b"1")
    assert (await ann.ok(SubscribeTail("t", epoch="e1", after_seq=500, ref=1))).seq == 1
    await publish(bob, b"2")
    assert await ann.shown() == [2]


async def test_a_tail_needs_the_right_to_replay() -> None:
    parts = await Parts().start()
    bob = await parts.client("bob")
    await publish(bob, b"1")
    for right, code in (("consume", "forbidden"), ("admin", "forbidden"), ("replay", None)):
        ann = await parts.client("ann", cap(right))
        ann.say(SubscribeTail("t", ref=1))
        reply = await ann.next(Ok if code is None else Error)
        assert getattr(reply, "code", None) == code
    ann = await parts.client("ann", cap("replay"))
    assert (await ann.error(SubscribeTail("other", ref=1))).code == "topic_not_found"
    ann = await parts.client("ann", cap("replay", "create"))
    assert (await ann.ok(SubscribeTail("other", ref=1))).seq == 0


async def test_a_scheduled_message_is_shown_when_it_is_stored_with_its_time() -> None:
    parts = await Parts().start()
    ann = await parts.client()
    await ann.ok(SubscribeTail("t", ref=1))
    ann.say(Publish("t", [Draft("a", b"1", due_ms=-5000, expires_ms=-100)], 2))
    await ann.next(Ok)
    [message] = (await ann.next(Tailed)).batch.messages
    now_ms = int(parts.clock.now() * 1000)
    assert (message.due_ms, message.published_at_ms) == (now_ms + 5000, now_ms)
    assert [kept.expires_ms for kept in await parts.store.kept("acme", "t")] == [now_ms + 5100]


async def test_a_tail_that_lags_is_fed_from_the_store_and_misses_nothing() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    await ann.ok(SubscribeTail("t", ref=1))
    await publish(bob, b"1")
    assert await ann.shown() == [1]
    ann.stop_reading()
    reads = parts.store.reads
    for number in range(600):
        bob.say(Publish("t", [Draft(f"m{number}", b"1")], number))
    await parts.settled()
    assert not ann.seen
    assert parts.store.reads == reads  # nothing is read for somebody who takes nothing
    ann.read_again()
    assert await ann.shown(600) == list(range(2, 602))
    assert parts.store.reads > reads
    await publish(await parts.client("cid"), b"1")
    assert await ann.shown() == [602]


async def test_a_commit_larger_than_half_an_outbox_comes_in_pages_and_costs_nobody_the_connection() -> None:
    parts = await Parts(outbox_bytes_max=256 * 1024).start()
    ann, bob = await parts.client(), await parts.client("bob")
    await ann.ok(SubscribeTail("t", ref=1))
    large = b'"' + b"x" * 60_000 + b'"'
    bob.say(*(Publish("t", [Draft(f"m{number}", large)], number) for number in range(12)))
    await parts.settled()
    assert await ann.shown(12) == list(range(1, 13))
    assert ann.closed is None


async def test_tails_of_one_connection_that_catch_up_take_turns_a_page_each() -> None:
    parts = await Parts(outbox_bytes_max=512 * 1024).start()
    bob = await parts.client("bob")
    large = b'"' + b"x" * 30_000 + b'"'
    for _ in range(12):
        await publish(bob, large)
    await publish(bob, b"1", topic="small")
    ann = await parts.client()
    ann.stop_reading(unsent_bytes=100_000)
    ann.say(*(SubscribeTail("t", name, "earliest", ref=1) for name in "abcd"))
    ann.say(SubscribeTail("small", "last", "earliest", ref=1))
    await parts.settled()
    ann.read_again()
    for _ in range(5):
        await ann.next(Ok)
    shown: dict[str, list[int]] = {}
    order: list[str] = []
    while sum(map(len, shown.values())) < 49:
        frame = await ann.next(Tailed)
        messages = frame.batch.messages
        before_last = sum(len(message.data) for message in messages[:-1])
        assert before_last < 64 * 1024, "a page ends with the message that makes it an eighth of the outbox"
        shown.setdefault(frame.sub, []).extend(message.seq for message in messages)
        order.append(frame.sub)
    assert shown == {**{name: list(range(1, 13)) for name in "abcd"}, "last": [1]}
    assert sorted(order[:5]) == ["a", "b", "c", "d", "last"], "nobody waits for all pages of another"
    assert (len(order), ann.closed) == (4 * 4 + 1, None)
    await publish(bob, b"2")
    assert sorted([(await ann.next(Tailed)).sub for _ in range(4)]) == ["a", "b", "c", "d"]


async def test_a_thousand_tails_cost_one_encoding() -> None:
    parts = await Parts(connections_per_subject=1000).start()
    clients = [await parts.client("ann") for _ in range(1000)]
    for number, client in enumerate(clients):
        await client.ok(SubscribeTail("t", f"sub-{number}", ref=1))
    bob = await parts.client("bob")
    built, rows = parts.gateway.batches.built, []
    original = encode._tail_rows

    def counted(batch: object) -> bytes:
        rows.append(batch)
        return original(batch)  # type: ignore[arg-type]  # passed on as it came

    encode._tail_rows = counted
    try:
        await publish(bob, b"1", b"2", b"3")
        for number, client in enumerate(clients):
            frame = await client.next(Tailed)
            assert frame.sub == f"sub-{number}"
            assert [message.seq for message in frame.batch.messages] == [1, 2, 3]
    finally:
        encode._tail_rows = original
    assert len(rows) == 1
    assert parts.gateway.batches.built == built + 1
    assert all(client.writes == 3 for client in clients)  # welcome, ok, and one for all of the commit


async def test_topics_do_not_mix() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    await ann.ok(SubscribeTail("t", "a", ref=1))
    await ann.ok(SubscribeTail("u", "b", ref=2))
    bob.say(
        Publish("t", [Draft("x", b"1")], 1), Publish("u", [Draft("y", b"2")], 2), Publish("t", [Draft("z", b"3")], 3)
    )
    await parts.settled()
    frames = [await ann.next(Tailed), await ann.next(Tailed)]
    assert {(f.sub, f.batch.topic, *(m.id for m in f.batch.messages)) for f in frames} == {
        ("a", "t", "x", "z"),
        ("b", "u", "y"),
    }


async def test_unsubscribe_ends_a_tail_and_its_watch() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    await ann.ok(SubscribeTail("t", "a", ref=1))
    assert parts.engine.tails.count() == 1
    await ann.ok(Unsubscribe("a", 2))
    assert parts.engine.tails.count() == 0
    assert not parts.store._watched
    await publish(bob, b"1")
    assert not ann.seen
    assert (await ann.error(Unsubscribe("a", 3))).code == "unknown_subscription"


async def test_tails_count_as_subscriptions_and_share_their_names() -> None:
    parts = await Parts(subscriptions_per_connection=2).start()
    ann = await parts.client()
    await ann.ok(SubscribeTail("t", "a", ref=1))
    assert (await ann.error(SubscribeTail("u", "a", ref=2))).code == "already_subscribed"
    made = (await ann.ok(SubscribeTail("u", ref=3))).sub
    assert (await ann.error(SubscribeTail("v", ref=4))).code == "too_many_subscriptions"
    await ann.ok(Unsubscribe("a", 5))
    assert (await ann.ok(SubscribeTail("v", ref=6))).sub != made


async def test_tails_end_with_their_connection_the_token_and_the_right() -> None:
    parts = await Parts().start()
    ann, bob, cid = await parts.client(), await parts.client("bob"), await parts.client("cid", life_s=60)
    for client in (ann, bob, cid):
        await client.ok(SubscribeTail("t", "a", ref=1))
    ann.lose()
    assert parts.engine.tails.count() == 2
    bob.say(Auth(parts.token("bob", cap("publish")), 2))
    assert (await bob.next(Ok)).expires_in_ms
    trouble = await bob.next(Error)
    assert (trouble.code, trouble.sub, trouble.ref) == ("forbidden", "a", None)
    parts.step(91)
    trouble = await cid.next(Error)
    assert (trouble.code, trouble.sub) == ("unauthorized", "a")
    assert parts.engine.tails.count() == 0


async def test_a_store_that_cannot_be_read_ends_the_tail_not_the_connection() -> None:
    parts = await Parts().start()
    ann, bob = await parts.client(), await parts.client("bob")
    await publish(bob, b"1")
    parts.store.failing = StoreBusy("locked")
    assert (await ann.error(SubscribeTail("t", "a", "earliest", ref=1))).code == "busy"
    await ann.ok(SubscribeTail("t", "a", epoch="e1", after_seq=1, ref=2))
    ann.stop_reading()
    await publish(bob, b"2")
    parts.store.failing = StoreBusy("locked")
    ann.read_again()
    trouble = await ann.next(Error)
    assert (trouble.code, trouble.sub, trouble.retryable) == ("busy", "a", True)
    assert parts.engine.tails.count() == 0
    assert (await ann.ok(SubscribeTail("t", "a", epoch="e1", after_seq=1, ref=3))).seq == 1
    assert await ann.shown() == [2]
