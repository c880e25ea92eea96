"""The rate limits of a gateway by itself, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from pushwire_gateway.settings import Settings
from pushwire_gateway.throttle import Throttle

DEFAULTS = Settings.model_construct()  # no environment, no file
LIMITS = {name: getattr(DEFAULTS, name) for name in signature(Throttle).parameters if name in Settings.model_fields}


def default_throttle(clock: Callable[[], float], **limits: Any) -> Throttle:
    """The limits that the settings have by default, except these."""
    return Throttle(clock, **{**LIMITS, **limits})
