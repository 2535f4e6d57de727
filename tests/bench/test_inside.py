"""What a broker's tools are asked: only a right answer counts, and it is dated. The notebook asks the real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
from common import listening, on_loopback

import greet
from bench.show import inside, tools
from bench.show.inside import Answer, Found, Scene
from bench.show.tools import BEHIND, FAST, MEMBERS, QUESTIONS, STUCK, Look, Member, Metrics, Tool
from greet import brokers

METRICS = """\
# TYPE messages gauge
messages{queue="a:hello",vhost="/"} 3
messages{queue="a:goodbye",vhost="/"} 4.0E1
messages_ready{queue="a:hello"} 5
up 1
"""


def flowing(seconds: float = 20.0) -> Scene:
    """200 messages a second for so long until now, half of them handled, nobody in "goodbye"."""
    now = time.monotonic()
    began = now - seconds
    steps = range(1, int(seconds * 20) + 1)
    scene = Scene(killed=began, began=began, stuck=began, first=time.time() - seconds)
    scene.published += [(began + n / 20, 10 * n) for n in steps]
    scene.handled += [(began + n / 100, n) for n in range(1, int(seconds * 100) + 1)]
    return scene


def tool(looks: Sequence[Look], **more: object) -> Tool:
    """One that gives these looks, and the last one again and again."""
    left = list(looks)

    async def look() -> Look:
        return left.pop(0) if len(left) > 1 else left[0]

    return Tool("a tool", dict.fromkeys(QUESTIONS, "asked"), look, **more)  # type: ignore[arg-type]


async def watched(*looks: Look, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, tuple[str, float]], str]:
    monkeypatch.setattr(inside, "PAUSE_S", 0.001)
    monkeypatch.setattr(inside, "PATIENCE_S", 20.5)
    return await inside._watch(tool(looks), flowing())


def at(ago: float, **told: object) -> Look:
    return Look(at=time.monotonic() - ago, **told)  # type: ignore[arg-type]


def test_metrics_are_found_by_their_labels() -> None:
    said = Metrics(METRICS)
    assert said.sum("messages") == 43
    assert said.sum("messages", queue="a:goodbye") == 40
    assert said.each("up") == [({}, 1.0)]
    with pytest.raises(LookupError, match="no metric messages"):
        said.sum("messages", queue="another")


def test_what_waits_is_dated_by_the_flow() -> None:
    scene = flowing()
    now = scene.published[-1][0]
    assert scene.age(4000, now) == 0
    assert scene.age(3000, now) == pytest.approx(5, abs=0.1)
    assert scene.age(0, now) == pytest.approx(20, abs=0.1)


def test_a_count_rises_between_its_changes() -> None:
    """Counts that are renewed every five seconds, asked every second."""
    counts = [(float(second), 1000.0 * (second // 5)) for second in range(18)]
    assert inside._rise(counts) == (200, 5, 15)
    assert inside._rise(counts[:9])[0] == 0.0  # one change makes no rate


async def test_a_wrong_answer_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    told, suspect = await watched(
        at(0, behind=4000, rates=(500.0, 100.0), sizes=(2, 1), members={"a": Member(7, 1)}), monkeypatch=monkeypatch
    )
    assert told.keys() == {BEHIND}
    assert not suspect


async def test_a_right_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, works = Member(0, 10), Member(5, 3)
    told, suspect = await watched(
        at(8, members={"a": stuck, "b": works}),
        at(4, members={"a": stuck, "b": Member(9, 3)}),
        at(0, behind=3800, rates=(195.0, 103.0), sizes=(2, 0), members={"a": stuck, "b": Member(20, 3)}),
        monkeypatch=monkeypatch,
    )
    assert told.keys() == {BEHIND, FAST, MEMBERS, STUCK}
    assert told[FAST][0] == "195/s in and 103/s out"
    assert told[BEHIND][0] == "3,800 messages"
    assert 0.5 < told[BEHIND][1] < 2
    assert suspect == "a"


async def test_what_is_published_is_not_how_fast_a_group_is(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = [at(10 - n, behind=200 * (10 + n), published=200.0 * (10 + n)) for n in range(11)]
    told, _ = await watched(*looks, monkeypatch=monkeypatch)
    assert told.keys() == {BEHIND}


def test_who_waits_for_work_is_not_stuck() -> None:
    idle, works = Member(5, 0), [Member(n, 1) for n in range(3)]
    looks = [at(8 - 4 * n, members={"idle": idle, "works": works[n]}) for n in range(3)]
    assert inside._still(looks) == set()
    looks = [at(4 - 4 * n, members={"new": Member(0, 1)}) for n in range(2)]
    assert inside._still(looks) == set()  # for four seconds only


async def test_who_was_named_has_to_be_the_one_that_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside, "PAUSE_S", 0.001)
    both, one = at(0, members={"a": Member(0, 1), "b": Member(0, 1)}), at(0, members={"b": Member(0, 1)})
    assert await inside._gone(tool([both, one]), "a")
    assert not await inside._gone(tool([both, one]), "b")


async def test_what_is_left_and_when_it_is_full() -> None:
    async def room() -> tuple[float, float | None]:
        return 4000.0, 86_400_000_000.0

    async def nothing_left() -> tuple[float, float | None]:
        return 4000.0, None

    earlier = (time.monotonic() - 4, 0.0)
    said, _ = await inside._fills(tool([], room=room), earlier) or ("", 0)
    assert said.startswith("86 GB left, 1.0 kB/s more: in 1,000 days")
    assert await inside._fills(tool([], room=nothing_left), earlier) is None
    assert await inside._fills(tool([]), None) is None


def test_the_tables_show_who_tells_what() -> None:
    answers = [Answer("one", BEHIND, "3 messages", "by looking", 0.25), Answer("one", FAST, "", "it has no eyes", 0.0)]
    found = Found("a broker", answers, [], {}, {})
    assert found.told.loc[BEHIND, "one"] == "✓"
    assert found.told.loc[FAST, "one"] == "–"
    assert found.late(BEHIND) == {"one": 0.25}
    assert found.late(FAST) == {}
    assert inside.overview(found).loc[BEHIND, "one"] == "0.2 s"
    assert found.table.iloc[1].tolist() == [FAST, "one", "–", "", "it has no eyes"]


async def test_a_tool_that_cannot_be_had_is_a_line() -> None:
    async def missing(*_: object) -> Tool:
        raise greet.BrokerMissing("its jar could not be fetched")

    found, lines = await tools._had(None, "topic", {"JMX": missing})  # type: ignore[arg-type]
    assert found == []
    assert lines == ["JMX cannot be asked: its jar could not be fetched"]


@pytest.mark.long
async def test_only_its_user_on_this_machine_can_ask_the_exporter() -> None:
    async with brokers.kafka() as broker:
        get = await tools._exporter(broker)
        assert "kafka_server" in await get("/metrics")
        (settings,) = broker.folder.glob("*.yaml")
        assert settings.stat().st_mode & 0o077 == 0
        sockets = listening(broker.folder)
        assert [address for address, _ in sockets if not on_loopback(address)] == []
        for _, port in sockets:
            with pytest.raises(OSError):  # noqa: PT011 - 401, or no HTTP at all
                await asyncio.wait_for(tools._http(port)("/metrics"), 10)
        password = settings.read_text().split('"')[1]
        assert not any(password in word for pid in broker.pids for word in psutil.Process(pid).cmdline())
        assert not Path(f"/tmp/.java_pid{broker.pids[0]}").exists()
