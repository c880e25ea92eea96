"""Thousands of small changes to good tokens: none verifies, unless it says the same with the same signature."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest

from pushwire_gateway.auth import REFUSED_TEXT, TokenVerifier, Unauthorized
from pushwire_gateway.key_material import Alg
from pushwire_gateway.rights import Principal
from support.tokens import ALGS, NOW, b64, claims, token, unb64, verifier

MUTATIONS = 5_000  # for each algorithm
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
ODD = "=.+/ !%,\t\r\n\0\x7f\x80\u00e9\u0130\u2028\uff21\ud800\U0001f511"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# What a change can run into; `internal` would be a stumble, and claims are not read without a good signature.
REFUSALS = {"malformed", "header", "typ", "kid", "algorithm", "signature"}

Mutation = Callable[[random.Random, str, list[str]], str]


@cache
def pool(alg: Alg) -> list[str]:
    rights = [{"topics": ["*"], "allow": ["admin"]}]
    return [token(alg, payload=claims(sub=f"user-{number}", jti=f"jti-{number}", caps=rights)) for number in range(8)]


def flip_bit(rng: random.Random, text: str, _: list[str]) -> str:
    raw = bytearray(text.encode("utf-8", "surrogatepass"))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return raw.decode("latin-1")


def replace(rng: random.Random, text: str, _: list[str]) -> str:
    at = rng.randrange(len(text))
    return text[:at] + rng.choice(ALPHABET) + text[at + 1 :]


def insert(rng: random.Random, text: str, _: list[str]) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(ALPHABET + ODD) + text[at:]


def delete(rng: random.Random, text: str, _: list[str]) -> str:
    at = rng.randrange(len(text))
    return text[:at] + text[at + rng.choice([1, 1, 1, 2, 4, 40]) :]


def cut(rng: random.Random, text: str, _: list[str]) -> str:
    start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[start:end]


def repeat(rng: random.Random, text: str, _: list[str]) -> str:
    start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
    return text[:end] + text[start:]


def exchange(rng: random.Random, text: str, _: list[str]) -> str:
    at = rng.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def mix_parts(rng: random.Random, text: str, others: list[str]) -> str:
    """Parts of several good tokens, of this algorithm and of the others, in any order."""
    parts = [part for other in (text, rng.choice(others), rng.choice(others)) for part in other.split(".")]
    return ".".join(rng.sample(parts, rng.choice([2, 3, 3, 3, 3, 4, 5])))


def other_signature(rng: random.Random, text: str, others: list[str]) -> str:
    head, payload, _ = text.split(".")
    return f"{head}.{payload}.{rng.choice(others).split('.')[2]}"


def last_character(rng: random.Random, text: str, _: list[str]) -> str:
    return text[:-1] + rng.choice(ALPHABET)


def flip_signature_bit(rng: random.Random, text: str, _: list[str]) -> str:
    head, payload, signature = text.split(".")
    raw = bytearray(unb64(signature))
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return f"{head}.{payload}.{b64(bytes(raw))}"


def edit_json(rng: random.Random, part: str, edits: list[dict[str, object]]) -> str:
    """Decode a part, change a field or only the spacing and order, and encode it again."""
    value = json.loads(unb64(part))
    if rng.random() < 0.2:
        return b64(json.dumps(dict(reversed(value.items())), indent=rng.choice([None, 1])).encode())
    if rng.random() < 0.2:
        value.pop(rng.choice(list(value)))
    value.update(rng.choice(edits))
    return b64(json.dumps(value, separators=(",", ":")).encode())


HEADER_EDITS: list[dict[str, object]] = [
    {}, {"alg": "none"}, {"alg": "HS256"}, {"alg": "RS256"}, {"alg": "ES256"}, {"alg": None}, {"alg": "HS512"},
    {"typ": "at+jwt"}, {"typ": "JWS"}, {"typ": 1}, {"kid": "HS256"}, {"kid": "RS256"}, {"kid": "ES256"}, {"kid": ""},
    {"kid": ["HS256"]}, {"crit": []}, {"jku": "https://evil.example"}, {"b64": False}, {"x": "\ud800"},
]  # fmt: skip
CLAIM_EDITS: list[dict[str, object]] = [
    {"sub": "root"}, {"exp": NOW + 3000}, {"exp": 10**200}, {"exp": 1e300}, {"iat": NOW}, {"aud": ["x"]}, {"jti": "z"},
    {"tenant": "other"}, {"caps": []}, {"caps": [{"topics": ["*"], "allow": ["publish"]}]}, {"nbf": True}, {"n": None},
]  # fmt: skip


def edit_header(rng: random.Random, text: str, _: list[str]) -> str:
    head, payload, signature = text.split(".")
    return f"{edit_json(rng, head, HEADER_EDITS)}.{payload}.{signature}"


def edit_claims(rng: random.Random, text: str, _: list[str]) -> str:
    head, payload, signature = text.split(".")
    return f"{head}.{edit_json(rng, payload, CLAIM_EDITS)}.{signature}"


KINDS: list[Mutation] = [
    flip_bit, replace, insert, delete, cut, repeat, exchange, mix_parts, other_signature, last_character,
    flip_signature_bit, edit_header, edit_claims,
]  # fmt: skip


def mutations(alg: Alg, rng: random.Random) -> list[tuple[str, str]]:
    """(kind, text), each different from every good token."""
    good = pool(alg)
    others = [text for each in ALGS for text in pool(each)]
    found: list[tuple[str, str]] = []
    while len(found) < MUTATIONS:
        kind = KINDS[len(found) % len(KINDS)]
        text = kind(rng, rng.choice(good), others)
        if rng.random() < 0.2:
            text = rng.choice(KINDS[:7])(rng, text, others) if len(text) > 1 else text
        if text not in others:
            found.append((kind.__name__, text))
    return found


def says_the_same(text: str, alg: Alg) -> str | None:
    """The good token with the same signed text and, read leniently, the same signature bytes."""
    signed, _, signature = text.rpartition(".")
    if not set(signature) <= set(ALPHABET) or len(signature) % 4 == 1:
        return None
    for good in pool(alg):
        good_signed, _, good_signature = good.rpartition(".")
        if signed == good_signed and unb64(signature) == unb64(good_signature):
            return good
    return None


def verdict(judge: TokenVerifier, text: str) -> Principal | str:
    """The principal, or why there is none."""
    try:
        return judge.verify(text, NOW)
    except Unauthorized as refused:
        return refused.reason if str(refused) == REFUSED_TEXT else f"another text: {refused}"


@pytest.mark.parametrize("alg", ALGS)
def test_no_mutation_verifies(alg: Alg) -> None:
    judge = verifier(*ALGS)
    reasons: Counter[str] = Counter()
    spellings = 0
    for kind, text in mutations(alg, random.Random(f"mutations of {alg}")):
        said = verdict(judge, text)
        assert said in REFUSALS, f"{kind}: {text!r}"
        reasons[str(said)] += 1
        spellings += says_the_same(text, alg) is not None
    assert reasons.total() == MUTATIONS
    # The changes reach every stage of the header and the signature, and no stage stumbles.
    assert set(reasons) == REFUSALS
    assert reasons["signature"] > MUTATIONS // 4
    # Other spellings of a good signature are among them, and refused as well.
    assert spellings > 0


@pytest.mark.parametrize("alg", ALGS)
def test_only_one_spelling_of_a_signature_verifies(alg: Alg) -> None:
    """The last character has 2 unused bits after an HMAC, 4 after the others: one of 4, one of 16 has them zero."""
    judge, good = verifier(alg), pool(alg)[0]
    same = [good[:-1] + last for last in ALPHABET if says_the_same(good[:-1] + last, alg) == good]
    assert len(same) == {"HS256": 4, "RS256": 16, "ES256": 16}[alg]
    said = {text: verdict(judge, text) for text in same}
    assert said.pop(good) == judge.verify(good, NOW)
    assert set(said.values()) == {"signature"}


def twin(text: str) -> str:
    """The second signature that ECDSA has for everything: (r, n - s). Anybody can compute it from the first."""
    head, payload, signature = text.split(".")
    raw = unb64(signature)
    s = P256_ORDER - int.from_bytes(raw[32:], "big")
    return f"{head}.{payload}.{b64(raw[:32] + s.to_bytes(32, 'big'))}"


def test_the_twin_of_an_ecdsa_signature_is_the_same_principal_and_is_revoked_with_it() -> None:
    good = pool("ES256")[0]
    assert twin(good) != good
    judge = verifier("ES256")
    principal = judge.verify(twin(good), NOW)
    assert isinstance(principal, Principal)
    assert principal == judge.verify(good, NOW)
    strict = verifier("ES256", revoked=lambda whose: whose.jti == principal.jti)
    for text in (good, twin(good)):
        with pytest.raises(Unauthorized) as refused:
            strict.verify(text, NOW)
        assert refused.value.reason == "revoked"
