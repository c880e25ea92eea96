"""The issuer's keys over time: when they are fetched, what counts meanwhile, and what a bad answer changes: nothing."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pushwire_gateway import jwks as module
from pushwire_gateway.fetch import BODY_BYTES_MAX, FetchFailed, parse_address
from pushwire_gateway.jwks import FIRST_FETCH_S, KEYS_AGE_S_MAX, REFETCH_S, FileSource, Jwks, Reading, Source, UrlSource
from pushwire_gateway.key_material import VerifyKey
from pushwire_gateway.settings import ConfigError
from support.key_server import Gate, KeyServer, ec_jwk, key_server, key_set, response, rsa_jwk
from support.port import SteppedClock

PATIENCE_S = 10


class Issuer:
    """A source in memory. While `gate` is closed a fetch waits."""

    required = False

    def __init__(self, *entries: Any) -> None:
        self.raw = key_set(*entries)
        self.failure: Exception | None = None
        self.reads = 0
        self.reading = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    def __str__(self) -> str:
        return "memory"

    async def read(self, known: object) -> Reading:
        self.reads += 1
        self.reading.set()
        raw = self.raw  # as it is when the request arrives
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return Reading(raw, None)


class Ring:
    """Who is told the keys."""

    def __init__(self) -> None:
        self.kids: list[list[str]] = []
        self.refusal: ConfigError | None = None

    def publish(self, keys: Sequence[VerifyKey]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.kids.append([key.kid for key in keys])


@asynccontextmanager
async def fetched_from(source: Source) -> AsyncIterator[tuple[Jwks, Ring, SteppedClock]]:
    ring, clock = Ring(), SteppedClock()
    jwks = Jwks(source, ring.publish, clock.now)
    await jwks.start()
    try:
        yield jwks, ring, clock
    finally:
        await asyncio.wait_for(jwks.close(), PATIENCE_S)


async def landed(jwks: Jwks) -> None:
    """Wait for the fetch that is under way."""
    if jwks._flight is not None:
        await asyncio.wait_for(asyncio.wait([jwks._flight]), PATIENCE_S)


async def test_a_known_kid_asks_nobody():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, ring, clock):
        clock.step(REFETCH_S)
        assert jwks.loaded
        assert await jwks.refresh_for("RS256")
        assert issuer.reads == 1
        assert ring.kids == [["RS256"]]


async def test_an_unknown_kid_fetches_at_most_once_a_minute():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, ring, clock):
        issuer.raw = key_set(rsa_jwk(), ec_jwk())
        for _ in range(100):
            assert not await jwks.refresh_for("ES256")
        clock.step(REFETCH_S - 0.001)
        assert not await jwks.refresh_for("ES256")
        assert issuer.reads == 1
        clock.step(0.001)
        assert await jwks.refresh_for("ES256")
        assert ring.kids[-1] == ["RS256", "ES256"]
        for number in range(100):
            assert not await jwks.refresh_for(f"other-{number}")
        assert issuer.reads == 2


async def test_an_hour_of_unknown_kids_is_sixty_fetches():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, _, clock):
        for second in range(3600):
            clock.step(1)
            assert not await jwks.refresh_for(f"kid-{second}")
        assert issuer.reads == 61


async def test_a_hundred_clients_share_one_fetch():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, _, clock):
        clock.step(REFETCH_S)
        issuer.raw = key_set(ec_jwk())
        issuer.gate.clear()
        asked = [asyncio.create_task(jwks.refresh_for("ES256" if n % 2 else "nobody")) for n in range(100)]
        issuer.reading.clear()
        await asyncio.wait_for(issuer.reading.wait(), PATIENCE_S)
        # While it runs, what was known counts, at once.
        assert await jwks.refresh_for("RS256")
        issuer.gate.set()
        answers = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S)
        assert answers == [bool(n % 2) for n in range(100)]
        assert issuer.reads == 2


async def test_one_client_that_goes_away_does_not_take_the_fetch_with_it():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, _, clock):
        clock.step(REFETCH_S)
        issuer.raw = key_set(ec_jwk())
        issuer.gate.clear()
        first, second = (asyncio.create_task(jwks.refresh_for("ES256")) for _ in range(2))
        issuer.reading.clear()
        await asyncio.wait_for(issuer.reading.wait(), PATIENCE_S)
        first.cancel()
        await asyncio.wait([first])
        issuer.gate.set()
        assert await asyncio.wait_for(second, PATIENCE_S)
        assert first.cancelled()
        assert issuer.reads == 2


async def test_so_many_clients_wait_and_no_more(monkeypatch):
    monkeypatch.setattr(module, "WAITERS_MAX", 3)
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, _, clock):
        clock.step(REFETCH_S)
        issuer.raw = key_set(ec_jwk())
        issuer.gate.clear()
        asked = [asyncio.create_task(jwks.refresh_for("ES256")) for _ in range(5)]
        assert await asyncio.wait_for(asyncio.gather(*asked[3:]), PATIENCE_S) == [False, False]
        assert not any(task.done() for task in asked[:3])
        issuer.gate.set()
        assert await asyncio.wait_for(asyncio.gather(*asked[:3]), PATIENCE_S) == [True] * 3
        assert jwks._waiting == 0


async def test_a_client_does_not_wait_for_a_source_without_end(monkeypatch):
    monkeypatch.setattr(module, "FETCH_TIMEOUT_S", -0.99)
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, _, clock):
        clock.step(REFETCH_S)
        issuer.gate.clear()
        assert not await asyncio.wait_for(jwks.refresh_for("ES256"), PATIENCE_S)
        clock.step(10 * REFETCH_S)
        assert not await asyncio.wait_for(jwks.refresh_for("ES256"), PATIENCE_S)
        assert issuer.reads == 2  # the fetch that hangs is the one there is


@pytest.mark.parametrize(
    "fault",
    ["failed", "no JSON", "secret", "HTML", "clash", "bug"],
)
async def test_a_bad_answer_changes_nothing_and_is_tried_again_in_a_minute(fault, caplog):
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, ring, clock):
        clock.step(REFETCH_S)
        if fault == "failed":
            issuer.failure = FetchFailed("status 503")
        elif fault == "bug":
            issuer.failure = ZeroDivisionError()
        elif fault == "clash":
            ring.refusal = ConfigError("the issuer publishes a key with the kid 'main'")
            issuer.raw = key_set(ec_jwk(kid="main"))
        else:
            issuer.raw = {"no JSON": b"{", "secret": key_set({"kty": "oct", "k": "AA"}), "HTML": b"<html>"}[fault]
        assert not await jwks.refresh_for("ES256")
        assert await jwks.refresh_for("RS256")
        assert (ring.kids, jwks.failures, issuer.reads) == ([["RS256"]], 1, 2)
        assert caplog.records[-1].name == "pushwire.jwks"
        assert caplog.records[-1].levelname == ("ERROR" if fault == "bug" else "WARNING")
        issuer.failure = ring.refusal = None
        issuer.raw = key_set(ec_jwk())
        clock.step(REFETCH_S - 1)
        assert not await jwks.refresh_for("ES256")
        clock.step(1)
        assert await jwks.refresh_for("ES256")
        assert ring.kids == [["RS256"], ["ES256"]]


async def test_a_withdrawn_key_is_gone_in_five_minutes_though_nobody_asks_for_another():
    issuer = Issuer(rsa_jwk(), ec_jwk())
    async with fetched_from(issuer) as (jwks, ring, clock):
        issuer.raw = key_set(ec_jwk())
        clock.step(KEYS_AGE_S_MAX - 0.001)
        jwks.renew_if_old()
        assert issuer.reads == 1
        clock.step(0.001)
        issuer.gate.clear()
        jwks.renew_if_old()
        jwks.renew_if_old()
        assert await jwks.refresh_for("RS256")  # stale while it is fetched
        issuer.gate.set()
        await landed(jwks)
        assert ring.kids == [["RS256", "ES256"], ["ES256"]]
        clock.step(REFETCH_S - 1)
        assert not await jwks.refresh_for("RS256")
        assert issuer.reads == 2


async def test_an_issuer_that_stays_down_is_asked_once_a_minute():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, ring, clock):
        issuer.failure = FetchFailed("no connection")
        clock.step(KEYS_AGE_S_MAX)
        for _ in range(600):
            jwks.renew_if_old()
            await landed(jwks)
            clock.step(1)
        assert issuer.reads == 11
        assert ring.kids == [["RS256"]]


async def test_an_empty_set_takes_all_keys_back():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, ring, clock):
        clock.step(REFETCH_S)
        issuer.raw = key_set()
        assert not await jwks.refresh_for("ES256")
        assert ring.kids == [["RS256"], []]
        clock.step(REFETCH_S)
        issuer.raw = key_set(rsa_jwk())
        assert await jwks.refresh_for("RS256")


async def test_an_issuer_may_be_down_at_the_start_and_is_asked_again_soon():
    issuer = Issuer(rsa_jwk())
    issuer.failure = FetchFailed("no connection")
    async with fetched_from(issuer) as (jwks, ring, clock):
        assert not jwks.loaded
        assert not await jwks.refresh_for("RS256")
        clock.step(FIRST_FETCH_S)
        assert not await jwks.refresh_for("RS256")
        issuer.failure = None
        clock.step(FIRST_FETCH_S)
        assert await jwks.refresh_for("RS256")
        assert jwks.loaded
        clock.step(FIRST_FETCH_S)
        assert not await jwks.refresh_for("ES256")
        assert issuer.reads == 3
        assert ring.kids == [["RS256"]]


async def test_after_the_end_nothing_is_fetched():
    issuer = Issuer(rsa_jwk())
    async with fetched_from(issuer) as (jwks, _, clock):
        clock.step(REFETCH_S)
        issuer.gate.clear()
        waiting = asyncio.create_task(jwks.refresh_for("ES256"))
        issuer.reading.clear()
        await asyncio.wait_for(issuer.reading.wait(), PATIENCE_S)
        await asyncio.wait_for(jwks.close(), PATIENCE_S)
        assert not await asyncio.wait_for(waiting, PATIENCE_S)
        clock.step(KEYS_AGE_S_MAX)
        jwks.renew_if_old()
        assert not await jwks.refresh_for("ES256")
        await jwks.close()
        assert issuer.reads == 2


# ---- an address


def url_source(server: KeyServer) -> UrlSource:
    return UrlSource(parse_address(server.url, allow_http_loopback=True))


async def test_keys_come_from_an_address():
    async with key_server() as server:
        server.publish(rsa_jwk())
        async with fetched_from(url_source(server)) as (jwks, ring, clock):
            clock.step(REFETCH_S)
            server.publish(ec_jwk())
            assert await jwks.refresh_for("ES256")
            assert ring.kids == [["RS256"], ["ES256"]]
            assert len(server.requests) == 2


async def test_a_slow_server_is_asked_once_by_many_and_nobody_else_waits():
    async with key_server() as server:
        server.publish(rsa_jwk())
        async with fetched_from(url_source(server)) as (jwks, _, clock):
            clock.step(REFETCH_S)
            server.answer = gate = Gate(response(key_set(ec_jwk())))
            server.asked.clear()
            asked = [asyncio.create_task(jwks.refresh_for("ES256")) for _ in range(50)]
            await asyncio.wait_for(server.asked.wait(), PATIENCE_S)
            assert await jwks.refresh_for("RS256")
            gate.open.set()
            assert await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S) == [True] * 50
            assert server.connections == 2


async def test_a_server_that_sends_us_elsewhere_changes_nothing():
    async with key_server() as elsewhere, key_server() as server:
        server.publish(rsa_jwk())
        elsewhere.publish(ec_jwk())
        async with fetched_from(url_source(server)) as (jwks, ring, clock):
            clock.step(REFETCH_S)
            server.answer = response(b"", "302 Found", f"Location: {elsewhere.url}")
            assert not await jwks.refresh_for("ES256")
            assert ring.kids == [["RS256"]]
            assert elsewhere.connections == 0


# ---- a file


def test_a_source_is_named_without_its_folder_or_query(tmp_path):
    assert str(FileSource(tmp_path / "keys.json")) == "keys.json"
    assert str(UrlSource(parse_address("https://a.example/keys?secret=1"))) == "https://a.example/keys"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(rsa_jwk()))
    return file


async def test_a_file_is_read_again_when_it_has_changed(path):
    async with fetched_from(FileSource(path)) as (jwks, ring, clock):
        clock.step(REFETCH_S)
        assert not await jwks.refresh_for("ES256")
        assert ring.kids == [["RS256"]]  # looked at, not read
        path.write_bytes(key_set(ec_jwk()))
        assert not await jwks.refresh_for("ES256")  # within the minute
        clock.step(REFETCH_S)
        assert await jwks.refresh_for("ES256")
        assert ring.kids == [["RS256"], ["ES256"]]


async def test_a_replaced_file_of_the_same_time_and_size_is_a_change(path):
    stat = path.stat()
    async with fetched_from(FileSource(path)) as (jwks, ring, clock):
        new = path.with_name("new")
        new.write_bytes(key_set(rsa_jwk(kid="SR256")))
        os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        new.replace(path)
        assert path.stat().st_size == stat.st_size
        clock.step(REFETCH_S)
        assert await jwks.refresh_for("SR256")
        assert ring.kids[-1] == ["SR256"]


async def test_a_file_that_is_being_written_is_read_again(path):
    async with fetched_from(FileSource(path)) as (jwks, ring, clock):
        whole = key_set(rsa_jwk(), ec_jwk())
        path.write_bytes(whole[:100])
        stat = path.stat()
        clock.step(REFETCH_S)
        assert not await jwks.refresh_for("ES256")
        assert jwks.failures == 1
        path.write_bytes(whole)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a coarse clock
        clock.step(REFETCH_S)
        assert await jwks.refresh_for("ES256")
        path.unlink()
        clock.step(REFETCH_S)
        assert not await jwks.refresh_for("nobody")
        assert ring.kids == [["RS256"], ["RS256", "ES256"]]
        assert jwks.failures == 2


@pytest.mark.parametrize("fault", ["missing", "a folder", "unreadable JSON", "too large", "writable by all", "private"])
async def test_a_gateway_does_not_start_with_a_bad_file(path, fault):
    if fault == "missing":
        path.unlink()
    elif fault == "a folder":
        path = path.parent
    elif fault == "unreadable JSON":
        path.write_bytes(b"{")
    elif fault == "too large":
        path.write_bytes(key_set(rsa_jwk()) + b" " * BODY_BYTES_MAX)
    elif fault == "private":
        path.write_bytes(key_set(rsa_jwk(d="AA")))
    else:
        path.chmod(0o646)
    jwks = Jwks(FileSource(path), Ring().publish, SteppedClock().now)
    with pytest.raises(ConfigError, match=path.name) as refused:
        await jwks.start()
    assert str(path.parent) not in str(refused.value)
    assert refused.value.__cause__ is None


async def test_logs_name_the_source_and_the_count_and_no_kid(path, caplog):
    caplog.set_level(logging.DEBUG)
    path.write_bytes(key_set(rsa_jwk(kid="canary-kid-good"), rsa_jwk(kid="canary-kid-small", n="AQAB")))
    async with fetched_from(FileSource(path)) as (jwks, _, clock):
        clock.step(REFETCH_S)
        path.write_bytes(key_set(rsa_jwk(kid="canary-kid-bad"), ec_jwk(kid="canary-kid-bad")))
        assert not await jwks.refresh_for("canary-kid-asked")
    lines = [record.getMessage() for record in caplog.records if record.name == "pushwire.jwks"]
    assert len(lines) == 2
    assert "1 keys from keys.json, 1 ignored" in lines[0]
    assert "not renewed from keys.json, 1 keys stay" in lines[1]
    assert not [line for line in lines if "canary" in line]
