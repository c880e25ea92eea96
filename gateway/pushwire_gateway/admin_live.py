"""What goes on in a tenant right now, and how to end it: connections, numbers, revoked tokens, a copy of the file.

Owns what is shown of a connection: never a secret of its session. Counts nothing itself.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pushwire.wire.frames import NAME
from pushwire_storage.base import StoreError, StoreRefused

from .admin_base import AdminBase, page
from .clock import to_ms
from .refusal import Refusal, Refused
from .revocation import Revoked
from .rights import DEFAULT_TENANT, Principal
from .session import Session
from .sysstats import numbers

KICKED = 4403
PARTIAL = ".partial"
"""What the store calls a copy that is not whole yet. Not for users: a copy of that name could be taken for one."""
BACKUP_NAME_MAX = 200
"""File systems take 255 bytes, with the ending above."""


class Live(AdminBase):
    """Connections, numbers, revocations. All of it needs `admin` on the whole tenant."""

    async def connections(self, principal: Principal, after: str = "", limit: int | None = None) -> dict[str, Any]:
        """The tenant's WebSockets, by id, from the one after `after` on."""
        tenant = self._of_tenant(principal)
        most = page(limit)
        found = [session for session in self._gateway.sessions_of(tenant) if session.id > after]
        return {"connections": [self._connection_shown(one) for one in found[:most]], "more": len(found) > most}

    async def kick(self, principal: Principal, id: str) -> None:
        """End a connection, with a code that tells it not to come back; its leases go back at once. Refused:
        `not_found`."""
        for session in self._gateway.sessions_of(self._of_tenant(principal)):
            if session.id == id:
                session.kick(KICKED)
                self._gateway.engine.turn()
                return
        raise Refused(Refusal("not_found"))

    async def stats(self, principal: Principal) -> dict[str, Any]:
        """The tenant's numbers, those of `$sys.stats`."""
        return numbers(self._gateway, self._of_tenant(principal))

    async def revoke(
        self,
        principal: Principal,
        *,
        jti: str | None = None,
        subject: str | None = None,
        issued_before_s: int | None = None,
    ) -> dict[str, Any]:
        """Accept one token no longer, or none of a subject that was issued before a second (default: now). In force
        here at once, also on open connections."""
        tenant, now = self._of_tenant(principal), self._gateway.clock.now()
        if (jti is None) == (subject is None) or (jti is not None and issued_before_s is not None):
            raise Refused(Refusal("bad_request", "give jti, or subject and perhaps issued_before_s"))
        revocations = self._gateway.revocations
        try:
            if jti is not None:
                made = await revocations.revoke_token(tenant, jti, now)
            else:
                made = await revocations.revoke_subject(tenant, subject or "", now, issued_before_s)
        except StoreError as error:
            raise Refused(Refusal(error.code, str(error))) from None
        if isinstance(made, Refusal):
            raise Refused(made)
        self._gateway.end_revoked()
        return _revoked_shown(made)

    async def revocations(self, principal: Principal) -> dict[str, Any]:
        """What is revoked in the tenant, oldest first."""
        found = self._gateway.revocations.of_tenant(self._of_tenant(principal))
        return {"revocations": [_revoked_shown(one) for one in found]}

    async def backup(self, principal: Principal, name: str) -> dict[str, Any]:
        """A copy of the whole database to a new file of this name in the settings' `backup_dir`. It holds all tenants,
        so it is for administrators of the tenant `default`. Refused: `unsupported` without a folder, or by a store that
        keeps no file; `conflict` when the file is there."""
        if self._of_tenant(principal) != DEFAULT_TENANT:
            raise Refused(Refusal("forbidden"))
        if not NAME.fullmatch(name) or len(name) > BACKUP_NAME_MAX or name.endswith(PARTIAL):
            raise Refused(Refusal("bad_request", f"path must be a name of at most {BACKUP_NAME_MAX} characters"))
        folder = self._gateway.settings.backup_dir
        if folder is None:
            raise Refused(Refusal("unsupported", "this gateway has no backup_dir"))
        if not self._gateway.engine.store.capabilities.durable:
            raise Refused(Refusal("unsupported", "this gateway keeps no file"))
        target = folder / name
        if await asyncio.to_thread(target.exists):
            raise Refused(Refusal("conflict", "the file is there already"))
        try:
            await self._catalog.backup(str(target))
        except StoreRefused as error:  # made by somebody else meanwhile, or a folder one cannot write to
            raise Refused(Refusal("unavailable", str(error))) from None
        except StoreError as error:
            raise Refused(Refusal(error.code, str(error))) from None
        size = (await asyncio.to_thread(target.stat)).st_size
        return {"path": str(target), "bytes": size}

    def _connection_shown(self, session: Session) -> dict[str, Any]:
        principal, held, now = session.principal, session.held, self._gateway.clock.now()
        assert principal is not None  # only known clients are listed
        subs = [] if held is None else list(held.core.subs.values())
        return {
            "id": session.id,
            "subject": principal.subject,
            "ip": session.ip,
            "opened_at_ms": to_ms(session.opened_at),
            "expires_in_ms": max(0, int((session.expires_at - now) * 1000)),
            "subscriptions": [
                {
                    "sub": sub.name,
                    "topic": sub.group.handle.topic.name,
                    "group": sub.group.handle.name,
                    "prefetch": sub.prefetch,
                    "in_flight": len(sub.leases),
                }
                for sub in subs
            ],
            "tails": session.tails,
            "refused": session.refused,
            "in_flight": sum(len(sub.leases) for sub in subs),
            "in_flight_bytes": 0 if held is None else held.core.bytes_in_flight,
            "unsent_bytes": session.outbox.size_bytes,
            "resume_grace_ms": 0 if held is None else int(held.core.grace_s * 1000),
        }


def _revoked_shown(revoked: Revoked) -> dict[str, Any]:
    shown: dict[str, Any] = {revoked.kind: revoked.name, "expires_at_ms": revoked.expires_ms}
    if revoked.kind == "subject":
        shown["issued_before_s"] = revoked.issued_before_s
    return shown
