"""Keys, claims and tokens for tests. Owns a second way to sign, so that a token can be forged in every detail.

It signs with hmac and the cryptography package and must not use the gateway's own signing: what verifies here
was then written by somebody else.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pushwire_gateway.auth import SigningKey, TokenVerifier, VerifyKey, build_ring
from pushwire_gateway.key_material import Alg

NOW = 1_800_000_000
AUDIENCE = "pushwire-test"
ISSUER = "https://issuer.example"
ALGS: tuple[Alg, ...] = ("HS256", "RS256", "ES256")
SECRET = bytes(range(100, 132))
DROP = object()  # as the value of a claim or header field: leave it out


@cache
def private_key(alg: Alg) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if alg == "RS256":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1())


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


def header(alg: Alg, **changes: Any) -> dict[str, Any]:
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
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def token(alg: Alg = "HS256", head: dict[str, Any] | bytes | None = None, payload: Any = None) -> str:
    """A token signed with the right key, whatever its header and payload say. Good at NOW by default."""
    text = signing_input(header(alg) if head is None else head, claims() if payload is None else payload)
    return f"{text}.{b64(signature(alg, text))}"
