"""Keys, claims and tokens for tests. Owns a second way to sign, so that a token can be forged in every detail.

It signs with hmac and the cryptography package and must not use the gateway's own signing: what verifies here
was then written by somebody else.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Sequence
from enum import Enum
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pushwire_gateway.auth import SigningKey, TokenVerifier, VerifyKey, build_ring
from pushwire_gateway.key_material import Alg
from pushwire_storage.base import Revocation, StoreBroken

NOW = 1_800_000_000
AUDIENCE = "pushwire-test"
ISSUER = "https://issuer.example"
ALGS: tuple[Alg, ...] = ("HS256", "RS256", "ES256")
SECRET = bytes(range(100, 132))
# The keys are fixed so that a token, and whatever is made of it, is the same in every run.
EC_PRIVATE = int.from_bytes(SECRET, "big")
RSA_PRIME_P = (
    "e8c044fc2d0a023c4d04c4428dd97b3e39bb530526a1ed1af3370d150943f0db882f382a8cb11077827b10d3ee8208d33453"
    "22f409a3a353707a534bf7d8ec508a53b343fbd32f07d70ae9628fb1ee7b4c8f4cec2395047c51bf5988aa665fcfd28e19fe"
    "f21059408221d346d8a9b52c6cd1da56b307e72efa27094a17a41d97"
)
RSA_PRIME_Q = (
    "e0b7b531f2a17acd2a423c23dd46ab5105b1dfa2b9984ec6d4cbb68977027a9f635cc2412574b8f5e4224a57ada8ef4c7dcc"
    "4d40908e516eec48e9fe513c10b14bebd40a446514f56a07578eca27d3c26768110dcb612c6ce227034c5a4a7c68f25da0f4"
    "caf4b8dc67875a76117a0f1a4d1d5bf0fbc70238d7eba411b7cc14e1"
)


class Absent(Enum):
    """As the value of a claim or header field: leave it out. An Enum, so that test ids are the same in every run."""

    DROP = "drop"


DROP = Absent.DROP


@cache
def private_key(alg: Alg) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if alg == "ES256":
        return ec.derive_private_key(EC_PRIVATE, ec.SECP256R1())
    p, q, e = int(RSA_PRIME_P, 16), int(RSA_PRIME_Q, 16), 65537
    d = pow(e, -1, (p - 1) * (q - 1))
    crt = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, *crt, rsa.RSAPublicNumbers(e, p * q)).private_key()


@cache
def public_bytes(alg: Alg, encoding: Encoding = Encoding.PEM) -> bytes:
    return private_key(alg).public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


@cache
def signing_key(alg: Alg) -> SigningKey:
    if alg == "HS256":
        return SigningKey(alg, alg, SECRET)
    pem = private_key(alg).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return SigningKey(alg, alg, pem)


def verify_key(alg: Alg) -> VerifyKey:
    """The other half of `signing_key`; the kid of each key is its algorithm's name."""
    return VerifyKey(alg, alg, SECRET if alg == "HS256" else public_bytes(alg))


def verifier(*algs: Alg, **options: Any) -> TokenVerifier:
    ring = build_ring([verify_key(alg) for alg in algs])
    return TokenVerifier(ring, audience=AUDIENCE, issuer=ISSUER, **options)


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token at NOW, with changes; DROP leaves a claim out."""
    values = {
        "sub": "alice",
        "aud": AUDIENCE,
        "iss": ISSUER,
        "jti": "token-1",
        "iat": NOW - 60,
        "exp": NOW + 840,
        "tenant": "acme",
        "caps": [{"topics": ["orders.*"], "allow": ["publish", "consume"]}],
        **changes,
    }
    return {name: value for name, value in values.items() if value is not DROP}


def header(alg: Alg, /, **changes: Any) -> dict[str, Any]:
    values = {"alg": alg, "typ": "JWT", "kid": alg, **changes}
    return {name: value for name, value in values.items() if value is not DROP}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def as_bytes(part: dict[str, Any] | bytes) -> bytes:
    return part if isinstance(part, bytes) else json.dumps(part, separators=(",", ":")).encode()


def signing_input(head: dict[str, Any] | bytes, payload: dict[str, Any] | bytes) -> str:
    return f"{b64(as_bytes(head))}.{b64(as_bytes(payload))}"


def hmac_of(text: str, secret: bytes = SECRET, digest: Any = hashlib.sha256) -> bytes:
    return hmac.new(secret, text.encode(), digest).digest()


def signature(alg: Alg, text: str) -> bytes:
    """The right signature of this text by this algorithm's key, as JWS wants it (RFC 7518 §3)."""
    if alg == "HS256":
        return hmac_of(text)
    key = private_key(alg)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(alg: Alg = "HS256", head: dict[str, Any] | bytes | None = None, payload: Any = None) -> str:
    """A token signed with the right key, whatever its header and payload say. Good at NOW by default."""
    text = signing_input(header(alg) if head is None else head, claims() if payload is None else payload)
    return f"{text}.{b64(signature(alg, text))}"


class KeptRevocations:
    """A catalog's part of it: entries by issuer and jti or subject. May be told to wait, or to fail."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str | None, str | None], Revocation] = {}
        self.gate: asyncio.Event | None = None
        self.broken = False

    async def revoke(self, revocation: Revocation) -> None:
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise StoreBroken("the disk is gone")
        self.entries[revocation.issuer, revocation.jti, revocation.subject] = revocation

    async def revocations(self) -> Sequence[Revocation]:
        return list(self.entries.values())
