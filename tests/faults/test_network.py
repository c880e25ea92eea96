"""A network that is late, slow, cut, silent or down loses nothing. The short form of what `make faults` does."""

from __future__ import annotations

import pytest

from faults import cuts, netns, network

STRIDE = 61
"""A prime, so that cuts fall at other places of a frame each time."""


@pytest.mark.slow
def test_no_toxic_of_the_network_loses_or_doubles_anything(tmp_path):
    hurt = network.run(tmp_path, rounds=1, toxic_s=0.5, clear_s=0.2, required=("duplicate", "stale"))
    assert not hurt.verdict.problems, hurt.verdict.text()
    assert all(hurt.fired.values())


def test_a_session_cut_anywhere_loses_and_doubles_nothing(tmp_path):
    swept, report = cuts.run(tmp_path, STRIDE)
    assert not swept.problems, swept.text()
    # Each message is there once, and cuts before and after its receipt were met.
    assert report.figures["confirmed"] == report.figures["messages"] > swept.cuts
    assert swept.duplicates
    assert swept.sessions > report.figures["messages"]


def test_a_link_that_goes_down_without_a_word_is_noticed_by_both_ends(tmp_path):
    if reason := netns.missing():
        pytest.skip(reason)
    parted = netns.run(tmp_path, ping_s=1, pong_s=1)
    assert not parted.problems, parted.text()
    assert parted.freed_s > 1
