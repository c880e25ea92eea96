"""A topic's configuration as text, and how it shapes the writer's decisions. It keeps nothing and reads no clock."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from .base import TopicConfig

DEFAULT = TopicConfig()


def dump(config: TopicConfig) -> str | None:
    """What differs from the defaults, as JSON; None: nothing does."""
    plain = asdict(DEFAULT)
    changed = {name: value for name, value in asdict(config).items() if value != plain[name]}
    return json.dumps(changed, sort_keys=True) if changed else None


def load(text: str | None) -> TopicConfig:
    """The configuration that `dump` wrote."""
    if text is None:
        return DEFAULT
    fields: dict[str, Any] = json.loads(text)
    if "weights" in fields:
        low, normal, high, highest = fields["weights"]
        fields["weights"] = (low, normal, high, highest)
    return TopicConfig(**fields)
