"""The n-th file operation fails or is the last, short: every 90th, and every 60th killed."""

from __future__ import annotations

import random

import pytest

from faults import io_faults, preload


@pytest.mark.slow
def test_no_failing_file_operation_makes_it_lie_or_linger(tmp_path):
    assert preload.missing() is None
    sweep = io_faults.run(tmp_path, stride=90, seed=random.SystemRandom().randrange(1 << 32))
    print(sweep.text())
    assert not sweep.problems, sweep.text()


@pytest.mark.slow
def test_a_kill_at_any_file_operation_loses_nothing(tmp_path):
    assert preload.missing() is None
    sweep = io_faults.kill_everywhere(tmp_path, stride=60, seed=random.SystemRandom().randrange(1 << 32))
    print(sweep.text())
    assert not sweep.problems, sweep.text()
