"""`pushwire conn … | revoke | backup | db check`: who is there, who may no longer be, and the file.

Owns words and tables. `db check` is the only one that needs no gateway, and opens the file so that it cannot be
written.
"""

from __future__ import annotations

import click

import pushwire

from .base import EXIT_CONFIG, EXIT_FAILED, administer, administer_one, fail, output_option, show_rows
from .base import token_option as token
from .base import url_option as url

COLUMNS = {
    "ID": "id",
    "SUBJECT": "subject",
    "ADDRESS": "ip",
    "SINCE": "opened_at_ms",
    "IN FLIGHT": "in_flight",
    "BYTES": "in_flight_bytes",
    "UNSENT": "unsent_bytes",
    "TAILS": "tails",
}


@click.group()
def conn() -> None:
    """Connections: list, end."""


@conn.command("ls")
@url
@token
@output_option
def conn_ls(url: str, token: str, output: str) -> None:
    """The WebSockets of the tenant."""

    async def work(admin: pushwire.Admin) -> None:
        show_rows(output, [row async for row in admin.connections()], COLUMNS)

    administer(url, token, work)


@conn.command("kick")
@url
@token
@click.argument("id")
def conn_kick(url: str, token: str, id: str) -> None:
    """End a connection and tell its client not to come back. Its leases go back at once. It does not end its token:
    see revoke."""
    administer(url, token, lambda admin: admin.kick(id))


@click.command()
@url
@token
@output_option
@click.option("--jti", help="this one token")
@click.option("--sub", "subject", help="every token of this subject that was issued up to now")
@click.option("--before", "issued_before_s", type=click.IntRange(0), help="with --sub: issued before this Unix second")
def revoke(
    url: str, token: str, output: str, jti: str | None, subject: str | None, issued_before_s: int | None
) -> None:
    """Accept a token, or the tokens of a subject, no longer. In force at once, on open connections too."""
    if (jti is None) == (subject is None) or (jti is not None and issued_before_s is not None):
        raise click.UsageError("give --jti, or --sub and perhaps --before")

    administer_one(
        url, token, output, lambda admin: admin.revoke(jti=jti, subject=subject, issued_before_s=issued_before_s)
    )


@click.command()
@url
@token
@click.argument("path")
def backup(url: str, token: str, path: str) -> None:
    """Copy the database of a running gateway to a new file PATH in its backup directory."""

    async def work(admin: pushwire.Admin) -> None:
        click.echo(await admin.backup(path))

    administer(url, token, work)


@click.group()
def db() -> None:
    """The database file."""


@db.command("check")
@click.argument("path", type=click.Path(exists=True))
def db_check(path: str) -> None:
    """Look for damage in the database at PATH (a gateway's data directory, or a backup). Writes nothing."""
    from pushwire_storage.base import StoreError, StoreRefused
    from pushwire_storage.offline import open_for_check

    try:
        faults = open_for_check(path)
    except StoreRefused as exc:
        fail(str(exc), EXIT_CONFIG)
    except StoreError as exc:
        fail(str(exc), EXIT_FAILED)
    for fault in faults:
        click.echo(fault)
    if faults:
        fail(f"{len(faults)} faults found", EXIT_FAILED)
    click.echo("no faults found")
