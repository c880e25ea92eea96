"""The gateway as a process among others: what it was started with, and the signals it is sent."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.gateway_process import GatewayProcess


class StartedBy(GatewayProcess):
    """Started through a shell line, in which `"$@"` is the gateway."""

    def __init__(self, folder: Path, line: str) -> None:
        super().__init__(folder)
        self.line = line

    def command(self):
        return ["/bin/sh", "-c", self.line, "sh", *super().command()]


def _signalled(folder, line, *numbers):
    """The exit code after these signals, and the log."""
    gateway = StartedBy(folder, line)
    try:
        gateway.start()
        for number in numbers:
            gateway.signal(number)
        return gateway.wait(), gateway.log
    finally:
        gateway.stop()


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_reason_to_fail(tmp_path, closed):
    """Their descriptors are not those of the database, of a socket or of the loop."""
    code, log = _signalled(tmp_path, f'exec "$@" {closed}', signal.SIGTERM)
    assert code == 0, log


def test_the_end_of_its_terminal_drains(tmp_path):
    code, log = _signalled(tmp_path, 'exec "$@"', signal.SIGHUP)
    assert (code, '"event": "stopped"' in log) == (0, True), log


def test_nohup_is_respected(tmp_path):
    """`nohup` asks to outlive the terminal: the signal stays ignored."""
    gateway = StartedBy(tmp_path, "trap '' HUP; exec \"$@\"")
    try:
        gateway.start()
        ignored = Path(f"/proc/{gateway.pid}/status").read_text()
        mask = next(line.split()[1] for line in ignored.splitlines() if line.startswith("SigIgn:"))
        assert int(mask, 16) >> (signal.SIGHUP - 1) & 1
    finally:
        gateway.stop()


def test_a_drain_that_is_asked_for_again_and_again_is_one(tmp_path):
    code, log = _signalled(tmp_path, 'exec "$@"', signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    assert (code, log.count('"event": "draining"')) == (0, 1), log
