"""An address that cannot be listened on is named: the system's own words leave it out."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from pushwire_gateway.listener import _bind


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}: ") as caught:
            await _bind(asyncio.get_running_loop(), "127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE
