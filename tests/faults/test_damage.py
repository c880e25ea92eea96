"""Damaged files, short: eighty damages, none of them served in silence."""

from __future__ import annotations

import random

import pytest

from faults import damage


@pytest.mark.slow
def test_no_damage_is_served_in_silence(tmp_path):
    damaged = damage.run(tmp_path, count=80, seed=random.SystemRandom().randrange(1 << 32))
    print(damaged.text())
    assert not damaged.problems, damaged.text()
