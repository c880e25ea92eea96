"""Seqs and restarts: what was given once is not given again, whatever is left of it."""

from __future__ import annotations

from pathlib import Path

from conformance.harness import World


async def test_no_seq_comes_back(tmp_path: Path) -> None:
    world = World("inline", tmp_path)
    await world.open()
    topic = await world.topic()
    group = await world.group(topic)
    sent = await world.publish(topic, "a", "b", "c")
    await world.ack(group, *sent)
    assert await world.kept(topic) == []
    await world.reopen()
    topic = world.store.topics[("t", "orders")]
    assert topic.last_seq == 3
    assert [each.seq for each in await world.publish(topic, "d")] == [4]
    await world.close()
