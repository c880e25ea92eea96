"""The kill -9 loop, short: 10 cycles under load lose, double and undo nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest

from faults import kill
from faults.supervisor import Supervisor


@pytest.mark.slow
def test_ten_kills_lose_double_and_undo_nothing(tmp_path):
    verdict = kill.run(tmp_path, cycles=10, seed=random.SystemRandom().randrange(1 << 32))
    print(verdict.text())
    assert not verdict.problems, verdict.text()


def test_a_successor_that_is_stopped_while_it_starts_is_no_failure(tmp_path):
    supervisor = Supervisor(tmp_path, seed=1)
    try:
        supervisor.start_gateway()
        asyncio.run(supervisor.create_groups())
        supervisor.start_clients()
        supervisor.watch(1.0)
        old = supervisor.pid_of("chaos-1")
        os.kill(old, signal.SIGKILL)
        while supervisor.pid_of("chaos-1") == old:
            supervisor.watch(0.01)
        supervisor.stop_clients()
        assert supervisor.client_log("chaos-1") == ""
    finally:
        supervisor.close()
