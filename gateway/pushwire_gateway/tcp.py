"""What the kernel is told of a TCP connection, and what it is asked about one.

Owns socket options and the one look into the kernel's send queue; every platform difference lies here. Decides
nothing: the stall verdict is outbox.py's.
"""

from __future__ import annotations

import fcntl
import socket
import sys
from typing import Final

USER_TIMEOUT_MS: Final = 20_000
"""Data that no acknowledgement comes for ends the connection after this long (RFC 5482), where the default is about
15 minutes. A ping goes out every 20 s, so a peer that vanished is noticed even when nothing else is sent."""

NOTSENT_BYTES: Final = 64 * 1024
"""Bytes the kernel takes beyond what the peer's window and the congestion window let it send. Without a bound it
takes megabytes for a client that reads nothing (2.8 MB measured on loopback), which no limit of ours would see; as
much as the transport's own high mark keeps a fast link busy."""

KEEPALIVE_IDLE_S: Final = 60
"""For HTTP connections that a response waits on; a WebSocket is pinged more often than that."""

_SIOCOUTQNSD: Final = 0x894B  # linux/sockios.h: bytes of the send queue that have not been sent
_ZERO: Final = bytes(4)


def tune_listening(sock: socket.socket) -> None:
    """Set on the listening socket what every connection shall have: accepted sockets inherit it, for no system call
    each. TCP_NODELAY because a frame is written whole and must not wait for the next (Nagle)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_NODELAY", 1),
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
        ("TCP_USER_TIMEOUT", USER_TIMEOUT_MS),
        ("TCP_NOTSENT_LOWAT", NOTSENT_BYTES),
    ):
        option = getattr(socket, name, None)  # not every platform has each
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def held_back_bytes(sock: socket.socket) -> int:
    """Bytes in the kernel that the peer's window (or the network) has kept from being sent at all. 0 where the
    system cannot tell. What was sent and is not acknowledged yet does not count: that is the network's delay."""
    if sys.platform != "linux":
        return 0
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), _SIOCOUTQNSD, _ZERO), sys.byteorder)
    except OSError:
        return 0  # closed meanwhile, or no TCP socket
