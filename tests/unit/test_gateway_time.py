"""What becomes of messages because time passes while no consumer has them in hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pushwire.wire.frames import Ack, Draft, Publish, Subscribe
from pushwire_gateway import clock
from pushwire_gateway.clock import to_ms
from pushwire_storage.base import DeadFilter, DeadLetter, TopicConfig
from support.gateway_parts import Client, Parts
from support.port import SteppedClock


class Machine(SteppedClock):
    """A machine whose clock somebody can set, as the gateway's own clock sees it. `time` is the gateway's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set_ahead_s = 0.0
        self._up_s = 50.0
        monkeypatch.setattr(clock, "time", SimpleNamespace(time=self._wall, monotonic=lambda: self._up_s))
        self._clock = clock.AnchoredClock()

    def _wall(self) -> float:
        return 1_799_999_950.0 + self._up_s + self.set_ahead_s

    def now(self) -> float:
        return self._clock.now()

    @property
    def time(self) -> float:
        return self.now()

    @time.setter
    def time(self, at: float) -> None:
        self._up_s += at - self.now()


async def topic_with_group(expired: str) -> tuple[Parts, Client]:
    """A topic whose group has a member that has no room for anything."""
    parts = await Parts(pong_timeout_s=300).start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t", {"expired": expired, "ledger": "settled"})
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", prefetch=0, ref=1))
    return parts, ann


async def letters(parts: Parts) -> list[DeadLetter]:
    return list(await parts.store.catalog().dead_letters(parts.store.topics["acme", "t"], DeadFilter(), 10))


@pytest.mark.parametrize("expired", ["dead", "drop"])
async def test_what_expires_on_the_disk_goes_where_the_topic_says(expired: str) -> None:
    parts, ann = await topic_with_group(expired)
    assert parts.store.topics["acme", "t"].config == TopicConfig(expired=expired, ledger="settled")
    await ann.ok(Publish("t", [Draft("a", b"1", expires_ms=-1000), Draft("b", b"2")], 2))
    await parts.elapse(2)
    assert not parts.broken
    assert [message.id for message in await parts.store.kept("acme", "t")] == ["b"]
    gone = [(letter.message.id, letter.reason, letter.deliveries) for letter in await letters(parts)]
    assert gone == ([("a", "expired", 0)] if expired == "dead" else [])
    (event,) = await parts.store.catalog().history(parts.store.topics["acme", "t"], 1)
    assert (event.event, event.group, event.attempt, event.detail) == ("dead", "g", 0, "expired")
    assert parts.engine.batcher.settled_bytes == 0


async def test_what_expires_on_the_disk_counts_until_it_is_settled() -> None:
    parts, ann = await topic_with_group("dead")
    await ann.ok(Publish("t", [Draft("a", b"12345", expires_ms=-1000)], 2))
    held_bytes: list[int] = []
    settle = parts.engine.batcher.settle

    def counted(settlements: object, size_bytes: int) -> None:
        held_bytes.append(size_bytes)
        settle(settlements, size_bytes)

    parts.engine.batcher.settle = counted
    await parts.elapse(2)
    (size_bytes,) = held_bytes
    assert size_bytes > 5


async def test_a_message_comes_when_it_is_due_and_not_before() -> None:
    parts, _ = await topic_with_group("dead")
    bob = await parts.client("bob")
    await bob.ok(Subscribe("t", "g", ref=1))
    await bob.ok(Publish("t", [Draft("late", b"1", due_ms=-5000), Draft("soon", b"2")], 2))
    (first,) = await bob.delivered()
    assert first.message.id == "soon"
    await bob.ok(Ack([first.lease], None, 3))
    await parts.elapse(4)
    assert bob.seen == []
    await parts.elapse(1)
    (second,) = await bob.delivered()
    assert (second.message.id, second.deliveries) == ("late", 1)


async def test_a_delay_ends_no_part_of_a_millisecond_early() -> None:
    parts, ann = await topic_with_group("dead")
    parts.clock.time += 0.0006 - parts.clock.now() % 0.001  # a millisecond has begun
    await ann.ok(Publish("t", [Draft("late", b"1", due_ms=-5000)], 2))
    (message,) = await parts.store.kept("acme", "t")
    assert message.due_ms is not None
    assert 0 <= message.due_ms / 1000 - (parts.clock.now() + 5) < 0.001


@pytest.mark.parametrize("step_s", [86_400.0, -86_400.0])
async def test_a_step_of_the_machines_clock_moves_no_due_time_no_ttl_and_no_deadline(
    step_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    parts = await Parts(machine, pong_timeout_s=300).start()
    ann, bob = await parts.client(), await parts.client("bob")
    await ann.ok(Subscribe("t", "g", prefetch=1, ack_timeout_ms=30_000, ref=1))
    drafts = [Draft("taken", b"1"), Draft("brief", b"2", expires_ms=-20_000), Draft("late", b"3", due_ms=-9000)]
    await bob.ok(Publish("t", drafts, 1))
    (taken,) = await ann.delivered()
    machine.set_ahead_s = step_s
    before = machine.now()
    await parts.elapse(1)
    assert machine.now() == pytest.approx(before + 1.06)
    topic = parts.store.topics["acme", "t"]
    assert (ann.seen, topic.scheduled, await letters(parts)) == ([], 1, [])
    await parts.elapse(8)
    assert topic.scheduled == 0  # due
    assert await letters(parts) == []
    await parts.elapse(11)
    assert [(letter.message.id, letter.at_ms) for letter in await letters(parts)] == [
        ("brief", taken.message.published_at_ms + 20_000)
    ]
    assert ann.seen == []
    await parts.elapse(10)
    (late,) = await ann.delivered()  # the lease ran out after its 30 s, and the window is free
    assert late.message.id == "late"
    await bob.ok(Publish("t", [Draft("now", b"4")], 2))
    (stored,) = [message for message in await parts.store.kept("acme", "t") if message.id == "now"]
    assert stored.published_at_ms == to_ms(machine.now())


@pytest.mark.parametrize("retain_ms", [0, 60_000])
async def test_what_waits_for_a_taken_key_beyond_memory_expires_with_its_body(retain_ms: int) -> None:
    parts = await Parts(pong_timeout_s=300).start()
    await parts.admin.create_topic(parts.principal("root"), "t", {"retain_ms": retain_ms})
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", ack_timeout_ms=60_000, ref=1))
    many = [Draft("first", b"0", key="k"), *(Draft(f"m{n}", b"%d" % n, key="k", expires_ms=-5000) for n in range(99))]
    await ann.ok(Publish("t", many, 2))
    (held,) = await ann.delivered()
    await parts.elapse(6)
    assert not parts.broken
    expired = {letter.message.id: letter.message.data for letter in await letters(parts)}
    assert (len(expired), expired["m0"], expired.get("m9")) == (10, b"0", b"9"), "a page of them"
    assert parts.store.topics["acme", "t"].dead_letters == 99
    await ann.ok(Ack([held.lease], None, 3))
    await parts.elapse(1)
    assert ann.seen == []
    assert parts.engine.core.ready_bytes() == 0
