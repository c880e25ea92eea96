"""Every limit and every choice of the gateway, in one frozen object.

Owns names, defaults, bounds and where values come from: TOML file < environment `PUSHWIRE_*` < command-line flag.
Nothing else may read the environment or invent a limit; a benchmark that raises one says so.
"""

from __future__ import annotations

import os
import re
import tomllib
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

KIB, MIB, GIB = 1024, 1024**2, 1024**3

ENV_PREFIX = "PUSHWIRE_"


class ConfigError(ValueError):
    """The configuration cannot be used. The text names the setting and what is wrong with it, never a secret."""


def refuse_shared(setting: str, path: Path, *, group_may_read: bool = False) -> None:
    """A secret in a file is its owner's alone, or may be read by a group that its owner has chosen. Raises ConfigError
    if it is not, OSError if that cannot be seen."""
    if path.stat().st_mode & (0o037 if group_may_read else 0o077):
        mode = "640" if group_may_read else "600"
        raise ConfigError(f"{setting}: {path.name} can be read or changed by others: chmod {mode} it")


class KeySettings(BaseModel):
    """One key that signs tokens. HS256: a secret of at least 32 bytes. RS256, ES256: the public key as PEM."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kid: Annotated[str, Field(min_length=1, max_length=64)] = "main"
    alg: Literal["HS256", "RS256", "ES256"] = "HS256"
    secret: SecretStr | None = None
    pem_file: Path | None = None
    secret_file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> KeySettings:
        given = [source for source in (self.secret, self.pem_file, self.secret_file) if source is not None]
        if len(given) != 1:
            raise ValueError("a key needs exactly one of secret, secret_file, pem_file")
        if (self.alg == "HS256") == (self.pem_file is not None):
            raise ValueError("HS256 takes secret or secret_file; RS256 and ES256 take pem_file")
        return self

    def material(self) -> bytes:
        """The secret or PEM as bytes. Raises ConfigError when its file cannot be read or is readable by others."""
        if self.secret is not None:
            return self.secret.get_secret_value().encode()
        path = self.secret_file or self.pem_file
        assert path is not None  # _one_source
        try:
            if self.secret_file is None:
                return path.read_bytes()
            refuse_shared("keys", path)
            return path.read_bytes().strip()
        except OSError as exc:
            raise ConfigError(f"keys: cannot read {path.name}: {exc.strerror}") from None


def _int(default: int, low: int, high: int, text: str) -> Any:
    return Field(default, ge=low, le=high, description=text)


def _float(default: float, low: float, high: float, text: str) -> Any:
    return Field(default, ge=low, le=high, description=text)


Origin = Annotated[str, Field(max_length=255, pattern=r"^(?:\*|[a-z][a-z0-9+.-]*://[^\s/?#@*A-Z]+)$")]
"""An Origin as browsers send it (lower case, no path), or `*`. Only an exact match counts, so an entry of another form
would be an entry without effect."""


class Settings(BaseSettings):
    """All settings. Every field is a TOML key, an environment variable and, where people change it often, a flag."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_nested_delimiter="__")

    # --- where it listens and what it keeps ---
    host: str = Field("127.0.0.1", description="address to bind")
    port: int = _int(8080, 0, 65535, "port to bind; 0 takes a free one")
    data: str = Field("./pushwire-data", description="directory of the database, or memory: to keep nothing on disk")
    durability: Literal["full", "relaxed"] = Field(
        "full", description="full: a receipt survives power loss. relaxed: it survives a crash of the process only"
    )
    free_bytes_min: int = _int(64 * MIB, 0, 1024 * GIB, "free disk bytes below which publishes are refused; 0: off")
    ballast_bytes: int = _int(16 * MIB, 0, GIB, "reserved on the disk for settlements when it is full; 0: nothing")
    node: str = Field("n1", pattern=r"^[a-z0-9]{1,8}$", description="node id; begins every session and lease")
    tls_cert_file: Path | None = Field(None, description="certificate chain (PEM); with tls_key_file turns TLS on")
    tls_key_file: Path | None = Field(
        None, description="its private key (PEM), readable by its owner and at most a group"
    )
    origins: tuple[Origin, ...] = Field(
        (), description="exact Origins that may connect; * allows all; empty: same origin"
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), max_length=64, description="networks of the proxies whose word on a client's address counts"
    )
    proxy_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for", description="where they say it; the other header is the client's own"
    )

    # --- who may come in ---
    keys: tuple[KeySettings, ...] = Field((), max_length=3, description="keys that sign tokens, at most 3")
    jwks_url: str | None = Field(None, max_length=2048, description="https address of the issuer's JWK set")
    jwks_file: Path | None = Field(None, description="file with a JWK set, instead of jwks_url")
    jwks_allow_http_loopback: bool = Field(False, description="jwks_url may be http when its host is this machine")
    audience: str = Field("pushwire", min_length=1, description="required aud claim")
    issuer: str = Field("pushwire", min_length=1, description="required iss claim")
    token_lifetime_s_max: int = _int(3600, 60, 86_400, "longest exp - iat of an accepted token")
    token_leeway_s: int = _int(30, 0, 120, "clock difference allowed between token issuer and gateway")
    ticket_lifetime_s: float = _float(30, 1, 120, "from the issue of a ticket to its use")
    tickets_max: int = _int(10_000, 1, 1_000_000, "tickets that wait for their use; the oldest make room")
    tickets_per_subject: int = _int(32, 1, 1000, "tickets of one subject that wait for their use")

    # --- connections ---
    connections_max: int = _int(10_000, 1, 1_000_000, "connections of this gateway; also bounded by open files - 512")
    connections_per_subject: int = _int(16, 1, 1000, "WebSocket connections of one subject")
    connections_per_ip: int = _int(100, 0, 1_000_000, "established connections of one address (IPv6: /64); 0: off")
    unauthenticated_per_ip: int = _int(10, 1, 100_000, "connections of one address that have shown no token yet")
    unauthenticated_max: int = _int(256, 1, 100_000, "connections in total that have shown no token yet")
    open_timeout_s: float = _float(5, 0.1, 60, "from accept to a complete HTTP head")
    auth_timeout_s: float = _float(5, 0.1, 60, "from the upgrade to a valid auth frame")
    head_bytes_max: int = _int(16 * KIB, KIB, 64 * KIB, "HTTP request line and headers")
    http_body_bytes_max: int = _int(MIB + 16 * KIB, KIB, 16 * MIB, "HTTP request body")
    http_body_timeout_s: float = _float(10, 0.1, 300, "from a complete head to a complete body")
    keep_alive_s: float = _float(15, 1, 300, "an idle HTTP connection is kept this long")
    ping_interval_s: float = _float(20, 0.2, 300, "silence after which a client is pinged")
    pong_timeout_s: float = _float(10, 0.1, 300, "silence after a ping that ends the connection")
    write_stall_s: float = _float(5, 0.1, 300, "a client that reads nothing for this long is gone")
    close_timeout_s: float = _float(2, 0.1, 60, "from our close frame to the end of the connection")
    malformed_per_minute: int = _int(
        5, 1, 10_000, "malformed frames or foreign operations before the connection is closed"
    )

    # --- messages ---
    message_bytes_max: int = _int(64 * KIB, 1, MIB, "data of one message")
    frame_bytes_max: int = _int(MIB + 16 * KIB, KIB, MIB + 16 * KIB, "one WebSocket message from a client")
    http_batch_max: int = _int(100, 1, 1000, "messages of one HTTP publish")
    subscriptions_per_connection: int = _int(128, 1, 1024, "subscriptions of one connection")
    prefetch: int = _int(32, 1, 1000, "default window of a subscription, messages")
    prefetch_max: int = _int(1000, 1, 1000, "largest window a subscription may ask for")
    in_flight_bytes_max: int = _int(MIB, KIB, 8 * MIB, "bytes in flight of one connection; one message always fits")
    ready_bytes_max: int = _int(64 * MIB, MIB, 16 * GIB, "bodies held in memory ready to push, all topics together")
    outbox_bytes_max: int = _int(8 * MIB, 64 * KIB, 64 * MIB, "unsent bytes of one connection before it is cut off")
    ack_timeout_s: float = _float(30, 0.1, 43_200, "default time a consumer has to settle")
    ack_timeout_s_max: float = _float(900, 0.1, 43_200, "longest ack timeout a subscription may ask for")
    lease_age_s_max: float = _float(43_200, 1, 86_400, "longest a lease may live by being extended")
    max_failures: int = _int(10, 1, 1000, "nacks and timeouts of one message before the dead letters")
    max_deliveries: int = _int(50, 1, 10_000, "deliveries of one message before the dead letters")
    backoff_cap_s: float = _float(1, 0.01, 300, "first back-off cap; doubles with each failure")
    backoff_cap_s_max: float = _float(300, 0.01, 900, "largest back-off cap")
    unhealthy_timeouts: int = _int(
        100, 1, 100_000, "leases of a subscription that run out, without one settled between, before it is ended"
    )
    resume_grace_s_max: float = _float(60, 0, 60, "longest that leases may outlive their connection")
    sessions_away_max: int = _int(10_000, 0, 1_000_000, "sessions that may still come back, in total")
    sessions_away_per_subject: int = _int(16, 0, 1000, "sessions of one subject that may still come back")
    polls_max: int = _int(10_000, 1, 1_000_000, "long polls being served, in total; each has a connection besides")
    polls_per_subject: int = _int(16, 1, 10_000, "long polls of one subject being served")
    poll_sessions_max: int = _int(10_000, 1, 1_000_000, "sessions of long-polling clients, in total")
    poll_sessions_per_subject: int = _int(
        64, 1, 10_000, "sessions of long-polling clients of one subject: one that never names its own leaves many"
    )
    streams_max: int = _int(10_000, 1, 1_000_000, "event streams, in total; each queues up to 512 KiB and a message")
    streams_per_subject: int = _int(16, 1, 10_000, "event streams of one subject")
    release_hold_s: float = _float(1, 0, 60, "a released message is not offered to the same session for this long")
    dedupe_window_s: int = _int(600, 1, 86_400, "how long a message id is remembered")
    topic_messages_max: int = _int(1_000_000, 1, 1_000_000_000, "messages a topic keeps")
    topic_bytes_max: int = _int(GIB, 64 * KIB, 1024 * GIB, "bytes a topic keeps")
    topics_per_tenant: int = _int(10_000, 1, 250_000, "topics of one tenant")
    groups_per_topic: int = _int(100, 1, 1000, "groups of one topic")

    # --- rates (0: no limit) ---
    publish_per_s: int = _int(100, 0, 10_000_000, "messages a second of one subject")
    publish_burst: int = _int(200, 1, 10_000_000, "messages at once of one subject")
    publish_per_s_max: int = _int(
        10_000, 0, 10_000_000, "messages a second a token may claim for its subject; never below publish_per_s; 0: any"
    )
    publish_bytes_per_s: int = _int(MIB, 0, 10 * GIB, "published bytes a second of one subject")
    publish_bytes_burst: int = _int(4 * MIB, MIB, 10 * GIB, "published bytes at once of one subject")
    connects_per_s_per_ip: int = _int(5, 0, 1_000_000, "new connections a second of one address")
    connects_burst_per_ip: int = _int(20, 1, 1_000_000, "new connections at once of one address")
    connects_per_s: int = _int(200, 0, 1_000_000, "new connections a second in total")
    connects_burst: int = _int(400, 1, 1_000_000, "new connections at once in total")
    redrive_per_s: int = _int(1000, 1, 1_000_000, "dead letters of one topic put back a second")
    controls_per_s: int = _int(
        10, 0, 1_000_000, "subscribe, unsubscribe, flow and auth operations a second of one connection"
    )
    controls_burst: int = _int(128, 1, 1_000_000, "such operations at once of one connection")

    # --- for who looks after it ---
    backup_dir: Path | None = Field(None, description="existing folder for copies made by POST /v1/admin/backup")
    admin_long_max: int = _int(
        8, 1, 1000, "redrives, discards, backups and pages of messages at once; of one tenant half of them"
    )
    metrics_token: SecretStr | None = Field(
        None, min_length=16, description="bearer token that may read /metrics and nothing else"
    )
    metrics_loopback: bool = Field(
        False, description="whoever connects from this machine, as localhost, may read /metrics"
    )
    metrics_series_max: int = _int(
        0, 0, 10_000, "topics, and groups, with series of their own at /metrics; 0: only sums over all"
    )

    # --- inside ---
    batch_messages_max: int = _int(4096, 1, 100_000, "messages of one transaction")
    batch_bytes_max: int = _int(4 * MIB, MIB, 256 * MIB, "bytes of one transaction")
    batcher_messages_max: int = _int(
        65_536, 1, 10_000_000, "messages waiting for a transaction before publishes are refused busy"
    )
    batcher_bytes_max: int = _int(
        64 * MIB, MIB, 4 * GIB, "bytes waiting for a transaction before publishes are refused busy or acks not read"
    )
    drain_s: float = _float(10, 0.1, 300, "from SIGTERM to exit")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe line logged")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else json")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic passes it by name; we read no .env
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - keys name their own secret files
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, env_settings, _TomlSource(settings_cls))

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file come together")
        if self.publish_bytes_burst < self.frame_bytes_max:
            raise ValueError("publish_bytes_burst must hold at least one frame (frame_bytes_max)")
        if self.prefetch > self.prefetch_max:
            raise ValueError("prefetch is above prefetch_max")
        if self.ack_timeout_s > self.ack_timeout_s_max:
            raise ValueError("ack_timeout_s is above ack_timeout_s_max")
        if len({key.kid for key in self.keys}) != len(self.keys):
            raise ValueError("keys: two keys have the same kid")
        if self.jwks_url is not None and self.jwks_file is not None:
            raise ValueError("give one of jwks_url and jwks_file")
        if self.backup_dir is not None and not self.backup_dir.is_dir():
            raise ValueError("backup_dir: is no folder that exists")
        if any(network.prefixlen == 0 for network in self.trusted_proxies):
            raise ValueError("trusted_proxies: a network of every address trusts the word of every client")
        return self


_toml_values: dict[str, Any] = {}  # what load() read; the source below hands it to pydantic, lowest in rank


class _TomlSource(PydanticBaseSettingsSource):
    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        return _toml_values.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return dict(_toml_values)


def load(config_file: Path | None = None, **flags: Any) -> Settings:
    """Settings from file, environment and flags (a flag of None is not given). Raises ConfigError."""
    _toml_values.clear()
    if config_file is not None:
        try:
            _toml_values.update(tomllib.loads(config_file.read_text()))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{config_file}: {exc}") from None
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        raise ConfigError(_sentence(exc)) from None
    finally:
        _toml_values.clear()


def unknown_env() -> list[str]:
    """Environment variables that look like settings and are none: a typo must not be silently without effect."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in Settings.model_fields}
    return sorted(
        name
        for name in os.environ
        if name.startswith(ENV_PREFIX) and re.sub(r"__.*", "", name) not in known and name not in EXTRA_ENV
    )


EXTRA_ENV = frozenset({"PUSHWIRE_CONFIG", "PUSHWIRE_URL", "PUSHWIRE_TOKEN"})
"""Variables that the command line reads, which are no settings."""


def _sentence(exc: ValidationError) -> str:
    lines = []
    for error in exc.errors(include_input=False, include_url=False, include_context=False):
        where = ".".join(str(part) for part in error["loc"]) or "settings"
        lines.append(f"{where}: {error['msg']}")
    return "; ".join(lines)
