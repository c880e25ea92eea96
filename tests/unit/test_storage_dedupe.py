"""Remembered ids over time: two generations, emptied by slices, started afresh at each open."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from conformance.harness import World, message
from pushwire_storage import appending
from pushwire_storage.base import Append
from pushwire_storage.inline import InlineSqliteStore
from pushwire_storage.planning import ID_BYTES

WINDOW_S = 100
WINDOW_MS = WINDOW_S * 1000


def remembered(world: World) -> int:
    store = world.store
    assert isinstance(store, InlineSqliteStore)
    assert store._writing is not None
    execute = store._writing.execute
    return sum(execute(f"SELECT count(*) FROM dedupe_{which}").fetchone()[0] for which in "ab")


async def inline(path: Path) -> World:
    world = World("inline", path, dedupe_window_s=WINDOW_S, durability="relaxed")
    await world.open()
    return world


async def test_every_open_starts_the_window_afresh(tmp_path: Path) -> None:
    world = await inline(tmp_path)
    await world.publish(await world.topic(), "a")
    for _ in range(5):  # restarts more often than the window is long
        world.now_ms += WINDOW_MS * 3 // 4
        await world.reopen()
        topic = world.store.topics[("t", "orders")]
        await world.publish(topic, f"at {world.now_ms}")
        assert (await world.publish(topic, "a"))[0].duplicate
    world.now_ms += WINDOW_MS - 1
    assert (await world.publish(topic, "a"))[0].duplicate, "a full window after the last open"
    assert remembered(world) == 6
    await world.close()


@pytest.mark.parametrize("seed", range(20))
async def test_no_id_is_forgotten_early_and_none_is_kept_for_ever(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appending, "FORGET_ROWS", 3)
    world, dice = await inline(tmp_path), random.Random(seed)
    topics = [await world.topic(name) for name in ("one", "two", "three")]
    stored: dict[tuple[str, str], int] = {}
    seen = 0
    for step in range(150):
        world.now_ms += dice.randrange(WINDOW_MS // 12)
        topic = dice.choice(topics)
        old = [id_ for name, id_ in stored if name == topic.name]
        ids = [dice.choice(old) if old and dice.random() < 0.4 else f"{step}-{n}" for n in range(dice.randrange(1, 4))]
        append = Append(topic, [message(id_) for id_ in ids])
        await world.commit(append)
        for each in append.messages:
            at_ms = stored.get((topic.name, each.id))
            if at_ms is not None and world.now_ms - at_ms <= WINDOW_MS:
                assert each.duplicate, f"stored {world.now_ms - at_ms} ms ago"
                seen += 1
            if not each.duplicate:
                stored[(topic.name, each.id)] = world.now_ms
    assert seen > 20, "the run has shown something"
    sizes = {topic.name: sum(m.size_bytes for m in (await world.page(topic)).messages) for topic in topics}
    assert sum(topic.bytes - sizes[topic.name] for topic in topics) == remembered(world) * ID_BYTES
    for _ in range(200):
        world.now_ms += WINDOW_MS
        await world.commit()
    assert remembered(world) == 0
    assert [topic.bytes for topic in topics] == [sizes[topic.name] for topic in topics]
    await world.close()


async def test_an_old_generation_is_emptied_by_slices(tmp_path: Path) -> None:
    world = await inline(tmp_path)
    topic = await world.topic()
    await world.publish(topic, *map(str, range(1000)))
    world.now_ms += WINDOW_MS
    await world.commit()  # the older one was empty: they change places
    world.now_ms += WINDOW_MS
    left = []
    for _ in range(5):
        await world.commit()
        left.append(remembered(world))
    assert left == [1000 - appending.FORGET_ROWS * n for n in (1, 2, 3)] + [0, 0]
    assert topic.bytes == topic.messages * len(message("a").data)
    await world.close()


async def test_emptying_goes_on_after_a_restart(tmp_path: Path) -> None:
    world = await inline(tmp_path)
    topic = await world.topic()
    await world.publish(topic, *map(str, range(600)))
    for _ in range(2):
        world.now_ms += WINDOW_MS
        await world.commit()
    assert 0 < remembered(world) < 600
    await world.reopen()
    topic = world.store.topics[("t", "orders")]
    assert topic.bytes == 600 * len(message("a").data) + ID_BYTES * remembered(world)
    assert not (await world.publish(topic, "0"))[0].duplicate, "this one was forgotten before"
    assert (await world.publish(topic, "99"))[0].duplicate
    for _ in range(6):
        world.now_ms += WINDOW_MS
        await world.commit()
    assert remembered(world) == 0
    await world.close()


async def test_ids_of_many_topics_are_forgotten_each_on_its_own_account(tmp_path: Path) -> None:
    world = await inline(tmp_path)
    topics = [await world.topic(str(n)) for n in range(30)]
    for topic in topics:
        await world.publish(topic, *(f"{topic.name}-{n}" for n in range(20)))
    for _ in range(6):
        world.now_ms += WINDOW_MS
        await world.commit()
    assert {topic.bytes for topic in topics} == {20 * len(message("a").data)}
    assert remembered(world) == 0
    await world.close()
