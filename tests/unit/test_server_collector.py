"""The gateway's process collects garbage when something has grown, not whenever what is in flight comes and goes."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pushwire_gateway import server
from pushwire_gateway.settings import Settings

SWING = 4_096 * 2
"""A lane's messages, each with its place in the core."""


class _NoServer:
    def __init__(self, settings):
        raise OSError


@pytest.fixture
def usual_thresholds():
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    gc.collect()
    yield
    gc.set_threshold(*before)


def swings():
    """Rounds of the collector while a full lane is filled and emptied ten times."""
    before = sum(generation["collections"] for generation in gc.get_stats())
    for _ in range(10):
        held = [[number] for number in range(SWING)]
        del held
    return sum(generation["collections"] for generation in gc.get_stats()) - before


@pytest.mark.usefixtures("usual_thresholds")
def test_messages_that_come_and_go_start_no_collection(monkeypatch):
    monkeypatch.setattr(server, "Server", _NoServer)
    assert swings() > 0
    with pytest.raises(OSError):
        asyncio.run(server.serve(Settings()))
    gc.collect()
    assert swings() == 0
