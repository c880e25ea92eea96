"""Keys: what a ring takes, what it refuses, and that no text about a key shows any of it."""

from __future__ import annotations

import base64
import json
import warnings
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jose import backends
from jose.backends.ecdsa_backend import ECDSAECKey
from jose.backends.native import HMACKey as PlainHMACKey

from pushwire_gateway.auth import SigningKey, TokenVerifier, VerifyKey, build_ring, mint
from pushwire_gateway.key_material import Alg
from pushwire_gateway.settings import ConfigError, KeySettings
from support.tokens import (
    ALGS,
    AUDIENCE,
    DROP,
    ISSUER,
    NOW,
    SECRET,
    header,
    private_key,
    public_bytes,
    signing_key,
    token,
    verify_key,
)

SPKI = PublicFormat.SubjectPublicKeyInfo


def public(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey, form: Encoding = Encoding.PEM
) -> bytes:
    return key.public_key().public_bytes(form, SPKI)


SMALL_RSA = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P384 = ec.generate_private_key(ec.SECP384R1())
K256 = ec.generate_private_key(ec.SECP256K1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA_PRIVATE = signing_key("RS256").secret_or_pem
LOCKED = private_key("ES256").private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(b"password"))
SSH = private_key("RS256").public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
PKCS1 = private_key("RS256").public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1)
JWK = json.dumps({"kty": "oct", "k": base64.urlsafe_b64encode(SECRET).decode()}).encode()

BAD: list[tuple[str, str, bytes, str]] = [
    ("empty secret", "HS256", b"", "at least 32 bytes"),
    ("31 bytes", "HS256", SECRET[:31], "at least 32 bytes"),
    ("RSA PEM as secret", "HS256", public_bytes("RS256"), "PEM"),
    ("EC PEM as secret", "HS256", public_bytes("ES256"), "PEM"),
    ("PEM after a space", "HS256", b" \n" + public_bytes("ES256"), "PEM"),
    ("PKCS1 PEM as secret", "HS256", PKCS1, "PEM"),
    ("private PEM as secret", "HS256", RSA_PRIVATE, "PEM"),
    ("RSA DER as secret", "HS256", public_bytes("RS256", Encoding.DER), "DER"),
    ("EC DER as secret", "HS256", public_bytes("ES256", Encoding.DER), "DER"),
    ("DER in base64 as secret", "HS256", base64.b64encode(public_bytes("ES256", Encoding.DER)), "DER"),
    ("DER in lines as secret", "HS256", base64.encodebytes(public_bytes("RS256", Encoding.DER)), "DER"),
    ("private DER as secret", "HS256", P384.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), "DER"),
    ("locked DER as secret", "HS256", LOCKED, "DER"),
    ("OpenSSH key as secret", "HS256", SSH, "not usable"),
    ("JWK as secret", "HS256", JWK, "JWK"),
    ("EC key for RS256", "RS256", public_bytes("ES256"), "needs an RSA key"),
    ("RSA key for ES256", "ES256", public_bytes("RS256"), "elliptic curve"),
    ("Ed25519 for ES256", "ES256", public(ED25519), "elliptic curve"),
    ("Ed25519 for RS256", "RS256", public(ED25519), "needs an RSA key"),
    ("P-384 for ES256", "ES256", public(P384), "P-256"),
    ("secp256k1 for ES256", "ES256", public(K256), "P-256"),
    ("RSA of 1024 bits", "RS256", public(SMALL_RSA), "2048 bits"),
    ("RSA DER", "RS256", public_bytes("RS256", Encoding.DER), "needs a public key in PEM"),
    ("EC DER", "ES256", public_bytes("ES256", Encoding.DER), "needs a public key in PEM"),
    ("private key", "RS256", RSA_PRIVATE, "public key only"),
    ("private key", "ES256", signing_key("ES256").secret_or_pem, "public key only"),
    ("broken PEM", "RS256", public_bytes("RS256").replace(b"M", b"N"), "not a public key"),
    ("empty PEM", "ES256", b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", "not a public key"),
    ("secret for RS256", "RS256", SECRET, "needs a public key in PEM"),
    ("HS512", "HS512", SECRET * 2, "alg must be"),
    ("none", "none", b"", "alg must be"),
    ("EdDSA", "EdDSA", public(ED25519), "alg must be"),
]


@pytest.mark.parametrize(("alg", "material", "text"), [case[1:] for case in BAD], ids=[f"{c[1]}: {c[0]}" for c in BAD])
def test_a_bad_key_is_refused_with_a_text_that_shows_none_of_it(alg: Alg, material: bytes, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as refused:
        build_ring([VerifyKey("main", alg, material)])
    shown = str(refused.value) + repr(refused.value)
    assert "'main'" in shown
    assert refused.value.__cause__ is None
    body = b"".join(material.splitlines()[1:2]) or material
    assert len(body) < 12 or body[:12].decode("latin-1") not in shown


@pytest.mark.parametrize("kid", ["", "x" * 256, "a\nb", "a\0"])
def test_a_bad_kid_is_refused(kid: str) -> None:
    with pytest.raises(ConfigError, match="kid"):
        build_ring([VerifyKey(kid, "HS256", SECRET)])


@pytest.mark.parametrize("count", [0, 4])
def test_a_ring_holds_one_to_three_keys(count: int) -> None:
    with pytest.raises(ConfigError, match="1 to 3"):
        build_ring([VerifyKey(f"k{number}", "HS256", SECRET) for number in range(count)])


def test_two_keys_of_one_kid_are_refused() -> None:
    with pytest.raises(ConfigError, match="kid 'main'"):
        build_ring([VerifyKey("main", "HS256", SECRET), VerifyKey("main", "ES256", public_bytes("ES256"))])


def test_a_ring_finds_by_exact_kid_and_falls_to_a_single_key_only() -> None:
    one, three = build_ring([verify_key("HS256")]), build_ring([verify_key(alg) for alg in ALGS])
    assert (len(one), len(three)) == (1, 3)
    only, chosen = one.find(None), three.find("ES256")
    assert only is not None
    assert chosen is not None
    assert (only.kid, chosen.alg) == ("HS256", "ES256")
    assert three.find(None) is None
    assert three.find("es256") is None
    assert one.find(["HS256"]) is None


def test_keys_of_one_secret_rotate_by_kid() -> None:
    new = bytes(reversed(SECRET))
    ring = build_ring([VerifyKey("old", "HS256", SECRET), VerifyKey("new", "HS256", new)])
    judge = TokenVerifier(ring, audience=AUDIENCE, issuer=ISSUER)
    minted = mint(SigningKey("new", "HS256", new), judge_claims())
    assert judge.verify(minted, NOW).jti == "token-1"
    assert judge.verify(token(head=header("HS256", kid="old")), NOW).jti == "token-1"


def judge_claims() -> dict[str, object]:
    return {"sub": "a", "aud": AUDIENCE, "iss": ISSUER, "jti": "token-1", "iat": NOW, "exp": NOW + 9, "caps": []}


def test_pkcs1_and_text_around_the_block_are_read() -> None:
    ring = build_ring([VerifyKey("RS256", "RS256", b"the issuer's key of May\n" + PKCS1 + b"\n")])
    judge = TokenVerifier(ring, audience=AUDIENCE, issuer=ISSUER)
    assert judge.verify(token("RS256"), NOW).subject == "alice"
    assert judge.verify(token("RS256", head=header("RS256", kid=DROP)), NOW).subject == "alice"


@pytest.mark.parametrize("alg", ALGS)
def test_no_repr_shows_a_key(alg: Alg) -> None:
    shown = repr([verify_key(alg), signing_key(alg), build_ring([verify_key(alg)])])
    assert alg in shown
    for material in (verify_key(alg).secret_or_pem, signing_key(alg).secret_or_pem):
        body = b"".join(material.splitlines()[1:2]) or material
        assert repr(body[:12])[2:-1] not in shown
    assert "BEGIN" not in shown


@pytest.mark.parametrize(("name", "other"), [("ECKey", ECDSAECKey), ("HMACKey", PlainHMACKey), ("RSAKey", None)])
def test_another_back_end_of_jose_is_refused(name: str, other: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, name, other)
    with pytest.raises(ConfigError, match="cryptography"):
        build_ring([verify_key("HS256")])
    with pytest.raises(ConfigError, match="cryptography"):
        mint(signing_key("HS256"), {})


def test_a_password_on_a_signing_key_is_refused() -> None:
    locked = private_key("ES256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigError, match="without a password"):
        mint(SigningKey("k", "ES256", locked), {})


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_secret_file_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "signing.secret"
    path.write_bytes(b" 0123456789abcdef0123456789abcdef\n")
    path.chmod(mode)
    key = KeySettings(secret_file=path)
    with pytest.raises(ConfigError, match=r"^keys: signing\.secret can be read or changed by others: chmod 600 it$"):
        key.material()
    path.chmod(0o600)
    assert key.material() == b"0123456789abcdef0123456789abcdef"


def test_a_secret_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^keys: cannot read absent\.secret: "):
        KeySettings(secret_file=tmp_path / "absent.secret").material()


def test_verifying_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ring = build_ring([verify_key(alg) for alg in ALGS])
        judge = TokenVerifier(ring, audience=AUDIENCE, issuer=ISSUER)
        assert {judge.verify(token(alg), NOW).subject for alg in ALGS} == {"alice"}
