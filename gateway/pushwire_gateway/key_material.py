"""The keys an operator configures, and what must hold for their bytes before anything is built from them.

Owns the checks of secrets and PEM texts. Knows the cryptography package and no JWT library; does no I/O, and no text
it raises may show any part of a key.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from cryptography.x509 import load_der_x509_certificate

from pushwire_gateway.settings import ConfigError

Alg = Literal["HS256", "RS256", "ES256"]

HMAC_SECRET_BYTES_MIN: Final = 32  # RFC 7518 §3.2: at least the size of the hash
RSA_BITS_MIN: Final = 2048  # RFC 7518 §3.3
RSA_BITS_MAX: Final = 8192  # of a published key, so that verifying stays below a millisecond; 4096 are in use
RSA_EXPONENT_MAX: Final = 2**32 - 1  # of a published key: verifying costs a step a bit; 65537 is in use
KID_CHARS_MAX: Final = 255


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """What tokens are verified with: a shared secret (HS256) or a public key in PEM (RS256, ES256)."""

    kid: str
    alg: Alg
    secret_or_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """What tokens are minted with: a shared secret (HS256) or a private key in PEM without a password."""

    kid: str
    alg: Alg
    secret_or_pem: bytes = field(repr=False)


def is_kid(text: str) -> bool:
    """Whether a text may name a key."""
    return 1 <= len(text) <= KID_CHARS_MAX and text.isprintable()


def rsa_verify_key(kid: str, modulus: int, exponent: int) -> VerifyKey:
    """The RS256 key of these numbers (RFC 7518 §6.3.1). Raises ConfigError when they make no usable key."""
    if modulus.bit_length() > RSA_BITS_MAX or exponent > RSA_EXPONENT_MAX:
        raise ConfigError(f"key {kid!r}: more than {RSA_BITS_MAX} bits, or a public exponent of more than 32")
    if modulus % 2 == 0:  # the one thing below that OpenSSL takes until it has to calculate with it
        raise ConfigError(f"key {kid!r}: not an RSA key (an even modulus)")
    try:
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except Exception as error:  # noqa: BLE001  no closed set of errors either: numbers that OpenSSL will not have
        raise ConfigError(f"key {kid!r}: not an RSA key ({type(error).__name__})") from None
    return _published(kid, "RS256", public)


def p256_verify_key(kid: str, x: int, y: int) -> VerifyKey:
    """The ES256 key of this point on P-256 (RFC 7518 §6.2.1). Raises ConfigError when it does not lie there."""
    try:
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except Exception as error:  # noqa: BLE001  as above
        raise ConfigError(f"key {kid!r}: not a point on P-256 ({type(error).__name__})") from None
    return _published(kid, "ES256", public)


def _published(kid: str, alg: Alg, public: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> VerifyKey:
    _check_label(kid, alg)
    _check_family(kid, alg, public)
    return VerifyKey(kid, alg, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def checked_material(key: VerifyKey) -> bytes:
    """The secret, or the public key as one PEM block. Raises ConfigError with what the operator must correct."""
    _check_label(key.kid, key.alg)
    if key.alg == "HS256":
        _check_secret(key.kid, key.secret_or_pem)
        return key.secret_or_pem
    return _public_pem(key)


def checked_signing_material(key: SigningKey) -> bytes:
    """The secret or private key, once it fits the algorithm. Raises ConfigError with what to correct."""
    _check_label(key.kid, key.alg)
    if key.alg == "HS256":
        _check_secret(key.kid, key.secret_or_pem)
        return key.secret_or_pem
    try:
        private = load_pem_private_key(key.secret_or_pem, password=None)
    except Exception as error:  # noqa: BLE001 the loader has no closed set of errors; all mean the same here
        kind = type(error).__name__
        raise ConfigError(f"key {key.kid!r}: not a private key in PEM without a password ({kind})") from None
    _check_family(key.kid, key.alg, private)
    return key.secret_or_pem


def _check_label(kid: str, alg: str) -> None:
    if not is_kid(kid):
        raise ConfigError(f"a kid must have 1 to {KID_CHARS_MAX} printable characters")
    if alg not in get_args(Alg):
        raise ConfigError(f"key {kid!r}: alg must be one of {', '.join(get_args(Alg))}")


def _check_secret(kid: str, secret: bytes) -> None:
    """A public key used as a shared secret lets everybody who has read it sign: refuse each form one comes in."""
    if len(secret) < HMAC_SECRET_BYTES_MIN:
        raise ConfigError(f"key {kid!r}: an HS256 secret needs at least {HMAC_SECRET_BYTES_MIN} bytes")
    if b"-----BEGIN" in secret:
        raise ConfigError(f"key {kid!r}: a PEM key was given as HS256 secret; its alg is RS256 or ES256")
    unwrapped = b"".join(secret.split())
    try:
        decoded = base64.b64decode(unwrapped, validate=True)
    except binascii.Error:
        decoded = b""
    if _is_der(secret) or _is_der(decoded):
        raise ConfigError(f"key {kid!r}: a DER key or certificate was given as HS256 secret")
    if unwrapped.startswith(b"{") and b'"kty"' in unwrapped:
        raise ConfigError(f"key {kid!r}: a JWK was given as HS256 secret; give the secret's own bytes")


def _is_der(data: bytes) -> bool:
    """Whether the bytes are a public key, a private key or a certificate in DER."""
    if not data.startswith(b"\x30"):  # every one of them is an ASN.1 SEQUENCE
        return False
    readers: tuple[Callable[[bytes], object], ...] = (
        load_der_public_key,
        lambda raw: load_der_private_key(raw, password=None),
        load_der_x509_certificate,
    )
    for reader in readers:
        try:
            reader(data)
        except ValueError:
            continue
        except Exception:  # noqa: BLE001  an encrypted or unsupported key is one as well, whatever says so
            return True
        return True
    return False


def _public_pem(key: VerifyKey) -> bytes:
    """The public key, checked and written anew, so that jose reads exactly the block that was checked."""
    if b"-----BEGIN" not in key.secret_or_pem:
        raise ConfigError(f"key {key.kid!r}: {key.alg} needs a public key in PEM; DER and plain text are refused")
    if b"PRIVATE KEY-----" in key.secret_or_pem:
        raise ConfigError(f"key {key.kid!r}: give the public key only; verifying needs no private key")
    try:
        public = load_pem_public_key(key.secret_or_pem)
    except Exception as error:  # noqa: BLE001  the loader has no closed set of errors; all mean the same here
        raise ConfigError(f"key {key.kid!r}: not a public key in PEM ({type(error).__name__})") from None
    _check_family(key.kid, key.alg, public)
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _check_family(kid: str, alg: Alg, key: object) -> None:
    """RS256 takes RSA keys of at least 2048 bits, ES256 takes keys on P-256, and nothing else passes."""
    if alg == "RS256":
        if not isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
            raise ConfigError(f"key {kid!r}: RS256 needs an RSA key")
        if key.key_size < RSA_BITS_MIN:
            raise ConfigError(f"key {kid!r}: an RSA key needs at least {RSA_BITS_MIN} bits, not {key.key_size}")
        return
    if not isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        raise ConfigError(f"key {kid!r}: ES256 needs an elliptic curve key")
    if not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"key {kid!r}: ES256 is defined on the curve P-256 only, not {key.curve.name}")
