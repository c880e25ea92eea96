"""Who opens a WebSocket: the token, or the ticket, that the handshake carries.

Owns where a credential may stand in a handshake and that there is one of them at most. Judges none itself: the verifier
does. What the rest of the request must look like is handshake.py's.
"""

from __future__ import annotations

from typing import NamedTuple

from .auth import Unauthorized, UnknownKey, token_from_headers
from .handshake import UpgradeRequest
from .origins import origins_of
from .ports import Gateway
from .rights import Principal
from .tickets import ticket_from_query


class Shown(NamedTuple):
    """What a handshake says of its client. Both None: nothing, so an auth frame must follow."""

    principal: Principal | None
    late: str | None
    """A token that may be good: its key is asked for while the session is open already, as if it came in an auth
    frame. Nobody else waits for the issuer's answer."""


NOBODY = Shown(None, None)


def who(gateway: Gateway, request: UpgradeRequest, *, secure: bool) -> Shown:
    """Whoever the request says it comes from. A ticket is used up with this call. Raises Unauthorized."""
    token, _ = token_from_headers(request.headers)
    ticket = ticket_from_query(request.target.partition(b"?")[2])
    now = gateway.clock.now()
    if ticket is not None:
        if token is not None:
            raise Unauthorized("transport")  # two readers of one request must not see two clients
        return Shown(gateway.verifier.redeem(ticket, origins_of(request.headers, secure=secure), now), None)
    if token is None:
        return NOBODY
    try:
        return Shown(gateway.verifier.verify(token, now), None)
    except UnknownKey:
        return Shown(None, token)
