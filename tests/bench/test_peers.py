"""The peers, on real brokers: greet's guarantee and greet's work, and no login where it could be shown."""

from __future__ import annotations

import asyncio
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, MagicMock, Mock

import aiormq
import pandas as pd
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from bench import tables
from bench.contenders import every, java, kafka_peers, perftest, rabbitmq_peers
from bench.contenders.confluent_peers import CONTENDERS as CONFLUENT
from bench.contenders.kafka_peers import CONTENDERS as KAFKA
from bench.contenders.rabbitmq_peers import CONTENDERS as RABBITMQ
from bench.measure import run
from bench.measure.run import session
from bench.model import JAVA, PERFTEST, Cell, Contender, Figures, Measurement, Place, Session, Settings
from greet import BrokerMissing, Guarantee
from greet.brokers import VARIABLES
from greet.brokers.jars import locked, version

pytestmark = pytest.mark.long

OURS_TO_COMMIT = [one for one in [*KAFKA, *CONFLUENT] if one.name != "FastStream"]
PLAIN = [one for one in every() if one.design != "asyncio" and one.name not in ("greet", JAVA, PERFTEST)]
BY_FIFTY = [one for one in RABBITMQ if one.name in ("aio-pika", "aiormq")]
(SINGLY,) = (one for one in RABBITMQ if one.name == "aio-pika single acks")
(TOOL,) = perftest.CONTENDERS
(BATCHES,) = (one for one in KAFKA if (one.name, one.way) == ("FastStream", "many"))


def named(contender: Contender) -> str:
    return f"{contender.design} {contender.name}, {contender.way}"


def place(url: str, topic: str, window: int = 1) -> Place:
    return Place(url, topic, Guarantee.DURABLE, window=window)


async def committed(where: Place) -> int:
    """The position of its group "g", as the broker has it; 0 where it has none."""
    settings: dict[str, Any] = {"group_id": f"{where.topic}:g", "enable_auto_commit": False}
    async with AIOKafkaConsumer(bootstrap_servers=where.servers, **settings) as other:
        return await other.committed(TopicPartition(where.topic, 0)) or 0


async def take(names: Any, contender: Contender, number: int) -> list[str]:
    taken: list[str] = []
    while len(taken) < number:
        some = await names.__anext__()  # as in a timed loop: `anext` wants a type that has it
        taken += some if contender.way == "many" else [some]
    return taken


@pytest.mark.parametrize("contender", OURS_TO_COMMIT, ids=named)
async def test_a_commit_is_awaited_each_tenth_of_a_second(kafka_url: str, topic: str, contender: Contender) -> None:
    pytest.importorskip(contender.needs or "aiokafka")
    where = place(kafka_url, topic)
    async with contender.publisher(where) as publisher, contender.consumer(where, "g") as names:
        for number in range(3):
            await publisher.publish_all([f"name {number}"])
            assert await take(names, contender, 1) == [f"name {number}"]
            if number:
                assert await committed(where) == number, "when the next is asked for; looking takes longer than 0.1 s"
            else:
                assert await committed(where) == 0, "not before the next is asked for"
            await asyncio.sleep(kafka_peers.COMMIT_SECONDS)
    assert await committed(where) == 3, "at the end"


@pytest.mark.parametrize("contender", OURS_TO_COMMIT, ids=named)
async def test_a_commit_goes_by_the_clock_and_not_by_the_names(
    kafka_url: str, topic: str, contender: Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(contender.needs or "aiokafka")
    monkeypatch.setattr(kafka_peers, "COMMIT_SECONDS", 3600)
    where, number = place(kafka_url, topic, contender.window), 2_500
    async with contender.publisher(where) as publisher, contender.consumer(where, "g") as names:
        await publisher.publish_all(map(str, range(number)))
        assert sorted(map(int, await take(names, contender, number))) == list(range(number))
        assert await committed(where) == 0
    assert await committed(where) == number


@pytest.mark.parametrize("contender", PLAIN, ids=named)
async def test_every_peer_carries_every_name_once(
    kafka_url: str, rabbitmq_url: str, topic: str, contender: Contender
) -> None:
    where = place({"kafka": kafka_url, "rabbitmq": rabbitmq_url}[contender.design], topic, contender.window)
    names = [f"{one:018d}" for one in range(1_234)]
    async with contender.consumer(where, "g") as taken, contender.publisher(where) as publisher:
        await publisher.publish_all(iter(names))
        assert sum(publisher.accepted) == 1_234
        await publisher.publish("one more")
        async with asyncio.timeout(30):
            assert sorted(await take(taken, contender, 1_235)) == [*names, "one more"]
    left = await committed(where) - 1_235 if contender.design == "kafka" else await waiting(where)
    assert left == 0, "all of it is settled at the end"


async def waiting(where: Place) -> int:
    """The messages in the queue of its group "g"."""
    connection = await aiormq.connect(where.address)
    try:
        channel = await connection.channel()
        return (await channel.queue_declare(f"{where.topic}:g", passive=True)).message_count or 0
    finally:
        await connection.close()


@pytest.mark.parametrize(
    ("contender", "most"),
    [pytest.param(one, 50, id=named(one)) for one in BY_FIFTY] + [pytest.param(SINGLY, 1, id=named(SINGLY))],
)
async def test_what_is_not_acknowledged_comes_again(
    rabbitmq_url: str, topic: str, contender: Contender, most: int
) -> None:
    where, names = place(rabbitmq_url, topic, contender.window), [f"{one:03d}" for one in range(200)]
    async with contender.consumer(where, "g"):
        pass
    async with contender.publisher(where) as publisher:
        await publisher.publish_all(names)
    with pytest.raises(ZeroDivisionError):
        async with contender.consumer(where, "g") as taken:
            first = await take(taken, contender, 120)
            raise ZeroDivisionError
    async with asyncio.timeout(30):
        while not (left := await waiting(where)):
            await asyncio.sleep(0.02)
        async with contender.consumer(where, "g") as taken:
            again = await take(taken, contender, left)
    assert first[-1] in again
    assert sorted({*first, *again}) == names
    assert 1 <= len(first) + len(again) - 200 <= most, "what came twice"


async def test_acknowledgements_do_not_go_out_one_by_one() -> None:
    """Of a reader as fast as its publisher, who finds one message at a time; the last goes by the clock."""
    acknowledged: list[int] = []

    class Deliveries(rabbitmq_peers._Deliveries):
        async def acknowledge(self, message: Any) -> None:
            acknowledged.append(int(message.body))

    deliveries = Deliveries(place("rabbitmq://", "t", 500))
    async with deliveries.settled():
        for number in range(1, 121):
            await deliveries.on_message(SimpleNamespace(body=str(number).encode()))
            taken = await deliveries.one() if number % 2 else (await deliveries.several())[0]
            assert taken == str(number)
        assert len(acknowledged) < 20
        async with asyncio.timeout(10):
            while acknowledged[-1:] != [120]:
                await asyncio.sleep(0.01)
    assert acknowledged == sorted({*acknowledged, 50, 100})


REPORTED = """\
id: t, time 1.000 s, sent: 100 msg/s, confirmed: 90 msg/s, nacked: 0 msg/s, received: 100 msg/s, min/median/75th/95th
id: t, time 2.000 s, sent: 900 msg/s, confirmed: 800 msg/s, nacked: 0 msg/s, received: 700 msg/s, min/median/75th/95th
id: t, time 5.000 s, sent: 500 msg/s, confirmed: 400 msg/s, nacked: 0 msg/s, received: 300 msg/s, min/median/75th/95th
test stopped (Producer reached message limit, Consumer reached message limit)
id: t, receiving rate avg: 1 msg/s
"""


async def test_perftest_says_where_no_java_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: before its jars are fetched, for which Windows lacks a lock of files."""
    monkeypatch.setattr(perftest, "_queue", AsyncMock())
    monkeypatch.setattr(perftest, "cached", AsyncMock(side_effect=NameError("name 'fcntl' is not defined")))
    monkeypatch.setattr(perftest, "find_java", Mock(side_effect=BrokerMissing("not on Windows")))
    (row,) = await TOOL.measure(MagicMock(), Cell(TOOL, Guarantee.AT_LEAST_ONCE), 100)
    assert row.fields["error"] == "PerfTest cannot be had: not on Windows"


def test_perftest_is_taken_at_what_arrived_when_it_was_warm() -> None:
    found = perftest.counted(REPORTED, "together", 1_000, left=0)
    assert found["messages_per_s"] == 300, "the first two fifths of five seconds are left out"
    assert found["elapsed_s"] == pytest.approx(1_000 / 300)
    assert (found["received"], found["lost"], found["duplicates"]) == (1_000, 0, 0)
    assert perftest.counted(REPORTED, "together", 1_000, left=3)["duplicates"] == 3
    publishing = perftest.counted(REPORTED, "publish", 1_000, left=998)
    assert (publishing["messages_per_s"], publishing["lost"]) == (400, 2)
    last = "id: t, time 6.000 s, sent: 0 msg/s, confirmed: 0 msg/s, nacked: 0 msg/s, received: 0 msg/s\ntest stopped"
    idle = REPORTED.replace("test stopped", last)
    assert perftest.counted(idle, "together", 1_000, left=0) == found, "nothing was left to carry"
    at_once = "test stopped (Consumer reached message limit)\nid: t, receiving rate avg: 51724 msg/s\n"
    assert perftest.counted(at_once, "consume", 1_000, left=0)["messages_per_s"] == 51_724
    with pytest.raises(ValueError, match="no message in its reports"):
        perftest.counted(re.sub(r"\d+ msg", "0 msg", REPORTED), "together", 1_000, left=0)
    with pytest.raises(ValueError, match="did not carry all"):
        perftest.counted(REPORTED.replace("Consumer reached", "nobody reached"), "together", 1_000, left=0)


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("amqp://u:p@h:1/?timeout=3", "amqp://u:p@h:1"),
        ("amqp://u:p@h:1", "amqp://u:p@h:1"),
        ("amqp://u:p@h:1/v", "amqp://u:p@h:1/v"),
        ("amqp://u:p@h:1//v", "amqp://u:p@h:1/%2Fv"),
        ("amqp://u:p@h:1/%2F", "amqp://u:p@h:1/%2F"),
    ],
)
def test_perftest_gets_the_virtual_host_as_java_reads_it(url: str, uri: str) -> None:
    assert perftest.uri(url) == uri


PACED = """\
id: t, time 4.000 s, sent: 400 msg/s, received: 401 msg/s, min/median/75th/95th/99th consumer latency: 1/2/3/4/5 µs
id: t, time 8.000 s, sent: 500 msg/s, received: 499 msg/s, min/median/75th/95th/99th consumer latency: 1/700/3/4/9000 µs
"""


def test_perftest_at_a_rate_tells_no_counts_so_there_are_none() -> None:
    found = perftest.paced(PACED, 500.0)
    assert found == {
        "messages_per_s": 499, "elapsed_s": 4, "latency_ms": {"p50": 0.7, "p99": 9.0}, "target_rate": 500.0
    }  # fmt: skip
    row = asdict(Measurement("r", "latency", "rabbitmq", "PerfTest", "DURABLE", {"rung": ""}, 1, **found))
    assert tables.counted(pd.json_normalize([row], max_level=1)) == "1 × not counted"


@pytest.mark.timeout(360)
async def test_perftest_runs(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLES["rabbitmq"], rabbitmq_url)
    async with session(Settings(("rabbitmq",), ()), ThreadPoolExecutor) as opened:
        found = await opened.measured(Cell(TOOL, Guarantee.DURABLE), 30_000)
        found += await opened.measured(Cell(TOOL, Guarantee.AT_LEAST_ONCE, phase="apart", size=1024), 30_000)
        found += await opened.measured(Cell(TOOL, Guarantee.DURABLE, rate=500.0), 1)
    assert [one.fields["error"] for one in found] == [None] * 4
    assert [one.params.get("phase") for one in found] == [None, "publish", "consume", None]
    assert [(one.fields["sent"], one.fields["received"]) for one in found[:3]] == [(30_000, 30_000)] * 3
    assert 0 < found[3].fields["latency_ms"]["p50"] <= found[3].fields["latency_ms"]["p99"]
    assert {one.params["loop"] for one in found} == {"Java"}
    assert Cell(TOOL, Guarantee.DURABLE).params["window"] == 500


def test_the_quick_profile_is_no_longer_for_the_peers() -> None:
    quick, full = (Settings(("kafka", "rabbitmq"), tuple(every()), profile=name).of() for name in ("quick", "full"))
    assert {one.label for one in full} - {one.label for one in quick} >= {"PerfTest, many", "confluent-kafka aio"}
    assert {one.label for one in quick} >= {"aio-pika", "aiokafka, many", "confluent-kafka, many", "greet"}


async def test_a_time_that_is_missing_is_an_error() -> None:
    async def timeless(_: Session, __: Cell, ___: int) -> list[Figures]:
        return [
            Figures({"sent": 5, "received": 5, "lost": 0, "elapsed_s": None, "messages_per_s": None, "error": None})
        ]

    cell = Cell(every()[0], Guarantee.AT_LEAST_ONCE, measure=timeless)
    async with session(Settings(("asyncio",), ()), ThreadPoolExecutor) as opened:
        (found,) = await opened.measured(cell, 5)
    assert found.fields["error"] == "no time was measured: nothing came, or all at once"
    assert found.fields["received"] == 5


async def test_a_broker_is_cleared_after_each_round(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the full profile, which else would fill the disk. The line on which consumers tell of themselves stays."""
    monkeypatch.setenv(VARIABLES["kafka"], kafka_url)
    (greets,) = [one for one in every() if (one.design, one.name, one.way) == ("kafka", "greet", "name")]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    try:
        async with session(Settings(("kafka",), (), profile="full", rounds=2), ThreadPoolExecutor) as opened:
            here, before = opened.sites["kafka"], {*await admin.list_topics()}
            cell, carried = Cell(greets, Guarantee.DURABLE, names=100), []
            async for row, _ in run.rounds(opened, "throughput", [cell], "r"):
                carried.append((row.repetition, row.error, len({*await admin.list_topics()} - before)))
            assert carried == [(1, None, 1), (2, None, 1)]
            assert {*here.made} == {here.control}
            assert {*await admin.list_topics()} == before
    finally:
        await admin.close()


async def test_what_a_run_made_is_gone_afterwards(
    kafka_url: str, rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLES["kafka"], kafka_url)
    monkeypatch.setenv(VARIABLES["rabbitmq"], rabbitmq_url)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    try:
        async with session(Settings(("kafka", "rabbitmq"), ()), ThreadPoolExecutor) as opened:
            for one in (one for one in every() if one.name == "greet" and one.way == "name"):
                if one.design in opened.sites:
                    (found,) = await opened.measured(Cell(one, Guarantee.DURABLE, groups=2), 100)
                    assert found.fields["received"] == 200, found.fields["error"]
            made = {design: site.made for design, site in opened.sites.items()}
            assert set(made["kafka"]) <= set(await admin.list_topics())
            assert await kept(rabbitmq_url, made["rabbitmq"]) == 2
        assert not set(made["kafka"]) & set(await admin.list_topics())
        groups = {group for group, *_ in await admin.list_consumer_groups()}
        if find_spec("confluent_kafka"):
            assert not groups & {f"{name}:{group}" for name, own in made["kafka"].items() for group in own}
        assert await kept(rabbitmq_url, made["rabbitmq"]) == 0
    finally:
        await admin.close()


async def kept(url: str, made: dict[str, set[str]]) -> int:
    """How many of these exchanges there are; raises `AssertionError` where a queue is there without its exchange."""
    found = 0
    connection = await aiormq.connect(url.partition("?")[0])
    try:
        for name, groups in made.items():
            there = []
            for queue in (f"{name}.dead", *(f"{name}:{group}" for group in groups)):
                with suppress(aiormq.exceptions.ChannelNotFoundEntity):
                    await (await connection.channel()).queue_declare(queue, passive=True)
                    there.append(queue)
            try:
                await (await connection.channel()).exchange_declare(name, passive=True)
                found += 1
            except aiormq.exceptions.ChannelNotFoundEntity:
                assert not there
    finally:
        await connection.close()
    return found


async def test_faststream_publishes_lists_and_counts_what_is_acknowledged(kafka_url: str, topic: str) -> None:
    pytest.importorskip("faststream")
    where, names = place(kafka_url, topic, BATCHES.window), [f"{one:018d}" for one in range(4_321)]
    async with BATCHES.publisher(where) as publisher:
        await publisher.publish_all(iter(names))
        assert publisher.accepted == [4_321]
    async with BATCHES.consumer(where, "g") as lists:
        assert await take(lists, BATCHES, 4_321) == names


async def test_a_list_that_fails_is_not_counted(kafka_url: str, topic: str) -> None:
    pytest.importorskip("faststream")
    names = [*["short"] * 2_001, "x" * kafka_peers.FULL_BATCH]
    async with BATCHES.publisher(place(kafka_url, topic, BATCHES.window)) as publisher:
        with pytest.raises(Exception, match=r"(?i)batch"):
            await publisher.publish_all(names)
        assert publisher.accepted == [1_000], "the second list was under way: it may be accepted, and is not surely so"


@pytest.mark.parametrize(
    "url",
    [
        "kafka://user:Pa55@a:1,b:2/?timeout=3",
        "kafka+ssl://user:Pa55@a:1,b:2?ca=/a",
        "kafka://user:P?a/55@a:1,b:2/",
        "kafka://user:P@55@a:1,b:2",
        "kafka://a:1,b:2/",
    ],
)
def test_servers_hold_nothing_of_the_login(url: str) -> None:
    assert place(url, "t").servers == "a:1,b:2"


@pytest.mark.usefixtures("kafka_url")
async def test_tools_that_cannot_be_had_are_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A jar in the cache is not the locked one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "greet" / f"kafka-{version()}"
    folder.mkdir(parents=True)
    (folder / locked()[0].file).write_bytes(b"no jar")
    cell = Cell(java.CONTENDERS[0], Guarantee.DURABLE, names=1000)
    async with session(Settings(("kafka",), ()), ThreadPoolExecutor) as opened:
        (row,) = [row async for row, _ in run.rounds(opened, "throughput", [cell], "r")]
    assert row.error is not None
    assert row.error.startswith("Kafka's tools cannot be had: refused ")


def test_javas_consumer_counts_once_it_is_warm() -> None:
    """Cold, 400 records in 0.2 s; after that 600 in 0.1 s. What was consumed in all stands in its metrics."""
    line = "2026-11-29 21:12:{}, 0, 0.0, 0.0, {}, 1.5, 0, 98, 0.0, 10.2"
    reports = ["time, threadId, ...", line.format("41:900", 1), line.format("42:100", 400), line.format("42:200", 1000)]
    output = "\n".join([*reports, "consumer-fetch-manager-metrics:records-consumed-total:{client-id=a}   : 1000.000"])
    assert java.warm_rate(output, 1000) == pytest.approx(6000)
    assert java.CONSUMED.findall(output) == ["1000"]
    with pytest.raises(ValueError, match="read too soon"):
        java.warm_rate("\n".join(reports[:-1]), 1000)
