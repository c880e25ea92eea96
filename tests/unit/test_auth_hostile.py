"""Tokens that an attacker or a careless issuer would send: each is refused, for its own cause, with one text.

The cause is checked too: a forged token that is refused for another reason proves nothing about its own.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import traceback
from collections import Counter
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from pushwire.wire.decode import TOKEN_CHARS_MAX
from pushwire_gateway.auth import REASONS, REFUSED_TEXT, TokenVerifier, Unauthorized
from pushwire_gateway.key_material import Alg
from support import tokens
from support.tokens import (
    ALGS,
    DROP,
    NOW,
    b64,
    claims,
    header,
    hmac_of,
    private_key,
    public_bytes,
    signing_input,
    token,
)

# name, algorithms in the ring, token, reason
Case = tuple[str, tuple[Alg, ...], Any, str]
HS: tuple[Alg, ...] = ("HS256",)
RS: tuple[Alg, ...] = ("RS256",)
ES: tuple[Alg, ...] = ("ES256",)

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def payload_with(field: str, raw_json: str) -> bytes:
    """The good claims with one value as raw JSON, for what json.dumps would never write."""
    return json.dumps(claims(**{field: "@"})).replace('"@"', raw_json).encode()


def of_claims(reason: str, **changes: Any) -> list[Case]:
    """One token for one claim, once per value of a list."""
    ((name, values),) = changes.items()
    return [
        (f"{name}={value!r:.40}", HS, token(payload=claims(**{name: value})), reason) for value in values
    ]  # fmt: skip


def missing_claims() -> list[Case]:
    names = ("exp", "iat", "sub", "aud", "iss", "jti", "caps")
    return [(f"no {name}", HS, token(payload=claims(**{name: DROP})), "missing_claim") for name in names]


def wrong_texts() -> list[Case]:
    odd = [{}, {"a": 1}, [], 7, None, True, "", "x" * 256, "a\0b", "a\nb", "\ud800", "a\u202eb"]
    return [
        *of_claims("audience", aud=["other", [tokens.AUDIENCE], tokens.AUDIENCE.upper(), tokens.AUDIENCE + " ", *odd]),
        *of_claims("issuer", iss=["other", [tokens.ISSUER], tokens.ISSUER + "/", *odd]),
        *of_claims("subject", sub=odd),
        *of_claims("jti", jti=odd),
        *of_claims("tenant", tenant=["", "a/b", "a b", "acme\n", "\u00e9", "x" * 256, 1, None, ["acme"]]),
    ]


def wrong_times() -> list[Case]:
    huge = 10**300
    raw = [("1e400", "time_type"), ("1e3", "time_type"), ("NaN", "claims"), ("-Infinity", "claims"), ("01", "claims")]
    pairs = [
        ("lives a second too long", {"iat": NOW, "exp": NOW + 3601}, "lifetime"),
        ("ends as it starts", {"iat": NOW, "exp": NOW}, "lifetime"),
        ("ends before it starts", {"iat": NOW, "exp": NOW - 1}, "lifetime"),
        ("ends in 300 digits", {"exp": huge}, "lifetime"),
        ("began 300 digits ago", {"iat": -huge, "exp": -huge + 60}, "expired"),
        ("begins in 300 digits", {"iat": huge, "exp": huge + 60}, "issued_in_future"),
        ("issued 31 s from now", {"iat": NOW + 31, "exp": NOW + 60}, "issued_in_future"),
        ("ended 30 s ago", {"iat": NOW - 90, "exp": NOW - 30}, "expired"),
        ("ended at the epoch", {"iat": -60, "exp": 0}, "expired"),
        ("not before 31 s from now", {"nbf": NOW + 31}, "not_yet_valid"),
        ("not before 300 digits", {"nbf": huge}, "not_yet_valid"),
    ]
    odd = [True, False, float(NOW), NOW + 0.5, str(NOW), None, [NOW], {"t": NOW}]
    return [
        *of_claims("time_type", exp=odd),
        *of_claims("time_type", iat=odd),
        *of_claims("time_type", nbf=odd),
        *[(f"exp is {text}", HS, token(payload=payload_with("exp", text)), reason) for text, reason in raw],
        *[(name, HS, token(payload=claims(**changes)), reason) for name, changes, reason in pairs],
    ]


def wrong_rights() -> list[Case]:
    good = {"topics": ["a"], "allow": ["publish"]}
    caps: list[Any] = [
        None, {}, "publish", good, [None], [[]], [good, good], [{**good, "allow": ["publish", "delete"]}],
        [{**good, "allow": "publish"}], [{**good, "allow": []}], [{**good, "allow": ["publish", "publish"]}],
        [{**good, "allow": [["publish"]]}], [{**good, "allow": ["Publish"]}], [{**good, "topics": []}],
        [{**good, "topics": "a"}], [{**good, "topics": ["a", "a"]}], [{**good, "topics": ["*.a"]}],
        [{**good, "topics": ["a*b"]}], [{**good, "topics": ["**"]}], [{**good, "topics": [".*?"]}],
        [{**good, "topics": ["a\n"]}], [{**good, "topics": [""]}], [{**good, "topics": [1]}],
        [{**good, "groups": []}], [{**good, "groups": None}], [{**good, "groups": ["a b"]}],
        [{**good, "deny": ["admin"]}], [{"topics": ["a"]}], [{"allow": ["publish"]}],
        [{**good, "topics": ["x" * 256]}], [good, {**good, "allow": ["root"]}],
    ]  # fmt: skip
    limits: list[Any] = [
        None, [], 5, {"publish_per_s": 0}, {"publish_per_s": -1}, {"prefetch": True}, {"prefetch": 1.5},
        {"prefetch": "1"}, {"connections": None}, {"connections": 2**31}, {"bytes_per_s": 1},
    ]  # fmt: skip
    return [*of_claims("caps", caps=caps), *of_claims("limits", limits=limits)]


def wrong_payloads() -> list[Case]:
    good = json.dumps(claims()).encode()
    payloads = {
        "array": b"[]", "text": b'"alice"', "null": b"null", "nothing but a space": b" ", "not JSON": b"{sub:1}",
        "deep": b'{"a":' + b"[" * 2500 + b"]" * 400, "deep and closed": b'{"a":' * 200 + b"1" + b"}" * 200,
        "bad UTF-8": b'{"sub":"\xff"}', "UTF-16": json.dumps(claims()).encode("utf-16"), "BOM": b"\xef\xbb\xbf" + good,
        "two objects": good + b"{}", "null byte after": good + b"\0", "name twice": good[:-1] + b',"sub":"root"}',
        "name twice inside": payload_with("caps", '[{"topics":["a"],"allow":["publish"],"allow":["admin"]}]'),
    }  # fmt: skip
    # 200 deep is legal JSON, and a claim nobody asked for; what is wrong with it is what it lacks.
    reasons = {"deep and closed": "missing_claim"}
    return [
        (f"payload: {name}", HS, token(payload=raw), reasons.get(name, "claims")) for name, raw in payloads.items()
    ]  # fmt: skip


def wrong_headers() -> list[Case]:
    changes: list[tuple[dict[str, Any], str]] = [
        *[({name: value}, "header") for name, value in {
            "crit": ["exp"], "b64": False, "jku": "https://evil.example/k", "x5u": "https://evil.example/c",
            "jwk": {"kty": "oct", "k": "AA"}, "x5c": ["AA"], "zip": "DEF", "cty": "JWT", "enc": "A128GCM", "": 1,
        }.items()],
        *[({"typ": value}, "typ") for value in ("JOSE", "", "JWT ", "dpop+jwt", "jwt\0", None, 1, ["JWT"])],
        *[({"kid": value}, "kid") for value in (
            "../../etc/passwd", "' OR 1=1 --", "/dev/null", "hs256", "HS256 ", "", "HS256\0", "\ud800", None, 0, True,
            ["HS256"], {"HS256": 1}, "x" * 1500,
        )],
        *[({"alg": value}, "algorithm") for value in (
            DROP, None, "", "HS384", "hs256", "HS256 ", "dir", "RS256", "ES256", 256, True, ["HS256"], {"a": 1},
        )],
    ]  # fmt: skip
    raws = {
        "array": b'["HS256"]', "null": b"null", "number": b"1e400", "not JSON": b"HS256....", "deep": b"[" * 2500,
        "bad UTF-8": b'{"alg":"HS256\xff"}', "NaN": b'{"alg":"HS256","kid":NaN}', "two": b'{"alg":"HS256"}{}',
        "alg twice": b'{"alg":"HS256","kid":"HS256","alg":"HS256"}',
        "alg none, then right": b'{"alg":"none","kid":"HS256","alg":"HS256"}',
    }  # fmt: skip
    return [
        *[(f"header {change!r:.50}", HS, token(head=header("HS256", **change)), why) for change, why in changes],
        *[(f"header: {name}", HS, token(head=raw), "header") for name, raw in raws.items()],
        ("no kid and three keys", ALGS, token(head=header("HS256", kid=DROP)), "kid"),
    ]


def unsigned() -> list[Case]:
    cases: list[Case] = []
    for alg in ("none", "None", "NONE", "nOnE"):
        text = signing_input(header("HS256", alg=alg), claims())
        cases.append((f"alg {alg}, no signature", HS, text + ".", "malformed"))
        cases.append((f"alg {alg}, some signature", HS, text + ".AAAA", "algorithm"))
        cases.append((f"alg {alg}, right HMAC", HS, f"{text}.{b64(hmac_of(text))}", "algorithm"))
    return cases


def confused() -> list[Case]:
    """Public keys as HMAC secrets, one key's algorithm with another key, other algorithms of the family."""
    cases: list[Case] = []
    for alg in ("RS256", "ES256"):
        pem, der = public_bytes(alg), public_bytes(alg, Encoding.DER)
        secrets = {
            "PEM": pem,
            "PEM without its newline": pem.rstrip(),
            "DER": der,
            "DER in base64": base64.b64encode(der),
        }
        for name, secret in {**secrets, "an empty secret": b""}.items():
            for hashed in ("HS256", "HS512"):
                text = signing_input(header(alg, alg=hashed), claims())
                forged = f"{text}.{b64(hmac_of(text, secret, 'sha' + hashed[2:]))}"
                cases.append((f"{alg} key, {hashed} with {name}", (alg,), forged, "algorithm"))
            text = signing_input(header(alg), claims())
            forged = f"{text}.{b64(hmac_of(text, secret))}"
            cases.append((f"{alg} kept, HMAC with {name}", (alg,), forged, "signature"))
    for key in ALGS:
        for other in ALGS:
            if key != other:
                head = header(other, kid=key)
                cases.append((f"kid of {key}, signed as {other}", ALGS, token(other, head), "algorithm"))
                head = header(key)
                cases.append((f"says {key}, signed by {other}", ALGS, token(other, head), "signature"))
    return cases


def wrong_signatures() -> list[Case]:
    def with_signature(alg: Alg, raw: bytes) -> str:
        return f"{signing_input(header(alg), claims())}.{b64(raw)}"

    text = signing_input(header("RS256"), claims()).encode()
    rsa_key, curve_key = private_key("RS256"), private_key("ES256")
    assert isinstance(rsa_key, rsa.RSAPrivateKey)
    assert isinstance(curve_key, ec.EllipticCurvePrivateKey)
    pss = rsa_key.sign(text, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    der = curve_key.sign(signing_input(header("ES256"), claims()).encode(), ec.ECDSA(hashes.SHA256()))
    order, one = P256_ORDER.to_bytes(32, "big"), (1).to_bytes(32, "big")
    good = hmac_of(signing_input(header("HS256"), claims()))
    raws: list[tuple[str, Alg, bytes]] = [
        ("half an HMAC", "HS256", good[:16]), ("an HMAC and a byte", "HS256", good + b"\0"),
        ("an empty-keyed HMAC", "HS256", hmac_of(signing_input(header("HS256"), claims()), b"")),
        ("HMAC SHA-512", "HS256", hmac_of(signing_input(header("HS256"), claims()), digest=hashlib.sha512)),
        ("zeros", "HS256", bytes(32)), ("zeros", "RS256", bytes(256)), ("one", "RS256", one.rjust(256, b"\0")),
        ("PSS", "RS256", pss), ("255 bytes", "RS256", bytes(255)), ("0xff", "RS256", b"\xff" * 256),
        # CVE-2022-21449: r = s = 0 verified everything in another platform's library.
        ("r = s = 0", "ES256", bytes(64)), ("r = s = 1", "ES256", one + one), ("r = s = n", "ES256", order + order),
        ("r = 0", "ES256", bytes(32) + one), ("DER", "ES256", der), ("63 bytes", "ES256", bytes(63)),
    ]  # fmt: skip
    return [(f"signature: {alg}, {name}", (alg,), with_signature(alg, raw), "signature") for name, alg, raw in raws]


def wrong_shapes() -> list[Case]:
    good = token()
    head, payload, sign = good.split(".")
    long_payload = claims(note="x" * TOKEN_CHARS_MAX)
    malformed: dict[str, Any] = {
        "nothing": "",
        "a word": "token",
        "two dots": "..",
        "19 characters": "a.b." + "c" * 15,
        "junk after": good + "!!!!",
        "padding": good + "=",
        "padding within": f"{head}=.{payload}.{sign}",
        "space before": " " + good,
        "space after": good + " ",
        "newline after": good + "\n",
        "tab": "\t" + good,
        "CRLF within": f"{head}.\r\n{payload}.{sign}",
        "null byte after": good + "\0",
        "null byte before": "\0" + good,
        "Bearer before": "Bearer " + good,
        "quoted": f'"{good}"',
        "two of them": f"{good},{good}",
        "no header": f".{payload}.{sign}",
        "no payload": f"{head}..{sign}",
        "no signature": f"{head}.{payload}.",
        "two parts": f"{head}.{payload}",
        "four parts": f"{good}.{sign}",
        "five parts of a JWE": f"{head}..{b64(b'iv')}.{payload}.{sign}",
        "2 MB": head + "." + "A" * 2_000_000 + "." + sign,
        "2 MB of dots": "." * 2_000_000,
        "too long by a claim": token(payload=long_payload),
        "a character too long": good + "A" * (TOKEN_CHARS_MAX + 1 - len(good)),
        "a full-width letter": "\uff25" + good[1:],
        "a Greek letter": good[:-1] + "\u0391",
        "a lone surrogate": good + "\ud800",
        "an emoji": good + "\U0001f511",
        "non-ASCII bytes": good.encode() + b"\xff",
        "percent-encoded": good.replace(".", "%2E"),
        "the JSON form": json.dumps({"protected": head, "payload": payload, "signature": sign}),
        "no text": None,
        "a number": 5,
        "a list": [good],
        "a bytearray": bytearray(good.encode()),
        "a dict": {"token": good},
    }
    spelled = [sign[:-1] + last for last in other_spellings(sign)]
    return [
        *[(f"shape: {name}", HS, value, "malformed") for name, value in malformed.items()],
        ("shape: +/ alphabet", HS, f"{head}.{payload}.+/{sign[2:]}", "malformed"),
        ("shape: length 4n+1", HS, f"{head}.{payload}.{sign}AA", "signature"),
        *[("the signature in another spelling", HS, f"{head}.{payload}.{sign}", "signature") for sign in spelled],
        ("the header in another spelling", HS, f"{head[:-1]}{other_spellings(head)[0]}.{payload}.{sign}", "header"),
    ]


def other_spellings(part: str) -> list[str]:
    """The characters that could stand last in a base64url part without changing a bit of what it decodes to."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    raw = tokens.unb64(part)
    return [last for last in alphabet if last != part[-1] and tokens.unb64(part[:-1] + last) == raw]


CASES: list[Case] = [
    *missing_claims(), *wrong_texts(), *wrong_times(), *wrong_rights(), *wrong_payloads(), *wrong_headers(),
    *unsigned(), *confused(), *wrong_signatures(), *wrong_shapes(),
]  # fmt: skip
TEXTS = [case for case in CASES if isinstance(case[2], str)]
VERIFIERS: dict[tuple[Alg, ...], TokenVerifier] = {algs: tokens.verifier(*algs) for algs in (HS, RS, ES, ALGS)}


@pytest.mark.parametrize(("algs", "hostile", "reason"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_hostile_token_is_refused(algs: tuple[Alg, ...], hostile: Any, reason: str) -> None:
    with pytest.raises(Unauthorized) as refused:
        VERIFIERS[algs].verify(hostile, NOW)
    assert refused.value.reason == reason
    assert str(refused.value) == REFUSED_TEXT
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None


@pytest.mark.parametrize(("algs", "hostile"), [case[1:3] for case in TEXTS], ids=[case[0] for case in TEXTS])
def test_a_hostile_token_is_refused_as_bytes_too(algs: tuple[Alg, ...], hostile: str) -> None:
    with pytest.raises(Unauthorized, match=f"^{REFUSED_TEXT}$"):
        VERIFIERS[algs].verify(hostile.encode("utf-8", "surrogatepass"), NOW)


def test_the_table_is_large_and_touches_every_cause() -> None:
    distinct = {(algs, repr(hostile)) for _, algs, hostile, _ in CASES}
    assert len(distinct) >= 50
    causes = Counter(reason for *_, reason in CASES)
    # These need more than a token: test_auth.py has them, test_tokens.py the tickets.
    assert set(causes) == REASONS - {"revoked", "internal", "transport", "ticket"}


@pytest.mark.parametrize("alg", ALGS)
def test_what_the_table_bends_is_good_when_straight(alg: Alg) -> None:
    for algs in ((alg,), ALGS):
        assert VERIFIERS[algs].verify(token(alg), NOW).subject == "alice"


def parts_of(text: str) -> list[str]:
    """Every stretch of 12 characters: enough to be no accident, short enough to see a cut-off token."""
    return [text[start : start + 12] for start in range(len(text) - 11)]


def shown_by(caplog: pytest.LogCaptureFixture, *objects: object) -> str:
    records = [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    return "\n".join([*records, *map(repr, objects), *map(str, objects)])


@pytest.mark.parametrize("alg", ALGS)
def test_no_part_of_a_token_is_shown(alg: Alg, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    judge = VERIFIERS[(alg,)]
    canary = token(alg, payload=claims(jti="canary"))
    broken = [
        canary[:-4] + "AAAA",
        canary + "!!",
        canary.replace(".", ".A", 1),
        token(alg, payload=claims(exp=NOW - 90)),
    ]
    principal = judge.verify(canary, NOW)
    shown = [shown_by(caplog, principal, judge, principal.caps)]
    for bad in broken:
        with pytest.raises(Unauthorized) as refused:
            judge.verify(bad, NOW)
        story = "".join(traceback.format_exception(refused.value))
        shown.append(shown_by(caplog, refused.value, refused.value.reason, refused.value.args, story))
    haystack = "\n".join(shown)
    assert "alice" in haystack
    assert not [part for bad in (canary, *broken) for part in parts_of(bad) if part in haystack]


def test_the_canary_would_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    canary = token()
    logging.getLogger("jose").debug("verifying %s...", canary[30:50])
    assert [part for part in parts_of(canary) if part in shown_by(caplog)]
