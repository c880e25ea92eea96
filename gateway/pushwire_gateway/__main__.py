"""`python -m pushwire_gateway`, and the command `pushwire`: the command line, where its extra is installed."""

from __future__ import annotations

import sys

EXIT_CONFIG = 3


def main() -> None:
    """Run the command line, or say what it needs: a client alone is installed without it."""
    try:
        from .cli import main as command_line  # noqa: PLC0415 - what it imports may be missing
    except ModuleNotFoundError as exc:
        if exc.name is not None and exc.name.startswith("pushwire"):
            raise
        sys.stderr.write(f"pushwire: no module {exc.name}: this command needs pip install 'pushwire[gateway]'\n")
        raise SystemExit(EXIT_CONFIG) from None
    command_line(prog_name="pushwire")


if __name__ == "__main__":
    main()
