"""`python -m pushwire_gateway`, and the command `pushwire`: the command line, where its extra is installed."""

from __future__ import annotations

import os
import sys

EXIT_CONFIG = 3
STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""By descriptor."""


def keep_streams() -> None:
    """Whoever starts a program may have closed its standard streams. The next files to be opened would get their
    numbers: what a library says last would be written into one of them, and uvloop aborts when it is to close one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < len(STREAMS):
        pass
    os.close(descriptor)
    for number, (name, mode) in enumerate(STREAMS):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def main() -> None:
    """Run the command line, or say what it needs: a client alone is installed without it."""
    keep_streams()
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
