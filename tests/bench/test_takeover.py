"""The question of takeover: what is told of a group is what its messages went through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bench.contenders import every
from bench.contenders.confluent_peers import MEMBERS
from bench.measure import run
from bench.model import Contender, Settings
from bench.questions import takeover
from bench.questions.takeover import JOINS, KILLED, LEAVES, Story, during
from greet import Guarantee
from greet.brokers import VARIABLES

SECOND = 1_000_000_000
(RABBITMQ,) = (one for one in every() if (one.design, one.name, one.way) == ("rabbitmq", "greet", "name"))


def story(handled: list[int], seconds: list[float], accepted: int = 10) -> Story:
    """Ten messages, one due each second, of which the first ones were accepted."""
    due = np.arange(10) * SECOND
    done = (np.array(seconds) * SECOND).astype(np.int64)
    return Story(due, due + 1, np.where(np.arange(10) < accepted, due + 2, 0), np.array(handled), done)


def told(found: Story, begin: float, end: float, what: str = KILLED) -> dict[str, Any]:
    return dict(during(found, what, int(begin * SECOND), int(end * SECOND)).fields)


def test_the_wait_is_that_of_the_message_that_waited_longest() -> None:
    waited = story([0, 1, 2, 5, 6, 3, 4, 7, 8, 9], [0.1, 1.1, 2.1, 5.1, 6.1, 6.5, 6.6, 7.1, 8.1, 9.1])
    assert told(waited, 2.5, 9)["elapsed_s"] == pytest.approx(3.5), (
        "message 3, which was due before 5 and came after it"
    )
    assert told(waited, 0, 2.5)["elapsed_s"] == pytest.approx(0.1), "before anything was done"
    assert told(waited, 7, 99)["elapsed_s"] == pytest.approx(0.1), "and after it was over"


def test_a_message_that_was_under_way_as_a_member_was_killed_is_told_of_the_kill() -> None:
    waited = story(list(range(10)), [0.1, 1.1, 5.0, *(5.1 + n for n in range(7))])
    assert told(waited, 1.5, 2.1)["received"] == 0
    assert told(waited, 2.1, 5.05)["elapsed_s"] == pytest.approx(3.0)


def test_what_came_twice_is_told_of_when_it_came_again_and_what_was_lost_of_when_it_was_due() -> None:
    twice = story([0, 1, 2, 1, 2, 3, 5, 6, 7], [0.1, 1.1, 2.1, 3.2, 3.3, 3.4, 5.1, 6.1, 7.1], accepted=9)
    before, killed, after = told(twice, 0, 3), told(twice, 3, 6), told(twice, 6, 99)
    assert [one["duplicates"] for one in (before, killed, after)] == [0, 2, 0]
    assert [one["lost"] for one in (before, killed, after)] == [0, 1, 1], "4 and 8; that 9 came nobody has promised"
    assert sum(one["sent"] for one in (before, killed, after)) == 10
    assert sum(one["accepted"] for one in (before, killed, after)) == 9


def test_only_a_member_that_joins_may_double_nothing() -> None:
    allowed = {what: during(story([0], [0.1]), what, 0, SECOND).params["allowed"] for what in (JOINS, LEAVES, KILLED)}
    assert allowed == {JOINS: "", LEAVES: "duplicates", KILLED: "duplicates"}


def test_the_two_protocols_are_asked_where_the_peers_are() -> None:
    designs = ("asyncio", "rabbitmq", "kafka")
    alone = Settings(designs, tuple(one for one in every() if one.name == "greet"))
    assert [cell.contender.design for cell in takeover.cells(alone)] == ["rabbitmq", "kafka"]
    beside = [cell.contender for cell in takeover.cells(Settings(designs, tuple(every()), "full"))]
    assert [one for one in beside if one in MEMBERS] == [
        one for one in MEMBERS if one.needs in {e.needs for e in every()}
    ]
    assert takeover.cells(Settings(designs, tuple(every()), guarantee=Guarantee.AT_MOST_ONCE)) == []


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("contender", [RABBITMQ, *MEMBERS], ids=lambda one: one.name)
async def test_a_group_goes_on(
    rabbitmq_url: str, kafka_url: str, contender: Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(contender.needs or "greet")
    monkeypatch.setenv(VARIABLES["rabbitmq"], rabbitmq_url)
    monkeypatch.setenv(VARIABLES["kafka"], kafka_url)
    settings = Settings((contender.design,), tuple(every()))
    (cell,) = [one for one in takeover.cells(settings) if one.contender == contender]
    async with run.session(settings) as session:
        rows = await session.measured(cell, 0)
    assert [one.fields["error"] for one in rows] == [None] * 4
    assert [one.params["rung"] for one in rows] == [JOINS, LEAVES, JOINS, KILLED]
    assert [one.fields["lost"] for one in rows] == [0] * 4
    if contender.name == "greet":
        assert [one.fields["duplicates"] for one in rows[:3]] == [0] * 3, "who leaves has settled what it has handled"
    waited = rows[3].fields["elapsed_s"]
    assert (5 < waited < 15) if contender in MEMBERS else (0 < waited < 3), "a session of 6 s"
