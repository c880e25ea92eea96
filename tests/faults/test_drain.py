"""SIGTERM under load, three times: everything confirmed is kept, everyone who listens hears goodbye, exit 0 in time."""

from __future__ import annotations

import random

import pytest

from faults import drain


@pytest.mark.slow
def test_three_drains_under_load_lose_nothing_and_exit_0(tmp_path):
    verdict = drain.run(tmp_path, cycles=3, seed=random.SystemRandom().randrange(1 << 32))
    print(verdict.text())
    assert not verdict.problems, verdict.text()
    assert verdict.figures["drain s max"] <= drain.DRAIN_S_MAX
