"""`python -m pushwire_gateway` is the `pushwire` command."""

from __future__ import annotations

from .cli import main

main()
