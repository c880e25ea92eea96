"""The Python SDK of pushwire; it knows the wire, and neither the gateway nor the stores.

async with Client("wss://push.example.org", token=get_token) as client:
    receipt = await client.publish("orders", {"id": 7})
    async with client.subscribe("orders", group="billing") as sub:
        async for message in sub:
            async with message:
                await charge(message.json())
"""

from __future__ import annotations

from .backoff import Backoff
from .client import Client, TokenSource
from .drafts import PublishItem, Text
from .errors import (
    AlreadySettled,
    AuthError,
    BatchError,
    ClientClosed,
    Forbidden,
    IdConflict,
    LeaseLost,
    MessageTooLarge,
    NotConnected,
    ProtocolError,
    PublishError,
    PushwireError,
    RateLimited,
    RequestTimeout,
    SettleError,
    SubscribeError,
    TopicFull,
    Unauthorized,
)
from .events import EventStream
from .message import Message, Reject, Retry
from .states import State, StateChange
from .subscription import Subscription
from .version import __version__
from .wire.frames import Receipt

__all__ = [
    "AlreadySettled",
    "AuthError",
    "Backoff",
    "BatchError",
    "Client",
    "ClientClosed",
    "EventStream",
    "Forbidden",
    "IdConflict",
    "LeaseLost",
    "Message",
    "MessageTooLarge",
    "NotConnected",
    "ProtocolError",
    "PublishError",
    "PublishItem",
    "PushwireError",
    "RateLimited",
    "Receipt",
    "Reject",
    "RequestTimeout",
    "Retry",
    "SettleError",
    "State",
    "StateChange",
    "SubscribeError",
    "Subscription",
    "Text",
    "TokenSource",
    "TopicFull",
    "Unauthorized",
    "__version__",
]
