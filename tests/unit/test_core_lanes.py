"""Lanes of one group: shares while all are busy, also when what is served lies on the disk and comes in pages."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pushwire_gateway.core.delivery import Delivery
from pushwire_gateway.core.model import Policy, Session

WEIGHTS = (1, 2, 4, 8)
PAGE = 256
NOW = 0.0


@dataclass(eq=False)
class Row:
    seq: int
    priority: int
    size_bytes: int = 100
    key: str | None = None
    expires_ms: int | None = None


class Disk:
    """A store that gives one lane a page at a time, whichever asked longest ago: the order least fair to the others."""

    def __init__(self, core: Delivery, backlog: int) -> None:
        self._core = core
        self.left = [backlog] * 4
        self.wanted: dict[int, int] = {}
        self._seq = 0
        self._opened: set[int] = set()

    def ask(self, wants: dict[tuple[str, int], int]) -> None:
        for (_, priority), count in wants.items():
            if priority not in self._opened:
                self._opened.add(priority)
                self._core.caught_up("g", priority, False, NOW)
            self.wanted.pop(priority, None)
            if count:
                self.wanted[priority] = count

    def give(self) -> bool:
        """One page. False: nobody asks, or nothing is left of what is asked for."""
        for priority, wanted in list(self.wanted.items()):
            if not self.left[priority]:
                continue
            count = min(wanted, PAGE, self.left[priority])
            self.left[priority] -= count
            self.wanted[priority] -= count
            if not self.wanted[priority]:
                del self.wanted[priority]
            rows = [Row(self._seq + n + 1, priority) for n in range(count)]
            self._seq += count
            self._core.arrived("g", priority, rows, None, NOW)
            if not self.left[priority]:
                self._core.caught_up("g", priority, True, NOW)
            return True
        return False


def drained(policy: Policy, backlog: int, **options: int) -> list[int]:
    """The priorities in the order in which one consumer got all messages. It acks at once, the disk is slow."""
    core = Delivery(lambda: 0.5, **options)
    disk = Disk(core, backlog)
    session = Session(None, "n1.x", 1 << 20)
    sub = core.subscribe(session, "s", "g", 100, 30, NOW, policy)
    got: list[int] = []
    while True:
        effects = core.effects()
        disk.ask(effects.wants)
        if effects.pushes:
            held = effects.pushes[sub]
            got += [pending.message.priority for pending in held]
            core.ack(session, [pending.lease for pending in held], NOW)
        elif not effects and not disk.give():
            return got


@pytest.mark.parametrize("ready_bytes_max", [64 << 20, 100_000], ids=["memory", "no memory"])
def test_a_backlog_on_disk_is_served_by_the_weights(ready_bytes_max):
    got = drained(Policy(), 4000, ready_bytes_max=ready_bytes_max)
    assert len(got) == 16_000
    saturated = got[:7000]  # the highest lane is empty after 7,500
    for priority, weight in enumerate(WEIGHTS):
        fair = len(saturated) * weight / sum(WEIGHTS)
        assert abs(saturated.count(priority) - fair) <= 2
    for at in range(0, len(saturated) - 15, 15):
        window = saturated[at : at + 15]
        assert [window.count(priority) for priority in range(4)] == list(WEIGHTS)


@pytest.mark.parametrize("ready_bytes_max", [64 << 20, 100_000], ids=["memory", "no memory"])
def test_under_strict_a_lower_lane_waits_for_what_lies_on_the_disk_of_a_higher(ready_bytes_max):
    got = drained(Policy(strict=True), 1000, ready_bytes_max=ready_bytes_max)
    assert got == [3] * 1000 + [2] * 1000 + [1] * 1000 + [0] * 1000


def test_a_lane_that_has_nothing_makes_nobody_wait():
    core = Delivery(lambda: 0.5)
    session = Session(None, "n1.x", 1 << 20)
    core.subscribe(session, "s", "g", 100, 30, NOW)
    for priority in range(4):
        core.caught_up("g", priority, False, NOW)
    core.arrived("g", 1, [Row(1, 1)], None, NOW)
    assert not core.effects().pushes  # others of higher weight may be about to come
    for priority in (3, 2, 0):
        core.caught_up("g", priority, True, NOW)
    assert [p.message.seq for queue in core.effects().pushes.values() for p in queue] == [1]


def test_who_asks_for_nothing_is_not_waited_for():
    core = Delivery(lambda: 0.5, ready_bytes_max=1000)
    session = Session(None, "n1.x", 1 << 20)
    core.subscribe(session, "s", "g", 100, 30, NOW)
    core.effects()
    core.arrived("g", 1, [Row(1, 1, size_bytes=5000)], None, NOW)  # memory is full: no lane may ask for more
    assert [p.message.seq for queue in core.effects().pushes.values() for p in queue] == [1]


def test_a_group_that_is_moved_forgets_whose_turn_it_was():
    core = Delivery(lambda: 0.5)
    session = Session(None, "n1.x", 1 << 20)
    core.subscribe(session, "s", "g", 100, 30, NOW)
    core.caught_up("g", 3, False, NOW)
    core.arrived("g", 1, [Row(1, 1)], None, NOW)
    core.reset("g", NOW)
    core.configure("g", Policy(), NOW)
    core.effects()
    core.arrived("g", 1, [Row(2, 1)], None, NOW)
    assert [p.message.seq for queue in core.effects().pushes.values() for p in queue] == [2]
