"""What a client may do: the Principal behind a token, its caps, and the matching of names against them.

Owns the shape of the `caps` and `limits` claims, the pattern rule and the verdict `Principal.may`. Knows no JWT
library, no clock and no I/O, and must never grant anything that no cap names: every doubt ends in "no".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from pushwire.wire.frames import NAME
from pushwire_gateway.settings import ConfigError

Verb = Literal["publish", "consume", "create", "replay", "admin"]

VERBS: Final[frozenset[str]] = frozenset(get_args(Verb))

# Verbs whose right depends on the group as well. The others act on a whole topic and ignore the group.
GROUP_VERBS: Final[frozenset[str]] = frozenset({"consume", "create"})

DEFAULT_TENANT: Final = "default"
DEFAULT_GROUPS: Final = ("default",)

# What a name begins with, and a star. fullmatch only: `$` would let a trailing newline through.
PREFIX_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:-]{0,254}\*")

# A client names at most 128 subscriptions and rarely as many topics to publish to. An entry weighs up to 1 KiB
# with the longest names, so a hostile client that walks through names costs 256 KiB, not a gateway.
MEMO_ENTRIES_MAX: Final = 256

# Larger than any limit means anything, small enough for every counter it is compared with.
LIMIT_VALUE_MAX: Final = 2**31 - 1

_CAP_FIELDS: Final = frozenset({"topics", "groups", "allow"})


@dataclass(frozen=True, slots=True)
class Cap:
    """One entry of the `caps` claim: these verbs on every topic and group that the patterns match."""

    topics: tuple[str, ...]
    groups: tuple[str, ...]
    allow: frozenset[str]

    def as_claim(self) -> dict[str, list[str]]:
        """The JSON form that `parse_caps` reads back."""
        return {"topics": list(self.topics), "groups": list(self.groups), "allow": sorted(self.allow)}


@dataclass(frozen=True, slots=True)
class Limits:
    """The `limits` claim. None: the token says nothing, the gateway's default counts."""

    publish_per_s: int | None = None
    """Messages a second that the subject may publish."""
    prefetch: int | None = None
    """Messages that one subscription may hold."""
    connections: int | None = None
    """Connections that the subject may have open."""

    def as_claim(self) -> dict[str, int]:
        """The JSON form that `parse_limits` reads back, without the limits left open."""
        values = {name: getattr(self, name) for name in _LIMIT_NAMES}
        return {name: value for name, value in values.items() if value is not None}


_LIMIT_NAMES: Final = ("publish_per_s", "prefetch", "connections")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified token speaks for, until when, and with which rights. Times are wall-clock seconds."""

    tenant: str
    subject: str
    issuer: str
    jti: str
    issued_at: int
    expires_at: int
    leeway_s: float
    caps: tuple[Cap, ...]
    limits: Limits = Limits()
    _memo: dict[tuple[str, str | None, str | None], bool] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def valid_until(self) -> float:
        """The wall-clock second at which a live session of this principal ends: exp + leeway."""
        return self.expires_at + self.leeway_s

    def may(self, verb: Verb, topic: str | None, group: str | None = None) -> bool:
        """Whether a cap grants `verb` on this topic, and on this group where the verb depends on one.

        `consume` needs a group. `create` with a group is about creating that group, without one about the topic.
        `publish`, `replay` and `admin` ignore the group. `topic=None` asks for an operation on the whole tenant:
        only `admin` has such, and only a cap on topics `*` grants it. Bad names and unknown verbs get False.
        """
        if verb not in GROUP_VERBS:
            group = None
        question = (verb, topic, group)
        answer = self._memo.get(question)
        if answer is None:
            answer = self._judge(verb, topic, group)
            # An overlong name is refused anew each time rather than kept: it could be a whole frame in size.
            if max(len(topic or ""), len(group or "")) <= 255:
                self._remember(question, answer)
        return answer

    def _remember(self, question: tuple[str, str | None, str | None], answer: bool) -> None:
        if len(self._memo) >= MEMO_ENTRIES_MAX:
            # Starting over is right here: entries are cheap to win back, and an LRU order would cost every hit.
            self._memo.clear()
        self._memo[question] = answer

    def _judge(self, verb: str, topic: str | None, group: str | None) -> bool:
        if topic is None:
            return verb == "admin" and any(verb in cap.allow and "*" in cap.topics for cap in self.caps)
        if not NAME.fullmatch(topic) or (group is not None and not NAME.fullmatch(group)):
            return False
        if verb == "consume" and group is None:
            return False
        return any(
            verb in cap.allow
            and any(matches(pattern, topic) for pattern in cap.topics)
            and (group is None or any(matches(pattern, group) for pattern in cap.groups))
            for cap in self.caps
        )


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern covers a name: the same name, or `prefix*` and at least one character after the prefix.

    >>> matches("orders.*", "orders.eu.new"), matches("orders.*", "orders."), matches("*", "anything")
    (True, False, True)
    """
    if pattern.endswith("*"):
        prefix = pattern[:-1]
        return len(name) > len(prefix) and name.startswith(prefix)
    return pattern == name


def is_pattern(text: str) -> bool:
    """Whether a text is a pattern: a whole name, or a name's beginning (maybe empty) and one `*` at the end."""
    return bool(NAME.fullmatch(text) or PREFIX_PATTERN.fullmatch(text))


def parse_caps(claim: object) -> tuple[Cap, ...]:
    """Read the `caps` claim. Raises ValueError on anything unexpected, even beside entries that are right.

    Strict because a right that we misread would be a right granted by mistake. A count limit is not needed: the
    length of a token (4,096 characters) bounds the patterns to some hundreds.
    """
    if type(claim) is not list:
        raise ValueError("caps is not a list")
    caps = tuple(_parse_cap(entry) for entry in claim)
    if len(set(caps)) != len(caps):
        raise ValueError("caps has an entry twice")
    return caps


def _parse_cap(entry: object) -> Cap:
    if type(entry) is not dict or not set(entry) <= _CAP_FIELDS:
        raise ValueError("a cap is not an object of topics, groups and allow")
    allow = _parse_strings(entry.get("allow"))
    if not VERBS.issuperset(allow):
        raise ValueError("allow has an unknown verb")
    topics = _parse_strings(entry.get("topics"))
    groups = _parse_strings(entry["groups"]) if "groups" in entry else DEFAULT_GROUPS
    if not all(is_pattern(pattern) for pattern in (*topics, *groups)):
        raise ValueError("a pattern is neither a name nor a name's beginning and `*`")
    return Cap(topics, groups, frozenset(allow))


def _parse_strings(value: object) -> tuple[str, ...]:
    """A non-empty JSON list of different strings."""
    if type(value) is not list or not value or not all(type(item) is str for item in value):
        raise ValueError("not a list of strings with at least one item")
    if len(set(value)) != len(value):
        raise ValueError("a list has an item twice")
    return tuple(value)


def parse_limits(claim: object) -> Limits:
    """Read the `limits` claim. Raises ValueError on an unknown limit: one we cannot keep must not be dropped."""
    if type(claim) is not dict or not set(claim) <= set(_LIMIT_NAMES):
        raise ValueError("limits is not an object of known limits")
    for value in claim.values():
        if type(value) is not int or not 1 <= value <= LIMIT_VALUE_MAX:
            raise ValueError("a limit is not a positive integer")
    return Limits(**claim)


def parse_allow(text: str) -> Cap:
    """Read one `verb:topic-pattern[@group-pattern]`, as in `consume:orders.*@billing`. Raises ConfigError.

    Without `@` the group is `default`. Only `consume` and `create` depend on a group, so the others refuse one:
    it would look like a restriction and be none.
    """
    verb, colon, rest = text.partition(":")
    topic, at, group = rest.partition("@")
    if not colon or verb not in VERBS:
        raise ConfigError(f"{text!r} must begin with one of {', '.join(sorted(VERBS))} and a colon")
    if at and verb not in GROUP_VERBS:
        raise ConfigError(f"{text!r}: {verb} is a right on topics and takes no group")
    groups = (group,) if at else DEFAULT_GROUPS
    for pattern in (topic, *groups):
        if not is_pattern(pattern):
            raise ConfigError(f"{text!r}: {pattern!r} is neither a name nor a name's beginning and `*`")
    return Cap((topic,), groups, frozenset({verb}))


def merge_caps(caps: Iterable[Cap]) -> list[dict[str, list[str]]]:
    """The shortest `caps` claim with exactly these rights that joins verbs only: one entry per patterns."""
    verbs: dict[tuple[tuple[str, ...], tuple[str, ...]], frozenset[str]] = {}
    for cap in caps:
        place = (cap.topics, cap.groups)
        verbs[place] = verbs.get(place, frozenset()) | cap.allow
    return [Cap(topics, groups, allow).as_claim() for (topics, groups), allow in verbs.items()]


def parse_tenant(claims: Mapping[str, object]) -> str:
    """The token's tenant, `default` when it names none. Raises ValueError on a tenant that is not a name."""
    tenant = claims.get("tenant", DEFAULT_TENANT)
    if type(tenant) is not str or not NAME.fullmatch(tenant):
        raise ValueError("tenant is not a name")
    return tenant
