"""The peers, on real brokers: greet's guarantee and greet's work, and no login where it could be shown."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.contenders import every, java, kafka_peers, missing
from bench.contenders.kafka_peers import CONTENDERS as KAFKA
from bench.measure import run
from bench.measure.run import session
from bench.model import Cell, Contender, Place, Settings
from greet import Guarantee
from greet.brokers import VARIABLES
from greet.brokers.jars import locked, version

OURS_TO_COMMIT = [one for one in KAFKA if one.name != "FastStream"]
(BATCHES,) = (one for one in KAFKA if (one.name, one.way) == ("FastStream", "many"))


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


@pytest.mark.parametrize("contender", OURS_TO_COMMIT, ids=lambda one: f"{one.label}, {one.way}")
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


@pytest.mark.parametrize("contender", OURS_TO_COMMIT, ids=lambda one: f"{one.label}, {one.way}")
async def test_a_commit_goes_by_the_clock_and_not_by_the_names(
    kafka_url: str, topic: str, contender: Contender, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(contender.needs or "aiokafka")
    monkeypatch.setattr(kafka_peers, "COMMIT_SECONDS", 3600)
    where, number = place(kafka_url, topic, contender.window), 2_500
    async with contender.publisher(where) as publisher, contender.consumer(where, "g") as names:
        await publisher.publish_all(map(str, range(number)))
        assert await take(names, contender, number) == [str(one) for one in range(number)]
        assert await committed(where) == 0
    assert await committed(where) == number


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
    names = [*["short"] * 2_001, "x" * kafka_peers.BATCH_BYTES]
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


@pytest.mark.parametrize(
    ("design", "url", "without"),
    [
        ("kafka", "kafka://user:Pa55@127.0.0.1:9092", "a login"),
        ("kafka", "kafka+ssl://127.0.0.1:9092?ca=/a", "TLS"),
        ("kafka", "kafka+ssl://user:Pa55@127.0.0.1:9092", "TLS"),
        ("kafka", "kafka://127.0.0.1:9092?compression=gzip&timeout=3", "compression"),
        ("kafka", "kafka://127.0.0.1:9092,127.0.0.1:9093?partitions=1", ""),
        ("kafka", "kafka://127.0.0.1:no", ""),
        ("rabbitmq", "amqps://user:Pa55@127.0.0.1/", "TLS"),
        ("rabbitmq", "amqp://user:Pa55@127.0.0.1,127.0.0.2/", "several hosts"),
        ("rabbitmq", "amqp://user:Pa55@127.0.0.1/?queue_type=quorum", "queue_type"),
        ("rabbitmq", "amqp://user:Pa55@127.0.0.1/vhost", ""),
        ("rabbitmq", "", ""),
    ],
)
def test_peers_are_left_out_where_only_greet_knows_the_way(
    design: str, url: str, without: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    usual, told = every(), missing()
    monkeypatch.setenv(VARIABLES[design], url)
    left_out = [one for one in usual if without and one.design == design and one.name != "greet"]
    assert every() == [one for one in usual if one not in left_out]
    new = {f"peers of {design}": f"name a broker in {VARIABLES[design]} without {without}"} if without else {}
    assert missing() == told | new
    assert "Pa55" not in str(missing())


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
