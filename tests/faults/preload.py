"""The shim between a gateway and its files: compiled, preloaded, told what to fail, and read back.

Owns the control block and the command line that preloads; shim.c says what the shim does, journal.py reads what it
wrote. It judges nothing.
"""

from __future__ import annotations

import atexit
import errno
import mmap
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from support.gateway_process import GatewayProcess

ON_WRITE, ON_SYNC, ON_TRUNCATE, ON_OPEN, ON_READ, ON_NAME = 1, 2, 4, 8, 16, 32
EVERYTHING = ON_WRITE | ON_SYNC | ON_TRUNCATE | ON_OPEN | ON_READ | ON_NAME
TAKES_SPACE = ON_WRITE | ON_SYNC | ON_OPEN
OFF, ONCE, FOR_GOOD, DIE = 0, 1, 2, 3
OPERATIONS = {ON_WRITE: "write", ON_SYNC: "sync", ON_TRUNCATE: "truncate", ON_OPEN: "open", ON_READ: "read",
              ON_NAME: "rename"}  # fmt: skip

_BLOCK = struct.Struct("=iiIiqqqQ")
_STEP = struct.Struct("=q")
"""The step of the wall clock, behind the block."""


def missing() -> str | None:
    """Why there can be no shim here; None if there can."""
    try:
        _compiled()
    except ShimMissing as reason:
        return str(reason)
    return None


class ShimMissing(Exception):
    """No compiler, or one that cannot."""


@cache
def _compiled() -> Path:
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise ShimMissing("no C compiler (cc, gcc, clang): the shim between gateway and files cannot be built")
    folder = Path(tempfile.mkdtemp(prefix="pushwire-shim-"))
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True))
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-lpthread"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise ShimMissing(f"{compiler} cannot build the shim: {made.stderr[-500:]}")
    return library


class Control:
    """What the shim is to do, changed while the gateway runs, and what it has counted."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_BLOCK.size + _STEP.size))
        self.path = path
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _BLOCK.size + _STEP.size)

    def arm(self, how: int, nth: int, error: int = errno.EIO, mask: int = EVERYTHING) -> None:
        """Count operations of `mask` from now on and fail the `nth`; with FOR_GOOD, all after it too; with DIE the
        process is killed instead, the operation not done."""
        self._map[: _BLOCK.size] = _BLOCK.pack(how, error, mask, 0, 0, nth, 0, 0)

    def disarm(self) -> None:
        """Fail nothing any more; the counts stay."""
        self._map[:4] = struct.pack("=i", OFF)

    def step_clock(self, by_s: int) -> None:
        """The process's wall clock is wrong by so much from now on."""
        self._map[_BLOCK.size :] = _STEP.pack(by_s * 1_000_000_000)

    def _read(self) -> tuple[int, ...]:
        return _BLOCK.unpack(self._map[: _BLOCK.size])

    @property
    def count(self) -> int:
        return self._read()[4]

    @property
    def fired(self) -> int:
        return self._read()[6]

    @property
    def fired_s(self) -> float:
        """When the first one failed, on the monotonic clock."""
        return self._read()[7] / 1e9

    @property
    def fired_on(self) -> str:
        return OPERATIONS.get(self._read()[3], "nothing")


class ShimmedGateway(GatewayProcess):
    """A real gateway whose file operations go through the shim. Raises ShimMissing."""

    def __init__(self, folder: Path, *, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(folder, settings=settings)
        self.data = self.data.resolve()
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.journal = folder / "journal.bin"
        self.control = Control(folder / "control.bin")
        self._library = _compiled()

    def command(self) -> Sequence[str]:
        return [
            "env", f"LD_PRELOAD={self._library}", f"SHIM_DIRECTORY={self.data}", f"SHIM_JOURNAL={self.journal}",
            f"SHIM_CONTROL={self.control.path}", *super().command(),
        ]  # fmt: skip
