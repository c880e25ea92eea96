"""The n-th file operation fails, short: every 25th of a run and of a start."""

from __future__ import annotations

import random

import pytest

from faults import io_faults, preload


@pytest.mark.skipif(preload.missing() is not None, reason=str(preload.missing()))
@pytest.mark.slow
def test_no_failing_file_operation_makes_it_lie_or_linger(tmp_path):
    sweep = io_faults.run(tmp_path, stride=25, seed=random.SystemRandom().randrange(1 << 32))
    print(sweep.text())
    assert not sweep.problems, sweep.text()
