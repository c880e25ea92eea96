"""Tokens: whether one is good at a given second, how one is made, and where a handshake holds it.

Owns every use of python-jose (no other file may import it), so that the library can be replaced here alone. Pure:
no I/O, no logging, no clock (`now` comes in, in wall-clock seconds, as the claims are). It must never show the client
why a token was refused, nor anybody any part of one: every refusal is one exception with one text.

python-jose is used for signatures only. Its `jwt.decode` reads the wall clock itself, takes "123", true and 1e3 for
times, lists for audiences and tokens that lack a claim, and its options cannot turn all of that off: `require_exp`
switches `verify_exp`, the check by jose's own clock, back on. So `jws.verify` checks the signature, with one prebuilt
key and that key's one algorithm, and the claims are judged here against `now`. `jose.jwe` is never imported.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from jose import backends, jwk, jws
from jose.backends.base import Key
from jose.backends.cryptography_backend import CryptographyECKey, CryptographyHMACKey, CryptographyRSAKey
from jose.exceptions import JWKError

from pushwire.wire.decode import TOKEN_CHARS_MAX
from pushwire_gateway.key_material import (
    Alg,
    SigningKey,
    VerifyKey,
    checked_material,
    checked_signing_material,
    is_kid,
)
from pushwire_gateway.rights import (
    DEFAULT_TENANT,
    Cap,
    Limits,
    Principal,
    merge_caps,
    parse_allow,
    parse_caps,
    parse_limits,
    parse_tenant,
)
from pushwire_gateway.settings import ConfigError
from pushwire_gateway.strict import base64url, json_object

__all__ = [
    "ConfigError",
    "KeyRing",
    "Principal",
    "SigningKey",
    "TokenVerifier",
    "Unauthorized",
    "UnknownKey",
    "VerifyKey",
    "build_ring",
    "mint",
    "sign_token",
    "token_from_headers",
]

Reason = Literal[
    "malformed", "header", "typ", "kid", "algorithm", "signature", "claims", "missing_claim", "audience", "issuer",
    "subject", "jti", "time_type", "lifetime", "issued_in_future", "not_yet_valid", "expired", "tenant", "caps",
    "limits", "revoked", "transport", "ticket", "internal",
]  # fmt: skip
"""Why a token was refused, for counters and logs. A closed set, so that it may be a metric's label."""

REASONS: Final[frozenset[str]] = frozenset(get_args(Reason))

REFUSED_TEXT: Final = "unauthorized: no valid token"

KEYS_MAX: Final = 3  # the old key, the new one and one spare: more means that rotation has stopped removing keys
PUBLISHED_KEYS_MAX: Final = 32  # of an issuer's JWK set; large issuers publish about ten
TOKEN_CHARS_MIN: Final = 20
LEEWAY_S_MAX: Final = 120
LIFETIME_S_MAX: Final = 24 * 3600  # the most that an operator may configure
TEXT_CHARS_MAX: Final = 255  # sub and jti

_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_HEADER_FIELDS: Final = frozenset({"alg", "typ", "kid"})  # so no crit, b64, jku, jwk, x5u, x5c, zip
_TYPES: Final = frozenset({"jwt", "at+jwt"})  # RFC 9068 has at+jwt for access tokens
_PUBLISHED_ALGS: Final = ("RS256", "ES256")
_BEARER_PROTOCOL: Final = "bearer."


class Unauthorized(Exception):
    """No access with this token. The text is the same for every cause; `reason` is for counters and logs only."""

    reason: Reason

    def __init__(self, reason: Reason) -> None:
        super().__init__(REFUSED_TEXT)
        self.reason = reason


class UnknownKey(Unauthorized):
    """The token may be good: it names a key that the issuer has perhaps published since its keys were last fetched.
    Only raised where an issuer's keys are fetched at all. To the client it is any other refusal."""

    kid: str
    """As the token has it: printable, and the attacker's choice. Not for logs."""

    def __init__(self, kid: str) -> None:
        super().__init__("kid")
        self.kid = kid


# ---- keys


@dataclass(frozen=True, slots=True)
class _RingKey:
    kid: str
    alg: Alg
    prebuilt: Key = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The prebuilt keys by `kid`. Each knows its one algorithm: a token can choose a key, never an algorithm."""

    _keys: Mapping[str, _RingKey]
    """Configured by the operator."""
    _published: Mapping[str, _RingKey] | None = None
    """Fetched from the issuer. None: nothing is fetched."""

    def __len__(self) -> int:
        return len(self._keys) + len(self._published or ())

    @property
    def grows(self) -> bool:
        """Whether a `kid` unknown now may be known later."""
        return self._published is not None

    def find(self, kid: object) -> _RingKey | None:
        """The key of exactly this `kid`. Without one, the only key: a ring of several is never tried through, and one
        that changes by itself never counts as a ring of one."""
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 and not self.grows else None
        if type(kid) is not str:
            return None
        found = self._keys.get(kid)
        return found if found is not None or self._published is None else self._published.get(kid)

    def with_published(self, keys: Sequence[VerifyKey]) -> KeyRing:
        """A ring with these keys of the issuer in place of the ones this has. Raises ConfigError for too many, for
        one `kid` twice, for shared secrets, and for the `kid` of a configured key: whoever publishes keys may add
        to what the operator trusts, never take the place of it."""
        if len(keys) > PUBLISHED_KEYS_MAX:
            raise ConfigError(f"the issuer publishes {len(keys)} keys, more than {PUBLISHED_KEYS_MAX}")
        for key in keys:
            if key.alg == "HS256":
                raise ConfigError(f"key {key.kid!r}: a shared secret cannot be published")
            if key.kid in self._keys:
                raise ConfigError(f"the issuer publishes a key with the kid {key.kid!r}, which keys has too")
        return KeyRing(self._keys, _prebuilt(keys))


def build_ring(keys: Sequence[VerifyKey], *, published: bool = False) -> KeyRing:
    """Check the configured keys and build each once. Raises ConfigError with what to correct, without secrets.

    `published`: the issuer's keys are fetched and will be added (`KeyRing.with_published`); then the operator need not
    configure any, and every token must name its key.
    """
    _assert_back_ends()
    least = 0 if published else 1
    if not least <= len(keys) <= KEYS_MAX:
        raise ConfigError(f"the key ring must hold {least} to {KEYS_MAX} keys, not {len(keys)}")
    return KeyRing(_prebuilt(keys), {} if published else None)


def _prebuilt(keys: Sequence[VerifyKey]) -> dict[str, _RingKey]:
    ring: dict[str, _RingKey] = {}
    for key in keys:
        if key.kid in ring:
            raise ConfigError(f"two keys have the kid {key.kid!r}")
        ring[key.kid] = _RingKey(key.kid, key.alg, _construct(key.kid, key.alg, checked_material(key)))
    return ring


def _assert_back_ends() -> None:
    """python-jose falls back to pure-Python `ecdsa` (CVE-2024-23342: timing) and `rsa` without saying so."""
    used = (backends.HMACKey, backends.RSAKey, backends.ECKey)
    if used != (CryptographyHMACKey, CryptographyRSAKey, CryptographyECKey):
        raise ConfigError("python-jose does not use the cryptography package: install python-jose[cryptography]")


def _construct(kid: str, alg: Alg, material: bytes) -> Key:
    try:
        return jwk.construct(material, alg)
    except JWKError as error:
        # jose's own text may quote the key.
        raise ConfigError(f"key {kid!r}: not usable for {alg} ({type(error).__name__})") from None


# ---- verifying

Revoked = Callable[[Principal], bool]
"""Whether the token of this principal is revoked: judged by its tenant, iss, jti, sub and iat. Never by the token's
text: a signature has several spellings."""


class TokenVerifier:
    """Judges tokens for one audience and one issuer. Its only state are the keys that the issuer has published: until
    these change, the same token and second get the same answer."""

    def __init__(
        self,
        ring: KeyRing,
        *,
        audience: str,
        issuer: str,
        leeway_s: float = 30,
        lifetime_s_max: int = 3600,
        revoked: Revoked | None = None,
    ) -> None:
        if not audience or not issuer:
            raise ConfigError("the token verifier needs an audience and an issuer")
        if not 0 <= leeway_s <= LEEWAY_S_MAX:
            raise ConfigError(f"leeway_s must be 0 to {LEEWAY_S_MAX}, not {leeway_s}")
        if not 1 <= lifetime_s_max <= LIFETIME_S_MAX:
            raise ConfigError(f"lifetime_s_max must be 1 to {LIFETIME_S_MAX}, not {lifetime_s_max}")
        self._ring = ring
        self._audience = audience
        self._issuer = issuer
        self._leeway_s = leeway_s
        self._lifetime_s_max = lifetime_s_max
        self._revoked = revoked

    def publish(self, keys: Sequence[VerifyKey]) -> None:
        """The issuer's keys are these from now on. Raises ConfigError (`KeyRing.with_published`), changing nothing."""
        self._ring = self._ring.with_published(keys)

    def verify(self, token: str | bytes, now: float) -> Principal:
        """The principal of a good token at the wall-clock second `now`. Raises Unauthorized (perhaps as UnknownKey)
        and nothing else.

        Must run where a few hundred microseconds of CPU do no harm: at the handshake and at a refresh.
        """
        unknown = None
        try:
            return self._verify(token, now)
        except UnknownKey as refused:
            unknown, reason = refused.kid, refused.reason
        except Unauthorized as refused:
            reason = refused.reason
        except Exception:  # noqa: BLE001  fail closed: an unforeseen error is a refusal, and `internal` is counted
            reason = "internal"
        # Raised here, outside the handlers, so that no inner exception with token text travels along as context.
        raise Unauthorized(reason) if unknown is None else UnknownKey(unknown)

    def _verify(self, token: str | bytes, now: float) -> Principal:
        text = _token_text(token)
        key = self._key_for(text)
        claims = _signed_claims(text, key)
        issued_at, expires_at = self._check_times(claims, now)
        if _claim(claims, "aud", "audience") != self._audience:
            raise Unauthorized("audience")
        issuer = _claim(claims, "iss", "issuer")
        if issuer != self._issuer:
            raise Unauthorized("issuer")
        subject, jti = _claim(claims, "sub", "subject"), _claim(claims, "jti", "jti")
        tenant, caps, limits = _rights(claims)
        principal = Principal(
            tenant, subject, issuer, jti, issued_at, expires_at, leeway_s=self._leeway_s, caps=caps, limits=limits
        )
        if self._revoked is not None and self._revoked(principal):
            raise Unauthorized("revoked")
        return principal

    def _key_for(self, text: str) -> _RingKey:
        """The header may name a key. It must carry that key's algorithm and nothing that asks for more."""
        try:
            header = json_object(base64url(text[: text.index(".")]))
        except (ValueError, RecursionError):
            raise Unauthorized("header") from None
        if not set(header) <= _HEADER_FIELDS:
            raise Unauthorized("header")
        typ, kid, alg = header.get("typ", "JWT"), header.get("kid"), header.get("alg")
        if type(typ) is not str or typ.lower() not in _TYPES:
            raise Unauthorized("typ")
        # Absent is not null: only a header without `kid` may fall to the single key.
        key = self._ring.find(kid) if "kid" not in header or kid is not None else None
        if key is None:
            # Shared secrets are not published, and no key set has a kid of another shape: nothing to wait for.
            if self._ring.grows and alg in _PUBLISHED_ALGS and type(kid) is str and is_kid(kid):
                raise UnknownKey(kid)
            raise Unauthorized("kid")
        if alg != key.alg:
            raise Unauthorized("algorithm")
        return key

    def _check_times(self, claims: Mapping[str, object], now: float) -> tuple[int, int]:
        """(iat, exp), both good at `now`. Conditions say what must hold, so that a NaN would fail them all."""
        issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
        if not 0 < expires_at - issued_at <= self._lifetime_s_max:
            raise Unauthorized("lifetime")
        if not issued_at <= now + self._leeway_s:
            raise Unauthorized("issued_in_future")
        if "nbf" in claims and not _time(claims, "nbf") <= now + self._leeway_s:
            raise Unauthorized("not_yet_valid")
        # The leeway goes to the side of `now`: a float added to a claim of 300 digits would overflow.
        if not expires_at > now - self._leeway_s:
            raise Unauthorized("expired")
        return issued_at, expires_at


def _token_text(token: object) -> str:
    """The token as text of three base64url parts. Length first: nothing is done with what is too long."""
    if not isinstance(token, str | bytes) or not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX:
        raise Unauthorized("malformed")
    if not token.isascii():
        raise Unauthorized("malformed")
    text = token if isinstance(token, str) else token.decode("ascii")
    if not _TOKEN.fullmatch(text):
        raise Unauthorized("malformed")
    return text


def _signed_claims(text: str, key: _RingKey) -> dict[str, object]:
    """The claims, once the signature over them is known to be good."""
    try:
        # base64 leaves 2 or 4 bits of a signature's last character unused: accept the one spelling with zeros.
        base64url(text[text.rindex(".") + 1 :])
        payload = jws.verify(text, key.prebuilt, algorithms=[key.alg])
    except Exception:  # noqa: BLE001  jose has no closed set: hostile input gets TypeError, OverflowError and more
        raise Unauthorized("signature") from None
    try:
        return json_object(payload)
    except (ValueError, RecursionError):
        raise Unauthorized("claims") from None


def _time(claims: Mapping[str, object], name: str) -> int:
    """A NumericDate in whole seconds. Only int counts: true, 1e3 and "123" are refused."""
    if name not in claims:
        raise Unauthorized("missing_claim")
    value = claims[name]
    if type(value) is not int:
        raise Unauthorized("time_type")
    return value


def _claim(claims: Mapping[str, object], name: str, reason: Reason) -> str:
    """A text claim of 1 to 255 printable characters: it goes into keys, logs and the store, which take no
    control characters and no lone surrogates."""
    if name not in claims:
        raise Unauthorized("missing_claim")
    value = claims[name]
    if type(value) is not str or not 1 <= len(value) <= TEXT_CHARS_MAX or not value.isprintable():
        raise Unauthorized(reason)
    return value


def _rights(claims: Mapping[str, object]) -> tuple[str, tuple[Cap, ...], Limits]:
    """(tenant, caps, limits). One wrong entry refuses the token: we do not guess what its issuer meant."""
    if "caps" not in claims:
        raise Unauthorized("missing_claim")
    reason: Reason = "tenant"
    try:
        tenant = parse_tenant(claims)
        reason = "caps"
        caps = parse_caps(claims["caps"])
        reason = "limits"
        limits = parse_limits(claims["limits"]) if "limits" in claims else Limits()
    except ValueError:
        raise Unauthorized(reason) from None
    return tenant, caps, limits


# ---- minting


def mint(key: SigningKey, claims: Mapping[str, object]) -> str:
    """Sign claims as they are. Raises ConfigError for a key whose other half `build_ring` would refuse."""
    _assert_back_ends()
    prebuilt = _construct(key.kid, key.alg, checked_signing_material(key))
    return jws.sign(dict(claims), prebuilt, headers={"kid": key.kid}, algorithm=key.alg)


def sign_token(
    key: SigningKey,
    *,
    subject: str,
    audience: str,
    issuer: str,
    now: float,
    allow: Iterable[str] = (),
    tenant: str = DEFAULT_TENANT,
    ttl_s: int = 900,
    limits: Limits | None = None,
) -> str:
    """A token for `subject`, good from `now` (wall-clock seconds) for `ttl_s`, with a random jti.

    `allow` holds rights as `verb:topic-pattern[@group-pattern]`. Raises ConfigError for what a verifier would refuse.
    """
    if not 1 <= ttl_s <= LIFETIME_S_MAX:
        raise ConfigError(f"ttl_s must be 1 to {LIFETIME_S_MAX}, not {ttl_s}")
    issued_at = int(now)
    claims: dict[str, object] = {
        "sub": subject,
        "aud": audience,
        "iss": issuer,
        "iat": issued_at,
        "exp": issued_at + ttl_s,
        "jti": secrets.token_urlsafe(16),
        "tenant": tenant,
        "caps": merge_caps(parse_allow(text) for text in allow),
    }
    if limits is not None:
        claims["limits"] = limits.as_claim()
    try:
        for name in ("sub", "aud", "iss"):
            _claim(claims, name, "claims")
        _rights(claims)
    except Unauthorized as refused:
        raise ConfigError(
            f"subject, audience, issuer, tenant or limits: no verifier takes them ({refused.reason})"
        ) from None
    token = mint(key, claims)
    if len(token) > TOKEN_CHARS_MAX:
        raise ConfigError(f"the token has {len(token)} characters, more than {TOKEN_CHARS_MAX}: give it fewer rights")
    return token


# ---- finding the token

Header = tuple[str | bytes, str | bytes]


def token_from_headers(
    headers: Mapping[str, str] | Iterable[Header],
) -> tuple[str | None, list[str]]:
    """(token, subprotocols without the token) of a handshake; (None, ...) when it carries no token.

    A token comes as `Authorization: Bearer` or as subprotocol `bearer.<jwt>`: one of them, once. Anything else in
    their place raises Unauthorized, so that two readers of one request cannot see two tokens. Pass pairs where a
    header may stand twice: a mapping has already chosen one. The token is unverified.
    """
    tokens: list[str] = []
    protocols: list[str] = []
    for raw_name, raw_value in headers.items() if isinstance(headers, Mapping) else headers:
        name, value = _header_text(raw_name).lower(), _header_text(raw_value)
        if name == "authorization":
            tokens.append(_bearer(value))
        elif name == "sec-websocket-protocol":
            offered = (item.strip(" \t") for item in value.split(","))
            protocols.extend(item for item in offered if item)
    # Without regard to case: `Bearer.<jwt>` is no protocol of ours, but what is left here may be shown and logged.
    prefix = len(_BEARER_PROTOCOL)
    tokens.extend(item[prefix:] for item in protocols if item[:prefix].lower() == _BEARER_PROTOCOL)
    if len(tokens) > 1 or "" in tokens:
        raise Unauthorized("transport")
    others = [item for item in protocols if item[:prefix].lower() != _BEARER_PROTOCOL]
    return (tokens[0] if tokens else None), others


def _header_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _bearer(value: str) -> str:
    """The token of an Authorization header (RFC 6750 §2.1; the scheme's case does not matter, RFC 9110 §11.1)."""
    scheme, _, token = value.strip(" \t").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthorized("transport")
    return token.strip(" \t")
