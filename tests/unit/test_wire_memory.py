"""What a decoded message takes in memory is what the gateway's limits count for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pushwire_gateway.core.model import OVERHEAD_BYTES

COUNT = 20_000
BODY_BYTES = 200

KEEP = f"""
import os
from pathlib import Path
from pushwire.wire.jsonv1 import JsonServerCodec
from pushwire_storage.base import Message

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

codec = JsonServerCodec(Message)
fields = {{"plain": "", "headers": '"headers":{{"traceparent":"x"}},'}}[os.environ["SHAPE"]]
line = '{{"op":"publish","topic":"t","id":"%d",' + fields + '"data":"' + "x" * ({BODY_BYTES} - 2) + '"}}'
kept = [codec.feed(line % number)[0].messages[0] for number in range(100)]
before = resident_bytes()
kept += [codec.feed(line % number)[0].messages[0] for number in range({COUNT})]
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("shape", ["plain", "headers"])
def test_a_message_that_is_kept_takes_no_more_memory_than_is_counted_for_it(shape, monkeypatch):
    """The serialiser's results keep kilobytes each; a process of its own, because RSS is the process'."""
    monkeypatch.setenv("SHAPE", shape)
    answer = subprocess.run([sys.executable, "-c", KEEP], capture_output=True, text=True, check=True, timeout=60)
    assert int(answer.stdout) / COUNT <= BODY_BYTES + OVERHEAD_BYTES
