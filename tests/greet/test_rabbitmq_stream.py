"""What only a stream of RabbitMQ has: replay, a group's place on the broker, members that stand by, retention.

The promises that all designs share are tried in test_contract.py.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel
from common import all_wait_for, started, take
from pamqp.common import FieldTable

import greet
from greet import Guarantee, Line, Subscription
from greet.brokers import Broker, rabbitmq
from greet.designs import named
from greet.designs.rabbitmq_stream import HOLE, PLACES, WRITTEN, StreamSubscription
from greet.line import complaint

DESIGN = named("rabbitmq-stream")
NAMES = [f"name-{number}" for number in range(3000)]
POISON = [b"", b"\xff\xfe", b"a\x00b", b"x" * 65_537]
MEMBER = """
import asyncio, greet, sys
async def read():
    async with greet.connect(sys.argv[1], sys.argv[2]) as line, line.subscribe("hello") as names:
        async for name in names:
            print(name, flush=True)
asyncio.run(read())
"""
SETTLED = 3.0
"""Seconds, at least, after which RabbitMQ 3.10 and 4.3 find a stream again when they are killed."""
WAYS = pytest.mark.parametrize("path", ["fast", "plain"])


def line_to(url: str, topic: str, guarantee: Guarantee | None = None, **options: object) -> Line:
    query = "&".join(f"{key}={value}" for key, value in options.items())
    url = DESIGN.url(url)
    return greet.connect(f"{url}?{query}" if query else url, topic, guarantee=guarantee)


@asynccontextmanager
async def plain_channel(url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(url) as connection:
        yield await connection.channel()


@pytest.fixture(scope="module")
async def broker() -> AsyncIterator[Broker]:
    """One of our own, to be killed."""
    async with rabbitmq() as broker:
        yield broker


@WAYS
async def test_a_broker_that_hangs_for_a_moment_is_waited_for(broker: Broker, topic: str, path: str) -> None:
    await all_wait_for(broker, f"{DESIGN.url(broker.url)}?path={path}", topic)


# Places


@WAYS
async def test_replay_begins_a_new_group_only(rabbitmq_url: str, topic: str, path: str) -> None:
    async with line_to(rabbitmq_url, topic, path=path) as line:
        await line.publish_many(NAMES[:10])
        async with line.subscribe("hello", replay=True) as names:
            assert await take(names, 4) == NAMES[:4]
        async with line.subscribe("hello", replay=True) as names:
            assert await take(names, 6) == NAMES[4:10]


async def test_a_replay_that_nobody_read_is_still_one(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line:
        await line.publish("Ada")
        async with line.subscribe("hello", replay=True):
            pass
        async with line.subscribe("hello") as names:
            assert await take(names, 1) == ["Ada"]


@WAYS
async def test_members_that_start_a_group_at_once(rabbitmq_url: str, topic: str, path: str) -> None:
    """Each of them is live on entry, whoever's place is taken; and nothing comes twice."""

    async def member(number: int) -> None:
        async with line_to(rabbitmq_url, topic, path=path) as line, line.subscribe("hello") as names:
            await line.publish(f"from {number}")
            entered.release()
            async for name in names:
                got[name] += 1

    got = Counter[str]()
    entered = asyncio.Semaphore(0)
    async with asyncio.TaskGroup() as group:
        members = [group.create_task(member(number)) for number in range(5)]
        async with asyncio.timeout(30):
            for _ in members:
                await entered.acquire()
            while len(got) < len(members):
                await asyncio.sleep(0.02)
        for task in members:
            task.cancel()
    assert got == Counter(f"from {number}" for number in range(5))


async def test_a_place_is_one_message_whatever_was_read(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        for number in range(0, 2000, 500):
            await line.publish_many(NAMES[number : number + 500])
            await take(names, 500)
            await asyncio.sleep(0.15)
    async with plain_channel(rabbitmq_url) as channel:
        queue = await channel.get_queue(f"{topic}:hello:place")
        assert queue.declaration_result.message_count == 1


async def test_a_stand_by_takes_over_from_a_killed_member(rabbitmq_url: str, topic: str) -> None:
    url = DESIGN.url(rabbitmq_url)
    async with line_to(rabbitmq_url, topic) as line:
        async with line.subscribe("hello"):
            pass
        async with started(sys.executable, "-c", MEMBER, url, topic) as member:
            assert member.stdout
            await line.publish_many(NAMES[:100])
            read = [(await member.stdout.readline()).decode().strip() for _ in range(100)]
            assert read == NAMES[:100]
            await asyncio.sleep(0.3)  # a place is written ten times a second
            async with line.subscribe("hello") as names:
                assert await take(names, 1, seconds=0.3) == []
                member.kill()
                killed = time.monotonic()
                await line.publish("last")
                assert await take(names, 1) == ["last"]
                assert time.monotonic() - killed < 5


@WAYS
async def test_what_is_handled_while_the_line_is_away_does_not_come_again(
    broker: Broker, topic: str, path: str
) -> None:
    async with line_to(broker.url, topic, path=path) as line, line.subscribe("hello") as names:
        await line.publish_many(NAMES[:20])
        assert await take(names, 20) == NAMES[:20]
        await asyncio.sleep(SETTLED)
        await broker.kill()
        await broker.restart()
        await line.publish("last")
        assert await take(names, 1) == ["last"]
    async with line_to(broker.url, topic, path=path) as line, line.subscribe("hello") as names:
        assert await take(names, 1, seconds=0.3) == []


@pytest.mark.parametrize("step", ["_declare_all", "_open_stream"])
async def test_a_queue_or_stream_that_gives_no_answer_is_told_of(
    rabbitmq_url: str, topic: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one without a leader: it is not the login, nor the port, that fails."""

    async def silence(*_: object) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(StreamSubscription, step, silence)
    async with line_to(rabbitmq_url, topic, timeout=2) as line:
        with pytest.raises((greet.ConnectFailed, greet.ConnectionLost), match=f"a queue of {topic} has no leader"):
            async with line.subscribe("hello") as names:
                await anext(names)


# Retention


@WAYS
async def test_what_retention_took_is_told(
    rabbitmq_url: str, topic: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    small: FieldTable = {
        "x-queue-type": "stream",
        "x-max-length-bytes": 200_000,
        "x-stream-max-segment-size-bytes": 100_000,
    }
    async with plain_channel(rabbitmq_url) as channel:
        await channel.declare_queue(f"{topic}.stream", durable=True, arguments=small)
    async with line_to(rabbitmq_url, topic, path=path) as line:
        async with line.subscribe("hello"):
            pass
        wanted = [name.ljust(1000, "-") for name in NAMES]
        for start in range(0, 3000, 50):
            await line.publish_many(wanted[start : start + 50])
        await asyncio.sleep(0.5)
        with caplog.at_level(logging.WARNING, logger="greet"):
            async with line.subscribe("hello") as names:
                (first,) = await take(names, 1)
        missed = wanted.index(first)
        assert missed > 0
        told = re.match(f"{topic}.stream's retention deleted up to ([0-9]+) messages", caplog.messages[0])
        assert told
        assert missed <= int(told[1]) < missed + 100


async def test_a_stream_that_was_made_anew_is_told(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic, timeout=6) as line, plain_channel(rabbitmq_url) as channel:
        async with line.subscribe("hello") as names:
            await line.publish_many(NAMES[:10])
            await take(names, 10)
        await channel.queue_delete(f"{topic}.stream")
        with pytest.raises(greet.PublishFailed, match="created again: publish again"):
            await line.publish("Ada")
        await line.publish("Ada")
        told = f"created again, leave with all members, delete the queue {topic}:hello:place, and subscribe again"
        with pytest.raises(greet.ConnectionLost, match=told):
            async with line.subscribe("hello") as names:
                await anext(names)
        await channel.queue_delete(f"{topic}:hello:place")
        async with line.subscribe("hello", replay=True) as names:
            assert await take(names, 1) == ["Ada"]


@WAYS
async def test_a_group_that_begins_behind_kept_names_says_so(
    rabbitmq_url: str, topic: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.name == "greet"]

    async with line_to(rabbitmq_url, topic, path=path) as line:
        async with line.subscribe("hello"), line.subscribe("goodbye"):  # a mark of another group is no name
            await line.publish_many(NAMES[:3])
        async with line.subscribe("hello"), line.subscribe("again", replay=True):
            assert not said()
        async with line.subscribe("late"):
            (text,) = said()
    count = re.search(r"may skip (\d+) names", text)
    assert count
    assert 3 <= int(count[1]) < 3 + HOLE
    assert "replay=True" in text


# Messages of others


@WAYS
async def test_what_is_no_name_is_kept_in_the_dead_letters(rabbitmq_url: str, topic: str, path: str) -> None:
    async with line_to(rabbitmq_url, topic, path=path) as line, plain_channel(rabbitmq_url) as channel:
        async with line.subscribe("hello") as hellos, line.subscribe("goodbye") as goodbyes:
            for body in (b"Ada", *POISON, b"last"):
                await channel.default_exchange.publish(aio_pika.Message(body), f"{topic}.stream")
            for names in (hellos, goodbyes):
                assert await take(names, 2) == ["Ada", "last"]
        letters = await line.dead_letters()
        for group in ("hello", "goodbye"):  # the oldest first
            assert [one.body for one in letters if one.group == group] == POISON
        assert len(letters) == 2 * len(POISON)
        assert all(one.origin.startswith(f"stream {topic}.stream, offset ") for one in letters)
        assert [one.reason for one in letters] == [complaint(one.body) for one in letters]
        assert await line.resend_dead_letters() == len(POISON)
        assert await line.dead_letters() == []
        async with line.subscribe("hello") as names:
            assert await take(names, 1, seconds=0.5) == []
        assert len(await line.dead_letters()) == len(POISON)


async def test_queue_and_stream_keep_their_dead_letters_apart(rabbitmq_url: str, topic: str) -> None:
    stream, queue = line_to(rabbitmq_url, topic), greet.connect(rabbitmq_url, topic)
    async with stream, queue, stream.subscribe("hello") as of_stream, queue.subscribe("hello") as of_queue:
        async with plain_channel(rabbitmq_url) as channel:
            exchange = await channel.get_exchange(topic)
            for body in (b"", b"Ada"):  # a publisher's own headers may be called as those of a dead letter
                await exchange.publish(aio_pika.Message(body, headers={"origin": "elsewhere"}), "")
        for names in (of_stream, of_queue):
            assert await take(names, 1) == ["Ada"]
        for line, where in ((stream, "stream "), (queue, "queue ")):
            (letter,) = await line.dead_letters()
            assert letter.group == "hello"
            assert letter.origin.startswith(where)
        assert await queue.resend_dead_letters() == 1
        assert [one.origin.partition(" ")[0] for one in await stream.dead_letters()] == ["stream"]


@WAYS
async def test_a_group_that_many_have_founded_settles(rabbitmq_url: str, topic: str, path: str) -> None:
    """Each of them has published a place. One remains."""
    async with line_to(rabbitmq_url, topic, path=path) as line, plain_channel(rabbitmq_url) as channel:
        async with line.subscribe("hello"):
            pass
        for _ in range(2 * PLACES):
            place = aio_pika.Message(b"first", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(place, f"{topic}:hello:place")
        async with line.subscribe("hello") as names:
            await line.publish_many(NAMES[:10])
            assert await take(names, 10) == NAMES[:10]
        found = await channel.declare_queue(f"{topic}:hello:place", passive=True)
        assert found.declaration_result.message_count == 1


@WAYS
@pytest.mark.parametrize(
    ("further", "left"), [([2], NAMES[8:10]), (range(1, 2 * PLACES), NAMES[205:207])], ids=["two", "many"]
)
async def test_of_several_places_the_last_one_that_was_written_counts(
    rabbitmq_url: str, topic: str, path: str, further: Sequence[int], left: list[str]
) -> None:
    """The broker was killed after they were written, and has not removed the older ones, or has forgotten that."""
    async with line_to(rabbitmq_url, topic, path=path) as line, plain_channel(rabbitmq_url) as channel:
        async with line.subscribe("hello") as names:
            await line.publish_many(NAMES[:300])
            assert await take(names, 6) == NAMES[:6]
        queue = await channel.get_queue(f"{topic}:hello:place")
        place = await queue.get()
        for more in further:
            later = aio_pika.Message(str(int(place.body) + more).encode(), type=WRITTEN, delivery_mode=2)
            await channel.default_exchange.publish(later, queue.name)
        await place.nack()
        async with line.subscribe("hello") as names:
            assert await take(names, 2) == left
        assert (await channel.declare_queue(queue.name, passive=True)).declaration_result.message_count == 1


async def test_publishers_of_the_queue_reach_the_stream(rabbitmq_url: str, topic: str) -> None:
    stream, queue = line_to(rabbitmq_url, topic), greet.connect(rabbitmq_url, topic)
    async with stream, queue, stream.subscribe("hello") as of_stream, queue.subscribe("hello") as of_queue:
        await stream.publish("Ada")
        await queue.publish("Zoë")
        assert await take(of_stream, 2) == ["Ada", "Zoë"]
        assert await take(of_queue, 2) == ["Ada", "Zoë"]


# Faults


@WAYS
async def test_a_killed_broker_loses_nothing(broker: Broker, topic: str, path: str) -> None:
    accepted: list[str] = []
    got = Counter[str]()
    stop = asyncio.Event()

    async def publisher(line: Line, number: int) -> None:
        count = 0
        while not stop.is_set():
            name = f"{number}-{(count := count + 1)}"
            try:
                await line.publish(name)
                accepted.append(name)
            except greet.PublishUnknown:
                pass

    async def reader(names: Subscription) -> None:
        async for name in names:
            got[name] += 1

    async def until(count: int) -> None:
        async with asyncio.timeout(40):
            while len(got) < count:
                await asyncio.sleep(0.02)

    async with line_to(broker.url, topic, path=path) as line:
        async with line.subscribe("hello") as names, asyncio.TaskGroup() as group:
            reading = group.create_task(reader(names))
            publishing = [group.create_task(publisher(line, number)) for number in range(5)]
            await until(300)
            await asyncio.sleep(SETTLED)
            await broker.kill()
            await broker.restart()
            await until(len(got) + 300)
            stop.set()
            await asyncio.wait(publishing)
            async with asyncio.timeout(40):
                while not set(accepted) <= set(got):
                    await asyncio.sleep(0.02)
            reading.cancel()
        assert set(got.values()) == {1}


@WAYS
async def test_a_publisher_s_header_is_not_taken_for_the_offset(rabbitmq_url: str, topic: str, path: str) -> None:
    """RabbitMQ sorts headers by their keys, so one may come before the offset, and hold the same bytes."""
    async with line_to(rabbitmq_url, topic, path=path) as line, line.subscribe("hello") as names:
        false = b"\x0fx-stream-offsetl" + (2**40).to_bytes(8, "big")
        async with await aio_pika.connect(rabbitmq_url.replace("rabbitmq+stream", "amqp")) as connection:
            channel = await connection.channel()
            odd = aio_pika.Message(b"Ada", headers={"a": bytearray(false)})
            await channel.default_exchange.publish(odd, cast(Any, line).stream, mandatory=True)
        await line.publish_many(["Zo\u00eb", "Bob"])
        assert await take(names, 3) == ["Ada", "Zo\u00eb", "Bob"]


@WAYS
async def test_a_clean_end_on_a_silent_broker_says_what_it_could_not_tell(
    broker: Broker, topic: str, path: str
) -> None:
    async with line_to(broker.url, topic, path=path, timeout=2) as line:
        try:
            started = 0.0
            with pytest.raises(greet.ConnectionLost, match="come again"):
                async with line.subscribe("hello") as names:
                    await line.publish("Ada")
                    assert await take(names, 1) == ["Ada"]
                    await broker.pause()
                    started = time.monotonic()
            assert time.monotonic() - started < 6
        finally:
            await broker.resume()


@pytest.mark.parametrize("guarantee", DESIGN.guarantees[1:])
async def test_a_killed_broker_keeps_names_and_places(broker: Broker, topic: str, guarantee: Guarantee) -> None:
    """Also under AT_LEAST_ONCE: a stream has no transient messages."""
    async with line_to(broker.url, topic, guarantee) as line, line.subscribe("hello") as names:
        await line.publish_many(NAMES)
        assert await take(names, 100) == NAMES[:100]
    await asyncio.sleep(SETTLED)
    await broker.kill()
    await broker.restart()
    async with line_to(broker.url, topic, guarantee) as line, line.subscribe("hello") as names:
        assert await take(names, len(NAMES) - 100) == NAMES[100:]
