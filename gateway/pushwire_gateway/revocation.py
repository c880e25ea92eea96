"""Revoked tokens: one by its `jti`, or all that a subject was issued before a second.

Owns the index that every token is checked against and the rule of what an entry covers. Durable storage is the
catalog's. An entry belongs to the tenant whose administrator made it and covers tokens of that tenant only: neither
can one tenant shut out another, nor see whom the other has shut out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol

from pushwire_storage.base import Revocation

from .auth import LEEWAY_S_MAX, LIFETIME_S_MAX, TEXT_CHARS_MAX
from .clock import to_ms
from .refusal import Refusal
from .rights import Principal

REVOCATION_KEPT_S: Final = LIFETIME_S_MAX + 3 * LEEWAY_S_MAX
"""How long an entry is kept: until the last token it covers has expired by itself. That token begins one leeway after
`issued_before_s`, itself at most one leeway ahead, lives for as long as any configuration may allow, and is accepted
for one leeway more. Not the lifetime that is configured: an operator may raise it with the next start."""

REVOCATIONS_MAX: Final = 100_000
"""Entries of all tenants: about 40 MB. Whoever needs more revokes subjects, or changes the key."""

REVOCATIONS_PER_TENANT_MAX: Final = 10_000
"""Entries of one tenant, so that ten of them have to fill the table together."""

Kind = Literal["jti", "subject"]


class RevocationStore(Protocol):
    """What is asked of the catalog (`pushwire_storage.base.Catalog`). The jti or subject given to it is qualified by
    its tenant: `<tenant>/<jti>`; a tenant's name has no slash."""

    async def revoke(self, revocation: Revocation) -> None:
        """Durable when it returns. One of the same issuer and jti or subject is replaced."""

    async def revocations(self) -> Sequence[Revocation]: ...


class Revoked(NamedTuple):
    """One entry, as an administrator of its tenant sees it."""

    kind: Kind
    name: str
    """The jti or the subject."""
    issued_before_s: int
    """Covers tokens with an `iat` below it; of no meaning for a jti."""
    expires_ms: int


_Key = tuple[str, str, Kind, str]  # issuer, tenant, kind, name


class Revocations:
    """Every revocation in force. For one event loop."""

    __slots__ = ("_by_tenant", "_entries", "_issuer", "_max", "_per_tenant_max", "_store", "version")

    def __init__(
        self,
        store: RevocationStore,
        issuer: str,
        *,
        revocations_max: int = REVOCATIONS_MAX,
        per_tenant_max: int = REVOCATIONS_PER_TENANT_MAX,
    ) -> None:
        """`issuer` is the one whose tokens are accepted: entries are about these."""
        self._store = store
        self._issuer = issuer
        self._max = revocations_max
        self._per_tenant_max = per_tenant_max
        # In the order in which they were made, which is that in which they expire.
        self._entries: OrderedDict[_Key, Revoked] = OrderedDict()
        self._by_tenant: Counter[str] = Counter()
        self.version = 0
        """Changes with every entry: whoever has asked about a principal need not ask again before it has."""

    def __len__(self) -> int:
        return len(self._entries)

    async def load(self, now: float) -> None:
        """Take over what is stored and not expired. To be awaited before the first token is judged. However many
        there are: what was revoked stays so. Raises StoreError; ValueError when the entries are not ours."""
        stored = await self._store.revocations()
        for one in sorted(stored, key=lambda one: one.expires_ms):
            if one.expires_ms > to_ms(now):
                key = _key_of(one)
                self._put(key, Revoked(key[2], key[3], one.issued_before_s, one.expires_ms))

    def affected(self, principal: Principal) -> bool:
        """Whether the token behind this principal is revoked."""
        token = (principal.issuer, principal.tenant)
        if (*token, "jti", principal.jti) in self._entries:
            return True
        entry = self._entries.get((*token, "subject", principal.subject))
        return entry is not None and principal.issued_at < entry.issued_before_s

    def of_tenant(self, tenant: str) -> list[Revoked]:
        """What this tenant's administrators have revoked, oldest first."""
        return [entry for key, entry in self._entries.items() if key[:2] == (self._issuer, tenant)]

    async def revoke_token(self, tenant: str, jti: str, now: float) -> Revoked | Refusal:
        """Revoke the token with this jti. Durable when it returns; raises StoreError when that is not certain."""
        return await self._add(tenant, "jti", jti, 0, now)

    async def revoke_subject(
        self, tenant: str, subject: str, now: float, issued_before_s: int | None = None
    ) -> Revoked | Refusal:
        """Revoke every token of this subject with an `iat` below `issued_before_s`: by default those issued up to now,
        the current second included, so that a new token counts from the next second on. Durable when it returns;
        raises StoreError when that is not certain.

        An issuer whose clock is ahead may have issued tokens dated later: `issued_before_s` may be ahead by as much as
        any leeway. Not by more: this ends tokens, it does not ban a subject.
        """
        before_s = int(now) + 1 if issued_before_s is None else issued_before_s
        if not 0 <= before_s <= int(now) + 1 + LEEWAY_S_MAX:
            return Refusal("bad_request", f"issued_before_s: up to {LEEWAY_S_MAX} seconds from now")
        return await self._add(tenant, "subject", subject, before_s, now)

    async def _add(self, tenant: str, kind: Kind, name: str, before_s: int, now: float) -> Revoked | Refusal:
        if not 1 <= len(name) <= TEXT_CHARS_MAX or not name.isprintable():
            return Refusal("bad_request", f"a {kind} has 1 to {TEXT_CHARS_MAX} printable characters")
        self._forget(now)
        key = (self._issuer, tenant, kind, name)
        known = self._entries.get(key)
        if known is not None:
            before_s = max(before_s, known.issued_before_s)  # an entry never covers less than it did
        elif self._by_tenant[tenant] >= self._per_tenant_max or len(self._entries) >= self._max:
            return Refusal("insufficient_storage", "too many revocations: revoke subjects instead of single tokens")
        entry = Revoked(kind, name, before_s, to_ms(now + REVOCATION_KEPT_S))
        # In force before it is durable: should the disk fail now, the token is refused here all the same, and whoever
        # asked for it is told that the outcome is not certain.
        self._put(key, entry)
        qualified = f"{tenant}/{name}"
        jti, subject = (qualified, None) if kind == "jti" else (None, qualified)
        await self._store.revoke(Revocation(self._issuer, jti, subject, before_s, entry.expires_ms))
        return entry

    def _put(self, key: _Key, entry: Revoked) -> None:
        if self._entries.pop(key, None) is None:
            self._by_tenant[key[1]] += 1
        self._entries[key] = entry
        self.version += 1

    def _forget(self, now: float) -> None:
        """Drop what has expired, oldest first. The catalog does the same with its own."""
        now_ms = to_ms(now)
        while self._entries:
            key, oldest = next(iter(self._entries.items()))
            if oldest.expires_ms > now_ms:
                break
            del self._entries[key]
            self._by_tenant[key[1]] -= 1
            if not self._by_tenant[key[1]]:
                del self._by_tenant[key[1]]


def _key_of(stored: Revocation) -> _Key:
    kind: Kind = "subject" if stored.jti is None else "jti"
    tenant, slash, name = (stored.jti or stored.subject or "").partition("/")
    if not slash:
        # Whatever it means, it would be dropped without a word.
        raise ValueError("a stored revocation names no tenant")
    return stored.issuer, tenant, kind, name
