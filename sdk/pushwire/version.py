"""The version, where both the package and its modules can read it; nothing else."""

from __future__ import annotations

__version__ = "0.1.0"
