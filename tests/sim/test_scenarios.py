"""What must be shown, at the size of a test. At full size: python tests/sim/run.py --scenario all."""

from __future__ import annotations

import pytest

from sim.scenarios import SMALL


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", SMALL)
def test_it_is_shown(name: str) -> None:
    shown = SMALL[name]()
    assert shown.problems == [], shown.figures
