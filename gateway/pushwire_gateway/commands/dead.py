"""`pushwire dead …`: the dead letters of a topic.

Owns words and tables; how fast they are put back is the gateway's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from itertools import count
from typing import Any

import click

import pushwire

from .base import EXIT_FAILED, administer, confirm, fail, output_option, show_one, show_rows
from .base import token_option as token
from .base import url_option as url
from .base import yes_option as yes

COLUMNS = {
    "ID": "id",
    "GROUP": "group",
    "SEQ": "message.seq",
    "MESSAGE": "message.id",
    "REASON": "reason",
    "DELIVERIES": "deliveries",
    "FAILURES": "failures",
    "DIED": "at_ms",
    "ERROR": "error",
}
ATTEMPT_COLUMNS = {"AT": "at_ms", "HOW": "how", "SUBJECT": "subject", "ERROR": "error"}
REASONS = ("failures", "deliveries", "rejected", "expired", "corrupt")

Command = Callable[..., Any]


def matching(command: Command) -> Command:
    """The options that choose dead letters."""
    command = click.option("--key", help="with this ordering key")(command)
    command = click.option("--reason", type=click.Choice(REASONS), help="that died of this")(command)
    return click.option("--group", help="that died in this group")(command)


def chosen(ids: tuple[int, ...], match: dict[str, str | None], everything: bool) -> dict[str, Any]:
    """Which dead letters, for the SDK: exactly one way to say it, so that nothing happens to all by a slip."""
    ways = bool(ids) + any(match.values()) + everything
    if ways != 1:
        raise click.UsageError("choose dead letters by ids, by --group, --reason and --key, or by --all")
    return {"ids": list(ids)} if ids else match


def choosing(command: Command) -> Command:
    """The topic, and every way to say which of its dead letters: handed on as `which`."""

    @wraps(command)
    def run(
        ids: tuple[int, ...], group: str | None, reason: str | None, key: str | None, everything: bool, **rest: Any
    ) -> Any:
        match = {"group": group, "reason": reason, "key": key}
        return command(which=chosen(ids, match, everything), **rest)

    made: Command = matching(run)
    made = click.option("--all", "everything", is_flag=True, help="every dead letter of the topic")(made)
    made = click.argument("ids", nargs=-1, type=click.IntRange(1))(made)
    return click.argument("topic")(made)


@click.group()
def dead() -> None:
    """Dead letters: look, put back, throw away."""


@dead.command("ls")
@url
@token
@output_option
@click.argument("topic")
@matching
@click.option(
    "-n", "limit", type=click.IntRange(1), default=100, show_default=True, help="at most so many, oldest first"
)
def dead_ls(
    url: str, token: str, output: str, topic: str, group: str | None, reason: str | None, key: str | None, limit: int
) -> None:
    """Dead letters of a topic, oldest first."""

    async def work(admin: pushwire.Admin) -> None:
        letters = admin.dead_letters(topic, group=group, reason=reason, key=key)
        numbers = count(1)
        rows = []
        async for letter in letters:
            rows.append(letter)
            if next(numbers) == limit:
                break
        show_rows(output, rows, COLUMNS)

    administer(url, token, work)


@dead.command("show")
@url
@token
@output_option
@click.argument("topic")
@click.argument("id", type=click.IntRange(1))
def dead_show(url: str, token: str, output: str, topic: str, id: int) -> None:
    """One dead letter with its message and how its attempts ended."""

    async def work(admin: pushwire.Admin) -> None:
        letter = await admin.dead_letter(topic, id)
        if output == "json":
            show_one(output, letter)
            return
        show_one(output, {name: value for name, value in letter.items() if name not in ("message", "attempts")})
        click.echo()
        show_one(output, letter["message"])
        click.echo()
        show_rows(output, letter["attempts"], ATTEMPT_COLUMNS)

    administer(url, token, work)


def _letters(count: int) -> str:
    return f"{count} dead letter" if count == 1 else f"{count} dead letters"


@dead.command("redrive")
@url
@token
@choosing
def dead_redrive(url: str, token: str, topic: str, which: dict[str, Any]) -> None:
    """Put dead letters back into the groups they died in."""

    async def work(admin: pushwire.Admin) -> None:
        done = await admin.redrive(topic, **which)
        click.echo(f"{_letters(done.redriven)} put back")
        if done.stopped is not None:
            fail(f"stopped before the end: {done.stopped}", EXIT_FAILED)

    administer(url, token, work)


@dead.command("discard")
@url
@token
@yes
@choosing
def dead_discard(url: str, token: str, yes: bool, topic: str, which: dict[str, Any]) -> None:
    """Remove dead letters for good."""
    confirm(f"remove {'these' if any(which.values()) else 'all'} dead letters of {topic} for good", yes)

    async def work(admin: pushwire.Admin) -> None:
        click.echo(f"{_letters(await admin.discard(topic, **which))} removed")

    administer(url, token, work)
