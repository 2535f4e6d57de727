"""What is particular about Kafka: logs, positions, partitions, rebalances, and a broker that goes away."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast
from zlib import crc32

import google_crc32c
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import GroupLoadInProgressError, kafka_errors
from aiokafka.protocol.commit import OffsetFetchRequest, OffsetFetchResponse_v3
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.protocol.metadata import MetadataRequest
from common import all_wait_for, take

import greet
from bench.faults.arena import SOONER
from bench.faults.proxy import proxy
from greet import Guarantee
from greet import line as promises
from greet.brokers import Broker
from greet.brokers.process import free_ports
from greet.designs import kafka as design
from greet.designs import kafka_settings, kafka_topic
from greet.designs.kafka import JOIN_SECONDS, KafkaLine, KafkaSubscription
from greet.designs.kafka_producer import Attempt
from greet.designs.kafka_settings import words
from greet.fast.kafka import FastKafkaLine, _Outbox, _Shared

MANY = [f"name-{number:013d}" for number in range(5000)]
WAYS = pytest.mark.parametrize("path", ["fast", "plain"])


def servers(url: str) -> str:
    return url.partition("://")[2]


async def positions(url: str, topic: str, group: str, partitions: int = 1) -> list[int | None]:
    """What is committed for the group, seen from outside."""
    async with AIOKafkaConsumer(bootstrap_servers=servers(url), group_id=f"{topic}:{group}") as consumer:
        return [await consumer.committed(TopicPartition(topic, number)) for number in range(partitions)]


async def becomes(wanted: object, look: Callable[[], Awaitable[object]], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        while await look() != wanted:
            await asyncio.sleep(0.02)


async def until(done: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not done():
            await asyncio.sleep(0.02)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No task outlives what started it."""
    before = asyncio.all_tasks()
    yield
    with suppress(TimeoutError):
        await until(lambda: asyncio.all_tasks() - before <= {asyncio.current_task()}, 2)
    assert asyncio.all_tasks() - before <= {asyncio.current_task()}


# A topic keeps its names


async def test_a_replay_starts_at_the_oldest_name_and_then_goes_on(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line:
        await line.publish_many(MANY)  # no group has ever read them
        async with line.subscribe("hello", replay=True) as names:
            assert await take(names, 3) == MANY[:3]
        async with line.subscribe("hello", replay=True) as names:  # it exists, so it goes on
            assert await take(names, len(MANY) - 3) == MANY[3:]
        async with line.subscribe("goodbye") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]


async def test_equal_names_share_a_partition_and_keep_their_order(kafka_url: str, topic: str) -> None:
    async with greet.connect(f"{kafka_url}?partitions=4", topic) as line:
        for name in MANY[:40]:
            await line.publish(name)
        await line.publish_many(MANY[40:] + MANY[:40])
    seen = 0
    async with AIOKafkaConsumer(topic, bootstrap_servers=servers(kafka_url), auto_offset_reset="earliest") as consumer:
        while seen < len(MANY) + 40:
            for partition, records in (await consumer.getmany(timeout_ms=1000)).items():
                assert all(crc32(record.value) % 4 == partition.partition for record in records)
                seen += len(records)


async def test_a_topic_has_the_partitions_it_was_made_with(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line, greet.connect(f"{kafka_url}?partitions=1", topic):
        await line.publish("Ada")
    with pytest.raises(greet.ConnectFailed, match="partitions=1"):
        async with greet.connect(f"{kafka_url}?partitions=2", topic):
            pass


# A group is a position


async def test_where_a_group_starts_is_written_down_when_it_is_entered(kafka_url: str, topic: str) -> None:
    async with greet.connect(f"{kafka_url}?partitions=3", topic) as line:
        await line.publish_many(MANY[:300])
        async with line.subscribe("hello"), line.subscribe("goodbye", replay=True):
            ends = await positions(kafka_url, topic, "hello", 3)
            assert sum(end or 0 for end in ends) == 300
            assert await positions(kafka_url, topic, "goodbye", 3) == [0, 0, 0]


@pytest.mark.parametrize("held", [1, 50])
@WAYS
async def test_a_member_that_comes_back_commits_nothing_older(
    kafka_url: str, topic: str, path: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was frozen; meanwhile another member had its partition, and committed more."""
    monkeypatch.setattr(design, "HOLD_SECONDS", 0.1)
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        await line.publish_many(MANY[:100])
        assert await take(names, held) == MANY[:held]
        member, place = cast(KafkaSubscription, names), TopicPartition(topic, 0)
        await member.on_partitions_revoked([place])
        await member._commit({place: 100})
        await member.on_partitions_assigned([place])
        await asyncio.sleep(0.5)
        assert await positions(kafka_url, topic, "hello") == [100]
        await member._settle(member._batch, held)  # the name that it had in hand all the time
        await member._confirm(line._deadline())
        assert await positions(kafka_url, topic, "hello") == [100]
        await line.publish("last")
        assert await take(names, 1) == ["last"]
    assert await positions(kafka_url, topic, "hello") == [101]


@pytest.mark.parametrize(("fails", "handled"), [(False, 10), (True, 9)], ids=["clean", "failed"])
@WAYS
async def test_a_rebalance_goes_on_only_when_a_member_that_leaves_has_settled(
    kafka_url: str, topic: str, path: str, fails: bool, handled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next owner of the partition gets names again that were handled."""
    monkeypatch.setattr(promises, "SETTLE_SECONDS", 30.0)
    known: list[int | None] = []

    async def rebalance(member: KafkaSubscription) -> None:
        await member.on_partitions_revoked([TopicPartition(topic, 0)])
        known.append(member._committed.get(TopicPartition(topic, 0)))

    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        with suppress(ZeroDivisionError):
            async with line.subscribe("hello") as names:
                await line.publish_many(MANY[:100])
                assert await take(names, 10) == MANY[:10]
                rebalancing = asyncio.ensure_future(rebalance(cast(KafkaSubscription, names)))
                await asyncio.sleep(0.01)
                if fails:
                    raise ZeroDivisionError
        await rebalancing
    assert known == [handled]


async def test_a_commit_that_is_tried_again_stops_at_a_rebalance(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The partition may be another member's by then, which has committed more."""
    async with greet.connect(kafka_url, topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        consumer, place, tries = cast(KafkaSubscription, names)._consumer, TopicPartition(topic, 0), 0

        async def fails(*_: object) -> None:
            nonlocal tries
            tries += 1
            consumer._subscription.subscription._assign({place})
            raise kafka.CoordinatorNotAvailableError

        with monkeypatch.context() as patched:
            patched.setattr(consumer._coordinator, "_do_commit_offsets", fails)
            with pytest.raises(kafka.CommitFailedError, match="rebalanced"):
                await cast(KafkaSubscription, names)._commit({place: 1})
        assert tries == 1
        consumer.seek(place, 1)


@WAYS
async def test_a_member_that_was_put_out_commits_nothing(kafka_url: str, topic: str, path: str) -> None:
    """An empty group would take a commit of anybody."""
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        await line.publish_many(MANY[:100])
        assert await take(names, 50) == MANY[:50]
        member = cast(KafkaSubscription, names)
        member._consumer._coordinator.reset_generation()
        with pytest.raises(kafka.CommitFailedError):
            await member._commit({TopicPartition(topic, 0): 1})


@WAYS
async def test_a_partition_without_a_broker_is_told_of_while_another_brings_names(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = [one for one in MANY if crc32(one.encode()) % 2 == 1][:50]
    url = f"{kafka_url}?path={path}&partitions=2&timeout=2"
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        await line.publish_many(mine)
        await take(names, 50)
        consumer = cast(KafkaSubscription, names)._consumer
        poll = consumer.last_poll_timestamp
        monkeypatch.setattr(consumer, "last_poll_timestamp", lambda one: one.partition and poll(one))
        with pytest.raises(greet.ConnectionLost, match="has not answered for 2 s"):
            async with asyncio.timeout(20):
                while True:
                    await line.publish_many(mine)
                    await take(names, 50)
        assert len(await take(names, 1)) == 1


@WAYS
async def test_a_member_that_leaves_during_an_outage_leaves_nothing(topic: str, path: str) -> None:
    before = asyncio.all_tasks()
    async with greet.brokers.kafka() as broker, greet.connect(f"{broker.url}?path={path}&timeout=4", topic) as line:
        with suppress(greet.ConnectionLost):
            async with line.subscribe("hello"):
                await broker.kill()
                await asyncio.sleep(1)
    await until(lambda: asyncio.all_tasks() <= before)


async def test_who_publishes_one_by_one_sees_that_partitions_were_added(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line:
        await line.publish("Ada")
        admin = AIOKafkaAdminClient(bootstrap_servers=servers(kafka_url))
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(4)})
        await admin.close()
        async with asyncio.timeout(20):
            while cast(FastKafkaLine, line)._counted != 4:
                await line.publish("Zoë")
                await asyncio.sleep(0.1)


async def test_what_may_be_accepted_is_unknown_though_the_line_was_closed_meanwhile(kafka_url: str, topic: str) -> None:
    line = cast(KafkaLine, greet.connect(kafka_url, topic))
    for handed_over, failure in ((True, greet.PublishUnknown), (False, greet.PublishFailed)):
        async with line:
            pass
        with pytest.raises(failure) as caught:
            async with line._publishing(line._deadline()) as attempt:
                attempt.accepted, attempt.handed_over = 2, handed_over
                await line._started()
        assert (type(caught.value), caught.value.accepted) == (failure, 2)


async def test_members_that_start_a_group_at_once_miss_nothing(kafka_url: str, topic: str) -> None:
    got: list[str] = []

    async def member(line: greet.Line) -> None:
        async with line.subscribe("hello") as names:
            await line.publish(f"first-{id(names)}")
            entered.release()
            async for name in names:
                got.append(name)  # noqa: PERF401

    entered = asyncio.Semaphore(0)
    async with greet.connect(f"{kafka_url}?partitions=3", topic) as line, asyncio.TaskGroup() as group:
        members = [group.create_task(member(line)) for _ in range(3)]
        for _ in members:
            await entered.acquire()
        await line.publish_many(MANY[:300])
        await until(lambda: len(set(got)) >= 303)
        for task in members:
            task.cancel()
    assert len(set(got)) == 303


async def test_a_slow_handler_is_settled_while_it_goes_on(kafka_url: str, topic: str) -> None:
    async def position() -> list[int | None]:
        return await positions(kafka_url, topic, "hello")

    async with greet.connect(kafka_url, topic) as line, line.subscribe("hello") as names:
        await line.publish_many(MANY[:100])
        await take(names, 4)  # the fourth is in hand
        await becomes([3], position, 20)
        await take(names, 1)
        await becomes([4], position, 20)
    assert await position() == [5]


async def test_at_most_once_gives_back_what_it_did_not_hand_out(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic, guarantee=Guarantee.AT_MOST_ONCE) as line:
        with suppress(ZeroDivisionError):
            async with line.subscribe("hello") as names:
                await line.publish_many(MANY[:100])
                assert await take(names, 3) == MANY[:3]
                raise ZeroDivisionError
        async with line.subscribe("hello") as names:
            assert await take(names, 97) == MANY[3:100]


# Members come and go


@pytest.mark.parametrize("partitions", [1, 4])
async def test_members_come_and_go_without_loss_or_double(kafka_url: str, topic: str, partitions: int) -> None:
    got: list[str] = []
    sent: list[str] = []

    async def member(line: greet.Line, seconds: float) -> None:
        until = monotonic() + seconds
        async with line.subscribe("hello") as names:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    async for name in names:
                        got.append(name)
                        if monotonic() > until:
                            return
                        await asyncio.sleep(0.0005)

    async with greet.connect(f"{kafka_url}?partitions={partitions}", topic) as line, line.subscribe("hello"):
        pass
    async with greet.connect(kafka_url, topic) as line, asyncio.TaskGroup() as group:
        for delay in (0.0, 0.4, 0.8, 1.2):
            group.create_task(member(line, 2.2 - delay))
            for start in range(0, 200, 20):
                chunk = [f"{delay}-{number}" for number in range(start, start + 20)]
                await line.publish_many(chunk)
                sent += chunk
                await asyncio.sleep(0.04)
        stays = group.create_task(member(line, 15))
        await until(lambda: len(got) >= len(sent), 14)
        stays.cancel()
    assert Counter(got) == Counter(sent)


async def test_a_name_in_hand_does_not_hold_up_who_enters(kafka_url: str, topic: str) -> None:
    """Even in one task, where the first member cannot go on before the second has entered."""
    async with greet.connect(kafka_url, topic) as line, line.subscribe("hello") as one:
        await line.publish_many(MANY[:10])
        got = await take(one, 1)
        start = monotonic()
        async with line.subscribe("hello"):
            assert monotonic() - start < 3
            got += await take(one, 9)
            assert got == MANY[:10]  # the older member keeps the partition, and none comes twice


async def test_a_member_that_crashes_is_replaced_at_once(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line:
        first, second = line.subscribe("hello"), line.subscribe("hello")
        with suppress(ZeroDivisionError):
            async with first:
                await second.__aenter__()
                await line.publish_many(MANY[:10])
                assert await take(first, 3) == MANY[:3]
                raise ZeroDivisionError
        assert await take(second, 8, seconds=5) == MANY[2:10]
        await second.__aexit__(None, None, None)


async def test_at_most_once_a_position_never_goes_back(kafka_url: str, topic: str) -> None:
    """Neither while its names are handed out nor when the wait for them is cut short."""
    async with greet.connect(kafka_url, topic, guarantee=Guarantee.AT_MOST_ONCE) as line:
        async with line.subscribe("hello") as names:
            assert await line.publish_many(MANY[:100]) == 100
            got = await take(names, 1)
            end = (await positions(kafka_url, topic, "hello"))[0]
            assert end is not None
            got += await take(names, 1)
            await asyncio.sleep(0.3)  # in which a position would be written
            assert await positions(kafka_url, topic, "hello") == [end]
            for number in range(200):
                with suppress(TimeoutError):
                    async with asyncio.timeout(number / 50_000):
                        got.append(await anext(names))
            got += await take(names, 100 - len(got))
        assert got == MANY[:100]


# What is no name


async def test_what_is_no_name_goes_to_the_dead_letters_once_per_group(kafka_url: str, topic: str) -> None:
    bad = [b"", b"\xff\xfe", b"two\nlines", b"\x00", b"x" * 70_000, None, "\u202e".encode()]
    async with greet.connect(kafka_url, topic) as line:
        async with line.subscribe("hello") as hellos, line.subscribe("goodbye") as goodbyes:
            await line.publish("Ada")
            async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url)) as producer:
                for body in bad:
                    await producer.send_and_wait(topic, body, key=b"key")
            await line.publish("Bob")
            assert await take(hellos, 2) == await take(goodbyes, 2) == ["Ada", "Bob"]
        letters = await line.dead_letters()
        for group in ("hello", "goodbye"):  # the oldest first
            assert [letter.body for letter in letters if letter.group == group] == [body or b"" for body in bad]
        assert len(letters) == 2 * len(bad)
        first = next(letter for letter in letters if letter.group == "hello")
        assert first.origin == f"{topic}-0@1"
        assert all(letter.reason for letter in letters)
        assert await positions(kafka_url, topic, "hello") == [9]


async def test_dead_letters_are_sent_again_once(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line:
        assert await line.dead_letters() == []
        assert await line.resend_dead_letters() == 0
        async with line.subscribe("hello") as names:
            async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url)) as producer:
                await producer.send_and_wait(topic, b"a\tb")
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
            assert [letter.body for letter in await line.dead_letters()] == [b"a\tb"]
            assert await line.resend_dead_letters() == 1
            assert await line.dead_letters() == []
            await line.publish("Bob")
            assert await take(names, 1) == ["Bob"]
        assert [letter.origin for letter in await line.dead_letters()] == [f"{topic}-0@2"]


async def test_two_groups_letters_of_one_message_are_sent_as_one(kafka_url: str, topic: str) -> None:
    async with (
        greet.connect(kafka_url, topic) as line,
        line.subscribe("hello") as hellos,
        line.subscribe("goodbye") as goodbyes,
    ):
        async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url)) as producer:
            await producer.send_and_wait(topic, b"a\tb")
        for count, name in enumerate(("Ada", "Bob", "Cy")):
            await line.publish(name)
            assert await take(hellos, 1) == await take(goodbyes, 1) == [name]
            assert [letter.origin for letter in await line.dead_letters()] == [f"{topic}-0@{2 * count}"] * 2
            assert await line.resend_dead_letters() == 1


# Publishing


@pytest.mark.parametrize("guarantee", Guarantee)
async def test_large_names_fit(kafka_url: str, topic: str, guarantee: Guarantee) -> None:
    large = [f"{number:04d}" + "é" * 32_766 for number in range(20)] + ["x" * 65_536, "y", "z" * 65_535]
    url = f"{kafka_url}?partitions=2"
    async with greet.connect(url, topic, guarantee=guarantee) as line, line.subscribe("hello") as names:
        assert await line.publish_many(large) == len(large)
        await asyncio.gather(*map(line.publish, large))
        assert Counter(await take(names, 2 * len(large))) == Counter(large + large)


async def test_names_gather_in_batches_and_keep_the_order_of_each_publisher(kafka_url: str, topic: str) -> None:
    async def publisher(letter: str) -> None:
        for number in range(100):
            await line.publish(f"{letter}{number:03d}")

    async with greet.connect(kafka_url, topic) as line, line.subscribe("hello") as names:
        async with asyncio.TaskGroup() as group:
            for letter in "abcdefghijklmnopqrst":
                group.create_task(publisher(letter))
        got = await take(names, 2000)
    for letter in "abcdefghijklmnopqrst":
        assert [name for name in got if name[0] == letter] == [f"{letter}{number:03d}" for number in range(100)]


async def test_what_the_broker_refuses_has_failed_and_the_next_one_is_published(kafka_url: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers(kafka_url))
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs={"max.message.bytes": "1000"})])
    await admin.close()
    async with greet.connect(kafka_url, topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        with pytest.raises(greet.PublishFailed, match="TooLarge"):
            await line.publish("x" * 5000)
        await line.publish("Bob")
        with pytest.raises(greet.PublishFailed) as failure:
            await line.publish_many(["x" * 5000])
        assert failure.value.accepted == 0
        assert await line.publish_many(["Cy"]) == 1
        assert await take(names, 3) == ["Ada", "Bob", "Cy"]


async def test_a_publish_that_was_repeated_to_its_deadline_says_why(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not that the broker did not answer: it did, each time."""

    async def refused(*_: Any, **__: Any) -> asyncio.Future[None]:
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(kafka.NotEnoughReplicasError())
        return answer

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", refused)
    async with greet.connect(f"{kafka_url}?timeout=2&path=plain", topic, guarantee=Guarantee.AT_LEAST_ONCE) as line:
        with pytest.raises(greet.PublishUnknown, match="has too few replicas in sync: start the brokers"):
            await line.publish_many(["Ada"])


async def test_a_cancelled_publish_leaves_the_others_alone(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line, line.subscribe("hello") as names:
        tasks = [asyncio.create_task(line.publish(name)) for name in MANY[:50]]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[1::2] == [None] * 25
        got = await take(names, 50, seconds=1)
        assert set(MANY[1:50:2]) <= set(got)
        assert len(got) == len(set(got))


async def test_a_cancelled_publish_many_ends(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, topic) as line:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await line.publish_many(f"name-{number}" for number in range(10**9))
        await line.publish("Ada")


@WAYS
async def test_one_deadline_for_one_call(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for the producer and the one for the answer have it together; so have names behind many others."""

    async def silence(*_: object, **__: object) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    async with greet.connect(f"{kafka_url}?timeout=2&path={path}", topic) as line:
        assert isinstance(line, KafkaLine)
        started = line._try_producer

        async def slowly() -> None:
            await asyncio.sleep(1.2)
            await started()
            for send in ("send", "send_batch"):
                monkeypatch.setattr(line._producer, send, silence)

        monkeypatch.setattr(line, "_try_producer", slowly)
        start = monotonic()
        with pytest.raises(greet.PublishUnknown):
            await line.publish("Ada")
        assert monotonic() - start < 2.8
        await line._prepare()
        start = monotonic()
        results = await asyncio.gather(*map(line.publish, ["x" * 60_000] * 100), return_exceptions=True)
        assert monotonic() - start < 3.5  # six batches: one after another, they would take as many time-outs
        assert {type(one) for one in results} <= {greet.PublishUnknown, greet.PublishFailed}


async def test_a_name_that_is_sent_again_alone_has_the_same_deadline(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch that it shared was too large. The one that it has alone is not answered, so nobody can tell."""

    async def too_large(*_: object, **__: object) -> None:
        await asyncio.sleep(1.2)
        raise kafka.MessageSizeTooLargeError

    async def silence(*_: object, **__: object) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    url = f"{kafka_url}?timeout=2&path=plain"
    async with greet.connect(url, topic, guarantee=Guarantee.AT_LEAST_ONCE) as line:
        assert isinstance(line, KafkaLine)
        producer = await line._started()
        monkeypatch.setattr(producer, "send", too_large)
        monkeypatch.setattr(producer, "send_batch", silence)
        start = monotonic()
        with pytest.raises(greet.PublishUnknown):
            await line.publish("Ada")
        assert monotonic() - start < 2.8


@WAYS
async def test_a_partition_that_fails_leaves_the_others_alone(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AT_LEAST_ONCE: its batch is sent again by the same producer, which has the names of the others."""
    url, fails = f"{kafka_url}?partitions=2&path={path}", 5
    shares = [[name for name in MANY[:200] if crc32(name.encode()) % 2 == number] for number in range(2)]
    async with (
        greet.connect(url, topic, guarantee=Guarantee.AT_LEAST_ONCE) as line,
        line.subscribe("hello") as names,
    ):
        assert isinstance(line, KafkaLine)
        await line._prepare()
        producer = await line._started()
        send = producer.send_batch

        async def failing(batch: Any, topic: str, *, partition: int) -> Any:
            nonlocal fails
            if partition == 0 and fails:
                fails -= 1
                written = asyncio.get_running_loop().create_future()
                written.set_exception(kafka.NotLeaderForPartitionError())
                return written
            return await send(batch, topic, partition=partition)

        monkeypatch.setattr(producer, "send_batch", failing)
        refused = asyncio.create_task(line.publish_many(shares[0]))
        for name in shares[1]:
            await line.publish(name)
        assert await refused == len(shares[0])
        assert not fails
        assert await line._started() is producer
        assert Counter(await take(names, 200)) == Counter(MANY[:200])


# A broker that goes away


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[Broker]:
    """A Kafka that a test may pause and kill."""
    async with greet.brokers.kafka(config=SOONER) as broker:
        yield broker


@pytest.fixture(scope="module")
async def behind() -> AsyncIterator[tuple[Broker, int]]:
    """A Kafka that is also reached through a proxy: it listens on the port, and leads to `proxied`."""
    (port,) = free_ports(1)
    async with greet.brokers.kafka(proxy_port=port) as broker:
        yield broker, port


@WAYS
async def test_a_broker_that_hangs_for_a_moment_is_waited_for(own: Broker, topic: str, path: str) -> None:
    await all_wait_for(own, f"{own.url}?path={path}", topic)


@WAYS
async def test_each_publish_has_its_own_time(own: Broker, topic: str, path: str) -> None:
    """After an outage as long as the time-out, only those have failed whose time was over."""
    url = f"{own.url}?timeout=2&path={path}"
    async with greet.connect(url, topic, guarantee=Guarantee.AT_LEAST_ONCE) as line, line.subscribe("hello"):
        await line.publish("Ada")
        await own.pause()
        try:
            early = [asyncio.create_task(line.publish(name)) for name in MANY[:3]]
            await asyncio.sleep(1.6)
            late = [asyncio.create_task(line.publish(name)) for name in MANY[3:6]]
            await asyncio.sleep(0.6)
            for one in early:
                with pytest.raises((greet.PublishUnknown, greet.PublishFailed), match="acknowledged it within 2 s"):
                    await one
        finally:
            await own.resume()
        await asyncio.gather(*late)


def test_a_connection_that_breaks_while_a_batch_is_written_has_its_words() -> None:
    """Of what is not acknowledged, aiokafka only says that something unexpected happened."""
    address = greet.connect("kafka://h").address
    said = words(kafka.KafkaError("Unexpected error during batch delivery"), address, "names")
    assert said == "kafka://h:9092 closed the connection"


async def test_a_broker_that_stops_answering(own: Broker, topic: str) -> None:
    async with greet.connect(f"{own.url}?timeout=1.5", topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        await own.pause()
        try:
            accepted = 0
            with pytest.raises(greet.PublishUnknown):
                while True:  # the signal takes its time
                    await line.publish(f"before-{accepted}")
                    accepted += 1
            start = monotonic()
            results = await asyncio.gather(*map(line.publish, MANY[:20]), return_exceptions=True)
            assert {type(one) for one in results} <= {greet.PublishUnknown, greet.PublishFailed}
            with pytest.raises((greet.PublishUnknown, greet.PublishFailed)) as failure:
                await line.publish_many(MANY[20:])
            assert failure.value.accepted == 0
            assert monotonic() - start < 4
            await take(names, accepted, seconds=1)
            with pytest.raises(greet.ConnectionLost):
                await anext(names)
            start = monotonic()
            other = greet.connect(f"{own.url}?timeout=1.5", topic)
            with pytest.raises(greet.ConnectFailed):
                await other.__aenter__()
            assert monotonic() - start < 3  # two deadlines
        finally:
            await own.resume()
        await line.publish("Bob")  # the line is as good as before, and so is the member
        got = await take(names, 100, seconds=2)
        assert "Bob" in got
        unknown = {name for name, one in zip(MANY, results, strict=False) if isinstance(one, greet.PublishUnknown)}
        assert {name for name in got if name in MANY[:20]} <= unknown  # what has failed has surely failed


async def test_closing_does_not_wait_for_a_broker(own: Broker, topic: str) -> None:
    try:
        async with greet.connect(f"{own.url}?timeout=1.5", topic) as line, line.subscribe("hello"):
            await line.publish("first")
            await own.pause()
            publishing = asyncio.create_task(line.publish("Ada"))
            await asyncio.sleep(0.1)
            start = monotonic()
        assert monotonic() - start < 4
        with pytest.raises(greet.PublishUnknown):
            await publishing
    finally:
        await own.resume()


async def test_at_most_once_goes_on_after_a_full_socket(own: Broker, topic: str) -> None:
    """The broker takes nothing until the socket is full, and is killed then: aiokafka's sender ends by that."""
    async with (
        greet.connect(f"{own.url}?timeout=2", topic, guarantee=Guarantee.AT_MOST_ONCE) as line,
        line.subscribe("hello") as names,
    ):
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        await own.pause()
        try:
            with pytest.raises((greet.PublishFailed, greet.PublishUnknown)):
                for number in range(1000):
                    await line.publish(f"{number:05d}{'x' * 60_000}")
        finally:
            await own.kill()
            await own.restart()
        async with asyncio.timeout(20):
            while "Bob" not in await take(names, 1, seconds=0.5):
                with suppress(greet.PublishFailed, greet.PublishUnknown, greet.ConnectionLost):
                    await line.publish("Bob")


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_fetch_does_not_end_when_aiokafka_looks_around(kafka_url: str, topic: str, path: str) -> None:
    """If both happen in one turn of the loop, aiokafka 0.14 does not fetch until it looks around again."""
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        fetcher = cast(Any, names)._consumer._fetcher
        looks_ms = 1000 * fetcher._fetcher_timeout
        assert 50 <= fetcher._fetch_max_wait_ms % looks_ms <= looks_ms - 50


async def test_at_most_once_notices_a_half_open_connection(behind: tuple[Broker, int], topic: str) -> None:
    """Nothing is answered to a publisher of acks=0, so greet asks whether the broker is there."""
    broker, port = behind
    host, _, inner = str(broker.proxied).rpartition(":")
    async with (
        proxy(host, int(inner), listen=port) as between,
        greet.connect(f"kafka://127.0.0.1:{port}?timeout=4", topic, guarantee=Guarantee.AT_MOST_ONCE) as line,
        greet.connect(broker.url, topic) as other,
        other.subscribe("hello") as names,
    ):
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        between.silence()
        async with asyncio.timeout(20):
            while "Bob" not in await take(names, 1, seconds=0.2):
                with suppress(greet.PublishFailed, greet.PublishUnknown):
                    await line.publish("Bob")


async def test_who_closes_while_a_batch_waits_leaves_nobody_waiting(own: Broker, topic: str) -> None:
    """Also when the closing is cancelled: each publisher is told."""
    line = greet.connect(f"{own.url}?timeout=5", topic)
    await line.__aenter__()
    await line.publish("first")
    await own.pause()
    try:
        publishing = [asyncio.create_task(line.publish(name)) for name in MANY[:20]]
        await asyncio.sleep(0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await line.__aexit__(None, None, None)
        done, _ = await asyncio.wait(publishing, timeout=10)
    finally:
        await own.resume()
    assert {type(task.exception()) for task in done} <= {greet.PublishUnknown, greet.PublishFailed}
    assert len(done) == 20


async def test_what_a_broker_answers_says_more_than_that_another_is_away(own: Broker, topic: str) -> None:
    start = monotonic()
    with pytest.raises(greet.ConnectFailed, match="replication="):
        async with greet.connect(f"kafka://127.0.0.1:1,{servers(own.url)}?replication=5&timeout=20", topic):
            pass
    assert monotonic() - start < 10


async def test_a_broker_is_killed_and_started_again(own: Broker, topic: str) -> None:
    got: list[str] = []
    accepted: list[str] = []

    async def reader() -> None:
        async for name in names:
            got.append(name)  # noqa: PERF401

    async def publisher(letter: str) -> None:
        for number in range(10**6):
            await line.publish(f"{letter}{number:06d}")
            accepted.append(f"{letter}{number:06d}")

    async with greet.connect(own.url, topic) as line, line.subscribe("hello") as names:
        tasks = [asyncio.create_task(work) for work in (reader(), *map(publisher, "abcdefgh"))]
        await asyncio.sleep(0.5)
        await own.kill()
        await own.restart()
        before = len(accepted)
        await until(lambda: len(accepted) >= before + 200 or any(task.done() for task in tasks))
        for task in tasks[1:]:
            task.cancel()
        await asyncio.wait(tasks[1:])
        await until(lambda: set(accepted) <= set(got) or tasks[0].done())
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert [task for task in tasks if not task.cancelled()] == []
    assert len(got) == len(set(got))
    for letter in "abcdefgh":
        mine = [name for name in got if name[0] == letter]
        assert mine == sorted(mine)


async def test_a_broker_that_names_no_broker_is_waited_for(topic: str) -> None:
    """As one does that was silent, until it is let in again. This one is so for half of the time."""
    config = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "2000"}

    async def named() -> bool:
        client = AIOKafkaClient(bootstrap_servers=servers(broker.url))
        try:
            await client.bootstrap()
            return bool(client.cluster.brokers())
        finally:
            await client.close()

    async with greet.brokers.kafka(config=config) as broker:
        await becomes(False, named, 10)
        async with greet.connect(broker.url, topic) as line:
            await line.publish("Ada")
            # No member: while a broker is half away for good, aiokafka may take minutes to be assigned a partition.
            assert await line.publish_many(["Grace"]) == 1


# What comes from others, and what the broker refuses


async def make(url: str, topic: str, **config: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers(url))
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1, topic_configs=config)])
    await admin.close()


@WAYS
async def test_connecting_leaves_nothing(kafka_url: str, topic: str, path: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers(kafka_url))
    await admin.start()
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        assert topic not in await admin.list_topics()
        await line.publish("Ada")
        assert topic in await admin.list_topics()
    await admin.close()


@WAYS
async def test_sequence_numbers_begin_again_after_the_last_one(kafka_url: str, topic: str, path: str) -> None:
    """As with each 2,147,483,648th name of a producer in one partition."""
    wanted = [f"name-{number}" for number in range(30)]
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        producer = await cast(KafkaLine, line)._started()
        producer._txn_manager._sequence_numbers[TopicPartition(topic, 0)] = 2**31 - 3
        for start in range(0, 30, 10):
            assert await line.publish_many(wanted[start : start + 10]) == 10
        assert await take(names, 30) == wanted
        assert cast(KafkaLine, line)._producer is producer


@WAYS
async def test_a_header_that_is_not_utf_8_is_told_of_and_costs_no_name(kafka_url: str, topic: str, path: str) -> None:
    """Nor those of another partition, which aiokafka had taken before it found it."""
    async with greet.connect(f"{kafka_url}?path={path}&partitions=2", topic) as line:
        said = rf"topic {topic} has a header that is not UTF-8: .* moves group hello past it"
        with pytest.raises(greet.Unsupported, match=said):
            async with line.subscribe("hello") as names:
                async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url)) as producer:
                    await producer.send_and_wait(topic, b"Ada", partition=0)
                    batch = producer.create_batch()
                    batch.append(key=None, value=b"Bob", timestamp=None, headers=[("AAAA", b"1")])
                    whole = bytes(batch._build()).replace(b"AAAA", b"\xe9t\xe9s")
                    batch._buffer = whole[:17] + google_crc32c.value(whole[21:]).to_bytes(4, "big") + whole[21:]
                    await (await producer.send_batch(batch, topic, partition=1))
                await take(names, 2)
        got = []
        with suppress(greet.Unsupported):
            async with line.subscribe("hello") as names:
                got = await take(names, 1)
        assert got in ([], ["Ada"])  # it may have come before
        if not got:
            assert await positions(kafka_url, topic, "hello", 2) == [1, 0]


@WAYS
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_codec_is_written_and_read(kafka_url: str, topic: str, codec: str, path: str) -> None:
    await make(kafka_url, topic, **{"compression.type": codec})
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        await line.publish_many(MANY[:100])
        async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url), compression_type=codec) as producer:
            await producer.send_and_wait(topic, b"Bob")
        assert await take(names, 101) == [*MANY[:100], "Bob"]
    async with greet.connect(f"{kafka_url}?path={path}&compression={codec}", topic) as line:
        await line.publish("Cy")


@WAYS
async def test_a_batch_that_cannot_be_read_is_told_of_and_comes_again(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose codec is not installed here."""
    confluent_kafka = pytest.importorskip("confluent_kafka")  # aiokafka asks for its own codec to pack too
    bob = "Bob" * 50  # worth packing
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        with monkeypatch.context() as without:
            without.setattr("aiokafka.codec.has_lz4", lambda: False)  # before Bob arrives
            producer = confluent_kafka.Producer({"bootstrap.servers": servers(kafka_url), "compression.type": "lz4"})
            producer.produce(topic, bob)
            assert await asyncio.to_thread(producer.flush, 10) == 0
            for _ in range(2):
                with pytest.raises(greet.Unsupported, match="a codec that cannot be read here: pip install cramjam"):
                    async with asyncio.timeout(10):
                        await anext(names)
        assert await take(names, 1) == [bob]


@WAYS
async def test_what_comes_with_a_batch_that_cannot_be_read_is_not_lost(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka drops what it has taken before it, also from another partition: each is the first of them once."""
    async with greet.connect(f"{kafka_url}?path={path}&partitions=2", topic) as line:
        async with line.subscribe("hello"):
            pass
        for bad in range(2):
            one, two, three = sent = [f"{name} {bad}" for name in ("Ada", "Bob", "Cy")]
            for number, name, codec in ((1 - bad, one, None), (bad, two, None), (bad, three, "lz4")):
                async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url), compression_type=codec) as producer:
                    await producer.send_and_wait(topic, name.encode(), partition=number)
            got: list[str] = []
            with monkeypatch.context() as without:
                without.setattr("aiokafka.codec.has_lz4", lambda: False)
                async with line.subscribe("hello") as names:
                    for _ in range(2):
                        with suppress(greet.Unsupported):
                            async with asyncio.timeout(10):
                                got.append(await anext(names))
                    assert got in ([], [one])
                    without.undo()
                    got += await take(names, 3 - len(got))
            assert sorted(got) == sent


@WAYS
async def test_only_what_was_committed_is_handed_out(kafka_url: str, topic: str, path: str) -> None:
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url), transactional_id=topic) as producer:
            for name, end in ((b"aborted", producer.abort_transaction), (b"Bob", producer.commit_transaction)):
                await producer.begin_transaction()
                await producer.send_and_wait(topic, name, partition=0)
                await end()
        await line.publish("Cy")
        assert await take(names, 3) == ["Ada", "Bob", "Cy"]
    assert await positions(kafka_url, topic, "hello") in ([5], [6])  # the marker of a commit may come behind it


@WAYS
@pytest.mark.parametrize("guarantee", [Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE])
async def test_a_batch_that_is_too_large_is_sent_by_halves(
    kafka_url: str, topic: str, path: str, guarantee: Guarantee
) -> None:
    await make(kafka_url, topic, **{"max.message.bytes": "50000"})
    url = f"{kafka_url}?path={path}"
    async with greet.connect(url, topic, guarantee=guarantee) as line, line.subscribe("hello") as names:
        assert await line.publish_many(MANY) == len(MANY)
        assert await take(names, len(MANY), many=True) == MANY
        wide = [f"{number:04d}".ljust(9000, "-") for number in range(60)]
        results = await asyncio.gather(*map(line.publish, [*wide, "x" * 60_000]), return_exceptions=True)
        assert results[:-1] == [None] * 60
        assert isinstance(results[-1], greet.PublishFailed)
        assert "TooLarge" in str(results[-1])
        assert sorted(await take(names, 60)) == wide
        with pytest.raises(greet.PublishFailed) as failure:
            await line.publish_many([*MANY[:10], "x" * 60_000])
        assert failure.value.accepted == 10


@WAYS
async def test_partitions_that_are_added_are_read_within_seconds(kafka_url: str, topic: str, path: str) -> None:
    url = f"{kafka_url}?path={path}"
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        admin = AIOKafkaAdminClient(bootstrap_servers=servers(kafka_url))
        await admin.start()
        await admin.create_partitions({topic: NewPartitions(4)})
        await admin.close()
        async with greet.connect(url, topic) as other:
            await other.publish_many(MANY[:50])
        assert sorted(await take(names, 50, seconds=15)) == MANY[:50]


@WAYS
async def test_a_group_that_begins_behind_kept_names_says_so(
    kafka_url: str, topic: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        async with line.subscribe("hello"):
            assert not [one for one in caplog.records if one.name == "greet"]
        await line.publish_many(MANY[:3])
        async with line.subscribe("goodbye"):
            (said,) = [one.getMessage() for one in caplog.records if one.name == "greet"]
    assert "3 names" in said
    assert "replay=True" in said


@WAYS
async def test_a_topic_that_was_made_anew_is_committed_from_its_beginning(
    kafka_url: str, topic: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"{kafka_url}?path={path}"
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        await line.publish_many(MANY[:100])
        assert await take(names, 100) == MANY[:100]
        await becomes([99], lambda: positions(kafka_url, topic, "hello"), 10)  # the last name is in hand
        admin = AIOKafkaAdminClient(bootstrap_servers=servers(kafka_url))
        await admin.start()
        await admin.delete_topics([topic])
        await admin.close()
        async with greet.connect(url, topic) as other:  # creates it
            await other.publish_many(MANY[:10])
        assert await take(names, 10) == MANY[:10]
        await becomes([9], lambda: positions(kafka_url, topic, "hello"), 10)
    (said,) = [one.getMessage() for one in caplog.records if one.name == "greet"]
    assert said == f"topic {topic} was deleted and created again: group hello reads partition 0 from offset 0 on"


@WAYS
async def test_a_compacted_topic_says_what_it_refuses(kafka_url: str, topic: str, path: str) -> None:
    await make(kafka_url, topic, **{"cleanup.policy": "compact"})
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        with pytest.raises(greet.PublishFailed, match="compacted"):
            await line.publish("Ada")


async def test_topics_that_collide_are_refused_at_once(kafka_url: str, topic: str) -> None:
    async with greet.connect(kafka_url, f"{topic}.a") as line:
        await line.publish("Ada")
    with pytest.raises(greet.ConnectFailed, match="a_b for the same"):
        async with greet.connect(kafka_url, f"{topic}_a"):
            pass


@WAYS
async def test_a_clean_end_says_when_nothing_could_be_settled(own: Broker, topic: str, path: str) -> None:
    before = asyncio.all_tasks()
    async with greet.connect(f"{own.url}?path={path}&timeout=2", topic) as line:
        names = line.subscribe("hello")
        await names.__aenter__()
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        await own.pause()
        try:
            start = monotonic()
            with pytest.raises(greet.ConnectionLost, match="could not be settled"):
                await names.__aexit__(None, None, None)
            assert monotonic() - start < 4
        finally:
            await own.resume()
    await until(lambda: asyncio.all_tasks() <= before)  # the plain way ends beside the caller


@WAYS
async def test_a_dead_letter_that_is_not_answered_is_told_of_by_the_deadline(
    own: Broker, topic: str, path: str
) -> None:
    """DURABLE, so its producer would write it for ever. It is kept later."""
    async with greet.connect(f"{own.url}?path={path}&timeout=2", topic) as line, line.subscribe("hello") as names:
        assert isinstance(line, KafkaLine)
        await line._send_bodies([b"\xfe", b"Ada", b"\xff", b"Bob"], line._deadline())
        assert await take(names, 1) == ["Ada"]
        await own.pause()
        try:
            with pytest.raises(greet.PublishFailed, match="could not be kept"):
                async with asyncio.timeout(8):
                    await anext(names)
        finally:
            await own.resume()
        assert await take(names, 1) == ["Bob"]
        assert {letter.body for letter in await line.dead_letters()} == {b"\xfe", b"\xff"}


@WAYS
async def test_making_the_topic_of_the_dead_letters_has_the_same_deadline(
    behind: tuple[Broker, int], topic: str, path: str
) -> None:
    """Each request to a slow broker is answered in time, and all of them together are not."""
    broker, port = behind
    host, _, inner = str(broker.proxied).rpartition(":")
    async with (
        proxy(host, int(inner), listen=port) as between,
        greet.connect(broker.url, topic) as other,
        greet.connect(f"kafka://127.0.0.1:{port}?path={path}&timeout=4", topic) as line,
        line.subscribe("hello") as names,
    ):
        assert isinstance(other, KafkaLine)
        await other._send_bodies([b"Ada", b"\xff", b"Bob"], other._deadline())
        assert await take(names, 1) == ["Ada"]
        between.delay_s = 0.45
        start = monotonic()
        with pytest.raises(greet.PublishFailed, match="could not be kept"):
            await anext(names)
        assert 4 <= monotonic() - start < 8, "one deadline, and not two"
        between.delay_s = 0.0
        async with asyncio.timeout(20):
            while True:
                with suppress(greet.PublishFailed, greet.PublishUnknown, greet.ConnectionLost):
                    assert await anext(names) == "Bob"
                    break
        assert {letter.body for letter in await other.dead_letters()} == {b"\xff"}


@WAYS
async def test_a_clean_end_settles_what_a_handler_that_blocks_has_handled(
    kafka_url: str, topic: str, path: str
) -> None:
    """It blocks for longer than its session lasts: the end waits until the broker has the member back."""
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        async with line.subscribe("hello") as names:
            await line.publish_many(MANY[:3])
            assert await take(names, 3) == MANY[:3]
            time.sleep(8)  # noqa: ASYNC251
        async with line.subscribe("hello") as names:
            await line.publish("Bob")
            assert await take(names, 2, seconds=2) == ["Bob"]


async def put_out(member: greet.Subscription) -> None:
    """As the broker does with a member that is silent for too long."""
    coordinator = member._consumer._coordinator  # type: ignore[attr-defined]
    await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))


@WAYS
async def test_a_clean_end_settles_what_a_member_that_was_removed_has_handled(
    kafka_url: str, topic: str, path: str
) -> None:
    """The group has another member, so this one must join again first."""
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        first, second = line.subscribe("hello"), line.subscribe("hello")
        async with first:
            await second.__aenter__()
            await line.publish_many(MANY[:3])
            assert await take(first, 3) == MANY[:3]
            await put_out(first)
        await line.publish("Bob")
        assert await take(second, 1) == ["Bob"]
        await second.__aexit__(None, None, None)


async def test_a_member_stays_in_its_group_while_it_reads_where_to_go_on(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that takes longer than the 6 s after which a silent member is put out."""
    committed = kafka_topic.committed

    async def slow(*what: Any) -> Any:
        known = await committed(*what)
        await asyncio.sleep(7)
        return known

    async with greet.connect(f"{kafka_url}?timeout=40", topic) as line:
        monkeypatch.setattr(design, "committed", slow)
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
            await asyncio.sleep(0.5)  # the next heartbeats
            assert names._consumer._coordinator.generation == 1  # type: ignore[attr-defined]


@WAYS
async def test_a_member_that_is_put_out_while_it_reads_where_to_go_on_takes_nothing(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another member has its partition, and has handled names of it, by the time that it knows."""
    committed = kafka_topic.committed
    taken: dict[int, list[str]] = {0: [], 1: []}
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        members = [line.subscribe("hello"), line.subscribe("hello")]

        async def consume(number: int) -> None:
            async with members[number] as names:
                async for name in names:
                    taken[number].append(name)

        async def late(*what: Any) -> Any:
            monkeypatch.setattr(design, "committed", committed)
            known = await committed(*what)
            await put_out(members[0])
            consuming.append(tasks.create_task(consume(1)))
            await line.publish_many(MANY[:5])
            await until(lambda: taken[1] == MANY[:5])
            return known

        monkeypatch.setattr(design, "committed", late)
        async with asyncio.TaskGroup() as tasks:
            consuming = [tasks.create_task(consume(0))]
            await until(lambda: len(taken[1]) == 5)
            await line.publish_many(MANY[5:10])
            await until(lambda: len(taken[0]) + len(taken[1]) >= 10)
            await asyncio.sleep(1)  # longer than a heartbeat takes to learn that it was put out
            for one in consuming:
                one.cancel()
    assert sorted(taken[0] + taken[1]) == MANY[:10], "each once"


@WAYS
async def test_who_leaves_while_it_reads_where_to_go_on_does_not_move_the_group_back(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put out before it could settle, and another member has settled more in the meantime.

    The first answer is an error: it asks again, also while it leaves, and does not wait until its deadline.
    """
    committed, reads, go_on = kafka_topic.committed, asyncio.Event(), asyncio.Event()

    async def late(*what: Any) -> Any:
        first_time = not reads.is_set()
        reads.set()
        await go_on.wait()
        if first_time:
            raise ConnectionRefusedError
        return await committed(*what)

    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        first = line.subscribe("hello")
        async with first:
            await line.publish_many(MANY[:10])
            assert await take(first, 5) == MANY[:5]
            monkeypatch.setattr(design, "committed", late)
            monkeypatch.setattr(design, "HOLD_SECONDS", 0.1)
            coordinator = first._consumer._coordinator  # type: ignore[attr-defined]
            await coordinator._stop_heartbeat_task()  # so it does not join again before the other one has committed
            await put_out(first)
            other = AIOKafkaConsumer(bootstrap_servers=servers(kafka_url), group_id=f"{topic}:hello")
            other.assign([TopicPartition(topic, 0)])
            async with other:
                await other.commit({TopicPartition(topic, 0): 10})
            coordinator.reset_generation()  # what the next heartbeat would have led to
            await asyncio.wait_for(reads.wait(), 10)
            asyncio.get_running_loop().call_later(0.5, go_on.set)
        assert await positions(kafka_url, topic, "hello") == [10]


def loads(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on, offsets are answered as by a broker that still loads its groups after a start: by an error."""
    send, ready = AIOKafkaClient.send, monotonic() + seconds

    async def answer(client: AIOKafkaClient, node: int, request: Any, **more: Any) -> Any:
        if isinstance(request, OffsetFetchRequest) and monotonic() < ready:
            return OffsetFetchResponse_v3(0, [], GroupLoadInProgressError.errno)
        return await send(client, node, request, **more)

    monkeypatch.setattr(AIOKafkaClient, "send", answer)


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("guarantee", Guarantee)
async def test_a_group_goes_on_where_it_was_though_its_broker_still_loads_the_groups(
    kafka_url: str, topic: str, guarantee: Guarantee, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with greet.connect(f"{kafka_url}?path={path}", topic=topic, guarantee=guarantee) as line:
        async with line.subscribe("hello") as names:
            await line.publish_many(["Ada", "Bo", "Cy"])
            assert await take(names, 3) == ["Ada", "Bo", "Cy"]
        await line.publish_many(["Di", "Ed"])
        loads(monkeypatch, 0.5)
        async with line.subscribe("hello") as names:
            assert await take(names, 2) == ["Di", "Ed"]
        loads(monkeypatch, 2 * JOIN_SECONDS)  # longer than entering waits for a share of the partitions
        with monkeypatch.context() as soon:
            soon.setattr(KafkaSubscription, "_is_new", lambda _: asyncio.sleep(0, False))  # known before it loads
            await line.publish("Flo")
            async with line.subscribe("hello") as names:
                assert await take(names, 1) == ["Flo"]


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("known", [False, True])
async def test_a_member_reads_though_the_coordinator_is_found_late(
    kafka_url: str, topic: str, path: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka's task for the group ended if the consumer first assigned partitions, and then subscribed."""
    send, delays = AIOKafkaClient.send, iter([1.0])

    async def late(client: AIOKafkaClient, node: int, request: Any, **more: Any) -> Any:
        if isinstance(request, FindCoordinatorRequest):
            await asyncio.sleep(next(delays, 0))
        return await send(client, node, request, **more)

    async with greet.connect(f"{kafka_url}?path={path}", topic=topic) as line:
        if known:
            async with line.subscribe("hello"):
                pass
        monkeypatch.setattr(AIOKafkaClient, "send", late)
        async with line.subscribe("hello") as names:
            await line.publish_many(["Ada", "Bo"])
            assert await take(names, 2) == ["Ada", "Bo"]


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_dead_letters_are_not_sent_twice_though_the_broker_still_loads_the_groups(
    kafka_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with greet.connect(f"{kafka_url}?path={path}", topic) as line:
        async with line.subscribe("hello") as names:
            async with AIOKafkaProducer(bootstrap_servers=servers(kafka_url)) as producer:
                await producer.send_and_wait(topic, b"a\tb")
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
        assert await line.resend_dead_letters() == 1
        loads(monkeypatch, 0.5)
        assert await line.dead_letters() == []


async def test_a_coordinator_that_does_not_answer_is_told_of(
    kafka_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that has failed: its broker answers all else."""
    loads(monkeypatch, 3600)
    async with greet.connect(f"{kafka_url}?timeout=4", topic) as line:
        with pytest.raises(greet.ConnectFailed, match="answers, but not for group hello: restart the broker"):
            await line.subscribe("hello").__aenter__()


@WAYS
@pytest.mark.parametrize("what", ["connect", "publish", "subscribe", "read dead letters"])
async def test_a_client_that_is_cancelled_while_it_starts_leaves_no_connection(
    kafka_url: str, topic: str, what: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiokafka forgets its first connection if it is cancelled while that one asks for the brokers."""
    url, made, asked = f"{kafka_url}?path={path}", list[AIOKafkaConnection](), list[asyncio.TimerHandle]()
    connect, send = AIOKafkaConnection.connect, AIOKafkaConnection.send

    async def keep(connection: AIOKafkaConnection) -> Any:
        made.append(connection)  # so it is not closed by the garbage collector
        return await connect(connection)

    async def slow(answer: Awaitable[Any]) -> Any:
        answered = await answer
        await asyncio.sleep(0.02)
        return answered

    def ask(connection: AIOKafkaConnection, request: Any, **more: Any) -> Any:
        answer = send(connection, request, **more)
        if not isinstance(request, MetadataRequest):
            return answer
        asked.append(asyncio.get_running_loop().call_later(0.01, working.cancel if len(asked) == last else int))
        return slow(answer)

    async def work() -> None:
        async with greet.connect(url, topic) as line:
            match what:
                case "publish":
                    await line.publish("Ada")
                case "subscribe":
                    async with line.subscribe("hello"):
                        pass
                case "read dead letters":
                    assert await line.dead_letters() == []

    monkeypatch.setattr(AIOKafkaConnection, "connect", keep)
    monkeypatch.setattr(AIOKafkaConnection, "send", ask)
    last = -1
    cancelled = True
    while cancelled:  # while it asks for the first time, then for the second, and so on
        asked.clear()
        last += 1
        working = asyncio.create_task(work())
        await asyncio.wait([working])
        await until(lambda: not any(one.connected() for one in made), 1)
        cancelled = working.cancelled()
    await working
    assert last > 1, "it asked too seldom: nothing was cancelled"


@pytest.mark.parametrize("kind", kafka_errors.values(), ids=lambda kind: kind.__name__)
def test_no_answer_of_a_broker_is_told_as_a_broker_that_does_not_run(kind: type[Exception]) -> None:
    address = greet.connect("kafka://ada@localhost").address
    said = words(kind(), address, "names")
    assert "check that a broker runs there" not in said
    assert "\n" not in said
    assert said != f"{address}: "


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(), "check that a broker runs there"),
        (kafka.TopicAuthorizationFailedError("names"), "user ada may not write topic names"),
        (kafka.KafkaError("TopicAuthorizationFailedError()"), "user ada may not write topic names"),
        (kafka.GroupAuthorizationFailedError(), "grant READ"),
        (kafka.for_code(87)(), "compacted"),
        (kafka.for_code(81)(), "group.max.size"),
        (kafka.InvalidTopicError("it collides"), "it collides"),
        (kafka.CorrelationIdError(), "is not Kafka"),
        (socket.gaierror(-2, "not known"), "the host name is unknown"),
        (kafka.UnsupportedCodecError(), "cramjam"),
        (kafka.CorruptRecordException(), "--reset-offsets"),
        (kafka.MessageSizeTooLargeError(), "max.message.bytes"),
        (kafka.InvalidReplicationFactorError(), "replication="),
        (kafka.NotEnoughReplicasError(), "start the brokers"),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, Exception) else "",
)
def test_the_reason_given_is_the_reason(error: Exception, said: str) -> None:
    assert said in words(error, greet.connect("kafka://ada@localhost").address, "names")


@contextmanager
def eager_tasks() -> Iterator[None]:
    """Tasks of `asyncio.eager_task_factory`, or on Python 3.11 what is like them."""

    def eager(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None], **_: Any) -> asyncio.Future[None]:
        done = loop.create_future()
        try:
            work.send(None)
        except StopIteration:
            done.set_result(None)
        return done

    loop = asyncio.get_running_loop()
    factory: Any = getattr(asyncio, "eager_task_factory", eager)
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        loop.set_task_factory(None)


async def test_eager_tasks_are_refused() -> None:
    """aiokafka starts its tasks before it has what they use."""
    with eager_tasks(), pytest.raises(greet.Unsupported, match="eager tasks"):
        async with greet.connect("kafka://localhost?timeout=1"):
            pass


async def test_a_name_is_there_before_its_sender_begins() -> None:
    """Else a sender that begins at once finds nothing, and the publisher waits for ever."""
    sent: list[bytes] = []

    deadline = asyncio.get_running_loop().time() + 7

    async def send(_: int, bodies: list[bytes], until: float, __: Attempt) -> int:
        assert until == deadline
        sent.extend(bodies)
        return len(bodies)

    line: Any = SimpleNamespace(
        _lanes=[asyncio.Lock()], _sending=set(), _send_share=send, _producer=None, _recount=lambda: None
    )
    outbox = _Outbox(line, 0)
    outbox._crowded = True
    with eager_tasks():
        posted = cast(asyncio.Future[None], outbox.post(b"Ada", deadline))
    assert sent == [b"Ada"]
    assert posted.done()


@pytest.mark.parametrize("handed_over", [True, False])
async def test_who_shares_a_batch_is_told_when_its_own_time_is_over(handed_over: bool) -> None:
    sent: list[list[bytes]] = []
    acknowledged = asyncio.Event()

    async def send(_: int, bodies: list[bytes], __: float, attempt: Attempt) -> int:
        sent.append(bodies)
        attempt.handed_over = handed_over
        await acknowledged.wait()
        return len(bodies)

    def failure(_: Exception, attempt: Attempt) -> greet.GreetError:
        return greet.PublishUnknown("late") if attempt.handed_over else greet.PublishFailed("late")

    loop = asyncio.get_running_loop()
    posted = [loop.create_future() for _ in range(3)]
    deadlines = [loop.time() + seconds for seconds in (0.05, 0.1, 20.0)]
    line = cast(Any, SimpleNamespace(_send_share=send, _failure=failure))
    sending = asyncio.create_task(_Shared(line, 0, [b"Ada", b"Bob", b"Zoe"], posted, deadlines).send())
    async with asyncio.timeout(5):
        for one in posted[:2]:
            with pytest.raises(greet.PublishUnknown if handed_over else greet.PublishFailed):
                await one
        assert not posted[2].done()
        acknowledged.set()
        assert await sending
        await posted[2]
    assert sent[0] == [b"Ada", b"Bob", b"Zoe"]
    assert sent[1:] == ([] if handed_over else [[b"Bob", b"Zoe"], [b"Zoe"]])


async def test_what_is_handed_over_just_when_its_time_is_over_is_not_sent_again() -> None:
    sent: list[list[bytes]] = []
    lane = asyncio.Event()

    async def send(_: int, bodies: list[bytes], __: float, attempt: Attempt) -> int:
        await lane.wait()
        sent.append(bodies)
        attempt.handed_over = True
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    loop = asyncio.get_running_loop()
    line = cast(Any, SimpleNamespace(_send_share=send, _failure=lambda *_: greet.PublishUnknown("late")))
    posted = [loop.create_future() for _ in range(2)]
    shared = _Shared(line, 0, [b"Ada", b"Bob"], posted, [loop.time() + 20] * 2)
    sending = asyncio.create_task(shared.send())
    await asyncio.sleep(0.01)
    lane.set()
    shared._overdue()
    async with asyncio.timeout(5):
        assert not await sending
        for one in posted:
            with pytest.raises(greet.PublishUnknown):
                await one
    assert sent == [[b"Ada", b"Bob"]]


async def test_an_error_is_not_explained_by_what_was_logged_before_it() -> None:
    """A time-out passes. What comes after it, and logs nothing, is no time-out."""
    log = kafka_settings._Log()
    token = kafka_settings._log.set(log)
    tried = 0

    async def attempt() -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            log.reason = TimeoutError()
        raise kafka.KafkaConnectionError

    try:
        with pytest.raises(kafka.KafkaConnectionError):
            await kafka_settings.insist(greet.connect("kafka://h").address, attempt)
    finally:
        kafka_settings._log.reset(token)
    assert tried == 2
    assert log.reason is None


# Secrets


@pytest.mark.parametrize("size", [2**31 - 1, -5, 2**20])
async def test_an_answer_of_any_length_is_not_read(size: int) -> None:
    """What answers lists calls that it knows, on and on; little of it is taken, and it is told what that is not."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        head = await reader.readexactly(12)
        writer.write(struct.pack(">i4shi", size, head[8:], 0, size // 6 - 2))
        with suppress(ConnectionError):
            while sent < 2**28:
                writer.write(bytes(2**20))
                await writer.drain()
                sent += 2**20
        writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    async with server:
        with pytest.raises(greet.ConnectFailed, match="is not Kafka: check host and port"):
            async with greet.connect(f"kafka://127.0.0.1:{server.sockets[0].getsockname()[1]}?timeout=8"):
                pass
    assert sent < 2**26


@pytest.fixture(scope="module")
async def walled() -> AsyncIterator[tuple[str, str]]:
    """A Kafka whose users have the rights that they are granted: where they log in, and the URL of who may do all."""
    (port,) = greet.brokers.process.free_ports(1)
    where = f"LOGIN://127.0.0.1:{port}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required user_ada='canary' user_bob='canary';"
    config = {
        "listeners": where,
        "advertised.listeners": where,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_PLAINTEXT",
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.login.plain.sasl.jaas.config": login,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS;User:ada",
    }
    async with greet.brokers.kafka(config=config) as broker:
        yield f"127.0.0.1:{port}", broker.url


@pytest.fixture(scope="module")
def guarded(walled: tuple[str, str]) -> str:
    """The address of a Kafka that asks for a login."""
    return walled[0]


async def test_a_login_and_no_word_of_the_password(guarded: str, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with greet.connect(f"kafka://ada:canary@{guarded}", topic) as line, line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
            assert "canary" not in repr(line)
        start = monotonic()
        with pytest.raises(greet.ConnectFailed, match="password") as failure:
            async with greet.connect(f"kafka://ada:canary-bird@{guarded}", topic):
                pass
        assert monotonic() - start < 3
        with pytest.raises(greet.ConnectFailed, match="sasl="):
            async with greet.connect(f"kafka://ada:canary@{guarded}?sasl=SCRAM-SHA-256", topic):
                pass
    error: BaseException | None = failure.value
    while error:
        assert "canary" not in str(error)
        error = error.__cause__ or error.__context__
    assert "ApiVersionRequest" in caplog.text  # the log is there, but for the secret
    assert "canary" not in caplog.text


async def grant(url: str, user: str, *rights: str) -> None:
    add = ("--bootstrap-server", servers(url), "--add", "--allow-principal", f"User:{user}", *rights)
    command = await greet.brokers.kafka_tool("org.apache.kafka.tools.AclCommand", *add)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_right_that_is_missing_is_named_at_once(walled: tuple[str, str], topic: str, path: str) -> None:
    where, all_may = walled
    bob = f"kafka://bob:canary@{where}?timeout=8&path={path}"
    async with greet.connect(all_may, topic) as line, line.subscribe("first"):
        await line.publish("Ada")
    start = monotonic()
    with pytest.raises(
        greet.ConnectFailed, match=f"user bob may not create topic {topic} .*: grant CREATE, or DESCRIBE"
    ):
        async with greet.connect(bob, topic):
            pass
    assert monotonic() - start < 4
    await grant(all_may, "bob", "--consumer", "--producer", "--topic", topic, "--group", f"{topic}:hello")
    async with greet.connect(bob, topic) as line:
        start = monotonic()
        with pytest.raises(greet.ConnectFailed, match=r"user bob may not read as group other .*: grant READ"):
            async with line.subscribe("other"):
                pass
        async with line.subscribe("hello") as names:
            async with AIOKafkaProducer(bootstrap_servers=servers(all_may)) as producer:
                await producer.send_and_wait(topic, b"\xff")
            with pytest.raises(greet.PublishFailed, match=rf"user bob may not create topic {topic}\.dead"):
                await take(names, 1)
            await make(all_may, f"{topic}.dead")
            await grant(all_may, "bob", "--operation", "Describe", "--topic", f"{topic}.dead")
            with pytest.raises(greet.PublishFailed, match=rf"user bob may not write topic {topic}\.dead"):
                await take(names, 1)
        with pytest.raises(greet.ConnectionLost, match=rf"user bob may not read as group {topic}\.dead"):
            await line.dead_letters()
        assert monotonic() - start < 12
