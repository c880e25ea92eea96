"""Scenario `locked`: a second gateway on the files of a running one must go, at once and with a reason.

Owns that one question: the exit code, the time it takes, the words, and that the first one does not notice.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

EXIT_CONFIG = 3
TOOK_S_MAX = 1.0


@dataclass
class Refusal:
    """How the second gateway ended."""

    code: int
    took_s: float
    words: str
    names_owner: bool
    first_still_works: bool


async def _works(gateway: GatewayProcess) -> bool:
    client = await WsClient.open(gateway.port, gateway.token())
    try:
        return (await client.publish("faults.locked", {"n": 1}))["seq"] > 0
    finally:
        client.abort()


def run(folder: Path) -> Refusal:
    first = GatewayProcess(folder / "first")
    second = GatewayProcess(folder / "second", data=str(first.data))
    try:
        first.start()
        asyncio.run(_works(first))
        began = time.monotonic()
        second.spawn()
        code = second.wait()
        took_s = time.monotonic() - began
        return Refusal(code, took_s, second.log, str(first.pid) in second.log, asyncio.run(_works(first)))
    finally:
        second.stop()
        first.stop()
