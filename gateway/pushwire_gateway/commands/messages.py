"""`pushwire publish | consume | tail`: messages, as lines of JSON.

Owns how a message is written and read on a terminal or in a pipe.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

import pushwire
from pushwire.wire import codec

from .base import (
    instant,
    interruptible,
    message_line,
    place,
    print_line,
    run_client,
    seconds,
    token_option,
    url_option,
)

CHUNK_MESSAGES = 1000
"""Published before the first of their receipts is printed: as many as one operation holds."""
COUNT_MAX = 1_000_000
"""Of `--count`: a topic's whole quota."""

SETTLE: dict[str, Callable[[pushwire.Message, str | None], object]] = {
    "ack": lambda message, _error: message.ack(),
    "nack": lambda message, error: message.nack(error=error),
    "reject": lambda message, error: message.reject(error),
    "hold": lambda _message, _error: None,  # they come back when the command ends
}


def body_of(text: str) -> Any:
    """What the user typed, as JSON where it is JSON, else as a string."""
    try:
        return codec.loads(text)
    except codec.BadJson:
        return text


def headers_of(given: tuple[str, ...]) -> dict[str, str]:
    """Raises BadParameter for what is not NAME:VALUE."""
    headers = dict(entry.split(":", 1) for entry in given if ":" in entry)
    if len(headers) != len(given):
        raise click.BadParameter("headers are NAME:VALUE, each name once")
    return headers


@click.command()
@url_option
@token_option
@click.argument("topic")
@click.argument("body", default="-")
@click.option("--id", "message_id", help="message id; the same id again stores nothing new")
@click.option("--key", help="ordering key")
@click.option("--priority", type=click.IntRange(0, 3), help="0 (lowest) to 3")
@click.option("-H", "--header", multiple=True, metavar="NAME:VALUE")
@click.option("--delay", callback=seconds, help="deliver it so much later, such as 10m")
@click.option("--at", callback=instant, help="deliver it not before this time (ISO 8601)")
@click.option("--ttl", callback=seconds, help="it expires so long after it became deliverable, such as 1d")
@click.option("--count", type=click.IntRange(1, COUNT_MAX), default=1, help="publish it so many times")
def publish(  # noqa: PLR0913 - click passes every option
    url: str,
    token: str,
    topic: str,
    body: str,
    message_id: str | None,
    key: str | None,
    priority: int | None,
    header: tuple[str, ...],
    delay: float | None,
    at: datetime | None,
    ttl: float | None,
    count: int,
) -> None:
    """Publish BODY, or each line of stdin with `-`. Prints a receipt a message, after its commit."""
    if message_id is not None and (body == "-" or count > 1):
        raise click.UsageError("--id names one message: give BODY, not the lines of stdin, and no --count")
    if delay is not None and at is not None:
        raise click.UsageError("--delay and --at exclude each other")
    bodies = [line.rstrip("\n") for line in sys.stdin] if body == "-" else [body]
    headers = headers_of(header) or None
    total = len(bodies) * count

    async def work() -> None:
        async with pushwire.Client(url, token=token) as client:
            for start in range(0, total, CHUNK_MESSAGES):
                part = (bodies[index // count] for index in range(start, min(start + CHUNK_MESSAGES, total)))
                items = [
                    pushwire.PublishItem(
                        body_of(text), message_id, key, priority, headers, delay_s=delay, deliver_at=at, ttl_s=ttl
                    )
                    for text in part
                ]
                await _publish(client, topic, items)

    run_client(work, token, f"publish:{topic}, and create:{topic} where the topic is new", creates=True)


async def _publish(client: pushwire.Client, topic: str, items: list[pushwire.PublishItem]) -> None:
    failed: pushwire.PushwireError | None = None
    receipts: list[pushwire.Receipt]
    try:
        receipts = await client.publish_many(topic, items)
    except pushwire.BatchError as exc:
        receipts = [outcome for outcome in exc.outcomes if isinstance(outcome, pushwire.Receipt)]
        alone = exc.outcomes[0]
        failed = exc if len(exc.outcomes) > 1 or isinstance(alone, pushwire.Receipt) else alone
    for receipt in receipts:
        print_line({"id": receipt.id, "seq": receipt.seq, "duplicate": receipt.duplicate})
    if failed is not None:
        raise failed


@click.command()
@url_option
@token_option
@click.argument("topic")
@click.option("--group", default="default", show_default=True)
@click.option("--from", "start", callback=place, help="where a new group begins: earliest, new, a seq or a time")
@click.option("-n", "count", type=click.IntRange(1), help="end after this many messages")
@click.option("--prefetch", type=click.IntRange(1, 1000), default=32, show_default=True)
@click.option(
    "--settle",
    type=click.Choice(tuple(SETTLE)),
    default="ack",
    show_default=True,
    help="what becomes of each once it is printed: done; tried again later; a dead letter; held until this ends",
)
@click.option("--error", help="why, for --settle nack and reject: kept with the dead letter")
def consume(
    url: str,
    token: str,
    topic: str,
    group: str,
    start: pushwire.Start | None,
    count: int | None,
    prefetch: int,
    settle: str,
    error: str | None,
) -> None:
    """Print each message as a line of JSON, and settle it once it is printed."""
    if error is not None and settle not in ("nack", "reject"):
        raise click.UsageError("--error is for --settle nack and reject")

    async def work() -> None:
        interruptible()
        async with (
            pushwire.Client(url, token=token) as client,
            client.subscribe(topic, group=group, prefetch=prefetch, start=start) as subscription,
        ):
            seen = 0
            async for message in subscription:
                print_line(message_line(message))
                SETTLE[settle](message, error)
                seen += 1
                if count is not None and seen >= count:
                    break

    needs = f"consume:{topic}@{group}, and create:{topic}@{group} where topic or group is new"
    run_client(work, token, needs, creates=True)


@click.command()
@url_option
@token_option
@click.argument("topic")
@click.option("--from", "start", callback=place, help="earliest, new (the default), a seq or a time")
@click.option("--after", metavar="EPOCH:SEQ", help="go on where a former tail stopped")
@click.option("-n", "count", type=click.IntRange(1), help="end after this many messages")
def tail(url: str, token: str, topic: str, start: pushwire.Start | None, after: str | None, count: int | None) -> None:
    """Print every message of a topic as a line of JSON, without taking it from anybody; what retention has dropped as
    {"gap": …}. Says on stderr where it stopped."""
    epoch, colon, seq = (after or "").rpartition(":")
    if after is not None and not (colon and seq.isdecimal()):
        raise click.BadParameter("--after is EPOCH:SEQ, as a former tail said")

    async def work() -> None:
        interruptible()
        async with (
            pushwire.Client(url, token=token) as client,
            client.tail(
                topic, from_=start, epoch=epoch or None, after_seq=int(seq) if after is not None else None
            ) as entries,
        ):
            try:
                await _print_tail(entries, count)
            finally:
                position = entries.position
                click.echo(f"pushwire: go on with --after {position.epoch}:{position.seq}", err=True)

    run_client(work, token, f"replay:{topic}, and create:{topic} where the topic is new", creates=True)


async def _print_tail(entries: pushwire.Tail, count: int | None) -> None:
    seen = 0
    async for entry in entries:
        if isinstance(entry, pushwire.Gap):
            print_line({"gap": {"topic": entry.topic, "from": entry.from_seq, "to": entry.to_seq}})
            continue
        print_line(message_line(entry))
        seen += 1
        if count is not None and seen >= count:
            break
