"""Publish what stands on standard input, a message for each line; show the receipts. Owns no retry: the client has it.

    PUSHWIRE_URL=ws://127.0.0.1:8080 PUSHWIRE_TOKEN=... python publish.py orders < orders.jsonl

A line that is JSON is published as that value, any other as text. Ends with 1 when a message was refused.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from pushwire import BatchError, Client, PushwireError, Receipt, Text


def body(line: str) -> Any:
    """What a line says: its JSON value, or its text."""
    try:
        return json.loads(line)
    except ValueError:
        return Text(line)


def show(outcome: Receipt | PushwireError) -> None:
    """One line for one message."""
    if isinstance(outcome, PushwireError):
        print(f"refused: {outcome.code}: {outcome}", file=sys.stderr)
    else:
        print(f"{outcome.seq} {outcome.id}{' duplicate' if outcome.duplicate else ''}")


async def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="publish each line of standard input")
    parser.add_argument("topic")
    parser.add_argument("--url", default=os.environ.get("PUSHWIRE_URL", "ws://127.0.0.1:8080"))
    given = parser.parse_args()
    if not (token := os.environ.get("PUSHWIRE_TOKEN")):
        parser.error("PUSHWIRE_TOKEN is not set: it takes a token, as `pushwire token` makes")
    lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    async with Client(given.url, token, name="example publish") as client:
        try:
            outcomes: Any = await client.publish_many(given.topic, [body(line) for line in lines])
        except BatchError as exc:
            outcomes = exc.outcomes
    for outcome in outcomes:
        show(outcome)
    return int(any(isinstance(outcome, PushwireError) for outcome in outcomes))


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except PushwireError as exc:
        sys.exit(f"{exc.code}: {exc}")
    except ValueError as exc:
        sys.exit(str(exc))
