"""The admin API's dead letters: shown, put back at a pace and not for ever, thrown away."""

from __future__ import annotations

from typing import Any

import pytest

from pushwire.wire.frames import Draft, Messages, Nack, Publish, Reject, Subscribe
from pushwire_gateway import admin_dead
from pushwire_gateway.admin import Admin
from pushwire_gateway.admin_dead import REDRIVE_S_MAX, Wanted
from pushwire_gateway.app import whole_app
from pushwire_gateway.hub import Stats
from pushwire_gateway.refusal import Refused
from pushwire_storage.base import DeadFilter
from support.asgi_client import Caller, turns
from support.gateway_parts import Client, Parts, cap


async def refusal(awaitable: Any) -> str:
    with pytest.raises(Refused) as refused:
        await awaitable
    return refused.value.refusal.code


async def dead(parts: Parts, count: int, keys: int = 0) -> Client:
    """So many dead letters of `t`, and the consumer that rejected them."""
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", "s", start="new", prefetch=count, ref=1))
    drafts = [Draft("", b'{"n":%d}' % n, key=f"k{n % keys}" if keys else None) for n in range(count)]
    await ann.ok(Publish("t", drafts, 2))
    rejected = 0
    while rejected < count:
        deliveries = (await ann.next(Messages)).deliveries
        ann.say(Reject([delivery.lease for delivery in deliveries], "no good"))
        rejected += len(deliveries)
    await parts.settled()
    assert parts.store.topics["acme", "t"].dead_letters == count
    return ann


class PacedAdmin(Admin):
    """Its pauses step the clock."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts.gateway)
        self.parts = parts
        self.pauses: list[float] = []

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(round(seconds, 3))
        self.parts.step(seconds)


async def test_a_dead_letter_keeps_its_bytes_its_reason_and_how_it_came_to_it() -> None:
    parts = await Parts(backoff_cap_s=0.01).start()
    root = parts.principal("root")
    await parts.admin.create_topic(root, "t", {"max_failures": 2})
    ann = await parts.client()
    await ann.ok(Subscribe("t", "g", ref=1))
    await ann.ok(Publish("t", [Draft("a", b'{"n":1}', key="k", headers=b'{"h":"v"}')], 2))
    for error in ("first", "second"):
        [delivery] = await ann.delivered(1)
        await ann.ok(Nack([delivery.lease], None, error, 3))
        await parts.elapse(0.1)
    [letter] = (await parts.admin.dead_letters(root, "t", DeadFilter()))["dead_letters"]
    assert (letter["group"], letter["reason"], letter["error"], letter["failures"]) == ("g", "failures", "second", 2)
    assert "data" not in letter["message"]
    whole = await parts.admin.dead_letter(root, "t", letter["id"])
    assert (whole["message"]["data"], whole["message"]["headers"]) == ({"n": 1}, {"h": "v"})
    assert [(attempt["how"], attempt["error"], attempt["subject"]) for attempt in whole["attempts"]] == [
        ("nacked", "first", "ann"),
        ("nacked", "second", "ann"),
    ]
    assert await refusal(parts.admin.dead_letter(root, "t", 999)) == "not_found"


async def test_letters_are_filtered_and_come_in_pages() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await dead(parts, 4, keys=2)
    first = await parts.admin.dead_letters(root, "t", DeadFilter(), 3)
    assert (len(first["dead_letters"]), first["more"]) == (3, True)
    rest = await parts.admin.dead_letters(root, "t", DeadFilter(after_id=first["dead_letters"][-1]["id"]), 3)
    assert (len(rest["dead_letters"]), rest["more"]) == (1, False)
    for match, count in (
        (DeadFilter(key="k1"), 2),
        (DeadFilter(group="h"), 0),
        (DeadFilter(reason="rejected"), 4),
        (DeadFilter(reason="expired"), 0),
    ):
        assert len((await parts.admin.dead_letters(root, "t", match))["dead_letters"]) == count


async def test_one_is_put_back_into_its_group_at_the_end_and_marked() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    ann = await dead(parts, 2)
    await ann.ok(Publish("t", [Draft("new", b"1")], 4))
    assert [delivery.message.id for delivery in await ann.delivered(1)] == ["new"]
    [first, _] = (await parts.admin.dead_letters(root, "t", DeadFilter()))["dead_letters"]
    answer = await parts.admin.redrive(root, "t", Wanted([first["id"]]))
    assert (answer["redriven"], answer["more"]) == (1, False)
    [delivery] = await ann.delivered(1)
    assert (delivery.message.redriven, delivery.deliveries) == (True, 1)
    assert delivery.message.seq > first["message"]["seq"]
    assert (await parts.admin.topic(root, "t"))["dead_letters"] == 1


async def test_a_redrive_of_all_keeps_its_pace_and_its_order() -> None:
    parts = await Parts(redrive_per_s=10).start()
    root = parts.principal("root")
    ann = await dead(parts, 35)
    admin = PacedAdmin(parts)
    answer = await admin.redrive(root, "t", Wanted())
    assert (answer["redriven"], answer["more"]) == (35, False)
    assert admin.pauses == [1.0, 1.0, 1.0]  # ten at a time, and none after the last
    numbers = [delivery.message.data for delivery in await ann.delivered(35)]
    assert numbers == [b'{"n":%d}' % n for n in range(35)]


async def test_a_request_ends_after_its_time_and_the_next_one_goes_on() -> None:
    parts = await Parts(redrive_per_s=2).start()
    root = parts.principal("root")
    await dead(parts, 30)
    admin = PacedAdmin(parts)
    answer = await admin.redrive(root, "t", Wanted())
    assert (answer["redriven"], answer["more"]) == (int(2 * REDRIVE_S_MAX), True)
    rest = await admin.redrive(
        root, "t", Wanted(match=DeadFilter(after_id=answer["after_id"]), before_ms=answer["before_ms"])
    )
    assert (rest["redriven"], rest["more"]) == (10, False)


async def test_a_slow_redrive_of_named_letters_comes_to_its_end() -> None:
    parts = await Parts(redrive_per_s=2).start()
    root = parts.principal("root")
    await dead(parts, 50)
    admin = PacedAdmin(parts)
    ids = [letter["id"] for letter in (await admin.dead_letters(root, "t", DeadFilter()))["dead_letters"]]
    answers = [await admin.redrive(root, "t", Wanted(ids)) for _ in range(3)]  # the same ids, as the page says
    assert [(answer["redriven"], answer["more"]) for answer in answers] == [(20, True), (20, True), (10, False)]
    assert sum(admin.pauses) == 22  # 25 batches of a second, the first of each request at once


async def test_what_dies_again_meanwhile_is_not_put_back_again() -> None:
    parts = await Parts(redrive_per_s=1).start()
    root = parts.principal("root")
    ann = await dead(parts, 3)

    class Rejecting(PacedAdmin):
        async def _pause(self, seconds: float) -> None:
            await super()._pause(seconds)
            for delivery in await ann.delivered(1):
                await ann.ok(Reject([delivery.lease], "still no good", 5))

    answer = await Rejecting(parts).redrive(root, "t", Wanted())
    assert (answer["redriven"], answer["more"]) == (3, False)
    letters = (await parts.admin.dead_letters(root, "t", DeadFilter()))["dead_letters"]
    assert [letter["message"].get("redriven") for letter in letters] == [True, True]


async def test_a_full_topic_stops_a_redrive_and_says_so() -> None:
    parts = await Parts(redrive_per_s=2).start()
    root = parts.principal("root")
    await dead(parts, 4)
    await parts.admin.configure_topic(root, "t", {"quota_messages": 2})
    answer = await PacedAdmin(parts).redrive(root, "t", Wanted())
    assert (answer["redriven"], answer["more"], answer["stopped"]) == (2, True, "topic_full")
    assert await refusal(parts.admin.redrive(root, "t", Wanted())) == "topic_full"


async def test_one_redrive_of_a_topic_at_a_time() -> None:
    parts = await Parts(redrive_per_s=1).start()
    root = parts.principal("root")
    await dead(parts, 2)

    class Nosy(PacedAdmin):
        second: str = ""

        async def _pause(self, seconds: float) -> None:
            self.second = await refusal(self.redrive(root, "t", Wanted()))
            await super()._pause(seconds)

    admin = Nosy(parts)
    assert (await admin.redrive(root, "t", Wanted()))["redriven"] == 2
    assert admin.second == "conflict"
    assert (await admin.redrive(root, "t", Wanted()))["redriven"] == 0  # free again


async def test_discard_removes_one_or_all_that_match() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await dead(parts, 6, keys=2)
    first = (await parts.admin.dead_letters(root, "t", DeadFilter(), 1))["dead_letters"][0]
    assert (await parts.admin.discard(root, "t", Wanted([first["id"], 999])))["discarded"] == 1
    assert (await parts.admin.discard(root, "t", Wanted(match=DeadFilter(key="k1"))))["discarded"] == 3
    left = (await parts.admin.dead_letters(root, "t", DeadFilter()))["dead_letters"]
    assert {letter["message"]["key"] for letter in left} == {"k0"}
    assert (await parts.admin.discard(root, "t", Wanted()))["discarded"] == 2
    assert (await parts.admin.topic(root, "t"))["dead_letters"] == 0


async def test_dead_letters_need_admin_and_a_bounded_list() -> None:
    parts = await Parts().start()
    root = parts.principal("root")
    await dead(parts, 1)
    eve = parts.principal("eve", cap("consume", "replay"), jti="eve")
    admin = parts.admin
    assert await refusal(admin.dead_letters(eve, "t", DeadFilter())) == "forbidden"
    assert await refusal(admin.dead_letter(eve, "t", 1)) == "forbidden"
    assert await refusal(admin.redrive(eve, "t", Wanted())) == "forbidden"
    assert await refusal(admin.discard(eve, "t", Wanted())) == "forbidden"
    assert await refusal(admin.redrive(root, "t", Wanted(range(1001)))) == "batch_too_large"


async def test_what_is_too_much_for_one_transaction_is_put_back_by_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = await Parts().start()
    monkeypatch.setattr("pushwire_storage.dead.REDRIVE_BYTES_MAX", 1)
    ann = await dead(parts, 4)
    ids = [
        letter["id"]
        for letter in (await parts.admin.dead_letters(parts.principal("root"), "t", DeadFilter()))["dead_letters"]
    ]
    by_ids = await parts.admin.redrive(parts.principal("root"), "t", Wanted(ids=[*ids[:2], 999]))
    assert (by_ids["redriven"], by_ids["more"]) == (2, False)  # 999 is none, and not counted
    rest = await parts.admin.redrive(parts.principal("root"), "t", Wanted())
    assert (rest["redriven"], rest["more"]) == (2, False)
    assert parts.store.topics["acme", "t"].dead_letters == 0
    await ann.delivered(4)


@pytest.mark.parametrize("what", ["redrive", "discard"])
async def test_whose_client_is_gone_works_no_more(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_dead, "REDRIVE_MAX", 2)
    parts = await Parts(redrive_per_s=2).start()
    await dead(parts, 10)
    caller = Caller(whole_app(parts.gateway, Stats), parts.token("root"))
    parts.store.hold()
    call = caller.begin("POST", f"/v1/admin/topics/t/dead/{what}", {"match": {}}, content_length="13")
    await turns()
    call.leave()
    await turns()
    parts.store.release()
    await call.task
    kept = parts.store.topics["acme", "t"].dead_letters
    assert kept == 8  # the batch at hand is finished
