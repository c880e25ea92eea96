"""The kill -9 loop, short: 10 cycles under load lose, double and undo nothing."""

from __future__ import annotations

import random

import pytest

from faults import kill


@pytest.mark.slow
def test_ten_kills_lose_double_and_undo_nothing(tmp_path):
    verdict = kill.run(tmp_path, cycles=10, seed=random.SystemRandom().randrange(1 << 32))
    print(verdict.text())
    assert not verdict.problems, verdict.text()
