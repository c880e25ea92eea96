"""A gateway that stood still for twice the ack timeout: late acks count or are stale, never both."""

from __future__ import annotations

from faults import pause


def test_a_pause_beyond_the_ack_timeout_makes_no_two_holders(tmp_path):
    report = pause.run(tmp_path)
    assert not report.violations, report.violations
    assert report.figures["confirmed"] == pause.MESSAGES
    # The pause was felt: what the holder held came back to it or to the other one.
    assert report.figures["redeliveries"] >= pause.HELD // 2
