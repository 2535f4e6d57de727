"""A member of a cluster is gone, or a disk is full: which tool of which broker tells, and how many seconds late.

Notebook 08 shows what was told here; it asks for the rest itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import greet
from bench.show import tools
from bench.show.inside import NOT_NOW
from bench.show.tools import Metrics
from greet import GreetError, brokers
from greet.brokers import Broker, kafka_tool

TOPIC = "orders"
GROUP = f"{TOPIC}:hello"
PLUGINS = ("rabbitmq_management", "rabbitmq_prometheus")
PATIENCE_S = 60.0
MIB = 2**20

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

Ask = Callable[[], Awaitable[Any]]


async def late(happen: Ask, **asks: tuple[Ask, Any, Any]) -> dict[str, float]:
    """By tool, how many seconds after something happened it said so: what it says before and after is given."""
    before = [await until(ask, well) for ask, well, _ in asks.values()]
    assert None not in before, f"not all was well: {dict(zip(asks, before, strict=True))}"
    await happen()
    happened = time.monotonic()
    said = await asyncio.gather(*(until(ask, ill) for ask, _, ill in asks.values()))
    print({name: at and round(at - happened, 1) for name, at in zip(asks, said, strict=True)})
    return {name: at - happened for name, at in zip(asks, said, strict=True) if at}


async def until(ask: Ask, expected: Any) -> float | None:
    """When it said so."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if await ask() == expected:
                return time.monotonic()
        except NOT_NOW:
            pass
        await asyncio.sleep(0.3)
    return None


@asynccontextmanager
async def member(broker: Broker, query: str) -> AsyncIterator[None]:
    """One of "hello", and a message for it."""
    async with greet.connect(f"{broker.url}?{query}", TOPIC) as line, line.subscribe("hello"):
        await line.publish("Ada")
        yield


def rabbitmqctl(broker: Broker) -> Callable[..., Awaitable[Any]]:
    """What asks the first node by it, and gives what it says as data."""
    node = broker.nodes[0]
    program = Path(node.command[0]).with_name("rabbitmqctl")
    command = [str(program), "-q", "-n", node.environment["RABBITMQ_NODENAME"]]
    environment = dict(node.environment) | {"PATH": os.environ["PATH"]}

    async def ask(*words: str) -> Any:
        said = await tools._said([*command, *words, "--formatter", "json"], environment)
        return json.loads(said) if said.strip() else None

    return ask


# --- a member is gone ---


async def test_all_tools_of_rabbitmq_tell_that_a_quorum_queue_has_lost_a_member() -> None:
    async with brokers.rabbitmq(nodes=3, plugins=PLUGINS) as broker, member(broker, "queue_type=quorum"):
        ports = broker.nodes[0].plugins
        api = tools._http(ports["rabbitmq_management"], *tools._login(broker.urls[0]))
        scrape = tools._http(ports["rabbitmq_prometheus"])
        control = rabbitmqctl(broker)

        async def commands() -> tuple[int, int]:
            (one,) = (one for one in await control("list_queues", "name", "members", "online") if one["name"] == GROUP)
            return len(one["members"]), len(one["online"])

        async def management() -> tuple[int, int]:
            one = json.loads(await api(f"/api/queues/%2F/{quote(GROUP, safe='')}"))
            return len(one["members"]), len(one["online"])

        async def prometheus() -> float:
            return Metrics(await scrape("/metrics/per-object")).sum("rabbitmq_unreachable_cluster_peers_count")

        told = await late(
            lambda: broker.kill(3),
            rabbitmqctl=(commands, (3, 3), (3, 2)),
            management=(management, (3, 3), (3, 2)),
            prometheus=(prometheus, 0, 1),
        )
        assert told.keys() == {"rabbitmqctl", "management", "prometheus"}


async def test_all_tools_of_kafka_tell_that_partitions_have_lost_a_replica() -> None:
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AdminClient

    async with brokers.kafka(nodes=3) as broker, member(broker, "partitions=2&replication=3"):
        servers = broker.urls[0].partition("://")[2]
        command = await kafka_tool("org.apache.kafka.tools.TopicCommand", "--bootstrap-server", servers, "--describe")
        scrape = await tools._exporter(broker)

        async def commands() -> int:
            said = await tools._said([*command, "--under-replicated-partitions", "--topic", TOPIC])
            return sum(line.strip().startswith(f"Topic: {TOPIC}\t") for line in said.splitlines())

        async def admin() -> list[int]:
            # A client that lives on goes on asking the dead member, which it has for the controller.
            client = AdminClient({"bootstrap.servers": servers, "log_level": 0})
            (found,) = client.describe_topics(TopicCollection([TOPIC]), request_timeout=3).values()
            try:
                topic = await asyncio.to_thread(found.result)
            except KafkaException as error:
                raise LookupError(str(error)) from error
            return [len(part.replicas) - len(part.isr) for part in topic.partitions]

        async def jmx() -> bool:
            said = Metrics(await scrape("/metrics"))
            return said.sum("kafka_server_ReplicaManager_Value", name="UnderReplicatedPartitions") > 0

        told = await late(
            lambda: broker.kill(3), commands=(commands, 0, 2), admin=(admin, [0, 0], [1, 1]), jmx=(jmx, False, True)
        )
        assert told.keys() == {"commands", "admin", "jmx"}


# --- a disk is full ---


async def test_a_full_disk_stops_the_publishers_of_rabbitmq_and_all_tools_tell() -> None:
    async with brokers.rabbitmq(plugins=PLUGINS) as broker:
        ports = broker.nodes[0].plugins
        api = tools._http(ports["rabbitmq_management"], *tools._login(broker.url))
        scrape = tools._http(ports["rabbitmq_prometheus"])
        control = rabbitmqctl(broker)

        async def commands() -> bool:
            return bool((await control("status"))["alarms"])

        async def management() -> bool:
            (node,) = json.loads(await api("/api/nodes"))
            return bool(node["disk_free_alarm"])

        async def prometheus() -> float:
            return Metrics(await scrape("/metrics")).sum("rabbitmq_alarms_free_disk_space_watermark")

        async with greet.connect(f"{broker.url}?timeout=3", TOPIC) as line, line.subscribe("hello"):
            await line.publish("Ada")
            told = await late(
                lambda: control("set_disk_free_limit", str(10**15)),
                rabbitmqctl=(commands, False, True),
                management=(management, False, True),
                prometheus=(prometheus, 0, 1),
            )
            with pytest.raises(GreetError):
                await line.publish("Bob")
            await control("set_disk_free_limit", str(50 * MIB))
            await line.publish("Cem")
        assert told.keys() == {"rabbitmqctl", "management", "prometheus"}


async def test_kafka_deletes_what_a_group_has_not_read_and_its_lag_still_counts_it() -> None:
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
    from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, OffsetSpec

    soon = {"log.retention.check.interval.ms": "500", "log.initial.task.delay.ms": "500"}
    async with brokers.kafka(config=soon | {"log.segment.bytes": str(MIB)}) as broker:
        servers = broker.url.partition("://")[2]
        client = AdminClient({"bootstrap.servers": servers, "log_level": 0})
        scrape = await tools._exporter(broker)
        describe = ["--bootstrap-server", servers, "--describe", "--group", GROUP]
        groups = await kafka_tool("org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", *describe)
        async with greet.connect(f"{broker.url}?partitions=1", TOPIC) as line:
            async with line.subscribe("hello"):
                pass
            await line.publish_many(["Ada" * 1000] * 2000)
        place = TopicPartition(TOPIC, 0)

        def offset(spec: Any) -> int:
            (found,) = client.list_offsets({place: spec}).values()
            return int(found.result(30).offset)

        async def admin() -> bool:
            """Whether the group's place is one that there is no longer."""
            (found,) = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP, [place])]).values()
            (committed,) = (await asyncio.to_thread(found.result, 30)).topic_partitions
            return bool(committed.offset < await asyncio.to_thread(offset, OffsetSpec.earliest()))

        async def jmx() -> bool:
            said = Metrics(await scrape("/metrics"))
            return said.sum("kafka_log_Log_Value", name="LogStartOffset", topic=TOPIC) > 0

        async def keep_little() -> None:
            entry = ConfigEntry("retention.bytes", str(MIB), incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ConfigResource.Type.TOPIC, TOPIC, incremental_configs=[entry])
            (found,) = client.incremental_alter_configs([resource]).values()
            await asyncio.to_thread(found.result, 30)

        told = await late(keep_little, admin=(admin, False, True), jmx=(jmx, False, True))
        assert told.keys() == {"admin", "jmx"}
        (line_,) = (one.split() for one in (await tools._said(groups)).splitlines() if one.startswith(GROUP))
        assert line_[5] == "2000"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """64 MiB of memory, as a disk of its own."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be made by root alone, and not in every container")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


async def test_a_disk_without_room_ends_kafkas_broker(small_disk: Path) -> None:
    async with brokers.kafka(config={"log.dirs": str(small_disk / "data")}) as broker:
        with pytest.raises(GreetError):
            async with greet.connect(f"{broker.url}?partitions=1&timeout=5", TOPIC) as line:
                for _ in range(64):
                    await line.publish_many(["Ada" * 1000] * 500)
        node = broker.nodes[0]
        assert node.process
        await asyncio.to_thread(node.process.wait, 30)
        assert "No space left on device" in node.text()
