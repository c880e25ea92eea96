"""Clock steps, short: an hour ahead and ten years back, and the strobe."""

from __future__ import annotations

import pytest

from faults import clock, preload


@pytest.mark.slow
def test_a_step_of_the_clock_changes_nothing(tmp_path):
    assert preload.missing() is None
    stepped = clock.run(tmp_path, (clock.HOUR_S, -clock.DECADE_S))
    assert not stepped.problems, stepped.text()
    assert stepped.refused
