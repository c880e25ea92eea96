"""SIGTERM under load, five times: everything confirmed is kept, everyone who listens hears goodbye, exit 0 in time."""

from __future__ import annotations

import random

import pytest

from faults import drain


@pytest.mark.slow
def test_five_drains_under_load_lose_nothing_and_exit_0(tmp_path):
    verdict = drain.run(tmp_path, cycles=5, seed=random.SystemRandom().randrange(1 << 32))
    print(verdict.text())
    assert not verdict.problems, verdict.text()
    assert verdict.figures["drain s max"] <= drain.DRAIN_S_MAX
