"""A minute's worth of the soak in seconds; and that its bars see what grows."""

from __future__ import annotations

import pytest

from faults import soak
from faults.soak import Soaked


@pytest.mark.slow
def test_a_short_soak_leaves_nothing_behind(tmp_path):
    soaked = soak.run(tmp_path, minutes=0.15, rest_s=2.5, toxic_s=1.0, required=())
    # Of a warm-up of seconds no memory can be told; what is left behind can.
    assert [problem for problem in soaked.problems if not problem.startswith("memory")] == [], soaked.text()
    assert soaked.visits.total() > 30
    assert len(soaked.visits) >= 8


def _look(**objects: int) -> dict:
    return {"objects": {"a": 10_000, **objects}, "threads": 4, "tasks": ["x"], "descriptors": 20}


@pytest.mark.parametrize(
    ("before", "after", "wrong"),
    [
        (_look(b=5000), _look(b=5050), False),
        (_look(b=5000), _look(b=5051), True),  # 1 %
        (_look(b=50), _look(b=90), False),  # so few are none
        (_look(), _look(new=41), True),
        (_look(b=100), _look(b=0), False),
        (_look(), {**_look(), "threads": 5}, True),
        (_look(), {**_look(), "tasks": ["x", "y"]}, True),
        (_look(), {**_look(), "descriptors": 21}, True),
        (_look(**{f"c{n}": 10 for n in range(10)}), _look(**{f"c{n}": 40 for n in range(10)}), True),  # all together
    ],
)
def test_what_grows_is_seen(before, after, wrong):
    soaked = Soaked(1)
    soak.compare(before, after, soaked)
    assert bool(soaked.problems) is wrong


def test_memory_is_judged_by_the_medians_of_both_ends():
    for growth, wrong in ((3.0, False), (3.1, True)):
        soaked = Soaked(1)
        soak.remember([100_000.0] * 5 + [500_000.0] * 9 + [100_000 + growth * 1024] * 5, 5, soaked)
        assert bool(soaked.problems) is wrong
