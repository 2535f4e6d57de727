"""What `doctor` looks at on a Kafka: only aiokafka's public calls, and one request that it does not know."""

from __future__ import annotations

import asyncio
import math
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from statistics import median
from time import perf_counter, time
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from bench.contenders import access
from bench.contenders.look import TRIPS, Finding, Look, duration, encryption, round_trip, unreached
from greet.brokers.jars import version

SERIES = {
    30: "4.3", 28: "4.2", 26: "4.1", 22: "4.0", 21: "3.9", 20: "3.8", 15: "3.7", 12: "3.6", 9: "3.5", 8: "3.4",
    4: "3.3",
}  # fmt: skip
"""The release that first knew a level of the feature metadata.version: Kafka's own class MetadataVersion."""
SUPPORTED = 3
"""The project supports its last releases, so many: https://kafka.apache.org/community/downloads."""
KEPT_MS = 3_600_000
KEPT_BYTES = 2_000_000_000
"""A run publishes up to 1.5 GB on a topic."""
BATCH = 1_000_000
"""Bytes of the batches that greet and the peers send."""
APART_S = 60.0
TRIES, ANSWER_S, RETRY_S = 10, 5.0, 0.3
LEFT = re.compile(r"bench-(?:ready-|doctor-)?[0-9a-f]{8,12}(?:-[0-9a-f]{4})?(?:\.dead)?")
"""What runs call their topics."""
Topics = list[dict[str, Any]]


@asynccontextmanager
async def look(url: str) -> AsyncIterator[Look]:
    """Connected to it. Raises whatever aiokafka does."""
    admin = AIOKafkaAdminClient(**access.aiokafka(url), request_timeout_ms=10_000, metadata_max_age_ms=2_000)
    try:
        await admin.start()
        yield KafkaLook(url, admin)
    finally:
        await admin.close()


async def asked(ask: Callable[[], Awaitable[Any]]) -> Any:
    """The answer: aiokafka asks a member at random, and waits without end for a controller that is away."""
    for _ in range(TRIES):
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                return await ask()
        await asyncio.sleep(RETRY_S)
    return await ask()


class KafkaLook(Look):
    """A cluster as one client sees it."""

    def __init__(self, url: str, admin: AIOKafkaAdminClient) -> None:
        self._url, self._admin = url, admin
        self._options = access.address_of(url).options
        self._brokers = 1

    async def at_broker(self) -> AsyncIterator[Finding]:
        """Version, members, what is on them."""
        yield await _version(self._url)
        yield await encryption(self._url)
        brokers = (await asked(self._admin.describe_cluster))["brokers"]
        self._brokers = len(brokers)
        away = await unreached([(one["host"], one["port"]) for one in brokers])
        fix = f"clients are sent to {', '.join(away)}, which does not answer: set advertised.listeners" if away else ""
        names = ", ".join("{host}:{port}".format(**one) for one in brokers)
        yield Finding("brokers", f"{len(brokers)}: {names}", fix)
        topics: Topics = await asked(self._admin.describe_topics)
        yield _partitions(topics)
        for one in (_offsets(topics, self._brokers), _left(topics)):
            if one:
                yield one

    async def make(self, topic: str) -> None:
        """With the broker's clock on each message."""
        replicas = int(self._options.get("replication", -1))
        config = {"message.timestamp.type": "LogAppendTime"}
        count = int(self._options.get("partitions", 1))
        new = NewTopic(topic, count, replicas, {} if replicas < 0 else None, config)
        await asked(lambda: self._admin.create_topics([new]))

    async def at_topic(self, topic: str, group: str) -> AsyncIterator[Finding]:  # noqa: ARG002, it is the topic's
        """Copies, what is kept for how long, and how far the broker is."""
        (found,) = await asked(lambda: self._admin.describe_topics([topic]))
        settings = await self._settings(topic)
        yield _replication(found["partitions"], settings, self._brokers)
        yield _members(found["partitions"], self._options)
        if settings:
            for one in (_retention(settings), _size(settings), *_odd(settings)):
                yield one
        else:
            yield Finding("settings", f"of topics are not told: grant DESCRIBE_CONFIGS on topic {topic[:6]}*")
        yield await round_trip(lambda: asked(lambda: self._admin.describe_topics([topic])))
        for one in await _published(self._url, topic):
            yield one

    async def _settings(self, topic: str) -> Mapping[str, str]:
        """Of the topic; empty where they are not told."""
        of_topic = [ConfigResource(ConfigResourceType.TOPIC, topic)]
        (answer,) = await asked(lambda: self._admin.describe_configs(of_topic))
        ((code, _, _, _, entries),) = answer.resources
        return {} if code else {entry[0]: entry[1] for entry in entries}


# What is said of what was found


def _partitions(topics: Topics) -> Finding:
    every = [one for topic in topics for one in topic["partitions"]]
    headless = sum(one["leader"] < 0 for one in every)
    behind = sum(len(one["isr"]) < len(one["replicas"]) for one in every)
    fix = ""
    if headless:
        fix = f"{headless} have no leader: start the brokers that are away"
    elif behind:
        fix = f"{behind} have a replica out of step, and copying takes from the figures: wait, or mend that broker"
    return Finding("partitions", f"{len(every)} of {len(topics)} topics", fix)


def _offsets(topics: Topics, brokers: int) -> Finding | None:
    for topic in topics:
        if topic["topic"] == "__consumer_offsets" and topic["partitions"]:
            copies = min(len(one["replicas"]) for one in topic["partitions"])
            alone = copies == 1 and brokers > 1
            fix = "a commit waits for one broker: give __consumer_offsets three replicas" if alone else ""
            return Finding("places of groups", f"{copies} replica{'s' * (copies > 1)}", fix)
    return None


def _left(topics: Topics) -> Finding | None:
    found = sorted(topic["topic"] for topic in topics if LEFT.fullmatch(topic["topic"]))
    if not found:
        return None
    return Finding(
        "left over", f"{len(found)} topic{'s' * (len(found) > 1)} of runs, such as {found[0]}",
        "another run goes on, and takes from the figures: wait; or one was killed: delete them",
    )  # fmt: skip


def _replication(partitions: list[dict[str, Any]], settings: Mapping[str, str], brokers: int) -> Finding:
    copies = min(len(one["replicas"]) for one in partitions)
    in_sync = min(len(one["isr"]) for one in partitions)
    least = int(settings.get("min.insync.replicas", 0))
    found = f"{copies} of {brokers} brokers, {in_sync} in sync"
    found += f", at least {least}" if least else ""
    fix = ""
    if least > copies:
        fix = "DURABLE is refused: say replication= in the URL, or lower min.insync.replicas"
    elif copies == 1 < brokers:
        fix = "DURABLE does not survive the loss of a broker, and costs less than it will: say replication=3"
    elif in_sync < copies:
        fix = "a replica is away, and DURABLE waits for fewer than it will: start its broker"
    elif least == 1 < copies:
        fix = "DURABLE may be confirmed by the leader alone: set min.insync.replicas=2"
    elif least == copies > 1:
        fix = "DURABLE stops when one broker is away: have one replica more than min.insync.replicas"
    return Finding("replication", found, fix)


def _members(partitions: list[dict[str, Any]], options: Mapping[str, str]) -> Finding:
    count = len(partitions)
    said = "" if "partitions" in options else "; the URL says no partitions="
    return Finding("topic", f"{count} partition{'s' * (count > 1)}: so many members of a group work at once{said}")


def _retention(settings: Mapping[str, str]) -> Finding:
    milliseconds, size = float(settings.get("retention.ms", -1)), float(settings.get("retention.bytes", -1))
    kept = duration(milliseconds if milliseconds >= 0 else math.inf)
    found = kept + (f", at most {size / 1e6:,.0f} MB a partition" if size >= 0 else "")
    fix = ""
    if "compact" in settings.get("cleanup.policy", ""):
        found, fix = "cleanup.policy=compact", "messages without a key are refused: set cleanup.policy=delete"
    elif 0 <= milliseconds < KEPT_MS or 0 <= size < KEPT_BYTES:
        fix = "messages are deleted before they are read, and count as lost: keep an hour and 2 GB"
    return Finding("retention", found, fix)


def _size(settings: Mapping[str, str]) -> Finding:
    most = int(settings.get("max.message.bytes", BATCH))
    fix = f"batches of {BATCH:,} bytes are sent again by halves: set max.message.bytes=1048588" if most < BATCH else ""
    return Finding("largest batch", f"{most:,} bytes", fix)


def _odd(settings: Mapping[str, str]) -> list[Finding]:
    found = []
    if settings.get("unclean.leader.election.enable") == "true":
        fix = "a replica out of step may lead, and lose what was confirmed: set it to false"
        found.append(Finding("unclean leaders", "allowed", fix))
    if (codec := settings.get("compression.type", "producer")) not in ("producer", "uncompressed"):
        found.append(Finding("compression", codec, "the broker packs each batch anew: set compression.type=producer"))
    if int(settings.get("flush.messages", 2**63 - 1)) < 1_000_000:
        found.append(Finding("flush", f"to the disk after {settings['flush.messages']} messages"))
    return found


# What has to be tried


async def _published(url: str, topic: str) -> list[Finding]:
    """Messages one at a time, each with the broker's clock on it: how long one takes, and how far the clocks are apart.

    The clock is taken of the message that was answered soonest: the broker's is read between its two ends.
    """
    taken: list[tuple[float, float]] = []
    async with AIOKafkaProducer(**access.aiokafka(url), acks="all") as producer:
        for _ in range(TRIPS):
            sent, began = time(), perf_counter()
            told = await producer.send_and_wait(topic, b"doctor")
            spent = perf_counter() - began
            if told.timestamp_type != 1:  # by the publisher, that is us
                return []
            taken.append((spent, told.timestamp / 1000 + 0.0005 - (sent + spent / 2)))
    soonest, apart = min(taken)
    bound = soonest / 2 + 0.0005
    fix = "retention goes by that clock, and messages ahead of it are refused: set both by NTP"
    return [
        Finding("publish, acks=all", f"{median(one for one, _ in taken) * 1000:.2g} ms, one at a time"),
        Finding(
            "clock", f"{apart * 1000:+.1f} ms, within {bound * 1000:.1f} ms, from ours",
            fix if abs(apart) > APART_S else "",
        ),
    ]  # fmt: skip


async def _version(url: str) -> Finding:
    """By the features that it says it knows."""
    try:
        level = (await _features(url)).get("metadata.version", 0)
    except (OSError, EOFError, LookupError, ValueError, struct.error):
        level = 0
    series = next((name for first, name in SERIES.items() if level >= first), "")
    if not series:
        return Finding("Kafka", "which version is not told, as by those before 3.3")
    major, minor = map(int, version().split(".")[:2])
    old = tuple(map(int, series.split("."))) <= (major, minor - SUPPORTED)
    fix = f"the project supports its last {SUPPORTED} releases: measure on {version()}, or read figures as of the past"
    later = " or later" if level > max(SERIES) else ""
    return Finding("Kafka", series + later, fix if old else "")


async def _features(url: str) -> dict[str, int]:
    """The highest level of each feature that a broker knows: its answer to ApiVersions, which needs no login.

    https://kafka.apache.org/protocol, version 3 of key 18. Raises `OSError` or `EOFError` where nobody answers so,
    `LookupError` or `ValueError` where it is no such answer.
    """
    address = access.address_of(url)
    host, port = await access.listening(address)
    name, kind = b"greet-bench", b"1"
    head = struct.pack(">hhih", 18, 3, 1, len(name)) + name + b"\0"
    body = b"".join(bytes([len(text) + 1]) + text for text in (name, kind)) + b"\0"
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(host, port, ssl=access.tls(address))
        try:
            writer.write(struct.pack(">i", len(head + body)) + head + body)
            answer = await reader.readexactly(*struct.unpack(">i", await reader.readexactly(4)))
        finally:
            writer.close()
    return _read(answer)


def _read(answer: bytes) -> dict[str, int]:
    place = 6  # behind the number of the request, and the error

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = answer[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    if int.from_bytes(answer[4:6], "big"):
        raise ValueError("it does not know version 3 of ApiVersions")
    for _ in range(number() - 1):
        place += 6
        for _ in range(number()):
            number()
            place += number()
    place += 4
    found: dict[str, int] = {}
    for _ in range(number()):
        tag, size = number(), number()
        after = place + size
        for _ in range(number() - 1 if tag == 0 else 0):
            length = number() - 1
            name = answer[place : place + length].decode()
            (found[name],) = struct.unpack(">h", answer[place + length + 2 : place + length + 4])
            place += length + 4
            for _ in range(number()):
                number()
                place += number()
        place = after
    return found
