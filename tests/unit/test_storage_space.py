"""Room on the disk: nothing new in the last of it, a ballast for settlements."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance.harness import World, message
from pushwire_storage.base import Append, Done, StoreFull
from pushwire_storage.space import BALLAST, Space

NEVER_FREE = 1 << 62


async def test_with_too_little_room_publishes_are_refused_and_settlements_are_not(tmp_path: Path) -> None:
    world = World("inline", tmp_path, free_bytes_min=1)
    await world.open()
    topic = await world.topic()
    group = await world.group(topic)
    (first,) = await world.publish(topic, "a")
    assert world.store._writer is not None
    space = world.store._writer.space
    assert space is not None
    space.free_bytes_min = NEVER_FREE
    append = Append(topic, [message("b")])
    batch = await world.commit(append, settle=[Done(group, [first])])
    assert batch.error is None
    assert append.refused is not None
    assert append.refused.code == "insufficient_storage"
    assert (topic.messages, topic.last_seq) == (0, 1)
    space.free_bytes_min = 1
    again = Append(topic, [message("b")])
    await world.commit(again)
    assert again.refused is None
    assert again.messages[0].seq == 2
    await world.close()


def test_the_ballast_is_made_where_there_is_room_and_given_up(tmp_path: Path) -> None:
    space = Space(tmp_path, NEVER_FREE, 8192)
    assert space.refill()
    assert not (tmp_path / BALLAST).exists()
    space.free_bytes_min = 0
    assert not space.refill()
    assert (tmp_path / BALLAST).stat().st_blocks * 512 >= 8192
    assert not space.refill()
    space.release()
    assert list(tmp_path.iterdir()) == []
    space.release()


def test_off_is_off(tmp_path: Path) -> None:
    space = Space(tmp_path, 0, 0)
    assert not space.short()
    assert not space.refill()
    assert list(tmp_path.iterdir()) == []


async def test_a_full_disk_costs_the_ballast(tmp_path: Path) -> None:
    world = World("inline", tmp_path, ballast_bytes=4096)
    await world.open()
    writer = world.store._writer
    assert writer is not None
    assert (tmp_path / BALLAST).exists()
    full = writer._failed(StoreFull("the disk is full"))
    assert isinstance(full, StoreFull)
    assert not (tmp_path / BALLAST).exists()
    assert writer.hungry
    writer.remember()
    assert (tmp_path / BALLAST).exists()
    await world.close()


@pytest.mark.parametrize("partial", [b"", b"x" * 100])
def test_what_is_left_of_half_a_ballast_is_overwritten(tmp_path: Path, partial: bytes) -> None:
    (tmp_path / f"{BALLAST}.partial").write_bytes(partial)
    assert not Space(tmp_path, 0, 4096).refill()
    assert [path.name for path in tmp_path.iterdir()] == [BALLAST]


def test_a_ballast_that_cannot_be_made_is_no_reason_to_fail(tmp_path: Path) -> None:
    space = Space(tmp_path, 0, 4096)
    space.ballast_bytes = -1  # EINVAL: the filesystem cannot reserve
    assert space.refill()
    assert list(tmp_path.iterdir()) == []
