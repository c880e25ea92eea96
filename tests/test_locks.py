"""What is installed is what was locked: a hash for each package, no address, and one set of versions in all lists."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", ".ci/tools.txt", ".ci/fuzz.txt")
NPM_LOCKS = ("sdk/js/package-lock.json", "web-demo/package-lock.json")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def entries(text: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each requirement of a lock with its hashes. Raises ValueError for a line that is neither."""
    logical = text.replace("\\\n", " ").splitlines()
    for line in (line for line in logical if line and not line.startswith("#")):
        requirement, *hashes = re.split(r"\s(?=--)", line)
        yield Requirement(requirement.strip()), [part.strip() for part in hashes]


def locked(name: str) -> list[tuple[Requirement, list[str]]]:
    return list(entries((ROOT / name).read_text(encoding="utf-8")))


def versions(name: str) -> dict[str, str]:
    return {canonicalize_name(each.name): str(each.specifier) for each, _ in locked(name)}


@pytest.mark.parametrize("name", LOCKS)
def test_each_locked_package_has_one_version_and_a_hash(name):
    found = locked(name)
    assert found
    for requirement, hashes in found:
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert all(HASH.fullmatch(each) for each in hashes), requirement
        assert requirement.url is None
    assert len(versions(name)) == len(found), "a package is locked twice"


@pytest.mark.parametrize("name", LOCKS)
def test_no_address_is_in_a_lock(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"://|@|^-|index", text, re.MULTILINE)


def test_packages_with_code_of_their_own_are_locked_for_other_platforms_too():
    hashes = {requirement.name: each for requirement, each in locked("requirements.lock")}
    for name in ("cryptography", "orjson", "pydantic-core", "uvloop", "httptools"):
        assert len(hashes[name]) > 10, name


def test_what_is_required_is_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    lines = [
        *project["project"]["dependencies"],
        *extras["gateway"],
        *extras["dev"],
        *project["build-system"]["requires"],
    ]
    have = versions("requirements.lock")
    for requirement in map(Requirement, lines):
        version = have[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_what_builds_us_is_locked_with_what_it_needs():
    """Installed without build isolation, so pip fetches nothing for it: it must all be there by then."""
    assert versions("requirements.lock").keys() >= {
        "hatchling", "editables", "packaging", "pathspec", "pluggy", "trove-classifiers",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["tools", "fuzz"])
def test_the_tools_that_are_asked_for_are_locked(name):
    lines = (ROOT / f".ci/{name}.in").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
    have = versions(f".ci/{name}.txt")
    assert wanted
    assert all(each.specifier.contains(have[canonicalize_name(each.name)].removeprefix("==")) for each in wanted)


def test_the_constraints_are_the_lock_without_hashes():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert {name: f"=={version}" for name, version in pins.items()} == versions("requirements.lock")


def test_every_install_of_make_checks_hashes():
    """But the one of this project itself, which fetches nothing."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    installs = re.findall(r"^.*(?:pip install|\$\(INSTALL\)).*$", text, re.MULTILINE)
    ours = "@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e ."
    assert "INSTALL := -m pip install -qq --require-hashes $(WHEELS)" in installs
    others = [line.strip() for line in installs if "$(INSTALL)" not in line and not line.startswith("INSTALL :=")]
    assert others == [ours]


@pytest.mark.parametrize("name", ["tools", "fuzz"])
def test_another_lock_is_another_install(name):
    """The stamp's name carries what is locked, so an environment made from an older lock is made anew."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    stamp = f"{name.upper()} := build/{name}/.installed-$(shell sha256sum < .ci/{name}.txt 2>/dev/null | cut -c1-16)"
    lines = text.splitlines()
    assert stamp in lines
    assert f"$({name.upper()}): .ci/{name}.txt | $(STAMP)" in lines


def test_a_package_with_another_hash_is_refused(tmp_path):
    """pip itself says so, of a file that is there: nothing is fetched."""
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    wheel.write_bytes(b"not what was locked")
    (tmp_path / "lock.txt").write_text(f"thing==1.0 --hash=sha256:{'0' * 64}\n")
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--isolated", "--no-index", "-f", str(tmp_path), "--target",
         str(tmp_path / "out"), "--require-hashes", "-r", str(tmp_path / "lock.txt")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode != 0
    assert "DO NOT MATCH THE HASHES" in ran.stderr


@pytest.mark.parametrize("name", NPM_LOCKS)
def test_each_npm_package_has_a_hash_and_no_address(name):
    packages = json.loads((ROOT / name).read_text(encoding="utf-8"))["packages"]
    foreign = {path: entry for path, entry in packages.items() if "node_modules/" in path and not entry.get("link")}
    assert len(foreign) > 5
    for path, entry in foreign.items():
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/=]{88}", entry["integrity"]), path
        assert "resolved" not in entry, path
    # What is left is ours: the project itself, and links inside this tree.
    for path, entry in packages.items():
        assert "://" not in entry.get("resolved", ""), path
