"""The public face of the SDK: names that users may rely on, and examples that compile against them."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import pushwire
from pushwire import Admin, Client, Message, Subscription, Tail, TailMessage

EXAMPLES = Path(__file__).resolve().parents[2] / "sdk" / "examples"
ERRORS = {
    "AdminError", "AlreadySettled", "AuthError", "BadConfig", "BatchError", "ClientClosed", "Conflict",
    "ConsumerUnhealthy", "EpochChanged", "Forbidden", "IdConflict", "Kicked", "LeaseLost", "MessageTooLarge",
    "NotConnected", "NotFound", "ProtocolError", "PublishError", "PushwireError", "RateLimited", "RequestTimeout",
    "SettleError", "SubscribeError", "TopicFull", "Unauthorized",
}  # fmt: skip
NAMES = {
    "Admin", "Backoff", "Client", "EventStream", "Gap", "Message", "Position", "PublishItem", "Receipt", "Reject",
    "Retry", "Start", "State", "StateChange", "Subscription", "Tail", "TailMessage", "Text", "TokenSource",
    "__version__",
}  # fmt: skip


def test_the_public_names_are_these():
    assert set(pushwire.__all__) == ERRORS | NAMES
    assert all(hasattr(pushwire, name) for name in pushwire.__all__)
    assert all(issubclass(getattr(pushwire, name), pushwire.PushwireError) for name in ERRORS)


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (Client, {"close", "drain", "error", "events", "publish", "publish_many", "state", "subscribe", "tail",
                  "wait_connected"}),
        (Tail, {"active", "position", "topic"}),
        (TailMessage, {"content_type", "data", "due_at", "encoding", "headers", "id", "json", "key", "priority",
                       "published_at", "published_at_ms", "redriven", "seq", "text", "topic"}),
        (Admin, {"backup", "close", "configure_topic", "connections", "create_group", "create_topic", "dead_letter",
                 "dead_letters", "delete_group", "delete_topic", "discard", "group", "groups", "history", "kick",
                 "pause_group", "peek", "purge_topic", "redrive", "resume_group", "revocations", "revoke",
                 "seek_group", "stats", "topic", "topics"}),
        (Subscription, {"ack_timeout_s", "active", "drain", "group", "pause", "prefetch", "resume", "run", "topic"}),
        (Message, {"ack", "ack_confirmed", "attempt", "content_type", "data", "encoding", "expires_at", "extend",
                   "headers", "id", "json", "key", "lease", "lost", "nack", "priority", "published_at",
                   "published_at_ms", "redelivered", "redriven", "reject", "release", "seq", "settled", "text",
                   "topic"}),
    ],
)  # fmt: skip
def test_the_public_members_are_there_and_explained(owner, names):
    missing = {name for name in names if not hasattr(owner, name)}
    assert not missing
    assert inspect.getdoc(owner)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_uses_public_names_only(example):
    tree = ast.parse(example.read_text(encoding="utf-8"))
    used = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "pushwire"]
    assert used
    assert {alias.name for node in used for alias in node.names} <= set(pushwire.__all__)
