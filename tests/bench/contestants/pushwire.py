"""pushwire as a contestant: the gateway as its users start it, with a key, every check on and some limits raised."""

from __future__ import annotations

import json
import secrets
import sqlite3
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.contestants.base import Contestant, versions_of

TTL_S = 3600  # the longest lifetime a gateway accepts by default; a measurement takes seconds
ALLOW = ("publish:bench.*", "consume:bench.*@*", "create:bench.*@*", "replay:bench.*", "admin:bench.*")

# Raised, not switched off: every limiter still does its work for every frame.
RATE_MAX, BYTES_MAX = "10000000", str(10 * 1024**3)


class Pushwire(Contestant):
    name = "pushwire"
    durable = (
        "WAL, synchronous=FULL; receipt and push after the group's commit, settlements in the next group "
        "(1,100 messages: 577 syncs)"
    )
    limits_raised = {  # noqa: RUF012  never changed; a Mapping in the base class
        "PUSHWIRE_PUBLISH_PER_S": RATE_MAX,
        "PUSHWIRE_PUBLISH_BURST": RATE_MAX,
        "PUSHWIRE_PUBLISH_BYTES_PER_S": BYTES_MAX,
        "PUSHWIRE_PUBLISH_BYTES_BURST": BYTES_MAX,
        "PUSHWIRE_GROUPS_PER_TOPIC": "1000",
        "PUSHWIRE_CONNECTIONS_PER_IP": "20000",
        "PUSHWIRE_UNAUTHENTICATED_PER_IP": "256",
        "PUSHWIRE_CONNECTS_PER_S_PER_IP": "1000000",
        "PUSHWIRE_CONNECTS_BURST_PER_IP": "1000000",
        "PUSHWIRE_CONNECTS_PER_S": "1000000",
        "PUSHWIRE_CONNECTS_BURST": "1000000",
    }

    def __init__(self, folder: Path, cpu: int | None) -> None:
        super().__init__(folder, cpu)
        self._secret = secrets.token_urlsafe(48)
        self._tokens: list[str] = []
        self._minted_at = 0.0

    def command(self, data: Path, ready_file: Path) -> Sequence[str]:
        python = [sys.executable, "-m", "pushwire_gateway"]
        return [*python, "serve", "--data", str(data), "--port", "0", "--ready-file", str(ready_file)]

    def env(self) -> dict[str, str]:
        keys = json.dumps([{"kid": "main", "alg": "HS256", "secret": self._secret}])
        return {**super().env(), "PUSHWIRE_KEYS": keys, **self.limits_raised}

    def tokens(self, count: int) -> list[str]:
        # Minted once and shared by all measurements: 5,000 signatures take a second.
        if len(self._tokens) < count or time.time() - self._minted_at > TTL_S / 2:
            from pushwire_gateway.auth import SigningKey, sign_token  # late: a run without pushwire needs no gateway

            key = SigningKey("main", "HS256", self._secret.encode())
            self._minted_at = time.time()
            self._tokens = [
                sign_token(
                    key, subject=f"bench-{number}", audience="pushwire", issuer="pushwire",
                    now=self._minted_at, allow=ALLOW, ttl_s=TTL_S,
                )
                for number in range(count)
            ]  # fmt: skip
        return self._tokens[:count]

    def versions(self) -> dict[str, str]:
        packages = ("pushwire", "websockets", "aiosqlite", "uvicorn", "uvloop", "orjson", "python-jose", "limits")
        return {**versions_of(*packages), "sqlite": sqlite3.sqlite_version}
