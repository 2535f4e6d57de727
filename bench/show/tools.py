"""The tools that RabbitMQ and Kafka bring to look inside, each asked for the same things.

A tool tells of one topic with two groups, "hello" and "goodbye". What it does not tell is None, and why not
stands beside how the rest is told. All that is asked is on loopback, and each ask has a deadline.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from bench.contenders.java import run_tool
from greet import BrokerMissing
from greet.brokers import Broker, kafka_tool
from greet.brokers.jars import cached, locked
from greet.brokers.process import free_ports, write

ASK_S = 30.0
"""Seconds that an answer may take."""
GROUPS = "hello", "goodbye"
PARTITIONS = 2
BEHIND, FAST, STUCK = "How far behind is a group?", "How fast is it?", "Who is stuck?"
MEMBERS, OLDEST, FULL = "How many members has it?", "How old is the oldest that waits?", "What will be full, and when?"
QUESTIONS = BEHIND, FAST, STUCK, MEMBERS, OLDEST, FULL
EXPORTER = Path(__file__).with_name("jmx_exporter.lock")
METRIC = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)", re.MULTILINE)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Member:
    """What a tool tells of a member: messages handled so far (0 where it does not tell), and those that wait for it."""

    handled: float
    waits: float


@dataclass(frozen=True)
class Look:
    """What a tool tells at a moment."""

    behind: int | None = None
    """Messages that wait for "goodbye"."""
    published: float | None = None
    handled: float | None = None
    """By "hello". Both are counts, so that two looks make a rate."""
    rates: tuple[float, float] | None = None
    """Published, and handled by "hello", in a second: of a tool that works it out."""
    sizes: tuple[int, int] | None = None
    """Members of the two groups."""
    members: Mapping[str, Member] | None = None
    """Those of "hello", by the name that the tool has for them."""
    at: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class Tool:
    """How a tool answers, or why it does not, and what asks it."""

    name: str
    how: Mapping[str, str]
    look: Callable[[], Awaitable[Look]]
    oldest: Callable[[], Awaitable[float | None]] | None = None
    """When the oldest message that waits for "goodbye" was published, in seconds of the wall clock."""
    stamped: Callable[[], Awaitable[float | None]] | None = None
    """The same of a message whose publisher wrote the time into it."""
    room: Callable[[], Awaitable[tuple[float, float | None]]] | None = None
    """Bytes that are kept, and bytes that are left."""
    text: Callable[[], Awaitable[str]] | None = None
    """All that it says."""


@dataclass(frozen=True)
class Metrics:
    """Lines of Prometheus' text format."""

    text: str

    def each(self, name: str, /, **labels: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of a metric that has these labels at least."""
        found = []
        for line in METRIC.finditer(self.text):
            if line[1] == name:
                has = dict(LABEL.findall(line[2] or ""))
                if labels.items() <= has.items():
                    found.append((has, float(line[3])))
        return found

    def sum(self, name: str, /, **labels: str) -> float:
        """Their sum; raises `LookupError` if there is none."""
        values = [value for _, value in self.each(name, **labels)]
        if not values:
            raise LookupError(f"no metric {name}")
        return sum(values)


Start = Callable[[Broker, str], Awaitable[Tool]]


async def of_rabbitmq(broker: Broker, topic: str) -> tuple[list[Tool], list[str]]:
    """`rabbitmqctl`, the management's API and the metrics for Prometheus; and of those that cannot be had, why."""
    return await _had(
        broker, topic, {"rabbitmqctl": _rabbitmqctl, "management API": _management, "rabbitmq_prometheus": _prometheus}
    )


async def of_kafka(broker: Broker, topic: str) -> tuple[list[Tool], list[str]]:
    """The command-line tools, the admin API and JMX; and of those that cannot be had, why."""
    return await _had(broker, topic, {"command-line tools": _commands, "admin API": _admin, "JMX": _jmx})


async def _had(broker: Broker, topic: str, starts: Mapping[str, Start]) -> tuple[list[Tool], list[str]]:
    found, missing = list[Tool](), list[str]()
    for name, start in starts.items():
        try:
            found.append(await start(broker, topic))
        except (BrokerMissing, ImportError, OSError, LookupError) as error:
            missing.append(f"{name} cannot be asked: {error}")
    return found, missing


def _groups(topic: str) -> list[str]:
    """What a group is called on the broker."""
    return [f"{topic}:{group}" for group in GROUPS]


def _stamped(topic: str) -> str:
    """A queue with a message whose publisher wrote the time into it."""
    return f"{topic}:stamped"


async def _rabbitmqctl(broker: Broker, topic: str) -> Tool:
    hello, goodbye = _groups(topic)
    (node,) = broker.nodes
    program = Path(node.command[0]).with_name("rabbitmqctl")
    if not program.exists():
        raise BrokerMissing("it is not beside rabbitmq-server: set GREET_RABBITMQ_SERVER to one that has it there")
    tool = [str(program), "-q", "-n", node.environment["RABBITMQ_NODENAME"]]
    environment = dict(node.environment) | {"PATH": os.environ["PATH"]}

    async def ask(*words: str) -> Any:
        return json.loads(await _said([*tool, *words, "--formatter", "json"], environment))

    async def by_name(*columns: str) -> dict[str, Any]:
        return {queue["name"]: queue for queue in await ask("list_queues", "name", *columns)}

    async def look() -> Look:
        found, at = await by_name("messages", "consumers"), time.monotonic()
        held = {one["pid"]: one["messages_unacknowledged"] for one in await ask("list_channels")}
        members = {}
        for one in await ask("list_consumers", "queue_name", "channel_pid", "prefetch_count"):
            if one["queue_name"] == hello:
                in_hand = held[one["channel_pid"]]
                members[one["channel_pid"]] = Member(0, in_hand if in_hand >= one["prefetch_count"] else 0)
        sizes = (found[hello]["consumers"], found[goodbye]["consumers"])
        return Look(behind=found[goodbye]["messages"], sizes=sizes, members=members, at=at)

    async def oldest(queue: str) -> float | None:
        return _stamp((await by_name("head_message_timestamp"))[queue])

    async def room() -> tuple[float, float | None]:
        kept = sum(queue["message_bytes"] for queue in (await by_name("message_bytes")).values())
        status = await ask("status")
        return kept, status["disk_free"] - status["disk_free_limit"]

    how = {
        BEHIND: "list_queues: messages",
        FAST: "counts nothing that comes and goes",
        STUCK: "list_channels, twice: messages_unacknowledged stays at the prefetch; so it does for who is only busy",
        MEMBERS: "list_queues: consumers; list_consumers names them",
        OLDEST: "list_queues: head_message_timestamp, which the publisher has to write",
        FULL: "status: disk_free; list_queues, twice: message_bytes",
    }
    return Tool("rabbitmqctl", how, look, lambda: oldest(goodbye), lambda: oldest(_stamped(topic)), room)


async def _management(broker: Broker, topic: str) -> Tool:
    hello, goodbye = _groups(topic)
    api = _http(broker.nodes[0].plugins["rabbitmq_management"], *_login(broker.url))
    await _answers(api, "/api/overview")
    await _publish_stamped(api, _stamped(topic))

    async def get(path: str) -> Any:
        return json.loads(await api(f"/api/{path}"))

    async def one(queue: str) -> Any:
        return await get(f"queues/%2F/{quote(queue, safe='')}")

    async def look() -> Look:
        unread, at = await one(goodbye), time.monotonic()
        read = await one(hello)
        stats = read.get("message_stats", {})
        rates = tuple(stats.get(f"{what}_details", {}).get("rate", 0.0) for what in ("publish", "ack"))
        channels = {channel["name"]: channel for channel in await get("channels")}
        names = [
            consumer["channel_details"]["name"]
            for consumer in await get("consumers/%2F")
            if consumer["queue"]["name"] == hello
        ]
        members = {
            name: Member(channel.get("message_stats", {}).get("ack", 0), channel["messages_unacknowledged"])
            for name, channel in channels.items()
            if name in names
        }
        sizes = (read["consumers"], unread["consumers"])
        return Look(behind=unread["messages"], rates=(rates[0], rates[1]), sizes=sizes, members=members, at=at)

    async def oldest(queue: str) -> float | None:
        return _stamp(await one(queue))

    async def room() -> tuple[float, float | None]:
        (node,) = await get("nodes")
        kept = sum(queue["message_bytes"] for queue in await get("queues"))
        return kept, node["disk_free"] - node["disk_free_limit"]

    how = {
        BEHIND: "queues: messages",
        FAST: "queues: message_stats, a rate for what is published, delivered and acknowledged",
        STUCK: "channels, twice: messages_unacknowledged, and ack does not rise",
        MEMBERS: "consumers: connection, channel, prefetch",
        OLDEST: "queues: head_message_timestamp, which the publisher has to write",
        FULL: "nodes: disk_free; queues, twice: message_bytes",
    }
    return Tool("management API", how, look, lambda: oldest(goodbye), lambda: oldest(_stamped(topic)), room)


async def _publish_stamped(api: Callable[..., Awaitable[str]], queue: str) -> None:
    await api(f"/api/queues/%2F/{quote(queue, safe='')}", "PUT", {"durable": True})
    message = {"properties": {"timestamp": int(time.time())}, "routing_key": queue}
    message |= {"payload": "Ada", "payload_encoding": "string"}
    await api("/api/exchanges/%2F/amq.default/publish", "POST", message)


async def _prometheus(broker: Broker, topic: str) -> Tool:
    hello, goodbye = _groups(topic)
    get = _http(broker.nodes[0].plugins["rabbitmq_prometheus"])
    await _answers(get, "/metrics/per-object")

    async def text() -> str:
        return await get("/metrics/per-object")

    async def look() -> Look:
        said = Metrics(await text())
        held = {labels["channel"]: value for labels, value in said.each("rabbitmq_channel_messages_unacked")}
        members = {
            labels["channel"]: Member(value, held.get(labels["channel"], 0))
            for labels, value in said.each("rabbitmq_channel_messages_acked_total", queue=hello)
        }
        return Look(
            behind=int(said.sum("rabbitmq_queue_messages", queue=goodbye)),
            published=said.sum("rabbitmq_queue_messages_published_total", queue=hello),
            handled=said.sum("rabbitmq_channel_messages_acked_total", queue=hello),
            sizes=(
                int(said.sum("rabbitmq_queue_consumers", queue=hello)),
                int(said.sum("rabbitmq_queue_consumers", queue=goodbye)),
            ),
            members=members,
        )

    async def oldest(queue: str) -> float | None:
        told = Metrics(await text()).each("rabbitmq_queue_head_message_timestamp", queue=queue)
        return next((stamp for _, stamp in told if stamp > 0), None)

    async def room() -> tuple[float, float | None]:
        said = Metrics(await text())
        free = said.sum("rabbitmq_disk_space_available_bytes") - said.sum("rabbitmq_disk_space_available_limit_bytes")
        return said.sum("rabbitmq_queue_messages_bytes"), free

    how = {
        BEHIND: "queue_messages",
        FAST: "queue_messages_published_total and channel_messages_acked_total, twice",
        STUCK: "channel_messages_unacked, and channel_messages_acked_total does not rise; a channel is only a number",
        MEMBERS: "queue_consumers: how many, not who",
        OLDEST: "queue_head_message_timestamp, which the publisher has to write",
        FULL: "disk_space_available_bytes; queue_messages_bytes, twice",
    }
    return Tool("rabbitmq_prometheus", how, look, lambda: oldest(goodbye), lambda: oldest(_stamped(topic)), room, text)


def _stamp(queue: Mapping[str, Any]) -> float | None:
    return float(found) if (found := queue.get("head_message_timestamp")) else None


async def _commands(broker: Broker, topic: str) -> Tool:
    servers, groups = broker.url.partition("://")[2], _groups(topic)
    java, *options, _ = await kafka_tool("")
    # What the broker's own start was recorded for serves them too, and no tool lives long enough to be optimised.
    cache = [word for word in broker.nodes[0].command if "AOT" in word or word == "-XX:+UnlockDiagnosticVMOptions"]
    start = [java, *cache, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *options]

    async def run(tool: str, *words: str) -> str:
        return await _said([*start, f"org.apache.kafka.tools.{tool}", "--bootstrap-server", servers, *words])

    async def places() -> dict[str, list[list[str]]]:
        """By group its lines: partition, committed, end, what is between, and the member that reads it."""
        said = await run("consumer.group.ConsumerGroupCommand", "--describe", "--all-groups")
        lines = [line.split() for line in said.splitlines()]
        found = {group: [line[2:7] for line in lines if line[:2] == [group, topic]] for group in groups}
        if not all(found.values()):
            raise LookupError("the tool told nothing of a group")
        return found

    async def look() -> Look:
        found, at = await places(), time.monotonic()
        hello, goodbye = (found[group] for group in groups)
        return Look(
            behind=sum(_number(line[3]) for line in goodbye),
            published=sum(_number(line[2]) for line in hello),
            handled=sum(_number(line[1]) for line in hello),
            sizes=(len({line[4] for line in hello} - {"-"}), len({line[4] for line in goodbye} - {"-"})),
            members=_members((line[4], _number(line[1]), _number(line[3])) for line in hello if line[4] != "-"),
            at=at,
        )

    async def stamp(partition: str, offset: str) -> list[str]:
        words = ["--topic", topic, "--partition", partition, "--offset", offset, "--max-messages", "1"]
        words += ["--timeout-ms", "10000", "--formatter-property", "print.timestamp=true"]
        return re.findall(r"Time:(\d+)", await run("consumer.ConsoleConsumer", *words))

    async def oldest() -> float | None:
        waiting = [(line[0], line[1]) for line in (await places())[groups[1]] if _number(line[3])]
        stamps = await asyncio.gather(*(stamp(*one) for one in waiting))
        return min((int(one) / 1000 for found in stamps for one in found), default=None)

    async def room() -> tuple[float, float | None]:
        said = json.loads((await run("LogDirsCommand", "--describe", "--topic-list", topic)).splitlines()[-1])
        logs = [log for node in said["brokers"] for log in node["logDirs"]]
        return sum(one["size"] for log in logs for one in log["partitions"]), None

    how = {
        BEHIND: "kafka-consumer-groups --describe: LAG",
        FAST: "the same, twice: LOG-END-OFFSET and CURRENT-OFFSET",
        STUCK: "the same, twice: LAG, and CURRENT-OFFSET does not rise; CONSUMER-ID, HOST and CLIENT-ID say who",
        MEMBERS: "the same: CONSUMER-ID, HOST, CLIENT-ID",
        OLDEST: "kafka-console-consumer at CURRENT-OFFSET with print.timestamp: each message has its time",
        FULL: "kafka-log-dirs, twice: size; what is left it does not tell",
    }
    return Tool("command-line tools", how, look, oldest, room=room)


async def _admin(broker: Broker, topic: str) -> Tool:
    from confluent_kafka import (  # noqa: PLC0415 - an extra
        Consumer,
        ConsumerGroupTopicPartitions,
        KafkaException,
        TopicPartition,
    )
    from confluent_kafka.admin import AdminClient, OffsetSpec  # noqa: PLC0415

    settings, groups = {"bootstrap.servers": broker.url.partition("://")[2], "log_level": 0}, _groups(topic)
    client = AdminClient(settings)

    def places(group: str) -> dict[int, int]:
        (found,) = client.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        return {one.partition: one.offset for one in found.result(ASK_S).topic_partitions if one.topic == topic}

    def ask() -> Look:
        asked = client.list_offsets({TopicPartition(topic, n): OffsetSpec.latest() for n in range(PARTITIONS)})
        ends = {one.partition: found.result(ASK_S).offset for one, found in asked.items()}
        hello, goodbye = map(places, groups)
        at = time.monotonic()
        told = client.describe_consumer_groups(list(groups))
        members = [told[group].result(ASK_S).members for group in groups]
        return Look(
            behind=sum(ends[n] - offset for n, offset in goodbye.items()),
            published=sum(ends.values()),
            handled=sum(hello.values()),
            sizes=(len(members[0]), len(members[1])),
            members=_members(
                (one.member_id, hello.get(part.partition, 0), ends[part.partition] - hello.get(part.partition, 0))
                for one in members[0]
                for part in one.assignment.topic_partitions
            ),
            at=at,
        )

    def first() -> float | None:
        places_ = [TopicPartition(topic, partition, offset) for partition, offset in places(groups[1]).items()]
        consumer = Consumer(settings | {"group.id": "a look", "enable.auto.commit": False})
        stamps: dict[int, float] = {}
        try:
            consumer.assign(places_)
            deadline = time.monotonic() + ASK_S / 2
            while len(stamps) < len(places_) and time.monotonic() < deadline:
                message = consumer.poll(0.5)
                if message is not None and not message.error():
                    stamps.setdefault(message.partition(), message.timestamp()[1] / 1000)
        finally:
            consumer.close()
        return min(stamps.values(), default=None)

    async def told(what: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(what)
        except KafkaException as error:
            raise LookupError(str(error)) from error

    how = {
        BEHIND: "list_offsets less list_consumer_group_offsets",
        FAST: "the same, twice",
        STUCK: "the same, twice, and describe_consumer_groups: whose partitions lag and do not move",
        MEMBERS: "describe_consumer_groups: member, client, host, partitions",
        OLDEST: "a consumer reads what is at the committed offset: each message has its time",
        FULL: "the broker would tell, confluent-kafka has no call for it",
    }
    return Tool("admin API", how, lambda: told(ask), lambda: told(first))


async def _jmx(broker: Broker, topic: str) -> Tool:
    get = await _exporter(broker)

    async def text() -> str:
        return await get("/metrics")

    async def look() -> Look:
        said = Metrics(await text())
        return Look(published=said.sum("kafka_server_BrokerTopicMetrics_Count", name="MessagesInPerSec", topic=topic))

    async def room() -> tuple[float, float | None]:
        return Metrics(await text()).sum("kafka_log_Log_Value", name="Size", topic=topic), None

    how = {
        BEHIND: "names no group",
        FAST: "BrokerTopicMetrics, MessagesInPerSec, twice: what is published; of groups nothing",
        STUCK: "names no member",
        MEMBERS: "counts groups by their state, and names none",
        OLDEST: "knows no message",
        FULL: "Log, Size, twice; what is left it does not tell",
    }
    return Tool("JMX", how, look, room=room, text=text)


async def _exporter(broker: Broker) -> Callable[..., Awaitable[str]]:
    """Prometheus' JMX exporter, loaded into the broker's first node as it runs; what asks it.

    Raises:
        BrokerMissing: its jar cannot be had, or Java has no `jcmd` to load it with.
        LookupError: it does not answer.
    """
    jars = locked(EXPORTER)
    (jar,) = await cached(jars, f"JMX exporter {jars[0].version}")
    node, pid = broker.nodes[0], broker.pids[0]
    jcmd = Path(node.command[0]).with_name("jcmd")
    if not jcmd.exists():
        raise BrokerMissing("this Java has no jcmd: unset JAVA_HOME, and that of the kit is taken")
    (port,), password, settings = free_ports(1), secrets.token_urlsafe(24), broker.folder / "exporter.yaml"
    login = f'{{username: greet, password: "{password}"}}'
    write(settings, f"httpServer: {{authentication: {{basic: {login}}}}}\n")
    loading = [str(jcmd), "-J-XX:-UsePerfData", str(pid), "JVMTI.agent_load", str(jar), f"127.0.0.1:{port}:{settings}"]
    said = await _said(loading)
    _remove_socket(pid)
    if "return code: 0" not in said:
        raise LookupError(f"Kafka's Java does not load {jar.name}: {' '.join(said.split())[-200:]}")
    get = _http(port, "greet", password)
    await _answers(get, "/metrics")
    return get


def _remove_socket(pid: int) -> None:
    """What Java was spoken to by: a file that outlives a killed Java."""
    for folder in {"/tmp", tempfile.gettempdir()}:  # noqa: S108 - where Java puts it
        Path(folder, f".java_pid{pid}").unlink(missing_ok=True)


def _members(lines: Any) -> dict[str, Member]:
    """By member, of lines that have the member, what is handled and what waits."""
    found: dict[str, Member] = defaultdict(lambda: Member(0, 0))
    for name, handled, waits in lines:
        found[name] = Member(found[name].handled + handled, found[name].waits + waits)
    return dict(found)


def _number(word: str) -> int:
    """Of a column, which has a dash where there is none."""
    return 0 if word == "-" else int(word)


def _login(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return unquote(parts.username or ""), unquote(parts.password or "")


def _http(port: int, user: str = "", password: str = "") -> Callable[..., Awaitable[str]]:
    """What asks a server on loopback; it raises `OSError` for any answer but a good one."""
    login = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Basic {login}"} if user else {})

    def ask(path: str, method: str, body: Any) -> str:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{port}{path}", data, headers, method=method)
        try:
            with urlopen(request, timeout=ASK_S) as answer:  # noqa: S310 - always http
                said: bytes = answer.read()
        except HTTPError as error:
            with error:
                raise OSError(f"{path}: {error}") from None
        return said.decode()

    async def asked(path: str, method: str = "GET", body: Any = None) -> str:
        return await asyncio.to_thread(ask, path, method, body)

    return asked


async def _answers(get: Callable[..., Awaitable[str]], path: str) -> None:
    """Return when it answers; raises `LookupError` when it does not within `ASK_S`."""
    deadline = time.monotonic() + ASK_S
    while True:
        try:
            await get(path)
        except OSError as error:
            if time.monotonic() > deadline:
                raise LookupError(f"{path} gives no answer: {error}") from error
            await asyncio.sleep(0.2)
        else:
            return


async def _said(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a program printed; raises `TimeoutError` when it takes longer than `ASK_S`."""
    async with asyncio.timeout(ASK_S):
        said, _ = await run_tool(command, environment)
    return said
