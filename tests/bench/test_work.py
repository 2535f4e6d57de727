"""The question of work: a message is handled before the next one is asked for, and who can work at a time does."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from bench.contenders import every
from bench.measure import run
from bench.model import DESIGNS, Settings
from bench.questions import work
from greet.designs import named


async def test_a_message_is_handled_before_the_next_is_asked_for() -> None:
    came, done = iter("abc"), list[str]()

    async def following() -> str:
        done.append("asked")
        return next(came)

    one = work.handled(following, 0.05)
    loop = asyncio.get_running_loop()
    assert await one() == "a"
    began = loop.time()
    waiting = asyncio.ensure_future(one())
    await asyncio.sleep(0)
    assert done == ["asked"], "the next one is asked for while the first is handled"
    assert await waiting == "b"
    assert loop.time() - began >= 0.05


@pytest.mark.parametrize(
    ("design", "partitions", "hands"),
    [("asyncio", 1, 8), ("rabbitmq", 1, 8), ("kafka", 1, 1), ("kafka", 4, 4), ("kafka", 16, 8)],
)
def test_who_works_at_a_time(design: str, partitions: int, hands: int) -> None:
    assert named(design).at_work(8, partitions) == hands


def test_a_log_without_partitions_has_one_reader() -> None:
    alone = [one for one in map(named, DESIGNS) if not one.deals_out and not one.partitioned]
    assert alone
    assert {one.at_work(8, 1) for one in alone} == {1}


def test_where_a_partition_has_one_reader_each_member_gets_one_too() -> None:
    settings = Settings(tuple(DESIGNS), tuple(every()), rounds=1)
    tried = [(one.contender.design, one.partitions) for one in work.cells(settings) if one.members == 16]
    assert {design for design, partitions in tried if partitions == 16} == {
        design for design in DESIGNS if named(design).partitioned and not named(design).deals_out
    }
    assert all((design, 1) in tried for design in DESIGNS)


async def test_sixteen_members_share_the_work() -> None:
    settings = Settings(("asyncio",), tuple(every()), rounds=1)
    (cell,) = [one for one in work.cells(settings) if one.members == 16]
    async with run.session(settings) as session:
        (found,) = await session.deliver(cell, 1600)
    assert (found.fields["lost"], found.fields["duplicates"], found.fields["error"]) == (0, 0, None)
    members = found.details["members"]
    assert len(members) == 16
    assert min(members) > 0.8 * max(members), Counter(members)
    assert found.fields["messages_per_s"] < 16 * 200, "each message takes five milliseconds"
