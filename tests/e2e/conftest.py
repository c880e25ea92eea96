"""Fixtures of the end-to-end tests: real gateways, stopped and looked at when the test is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import http_client, ws_client
from support.gateway_process import GatewayProcess

MakeGateway = Callable[..., GatewayProcess]


@pytest.fixture(autouse=True)
async def _no_connection_outlives_its_test() -> AsyncIterator[None]:
    # What tests of other folders left in this process has ended with their event loops.
    ws_client.OPEN.clear()
    http_client.OPEN.clear()
    yield
    for socket in list(ws_client.OPEN):
        socket.abort()
    for client in list(http_client.OPEN):
        client.close()
    await asyncio.sleep(0)  # transports close in the next turn


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[MakeGateway]:
    """Start a gateway; options as GatewayProcess has them. Its log is at DEBUG unless the test says otherwise, and
    must be clean of tokens and of unhandled exceptions at the end."""
    made: list[GatewayProcess] = []

    def make(**options: Any) -> GatewayProcess:
        # Most clients of these tests do not answer a close: without this each stop takes 2 s.
        settings = {"log_level": "debug", "close_timeout_s": "0.5"}
        options["settings"] = {**settings, **options.get("settings", {})}
        gateway = GatewayProcess(tmp_path / f"gateway-{len(made)}", **options)
        made.append(gateway)
        gateway.start()
        return gateway

    yield make
    for gateway in made:
        gateway.stop()
    for gateway in made:
        gateway.check_log()


@pytest.fixture
def gateway(make_gateway: MakeGateway) -> GatewayProcess:
    """One gateway with default limits but for the rates."""
    return make_gateway()
