"""The golden file of every schema, opened and served by this version: nothing that was confirmed then is missing."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from faults import database
from golden.make import GOLDEN, GROUPS, TOPIC, content
from pushwire_storage.offline import open_for_check
from pushwire_storage.schema import MIGRATIONS
from pushwire_storage.sqlite import DATABASE
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

VERSIONS = range(1, len(MIGRATIONS) + 1)


def test_every_schema_has_its_golden_file():
    assert [version for version in VERSIONS if not (GOLDEN / f"schema-{version}.db.gz").exists()] == []


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_golden_file_is_served(tmp_path: Path, version: int):
    told = json.loads(gzip.decompress((GOLDEN / f"schema-{version}.json.gz").read_bytes()))
    gateway = GatewayProcess(tmp_path)
    gateway.data.mkdir(mode=0o700)
    (gateway.data / DATABASE).write_bytes(gzip.decompress((GOLDEN / f"schema-{version}.db.gz").read_bytes()))
    try:
        gateway.start()
        client = await WsClient.open(gateway.port, gateway.token())
        for group in GROUPS:
            owed = told["owed"][group]
            await client.subscribe(TOPIC, group=group, sub=group, prefetch=200)
            rows = {row["id"]: row for row in await client.take(len(owed))}
            assert sorted(rows) == sorted(owed)
            assert {id_: content(row) for id_, row in rows.items()} == {id_: told["delivered"][id_] for id_ in owed}
            assert {id_: row["seq"] for id_, row in rows.items()} == {id_: told["receipts"][id_] for id_ in owed}
            await client.ok({"op": "ack", "leases": [row["lease"] for row in rows.values()]})
        assert client.deliveries.empty()
        again = await client.ok({"op": "publish", "topic": TOPIC, "messages": told["published"]})
        assert {row["id"]: row["seq"] for row in again["receipts"] if row["duplicate"]} == told["receipts"]
        assert (await client.publish(TOPIC, "new"))["seq"] > max(told["receipts"].values())
        client.abort()
        assert gateway.terminate() == 0
        gateway.check_log()
    finally:
        gateway.stop()
    with database.opened(gateway.database()) as connection:
        dead = database.Dump(connection).dead()
    assert sorted(letter["seq"] for letter in dead) == sorted(told["receipts"][id_] for id_ in told["dead"])
    assert open_for_check(gateway.data) == []
