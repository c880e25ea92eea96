"""What is installed and shipped: names, version, typing marker, pins; it tests no behaviour."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import pushwire
from pushwire_web import static_dir
from support.cli_process import Spawned

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("pushwire", "pushwire_gateway", "pushwire_storage", "pushwire_web")
FOLDER_NAMES = ("gateway", "storage", "sdk", "src", "js", "examples")
# What a client may cost: these two and nothing they need, for they need nothing.
BASE_REQUIREMENTS = {"websockets", "orjson"}


def lines_of(name: str) -> list[str]:
    """What pyproject.toml requires: always (`dependencies`), or for an extra."""
    # Not the installed metadata: an editable install adds a requirement of its own.
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    return list({"dependencies": project["dependencies"], **project["optional-dependencies"]}[name])


def requirement_names(extra: str | None = None) -> set[str]:
    """Return the names that pyproject.toml requires: always (no extra given), or for one extra."""
    lines = lines_of(extra or "dependencies")
    return {re.split(r"[\s\[<>=!~;]", line)[0].lower() for line in lines}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name.lower().replace("_", "-"): version for name, version in pairs}


@pytest.mark.parametrize("name", FOLDER_NAMES)
def test_a_folder_name_is_no_module(name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is None, f"{name} is importable: run with PYTHONSAFEPATH=1, as `make test` does ({found})"


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_imported_from_this_tree(name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).is_relative_to(ROOT)


def test_the_version_is_the_same_in_code_and_metadata() -> None:
    assert importlib.metadata.version("pushwire") == pushwire.__version__


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_ships_its_types(name: str) -> None:
    found = importlib.util.find_spec(name)
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).with_name("py.typed").is_file()


def test_the_base_install_requires_two_packages() -> None:
    assert requirement_names() == BASE_REQUIREMENTS


def test_the_constraints_are_plain_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    bad = [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]
    assert not bad
    assert not [line for line in lines if "://" in line or "@" in line]


def test_every_requirement_is_pinned_and_installed_so() -> None:
    pinned = pins()
    wanted = requirement_names() | requirement_names("gateway") | requirement_names("dev")
    assert wanted >= BASE_REQUIREMENTS | {"aiosqlite", "python-jose", "limits", "pytest"}
    installed = {name: importlib.metadata.version(name) for name in wanted}
    assert installed == {name: pinned.get(name) for name in wanted}


def test_the_sdk_loads_only_what_it_requires() -> None:
    """A client program must not need the gateway's extra: seen on a fresh interpreter, not believed."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "import pushwire, pushwire.wire\n"
        "for name in set(sys.modules) - before:\n"
        "    where = getattr(sys.modules[name], '__file__', None) or ''\n"
        "    if 'site-packages' in where or 'pushwire' in name: print(name.partition('.')[0])\n"
    )
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env=environment,
    )
    assert ran.returncode == 0, ran.stderr
    loaded = set(ran.stdout.split())
    assert "pushwire" in loaded
    assert loaded <= BASE_REQUIREMENTS | {"pushwire"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real build, in a process of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    environment = os.environ | ({} if static_dir() else {"PUSHWIRE_WITHOUT_DASHBOARD": "1"})
    ran = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert ran.returncode == 0, ran.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.serial
def test_a_wheel_holds_the_four_packages_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        scripts = archive.read(f"pushwire-{pushwire.__version__}.dist-info/entry_points.txt").decode()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, f"pushwire-{pushwire.__version__}.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert "pushwire = pushwire_gateway.__main__:main" in scripts
    assert any(name.endswith("licenses/LICENSE") for name in names)


def needed(requirement: Requirement, seen: dict[str, importlib.metadata.Distribution]) -> None:
    """Add to `seen` what a requirement asks for here, and what that asks for, as installed."""
    distribution = importlib.metadata.distribution(requirement.name)
    known = seen.setdefault(requirement.name.lower(), distribution) is not distribution
    if known and not requirement.extras:
        return
    for text in distribution.requires or ():
        wanted = Requirement(text)
        if wanted.marker is None or any(
            wanted.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)
        ):
            needed(wanted, seen)


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a fresh environment with the wheel installed by pip, offline: what the gateway requires
    is there beforehand, linked from our environment, and nothing else. What pyproject.toml forgets is missing."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    libraries = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    found: dict[str, importlib.metadata.Distribution] = {}
    for line in (*lines_of("dependencies"), *lines_of("gateway")):
        needed(Requirement(line), found)
    for distribution in found.values():
        tops = {file.parts[0] for file in distribution.files or () if file.parts[0] not in {"..", "__pycache__"}}
        for top in tops:
            (libraries / top).exists() or (libraries / top).symlink_to(distribution.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--isolated", "--python", str(python), "install", "--no-index", "-q"]
    ran = subprocess.run([*pip, f"{wheel}[gateway]"], capture_output=True, text=True, timeout=100, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder / "bin"


@pytest.mark.serial
def test_the_wheel_requires_all_that_it_needs(fresh: Path) -> None:
    """Installed alone it has a command, and none of the tools of development within reach."""
    ran = subprocess.run(
        [str(fresh / "pushwire"), "--version"], capture_output=True, text=True, timeout=30, check=False, env={}
    )
    assert (ran.returncode, pushwire.__version__ in ran.stdout) == (0, True), ran.stderr
    tools = (
        "import importlib.util as u; print([n for n in ('pytest', 'httpx', 'hatchling', 'fastapi') if u.find_spec(n)])"
    )
    found = subprocess.run([str(fresh / "python"), "-c", tools], capture_output=True, text=True, timeout=30, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.serial
def test_a_wheel_serves_the_dashboard_without_node(fresh: Path) -> None:
    if static_dir() is None:
        pytest.skip("the dashboard is not built: `make web` builds it")
    environment = {"PATH": str(fresh), "PYTHONPATH": ""}
    assert shutil.which("node", path=environment["PATH"]) is None
    gateway = Spawned(
        "serve", "--dev", "--port", "0", "--data", "memory:", env=environment, command=[str(fresh / "pushwire")]
    )
    try:
        address = gateway.line("dashboard").split()[1]
        url, _, token = address.partition("/#token=")
        assert token.count(".") == 2
        with urllib.request.urlopen(f"{url}/", timeout=10) as answer:
            page = answer.read().decode()
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assets = re.findall(r'(?:src|href)="(/[^"]+)"', page)
        assert [path for path in assets if path.endswith(".js")]
        assert [path for path in assets if path.endswith(".css")]
        for path in assets:
            with urllib.request.urlopen(url + path, timeout=10) as answer:
                assert answer.read(), path
    finally:
        gateway.end()


@pytest.mark.parametrize(
    ("version", "built", "waived"), [("editable", False, ""), ("standard", True, ""), ("standard", False, "1")]
)
def test_a_wheel_is_built_with_the_dashboard_or_knowingly_without(
    version: str, built: bool, waived: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = load_hook()
    monkeypatch.setenv(hook.WAIVER, waived)
    if built:
        (tmp_path / hook.PAGE).parent.mkdir(parents=True)
        (tmp_path / hook.PAGE).write_text("<!doctype html>", encoding="utf-8")
    made = hook.DashboardHook(str(tmp_path), {}, None, None, "", "wheel")
    made.initialize(version, {})
    if version != "editable":
        monkeypatch.setenv(hook.WAIVER, "")
        (tmp_path / hook.PAGE).unlink(missing_ok=True)
        with pytest.raises(RuntimeError, match="make web"):
            made.initialize(version, {})


def load_hook() -> Any:
    spec = importlib.util.spec_from_file_location("build_hook", ROOT / "web-demo" / "build_hook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
