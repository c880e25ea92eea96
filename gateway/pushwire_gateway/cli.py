"""The command line: `pushwire serve | token | check-config`, and the client commands of `commands`.

Owns words, flags and exit codes: 0 ok, 1 failed, 2 usage, 3 configuration or start-up, 4 not allowed, 5 not found,
130 interrupted. Data goes to stdout, everything else to stderr. The heavy parts are imported by the command that
needs them.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import pushwire
from pushwire.wire import codec

from .commands import care, dead, messages, topics
from .commands.base import EXIT_CONFIG, fail, seconds

if TYPE_CHECKING:
    from .rights import Limits
    from .settings import Settings

SECRET_FILE = "dev-secret"  # noqa: S105 - a file name
DEV_DATA = "./pushwire-dev"
BACKUPS = "backups"
"""The folder in it that `pushwire backup` writes to."""
DEV_TTL_S = 3600
DEV_RIGHTS = ("publish:*", "consume:*@*", "create:*@*", "replay:*", "admin:*")


def load_settings(config: Path | None, **flags: Any) -> Settings:
    """Settings, or exit code 3 with the reason."""
    from . import settings

    try:
        return settings.load(config, **flags)
    except settings.ConfigError as exc:
        fail(str(exc), EXIT_CONFIG)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(pushwire.__version__, message="pushwire %(version)s, protocol pushwire.v1")
def main() -> None:
    """A durable message queue that speaks WebSocket."""


config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="PUSHWIRE_CONFIG",
    help="TOML file; environment and flags override it",
)


# --- serve -----------------------------------------------------------------------------------------------------


def dev_secret(data: Path) -> bytes:
    """The random secret of a development gateway, made once and kept beside its database (0600), so that tokens
    outlive a restart."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data / SECRET_FILE
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes().strip()
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_urlsafe(48).encode())
    return path.read_bytes()


def dev_flags(data: str | None) -> dict[str, Any]:
    """What `--dev` changes: a secret of its own, loopback only, copies beside the database."""
    folder = data or DEV_DATA
    flags: dict[str, Any] = {"data": folder, "host": "127.0.0.1"}
    if folder == "memory:":
        secret = secrets.token_urlsafe(48).encode()
    else:
        try:
            secret = dev_secret(Path(folder))
            flags["backup_dir"] = Path(folder) / BACKUPS
            flags["backup_dir"].mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            fail(f"cannot use the directory {folder}: {exc.strerror}", EXIT_CONFIG)
    return flags | {"keys": [{"kid": "dev", "alg": "HS256", "secret": secret.decode()}]}


def dev_token(settings: Settings) -> str:
    """A token that may do everything, for one hour."""
    return sign(settings, "dev", DEV_RIGHTS, DEV_TTL_S, "default")


@main.command()
@config_option
@click.option("--dev", is_flag=True, help="insecure: loopback only, a secret of its own, prints a token")
@click.option("--host", help="address to bind")
@click.option("--port", type=int, help="port to bind; 0 takes a free one")
@click.option("--data", help="directory of the database, or memory:")
@click.option("--ready-file", type=click.Path(path_type=Path), help="written as JSON once the gateway is ready")
def serve(
    config: Path | None, dev: bool, host: str | None, port: int | None, data: str | None, ready_file: Path | None
) -> None:
    """Run the gateway until SIGTERM."""
    from . import log, settings
    from .server import serve as run

    if dev and host not in (None, "127.0.0.1", "::1", "localhost"):
        fail("--dev binds to loopback only", EXIT_CONFIG)
    flags: dict[str, Any] = dev_flags(data) if dev else {"host": host, "data": data}
    chosen = load_settings(config, port=port, **flags)
    for name in settings.unknown_env():
        click.echo(f"pushwire: warning: {name} is no setting", err=True)
    if not chosen.keys:
        fail("no keys: tokens cannot be verified (set keys in the configuration, or use --dev)", EXIT_CONFIG)
    log.configure(chosen)

    def ready(server: Any) -> None:
        if dev:
            click.echo(_welcome(server.url, dev_token(chosen)))
        if ready_file is not None:
            _write_ready(ready_file, server.url)

    raise SystemExit(_serve(run(chosen, ready)))


def _serve(running: Coroutine[Any, Any, int]) -> int:
    from pushwire_storage.base import StoreError

    from .settings import ConfigError

    try:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(running)
    except (StoreError, ConfigError) as exc:
        fail(str(exc), EXIT_CONFIG)
    except OSError as exc:
        fail(f"cannot start: {exc.strerror or exc}", EXIT_CONFIG)


def _write_ready(path: Path, url: str) -> None:
    """Write it whole or not at all: whoever waits for the file must never read half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(codec.dumps({"url": url, "port": int(url.rsplit(":", 1)[1]), "pid": os.getpid()}))
    partial.replace(path)


def _command() -> str:
    """What a shell must be given to find this command."""
    beside = Path(sys.executable).with_name("pushwire")
    if shutil.which("pushwire") is not None or not beside.exists():
        return "pushwire"
    here = Path.cwd()
    return shlex.quote(str(beside.relative_to(here) if beside.is_relative_to(here) else beside))


def _welcome(url: str, token: str) -> str:
    from pushwire_web import static_dir

    page = "not built into this gateway: `make web`" if static_dir() is None else f"{url}/#token={token}"
    return f"""
pushwire is running (development mode: loopback only, this token may do everything)

  URL    {url}
  token  {token}

  dashboard  {page}

Subscribe in another terminal:

  export PUSHWIRE_URL={url} PUSHWIRE_TOKEN={token}
  {_command()} consume orders

and publish:

  curl -sS {url}/v1/topics/orders/messages -H 'Authorization: Bearer {token}' \\
       -H 'Content-Type: application/json' -d '{{"data": {{"hello": "world"}}}}'
"""


@main.command("check-config")
@config_option
@click.option("--strict", is_flag=True, help="unknown PUSHWIRE_* variables are errors, not warnings")
def check_config(config: Path | None, strict: bool) -> None:
    """Read the configuration as `serve` would, and show what is in force (secrets hidden)."""
    from . import settings
    from .listener import tls_context
    from .tokens import make_verifier

    chosen = load_settings(config)
    unknown = settings.unknown_env()
    for name in unknown:
        click.echo(f"pushwire: {name} is no setting", err=True)
    try:
        tls_context(chosen)
        if chosen.keys:
            make_verifier(chosen)
        else:
            click.echo("pushwire: no keys: serve will not start without", err=True)
    except settings.ConfigError as exc:
        fail(str(exc), EXIT_CONFIG)
    click.echo(codec.pretty(chosen.model_dump(mode="json")))
    if not chosen.keys or (strict and unknown):
        raise SystemExit(EXIT_CONFIG)


# --- token -----------------------------------------------------------------------------------------------------


def sign(
    settings: Settings,
    subject: str,
    allow: tuple[str, ...],
    ttl_s: int,
    tenant: str,
    limits: Limits | None = None,
) -> str:
    """A token signed with the first HS256 key of the settings. Raises ConfigError."""
    from .auth import SigningKey, sign_token
    from .clock import AnchoredClock
    from .settings import ConfigError

    key = next((key for key in settings.keys if key.alg == "HS256"), None)
    if key is None:
        raise ConfigError(
            "no HS256 key to sign with (--config names a file that has one, --dev takes the development gateway's); "
            "RS256 and ES256 tokens come from whoever holds the private key"
        )
    if ttl_s > settings.token_lifetime_s_max:
        raise ConfigError(
            f"a gateway with these settings takes no token that lives {ttl_s} s: "
            f"token_lifetime_s_max is {settings.token_lifetime_s_max}"
        )
    return sign_token(
        SigningKey(key.kid, key.alg, key.material()),
        subject=subject,
        audience=settings.audience,
        issuer=settings.issuer,
        now=AnchoredClock().now(),
        allow=allow,
        tenant=tenant,
        ttl_s=ttl_s,
        limits=limits,
    )


@main.command()
@config_option
@click.option("--sub", "subject", required=True, help="who the token is for")
@click.option("--allow", multiple=True, metavar="VERB:TOPIC[@GROUP]", help="a right, such as consume:orders.*@billing")
@click.option("--ttl", "ttl_s", default="15m", show_default=True, callback=seconds, help="how long it lives")
@click.option("--tenant", default="default", show_default=True)
@click.option("--dev", is_flag=True, help="sign with the secret of `serve --dev`")
@click.option("--data", help="with --dev: its directory")
def token(
    config: Path | None, subject: str, allow: tuple[str, ...], ttl_s: float, tenant: str, dev: bool, data: str | None
) -> None:
    """Make a token, signed with the HS256 key of the configuration."""
    from .settings import ConfigError

    flags = dev_flags(data) if dev else {}
    if not allow:
        click.echo("pushwire: warning: without --allow the token allows nothing", err=True)
    try:
        click.echo(sign(load_settings(config, **flags), subject, allow, int(ttl_s), tenant))
    except ConfigError as exc:
        fail(str(exc), EXIT_CONFIG)


for command in (
    messages.publish,
    messages.consume,
    messages.tail,
    topics.topic,
    topics.group,
    dead.dead,
    care.conn,
    care.revoke,
    care.backup,
    care.db,
):
    main.add_command(command)
