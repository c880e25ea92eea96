"""Rights: each verb against topics and groups, the pattern rule, the bounded memo and the --allow syntax."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushwire.wire.frames import NAME
from pushwire_gateway.rights import (
    MEMO_ENTRIES_MAX,
    VERBS,
    Cap,
    Limits,
    Principal,
    Verb,
    is_pattern,
    matches,
    merge_caps,
    parse_allow,
    parse_caps,
    parse_limits,
)
from pushwire_gateway.settings import ConfigError

EVERY_VERB: tuple[Verb, ...] = get_args(Verb)
TOPICS = ("orders", "orders.", "orders.eu", "orders.eu.new", "ordersx", "Orders.eu", "billing")
GROUPS = (None, "default", "billing", "billing.eu", "other")


def principal(*entries: dict[str, Any]) -> Principal:
    return Principal("acme", "alice", "iss", "jti", 0, 900, 30, parse_caps(list(entries)))


def cap(*allow: str, topics: tuple[str, ...] = ("orders.*",), groups: tuple[str, ...] | None = None) -> dict[str, Any]:
    entry: dict[str, Any] = {"topics": list(topics), "allow": list(allow)}
    return entry if groups is None else {**entry, "groups": list(groups)}


@pytest.mark.parametrize("granted", EVERY_VERB)
def test_one_verb_grants_itself_on_its_topics_and_groups_only(granted: Verb) -> None:
    """The whole matrix of one cap: 5 verbs x 7 topics x 5 groups."""
    holder = principal(cap(granted, groups=("billing.*", "billing")))
    for verb, topic, group in product(EVERY_VERB, TOPICS, GROUPS):
        topic_fits = topic in {"orders.eu", "orders.eu.new"}
        if verb == "consume":
            group_fits = group in {"billing", "billing.eu"}
        elif verb == "create":
            group_fits = group in {None, "billing", "billing.eu"}
        else:
            group_fits = True
        expected = verb == granted and topic_fits and group_fits
        assert holder.may(verb, topic, group) is expected, (verb, topic, group)
        assert holder.may(verb, topic, group) is expected, "from the memo"


def test_groups_default_to_the_group_default() -> None:
    holder = principal(cap("consume", "create"))
    assert [group for group in GROUPS if holder.may("consume", "orders.eu", group)] == ["default"]
    assert [group for group in GROUPS if holder.may("create", "orders.eu", group)] == [None, "default"]


def test_rights_of_two_caps_do_not_cross() -> None:
    holder = principal(
        cap("consume", topics=("a",), groups=("one",)),
        cap("consume", topics=("b",), groups=("two",)),
        cap("publish", topics=("c",)),
    )
    asked = product(EVERY_VERB, "abc", ("one", "two"))
    may = [(verb, topic, group) for verb, topic, group in asked if holder.may(verb, topic, group)]
    assert may == [("publish", "c", "one"), ("publish", "c", "two"), ("consume", "a", "one"), ("consume", "b", "two")]


def test_no_caps_grant_nothing() -> None:
    nobody = principal()
    topics = (None, "a", "*", "")
    assert not any(nobody.may(verb, topic, group) for verb, topic, group in product(EVERY_VERB, topics, GROUPS))


def test_an_operation_on_the_whole_tenant_needs_admin_on_every_topic() -> None:
    assert principal(cap("admin", topics=("*",))).may("admin", None)
    assert principal(cap("admin", topics=("a", "*"))).may("admin", None)
    assert not principal(cap("admin", topics=("orders.*",))).may("admin", None)
    everything = principal(cap(*EVERY_VERB, topics=("*",), groups=("*",)))
    assert [verb for verb in EVERY_VERB if everything.may(verb, None, "default")] == ["admin"]


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "a\n", "\u00e9", "a*", "*", "x" * 256, "a\0", "a@b"])
def test_a_name_that_cannot_exist_is_never_allowed(name: str) -> None:
    everything = principal(cap(*EVERY_VERB, topics=("*",), groups=("*",)))
    assert everything.may("consume", "a", "b")
    assert not any(everything.may(verb, name, "b") for verb in EVERY_VERB)
    assert not everything.may("consume", "a", name)
    assert not everything.may("create", "a", name)


def test_an_unknown_verb_is_never_allowed() -> None:
    everything = principal(cap(*EVERY_VERB, topics=("*",), groups=("*",)))
    unknown: Any = "delete"
    assert not everything.may(unknown, "a", "b")
    assert set(EVERY_VERB) == VERBS


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("orders", ["orders"], ["Orders", "orders.", "order", "orders.eu", ""]),
        (
            "orders.*",
            ["orders.e", "orders.eu.new", "orders..", "orders.*"],
            ["orders.", "orders", "xorders.e", "Orders.e"],
        ),
        ("ord*", ["order", "ord.er", "ordx"], ["ord", "or", "Order"]),
        ("*", ["a", "a.b", "*"], [""]),
        ("a.b", ["a.b"], ["axb", "a.bc"]),  # the dot is a dot
    ],
)
def test_the_pattern_rule(pattern: str, yes: list[str], no: list[str]) -> None:
    assert is_pattern(pattern)
    assert [name for name in (*yes, *no) if matches(pattern, name)] == yes


names = st.from_regex(NAME, fullmatch=True)


@given(names, names)
def test_a_prefix_matches_what_is_longer_and_a_name_matches_itself(prefix: str, rest: str) -> None:
    assert matches(prefix, prefix)
    assert matches(prefix + "*", prefix + rest)
    assert not matches(prefix + "*", prefix)
    assert matches(prefix, rest) is (prefix == rest)
    assert matches("*", rest)


@given(st.text("aZ9_.:-*?/ \n\u00e9", max_size=6))
def test_a_pattern_is_a_name_or_a_beginning_and_a_star(text: str) -> None:
    beginning, star = text.removesuffix("*"), text.endswith("*")
    legal = set(beginning) <= set("aZ9_.:-")
    assert is_pattern(text) is (legal if star else legal and text not in {"", ".", ".."})


def test_the_memo_is_bounded_and_never_changes_an_answer() -> None:
    holder = principal(cap("publish"), cap("consume", topics=("a",), groups=("g*",)))
    for number in range(MEMO_ENTRIES_MAX * 3):
        assert holder.may("publish", f"orders.{number}")
        assert not holder.may("publish", f"other.{number}")
        assert holder.may("consume", "a", f"g{number}")
        assert len(holder._memo) <= MEMO_ENTRIES_MAX
    assert holder.may("publish", "orders.0")


def test_the_memo_keeps_no_overlong_name() -> None:
    holder = principal(cap("publish", "consume", topics=("*",), groups=("*",)))
    for size in (256, 100_000):
        assert not holder.may("publish", "x" * size)
        assert not holder.may("consume", "a", "x" * size)
    assert holder._memo == {}
    assert holder.may("publish", "x" * 255)
    assert len(holder._memo) == 1


def test_the_memo_is_no_part_of_a_principal() -> None:
    first, second = principal(cap("publish")), principal(cap("publish"))
    assert first.may("publish", "orders.eu")
    assert first == second
    assert hash(first) == hash(second)
    assert repr(first) == repr(second)
    assert not second._memo


def test_a_principal_cannot_be_changed() -> None:
    holder = principal(cap("publish"))
    for name in ("tenant", "caps", "expires_at", "colour"):
        with pytest.raises((AttributeError, TypeError)):
            setattr(holder, name, "other")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("publish:orders.eu", Cap(("orders.eu",), ("default",), frozenset({"publish"}))),
        ("consume:orders.*@billing", Cap(("orders.*",), ("billing",), frozenset({"consume"}))),
        ("consume:*@*", Cap(("*",), ("*",), frozenset({"consume"}))),
        ("create:a:b@c:d", Cap(("a:b",), ("c:d",), frozenset({"create"}))),
        ("replay:a", Cap(("a",), ("default",), frozenset({"replay"}))),
        ("admin:*", Cap(("*",), ("default",), frozenset({"admin"}))),
    ],
)
def test_the_allow_syntax(text: str, expected: Cap) -> None:
    assert parse_allow(text) == expected
    assert parse_caps([expected.as_claim()]) == (expected,)


@pytest.mark.parametrize(
    "text",
    ["", "publish", "publish:", "delete:a", ":a", "Publish:a", "publish :a", "publish:a b", "publish:a*b", "publish:**",
     "consume:a@", "consume:@b", "consume:a@b@c", "consume:a@b/c", "publish:a@b", "replay:a@default", "admin:*@*",
     "publish,consume:a", "publish:a\n"],
)  # fmt: skip
def test_a_wrong_allow_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_allow(text)


def test_merged_caps_grant_exactly_what_each_granted() -> None:
    texts = ["publish:a", "consume:a", "consume:a@g", "create:a@g", "publish:b", "publish:a"]
    merged = parse_caps(merge_caps(map(parse_allow, texts)))
    assert len(merged) == 3
    joined = Principal("t", "s", "i", "j", 0, 1, 0, merged)
    alone = [Principal("t", "s", "i", "j", 0, 1, 0, (parse_allow(text),)) for text in texts]
    for verb, topic, group in product(EVERY_VERB, "abc", (None, "default", "g", "h")):
        assert joined.may(verb, topic, group) is any(each.may(verb, topic, group) for each in alone)


def test_limits_round_trip() -> None:
    for limits in (Limits(), Limits(1, 2, 3), Limits(prefetch=9)):
        assert parse_limits(limits.as_claim()) == limits
