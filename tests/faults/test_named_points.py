"""The gateway killed at four of the named points of its work, others each time: nothing is lost, doubled or undone."""

from __future__ import annotations

import random

import pytest

from faults import crashing, named_points


@pytest.mark.slow
def test_a_kill_at_four_named_points_loses_nothing(tmp_path):
    dice = random.SystemRandom()
    points = dice.sample(crashing.POINTS, 4)
    verdict, killed = named_points.run(tmp_path, 1, dice.randrange(1 << 32), points)
    print(verdict.text())
    assert not verdict.problems, verdict.text()
    assert set(killed) == set(points)
