"""`pushwire topic …` and `pushwire group …`: what one manages.

Owns words and tables; what may be set, and whether, is the gateway's to say.
"""

from __future__ import annotations

from typing import Any, cast

import click

import pushwire
from pushwire.admin_shapes import TopicConfig
from pushwire.wire import codec

from .base import administer, administer_one, confirm, milliseconds, output_option, place, seconds, show_one, show_rows
from .base import token_option as token
from .base import url_option as url
from .base import yes_option as yes

TOPIC_COLUMNS = {
    "TOPIC": "name",
    "MESSAGES": "messages",
    "BYTES": "bytes",
    "SCHEDULED": "scheduled",
    "DEAD": "dead_letters",
    "GROUPS": "group_count",
    "LAST SEQ": "last_seq",
}
GROUP_COLUMNS = {
    "GROUP": "name",
    "PAUSED": "paused",
    "MEMBERS": "member_count",
    "IN FLIGHT": "in_flight",
    "START SEQ": "start_seq",
    "OWNER": "owner",
}
MEMBER_COLUMNS = {
    "SUBJECT": "subject",
    "CONNECTION": "connection",
    "SUB": "sub",
    "IN FLIGHT": "in_flight",
    "PREFETCH": "prefetch",
    "TIMEOUTS": "timeouts_in_a_row",
    "AWAY": "away",
}


def config_of(_context: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> TopicConfig:
    """FIELD=VALUE: a value is JSON, a word, `default` (the gateway's setting), numbers with commas, or, for a field
    that ends in _ms, a duration such as 1h."""
    config: dict[str, Any] = {}
    for entry in given:
        name, equals, text = entry.partition("=")
        if not equals or not name or name in config:
            raise click.BadParameter("fields are FIELD=VALUE, each once, such as retain_ms=1h")
        config[name] = _value(name, text)
    return cast("TopicConfig", config)


def _value(name: str, text: str) -> Any:
    if text == "default":
        return None
    if name.endswith("_ms") and not text.isdecimal():
        return milliseconds(text)
    try:
        return codec.loads(f"[{text}]" if "," in text and not text.startswith("[") else text)
    except codec.BadJson:
        return text


fields = click.argument("config", nargs=-1, metavar="[FIELD=VALUE]...", callback=config_of)


@click.group()
def topic() -> None:
    """Topics: list, make, configure, empty, remove."""


@topic.command("ls")
@url
@token
@output_option
def topic_ls(url: str, token: str, output: str) -> None:
    """The topics that the token may look after."""

    async def work(admin: pushwire.Admin) -> None:
        show_rows(output, [row async for row in admin.topics()], TOPIC_COLUMNS)

    administer(url, token, work)


@topic.command("info")
@url
@token
@output_option
@click.argument("name", metavar="TOPIC")
def topic_info(url: str, token: str, output: str, name: str) -> None:
    """One topic, its configuration and its groups."""

    async def work(admin: pushwire.Admin) -> None:
        found = await admin.topic(name)
        if output == "json":
            show_one(output, found)
            return
        show_one(output, {field: value for field, value in found.items() if field not in ("config", "groups")})
        click.echo()
        show_one(output, found["config"])
        click.echo()
        show_rows(output, found["groups"], GROUP_COLUMNS)

    administer(url, token, work)


@topic.command("create")
@url
@token
@output_option
@click.argument("name", metavar="TOPIC")
@fields
def topic_create(url: str, token: str, output: str, name: str, config: TopicConfig) -> None:
    """Make a topic, with a configuration such as retain_ms=1h strict=true weights=1,2,4,8 ledger=full.

    Fields: ack_timeout_ms, max_failures, max_deliveries, weights (of priority 0 to 3), strict, retain_ms, max_age_ms,
    retain_bytes, quota_messages, quota_bytes, expired (dead, drop), ledger (off, settled, full), dedupe.
    """

    async def work(admin: pushwire.Admin) -> None:
        made = await admin.create_topic(name, config)
        show_one(output, made if output == "json" else made["config"])

    administer(url, token, work)


@topic.command("set")
@url
@token
@output_option
@click.argument("name", metavar="TOPIC")
@fields
def topic_set(url: str, token: str, output: str, name: str, config: TopicConfig) -> None:
    """Set fields of a topic's configuration; the others stay. `default`: as the gateway is set. The fields
    are those of `topic create`."""
    if not config:
        raise click.UsageError("say which fields, such as retain_ms=1h")

    async def work(admin: pushwire.Admin) -> None:
        show_one(output, (await admin.configure_topic(name, config))["config"])

    administer(url, token, work)


@topic.command("rm")
@url
@token
@yes
@click.argument("name", metavar="TOPIC")
def topic_rm(url: str, token: str, yes: bool, name: str) -> None:
    """Remove a topic with its messages, groups, dead letters and ledger."""
    confirm(f"remove topic {name} with all that is in it", yes)
    administer(url, token, lambda admin: admin.delete_topic(name))


@topic.command("purge")
@url
@token
@yes
@click.argument("name", metavar="TOPIC")
@click.option("--through", "through_seq", type=click.IntRange(1), help="only up to this seq")
def topic_purge(url: str, token: str, yes: bool, name: str, through_seq: int | None) -> None:
    """Remove a topic's messages, for all groups. Dead letters stay."""
    confirm(f"remove the messages of topic {name}", yes)

    async def work(admin: pushwire.Admin) -> None:
        click.echo(f"{await admin.purge_topic(name, through_seq)} messages removed")

    administer(url, token, work)


@click.group()
def group() -> None:
    """Groups of a topic: list, make, pause, move, remove."""


@group.command("ls")
@url
@token
@output_option
@click.argument("topic")
def group_ls(url: str, token: str, output: str, topic: str) -> None:
    """The groups of a topic."""

    async def work(admin: pushwire.Admin) -> None:
        show_rows(output, await admin.groups(topic), GROUP_COLUMNS)

    administer(url, token, work)


@group.command("info")
@url
@token
@output_option
@click.argument("topic")
@click.argument("name", metavar="GROUP")
def group_info(url: str, token: str, output: str, topic: str, name: str) -> None:
    """One group and its members."""

    async def work(admin: pushwire.Admin) -> None:
        found = await admin.group(topic, name)
        if output == "json":
            show_one(output, found)
            return
        show_one(output, {field: value for field, value in found.items() if field != "members"})
        click.echo()
        show_rows(output, found["members"], MEMBER_COLUMNS)

    administer(url, token, work)


@group.command("create")
@url
@token
@output_option
@click.argument("topic")
@click.argument("name", metavar="GROUP")
@click.option("--from", "start", callback=place, help="where it begins: earliest, new, a seq or a time")
@click.option("--inactive-ttl", callback=seconds, help="removed so long after its last member left, such as 7d")
def group_create(
    url: str,
    token: str,
    output: str,
    topic: str,
    name: str,
    start: pushwire.Start | None,
    inactive_ttl: float | None,
) -> None:
    """Make a group of a topic that is there."""
    administer_one(
        url, token, output, lambda admin: admin.create_group(topic, name, start=start, inactive_ttl_s=inactive_ttl)
    )


@group.command("rm")
@url
@token
@yes
@click.argument("topic")
@click.argument("name", metavar="GROUP")
def group_rm(url: str, token: str, yes: bool, topic: str, name: str) -> None:
    """Remove a group; messages that only it was owed go with it."""
    confirm(f"remove group {name} of {topic}", yes)
    administer(url, token, lambda admin: admin.delete_group(topic, name))


@group.command("pause")
@url
@token
@output_option
@click.argument("topic")
@click.argument("name", metavar="GROUP")
def group_pause(url: str, token: str, output: str, topic: str, name: str) -> None:
    """Hand nothing out any more. Leases run on."""
    administer_one(url, token, output, lambda admin: admin.pause_group(topic, name))


@group.command("resume")
@url
@token
@output_option
@click.argument("topic")
@click.argument("name", metavar="GROUP")
def group_resume(url: str, token: str, output: str, topic: str, name: str) -> None:
    """Undo pause."""
    administer_one(url, token, output, lambda admin: admin.resume_group(topic, name))


@group.command("seek")
@url
@token
@yes
@output_option
@click.argument("topic")
@click.argument("name", metavar="GROUP")
@click.argument("to", metavar="earliest|new|SEQ|TIME", callback=place)
def group_seek(url: str, token: str, yes: bool, output: str, topic: str, name: str, to: pushwire.Start) -> None:
    """Owe the group what is kept from there on, settled before or not, and nothing below it."""
    confirm(f"move group {name} of {topic} to {to}: what lies below is not delivered to it any more", yes)

    administer_one(url, token, output, lambda admin: admin.seek_group(topic, name, to))
