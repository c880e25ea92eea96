"""The Python SDK of pushwire; it knows the wire, and neither the gateway nor the stores."""

from __future__ import annotations

__version__ = "0.1.0"
