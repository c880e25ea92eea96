"""`make fuzz`: coverage-guided input for what reads strangers' bytes: the gateway's codec and the token verifier.

Owns the targets and what must hold of any input: no exception but the one that is meant, and what was read, written and
read again, is the same. A target runs in a process of its own, because the fuzzer ends it. atheris is needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.bounded import exit_on_sigterm, run_bounded

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "build" / "fuzz-corpus"
LENGTH_MAX = 4096
INPUT_S_MAX = 30
"""An input that takes longer is a finding, and is kept as one."""
START_S_MAX = 90
"""What a target may take beyond its time and its last input: instrumenting what it imports takes seconds."""
DONE = re.compile(r"Done (\d+) runs")

Target = Callable[[bytes], None]


def codec() -> Target:
    """Bytes as a WebSocket message: frames or Malformed, never an exception."""
    from pushwire.wire.frames import Malformed
    from pushwire.wire.jsonv1 import JsonClientCodec, JsonServerCodec

    client, gateway = JsonClientCodec(), JsonServerCodec()

    def one(data: bytes) -> None:
        frames: list[Any] = list(gateway.feed(data))
        for frame in frames:
            if type(frame) is not Malformed:
                assert list(gateway.feed(client.encode(frame))) == [frame], frame

    return one


def token() -> Target:
    """Bytes as a token: refused, unless what is signed is the one good token."""
    from pushwire_gateway.auth import Unauthorized
    from support import tokens

    verifier, good = tokens.verifier("HS256"), tokens.token().encode()

    def one(data: bytes) -> None:
        try:
            verifier.verify(data, tokens.NOW)
        except Unauthorized:
            return
        assert data.rpartition(b".")[0] == good.rpartition(b".")[0], "a forged token was accepted"

    return one


def claims() -> Target:
    """Bytes as the claims of a token that is signed as it should be."""
    from pushwire_gateway.auth import Unauthorized
    from support import tokens

    verifier = tokens.verifier("HS256")

    def one(data: bytes) -> None:
        try:
            principal = verifier.verify(tokens.token(payload=data), tokens.NOW)
        except Unauthorized:
            return
        said = json.loads(data)
        assert said["sub"] == principal.subject
        assert said.get("tenant", "default") == principal.tenant
        assert type(said["exp"]) is int
        assert type(said["iat"]) is int
        assert 0 < said["exp"] - said["iat"] <= 3600
        assert said["exp"] > tokens.NOW - 31

    return one


TARGETS: dict[str, Callable[[], Target]] = {"codec": codec, "token": token, "claims": claims}


def seeds(name: str) -> list[bytes]:
    """What a target begins with."""
    from support import tokens

    if name == "codec":
        lines = (ROOT / "sdk" / "PROTOCOL.md").read_text(encoding="utf-8").splitlines()
        return [line.strip().encode() for line in lines if line.strip().startswith('{"op"')]
    if name == "token":
        return [tokens.token().encode()]
    return [json.dumps(tokens.claims(limits={"prefetch": 5})).encode()]


def fuzz(name: str, seconds: int) -> None:
    """Never returns: the fuzzer ends the process. Exit code 0: nothing found."""
    atheris = importlib.import_module("atheris")
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["pushwire", "pushwire_gateway"]):
        target = TARGETS[name]()
    for number, seed in enumerate(seeds(name)):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", f"-max_len={LENGTH_MAX}", f"-timeout={INPUT_S_MAX}"]
    options += [f"-artifact_prefix={corpus.parent}/{name}-"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz what reads strangers' bytes.")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=300, help="for each target (300)")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if options.inside:
        fuzz(options.targets[0], options.seconds)
    exit_on_sigterm()
    failed = []
    for name in options.targets or TARGETS:
        command = [sys.executable, __file__, name, "--inside", "--seconds", str(options.seconds)]
        within_s = options.seconds + INPUT_S_MAX + START_S_MAX
        code, output = run_bounded(command, within_s)  # the fuzzer ends at SIGTERM by itself
        done = DONE.search(output)
        if code != 0 or done is None:
            failed.append(name)
            print(output[-3000:])
        if code is None:
            print(f"{name}: not over after {within_s} s, ended")
        print(
            f"{name}: {done[1] if done else '?'} inputs: {'FAILED' if name in failed else 'nothing found'}", flush=True
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
