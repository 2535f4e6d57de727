"""What is particular about a share group of Kafka: where it begins, how names are dealt out, lent and given up."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
import threading
import traceback
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any

import pytest
from common import all_wait_for, carried, started, take

pytest.importorskip("confluent_kafka", reason="kafka+share needs it: pip install -e '.[share]'")

from confluent_kafka import Consumer, IllegalStateException, KafkaError, KafkaException, Producer, ShareConsumer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewTopic

import greet
from bench.faults.proxy import proxy
from greet import Guarantee, Line, Subscription
from greet.brokers import Broker
from greet.brokers.kafka import kafka
from greet.brokers.process import free_ports
from greet.designs import kafka_share, named
from greet.designs.kafka_share import TO_BURY, KafkaShareSubscription
from greet.designs.kafka_share_wire import Answer, Wire, coordinator, length, text

SHARE = named("kafka-share")
NAMES = [f"name-{number}" for number in range(300)]
LENT = 3.0  # seconds
LOCK = "share.record.lock.duration.ms"
HOLDER = """
import asyncio, sys, greet
async def main():
    async with greet.connect(sys.argv[1], sys.argv[2]) as line, line.subscribe("hello") as names:
        print(await anext(names), flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def url(kafka_url: str) -> str:
    return SHARE.url(kafka_url)


@pytest.fixture(scope="module")
async def broker() -> AsyncIterator[Broker]:
    """A Kafka of this suite's own, to be killed, where a group may lend names for a short time."""
    async with kafka(config={"group.share.min.record.lock.duration.ms": "1000"}) as broker:
        await carried(SHARE.url(broker.url), "Ada")  # the first share group takes some seconds
        yield broker


async def test_a_broker_that_hangs_for_a_moment_is_waited_for(broker: Broker, topic: str) -> None:
    await all_wait_for(broker, SHARE.url(broker.url), topic)


async def lend_shortly(url: str, topic: str) -> None:
    """Have the group lend its names for `LENT` seconds; it keeps that."""
    async with greet.connect(url, topic) as line, line.subscribe("hello"):
        pass
    change = ConfigEntry(LOCK, f"{LENT * 1000:.0f}", incremental_operation=AlterConfigOpType.SET)
    group = ConfigResource(ConfigResource.Type.GROUP, f"{topic}:hello:share", incremental_configs=[change])
    admin = AdminClient({"bootstrap.servers": url.partition("//")[2], "log_level": 0})
    await asyncio.to_thread(admin.incremental_alter_configs([group])[group].result, 10)


@pytest.fixture(autouse=True)
async def nothing_is_left() -> AsyncIterator[None]:
    """No task and no thread outlives what started it."""
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    yield

    def ours() -> list[threading.Thread]:
        return [one for one in set(threading.enumerate()) - threads if one.name.startswith("greet")]

    with suppress(TimeoutError):
        async with asyncio.timeout(5):
            while ours() or not asyncio.all_tasks() - tasks <= {asyncio.current_task()}:
                await asyncio.sleep(0.05)
    assert asyncio.all_tasks() - tasks <= {asyncio.current_task()}
    left, where = ours(), sys._current_frames()
    assert not ["".join(traceback.format_stack(where.get(one.ident or 0))) for one in left]


@pytest.mark.parametrize(
    "code",
    [
        *(KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_LEADER_EPOCH, KafkaError.OFFSET_NOT_AVAILABLE),
        *(KafkaError._TIMED_OUT, KafkaError._TRANSPORT),
    ],
)
async def test_a_member_joins_while_the_broker_does_not_know_the_leader_yet(
    url: str, topic: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a busy broker said of a topic that was just created."""
    asked = []

    class RefusedOnce(Consumer):  # type: ignore[misc]
        def get_watermark_offsets(self, *place: Any) -> Any:
            asked.append(place)
            if len(asked) == 1:
                raise KafkaException(KafkaError(code))
            return super().get_watermark_offsets(*place)

    monkeypatch.setattr(kafka_share, "Consumer", RefusedOnce)
    async with greet.connect(url, topic) as line:
        await line.publish("there before")
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
    assert len(asked) > 1


@pytest.mark.long
async def test_a_member_that_waits_for_a_leader_leaves_time_to_others(broker: Broker, topic: str) -> None:
    """The driver's `list_offsets` answers -1001 while the leader is down, or computes more than a second a second."""

    def computed() -> float:
        spent = os.times()
        return spent.user + spent.system

    async with greet.connect(SHARE.url(broker.url), topic) as line:
        await line.publish("Ada")  # so it knows the leader
        await broker.kill()
        try:
            before = computed()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(3):
                    await line._bounds(topic)  # type: ignore[attr-defined]
            assert computed() - before < 1
        finally:
            await broker.restart()


async def test_a_member_joins_although_the_first_brokers_are_silent(url: str, topic: str) -> None:
    """As those that were stopped: their system accepts connections, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        silent = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))
        both = f"{SHARE.scheme}://{silent},{url.partition('://')[2]}?timeout=8"
        async with greet.connect(both, topic) as line, line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]


async def test_who_leaves_soon_is_no_member_any_more(url: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, the driver may be closed so soon that it does not leave: names would wait for 45 s."""
    left, group = [], f"{topic}:hello:share"

    class Staying(ShareConsumer):  # type: ignore[misc]
        def unsubscribe(self) -> None: ...

        def close(self) -> None:
            left.append(super().close)

    monkeypatch.setattr(kafka_share, "ShareConsumer", Staying)
    monkeypatch.setattr(kafka_share, "YOUNG_SECONDS", 60.0)
    async with greet.connect(url, topic) as line:
        async with line.subscribe("hello"), coordinator(line.address, group) as wire, asyncio.timeout(20):
            while not await wire.members(group):
                await asyncio.sleep(0.01)
        async with coordinator(line.address, group) as wire:
            assert await wire.members(group) == []
    for close in left:
        await asyncio.to_thread(close)


async def test_a_publisher_that_wants_no_answer_notices_a_silent_connection(topic: str) -> None:
    (port,) = free_ports(1)
    async with kafka(proxy_port=port) as broker:
        assert broker.proxied
        host, _, behind = broker.proxied.partition(":")
        async with (
            proxy(host, int(behind), listen=port) as between,
            greet.connect(SHARE.url(broker.url), topic) as reading,
            greet.connect(
                f"{SHARE.scheme}://127.0.0.1:{port}?timeout=4", topic, guarantee=Guarantee.AT_MOST_ONCE
            ) as line,
            reading.subscribe("hello") as names,
        ):
            await line.publish("before")
            assert await take(names, 1, seconds=20) == ["before"]
            between.silence()

            async def publish() -> None:
                while True:
                    await line.publish("again")
                    await asyncio.sleep(0.1)

            publishing = asyncio.create_task(publish())
            assert await take(names, 1, seconds=30) == ["again"]
            publishing.cancel()
            with suppress(asyncio.CancelledError):
                await publishing


class Crash(Exception):
    """What a handler dies of."""


# Where a group begins


async def test_what_is_published_before_the_member_has_joined_arrives(url: str, topic: str) -> None:
    async with greet.connect(url, topic) as line:
        await line.publish_many(["too early"] * 5)
        async with line.subscribe("hello") as names:
            await line.publish_many(NAMES)
            assert sorted(await take(names, 300)) == sorted(NAMES)
            assert await take(names, 1, seconds=0.3) == []


async def test_members_that_found_a_group_at_once_miss_nothing(url: str, topic: str) -> None:
    """While names are published without a pause, each that came after the first entry reaches the group."""
    numbers = count()
    last = -1
    stop = asyncio.Event()
    got: set[int] = set()
    begun: list[int] = []

    async def publish() -> None:
        nonlocal last
        async with greet.connect(url, topic) as line:
            while not stop.is_set():
                number = next(numbers)
                await line.publish(str(number))
                last = number

    async def member() -> None:
        async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
            begun.append(last + 2)  # the next one may have been under way
            async for name in names:
                got.add(int(name))

    async with asyncio.TaskGroup() as group:
        group.create_task(publish())
        while last < 20:
            await asyncio.sleep(0.01)
        members = [group.create_task(member()) for _ in range(4)]
        while len(begun) < 4:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        stop.set()
        await asyncio.sleep(0.2)
        wanted = set(range(min(begun), last + 1))
        async with asyncio.timeout(10):
            while not wanted <= got:
                await asyncio.sleep(0.02)
        for task in members:
            task.cancel()


async def test_the_longest_topic_and_group(url: str, topic: str) -> None:
    topic, name = topic.ljust(190, "t"), "g" * 200
    async with greet.connect(url, topic) as line, line.subscribe(name) as names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 16_382, 16_383, 100_000])
def test_texts_of_the_protocol(size: int) -> None:
    assert Answer(length(size)).length() == size
    assert Answer(text("x" * size)).text() == b"x" * size


async def test_what_is_too_large_for_the_topic_has_failed(url: str, topic: str) -> None:
    """And what shared its batch, which differs from time to time: the error counts what has come all the same."""
    admin = AdminClient({"bootstrap.servers": url.partition("//")[2], "log_level": 0})
    made = admin.create_topics([NewTopic(topic, 1, 1, config={"max.message.bytes": "1000"})])
    await asyncio.to_thread(made[topic].result, 10)
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        for publishing in (line.publish("x" * 5000), line.publish_many(["a", "x" * 5000, "b"])):
            with pytest.raises(greet.PublishFailed, match="too large") as failure:
                await publishing
            await line.publish("last")
            got = await take(names, failure.value.accepted + 1)
            assert len(got) == failure.value.accepted + 1
            assert "last" in got
            assert await take(names, 1, seconds=0.3) == []


# Dealing out


async def test_members_share_evenly(url: str, topic: str) -> None:
    shares = [0] * 4
    handled: set[str] = set()
    ready = asyncio.Semaphore(0)

    async def member(number: int) -> None:
        async with line.subscribe("hello") as names:
            ready.release()
            async for name in names:
                await asyncio.sleep(0.002)
                shares[number] += 1
                handled.add(name)

    async with greet.connect(url, topic) as line, asyncio.TaskGroup() as group:
        members = [group.create_task(member(number)) for number in range(4)]
        for _ in members:
            await ready.acquire()
        wanted = {f"name-{number}" for number in range(2000)}
        await line.publish_many(wanted)
        async with asyncio.timeout(30):
            while len(handled) < 2000:
                await asyncio.sleep(0.02)
        for task in members:
            task.cancel()
    assert handled == wanted
    assert min(shares) > 300, shares


async def test_a_member_takes_no_more_than_it_is_dealt(url: str, topic: str) -> None:
    """One holds its three names; the other one gets all the rest."""
    line = greet.connect(f"{url}?deal=3", topic)
    async with line, line.subscribe("hello") as names, line.subscribe("hello") as others:
        await line.publish_many(NAMES[:30])
        held = await take(names, 1)
        rest = await take(others, 27)
        assert len(set(held + rest)) == 28
        # Its batch has three names, or fewer where the publisher was slow: the rest is with the other then.
        last = await take(names, 2)
        assert len({*held, *rest, *last, *await take(others, 2 - len(last))}) == 30


# Lent, and given up


async def test_the_names_of_a_killed_member_come_again(url: str, topic: str) -> None:
    async with greet.connect(url, topic) as line:
        async with line.subscribe("hello"):
            pass
        await line.publish_many(NAMES[:10])
        async with started(sys.executable, "-c", HOLDER, url, topic) as holder:
            assert holder.stdout
            held = (await holder.stdout.readline()).decode().strip()
            assert held in NAMES
            async with line.subscribe("hello") as names:
                holder.kill()
                killed = monotonic()
                assert sorted(await take(names, 10)) == sorted(NAMES[:10])
                assert monotonic() - killed < 5


async def test_the_record_says_how_often_and_how_long(url: str, topic: str) -> None:
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        assert isinstance(names, KafkaShareSubscription)
        assert (names._deliveries - TO_BURY, names._lent) == (SHARE.deliveries, SHARE.lends_for)


async def test_a_letter_says_how_often_it_came_and_is_sent_again(url: str, topic: str) -> None:
    async with greet.connect(f"{url}?deal=1", topic) as line:
        await line.publish("Ada")
        for _ in range(SHARE.deliveries):
            with suppress(Crash):
                async with line.subscribe("hello", replay=True) as names:
                    assert await take(names, 1) == ["Ada"]
                    raise Crash
        async with line.subscribe("hello") as names:
            assert await take(names, 1, seconds=2) == []
            (letter,) = await line.dead_letters()
            assert (letter.body, letter.group, letter.origin) == (b"Ada", "hello", f"{topic}-0@0")
            assert "came 9 times and was not settled" in letter.reason
            assert await line.resend_dead_letters() == 1
            assert await take(names, 1) == ["Ada"]
        assert await line.dead_letters() == []


async def test_what_is_no_name_goes_to_the_dead_letters(url: str, topic: str) -> None:
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        producer = Producer({"bootstrap.servers": url.partition("//")[2]})
        for body in (b"Ada", b"\xff", b"a\nb", b"Zoe"):
            producer.produce(topic, body)
        assert producer.flush(10) == 0
        assert sorted(await take(names, 2)) == ["Ada", "Zoe"]
        assert await take(names, 1, seconds=0.3) == []
        letters = await line.dead_letters()
        assert [one.body for one in letters] == [b"\xff", b"a\nb"]
        assert "not UTF-8" in letters[0].reason
    async with greet.connect(url.replace("kafka+share", "kafka"), topic) as line:  # the same for its sister
        assert [one.body for one in await line.dead_letters()] == [b"\xff", b"a\nb"]


async def test_a_dead_letter_that_is_not_answered_is_told_of_by_the_deadline(broker: Broker, topic: str) -> None:
    """As over Kafka: who reads has published nothing, so nothing is unknown. The message comes again."""
    producer = Producer({"bootstrap.servers": broker.url.partition("//")[2], "linger.ms": 50})
    async with greet.connect(f"{SHARE.url(broker.url)}?timeout=4", topic) as line:
        with suppress(greet.ConnectionLost):  # a broker that was stopped may not take its settlement in time
            async with line.subscribe("hello") as names:
                for body in (b"Ada", b"\xff", b"Zoe"):
                    producer.produce(topic, body, partition=0)
                assert producer.flush(10) == 0
                assert await take(names, 1) == ["Ada"]
                await broker.pause()
                try:
                    with pytest.raises(greet.PublishFailed, match="a message that is not a name could not be kept"):
                        async with asyncio.timeout(15):
                            await anext(names)
                finally:
                    await broker.resume()


async def test_a_handler_that_is_too_slow_is_told(broker: Broker, topic: str, caplog: pytest.LogCaptureFixture) -> None:
    await lend_shortly(SHARE.url(broker.url), topic)
    async with greet.connect(SHARE.url(broker.url), topic) as line:
        with pytest.raises(greet.ConnectionLost, match=r"1 name handled .*settled.* longer than the acquisition lock"):
            async with line.subscribe("hello") as names:
                await line.publish("Ada")
                assert await take(names, 1) == ["Ada"]
                await asyncio.sleep(LENT + 1)
        assert "may come again" in caplog.text
        async with line.subscribe("hello") as names:
            assert await take(names, 1) == ["Ada"]


async def test_what_waits_behind_a_slow_handler_is_given_back_in_time(broker: Broker, topic: str) -> None:
    """Twenty names take 5 s, and are lent for 3: none is doubled."""
    await lend_shortly(SHARE.url(broker.url), topic)
    async with greet.connect(SHARE.url(broker.url), topic) as line, line.subscribe("hello") as names:
        await line.publish_many(NAMES[:20])
        got = []
        for _ in range(20):
            got += await take(names, 1)
            await asyncio.sleep(0.25)
        assert sorted(got) == sorted(NAMES[:20])


async def test_what_nobody_asks_for_is_not_given_up(url: str, topic: str) -> None:
    """It is given back before the lock ends, and not taken again: after the last delivery Kafka would drop it."""
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        assert isinstance(names, KafkaShareSubscription)
        names._lent = 0.4
        await line.publish("Ada")
        await asyncio.sleep(0.4 * (SHARE.deliveries + 5))
        assert await take(names, 1) == ["Ada"]
        await line.publish("Zoë")
        assert await take(names, 1) == ["Zoë"]
        assert await line.dead_letters() == []


async def test_who_waits_long_after_a_name_gets_the_next_one(url: str, topic: str) -> None:
    """Longer than the lock of the last one lasts: there was nothing to give back, so the broker is asked on."""
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        assert isinstance(names, KafkaShareSubscription)
        names._lent = 0.4
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]

        async def publish_later() -> None:
            await asyncio.sleep(1)
            await line.publish("Zoë")

        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            group.create_task(publish_later())
            assert await anext(names) == "Zoë"


async def test_a_member_for_which_there_is_no_room_is_told_so_each_time(topic: str) -> None:
    async with kafka(config={"group.share.max.size": "1"}) as broker:
        url = SHARE.url(broker.url) + "?timeout=8"
        async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
            async with line.subscribe("hello") as late:
                for _ in range(3):
                    with pytest.raises(greet.ConnectionLost, match=r"this member has failed.*: subscribe again"):
                        async with asyncio.timeout(20):
                            await anext(late)


# A broker that is away


async def test_a_killed_broker_loses_nothing(broker: Broker, topic: str) -> None:
    got: set[str] = set()
    sent: list[str] = []

    async def publish(line: Line) -> None:
        for number in range(400):
            name = f"name-{number}"
            while True:
                with suppress(greet.PublishFailed, greet.PublishUnknown):
                    await line.publish(name)
                    break
            sent.append(name)
            await asyncio.sleep(0.005)

    async def read(names: Subscription) -> None:
        async for name in names:
            got.add(name)

    async with greet.connect(f"{SHARE.url(broker.url)}?timeout=60", topic) as line, line.subscribe("hello") as names:
        publishing, reading = asyncio.create_task(publish(line)), asyncio.create_task(read(names))
        while len(got) < 50:
            await asyncio.sleep(0.01)
        await broker.kill()
        await broker.restart()
        await publishing
        async with asyncio.timeout(60):
            while not got >= set(sent):
                await asyncio.sleep(0.05)
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


async def test_a_silent_broker_is_told_and_then_it_goes_on(
    broker: Broker, topic: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with greet.connect(f"{SHARE.url(broker.url)}?timeout=4", topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        await broker.pause()
        try:
            start = monotonic()
            with pytest.raises(greet.ConnectionLost, match="has not answered in time"):
                await anext(names)
            assert monotonic() - start < 8  # two deadlines
            with pytest.raises(greet.PublishUnknown, match="has not answered in time"):
                await line.publish("Bob")
        finally:
            await broker.resume()
        async with asyncio.timeout(60):  # a broker that was stopped for so long registers anew with its controller
            while "Zoe" not in await take(names, 1, seconds=0.5):
                with suppress(greet.PublishUnknown):
                    await line.publish("Zoe")
    assert capfd.readouterr() == ("", "")


async def test_settlements_that_a_silent_broker_does_not_take_are_told(broker: Broker, topic: str) -> None:
    async with greet.connect(f"{SHARE.url(broker.url)}?timeout=3", topic) as line:
        try:
            start = 0.0
            with pytest.raises(greet.ConnectionLost, match=r"could not be settled|has not answered"):
                async with line.subscribe("hello") as names:
                    await line.publish("Ada")
                    assert await take(names, 1) == ["Ada"]
                    await broker.pause()
                    start = monotonic()
            assert monotonic() - start < 7
        finally:
            await broker.resume()


# Who comes and goes


async def test_no_thread_is_left_when_entering_is_cancelled(url: str, topic: str) -> None:
    async def enter() -> None:
        async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
            await line.publish("Ada")
            async for _ in names:
                pass

    for tenths in range(12):
        task = asyncio.create_task(enter())
        await asyncio.sleep(tenths / 40)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.mark.long
async def test_no_thread_is_left_of_members_that_leave_while_they_join(url: str, topic: str) -> None:
    """The driver's `close` did not return for one such member in a hundred."""

    async def leave() -> None:
        for _ in range(40):
            async with line.subscribe("hello"):
                await asyncio.sleep(random.uniform(0.03, 0.15))

    async with greet.connect(url + "?timeout=10", topic) as line:
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
        await asyncio.gather(*(leave() for _ in range(6)))


async def test_without_the_driver_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "greet.designs.kafka_share", raising=False)
    with pytest.raises(greet.Unsupported, match=r"pip install -e '.\[share\]'"):
        greet.connect("kafka+share://localhost")


async def test_nobody_there(topic: str) -> None:
    start = monotonic()
    with pytest.raises(greet.ConnectFailed, match=r"no connection to .*check that a broker runs there"):
        async with greet.connect("kafka+share://127.0.0.1:9", topic):
            pass
    assert monotonic() - start < 5


async def test_a_group_is_not_moved_back_when_the_first_answer_was_lost(
    url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, asked = Wire.begin, list[Mapping[int, int]]()
    url += "?timeout=60"

    async def lost(wire: Wire, group: str, where: str, starts: Mapping[int, int]) -> None:
        asked.append(starts)
        await begin(wire, group, where, starts)
        if len(asked) == 1:
            async with greet.connect(url, topic) as other, other.subscribe("hello") as names:
                await other.publish("Ada")
                assert await take(names, 1) == ["Ada"]
            raise TimeoutError

    monkeypatch.setattr(Wire, "begin", lost)
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        await line.publish("Zoë")
        assert await take(names, 1) == ["Zoë"]
    assert len(asked) == 1


async def test_what_the_driver_has_given_up_is_told_as_that(
    url: str, topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class GivesUp(ShareConsumer):  # type: ignore[misc]
        def acknowledge_offset(self, *_: Any) -> None:
            raise IllegalStateException("Failed to acknowledge offset: Local: Erroneous state")

    monkeypatch.setattr(kafka_share, "ShareConsumer", GivesUp)
    async with greet.connect(url, topic) as line:
        with pytest.raises(greet.ConnectionLost, match=r"1 name handled .*given them up"):
            async with line.subscribe("hello") as names:
                await line.publish("Ada")
                assert await take(names, 1) == ["Ada"]
    assert "no connection" not in caplog.text
