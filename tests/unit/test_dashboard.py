"""The files of the dashboard as the gateway serves them: which paths, which headers, and what stands in for them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from pushwire_gateway import app, dashboard
from pushwire_gateway.hub import Stats
from support.gateway_parts import Parts

PAGE = "<!doctype html><script type=module src=/assets/index-abc.js></script>"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "static"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(PAGE, encoding="utf-8")
    (folder / dashboard.ICON).write_text("<svg/>", encoding="utf-8")
    (folder / "assets" / "index-abc.js").write_text("let a;", encoding="utf-8")
    (tmp_path / "secret").write_text("not a file of ours", encoding="utf-8")
    monkeypatch.setattr(app, "static_dir", lambda: folder)
    return folder


async def ask(method: str, path: str, **headers: str) -> httpx.Response:
    served = app.whole_app((await Parts().start()).gateway, Stats)
    transport = httpx.ASGITransport(app=served)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway.test") as client:
        return await client.request(method, path, headers=headers)


def safe(answer: httpx.Response) -> dict[str, Any]:
    wanted = dashboard.HEADERS
    return {name: answer.headers.get(name) for name in wanted} == wanted and answer.headers


async def test_the_page_is_safe_and_is_looked_up_each_time(built: Path) -> None:
    answer = await ask("GET", "/")
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert safe(answer)
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert not re.search(r"unsafe|\*|data:|https?:", policy)
    again = await ask("GET", "/", **{"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert (await ask("HEAD", "/")).headers["etag"] == answer.headers["etag"]


async def test_an_asset_is_kept_for_ever_and_is_what_it_says(built: Path) -> None:
    answer = await ask("GET", "/assets/index-abc.js")
    assert (answer.status_code, answer.text) == (200, "let a;")
    assert "javascript" in answer.headers["content-type"]
    assert "immutable" in answer.headers["cache-control"]
    assert safe(answer)
    assert (await ask("GET", "/favicon.svg")).headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize(
    "path",
    ["/assets/no.js", "/assets/", "/assets/../index.html", "/assets/..%2f..%2fsecret", "/index.html", "/secret", "/v1"],
)
async def test_nothing_else_is_a_file(built: Path, path: str) -> None:
    answer = await ask("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/", "/favicon.svg", "/assets/index-abc.js"])
@pytest.mark.parametrize("wanted", ["bytes=0-3", "bytes=0-0,2-2", "bytes=999-", "bytes=3-1", "bytes=a-b", "items=0-1"])
async def test_a_part_of_a_file_is_the_whole_file(built: Path, path: str, wanted: str) -> None:
    answer = await ask("GET", path, range=wanted)
    assert (answer.status_code, answer.content) == (200, (await ask("GET", path)).content)
    assert safe(answer)
    assert answer.headers["accept-ranges"] == "none"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/assets/no.js", 404),
        ("HEAD", "/assets/no.js", 404),
        ("GET", "/<script>", 404),
        ("POST", "/assets/index-abc.js", 405),
        ("DELETE", "/", 405),
        ("GET", "/v1/admin/topics", 401),
        ("GET", "/metrics", 401),
        ("GET", "/v1/ws", 426),
        ("GET", "/v1/openapi.json", 200),
        ("GET", "/livez", 200),
    ],
)
async def test_whatever_is_no_file_of_ours_is_harmless_in_a_browser(
    built: Path, method: str, path: str, status: int
) -> None:
    answer = await ask(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] in ("application/json", "application/problem+json")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_a_file_is_only_read(built: Path) -> None:
    for path in ("/", "/favicon.svg", "/assets/index-abc.js"):
        answer = await ask("POST", path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


async def test_the_routes_of_the_api_go_before(built: Path) -> None:
    assert (await ask("GET", "/livez")).json() == {"status": "ok"}
    assert (await ask("GET", "/v1/admin/topics")).status_code == 401
    assert (await ask("PUT", "/v1/topics/t/messages")).status_code == 405


async def test_without_built_files_the_page_says_how_to_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "static_dir", lambda: None)
    answer = await ask("GET", "/")
    assert (answer.status_code, answer.text) == (404, dashboard.MISSING)
    assert answer.headers["content-type"].startswith("text/plain")
    assert (await ask("GET", "/assets/index-abc.js")).json()["code"] == "not_found"
