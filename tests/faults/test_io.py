"""The n-th file operation fails or is the last, short: every 90th, and every 60th killed."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from faults import io_faults, preload
from pushwire_storage.highwater import MARK
from support.gateway_process import GatewayProcess, until
from support.ws_client import WsClient


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


async def _publish(gateway: GatewayProcess) -> None:
    client = await WsClient.open(gateway.port, gateway.token())
    await client.publish("faults.idle", 0)
    client.abort()


def test_an_idle_gateway_ends_when_its_mark_cannot_be_synced(tmp_path):
    """No batch comes any more that could meet the error."""
    assert preload.missing() is None
    gateway = preload.ShimmedGateway(tmp_path)
    try:
        gateway.start()
        mark = gateway.data / MARK
        before = mark.read_bytes()
        asyncio.run(_publish(gateway))
        until(lambda: mark.read_bytes() != before, "the mark of the first publish")
        asyncio.run(_publish(gateway))  # its mark comes a second after that one
        gateway.control.arm(preload.ONCE, 2, mask=preload.ON_SYNC)  # the first is that of the commit it counts with
        assert gateway.wait() == io_faults.EXIT_BROKEN, gateway.last_words()
        took_s = time.monotonic() - gateway.control.fired_s
        assert gateway.control.fired_on == "sync"
        assert "no mark: " in gateway.log
        assert took_s <= io_faults.EXIT_S_MAX
    finally:
        gateway.stop()
