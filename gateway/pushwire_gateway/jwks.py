"""The issuer's published keys (a JWK set, RFC 7517): read, checked, kept, and fetched again when there may be new ones.

Owns where a set comes from, when it is fetched and which of its keys count. Only the settings say where: a token's
`jku`, `x5u`, `jwk` and `x5c` are refused unread by auth.py, and a set's `x5u` and `x5c` are ignored here. It must never
keep a token, and never drop keys that were good because a fetch failed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from .auth import PUBLISHED_KEYS_MAX
from .fetch import BODY_BYTES_MAX, FETCH_TIMEOUT_S, Address, FetchFailed, fetch
from .key_material import VerifyKey, is_kid, p256_verify_key, rsa_verify_key
from .settings import ConfigError
from .strict import base64url, json_object

REFETCH_S: Final = 60.0
"""From one fetch to the next, whatever asks for it: unknown kids cost an attacker nothing, so they must not make a
gateway hammer the issuer."""

FIRST_FETCH_S: Final = 5.0
"""The same until a first fetch has succeeded: gateway and issuer may have been started together."""

KEYS_AGE_S_MAX: Final = 300.0
"""Keys older than this are fetched again although no token asks for it. Only so does a key that the issuer has
withdrawn cease to be good."""

ENTRIES_MAX: Final = 256
"""Entries of a set that are looked at, usable or not."""

WAITERS_MAX: Final = 256
"""Clients that wait for one fetch: as many as may be unauthenticated at once by default. The next is refused."""

P256_COORDINATE_BYTES: Final = 32  # RFC 7518 §6.2.1.2: the full size of a coordinate, leading zeros included

_SECRET_MEMBERS: Final = frozenset({"k", "d", "p", "q", "dp", "dq", "qi", "oth", "priv"})
"""Of secrets and private keys: RFC 7518 §6.2.2, §6.3.2, §6.4.1; `priv` of post-quantum ones."""

_log = logging.getLogger("pushwire.jwks")


class SetRefused(Exception):
    """Not a set to verify tokens with. The text says why; it shows no key."""


# ---- what is in a set


class KeySet(NamedTuple):
    """What a set holds for us."""

    keys: tuple[VerifyKey, ...]
    ignored: tuple[str, ...]
    """Why each other entry does not count, for logs. Naming entries by their place: a kid may be any text."""


class _Ignored(Exception):
    """An entry that is not for us (RFC 7517 §5: to be ignored)."""


def parse_set(raw: bytes) -> KeySet:
    """The keys of a JWK set that may verify tokens: RS256 of 2048 bits or more and ES256, each with a `kid`.

    Other keys are ignored. Raises SetRefused for what is no set, for too many keys, for two different keys of one kid,
    and for a set that publishes a secret (a shared one, or a private key): whoever has read it can sign.
    """
    try:
        entries = json_object(raw).get("keys")
    except (ValueError, RecursionError):
        raise SetRefused("not a JSON object") from None
    if type(entries) is not list or not all(type(entry) is dict for entry in entries):
        raise SetRefused("it has no list of keys")
    if len(entries) > ENTRIES_MAX:
        raise SetRefused(f"it has {len(entries)} entries, more than {ENTRIES_MAX}")
    keys: dict[str, VerifyKey] = {}
    ignored: list[str] = []
    for number, entry in enumerate(entries, start=1):
        if entry.get("kty") == "oct" or not _SECRET_MEMBERS.isdisjoint(entry):
            raise SetRefused(f"key {number} is a secret or a private key, and no longer one now that it is published")
        try:
            key = _key_of(entry)
        except _Ignored as why:
            ignored.append(f"key {number}: {why}")
            continue
        if keys.setdefault(key.kid, key) != key:
            raise SetRefused(f"key {number} has the kid of another key")
    if len(keys) > PUBLISHED_KEYS_MAX:
        raise SetRefused(f"it has {len(keys)} usable keys, more than {PUBLISHED_KEYS_MAX}")
    return KeySet(tuple(keys.values()), tuple(ignored))


def _key_of(entry: dict[str, Any]) -> VerifyKey:
    kid, kty, use, operations = (entry.get(name) for name in ("kid", "kty", "use", "key_ops"))
    if type(kid) is not str or not is_kid(kid):
        raise _Ignored("no usable kid")
    if ("use" in entry and use != "sig") or ("key_ops" in entry and not _verifies(operations)):
        raise _Ignored("not for signatures")
    alg = {"RSA": "RS256", "EC": "ES256"}.get(kty) if type(kty) is str else None
    if alg is None or entry.get("alg", alg) != alg:
        raise _Ignored("neither RS256 nor ES256")
    try:
        if alg == "RS256":
            return rsa_verify_key(kid, _number(entry, "n"), _number(entry, "e"))
        if entry.get("crv") != "P-256":
            raise _Ignored("not on P-256")
        return p256_verify_key(
            kid, _number(entry, "x", P256_COORDINATE_BYTES), _number(entry, "y", P256_COORDINATE_BYTES)
        )
    except ConfigError:
        # Its text would name the kid, which is the publisher's to choose.
        raise _Ignored("no good key of its kind, too small or too large") from None


def _verifies(operations: object) -> bool:
    return type(operations) is list and "verify" in operations


def _number(entry: dict[str, Any], name: str, size_bytes: int | None = None) -> int:
    """A Base64urlUInt (RFC 7518 §2), of a fixed size if one is given."""
    text = entry.get(name)
    if type(text) is not str or not text:
        raise _Ignored(f"no {name}")
    try:
        raw = base64url(text)
    except ValueError:
        raise _Ignored(f"{name} is not base64url") from None
    if size_bytes is not None and len(raw) != size_bytes:
        raise _Ignored(f"{name} has not {size_bytes} bytes")
    return int.from_bytes(raw, "big")


# ---- where a set comes from

Stamp = tuple[int, int, int]


class Reading(NamedTuple):
    """A set as it was read; `stamp` tells an unchanged one, where that can be told."""

    raw: bytes
    stamp: Stamp | None


class Source(Protocol):
    """Where the set is."""

    required: bool
    """Whether a gateway may not start without."""

    async def read(self, known: Stamp | None) -> Reading | None:
        """The set; None if it is still the one with that stamp. Raises FetchFailed."""

    def __str__(self) -> str: ...


class UrlSource:
    """A set at an https address. The issuer may be down when a gateway starts."""

    required = False

    def __init__(self, address: Address, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: by default the system's certificate authorities, and names are checked."""
        self._address = address
        # Made once: reading the authorities takes some 20 ms, which must not be in the middle of traffic.
        self._tls = tls if tls is not None or not address.secure else ssl.create_default_context()

    def __str__(self) -> str:
        return str(self._address)

    async def read(self, known: Stamp | None) -> Reading | None:
        return Reading(await fetch(self._address, self._tls), None)


class FileSource:
    """A set in a file, read again when the file has changed."""

    required = True

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return self._path.name

    async def read(self, known: Stamp | None) -> Reading | None:
        try:
            return await asyncio.to_thread(self._read, known)
        except OSError as error:
            raise FetchFailed(f"cannot read it: {error.strerror}") from None

    def _read(self, known: Stamp | None) -> Reading | None:
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_mode & 0o002:
                raise FetchFailed("anybody may write to it, and so add keys: chmod o-w it")
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == known:
                return None
            raw = file.read(BODY_BYTES_MAX + 1)
        if len(raw) > BODY_BYTES_MAX:
            raise FetchFailed(f"larger than {BODY_BYTES_MAX} bytes")
        return Reading(raw, stamp)


# ---- when it is fetched


class Jwks:
    """The issuer's keys, as fresh as they need to be. For one event loop; never more than one fetch at a time.

    Keys stay good until a fetch has succeeded: while it runs, and when it fails, what was published last counts.
    """

    def __init__(
        self, source: Source, publish: Callable[[Sequence[VerifyKey]], None], clock_now: Callable[[], float]
    ) -> None:
        """`publish` is told each new set, and may refuse it (ConfigError): `TokenVerifier.publish`. `clock_now` gives
        seconds that never go back."""
        self._source = source
        self._publish = publish
        self._clock_now = clock_now
        self._kids: frozenset[str] = frozenset()
        self._stamp: Stamp | None = None
        self._tried_at = float("-inf")
        self._fetched_at = float("-inf")  # when a fetch last succeeded
        self._flight: asyncio.Task[None] | None = None
        self._waiting = 0
        self.fetches = 0
        self.failures = 0

    @property
    def loaded(self) -> bool:
        """Whether a set has ever been fetched."""
        return self._fetched_at > float("-inf")

    async def start(self) -> None:
        """Fetch the set for the first time. A file must be good (ConfigError); an issuer may be down, which is logged
        and tried again."""
        try:
            await self._fetch()
        except (FetchFailed, SetRefused, ConfigError) as error:
            if self._source.required:
                raise ConfigError(f"jwks {self._source}: {error}") from None
            self._warn(error)

    async def close(self) -> None:
        """Fetch no more. Harmless when repeated."""
        self._tried_at = float("inf")  # no fetch is due, ever
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    async def refresh_for(self, kid: str) -> bool:
        """Whether the issuer publishes this kid, after a fetch if one is due or under way. False, at once: it does not,
        as far as was known within the last minute, or too many wait already. At most FETCH_TIMEOUT_S and a little."""
        if kid in self._kids:
            return True
        flight = self._take_off()
        if flight is None or self._waiting >= WAITERS_MAX:
            return False
        self._waiting += 1
        try:
            # Not `await flight`: a client that goes away must not take the fetch with it.
            await asyncio.wait([flight], timeout=FETCH_TIMEOUT_S + 1)
        finally:
            self._waiting -= 1
        return kid in self._kids

    def renew_if_old(self) -> None:
        """Begin a fetch, without waiting for it, if the keys are old enough. To be called when tokens are verified:
        nobody needs fresh keys before."""
        if self._clock_now() - self._fetched_at >= KEYS_AGE_S_MAX:
            self._take_off()

    def _take_off(self) -> asyncio.Task[None] | None:
        """The fetch that is under way, or one begun now if that is due."""
        if self._flight is None:
            pause_s = REFETCH_S if self.loaded else FIRST_FETCH_S
            if self._clock_now() - self._tried_at >= pause_s:
                self._flight = asyncio.get_running_loop().create_task(self._fly())
        return self._flight

    async def _fly(self) -> None:
        try:
            await self._fetch()
        except (FetchFailed, SetRefused, ConfigError) as error:
            self._warn(error)
        except Exception:  # noqa: BLE001 - whatever it is, it is ours; logged with its traceback
            # The keys there are stay, and the next fetch may do better.
            self.failures += 1
            _log.exception("jwks: the fetch failed in our code")
        finally:
            self._flight = None

    async def _fetch(self) -> None:
        """Raises FetchFailed, SetRefused, ConfigError, changing nothing."""
        self._tried_at = self._clock_now()
        self.fetches += 1
        reading = await self._source.read(self._stamp)
        if reading is not None:
            found = parse_set(reading.raw)
            self._publish(found.keys)
            self._note(found)
            self._kids = frozenset(key.kid for key in found.keys)
            self._stamp = reading.stamp
        self._fetched_at = self._clock_now()

    def _note(self, found: KeySet) -> None:
        kids = {key.kid for key in found.keys}
        if kids != self._kids or not self.loaded:
            level = logging.INFO if kids else logging.WARNING
            _log.log(
                level, "jwks: %d keys from %s, %d ignored %s", len(kids), self._source, len(found.ignored),
                list(found.ignored[:8]),
            )  # fmt: skip

    def _warn(self, error: Exception) -> None:
        self.failures += 1
        _log.warning("jwks: not renewed from %s, %d keys stay: %s", self._source, len(self._kids), error)
