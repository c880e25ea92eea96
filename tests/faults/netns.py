"""Scenario `netns`: a network of its own for the clients, whose link is taken down: no FIN, no RST, no ICMP.

Owns the namespace and the story: a user of the SDK holds messages when the link goes down; the gateway notices by
silence and gives them to others; the link comes back, and so does the SDK. Needs root and iproute2; everything it
makes has a random name and is gone afterwards.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pushwire
from support.gateway_process import GatewayProcess
from support.ws_client import WsClient

CLONE_NEWNET: Final = 0x40000000
TOPIC = "faults.netns"
HELD = 5
PING_S, PONG_S = 20.0, 10.0
"""The gateway's defaults: silence before a ping, and after it before the end."""
FREED_S_MAX: Final = 2.0
"""After that silence: a ping may just have gone out unneeded, and the sweep, the leases and the push take a moment."""
BACK_S_MAX: Final = 35.0
"""After the link is back: the SDK's longest wait between two attempts is 20 s, and an attempt may be under way."""
STEP_S: Final = 60.0


def missing() -> str | None:
    """Why there can be no network namespace here; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need iproute2 (ip)"
    try:
        with _network():
            return None
    except subprocess.CalledProcessError as error:
        return f"no network namespace can be made here: {error.stderr.strip()[-200:]}"


@dataclass
class Parted:
    """What was seen."""

    freed_s: float = 0.0
    """From the link's end until another consumer had all that was held."""
    down_s: float = 0.0
    back_s: float = 0.0
    """From the link's return until the SDK was given a message again."""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        return (
            f"link down for {self.down_s:.1f} s: {HELD} held messages at another consumer after {self.freed_s:.1f} s, "
            f"the SDK served again {self.back_s:.1f} s after the link was back"
        )


class Network:
    """A namespace with one link to ours. `ours` is the address of this side of it."""

    def __init__(self) -> None:
        mark = secrets.token_hex(3)
        self.name, self._link, self._inner = f"pw{mark}", f"pwo{mark}", f"pwi{mark}"
        third = secrets.randbelow(250)
        self.ours, self._theirs = f"10.213.{third}.1", f"10.213.{third}.2"

    def make(self) -> None:
        _ip("netns", "add", self.name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", self._inner, "netns", self.name)
        _ip("addr", "add", f"{self.ours}/24", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self.name, "addr", "add", f"{self._theirs}/24", "dev", self._inner)
        _ip("-n", self.name, "link", "set", self._inner, "up")

    def cable(self, *, plugged: bool) -> None:
        """Their end of it: to ours nothing is told but that the carrier is gone."""
        _ip("-n", self.name, "link", "set", self._inner, "up" if plugged else "down")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self._link], capture_output=True, check=False)

    def enter(self) -> None:
        """This thread, and those it starts, are inside from now on."""
        libc = ctypes.CDLL(None, use_errno=True)
        with Path(f"/var/run/netns/{self.name}").open("rb") as inside:
            if libc.setns(inside.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True)


@contextmanager
def _network() -> Iterator[Network]:
    network = Network()
    try:
        network.make()
        yield network
    finally:
        network.remove()


class User:
    """A user of the SDK inside the namespace, in a thread of its own: keeps every message it is given until told."""

    def __init__(self, network: Network, url: str, token: str) -> None:
        self._network, self._url, self._token = network, url, token
        self.got: list[int] = []
        self.more = threading.Condition()
        self.failure: BaseException | None = None
        self._stop = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._inside, name="user")
        self._thread.start()

    def _inside(self) -> None:
        try:
            self._network.enter()
            asyncio.run(self._use())
        except BaseException as error:  # noqa: BLE001 - whoever waits for messages is told
            self.failure = error
            with self.more:
                self.more.notify_all()

    async def _use(self) -> None:
        self._loop = asyncio.get_running_loop()
        client = pushwire.Client(self._url, token=self._token, name="parted")
        async with client, client.subscribe(TOPIC, group="main", prefetch=HELD) as subscription:
            reading = asyncio.ensure_future(self._read(subscription))
            stopped = asyncio.ensure_future(self._stop.wait())
            await asyncio.wait([reading, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            reading.cancel()
            await asyncio.wait([reading])

    async def _read(self, subscription: pushwire.Subscription) -> None:
        async for message in subscription:
            with self.more:
                self.got.append(message.seq)
                self.more.notify_all()

    def wait_for(self, count: int, within_s: float) -> None:
        """Until it has been given so many messages in all. Raises TimeoutError, or what ended it."""
        with self.more:
            enough = self.more.wait_for(lambda: len(self.got) >= count or self.failure, within_s)
        if self.failure is not None:
            raise self.failure
        if not enough:
            raise TimeoutError(f"{len(self.got)} of {count} messages within {within_s} s")

    def stop(self) -> None:
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STEP_S)


async def _taken_over(gateway: GatewayProcess) -> None:
    """Another consumer, on this side, gets and acks all that the first one held."""
    heir = await WsClient.open(gateway.port, gateway.token("heir"))
    await heir.subscribe(TOPIC, group="main", prefetch=HELD)
    rows = await heir.take(HELD, timeout_s=STEP_S)
    await heir.ok({"op": "ack", "leases": [row["lease"] for row in rows]})
    heir.abort()


async def _published(gateway: GatewayProcess, count: int) -> None:
    client = await WsClient.open(gateway.port, gateway.token("producer"))
    for number in range(count):
        await client.publish(TOPIC, number)
    client.abort()


def run(folder: Path, ping_s: float = PING_S, pong_s: float = PONG_S) -> Parted:
    parted = Parted()
    settings = {"host": "0.0.0.0", "ping_interval_s": str(ping_s), "pong_timeout_s": str(pong_s)}
    with _network() as network:
        # All addresses: the clients on this side come by loopback, the one inside by the link.
        gateway = GatewayProcess(folder / "gateway", settings=settings)
        user = None
        try:
            gateway.start()
            user = User(network, f"ws://{network.ours}:{gateway.port}", gateway.token("user"))
            asyncio.run(_published(gateway, HELD))
            user.wait_for(HELD, STEP_S)
            network.cable(plugged=False)
            down = time.monotonic()
            asyncio.run(_taken_over(gateway))
            parted.freed_s = time.monotonic() - down
            network.cable(plugged=True)
            parted.down_s, up = time.monotonic() - down, time.monotonic()
            asyncio.run(_published(gateway, 1))
            user.wait_for(HELD + 1, STEP_S)
            parted.back_s = time.monotonic() - up
        except TimeoutError as error:
            parted.problems.append(f"waited in vain: {error}")
        finally:
            if user is not None:
                user.stop()
            gateway.stop()
        gateway.check_log()
    if parted.freed_s > ping_s + pong_s + FREED_S_MAX or parted.back_s > BACK_S_MAX:
        parted.problems.append("later than it may be")
    return parted
