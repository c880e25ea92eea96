"""Keys and tails, over every store: what is passed over is named, a key can be asked for, nothing new is missed."""

from __future__ import annotations

from conformance.harness import START_MS, World, message
from pushwire_storage.base import Append, Batch, Counted, Dead, Done, PurgeTopic, Retry

# -- keys


async def test_a_scan_names_the_keys_of_what_it_passes_over(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.send(topic, *(message(str(n), key=key) for n, key in enumerate(["k", "k", None, "l", "l"])))
    await world.want(group, 1, 9)
    await world.settle(*(Retry(group, sent[n], START_MS + 50, 1, 1) for n in (0, 2, 3)))
    world.store.forget(group)
    assert await world.want(group, 1, 1) == [2]
    assert world.blocked == [("g", 1, 1, "k")], "not beyond what arrived"
    assert await world.want(group, 1, 9) == [5]
    assert world.blocked == [("g", 1, 1, "k"), ("g", 1, 4, "l")], "keyless ones hold up nothing"
    assert await world.due(START_MS + 50) == [1, 3, 4]


async def test_many_that_wait_do_not_hide_what_is_behind_them(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    count = 700
    sent = await world.send(topic, *(message(str(n), key="k") for n in range(count)), message("last"))
    await world.want(group, 1, count)
    await world.settle(*(Retry(group, each, START_MS + 50, 1, 1) for each in sent[:count]))
    world.store.forget(group)
    assert await world.want(group, 1, 1) == [count + 1]
    assert [seq for _, _, seq, _ in world.blocked] == list(range(1, count + 1))


async def test_a_key_can_be_asked_for(world: World) -> None:
    topic = await world.topic()
    group, other = await world.group(topic), await world.group(topic, "other", "earliest")
    keys = ["k", "l", "k", "k", None, "k", "k", "k"]
    sent = await world.send(topic, *(message(str(n), key=key) for n, key in enumerate(keys)))
    await world.send(topic, message("elsewhere", key="k", priority=2))
    await world.want(group, 1, 7)
    await world.settle(Done(group, [sent[2]]), Retry(group, sent[3], START_MS + 50, 1, 1), Done(other, [sent[5]]))
    await world.settle(Counted(group, sent[5], 3, 1))
    world.store.want_key(group, 1, "k", 1, 9)
    await world.quiet()
    assert world.keys == [("g", 1, "k", [6, 7], 7)], "neither what is settled, waits, nor what is yet to arrive"
    world.store.want_key(group, 1, "k", 0, 2)
    world.store.want_key(group, 1, "k", 6, 2)
    world.store.want_key(group, 1, "m", 0, 2)
    await world.quiet()
    assert world.keys[1:] == [
        ("g", 1, "k", [1, 6], 6),
        ("g", 1, "k", [7], 7),
        ("g", 1, "m", [], 7),
    ]
    assert world.seqs() == [1, 2, 3, 4, 5, 6, 7], "outside the lane's demand"


async def test_a_key_is_asked_for_behind_the_batch_before(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.send(topic, *(message(str(n), key="k") for n in range(3)))
    await world.want(group, 1, 9)
    over = world.give(Batch(settlements=[Done(group, [sent[1]])]))
    world.store.want_key(group, 1, "k", 0, 9)
    await world.over(over)
    await world.quiet()
    assert world.keys == [("g", 1, "k", [1, 3], 3)]
    world.store.want_key(group, 1, "k", 0, 9)
    world.store.forget(group)
    await world.quiet()
    assert len(world.keys) == 1, "nobody is there to be answered"


async def test_what_has_expired_of_a_key_comes_with_the_rest(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, message("a", key="k"), message("b", key="k", expires_ms=START_MS + 9))
    await world.want(group, 1, 9)
    world.store.due(START_MS + 9)
    world.store.want_key(group, 1, "k", 0, 9)
    await world.quiet()
    assert world.keys == [("g", 1, "k", [1, 2], 2)], "it was handed out, and is the gateway's to settle"


async def test_what_has_expired_in_hand_is_told_once_if_it_has_a_key(world: World) -> None:
    topic = await world.topic()
    group, other = await world.group(topic), await world.group(topic, "other", "earliest")
    ends = START_MS + 9
    a, b, c, d = await world.send(
        topic,
        message("a", key="k"),
        message("b", key="k", expires_ms=ends),
        message("c", expires_ms=ends),
        message("d", key="l", expires_ms=ends),
    )
    await world.want(group, 1, 9)
    await world.want(other, 1, 3)
    await world.tick(START_MS + 8)
    assert world.lapsed == []
    await world.tick(ends)
    assert sorted(world.lapsed) == [("g", 2), ("g", 4), ("other", 2)]
    assert world.expired == [("other", 4)], "what nobody has in hand is another matter"
    world.store.want_key(group, 1, "k", 0, 9)
    await world.quiet()
    assert world.keys == [("g", 1, "k", [1, 2], 4)], "it is there until it is settled"
    assert await world.want(other, 1, 9) == []
    world.store.want_key(other, 1, "l", 0, 9)
    await world.quiet()
    assert world.keys[1:] == [("other", 1, "l", [], 4)], "which is on its way, where nobody had it in hand"
    world.store.forget(other)  # the store looks at all of them again
    await world.tick(ends)
    assert sorted(world.expired) == [("other", seq) for seq in (2, 3, 4)]
    assert len(world.lapsed) == 3
    for each in (b, c, d):
        await world.settle(Dead(group, each, "expired", None, 0, 0, ends), Done(other, [each]))
    await world.settle(Done(other, [a]))
    await world.tick(ends + 1)
    assert (await world.kept(topic), len(world.lapsed)) == ([1], 3)


async def test_what_was_settled_or_put_off_as_its_ttl_ended_is_not_in_hand(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    ends = START_MS + 9
    a, b, c = await world.send(topic, *(message(name, key="k", expires_ms=ends) for name in "abc"))
    await world.want(group, 1, 9)
    world.now_ms = ends
    await world.settle(Done(group, [a]), Retry(group, b, ends + 50, 1, 1), Counted(group, c, 1, 1))
    await world.tick(ends)
    assert (world.lapsed, world.expired) == ([("g", 3)], [("g", 2)])
    await world.settle(Counted(group, c, 2, 1))
    world.store.forget(await world.group(topic, "other"))
    await world.tick(ends + 1)
    assert world.lapsed == [("g", 3)], "a count is no settlement"


async def test_what_had_lapsed_in_hand_is_the_stores_again_when_its_lane_is_closed(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.send(topic, message("a", key="k", expires_ms=START_MS + 9))
    await world.want(group, 1, 9)
    await world.tick(START_MS + 9)
    assert (world.lapsed, world.expired) == ([("g", 1)], [])
    world.store.forget(group)
    await world.tick(START_MS + 9)
    assert (world.lapsed, world.expired) == ([("g", 1)], [("g", 1)])
    if world.persistent:
        await world.reopen()
        assert await world.want(world.store.topics[("t", "orders")].groups["g"], 1, 9) == []
        await world.tick(START_MS + 9)
        assert world.expired == [("g", 1), ("g", 1)], "nothing is remembered of what was said"


# -- tails


async def test_a_watched_topic_tells_of_everything_new(world: World) -> None:
    topic, other = await world.topic(), await world.topic("other")
    group = await world.group(topic)
    await world.want(group, 1, 9)
    world.store.watch(topic, on=True)
    world.turn.clear()
    appends = [
        Append(topic, [message("a", priority=3), message("b"), message("c", due_ms=START_MS + 50)]),
        Append(other, [message("x")]),
        Append(topic, [message("d", priority=0), message("a", priority=3)]),
    ]
    await world.commit(*appends)
    assert world.tailed == [("orders", 1), ("orders", 2), ("orders", 3), ("orders", 4)]
    assert world.turn == ["arrived", "tailed", "turn_over"]
    await world.tick(START_MS + 50)
    assert len(world.tailed) == 4, "it was told of when it was stored"
    world.store.watch(topic, on=False)
    await world.publish(topic, "e")
    assert len(world.tailed) == 4


async def test_a_page_says_what_is_gone(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = []
    for n in range(12):
        due_ms = START_MS + 99 if n in {3, 8} else None
        sent += await world.send(topic, message(str(n), priority=n % 4, due_ms=due_ms))
    await world.ack(group, *(sent[n] for n in (0, 1, 4, 6, 7, 11)))
    page = await world.page(topic)
    assert [each.seq for each in page.messages] == [3, 4, 6, 9, 10, 11]
    assert (page.gaps, page.through) == ([(1, 2), (5, 5), (7, 8), (12, 12)], 12)
    assert page.messages[1].due_ms == START_MS + 99
    page = await world.store.read(topic, 3, 2)
    assert ([each.seq for each in page.messages], page.gaps, page.through) == ([4, 6], [(5, 5)], 6)
    page = await world.store.read(topic, 11, 2)
    assert (page.messages, page.gaps, page.through) == ([], [(12, 12)], 12)
    await world.change(PurgeTopic(topic, 9))
    page = await world.store.read(topic, 2, 1)
    assert ([each.seq for each in page.messages], page.gaps, page.through) == ([10], [(3, 9)], 10)


async def test_a_page_ends_where_the_loop_stands(world: World) -> None:
    topic = await world.topic()
    world.store.watch(topic, on=True)
    await world.publish(topic, "a")
    over = world.give(Batch(appends=[Append(topic, [message("b")])]))
    stood = topic.last_seq
    page = await world.store.read(topic, 0, 9)
    assert page.through == stood, "what is announced later is not read before"
    assert [each.seq for each in page.messages] == list(range(1, page.through + 1))
    await world.over(over)
    assert world.tailed == [("orders", 1), ("orders", 2)]
