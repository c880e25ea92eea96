"""The Python SDK of pushwire; it knows the wire, and neither the gateway nor the stores.

async with Client("wss://push.example.org", token=get_token) as client:
    receipt = await client.publish("orders", {"id": 7})
    async with client.subscribe("orders", group="billing") as sub:
        async for message in sub:
            async with message:
                await charge(message.json())

`Client.tail` shows every message of a topic; `Admin` manages topics, groups, dead letters and connections over HTTP.
"""

from __future__ import annotations

from .admin import Admin
from .backoff import Backoff
from .client import Client
from .drafts import PublishItem, Text
from .errors import (
    AdminError,
    AlreadySettled,
    AuthError,
    BadConfig,
    BatchError,
    ClientClosed,
    Conflict,
    ConsumerUnhealthy,
    EpochChanged,
    Forbidden,
    IdConflict,
    Kicked,
    LeaseLost,
    MessageTooLarge,
    NotConnected,
    NotFound,
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
from .follower import Gap, Position, TailMessage
from .message import Message, Reject, Retry
from .options import Start
from .states import State, StateChange
from .subscription import Subscription
from .tail import Tail
from .token_source import TokenSource
from .version import __version__
from .wire.frames import Receipt

__all__ = [
    "Admin",
    "AdminError",
    "AlreadySettled",
    "AuthError",
    "Backoff",
    "BadConfig",
    "BatchError",
    "Client",
    "ClientClosed",
    "Conflict",
    "ConsumerUnhealthy",
    "EpochChanged",
    "EventStream",
    "Forbidden",
    "Gap",
    "IdConflict",
    "Kicked",
    "LeaseLost",
    "Message",
    "MessageTooLarge",
    "NotConnected",
    "NotFound",
    "Position",
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
    "Start",
    "State",
    "StateChange",
    "SubscribeError",
    "Subscription",
    "Tail",
    "TailMessage",
    "Text",
    "TokenSource",
    "TopicFull",
    "Unauthorized",
    "__version__",
]
