"""Tickets: single-use credentials of 30 seconds, for URLs, where a token must never stand.

Owns the tickets that wait for their use. Pure: time comes in, no I/O, no logging. A ticket's text leaves `issue` once
and is not kept: what is kept is its digest, so that neither a dump of memory nor the time a lookup takes tells one.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Final, NamedTuple

from .auth import Unauthorized
from .clock import to_ms
from .refusal import Refusal
from .rights import Principal

SECRET_BYTES: Final = 32
"""256 bits: as a key that is never changed would have, at the price of 43 characters in a URL."""

TICKET_CHARS_MAX: Final = 64
"""A node id of 8, a dot and 43 characters of secret are 52. Checked before any work is done."""


class Ticket(NamedTuple):
    """A ticket as its owner gets it. The text is a secret until it is used or has expired."""

    text: str
    expires_in_ms: int

    def __repr__(self) -> str:
        return f"Ticket(expires_in_ms={self.expires_in_ms})"


class _Waiting(NamedTuple):
    principal: Principal
    origin: str | None
    expires_at: float


class Tickets:
    """The tickets of one node that have been issued and neither used nor forgotten. For one event loop."""

    __slots__ = ("_by_subject", "_lifetime_s", "_node", "_per_subject_max", "_tickets_max", "_waiting")

    def __init__(
        self, node: str, *, lifetime_s: float = 30, per_subject_max: int = 32, tickets_max: int = 10_000
    ) -> None:
        """`node` begins every ticket: whichever node of a cluster sees one knows whose it is. One ticket costs about
        400 bytes, so all together have 4 MB by default; a subject needs one per stream it opens within 30 s."""
        self._node = node
        self._lifetime_s = lifetime_s
        self._per_subject_max = per_subject_max
        self._tickets_max = tickets_max
        # In the order of issue, which is the order in which they expire: each lives equally long, or shorter if its
        # token ends before.
        self._waiting: OrderedDict[bytes, _Waiting] = OrderedDict()
        self._by_subject: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def issue(self, principal: Principal, origin: str | None, now: float) -> Ticket | Refusal:
        """A ticket for this principal; a session opened with it has the same rights, limits and end as one opened with
        the token itself. `origin`: as the request named it; the ticket is then good from there only.

        The principal must come from a token, shown with this request: a ticket makes no tickets.
        """
        self._forget(now)
        expires_at = min(now + self._lifetime_s, principal.valid_until)
        if expires_at <= now:
            return Refusal("unauthorized")
        owner = (principal.tenant, principal.subject)
        if self._by_subject[owner] >= self._per_subject_max:
            # To the owner, whose oldest ticket will be gone by then at the latest.
            return Refusal("rate_limited", "too many unused tickets", to_ms(self._lifetime_s))
        if len(self._waiting) >= self._tickets_max:
            self._drop(next(iter(self._waiting)))
        text = f"{self._node}.{secrets.token_urlsafe(SECRET_BYTES)}"
        self._waiting[_digest(text)] = _Waiting(principal, origin, expires_at)
        self._by_subject[owner] += 1
        return Ticket(text, to_ms(expires_at - now))

    def take(self, text: str, origins: Collection[str], now: float) -> Principal | None:
        """The principal of a ticket, which is used up with this call, wherever it was shown. None: there is no such
        ticket (any more), or it was asked for at an Origin that is none of these. Whether its token has been revoked
        meanwhile is not known here."""
        if len(text) > TICKET_CHARS_MAX or not text.isascii():
            return None
        found = self._drop(_digest(text))
        if found is None or now >= found.expires_at:
            return None
        if found.origin is not None and found.origin not in origins:
            return None
        return found.principal

    def _drop(self, digest: bytes) -> _Waiting | None:
        """The one pop that decides who has a ticket."""
        found = self._waiting.pop(digest, None)
        if found is not None:
            owner = (found.principal.tenant, found.principal.subject)
            self._by_subject[owner] -= 1
            if not self._by_subject[owner]:
                del self._by_subject[owner]
        return found

    def _forget(self, now: float) -> None:
        """Drop expired tickets, oldest first. One that ended early, with its token, waits for those before it."""
        while self._waiting:
            digest, oldest = next(iter(self._waiting.items()))
            if now < oldest.expires_at:
                break
            self._drop(digest)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("ascii")).digest()


def ticket_from_query(query: bytes) -> str | None:
    """The ticket in a URL's query; None when there is none. Raises Unauthorized when it stands there twice or empty.

    Not decoded: a ticket has no character that needs an escape, and no name but `ticket` is looked at.
    """
    found = [item[7:] for item in query.split(b"&") if item.startswith(b"ticket=")]
    if len(found) > 1 or b"" in found:
        raise Unauthorized("transport")
    return found[0].decode("latin-1") if found else None
