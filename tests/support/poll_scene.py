"""A gateway in memory with a stepped clock, a producer, and long-polling callers.

It tests nothing.
"""

from __future__ import annotations

from typing import Any

from pushwire.wire.frames import Draft, Publish, Subscribe, Unsubscribe
from pushwire_gateway.api import make_app

from .asgi_client import Call, Caller, turns
from .gateway_parts import Client, Parts

PATH = "/v1/topics/t/groups/g/messages"


class Scene:
    """A gateway, a producer, and callers."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.app = make_app(parts.gateway)
        self.producer: Client

    @classmethod
    async def set(cls, *, groups: tuple[str, ...] = ("g",), **settings: Any) -> Scene:
        scene = cls(await Parts(**settings).start())
        scene.producer = await scene.parts.client("producer")
        for group in groups:
            await scene.producer.ok(Subscribe("t", group, group, ref=1, start="earliest"))
            await scene.producer.ok(Unsubscribe(group, 2))
        return scene

    def caller(self, subject: str = "ann", *caps: dict[str, Any], **more: Any) -> Caller:
        return Caller(self.app, self.parts.token(subject, *caps, **more))

    async def publish(self, *bodies: bytes, topic: str = "t") -> None:
        await self.producer.ok(Publish(topic, [Draft("", body) for body in bodies], 1))

    async def waiting(self, call: Call) -> Call:
        """This poll, once it waits inside the gateway."""
        await turns()
        assert call.waits, call.body
        return call

    async def get(self, caller: Caller, **query: Any) -> list[dict[str, Any]]:
        """What a poll brings that need not wait for a publish."""
        call = caller.poll(PATH, **query)
        await self.settle_down(call)
        return await caller.polled(call)

    async def settle_down(self, call: Call) -> None:
        """Let a poll that need not wait come to its end."""
        await turns(100)
        assert call.task.done(), call.body

    def leases(self) -> int:
        """Held by anybody."""
        return sum(len(seqs["leased"]) for seqs in self.parts.engine.core.census().values())


def data(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["data"] for message in messages]


def tokens(messages: list[dict[str, Any]]) -> list[str]:
    return [message["lease"] for message in messages]
