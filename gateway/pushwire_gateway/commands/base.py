"""What every client command shares: options, exit codes, durations and places as people write them, output.

Owns how errors become exit codes and how rows become a table or JSON. Talks to no gateway by itself.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import click

import pushwire
from pushwire.wire import codec

EXIT_FAILED, EXIT_USAGE, EXIT_CONFIG, EXIT_AUTH, EXIT_NOT_FOUND, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 130
EXITS = {
    "unauthorized": EXIT_AUTH,
    "forbidden": EXIT_AUTH,
    "topic_not_found": EXIT_NOT_FOUND,
    "group_not_found": EXIT_NOT_FOUND,
    "not_found": EXIT_NOT_FOUND,
}
DURATION = re.compile(r"(\d+)(ms|s|m|h|d)?")
UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, None: 1000}
DEFAULT_PRIORITY = 1
"""Not shown on the line of a message: what nobody chose is noise."""
CELL_CHARS_MAX = 60
"""Of one cell in a table: an error text must not push the rest off the screen. JSON shows the whole."""


def fail(message: str, code: int) -> NoReturn:
    """Say why on stderr and end with this exit code."""
    click.echo(f"pushwire: {message}", err=True)
    raise SystemExit(code)


url_option = click.option(
    "--url",
    envvar="PUSHWIRE_URL",
    show_envvar=True,
    default="http://127.0.0.1:8080",
    show_default=True,
    help="the gateway",
)
token_option = click.option(
    "--token", envvar="PUSHWIRE_TOKEN", show_envvar=True, required=True, help="a token, as `pushwire token` makes"
)
output_option = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True, help="how to show it"
)
yes_option = click.option("--yes", is_flag=True, help="do not ask")


# --- words of people -------------------------------------------------------------------------------------------


def milliseconds(text: str) -> int:
    """`250ms`, `90s`, `15m`, `1h`, `7d`. Raises BadParameter."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise click.BadParameter("use a number with ms, s, m, h or d, such as 15m")
    return int(found[1]) * UNIT_MS[found[2]]


def seconds(_context: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    """A duration as an option's value."""
    return None if text is None else milliseconds(text) / 1000


def instant(_context: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """A time in ISO 8601; without a zone, local."""
    if text is None:
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter("use ISO 8601, such as 2026-01-31T12:00:00Z") from None
    return when if when.tzinfo is not None else when.astimezone()


def place(context: click.Context, param: click.Parameter, text: str | None) -> pushwire.Start | None:
    """`earliest`, `new`, a seq, or a time."""
    if text is None:
        return None
    if text == "earliest":
        return "earliest"
    if text == "new":
        return "new"
    return int(text) if text.isdecimal() else instant(context, param, text)


# --- running ---------------------------------------------------------------------------------------------------


def run_client(work: Callable[[], Coroutine[Any, Any, None]], token: str, needs: str, *, creates: bool = False) -> None:
    """Run a client command and turn its errors into exit codes. `needs`: the right to name when the token lacks it.
    `creates`: with the right, the command would have made what does not exist."""
    logging.getLogger("pushwire").addFilter(_not_said_twice)
    try:
        asyncio.run(work())
    except pushwire.Unauthorized as exc:
        fail(f"{exc} ({token_trouble(token)})", EXIT_AUTH)
    except pushwire.PushwireError as exc:
        lacks = exc.code == "forbidden" or (creates and exc.code == "topic_not_found")
        hint = f" (it needs {needs})" if lacks else ""
        fail(str(exc) + hint, EXITS.get(exc.code, EXIT_FAILED))
    except ValueError as exc:  # what the SDK refuses before anything is sent
        fail(str(exc), EXIT_USAGE)
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit(EXIT_INTERRUPTED) from None


def _not_said_twice(record: logging.LogRecord) -> bool:
    """What closed the client is what the command ends with; the client need not say it too."""
    return not record.getMessage().startswith("closed: ")


def token_trouble(token: str) -> str:
    """What can be seen from outside of a token that was not accepted. Reads it, verifies nothing, quotes nothing."""
    from pushwire_gateway.clock import AnchoredClock

    try:
        payload = token.split(".")[1]
        claims = codec.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        late_s = int(AnchoredClock().now() - claims["exp"])
    except (IndexError, KeyError, TypeError, ValueError):
        return "it is no token: `pushwire token` makes one"
    if late_s > 0:
        return f"it expired {late_s} s ago: `pushwire token` makes a new one"
    return "was it revoked? Is it for this gateway: its key and kid, the audience, the issuer?"


def administer(url: str, token: str, work: Callable[[pushwire.Admin], Coroutine[Any, Any, None]]) -> None:
    """Run a command of the admin API."""

    async def inside() -> None:
        async with pushwire.Admin(url, token, name="cli") as admin:
            await work(admin)

    run_client(inside, token, "admin:*")


def administer_one(
    url: str, token: str, output: str, ask: Callable[[pushwire.Admin], Awaitable[Mapping[str, Any]]]
) -> None:
    """Run a command of the admin API that answers with one object, and show that."""

    async def work(admin: pushwire.Admin) -> None:
        show_one(output, await ask(admin))

    administer(url, token, work)


def interruptible() -> None:
    """SIGTERM ends a command that runs until it is stopped as Ctrl-C does. To be called in its task."""
    this = asyncio.current_task()
    assert this is not None  # a coroutine runs in one
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)


def confirm(what: str, yes: bool) -> None:
    """Go on only if the user means it: by --yes, or by a word on the terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{what}: there is nobody to ask; say --yes", EXIT_USAGE)
    click.confirm(f"{what}?", abort=True, err=True)


# --- output ----------------------------------------------------------------------------------------------------


def show_rows(output: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
    """Rows as a table of `columns` (heading -> field, with dots into objects), or as a JSON list of the whole."""
    if output == "json":
        click.echo(codec.pretty(list(rows)))
        return
    cells = [list(columns), *([_cell(row, path) for path in columns.values()] for row in rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    for line in cells:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


LABELS = {"ready": "ready in memory"}
"""Of fields whose names alone mislead whoever reads them: a backlog waits on disk, and a bare 0 would deny it."""


def show_one(output: str, value: Mapping[str, Any]) -> None:
    """One object: a line a field, or JSON."""
    if output == "json":
        click.echo(codec.pretty(value))
        return
    labels = [LABELS.get(name, name) for name in value]
    width = max(map(len, labels))
    for name, label in zip(value, labels, strict=True):
        click.echo(f"{label.ljust(width)}  {_text(name, value[name])}")


def _cell(row: Mapping[str, Any], path: str) -> str:
    value: Any = row
    for name in path.split("."):
        value = value.get(name)
    text = _text(path, value)
    return text if len(text) <= CELL_CHARS_MAX else text[: CELL_CHARS_MAX - 1] + "…"


def _text(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("at_ms") and isinstance(value, int):
        return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds")
    if isinstance(value, str):
        # A name or an error text from elsewhere must not steer the terminal.
        return "".join(char if char.isprintable() else " " for char in value)
    return codec.dumps(value).decode()


def message_line(message: pushwire.Message | pushwire.TailMessage) -> dict[str, Any]:
    """What a message carries, as one line of JSON shows it."""
    fields: dict[str, Any] = {"topic": message.topic, "seq": message.seq, "id": message.id}
    if isinstance(message, pushwire.Message):
        fields |= {"attempt": message.attempt, "redelivered": message.redelivered}
    if message.redriven:
        fields["redriven"] = True
    if message.priority != DEFAULT_PRIORITY:
        fields["priority"] = message.priority
    if message.key is not None:
        fields["key"] = message.key
    if message.headers:
        fields["headers"] = dict(message.headers)
    try:
        fields["data"] = message.json()
    except ValueError:
        fields["data_b64"] = codec.b64encode(message.data)
    return fields


def print_line(fields: Mapping[str, Any]) -> None:
    """One line of JSON on stdout."""
    click.echo(codec.dumps(fields).decode())
