"""A topic's configuration as people write it: what may be set, within which bounds, and how it is shown.

Owns the validation of `TopicConfig`; the defaults behind its Nones are the settings'. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from pushwire.wire.decode import ACK_TIMEOUT_MS_MAX, ACK_TIMEOUT_MS_MIN
from pushwire_storage.base import PRIORITIES, TopicConfig

from .refusal import Refusal, Refused

AGE_MS_MAX = 10 * 366 * 24 * 3600 * 1000
"""Ten years: beyond it a number is a mistake."""
WEIGHT_MAX = 1000
"""Of a priority. A lane's share is its weight by the sum of all, so that larger numbers say nothing more."""

Check = Callable[[Any], Any]


def _integer(low: int, high: int, *, optional: bool) -> Check:
    def check(value: Any) -> Any:
        if value is None and optional:
            return None
        if type(value) is int and low <= value <= high:
            return value
        raise ValueError(f"must be an integer from {low} to {high}")

    return check


def _flag(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError("must be true or false")


def _one_of(*choices: str) -> Check:
    def check(value: Any) -> Any:
        if value in choices:
            return value
        raise ValueError(f"must be one of {', '.join(choices)}")

    return check


def _weights(value: Any) -> tuple[int, ...]:
    weights = value if type(value) in (list, tuple) else ()
    if len(weights) == PRIORITIES and all(type(item) is int and 1 <= item <= WEIGHT_MAX for item in weights):
        return tuple(weights)
    raise ValueError(f"must be {PRIORITIES} integers from 1 to {WEIGHT_MAX}, of priority 0 to {PRIORITIES - 1}")


_CHECKS: dict[str, Check] = {
    "ack_timeout_ms": _integer(ACK_TIMEOUT_MS_MIN, ACK_TIMEOUT_MS_MAX, optional=True),
    "max_failures": _integer(1, 1000, optional=True),
    "max_deliveries": _integer(1, 10_000, optional=True),
    "weights": _weights,
    "strict": _flag,
    "retain_ms": _integer(0, AGE_MS_MAX, optional=False),
    "max_age_ms": _integer(0, AGE_MS_MAX, optional=False),
    "retain_bytes": _integer(1, 1024**4, optional=True),
    "quota_messages": _integer(1, 1_000_000_000, optional=True),
    "quota_bytes": _integer(64 * 1024, 1024**4, optional=True),
    "expired": _one_of("dead", "drop"),
    "ledger": _one_of("off", "settled", "full"),
    "dedupe": _flag,
}
"""Every field of TopicConfig. None, where it is allowed: as the gateway's settings say."""


def changed(config: TopicConfig, wanted: Mapping[str, Any]) -> TopicConfig:
    """The configuration with these fields set. Raises Refused, `bad_config`, naming the field and what it takes."""
    values: dict[str, Any] = {}
    for name, value in wanted.items():
        check = _CHECKS.get(name)
        if check is None:
            raise Refused(Refusal("bad_config", f"{name[:64]!r} is no field of it"))
        try:
            values[name] = check(value)
        except ValueError as error:
            raise Refused(Refusal("bad_config", f"{name} {error}")) from None
    made = replace(config, **values)
    if 0 < made.max_age_ms < made.retain_ms:
        raise Refused(Refusal("bad_config", "retain_ms is above max_age_ms"))
    return made


def shown(config: TopicConfig) -> dict[str, Any]:
    """The configuration as `changed` takes it."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    return {**values, "weights": list(config.weights)}
