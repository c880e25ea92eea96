"""JWK sets: which keys of one count, which are passed over, and which sets are refused whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from pushwire_gateway.auth import PUBLISHED_KEYS_MAX, TokenVerifier, Unauthorized, UnknownKey, VerifyKey, build_ring
from pushwire_gateway.jwks import ENTRIES_MAX, SetRefused, parse_set
from pushwire_gateway.key_material import Alg
from pushwire_gateway.settings import ConfigError
from support.key_server import ec_jwk, integer, key_set, rsa_jwk
from support.tokens import (
    AUDIENCE,
    DROP,
    ISSUER,
    NOW,
    SECRET,
    b64,
    header,
    hmac_of,
    private_key,
    public_bytes,
    signing_input,
    token,
    unb64,
    verify_key,
)
from support.tokens import claims as good_claims

RSA_NUMBERS: Any = private_key("RS256").private_numbers()
EC_NUMBERS: Any = private_key("ES256").private_numbers()
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
P384 = ec.generate_private_key(ec.SECP384R1())
N = RSA_NUMBERS.public_numbers.n
X, Y = ec_jwk()["x"], ec_jwk()["y"]


def judge_of(*entries: Any, configured: tuple[VerifyKey, ...] = ()) -> TokenVerifier:
    judge = TokenVerifier(build_ring(configured, published=True), audience=AUDIENCE, issuer=ISSUER)
    judge.publish(parse_set(key_set(*entries)).keys)
    return judge


@pytest.mark.parametrize(
    "entry",
    [
        rsa_jwk(),
        rsa_jwk(use=None, alg=None),
        rsa_jwk(key_ops=["verify"], use=None),
        rsa_jwk(key_ops=["sign", "verify"]),
        rsa_jwk(x5c=["not a certificate"], x5u="https://evil.example/", x5t="AA", other={"a": 1}),
        ec_jwk(),
        ec_jwk(use=None, alg=None),
    ],
    ids=lambda entry: f"{entry['kty']} {sorted(entry)}"[:60],
)
def test_a_published_key_verifies_its_tokens(entry):
    judge = judge_of(entry)
    alg: Alg = "RS256" if entry["kty"] == "RSA" else "ES256"
    assert judge.verify(token(alg), NOW).subject == "alice"


IGNORED = [
    ("no kid", rsa_jwk(kid=None)),
    ("an empty kid", rsa_jwk(kid="")),
    ("a long kid", rsa_jwk(kid="x" * 256)),
    ("a kid with a newline", rsa_jwk(kid="a\nb")),
    ("a kid that is no text", rsa_jwk(kid=1)),
    ("a kid of null", {**rsa_jwk(), "kid": None}),
    ("a kid that is a list", rsa_jwk(kid=["RS256"])),
    ("for encryption", rsa_jwk(use="enc")),
    ("a use that is no text", rsa_jwk(use=["sig"])),
    ("a use of null", {**rsa_jwk(), "use": None}),
    ("for encryption by operations", rsa_jwk(key_ops=["encrypt", "wrapKey"])),
    ("operations that are no list", rsa_jwk(key_ops="verify")),
    ("RS512", rsa_jwk(alg="RS512")),
    ("PS256", rsa_jwk(alg="PS256")),
    ("RSA-OAEP", rsa_jwk(alg="RSA-OAEP", use=None)),
    ("HS256 with an RSA key", rsa_jwk(alg="HS256")),
    ("none", rsa_jwk(alg="none")),
    ("ES256 with an RSA key", rsa_jwk(alg="ES256")),
    ("RS256 with a point", ec_jwk(alg="RS256")),
    ("ES384", ec_jwk(alg="ES384")),
    ("an alg that is no text", rsa_jwk(alg=["RS256"])),
    ("P-384", ec_jwk(P384, crv="P-384", alg=None)),
    ("P-384 that says P-256", ec_jwk(P384)),
    ("secp256k1", ec_jwk(crv="secp256k1")),
    ("a curve that is no text", ec_jwk(crv=["P-256"])),
    ("Ed25519", {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(bytes(32)), "alg": "EdDSA"}),
    ("an unknown kty", {"kty": "XYZ", "kid": "xyz"}),
    ("no kty", rsa_jwk(kty=None)),
    ("a kty that is a list", rsa_jwk(kty=["RSA"])),
    ("kty in lower case", rsa_jwk(kty="rsa")),
    ("nothing", {}),
    ("no n", rsa_jwk(n=None)),
    ("no e", rsa_jwk(e=None)),
    ("an empty n", rsa_jwk(n="")),
    ("an n that is a number", rsa_jwk(n=N)),
    ("n in base64", rsa_jwk(n=integer(N) + "==")),
    ("n with a space", rsa_jwk(n=" " + integer(N))),
    ("n with other characters", rsa_jwk(n=integer(N)[:-1] + "\u00e9")),
    ("1024 bits", rsa_jwk(SMALL)),
    ("2047 bits", rsa_jwk(n=integer(N >> 1 | 1))),
    ("an even n", rsa_jwk(n=integer(N - 1))),
    ("100,000 bits", rsa_jwk(n=integer(1 << 99_999 | 1))),
    ("e = 1", rsa_jwk(e="AQ")),
    ("e = 0", rsa_jwk(e="AA")),
    ("an even e", rsa_jwk(e=integer(65536))),
    ("an e of 2,000 bits", rsa_jwk(e=integer(1 << 1999 | 1))),
    ("a point that is nowhere", ec_jwk(y=integer(EC_NUMBERS.public_numbers.y ^ 1, 32))),
    ("the point at infinity", ec_jwk(x=b64(bytes(32)), y=b64(bytes(32)))),
    ("x beyond the field", ec_jwk(x=b64(b"\xff" * 32))),
    ("x of 31 bytes", ec_jwk(x=b64(bytes(31)))),
    ("x of 33 bytes", ec_jwk(x=b64(bytes(33)))),
    ("x with a zero before it", ec_jwk(x=b64(b"\0" + unb64(X)))),
    ("no y", ec_jwk(y=None)),
]  # fmt: skip


@pytest.mark.parametrize("entry", [case[1] for case in IGNORED], ids=[case[0] for case in IGNORED])
def test_a_key_that_is_not_for_us_is_passed_over_and_its_neighbour_counts(entry):
    good = ec_jwk(kid="good") if entry.get("kty") != "EC" else rsa_jwk(kid="good")
    found = parse_set(key_set(entry, good))
    assert [key.kid for key in found.keys] == ["good"]
    assert len(found.ignored) == 1
    assert found.ignored[0].startswith("key 1: ")
    assert parse_set(key_set(good, entry)).keys == found.keys
    # What a set's publisher wrote does not get into the reason, which is logged.
    texts = [value for value in entry.values() if type(value) is str and len(value) > 5]
    assert not [text for text in texts if text in found.ignored[0]]


PRIVATE_RSA = {"d": integer(RSA_NUMBERS.d), "p": integer(RSA_NUMBERS.p), "q": integer(RSA_NUMBERS.q)}
REFUSED = [
    ("nothing", b"", "JSON object"),
    ("a list", json.dumps([rsa_jwk()]).encode(), "JSON object"),
    ("HTML", b"<!doctype html>", "JSON object"),
    ("bad UTF-8", b'{"keys": ["\xff"]}', "JSON object"),
    ("UTF-16", key_set(rsa_jwk()).decode().encode("utf-16"), "JSON object"),
    ("a BOM", b"\xef\xbb\xbf" + key_set(rsa_jwk()), "JSON object"),
    ("deep", b'{"keys":' + b"[" * 100_000, "JSON object"),
    ("NaN", b'{"keys": [{"kty": NaN}]}', "JSON object"),
    ("keys twice", b'{"keys": [], "keys": []}', "JSON object"),
    ("kid twice in a key", b'{"keys": [{"kid": "a", "kid": "b"}]}', "JSON object"),
    ("one key, no set", json.dumps(rsa_jwk()).encode(), "list of keys"),
    ("keys by kid", json.dumps({"keys": {"RS256": rsa_jwk()}}).encode(), "list of keys"),
    ("keys of null", b'{"keys": null}', "list of keys"),
    ("certificates by kid", json.dumps({"RS256": public_bytes("RS256").decode()}).encode(), "list of keys"),
    ("a text among the keys", key_set(rsa_jwk(), "RS256"), "list of keys"),
    ("a shared secret", key_set(rsa_jwk(), {"kty": "oct", "kid": "hs", "k": b64(SECRET), "alg": "HS256"}), "secret"),
    ("a shared secret for encryption", key_set({"kty": "oct", "k": b64(SECRET), "use": "enc"}), "secret"),
    ("a shared secret without itself", key_set({"kty": "oct"}), "secret"),
    ("k in an RSA key", key_set(rsa_jwk(k=b64(SECRET))), "secret"),
    ("a private RSA key", key_set(rsa_jwk(**PRIVATE_RSA)), "private"),
    ("half a private RSA key", key_set(rsa_jwk(p=PRIVATE_RSA["p"])), "private"),
    ("a private EC key", key_set(ec_jwk(d=integer(EC_NUMBERS.private_value))), "private"),
    ("a private key of another kind", key_set({"kty": "OKP", "crv": "Ed25519", "d": b64(bytes(32))}), "private"),
    ("two keys of one kid", key_set(rsa_jwk(kid="a"), ec_jwk(kid="a")), "kid of another"),
    ("too many keys", key_set(*[ec_jwk(kid=str(number)) for number in range(PUBLISHED_KEYS_MAX + 1)]), "more than"),
    ("too many entries", key_set(*[{"kty": "X"}] * (ENTRIES_MAX + 1)), "more than"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "why"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_set_that_is_none_or_tells_secrets_is_refused_whole(raw, why):
    with pytest.raises(SetRefused, match=why) as refused:
        parse_set(raw)
    assert refused.value.__cause__ is None
    shown = repr(refused.value) + str(refused.value)
    assert b64(SECRET)[:12] not in shown
    assert PRIVATE_RSA["d"][:12] not in shown


def test_the_same_key_twice_is_one_and_a_set_may_be_empty():
    assert len(parse_set(key_set(rsa_jwk(), rsa_jwk(x5t="again"))).keys) == 1
    assert parse_set(key_set()).keys == ()
    everything = [ec_jwk(kid=str(number)) for number in range(PUBLISHED_KEYS_MAX)]
    assert len(parse_set(key_set(*everything, *[{"kty": "X"}] * (ENTRIES_MAX - len(everything)))).keys) == 32


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_refused_and_nothing_else_happens(raw):
    with pytest.raises(SetRefused):
        parse_set(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([N, X, Y, "AQAB", "RSA", "EC"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["kty", "kid", "use", "key_ops", "alg", "crv", "n", "e", "x", "y"]), JSON))
def test_a_key_of_any_shape_is_passed_over_or_good(entry):
    found = parse_set(key_set(entry, rsa_jwk(kid="the last")))
    assert found.keys[-1].kid == "the last"
    assert len(found.keys) + len(found.ignored) in {1, 2}  # 1: equal to the last


# ---- beside the operator's keys


def test_published_keys_stand_beside_configured_ones():
    judge = judge_of(rsa_jwk(), configured=(verify_key("HS256"),))
    assert {judge.verify(token(alg), NOW).subject for alg in ("HS256", "RS256")} == {"alice"}
    judge.publish(parse_set(key_set(ec_jwk())).keys)
    assert {judge.verify(token(alg), NOW).subject for alg in ("HS256", "ES256")} == {"alice"}
    with pytest.raises(UnknownKey):
        judge.verify(token("RS256"), NOW)


def test_a_published_key_never_takes_the_place_of_a_configured_one():
    judge = judge_of(rsa_jwk(), configured=(verify_key("HS256"),))
    for entries in ([ec_jwk(), rsa_jwk(kid="HS256")], [ec_jwk(kid="HS256")]):
        with pytest.raises(ConfigError, match="HS256"):
            judge.publish(parse_set(key_set(*entries)).keys)
    # Nothing has changed, not even what was good about the refused set.
    assert {judge.verify(token(alg), NOW).subject for alg in ("HS256", "RS256")} == {"alice"}
    with pytest.raises(UnknownKey):
        judge.verify(token("ES256"), NOW)


def test_no_family_is_confused_with_another():
    judge = judge_of(rsa_jwk(), ec_jwk(), configured=(verify_key("HS256"),))
    forged = []
    for alg in ("RS256", "ES256"):
        for secret in (public_bytes(alg), json.dumps(rsa_jwk()).encode(), rsa_jwk()["n"].encode(), b""):
            text = signing_input(header(alg, alg="HS256"), good_claims())
            forged.append(f"{text}.{b64(hmac_of(text, secret))}")
    forged += [token("RS256", header("RS256", kid="ES256")), token("ES256", header("ES256", kid="HS256"))]
    for text in forged:
        with pytest.raises(Unauthorized) as refused:
            judge.verify(text, NOW)
        assert refused.value.reason == "algorithm"
        assert not isinstance(refused.value, UnknownKey)


def test_a_shared_secret_cannot_be_published_by_any_way():
    judge = judge_of(rsa_jwk())
    with pytest.raises(ConfigError, match="shared secret"):
        judge.publish([verify_key("HS256")])
    with pytest.raises(ConfigError, match="more than"):
        judge.publish([VerifyKey(str(number), "ES256", public_bytes("ES256")) for number in range(33)])
    with pytest.raises(ConfigError, match="two keys"):
        judge.publish([verify_key("ES256"), verify_key("ES256")])
    assert judge.verify(token("RS256"), NOW).subject == "alice"


def test_where_keys_are_fetched_a_token_must_name_its_own():
    nameless = token("RS256", header("RS256", kid=DROP))
    for judge in (judge_of(rsa_jwk()), judge_of(configured=(verify_key("RS256"),))):
        with pytest.raises(Unauthorized) as refused:
            judge.verify(nameless, NOW)
        assert (refused.value.reason, type(refused.value)) == ("kid", Unauthorized)


@pytest.mark.parametrize(
    ("head", "worth_asking"),
    [
        (header("RS256", kid="new"), True),
        (header("ES256", kid="new"), True),
        (header("RS256", kid="x" * 255), True),
        (header("HS256", kid="new"), False),
        (header("RS256", kid="new", alg="none"), False),
        (header("RS256", kid="new", alg=["RS256"]), False),
        (header("RS256", kid=""), False),
        (header("RS256", kid="x" * 256), False),
        (header("RS256", kid="a\nb"), False),
        (header("RS256", kid=None), False),
        (header("RS256", kid=["new"]), False),
        (header("RS256", kid="new", jku="https://evil.example/"), False),
        (header("RS256", kid="new", typ="JOSE"), False),
        (header("RS256", kid="ES256"), False),
    ],
    ids=lambda value: f"{value!r:.60}",
)
def test_an_unknown_kid_is_worth_asking_for_when_a_set_could_have_it(head, worth_asking):
    judge = judge_of(ec_jwk())
    with pytest.raises(Unauthorized) as refused:
        judge.verify(token("RS256", head), NOW)
    assert isinstance(refused.value, UnknownKey) is worth_asking
    assert str(refused.value) == "unauthorized: no valid token"
    assert refused.value.__context__ is None
    assert "new" not in repr(refused.value)


def test_where_no_keys_are_fetched_nothing_is_worth_asking():
    judge = TokenVerifier(build_ring([verify_key("ES256")]), audience=AUDIENCE, issuer=ISSUER)
    with pytest.raises(Unauthorized) as refused:
        judge.verify(token("RS256"), NOW)
    assert type(refused.value) is Unauthorized
    with pytest.raises(ConfigError, match="0 to 3"):
        build_ring([verify_key("HS256")] * 4, published=True)
