"""Twenty sockets of one subject at ten times its rate get what the limit says; another client gets what it got."""

from __future__ import annotations

from faults import rates


def test_a_subject_gets_rate_times_time_and_burst_whatever_it_does_and_the_clock_says(tmp_path):
    limited = rates.run(tmp_path, seconds=2)
    assert not limited.problems, limited.text()
    assert limited.greedy.refused > 1_000
    assert limited.steps >= 3
