"""A crowd that comes and goes, and one that lost its gateway. The short form of what `make faults` does to 10,000."""

from __future__ import annotations

import pytest

from faults import connections


@pytest.mark.slow
def test_a_crowd_that_comes_and_goes_is_served_in_time_and_memory(tmp_path):
    crowded = connections.run(tmp_path, count=400, seconds=2)
    assert not crowded.problems, crowded.text()
    assert crowded.churned == 8
    assert crowded.pushes > 2 * 390


@pytest.mark.slow
def test_a_crowd_that_lost_its_gateway_is_back_and_none_sooner_than_its_jitter(tmp_path):
    storm = connections.storm(tmp_path, count=200)
    assert not storm.problems, storm.text()
    assert storm.attempts >= 200
