"""Who somebody is, by whatever they show: the verifier, the issuer's keys, revocations and tickets as one.

Owns how these parts work together, so that WebSocket, HTTP and the auth frame cannot differ. No rule about a token,
a key or a ticket lives here, and nothing here logs one.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

from .auth import Reason, TokenVerifier, Unauthorized, UnknownKey, VerifyKey, build_ring
from .fetch import parse_address
from .jwks import FileSource, Jwks, UrlSource
from .refusal import Refusal
from .revocation import Revocations, RevocationStore
from .rights import Principal
from .settings import ConfigError, Settings
from .tickets import Ticket, Tickets

Verified = Callable[[Principal | None], None]
"""None: no valid token."""


class Tokens:
    """Everything that makes a Principal."""

    def __init__(
        self,
        verifier: TokenVerifier,
        jwks: Jwks | None,
        revocations: Revocations,
        tickets: Tickets,
        clock_now: Callable[[], float],
    ) -> None:
        """`verifier` must ask these revocations, and `jwks` publish to it: `make_tokens` sees to both."""
        self.verifier = verifier
        self.jwks = jwks
        self.revocations = revocations
        self.tickets = tickets
        self.failures: Counter[str] = Counter()
        """Refused credentials, by reason."""
        self._clock_now = clock_now
        self._late: set[asyncio.Task[None]] = set()  # asyncio itself keeps only weak references to tasks

    async def start(self) -> None:
        """Load what has to be known before the first token is judged. Raises StoreError, ConfigError."""
        await self.revocations.load(self._clock_now())
        if self.jwks is not None:
            await self.jwks.start()

    async def close(self) -> None:
        """Stop fetching, and refuse whoever still waits for a key. Harmless when repeated."""
        if self.jwks is not None:
            await self.jwks.close()
        if self._late:
            await asyncio.wait(self._late)

    # --- tokens ----------------------------------------------------------------------------------------------------

    def verify(self, token: str | bytes, now: float) -> Principal:
        """The principal of a good token, by the keys known now. Raises Unauthorized; as UnknownKey when it is worth
        asking again with `verify_token` or `verify_late`."""
        if self.jwks is not None:
            self.jwks.renew_if_old()
        try:
            return self.verifier.verify(token, now)
        except Unauthorized as failure:
            self.failures[failure.reason] += 1
            raise

    async def verify_token(self, token: str | bytes, now: float) -> Principal:
        """The principal of a good token, also of one whose key was published a moment ago: then the issuer is asked,
        once. Raises Unauthorized and nothing else. Waits for nothing when the key is known."""
        try:
            return self.verify(token, now)
        except UnknownKey as unknown:
            kid = unknown.kid
        if self.jwks is None or not await self.jwks.refresh_for(kid):
            raise Unauthorized("kid")
        return self.verifier.verify(token, self._clock_now())  # time has passed

    def verify_late(self, token: str | bytes, done: Verified) -> None:
        """`verify_token` for who cannot await, and has met UnknownKey: `done` is called once, in a later loop turn.
        The caller may be gone by then, and has to notice."""
        task = asyncio.get_running_loop().create_task(self._verify_late(token, done))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _verify_late(self, token: str | bytes, done: Verified) -> None:
        try:
            principal = await self.verify_token(token, self._clock_now())
        except Unauthorized:
            principal = None
        done(principal)

    # --- revocation ------------------------------------------------------------------------------------------------

    def revoked(self, principal: Principal) -> bool:
        """Whether a live session of this principal must end. Ask again whenever `revocations.version` has changed."""
        return self.revocations.affected(principal)

    # --- tickets ---------------------------------------------------------------------------------------------------

    def issue_ticket(self, principal: Principal, origin: str | None, now: float) -> Ticket | Refusal:
        """A ticket for somebody who has shown a token with this request."""
        return self.tickets.issue(principal, origin, now)

    def redeem(self, ticket: str, origins: Collection[str], now: float) -> Principal:
        """The principal of a ticket, which is used up. `origins` are those the request may come from
        (`origins.origins_of`). Raises Unauthorized and nothing else."""
        principal = self.tickets.take(ticket, origins, now)
        reason: Reason = "ticket" if principal is None else "revoked"
        if principal is None or self.revocations.affected(principal):
            self.failures[reason] += 1
            raise Unauthorized(reason)
        return principal


def make_verifier(settings: Settings, revocations: Revocations | None = None) -> TokenVerifier:
    """The verifier for the keys that the settings name. Raises ConfigError."""
    published = settings.jwks_url is not None or settings.jwks_file is not None
    keys = [VerifyKey(key.kid, key.alg, key.material()) for key in settings.keys]
    return TokenVerifier(
        build_ring(keys, published=published),
        audience=settings.audience,
        issuer=settings.issuer,
        leeway_s=settings.token_leeway_s,
        lifetime_s_max=settings.token_lifetime_s_max,
        revoked=None if revocations is None else revocations.affected,
    )


def make_jwks(settings: Settings, verifier: TokenVerifier, clock_now: Callable[[], float]) -> Jwks | None:
    """The issuer's keys where the settings say they are; None if they do not. Raises ConfigError."""
    if settings.jwks_url is not None:
        address = parse_address(settings.jwks_url, allow_http_loopback=settings.jwks_allow_http_loopback)
        return Jwks(UrlSource(address), verifier.publish, clock_now)
    if settings.jwks_file is not None:
        return Jwks(FileSource(Path(settings.jwks_file)), verifier.publish, clock_now)
    return None


def make_tokens(settings: Settings, store: RevocationStore, clock_now: Callable[[], float]) -> Tokens:
    """All of it as the settings say. Raises ConfigError."""
    if not settings.keys and settings.jwks_url is None and settings.jwks_file is None:
        raise ConfigError("no keys: give keys, jwks_url or jwks_file")
    revocations = Revocations(store, settings.issuer)
    verifier = make_verifier(settings, revocations)
    tickets = Tickets(
        settings.node,
        lifetime_s=settings.ticket_lifetime_s,
        per_subject_max=settings.tickets_per_subject,
        tickets_max=settings.tickets_max,
    )
    return Tokens(verifier, make_jwks(settings, verifier, clock_now), revocations, tickets, clock_now)
