"""Power cuts, short: about a hundred of a gateway that syncs and of one that does not."""

from __future__ import annotations

import random

import pytest

from faults import power, preload


@pytest.mark.slow
def test_a_hundred_power_cuts_lose_nothing_and_relaxed_loses_some(tmp_path):
    assert preload.missing() is None
    verdict = power.run(tmp_path, cuts=100, seed=random.SystemRandom().randrange(1 << 32), relaxed_cuts=60)
    print(verdict.text())
    assert not verdict.problems, verdict.text()


@pytest.mark.slow
def test_what_is_called_a_duplicate_after_a_kill_is_safe(tmp_path):
    assert preload.missing() is None
    traffic, wrong = power.lone_retry(tmp_path)
    assert traffic.duplicates
    assert not wrong
