"""How messages arrive, over every store: once per open, in order, as far as wanted, from commit, backlog and due."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from conformance.harness import START_MS, World, message
from pushwire_storage.base import Append, Batch, Counted, Counts, CreateGroup, Dead, Done, Group, Message, Retry
from pushwire_storage.scanning import SCAN_ROWS_MIN
from pushwire_storage.scans import SCAN_BYTES_MAX, SCAN_MESSAGES_MAX


async def test_new_messages_arrive_in_the_turn_of_their_commit(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 9)
    append = Append(topic, [message("a"), message("b")])
    seen: list[str] = []
    world.on_arrivals = lambda group, priority, messages, counts: seen.append("arrivals")

    def done(batch: Batch) -> None:
        seen.append("done")
        asyncio.get_running_loop().call_soon(seen.append, "next turn")

    over = world.give(Batch(appends=[append]), done)
    await world.over(over)
    assert seen[:2] == ["done", "arrivals"]
    assert world.turn[-2:] == ["arrived", "turn_over"]
    assert [world.messages[("g", seq)] for seq in (1, 2)] == append.messages, "the same objects"
    assert world.arrived == [("g", 1, 1, (0, 0)), ("g", 1, 2, (0, 0))]


async def test_the_backlog_arrives_in_order_and_then_the_new(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.publish(topic, *(f"old-{n}" for n in range(5)))
    assert await world.want(group, 1, 3) == [1, 2, 3]
    await world.publish(topic, "new-1", "new-2")
    assert await world.want(group, 1, 3) == [4, 5, 6]
    assert await world.want(group, 1, 3) == [7]
    await world.publish(topic, "new-3")
    assert world.seqs() == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_never_more_than_wanted(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 2)
    await world.publish(topic, "a")
    await world.publish(topic, "b", "c", "d")
    assert world.seqs() == [1, 2]
    assert await world.want(group, 1, 1) == [3]
    await world.want(group, 1, 5)
    await world.want(group, 1, 0)
    await world.publish(topic, "e", "f")
    assert world.seqs() == [1, 2, 3, 4]
    assert await world.want(group, 1, 1) == [5]


async def test_demand_lowered_while_a_scan_is_under_way_counts(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.publish(topic, *map(str, range(10)))
    world.store.want(group, 1, 10)
    world.store.want(group, 1, 2)
    await world.quiet()
    assert world.seqs() == [1, 2]
    world.store.want(group, 1, 10)
    world.store.want(group, 1, 0)
    await world.quiet()
    assert world.seqs() == [1, 2]
    assert await world.want(group, 1, 10) == list(range(3, 11))


async def test_lanes_are_apart(world: World) -> None:
    topic, other = await world.topic(), await world.topic("other")
    one, two = await world.group(topic, "one"), await world.group(topic, "two", "earliest")
    await world.publish(topic, "low", priority=0)
    await world.publish(topic, "high", "higher", priority=3)
    await world.publish(other, "elsewhere")
    assert await world.want(one, 3, 9) == [2, 3]
    assert await world.want(one, 0, 9) == [1]
    assert await world.want(two, 3, 1) == [2]
    await world.publish(topic, "low-2", priority=0)
    assert [each[:3] for each in world.arrived] == [
        ("one", 3, 2),
        ("one", 3, 3),
        ("one", 0, 1),
        ("two", 3, 2),
        ("one", 0, 4),
    ]


async def test_a_long_backlog_comes_in_bounded_pieces(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    count = 2 * SCAN_MESSAGES_MAX + 10
    await world.publish(topic, *map(str, range(count)))
    sizes: list[int] = []
    world.on_arrivals = lambda group, priority, messages, counts: sizes.append(len(messages))
    assert await world.want(group, 1, count) == list(range(1, count + 1))
    assert sizes == [SCAN_MESSAGES_MAX, SCAN_MESSAGES_MAX, 10]


async def test_large_messages_come_in_pieces_bounded_by_bytes(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    body = b"x" * (SCAN_BYTES_MAX // 2)
    await world.publish(topic, *map(str, range(5)), data=body)
    sizes: list[int] = []
    world.on_arrivals = lambda group, priority, messages, counts: sizes.append(len(messages))
    assert await world.want(group, 1, 9) == [1, 2, 3, 4, 5]
    assert sizes == [2, 2, 1]
    for each in [world.messages[("g", seq)] for seq in range(1, 6)]:
        await world.settle(Retry(group, each, START_MS + 1, 1, 1))
    sizes.clear()
    await world.want(group, 1, 9)
    assert await world.due(START_MS + 1) == [1, 2, 3, 4, 5]
    assert sizes == [2, 2, 1]


async def test_more_is_wanted_from_within_arrivals(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.publish(topic, *map(str, range(7)))

    def one_more(group: Group, priority: int, messages: Sequence[Message], counts: Counts | None) -> None:
        world.store.want(group, priority, 1)

    world.on_arrivals = one_more
    assert await world.want(group, 1, 1) == [1, 2, 3, 4, 5, 6, 7]
    await world.publish(topic, "x", "y")
    await world.quiet()
    assert world.seqs() == list(range(1, 10))


async def test_forgetting_from_within_arrivals_is_safe(world: World) -> None:
    topic = await world.topic()
    groups = [await world.group(topic, name, "earliest") for name in "ab"]
    for group in groups:
        await world.want(group, 1, 9)

    def forget_all(group: Group, priority: int, messages: Sequence[Message], counts: Counts | None) -> None:
        for each in groups:
            world.store.forget(each)

    world.on_arrivals = forget_all
    await world.publish(topic, "a", "b")
    assert [each[0] for each in world.arrived] == ["a", "a"], "the other group's lanes were closed by then"
    world.on_arrivals = None
    assert await world.want(groups[1], 1, 9) == [1, 2]


async def test_a_forgotten_group_reads_from_the_beginning(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    _, b, c, d = await world.publish(topic, "a", "b", "c", "d")
    assert await world.want(group, 1, 9) == [1, 2, 3, 4]
    await world.settle(Done(group, [b]), Counted(group, c, 2, 0), Retry(group, d, START_MS + 50, 1, 1))
    world.store.forget(group)
    await world.publish(topic, "e")
    assert await world.want(group, 1, 9) == [1, 3, 5]
    assert world.arrived[-2:] == [("g", 1, 3, (2, 0)), ("g", 1, 5, (0, 0))]
    assert await world.due(START_MS + 50) == [4]
    assert world.arrived[-1][3] == (1, 1)


async def test_settlements_given_before_forget_are_honoured(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    a, b = await world.publish(topic, "a", "b")
    await world.want(group, 1, 9)
    over = world.give(Batch(settlements=[Done(group, [a]), Retry(group, b, START_MS + 10, 1, 1)]))
    world.store.forget(group)
    world.store.want(group, 1, 9)
    await world.over(over)
    await world.quiet()
    assert world.seqs() == [1, 2]
    assert await world.due(START_MS + 10) == [2]


async def test_a_scan_of_a_forgotten_lane_hands_out_nothing(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.publish(topic, "a")
    world.store.want(group, 1, 9)
    world.store.forget(group)
    await world.quiet()
    assert world.arrived == []


async def test_retries_wait_for_demand_and_come_in_seq_order(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, *"abcd")
    await world.want(group, 1, 4)
    dues = [40, 10, 30, 20]
    await world.settle(*(Retry(group, each, START_MS + due, 1, 1) for each, due in zip(sent, dues, strict=True)))
    assert world.store.next_due_ms() is None, "nobody wants any"
    assert await world.due(START_MS + 40) == []
    await world.want(group, 1, 1)
    assert world.store.next_due_ms() == START_MS + 10
    assert await world.due(START_MS + 40) == [2]
    await world.want(group, 1, 9)
    assert await world.due(START_MS + 40) == [1, 3, 4]
    assert await world.due(START_MS + 90) == []


async def test_a_retry_that_is_due_at_once_is_not_lost(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    a, b = await world.publish(topic, "a", "b")
    await world.want(group, 1, 9)
    await world.settle(Retry(group, a, START_MS + 10, 1, 1))
    assert await world.due(START_MS + 100) == [1]
    for round_ in range(3):  # each due lies behind what `due` has seen
        await world.settle(Retry(group, a, START_MS + round_, 2, 2), Retry(group, b, START_MS + 100, 1, 1))
        assert (world.store.next_due_ms() or 0) <= START_MS + 100
        assert await world.due(START_MS + 100) == [1, 2]
    assert world.store.next_due_ms() is None


async def test_the_backlog_leaves_out_what_is_not_due(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, *"abc")
    await world.want(group, 1, 9)
    await world.settle(Retry(group, sent[0], START_MS + 10, 1, 1), Retry(group, sent[1], START_MS + 99, 2, 1))
    if world.persistent:
        world.now_ms = START_MS + 20
        await world.reopen()
        group = world.store.topics[("t", "orders")].groups["g"]
    else:
        world.store.forget(group)
        await world.due(START_MS + 20)
    assert await world.want(group, 1, 9) == [1, 3]
    assert world.store.next_due_ms() == START_MS + 99
    assert await world.due(START_MS + 98) == []
    assert await world.due(START_MS + 99) == [2]
    assert world.arrived[-1][3] == (2, 1)


async def test_a_batch_tells_the_store_the_time(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a,) = await world.publish(topic, "a")
    await world.want(group, 1, 9)
    await world.settle(Retry(group, a, START_MS + 10, 1, 1))
    world.store.forget(group)
    world.now_ms = START_MS + 10
    await world.commit()
    assert await world.want(group, 1, 9) == [1], "the backlog holds it, and it is due"
    assert await world.due(START_MS + 99) == []


async def test_a_settled_message_does_not_come_back_as_a_retry(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    a, b, c, d = await world.publish(topic, *"abcd")
    await world.want(group, 1, 9)
    past, future = START_MS - 10, START_MS + 60
    await world.settle(Retry(group, a, past, 1, 1), Retry(group, b, future, 1, 1), Retry(group, c, past, 1, 1))
    await world.settle(Retry(group, d, past, 1, 1))
    await world.settle(Done(group, [a, b]), Counted(group, c, 2, 1), Dead(group, d, "rejected", None, 1, 1, START_MS))
    assert await world.due(START_MS + 99) == []


async def test_what_a_batch_under_way_says_of_a_waiting_message_counts(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    a, b, c, d = await world.publish(topic, *"abcd")
    await world.want(group, 1, 9)
    await world.settle(*(Retry(group, each, START_MS, 1, 1) for each in (a, b, c, d)))
    over = world.give(
        Batch(settlements=[Counted(group, a, 2, 1), Retry(group, b, START_MS + 50, 2, 1), Done(group, [c])])
    )
    world.store.due(START_MS)  # its scan runs behind the batch
    await world.over(over)
    await world.quiet()
    assert world.seqs()[4:] == [4]
    assert await world.due(START_MS + 50) == [2]


async def test_demand_lowered_while_a_due_scan_is_under_way_counts(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, *"abcde")
    await world.want(group, 1, 9)
    await world.settle(*(Retry(group, each, START_MS + each.seq, 1, 1) for each in sent))
    world.store.due(START_MS + 9)
    world.store.want(group, 1, 2)
    await world.quiet()
    assert world.seqs()[5:] == [1, 2]
    await world.want(group, 1, 9)
    assert world.store.next_due_ms() == START_MS + 1 or world.store.next_due_ms() == START_MS + 3
    assert await world.due(START_MS + 9) == [3, 4, 5]
    assert await world.due(START_MS + 9) == []


async def test_a_retry_above_the_cursor_is_left_to_the_backlog(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    others = [await world.group(await world.topic(name), name) for name in ("one", "two")]
    sent = await world.publish(topic, "a", "b", "c")
    await world.want(group, 1, 9)
    await world.settle(Retry(group, sent[2], START_MS + 10, 1, 1))
    world.store.forget(group)
    assert await world.want(group, 1, 1) == [1]
    for other in others:  # these take the places, so that the lane's next scan waits
        world.store.want(other, 1, 9)
    world.store.want(group, 1, 9)
    world.store.due(START_MS + 10)
    await world.quiet()
    assert world.seqs()[4:] == [2, 3]


async def test_a_retry_given_before_forget_comes_once_after_it(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a,) = await world.publish(topic, "a")
    await world.want(group, 1, 9)
    over = world.give(Batch(settlements=[Retry(group, a, START_MS - 1, 1, 1)]))
    world.store.forget(group)
    world.store.want(group, 1, 9)
    await world.over(over)
    await world.quiet()
    assert world.seqs() == [1, 1]
    assert world.store.next_due_ms() is None
    assert await world.due(START_MS + 9) == []


async def test_the_gateway_hears_of_a_due_that_a_scan_met(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    (a,) = await world.publish(topic, "a")
    await world.want(group, 1, 9)
    await world.settle(Retry(group, a, START_MS + 10, 1, 1))
    world.store.forget(group)
    world.turn.clear()
    world.store.want(group, 1, 9)
    await world.quiet()
    assert world.turn.count("turn_over") >= 2, "of the scan too, although it brought nothing"
    assert world.store.next_due_ms() == START_MS + 10


async def test_a_group_far_ahead_of_another_skips_what_it_has_settled(world: World) -> None:
    topic = await world.topic()
    ahead, behind = await world.group(topic, "ahead"), await world.group(topic, "behind")
    sent = await world.publish(topic, *map(str, range(3 * SCAN_ROWS_MIN + 7)))
    await world.want(ahead, 1, 10_000)
    await world.ack(ahead, *(each for each in sent if each.seq not in {300, 600}))
    world.store.forget(ahead)
    assert await world.want(ahead, 1, 10) == [300, 600]
    last = sent[-1].seq
    await world.publish(topic, "new")
    assert world.seqs()[-1] == last + 1
    assert await world.want(behind, 1, 10_000) == list(range(1, last + 2))


async def test_a_group_made_with_the_messages_gets_them(world: World) -> None:
    topic = await world.topic()
    make = CreateGroup(topic, "g", "new")
    wanted = []

    def done(batch: Batch) -> None:
        assert make.result is not None
        wanted.append(make.result)
        world.store.want(make.result, 1, 9)

    await world.over(world.give(Batch(changes=[make], appends=[Append(topic, [message("a")])]), done))
    await world.quiet()
    assert wanted == [topic.groups["g"]]
    assert world.seqs() == [1]


async def test_duplicates_do_not_arrive_again(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 9)
    await world.publish(topic, "a")
    await world.publish(topic, "a", "b")
    assert world.seqs() == [1, 2]


async def test_reading_leases_nothing_and_merges_priorities(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    for n, priority in enumerate([3, 0, 1, 2, 0, 3]):
        await world.publish(topic, str(n), priority=priority)
    assert [m.seq for m in (await world.store.read(topic, 0, 99)).messages] == [1, 2, 3, 4, 5, 6]
    page = await world.store.read(topic, 2, 3)
    assert ([m.seq for m in page.messages], page.gaps, page.through) == ([3, 4, 5], [], 5)
    page = await world.store.read(topic, 6, 3)
    assert (page.messages, page.gaps, page.through) == ([], [], 6)
    assert await world.want(group, 0, 9) == [2, 5]
    assert await world.want(group, 3, 9) == [1, 6]


async def test_closing_finishes_what_was_given(world: World) -> None:
    topic = await world.topic()
    group = await world.group(topic)
    await world.want(group, 1, 9)
    append = Append(topic, [message("a")])
    over = world.give(Batch(appends=[append]))
    await world.store.close()
    assert over.done()
    assert over.result().error is None
    assert world.seqs() == [1]
    await world.store.close()
    if world.persistent:
        await world.open()
        assert world.store.topics[("t", "orders")].last_seq == 1


async def test_the_gateway_knows_whether_a_lane_has_more_on_the_disk(world: World) -> None:
    topic = await world.topic("t")
    group = await world.group(topic, "g")
    await world.publish(topic, "a", "b", "c")
    world.store.want(group, 1, 2)
    assert world.caught_up[("g", 1)] is False, "said at once: nobody has looked yet"
    await world.quiet()
    assert world.caught_up[("g", 1)] is False, "one is left"
    await world.want(group, 1, 5)
    assert world.caught_up[("g", 1)] is True
    await world.publish(topic, "d", "e", "f", "g")
    assert world.caught_up[("g", 1)] is True, "they arrived with their commit"
    await world.publish(topic, "h", "i")
    assert world.caught_up[("g", 1)] is False, "only one was wanted"


async def test_of_what_is_stored_together_the_highest_priority_arrives_first(world: World) -> None:
    topic = await world.topic("t")
    group = await world.group(topic, "g")
    for priority in range(4):
        await world.want(group, priority, 9)
    await world.send(topic, *(message(f"m{n}", priority=priority) for n, priority in enumerate((0, 2, 1, 3, 2))))
    assert [priority for _, priority, _, _ in world.arrived] == [3, 2, 2, 1, 0]
