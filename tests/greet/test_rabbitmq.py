"""What only RabbitMQ has: exchanges and queues, dead letters, confirms, and a broker that is hurt.

The promises that all designs share are tried in test_contract.py. Here plain aio-pika looks at the
broker from outside, and a private broker is killed, stopped and starved.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import socket
import ssl
import struct
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import aio_pika
import aiormq
import pytest
import pytest_asyncio
import trustme
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import AMQPConnectionError, ChannelClosed
from common import all_wait_for, carried, take
from pamqp import encode
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection
from pamqp.common import FieldTable
from pamqp.frame import marshal
from pamqp.header import ContentHeader

import greet
from bench.faults.proxy import Proxy, proxy
from greet import Guarantee, Subscription
from greet.brokers import Broker
from greet.brokers.process import free_ports, listens
from greet.designs import rabbitmq as designs_rabbitmq
from greet.designs import rabbitmq_member
from greet.designs.rabbitmq import RabbitMQLine, RabbitMQSubscription
from greet.designs.rabbitmq_link import keep_trying, why
from greet.fast.rabbitmq import (
    HEADER,
    METHOD,
    FastRabbitMQLine,
    FastRabbitMQSubscription,
    Inbox,
    Outbox,
    Parcel,
    Wire,
    _Tap,
)
from greet.line import Batch

AMO, ALO, DURABLE = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE
CANARY = "canary-5f0d"
POISON = [b"", b"\xff\xfe", b"a\x00b", "\u202eabc".encode(), b"x" * 65_537, b"y" * 400_000]


def line_to(url: str, topic: str, guarantee: Guarantee | None = None, **options: object) -> FastRabbitMQLine:
    query = "&".join(f"{key}={value}" for key, value in options.items())
    return cast(FastRabbitMQLine, greet.connect(f"{url}?{query}" if query else url, topic, guarantee=guarantee))


async def until(true: Callable[[], Awaitable[bool]] | Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while True:
            seen = true()
            if seen if isinstance(seen, bool) else await seen:
                return
            await asyncio.sleep(0.02)


@asynccontextmanager
async def plain_channel(url: str) -> AsyncIterator[AbstractChannel]:
    """Another client, which knows nothing of greet."""
    async with await aio_pika.connect(url) as connection, await connection.channel() as channel:
        yield channel


async def waiting(channel: AbstractChannel, queue: str) -> int:
    """How many messages of a queue are ready, which those that a member holds are not."""
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count or 0


async def put(channel: AbstractChannel, topic: str, *bodies: bytes) -> None:
    exchange = await channel.get_exchange(topic)
    for body in bodies:
        await exchange.publish(aio_pika.Message(body), "")


@asynccontextmanager
async def through_proxy(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the broker, and the broker's URL through it."""
    async with proxy(*greet.connect(url).address.hosts[0]) as between:
        yield between, f"{url.rpartition('@')[0]}@127.0.0.1:{between.port}/"


async def later(seconds: float, what: Awaitable[None]) -> None:
    await asyncio.sleep(seconds)
    await what


def cut(member: Subscription) -> None:
    """The connection of a member is gone, as after a SIGKILL of it."""
    cast(FastRabbitMQSubscription, member)._link.wire.abort()


# The architecture


async def test_the_broker_holds_what_the_picture_shows(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello"), line.subscribe("goodbye"):
        pass
    async with line_to(rabbitmq_url, topic) as line, plain_channel(rabbitmq_url) as channel:
        await line.publish("Ada")
        for queue, ready in ((f"{topic}:hello", 1), (f"{topic}:goodbye", 1), (f"{topic}.dead", 0)):
            assert await waiting(channel, queue) == ready


@pytest.mark.parametrize(("guarantee", "mode"), [(AMO, 1), (ALO, 1), (DURABLE, 2)])
async def test_a_message_as_others_see_it(rabbitmq_url: str, topic: str, guarantee: Guarantee, mode: int) -> None:
    async with line_to(rabbitmq_url, topic, guarantee) as line:
        async with line.subscribe("hello"):
            pass
        await line.publish("Zoë")
        await line.publish_many(["Ada"])
    async with plain_channel(rabbitmq_url) as channel:
        queue = await channel.get_queue(f"{topic}:hello")
        messages = [await queue.get(no_ack=True), await queue.get(no_ack=True)]
    assert [message.body.decode() for message in messages] == ["Zoë", "Ada"]
    assert {message.delivery_mode for message in messages} == {mode}
    ids = [int(message.message_id or "", 16) for message in messages]
    assert ids[1] == ids[0] + 1
    assert ids[0] > 2**64, "a base of so few bits may be another publisher's too"  # or one of 2**64 tries


async def test_messages_of_other_clients(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        async with plain_channel(rabbitmq_url) as channel:
            exchange = await channel.get_exchange(topic)
            rich = aio_pika.Message(b"Ada", headers={"a": "b"}, content_type="text/plain", priority=3, expiration=60)
            await exchange.publish(rich, "some.key")
            await put(channel, topic, "李小龙".encode())
        assert await take(names, 2) == ["Ada", "李小龙"]


async def put_with_a_strange_time(url: str, exchange: str, key: str, *bodies: bytes) -> None:
    """As from a client that sends microseconds, where AMQP 0-9-1 has seconds: pamqp cannot read the year 53 million."""
    odd = Basic.Properties(message_id="one of another client")
    odd.timestamp = 1_700_000_000_000_000  # type: ignore[assignment]
    microseconds = {"timestamp": lambda value: struct.pack(">Q", value)}
    async with plain_channel(url) as channel:
        with patch.dict(encode.METHODS, microseconds):
            for body in bodies:
                await (await channel.get_underlay_channel()).basic_publish(
                    body, exchange=exchange, routing_key=key, properties=odd
                )


async def test_a_message_whose_properties_cannot_be_read_is_a_name(rabbitmq_url: str, topic: str) -> None:
    """Also after a lost connection, when a member looks for the ids of what it has handled; at worst it comes twice."""
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        await put_with_a_strange_time(rabbitmq_url, topic, "", b"Ada", b"Zo\xc3\xab")
        assert await take(names, 1) == ["Ada"]
        cut(names)
        await line.publish("Bob")
        got = await take(names, 2)
        if "Ada" in got:  # nothing tells that it comes again
            got += await take(names, 1)
        assert {"Zoë", "Bob"} <= set(got) <= {"Ada", "Zoë", "Bob"}


async def test_a_dead_letter_that_cannot_be_read_is_told_as_that(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line:
        async with line.subscribe("hello"):
            pass
        await put_with_a_strange_time(rabbitmq_url, "", f"{topic}.dead", b"\xff")
        with pytest.raises(greet.ConnectionLost, match=f"a dead letter of {topic} cannot be read: .*out of range"):
            await line.dead_letters()


async def test_a_line_that_is_lost_each_time_that_it_is_back_is_told_of(rabbitmq_url: str, topic: str) -> None:
    """The plain way cannot read such a message at all, and loses its connection each time that it comes."""
    async with line_to(rabbitmq_url, topic, path="plain", timeout=2) as line:
        with pytest.raises(greet.ConnectionLost):
            async with line.subscribe("hello") as names:
                await put_with_a_strange_time(rabbitmq_url, topic, "", b"Ada")
                with pytest.raises(greet.ConnectionLost, match="lost again each time that it is back, for 2 s"):
                    async with asyncio.timeout(15):
                        await anext(names)
                raise greet.ConnectionLost


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_at_most_once_a_connection_that_is_lost_while_idle_costs_nothing(
    rabbitmq_url: str, topic: str, path: str
) -> None:
    """All that was handed out was settled before: a clean end has nothing to complain of."""
    async with through_proxy(rabbitmq_url) as (between, url), line_to(rabbitmq_url, topic, AMO) as line:
        async with line_to(url, topic, AMO, path=path) as other, other.subscribe("hello") as names:
            await line.publish_many(["Ada", "Zoë"])
            assert await take(names, 2) == ["Ada", "Zoë"]
            between.drop()
        async with line.subscribe("hello") as names:
            await line.publish("Bob")
            assert await take(names, 1) == ["Bob"]


async def test_who_publishes_first_finds_the_exchange_for_all(
    rabbitmq_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for that once, and keep their order; those that come later do not queue behind them."""
    asked = 0
    really = FastRabbitMQLine._open_exchange

    async def counted(line: FastRabbitMQLine, deadline: float) -> Any:
        nonlocal asked
        asked += 1
        return await really(line, deadline)

    monkeypatch.setattr(FastRabbitMQLine, "_open_exchange", counted)
    async with greet.connect(rabbitmq_url, topic) as line, line.subscribe("hello") as names:

        async def publisher(number: int) -> None:
            for turn in range(5):
                await line.publish(f"{turn}-{number}")

        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                tasks.create_task(publisher(number))
        found = await take(names, 500)
    assert asked == 1
    assert found[:100] == [f"0-{number}" for number in range(100)]


async def test_the_exchange_of_a_new_topic_is_not_waited_for(rabbitmq_url: str, topic: str) -> None:
    """Only one that was there before is: its members make it again."""
    for way in ("fast", "plain"):
        async with greet.connect(f"{rabbitmq_url}?path={way}&timeout=100", topic) as line:
            with pytest.raises(greet.PublishFailed, match=rf"no group reads {topic} now \(none ever did"):
                async with asyncio.timeout(60):
                    await line.publish("Ada")


async def test_concurrent_publishes_share_a_write(
    rabbitmq_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        await line.publish("first")
        write = line._link.wire.write

        def counted(frames: bytes) -> None:
            writes.append(len(frames))
            write(frames)

        monkeypatch.setattr(line._link.wire, "write", counted)
        async with asyncio.TaskGroup() as group:
            for number in range(400):
                group.create_task(line.publish(f"name-{number}"))
        assert await take(names, 401) == ["first", *(f"name-{number}" for number in range(400))]
    assert len(writes) < 10


async def test_other_settings_than_the_queue_has(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello"):
        pass
    async with line_to(rabbitmq_url, topic, queue_type="quorum") as line:
        with pytest.raises(greet.ConnectFailed, match=r"another topic.*x-queue-type"):
            async with line.subscribe("hello"):
                pass


@pytest.mark.parametrize(
    "wrong", ["queue_type=stream", "prefetch=0", "prefetch=0.5", "heartbeat=70000", "heartbeat=x", "lingering=1"]
)
def test_wrong_options(wrong: str) -> None:
    with pytest.raises(greet.BadURL, match=wrong.partition("=")[0]):
        greet.connect(f"amqp://localhost/?{wrong}")


def test_names_that_are_too_long_for_the_protocol(topic: str) -> None:
    with pytest.raises(greet.BadURL, match="too long"):
        greet.connect("amqp://localhost", "x" * 101)
    with pytest.raises(greet.BadURL, match="too long"):
        greet.connect("amqp://localhost", topic).subscribe("x" * 101)


@pytest.mark.parametrize("scheme", ["amqp", "rabbitmq+stream"])
def test_a_topic_that_rabbitmq_keeps_for_itself(scheme: str) -> None:
    with pytest.raises(greet.BadURL, match=r"amq\.names begins with amq\., which RabbitMQ keeps"):
        greet.connect(f"{scheme}://localhost", "amq.names")
    greet.connect(f"{scheme}://localhost", "amqnames").subscribe("amq.hello")


def test_the_port_of_tls() -> None:
    assert line_to("amqps://localhost", "x").address.hosts == (("localhost", 5671),)
    assert line_to("amqp://localhost", "x").address.hosts == (("localhost", 5672),)


# Publishing


@pytest.mark.parametrize("guarantee", [ALO, DURABLE])
async def test_what_no_queue_gets_is_not_accepted(rabbitmq_url: str, topic: str, guarantee: Guarantee) -> None:
    async with line_to(rabbitmq_url, topic, guarantee) as line, plain_channel(rabbitmq_url) as channel:
        async with line.subscribe("hello"):
            await line.publish("Ada")
        await channel.queue_delete(f"{topic}:hello")
        for publishing in (line.publish("Ada"), line.publish_many(f"name-{number}" for number in range(1000))):
            with pytest.raises(greet.PublishFailed, match=f"no group reads {topic} now .* deleted") as caught:
                await publishing
            assert caught.value.accepted == 0
        async with line.subscribe("hello") as names:
            await line.publish("Zoë")
            assert await take(names, 1) == ["Zoë"]


async def test_at_most_once_says_so_later(rabbitmq_url: str, topic: str) -> None:
    with pytest.raises(greet.PublishFailed, match="dropped 7 names published before"):
        async with line_to(rabbitmq_url, topic, AMO) as line, plain_channel(rabbitmq_url) as channel:
            async with line.subscribe("hello"):
                await line.publish("Ada")
            await channel.queue_delete(f"{topic}:hello")
            await line.publish_many(f"name-{number}" for number in range(7))


async def test_a_full_queue_refuses(rabbitmq_url: str, topic: str) -> None:
    """A fanout to several queues is refused if one of them is full: the others may have it."""
    async with line_to(rabbitmq_url, topic) as line, plain_channel(rabbitmq_url) as channel:
        async with line.subscribe("hello"):
            pass
        full: FieldTable = {"x-max-length": 2, "x-overflow": "reject-publish"}
        queue = await channel.declare_queue(f"{topic}:full", durable=True, arguments=full)
        await queue.bind(topic)
        with pytest.raises(greet.PublishUnknown, match="full") as caught:
            await line.publish_many(f"name-{number}" for number in range(200))
        assert caught.value.accepted < 200
        with pytest.raises(greet.PublishUnknown, match="full"):
            await line.publish("Ada")


async def test_a_cancelled_publish_leaves_the_line_usable(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        await line.publish("first")
        tasks = [asyncio.create_task(line.publish(f"name-{number}")) for number in range(100)]
        many = asyncio.create_task(line.publish_many(f"many-{number}" for number in range(100_000)))
        await asyncio.sleep(0)
        for task in (*tasks[::2], many):
            task.cancel()
        await asyncio.wait((*tasks, many))
        await line.publish("last")
        seen = Counter([name async for name in _up_to(names, "last")])
        assert max(seen.values()) == 1
        assert {f"name-{number}" for number in range(1, 100, 2)} <= set(seen)


async def _up_to(names: Subscription, last: str) -> AsyncIterator[str]:
    async with asyncio.timeout(20):
        async for name in names:
            yield name
            if name == last:
                return


async def test_a_closed_line_publishes_nothing(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
    with pytest.raises(greet.PublishFailed, match="closed"):
        await line.publish("Zoë")
    with pytest.raises(greet.ConnectionLost, match="left"):
        await take(names, 2)


async def test_a_lost_publishers_connection(rabbitmq_url: str, topic: str) -> None:
    """What was on its way is unknown, and the next goes over a new connection."""
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        await line.publish("first")
        tasks = [asyncio.create_task(line.publish(f"name-{number}")) for number in range(1000)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # five hundred are written, the others wait for room
        line._link.wire.abort()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert Counter(map(type, results)) == {greet.PublishUnknown: 500, type(None): 500}
        await line.publish("last")
        seen = Counter([name async for name in _up_to(names, "last")])
        assert max(seen.values()) == 1
        assert {f"name-{number}" for number, result in enumerate(results) if result is None} <= set(seen)


# Reading


async def test_a_member_holds_no_more_than_its_prefetch(rabbitmq_url: str, topic: str) -> None:
    async with (
        line_to(rabbitmq_url, topic, prefetch=10) as line,
        line.subscribe("hello") as names,
        plain_channel(rabbitmq_url) as channel,
    ):
        await line.publish_many(f"name-{number}" for number in range(100))
        assert await take(names, 1) == ["name-0"]
        assert await waiting(channel, f"{topic}:hello") == 90


async def test_at_most_once_holds_no_more_either(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic, AMO, prefetch=10) as line, line.subscribe("hello") as names:
        await line.publish_many(f"name-{number}" for number in range(1000))
        async with plain_channel(rabbitmq_url) as channel:
            assert await take(names, 1) == ["name-0"]
            await asyncio.sleep(0.3)
            assert await waiting(channel, f"{topic}:hello") >= 980  # 10 handed out, 10 came instead


async def test_unsettled_names_come_to_a_waiting_member_in_order(rabbitmq_url: str, topic: str) -> None:
    wanted = [f"name-{number}" for number in range(300)]
    async with line_to(rabbitmq_url, topic) as line:
        with pytest.raises(greet.ConnectionLost, match="come again"):
            async with line.subscribe("hello") as first:
                await line.publish_many(wanted)
                assert await take(first, 1) == wanted[:1]  # it holds all of them
                async with line.subscribe("hello") as second:
                    assert await take(first, 4) == wanted[1:5]
                    cut(first)
                    assert await take(second, 300) == wanted  # also the four that it had no time to acknowledge


async def test_a_slow_handler_settles_in_time(rabbitmq_url: str, topic: str) -> None:
    """It holds a batch; what it has handled of it is not lost to its death a while later."""
    wanted = [f"name-{number}" for number in range(10)]
    async with line_to(rabbitmq_url, topic) as line:
        with pytest.raises(greet.ConnectionLost, match="come again"):
            async with line.subscribe("hello") as names:
                await line.publish_many(wanted)
                assert await take(names, 4) == wanted[:4]
                await asyncio.sleep(0.5)  # it handles the fourth
                cut(names)
                async with line.subscribe("hello") as other:
                    assert await take(other, 7) == wanted[3:]


@pytest.mark.parametrize("many", [False, True], ids=["each", "batches"])
async def test_a_member_whose_connection_is_cut_goes_on(rabbitmq_url: str, topic: str, many: bool) -> None:
    """Nothing is lost, and nothing doubled: it knows the names again that it has handled."""
    wanted = [f"name-{number}" for number in range(5000)]
    got: list[str] = []
    async with line_to(rabbitmq_url, topic) as line, line.subscribe("hello") as names:
        await line.publish_many(wanted)
        batches = names.batches()
        while len(got) < len(wanted):
            async with asyncio.timeout(20):
                got += await anext(batches) if many else [await anext(names)]
            if len(got) % 1000 < 2 and 900 < len(got) < len(wanted):
                cut(names)
    assert got == wanted


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_member_whose_connection_is_cut_while_nobody_asks_and_then_again_goes_on(
    rabbitmq_url: str, topic: str, path: str
) -> None:
    """Who asks for a name in vain begins the way back; it ends while nobody waits for it."""
    async with (
        through_proxy(rabbitmq_url) as (between, url),
        line_to(rabbitmq_url, topic) as line,
        line_to(url, topic, path=path) as far,
        far.subscribe("hello") as names,
    ):
        between.drop()
        await until(lambda: names._channel is None)  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(names)
        await until(names._again._task.done)  # type: ignore[attr-defined]
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        asyncio.get_running_loop().call_later(0.2, between.drop)  # while it waits
        publishing = asyncio.create_task(later(0.4, line.publish("Zoë")))
        assert await take(names, 1, seconds=10) == ["Zoë"]
        await publishing


async def test_a_deleted_queue_is_made_again(rabbitmq_url: str, topic: str) -> None:
    async with (
        line_to(rabbitmq_url, topic) as line,
        line.subscribe("hello") as names,
        plain_channel(rabbitmq_url) as channel,
    ):
        task = asyncio.create_task(take(names, 2))
        await line.publish("Ada")
        await until(lambda: names._taken == 1)
        await channel.queue_delete(f"{topic}:hello")

        async def published() -> bool:
            with suppress(greet.PublishFailed):
                await line.publish("Zoë")
                return True
            return False

        await until(published)
        assert await task == ["Ada", "Zoë"]


def test_frames_in_any_pieces() -> None:
    """A socket gives what it has: the end of one frame, some whole ones, the start of another."""

    async def scenario() -> None:
        bodies = [b"Ada", b"", b"x" * 65_536, b"y" * 65_537, b"z" * 5]
        data = b""
        for tag, body in enumerate(bodies, 1):
            data += marshal(Basic.Deliver("a tag", tag, tag == 2, "exchange", ""), 7)
            data += marshal(ContentHeader(body_size=len(body)), 7)
            for start in range(0, len(body), 4096):
                data += marshal(ContentBody(body[start : start + 4096]), 7)
            data += marshal(Basic.QosOk(), 7) + marshal(Basic.Ack(1), 3)
        for size in (1, 7, 100, 4099, len(data)):
            wire = Wire(None)
            tap, inbox = _Tap(wire), Inbox(wire, 7, 10)
            for start in range(0, len(data), size):
                tap.feed_data(data[start : start + size])
            tap.feed_eof()
            found, origins = await inbox.take()
            assert [tag for tag, _ in origins] == [1, 2, 3, 4, 5]
            assert found == [*bodies[:3], None, bodies[4]]
            rest = await tap.read()
            assert rest.replace(b"\x08\x00\x00\x00\x00\x00\x00\xce", b"") == 5 * (
                marshal(Basic.QosOk(), 7) + marshal(Basic.Ack(1), 3)
            )

    with asyncio.Runner() as runner:
        runner.run(scenario())


async def outbox_with(*counts: int) -> tuple[Outbox, list[asyncio.Future[int]]]:
    """An outbox on no connection, whose first name is confirmed, and lists of so many names that it has written."""
    outbox = Outbox(Wire(None), 1, "names", timeout=5, confirms=True, persistent=True)
    deadline = asyncio.get_running_loop().time() + 5
    outbox.send([b"first"], deadline)
    await asyncio.sleep(0)
    outbox._confirm(1, multiple=False)
    futures = [outbox.send([b"x"] * count, deadline) for count in counts]
    await asyncio.sleep(0)
    return outbox, futures


async def test_a_list_of_which_a_name_came_back_is_not_sent_again() -> None:
    """Its queue was deleted, and is there again for the next name: how many were accepted does not tell which."""
    outbox, _ = await outbox_with()
    future = outbox.send([b"one", b"two", b"z" * 9000], asyncio.get_running_loop().time() + 5)  # the long one waits
    await asyncio.sleep(0)
    mine = Basic.Properties(message_id=f"{outbox._base + 2:032x}")
    outbox._take_frame(METHOD, marshal(Basic.Return(312, "NO_ROUTE", "names", ""), 1)[7:-1])
    outbox._take_frame(HEADER, marshal(ContentHeader(body_size=3, properties=mine), 1)[7:-1])
    outbox._confirm(2, multiple=False)
    outbox._refusing = "the broker takes nothing now"  # so the long one goes on waiting
    outbox._confirm(3, multiple=False)
    outbox.close("the connection was lost")
    with pytest.raises(greet.PublishFailed, match="no group reads names now") as caught:
        await future
    assert caught.value.accepted == 1


@pytest.mark.parametrize(
    ("close", "failure"),
    [
        (Channel.Close(406, "PRECONDITION_FAILED - message size 9 is larger", 60, 40), greet.PublishFailed),
        (Connection.Close(320, "CONNECTION_FORCED - broker forced connection closure", 0, 0), greet.PublishUnknown),
    ],
)
async def test_who_closes_what_says_whether_a_lone_name_may_be_accepted(
    close: Frame, failure: type[greet.GreetError]
) -> None:
    """An orderly restart closes the connection: the broker may have the name."""
    outbox, (future,) = await outbox_with(1)
    payload = marshal(close, 1)[7:-1]
    if isinstance(close, Channel.Close):
        outbox._take_frame(METHOD, payload)
    else:
        outbox._take_notice(METHOD, payload)
    with pytest.raises(failure):
        await future


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_member_and_a_refused_publisher_keep_few_channels(rabbitmq_url: str, topic: str, path: str) -> None:
    """A member declares all again and again, and a full queue refuses name by name."""
    async with line_to(rabbitmq_url, topic, path=path) as line, line.subscribe("hello") as names:
        member = cast(RabbitMQSubscription, names)
        connection = member._link._connection
        assert connection
        inner = connection.transport.connection  # type: ignore[union-attr]
        before = len(inner.channels)
        for _ in range(5):
            await member._declare_all()
        assert len(inner.channels) <= before + 1
    full = f"{topic}-full"
    async with plain_channel(rabbitmq_url) as channel, line_to(rabbitmq_url, full, path=path) as line:
        exchange = await channel.declare_exchange(full, "fanout", durable=True)
        limits: FieldTable = {"x-max-length": 1, "x-overflow": "reject-publish"}
        await (await channel.declare_queue(f"{full}:hello", durable=True, arguments=limits)).bind(exchange)
        await line.publish("Ada")
        for _ in range(4):
            with pytest.raises(greet.PublishUnknown, match="full or has no leader"):
                await line.publish("Zoë")
        connection = cast(RabbitMQLine, line)._link._connection
        assert connection
        assert len(connection.transport.connection.channels) <= 2  # type: ignore[union-attr]


async def test_a_dead_letter_of_a_group_that_is_gone_does_not_stop_the_others(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, plain_channel(rabbitmq_url) as channel:
        for group in ("old", "hello"):
            async with line.subscribe(group) as names:
                await channel.default_exchange.publish(aio_pika.Message(b"\xff"), f"{topic}:{group}")
                assert await take(names, 1, seconds=0.3) == []
        await channel.queue_delete(f"{topic}:old")
        with pytest.raises(greet.PublishFailed, match="group was deleted") as caught:
            await line.resend_dead_letters()
        assert caught.value.accepted == 1
        assert await waiting(channel, f"{topic}:hello") == 1
        assert [letter.group for letter in await line.dead_letters()] == ["old"]


async def test_confirms_in_any_order() -> None:
    """They come one by one, several at once, twice, too high, and for names whose publisher is gone."""
    outbox, futures = await outbox_with(1, 3, 1, 2)  # 2, 3 to 5, 6, 7 to 8
    outbox._confirm(6, multiple=False)
    assert [future.done() for future in futures] == [False, False, True, False]
    outbox._confirm(4, multiple=True)
    outbox._confirm(4, multiple=False)
    assert [future.done() for future in futures] == [True, False, True, False]
    futures[3].cancel()
    outbox._confirm(7, multiple=True)
    assert [await future for future in futures[:3]] == [1, 3, 1]
    half = outbox.send([b"x"] * 4, asyncio.get_running_loop().time() + 5)
    await asyncio.sleep(0)
    outbox._confirm(10, multiple=False)
    outbox._confirm(13, multiple=True)  # 12 were sent
    outbox._take_frame(METHOD, marshal(Basic.Nack(11), 1)[7:-1])
    assert not outbox.open
    with pytest.raises(greet.PublishUnknown, match="refused") as caught:
        await half
    assert caught.value.accepted == 1


async def test_confirms_cost_the_same_however_many_came_before() -> None:
    """A confirm of several looks at no number that was confirmed by itself before."""

    class Looked(dict[int, Parcel]):
        count = 0

        def pop(self, *key: object) -> object:  # type: ignore[override]
            Looked.count += 1
            return super().pop(*key)  # type: ignore[call-overload]

    outbox, _ = await outbox_with()
    outbox._pending = Looked()
    outbox._last = 10_000
    for number in range(2, 10_001):
        outbox._confirm(number, multiple=False)
    Looked.count = 0
    outbox._confirm(10_000, multiple=True)
    assert Looked.count < 10


# Dead letters


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("guarantee", list(Guarantee))
async def test_poison_is_kept_with_its_origin(rabbitmq_url: str, topic: str, guarantee: Guarantee, path: str) -> None:
    async with (
        line_to(rabbitmq_url, topic, guarantee, path=path) as line,
        line.subscribe("hello") as hellos,
        line.subscribe("goodbye") as goodbyes,
        plain_channel(rabbitmq_url) as channel,
    ):
        await put(channel, topic, b"Ada", *POISON, b"Zoe")
        assert await take(hellos, 2) == ["Ada", "Zoe"]
        assert await take(goodbyes, 2) == ["Ada", "Zoe"]

        async def all_there() -> bool:
            return await waiting(channel, f"{topic}.dead") == 2 * len(POISON)

        await until(all_there)
        for _ in range(2):  # looking does not take away
            letters = await line.dead_letters()
            for group in ("hello", "goodbye"):  # the oldest first
                assert [letter.body for letter in letters if letter.group == group] == POISON
            assert len(letters) == 2 * len(POISON)
            assert {letter.origin for letter in letters} == {f"queue {topic}:hello", f"queue {topic}:goodbye"}
            assert all(letter.reason.isprintable() and letter.reason for letter in letters)
        death = (await (await channel.get_queue(f"{topic}.dead")).get()).headers["x-death"]
        assert "rejected" in str(death)


async def test_a_dead_letter_sent_again_goes_to_its_group(rabbitmq_url: str, topic: str) -> None:
    async with line_to(rabbitmq_url, topic) as line, plain_channel(rabbitmq_url) as channel:
        assert await line.dead_letters() == []
        assert await line.resend_dead_letters() == 0
        async with line.subscribe("hello") as hellos, line.subscribe("goodbye") as goodbyes:
            await line.publish("Ada")
            assert await take(goodbyes, 1) == ["Ada"]
            # As an operator, a delivery limit or a time to live would do:
            inbox = cast(FastRabbitMQSubscription, hellos)._inbox
            _, origins = await inbox.take()
            for tag, _ in origins:
                inbox.reject(tag)

            async def dead() -> bool:
                return await waiting(channel, f"{topic}.dead") == 1

            await until(dead)
            assert await line.resend_dead_letters() == 1
            assert await take(hellos, 1) == ["Ada"]
            assert await take(goodbyes, 1, seconds=0.3) == []
            assert await line.dead_letters() == []
        await put(channel, topic, b"\xff")
        async with line.subscribe("hello") as hellos:
            assert await take(hellos, 1, seconds=0.3) == []
        assert await line.resend_dead_letters() == 1  # once, though it will come back
        assert await waiting(channel, f"{topic}:hello") == 1


async def test_a_quorum_queue_never_gives_a_name_up(rabbitmq_url: str, topic: str) -> None:
    """RabbitMQ 4 would after twenty members that left without having handled it."""
    async with line_to(rabbitmq_url, topic, queue_type="quorum") as line:
        async with line.subscribe("hello"):
            pass
        await line.publish("Ada")
        for _ in range(22):
            async with line.subscribe("hello"):
                pass
        async with line.subscribe("hello") as names:
            assert await take(names, 1) == ["Ada"]


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_leaving_does_not_wait_for_a_look_that_does_not_end(
    rabbitmq_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rabbitmq_member, "LOOK", 0.01)
    monkeypatch.setattr(designs_rabbitmq, "CLOSING", 0.1)
    looking, over = asyncio.Event(), asyncio.Event()

    async def look(_: Subscription) -> None:
        looking.set()
        end = time.monotonic() + 8
        while not over.is_set() and time.monotonic() < end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    async with line_to(rabbitmq_url, topic, path=path) as line:
        subscription = line.subscribe("hello")
        async with asyncio.timeout(5), subscription as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]
            monkeypatch.setattr(designs_rabbitmq.RabbitMQSubscription, "_declare_all", look)
            await looking.wait()
        over.set()
        monkeypatch.undo()
        async with subscription as names:
            assert await take(names, 1, seconds=0.5) == []


# Connecting


@asynccontextmanager
async def server(says: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something else that listens: says it to whoever comes, and then nothing."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        with suppress(OSError):
            await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as listening:
        yield listening.sockets[0].getsockname()[1]


async def refusal(url: str, caplog: pytest.LogCaptureFixture) -> str:
    """The one line that says why there is no connection; by its deadline, and without the password."""
    caplog.set_level(logging.DEBUG)
    started = time.monotonic()
    with pytest.raises(greet.ConnectFailed) as caught:
        async with greet.connect(url, "names"):
            pass
    assert time.monotonic() - started < 5
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert CANARY not in shown
    assert caught.value.__cause__
    assert str(caught.value).isprintable()
    return str(caught.value)


async def test_a_wrong_password(rabbitmq_url: str, caplog: pytest.LogCaptureFixture) -> None:
    where = rabbitmq_url.rpartition("@")[2]
    assert "user and password" in await refusal(f"amqp://greet:{CANARY}@{where}", caplog)


async def test_a_virtual_host_that_is_not_there(rabbitmq_url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "virtual host /nowhere" in await refusal(f"{rabbitmq_url.rstrip('/')}/nowhere", caplog)


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"", "did not answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "did not answer"),
        (b"AMQP\x00\x01\x00\x00", "does not speak AMQP 0-9-1"),
        (b"\x01\x00\x00\x00\x00\x00\x05hello\xce", "does not speak AMQP 0-9-1"),
        (b"\x00" * 100, "does not speak AMQP 0-9-1"),
    ],
)
@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_something_else_listens(says: bytes, why: str, path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with server(says) as port:
        assert why in await refusal(f"amqp://greet:{CANARY}@127.0.0.1:{port}/?timeout=0.5&path={path}", caplog)


async def test_nothing_listens(caplog: pytest.LogCaptureFixture) -> None:
    assert "nothing listens there" in await refusal(f"amqp://greet:{CANARY}@127.0.0.1:1/?timeout=3", caplog)


def test_a_host_that_nobody_knows() -> None:
    error = AMQPConnectionError("[Errno -2] Name or service not known")
    error.__cause__ = socket.gaierror(-2, "Name or service not known")
    assert why(greet.connect("amqp://localhost").address, error) == "the host name is unknown: correct the URL"


async def test_another_host_of_the_cluster_answers(rabbitmq_url: str, topic: str) -> None:
    login, _, where = rabbitmq_url.rpartition("@")
    async with server(b"") as silent:
        url = f"{login}@127.0.0.1:1,127.0.0.1:{silent},{where}"
        async with line_to(url, topic, timeout=3) as line, line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await take(names, 1) == ["Ada"]


# A broker of our own, with TLS, to be hurt


@dataclass
class Certificates:
    """An authority, and files as the URL wants them."""

    authority: trustme.CA
    folder: Path

    @property
    def ca(self) -> Path:
        return self._file("ca.pem", self.authority.cert_pem)

    def pair(self, name: str, leaf: trustme.LeafCert) -> tuple[Path, Path]:
        chain = self._file(f"{name}.pem", leaf.cert_chain_pems[0])
        return chain, self._file(f"{name}.key", leaf.private_key_pem)

    def _file(self, name: str, blob: trustme.Blob) -> Path:
        path = self.folder / name
        blob.write_to_path(str(path))
        return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(trustme.CA(), tmp_path_factory.mktemp("certificates"))


@dataclass
class Ours:
    broker: Broker
    tls: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ours(certificates: Certificates) -> AsyncIterator[Ours]:
    cert, key = certificates.pair("broker", certificates.authority.issue_cert("127.0.0.1"))
    (port,) = free_ports(1)
    config = {
        "frame_max": "8192",  # so that a long name comes in pieces
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(certificates.ca),
        "ssl_options.certfile": str(cert),
        "ssl_options.keyfile": str(key),
    }
    async with greet.brokers.rabbitmq(config=config) as broker:
        login = broker.url.partition("://")[2].rpartition("@")[0]
        await until(lambda: listens(port))  # the broker opens it after the other one
        yield Ours(broker, f"amqps://{login}@127.0.0.1:{port}/")


@pytest.fixture
async def broker(ours: Ours) -> AsyncIterator[Broker]:
    yield ours.broker
    if not ours.broker.pids:
        await ours.broker.restart()


async def test_over_tls(ours: Ours, certificates: Certificates, topic: str) -> None:
    wanted = [str(number % 10) * (8100 + number) for number in range(200)] + ["é" * 32_768, "x" * 65_536]
    async with line_to(ours.tls, topic, ca=certificates.ca) as line, line.subscribe("hello") as names:
        assert await line.publish_many(wanted) == len(wanted)
        assert await take(names, len(wanted)) == wanted


async def test_a_stream_over_tls(ours: Ours, certificates: Certificates, topic: str) -> None:
    url = ours.tls.replace("amqps", "rabbitmq+stream+ssl")
    assert await carried(f"{url}?ca={certificates.ca}", "Ada", topic) == "Ada"
    with pytest.raises(greet.ConnectFailed, match="certificate is not trusted"):
        await carried(f"{url}?timeout=2", "Ada", topic)


async def test_an_unknown_authority(ours: Ours, caplog: pytest.LogCaptureFixture) -> None:
    assert re.search(r"certificate is not trusted .*\?ca=FILE", await refusal(ours.tls, caplog))


async def test_a_wrong_host_name(ours: Ours, certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    url = f"{ours.tls.replace('127.0.0.1', 'localhost')}?ca={certificates.ca}"
    assert "not valid for 'localhost'" in await refusal(url, caplog)


async def test_an_expired_certificate(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    yesterday = datetime.now(UTC) - timedelta(days=1)
    certificates.authority.issue_cert("127.0.0.1", not_after=yesterday).configure_cert(context)
    async with server(b"", context) as port:
        assert "expired" in await refusal(f"amqps://127.0.0.1:{port}/?ca={certificates.ca}", caplog)


async def test_no_tls_there(rabbitmq_url: str, caplog: pytest.LogCaptureFixture) -> None:
    assert "TLS fails" in await refusal(rabbitmq_url.replace("amqp:", "amqps:"), caplog)


@asynccontextmanager
async def silent_after_the_handshake(certificates: Certificates) -> AsyncIterator[int]:
    """Something that speaks TLS, and then says nothing: no farewell either."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificates.authority.issue_cert("127.0.0.1").configure_cert(context)
    held: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):  # it ends when the socket is shut down
            while True:
                plain, _ = listening.accept()
                held.append(context.wrap_socket(plain, server_side=True))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            await serving
            for one in held:
                one.close()


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_another_host_answers_if_one_is_silent_after_the_handshake_of_tls(
    ours: Ours, certificates: Certificates, topic: str, path: str
) -> None:
    login, _, where = ours.tls.rpartition("@")
    async with silent_after_the_handshake(certificates) as silent, asyncio.timeout(20):
        url = f"{login}@127.0.0.1:{silent},{where}"
        async with line_to(url, topic, ca=certificates.ca, timeout=6, path=path) as line, line.subscribe("hello"):
            pass


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_who_is_cancelled_after_the_handshake_of_tls_does_not_wait_for_a_farewell(
    certificates: Certificates, path: str
) -> None:
    async with silent_after_the_handshake(certificates) as silent:
        url = f"amqps://127.0.0.1:{silent}/?ca={certificates.ca}&path={path}"
        opening = asyncio.create_task(greet.connect(url).__aenter__())
        await asyncio.wait([opening], timeout=0.5)
        opening.cancel()
        assert (await asyncio.wait([opening], timeout=5))[0], "it still waits"


async def test_a_certificate_of_our_own(certificates: Certificates, caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    certificates.authority.configure_trust(context)
    certificates.authority.issue_cert("127.0.0.1").configure_cert(context)
    cert, key = certificates.pair("client", certificates.authority.issue_cert("client"))
    async with server(b"\x00" * 100, context) as port:
        url = f"amqps://127.0.0.1:{port}/?timeout=2&ca={certificates.ca}"
        assert re.search("certificate", await refusal(url, caplog))
        assert "does not speak AMQP" in await refusal(f"{url}&cert={cert}&key={key}", caplog)


def test_files_that_are_not_there() -> None:
    with pytest.raises(greet.BadURL, match="ca, cert and key"):
        greet.connect("amqps://localhost/?ca=/nowhere/ca.pem")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def small() -> AsyncIterator[str]:
    """A broker that takes no long names."""
    async with greet.brokers.rabbitmq(config={"max_message_size": "50000"}) as broker:
        yield broker.url


@dataclass(frozen=True)
class Rights:
    """URLs of users who may do all, read and write only what exists."""

    all: str
    read: str
    write: str


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rights(ours: Ours) -> Rights:
    where = ours.broker.url.rpartition("@")[2]
    for user, permissions in {"reader": ("^$", "^$", ".*"), "writer": ("^$", ".*", "^$")}.items():
        await ctl(ours.broker, "add_user", user, "secret")
        await ctl(ours.broker, "set_permissions", user, *permissions)
    return Rights(ours.broker.url, f"amqp://reader:secret@{where}", f"amqp://writer:secret@{where}")


async def ctl(broker: Broker, *arguments: str) -> None:
    node = broker.nodes[0]
    command = (str(Path(node.command[0]).with_name("rabbitmqctl")), "-n", node.environment["RABBITMQ_NODENAME"])
    process = await asyncio.create_subprocess_exec(
        *command, *arguments, env=dict(node.environment), stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0


# Faults


async def test_a_killed_broker_keeps_what_is_durable(broker: Broker, topic: str) -> None:
    """And loses what is transient: the negative control."""
    wanted = [f"name-{number}" for number in range(3000)]
    for guarantee in (DURABLE, ALO):
        async with line_to(broker.url, topic + guarantee.name, guarantee) as line:
            async with line.subscribe("hello"):
                pass
            assert await line.publish_many(wanted) == len(wanted)
    await broker.kill()
    await broker.restart()
    async with line_to(broker.url, topic + DURABLE.name) as line, line.subscribe("hello") as names:
        assert await take(names, len(wanted)) == wanted
    async with line_to(broker.url, topic + ALO.name, ALO) as line, line.subscribe("hello") as names:
        await line.publish("the end")
        got = 0
        async with asyncio.timeout(20):
            while await anext(names) != "the end":
                got += 1
        assert got < len(wanted)


async def test_both_ends_go_on_after_a_kill(broker: Broker, topic: str) -> None:
    accepted: set[str] = set()
    unknown: set[str] = set()
    got: Counter[str] = Counter()
    stop = asyncio.Event()

    async def publisher(line: FastRabbitMQLine, number: int) -> None:
        count = 0
        while not stop.is_set():
            name = f"{number}-{(count := count + 1)}"
            try:
                await line.publish(name)
                accepted.add(name)
            except greet.PublishUnknown:
                unknown.add(name)

    async def reader(names: Subscription) -> None:
        async for name in names:
            got[name] += 1

    async with line_to(broker.url, topic) as line, line.subscribe("hello") as names, asyncio.TaskGroup() as group:
        reading = group.create_task(reader(names))
        publishing = [group.create_task(publisher(line, number)) for number in range(20)]
        await until(lambda: len(got) > 500)
        await broker.kill()
        await broker.restart()
        before = len(got)
        await until(lambda: len(got) > before + 500)
        stop.set()
        await asyncio.wait(publishing)
        await until(lambda: accepted <= set(got))
        reading.cancel()
    assert set(got) <= accepted | unknown
    assert set(got.values()) == {1}
    assert 0 < len(unknown) <= 20


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_broker_that_hangs_for_a_moment_is_waited_for(broker: Broker, topic: str, path: str) -> None:
    await all_wait_for(broker, f"{broker.url}?path={path}", topic)


async def test_a_stopped_broker(broker: Broker, topic: str) -> None:
    """Nobody can tell what became of what was sent; of what was not, everybody can."""
    async with line_to(broker.url, topic, timeout=1) as line, line.subscribe("hello") as names:
        await line.publish("first")
        await broker.pause()
        try:
            started = time.monotonic()
            tasks = [asyncio.create_task(line.publish(f"name-{number}")) for number in range(600)]
            results = await asyncio.gather(*tasks, return_exceptions=True)
            with pytest.raises(greet.PublishFailed, match="not sent within 1 s: 500 names wait"):
                await line.publish_many(["later"])
            assert time.monotonic() - started < 3
            with pytest.raises(greet.ConnectFailed, match="did not answer"):
                async with line_to(broker.url, topic, timeout=1):
                    pass
        finally:
            await broker.resume()
        assert Counter(map(type, results)) == {greet.PublishUnknown: 500, greet.PublishFailed: 100}
        assert await take(names, 501) == ["first", *(f"name-{number}" for number in range(500))]
        await line.publish("last")
        assert await take(names, 1) == ["last"]


async def test_leaving_a_stopped_broker_does_not_hang(broker: Broker, topic: str) -> None:
    try:
        async with line_to(broker.url, topic, timeout=1) as line, line.subscribe("hello"):
            await line.publish("first")
            started = time.monotonic()
            await broker.pause()
        assert time.monotonic() - started < 4
    finally:
        await broker.resume()


async def test_who_waits_for_a_silent_broker_is_not_cancelled(broker: Broker, topic: str) -> None:
    """aiormq gives it up after six seconds, and would cancel whoever waits for an answer."""
    async with line_to(broker.url, topic, timeout=8, heartbeat=1) as line, line_to(broker.url, topic) as other:
        async with other.subscribe("hello"):
            pass
        await broker.pause()
        try:
            publishing = asyncio.create_task(line.publish("Ada"))
            joining = asyncio.create_task(line.subscribe("hello").__aenter__())
            await asyncio.wait((publishing, joining), timeout=20)
        finally:
            await broker.resume()
        assert isinstance(publishing.exception(), greet.PublishFailed)
        assert isinstance(joining.exception(), greet.ConnectFailed)


async def test_a_line_that_closes_while_it_reconnects(broker: Broker, topic: str) -> None:
    """What waited to be sent is not, and no connection is left."""
    async with line_to(broker.url, topic) as line:
        async with line.subscribe("hello"):
            await line.publish("Ada")
        await broker.kill()
        await until(lambda: not cast(Outbox, line._outbox).open)
        publishing = asyncio.create_task(line.publish("Zoë"))
        await asyncio.sleep(0.5)
    await broker.restart()
    with pytest.raises(greet.PublishFailed, match="closed"):
        await publishing
    assert not line._link.usable()
    async with line_to(broker.url, topic) as line, line.subscribe("hello") as names:
        assert await take(names, 1) == ["Ada"]
        assert await take(names, 1, seconds=0.3) == []


async def test_a_line_that_is_left_just_before_it_reconnects(rabbitmq_url: str, topic: str) -> None:
    """The broker runs, so the connection could be opened, and nobody would close it."""
    async with line_to(rabbitmq_url, topic) as line:
        async with line.subscribe("hello"):
            await line.publish("Ada")
        line._link.wire.abort()
        await until(lambda: not cast(Outbox, line._outbox).open)
        publishing = asyncio.create_task(line.publish("Zoë"))
        await asyncio.sleep(0.05)
    with pytest.raises(greet.PublishFailed, match="closed"):
        await publishing
    assert not line._link.usable()


async def test_who_closes_while_it_connects_leaves_no_connection(broker: Broker) -> None:
    async with through_proxy(broker.url) as (between, url):
        between.hold()
        link = line_to(url, "names")._link
        far = asyncio.get_running_loop().time() + 20
        opening = asyncio.create_task(link.open(far))
        await until(lambda: bool(between._links))
        await link.close(far)
        between.release()
        with pytest.raises(ConnectionError):
            await opening
        await until(lambda: not between._links)


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_who_is_cancelled_just_when_it_is_connected_leaves_no_connection(
    rabbitmq_url: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = aiormq.Connection.connect

    async def made(connection: aiormq.Connection, *given: Any) -> Any:
        answer = await connect(connection, *given)
        if not opening.cancelling():
            opening.cancel()
        await asyncio.sleep(0)  # here it comes, as if both had happened in one turn of the loop
        return answer

    monkeypatch.setattr(aiormq.Connection, "connect", made)
    async with through_proxy(rabbitmq_url) as (between, url):
        link = line_to(url, "names", path=path)._link
        opening = asyncio.create_task(link.open(asyncio.get_running_loop().time() + 20))
        with pytest.raises(asyncio.CancelledError):
            await opening
        await until(lambda: not between._links)


async def test_what_could_not_be_settled_is_said(broker: Broker, topic: str) -> None:
    async with line_to(broker.url, topic) as line:
        with pytest.raises(greet.ConnectionLost, match="come again"):
            async with line.subscribe("hello") as names:
                await line.publish("Ada")
                assert await take(names, 1) == ["Ada"]
                await broker.kill()
                await until(lambda: not cast(FastRabbitMQSubscription, names)._inbox.open)
        await broker.restart()
        async with line.subscribe("hello") as names:
            assert await take(names, 1) == ["Ada"]


async def test_a_broker_that_does_not_come_back(broker: Broker, topic: str) -> None:
    async with line_to(broker.url, topic, timeout=3) as line:
        with pytest.raises(greet.ConnectionLost, match="come again"):  # the broker does not know that Ada is handled
            async with line.subscribe("hello") as names:
                await line.publish("Ada")
                assert await take(names, 1) == ["Ada"]
                await broker.kill()
                await until(lambda: not cast(Outbox, line._outbox).open)
                with pytest.raises(greet.PublishFailed, match=r"not sent.*nothing listens"):
                    await line.publish("Zoë")
                with pytest.raises(greet.PublishFailed, match=r"not sent.*nothing listens"):
                    await line.publish_many(["Zoë"])
                with pytest.raises(greet.ConnectionLost, match=r"not back in time.*nothing listens"):
                    await anext(names)


async def test_a_broker_without_memory(broker: Broker, topic: str) -> None:
    async with line_to(broker.url, topic, timeout=1) as line, line.subscribe("hello") as names:
        sent = ["0"]
        await line.publish("0")
        try:
            await ctl(broker, "set_vm_memory_high_watermark", "0.0001")
            with pytest.raises(greet.PublishUnknown, match="memory or disk"):
                while len(sent) < 100_000:  # the broker says that it takes nothing when it sees one after the alarm
                    sent.append(str(len(sent)))
                    await line.publish(sent[-1])
            with pytest.raises(greet.PublishFailed, match="memory or disk"):
                await line.publish("refused")
            # What was accepted is acknowledged on a connection that the broker still reads from.
            assert await take(names, len(sent) - 1) == sent[:-1]
        finally:
            await ctl(broker, "set_vm_memory_high_watermark", "0.6")
        await until(lambda: not cast(Outbox, line._outbox)._refusing)
        await line.publish("last")
        assert await take(names, 2) == [sent[-1], "last"]


async def test_a_broker_without_memory_keeps_its_connection(broker: Broker, topic: str) -> None:
    """The plain path does not close it, because a second publish waits too: the first one may still be accepted."""
    async with line_to(broker.url, topic, heartbeat=1, path="plain") as line, line.subscribe("hello") as names:
        try:
            await ctl(broker, "set_vm_memory_high_watermark", "0.0001")
            first = asyncio.create_task(line.publish("Ada"))
            await asyncio.sleep(1.5)  # longer than a heartbeat
            second = asyncio.create_task(line.publish("Zoë"))
            await asyncio.sleep(1.5)
            assert not first.done()
        finally:
            await ctl(broker, "set_vm_memory_high_watermark", "0.6")
        await asyncio.gather(first, second)
        assert await take(names, 2) == ["Ada", "Zoë"]


async def test_a_half_open_connection_is_noticed(broker: Broker, topic: str) -> None:
    """After three missed heartbeats, both ends go over a new connection."""
    async with (
        through_proxy(broker.url) as (between, url),
        line_to(url, topic, heartbeat=1) as line,
        line.subscribe("hello") as names,
    ):
        await line.publish("first")
        assert await take(names, 1) == ["first"]
        between.silence()
        with pytest.raises(greet.PublishUnknown, match="lost"):
            await line.publish("second")
        await line.publish("third")
        assert await take(names, 1) == ["third"]


async def test_who_is_cancelled_while_it_rejects_a_message_does_not_reject_it_twice(
    rabbitmq_url: str, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker would close the channel, and deliver all that is not acknowledged again."""
    reject, rejected = aio_pika.IncomingMessage.reject, list[aio_pika.abc.AbstractIncomingMessage]()

    async def slow(message: aio_pika.IncomingMessage, requeue: bool = False) -> None:
        rejected.append(message)
        await reject(message, requeue=requeue)
        await asyncio.sleep(0.5)

    monkeypatch.setattr(aio_pika.IncomingMessage, "reject", slow)
    async with line_to(rabbitmq_url, topic, path="plain") as line, line.subscribe("hello") as names:
        async with plain_channel(rabbitmq_url) as channel:
            exchange = await channel.get_exchange(topic)
            await exchange.publish(aio_pika.Message(b"\xff"), "")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await anext(names)
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        assert len(rejected) == 1
        assert [one.body for one in await line.dead_letters()] == [b"\xff"]


# What is told of is what is wrong


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.", "user and password"),
        ("ACCESS_REFUSED - access to queue 'a:b' in vhost '/' refused for user 'c'", "set_permissions"),
        ("ACCESS_REFUSED - configure access to exchange 'a' in vhost '/' refused for user 'c'", "set_permissions"),
        ("NOT_FOUND - no exchange 'a' in vhost '/'", "subscribe first"),
        ("NOT_FOUND - no queue 'a:b' in vhost '/'", "subscribe again"),
        ("NOT_FOUND - home node 'a@b' of durable queue 'c' in vhost '/' is down or inaccessible", "start it again"),
        ("NOT_FOUND - failed to perform operation on queue 'a' in vhost '/' due to timeout", "broker's log"),
        ("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'a' in vhost '/'", "another client"),
        ("PRECONDITION_FAILED - message size 9 is larger than configured max size 8", "max_message_size"),
        ("PRECONDITION_FAILED - message size 9 larger than max size 8", "max_message_size"),
        ("PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'a' in vhost '/'", "use another topic"),
        ("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out", "smaller prefetch="),
        ("PRECONDITION_FAILED - unknown delivery tag 5", "report this"),
        ("PRECONDITION_FAILED - cannot declare queue 'a': queue limit in vhost '/' (1) is reached", "queue limit"),
        ("CONTENT_TOO_LARGE - no", "max_message_size"),
        ("CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", "connect again"),
        ("INVALID_PATH - vhost a", "virtual host"),
        ("NOT_ALLOWED - access to vhost '/' refused for user 'a': connection limit (1) is reached", "limits"),
        ("NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (1)", "limits"),
        ("RESOURCE_ERROR - no", "close other connections"),
        ("INTERNAL_ERROR - no", "look into its log"),
        ("NOT_IMPLEMENTED - no", "current RabbitMQ"),
        *((f"{code} - no", "rejects the protocol") for code in ("FRAME_ERROR", "SYNTAX_ERROR", "COMMAND_INVALID")),
        *((f"{code} - no", "rejects the protocol") for code in ("CHANNEL_ERROR", "UNEXPECTED_FRAME")),
    ],
)
def test_each_reply_of_the_broker_has_its_words(reply: str, words: str) -> None:
    said = why(greet.connect("amqp://localhost").address, ChannelClosed(406, reply))
    assert words in said
    assert reply in said
    assert "check that a broker runs" not in said
    assert said.isprintable()


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_an_exchange_of_another_type(rabbitmq_url: str, topic: str, path: str) -> None:
    async with plain_channel(rabbitmq_url) as channel:
        await channel.declare_exchange(topic, "direct", durable=True)
    async with line_to(rabbitmq_url, topic, path=path) as line:
        with pytest.raises(greet.ConnectFailed, match=r"use another topic.*'type' for exchange"):
            async with line.subscribe("hello"):
                pass


@pytest.mark.parametrize("path", ["fast", "plain"])
@pytest.mark.parametrize("scheme", ["amqp", "rabbitmq+stream"])
async def test_a_name_that_is_larger_than_the_broker_takes(small: str, topic: str, path: str, scheme: str) -> None:
    """It is surely not accepted, and those before it are; what comes behind it was not looked at."""
    large = "x" * 60_000
    url = small.replace("amqp", scheme)
    async with line_to(url, topic, path=path) as line, line.subscribe("hello") as names:
        with pytest.raises(greet.PublishFailed, match="max_message_size") as caught:
            await line.publish_many(["a", "b", large, "c"])
        assert caught.value.accepted == 2
        with pytest.raises(greet.PublishFailed, match="max_message_size"):
            await line.publish(large)
        await line.publish("last")
        assert await take(names, 3) == ["a", "b", "last"]


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_who_is_cancelled_while_names_are_acknowledged_ahead_loses_none(
    rabbitmq_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AT_MOST_ONCE: the acknowledgement goes on, and what it settled is handed out to who asks next."""
    async with line_to(rabbitmq_url, topic, AMO, path=path) as line, line.subscribe("hello") as names:
        member = cast(RabbitMQSubscription, names)
        prove = member._prove

        async def slowly(channel: Any) -> None:
            monkeypatch.setattr(member, "_prove", prove)
            await asyncio.sleep(1.5)
            await prove(channel)

        monkeypatch.setattr(member, "_prove", slowly)
        await line.publish_many(["Ada", "Zoë"])
        assert await take(names, 2, seconds=0.5) == []
        assert await take(names, 2) == ["Ada", "Zoë"]


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_failure_is_told_at_the_next_name_that_comes(rabbitmq_url: str, topic: str, path: str) -> None:
    """Not when as many lists are under way as may be: a source may be slow."""
    asked = 0

    async def some() -> AsyncIterator[str]:
        nonlocal asked
        for name in ("Ada", "Zoë", "José", "Olga"):
            asked += 1
            yield name
            await asyncio.sleep(0.3)

    async with line_to(rabbitmq_url, topic, path=path) as line:
        with pytest.raises(greet.PublishFailed, match="subscribe first"):
            await line.publish_many(some())
    assert asked <= 2


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_with_at_most_once_two_members_do_not_get_the_same_names_when_one_is_cut_off(
    rabbitmq_url: str, topic: str, path: str
) -> None:
    """Its acknowledgement is on the way when the network is cut: the broker gives the names to the other one."""
    sent = [f"name {number}" for number in range(100)]
    async with through_proxy(rabbitmq_url) as (between, url), line_to(rabbitmq_url, topic, AMO) as line:
        with suppress(greet.ConnectionLost):  # it cannot leave cleanly
            async with line_to(url, topic, AMO, path=path, timeout=1) as far, far.subscribe("hello") as one:
                member = cast(Any, one)
                await line.publish_many(sent)
                await until(lambda: member._inbox._bodies != [] if path == "fast" else not member._come.empty())
                between.hold()
                first = await take(one, len(sent), seconds=0.5)
                between.drop()
                async with line.subscribe("hello") as other:
                    rest = await take(other, len(sent), seconds=5)
    assert sorted(first + rest) == sorted(sent)


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_what_could_not_be_acknowledged_ahead_is_handed_out_when_it_comes_again(
    rabbitmq_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AT_MOST_ONCE: it was not handed out, so it must not be taken for handled."""
    async with line_to(rabbitmq_url, topic, AMO, path=path) as line, line.subscribe("hello") as names:
        member = cast(RabbitMQSubscription, names)
        ack = member._ack

        async def lose(batch: Batch, count: int) -> None:
            monkeypatch.setattr(member, "_ack", ack)
            assert member._channel
            member._lost(member._channel)
            await ack(batch, count)

        monkeypatch.setattr(member, "_ack", lose)
        await line.publish_many(["Ada", "Zoë"])
        assert await take(names, 2) == ["Ada", "Zoë"]


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_user_who_may_only_read_or_write(
    rights: Rights, topic: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What exists can be used without the right to declare it; a right that is missing is told at once."""
    async with line_to(rights.all, topic) as line, line.subscribe("hello"):
        pass
    started = time.monotonic()
    async with line_to(rights.read, topic, path=path) as reader, line_to(rights.write, topic, path=path) as writer:
        async with reader.subscribe("hello") as names:
            await writer.publish("Ada")
            assert await take(names, 1) == ["Ada"]
        assert caplog.text.count("may not bind queue") == 1  # nobody can see whether it is bound
        with pytest.raises(greet.PublishFailed, match=r"not accepted.*set_permissions"):
            await reader.publish("Zoë")
        for subscription in (writer.subscribe("hello"), reader.subscribe("unheard")):
            with pytest.raises(greet.ConnectFailed, match="set_permissions"):
                async with subscription:
                    pass
    assert time.monotonic() - started < 15


# Nothing in silence


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_deleted_exchange_is_made_and_bound_again(
    rabbitmq_url: str, topic: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And it is said that other groups are not bound: nobody can know them."""
    async with (
        line_to(rabbitmq_url, topic, path=path, timeout=6) as line,
        line.subscribe("hello") as names,
        plain_channel(rabbitmq_url) as channel,
    ):
        await line.publish("Ada")
        assert await take(names, 1) == ["Ada"]
        await channel.exchange_delete(topic)

        async def published() -> bool:
            with suppress(greet.PublishFailed):
                await line.publish("Zoë")
                return True
            return False

        await until(published, 6)
        assert await take(names, 1) == ["Zoë"]
    assert f"exchange {topic} was deleted" in caplog.text


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_clean_end_just_after_a_loss_is_not_silent_about_what_comes_again(
    rabbitmq_url: str, topic: str, path: str
) -> None:
    """What was acknowledged on the lost connection is redelivered: it is acknowledged again, or the end says so."""
    async with through_proxy(rabbitmq_url) as (between, url), line_to(url, topic, path=path) as line:
        async with line.subscribe("hello"):
            await line.publish_many(f"name {number}" for number in range(300))
        handled: list[str] = []
        said: greet.ConnectionLost | None = None
        try:
            async with line.subscribe("hello") as names:
                member = cast(Any, names)

                async def leave() -> None:
                    await until(lambda: member._channel is None)
                    while not member._channel:
                        await asyncio.sleep(0)
                    limit.reschedule(0)

                handled += await anext(names.batches())
                between.drop()
                leaving = asyncio.create_task(leave())
                with suppress(TimeoutError):
                    async with asyncio.timeout(None) as limit:
                        while True:
                            handled += await anext(names.batches())
                await leaving
        except greet.ConnectionLost as error:
            said = error
        async with line.subscribe("hello") as names:
            rest: list[str] = []
            async with asyncio.timeout(20):
                while not {*handled, *rest} >= {f"name {number}" for number in range(300)}:
                    rest += await anext(names.batches())
            rest += await take(names, 300, seconds=0.5)
    assert said or not {*handled} & {*rest}


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_clean_end_raises_nothing_that_a_publish_has_raised(rabbitmq_url: str, topic: str, path: str) -> None:
    """What comes back while the line is left."""
    async with plain_channel(rabbitmq_url) as channel:
        async with line_to(rabbitmq_url, topic, path=path) as line:
            async with line.subscribe("hello"):
                await line.publish("Ada")
            await channel.queue_delete(f"{topic}:hello")
            publishing = [asyncio.create_task(line.publish(name)) for name in ("Zoë", "Bob")]
            for _ in range(4):  # they are written
                await asyncio.sleep(0)
        for one in publishing:
            with pytest.raises((greet.PublishFailed, greet.PublishUnknown)):
                await one


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_clean_end_on_a_silent_broker_says_what_it_could_not_tell(
    broker: Broker, topic: str, path: str
) -> None:
    try:
        async with line_to(broker.url, topic, timeout=2, path=path) as line:
            started = time.monotonic()
            with pytest.raises(greet.ConnectionLost, match="come again"):
                async with line.subscribe("hello") as names:
                    await line.publish_many(["Ada", "Zoë"])
                    assert await take(names, 2) == ["Ada", "Zoë"]
                    await broker.pause()
            assert time.monotonic() - started < 6
    finally:
        await broker.resume()
    async with line_to(broker.url, topic) as line, line.subscribe("hello") as names:
        await line.publish("last")
        assert (await take(names, 3, seconds=5))[-1] == "last"


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_handler_that_blocks_too_long_is_told_so(rabbitmq_url: str, topic: str, path: str) -> None:
    async with line_to(rabbitmq_url, topic, heartbeat=1, path=path) as line:
        with pytest.raises(greet.ConnectionLost, match=r"come again.*was blocked for"):
            async with line.subscribe("hello") as names:
                await line.publish_many(["Ada", "Zoë"])
                assert await take(names, 2) == ["Ada", "Zoë"]
                time.sleep(4)  # noqa: ASYNC251
        async with line.subscribe("hello") as names:
            assert await take(names, 2) == ["Ada", "Zoë"]


async def test_an_acknowledgement_that_fails_behind_its_caller_is_no_noise(caplog: pytest.LogCaptureFixture) -> None:
    class Lost:
        message_id = None

        async def ack(self, *, multiple: bool) -> None:
            await asyncio.sleep(0.01)
            raise AMQPConnectionError(f"reset, {multiple=}")

    member = greet.connect("amqp://localhost?path=plain").subscribe("hello")
    assert isinstance(member, RabbitMQSubscription)
    settling = asyncio.create_task(member._settle(Batch(["Ada"], [Lost()], member._channel), 1))
    await asyncio.sleep(0)
    settling.cancel()
    await asyncio.sleep(0.1)
    member._forget()
    gc.collect()
    assert settling.cancelled()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_publisher_whose_loop_stood_still(rabbitmq_url: str, topic: str, path: str) -> None:
    """The broker has given the connection up: the name goes over the next one, as nothing has left."""
    async with line_to(rabbitmq_url, topic, heartbeat=1, path=path) as line:
        async with line.subscribe("hello"):
            await line.publish("Ada")
        time.sleep(4)  # noqa: ASYNC251
        await line.publish("Zoë")
        async with line.subscribe("hello") as names:
            assert await take(names, 2) == ["Ada", "Zoë"]


async def test_the_last_failure_is_told() -> None:
    errors = iter([ConnectionRefusedError(), *[ChannelClosed(404, "NOT_FOUND - home node 'a' is down")] * 100])

    async def attempt(_: float) -> None:
        raise next(errors)

    with pytest.raises(ChannelClosed, match="home node"):
        await keep_trying(attempt, asyncio.get_running_loop().time() + 0.5)


async def test_only_a_name_that_is_longer_than_those_before_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[int] = []
    flying = 0

    async def exchange(*_: object) -> None: ...

    async def publish(*_: object) -> int:
        nonlocal flying
        flying += 1
        await asyncio.sleep(0)
        if flying:
            together.append(flying)
        flying = 0
        return 1

    line = greet.connect("amqp://localhost?path=plain")
    assert isinstance(line, RabbitMQLine)
    monkeypatch.setattr(line, "_open_exchange", exchange)
    monkeypatch.setattr(line, "_publish", publish)
    line._safe_size = 0
    assert await line._send([*("a" * 10), "x" * 5000, *("b" * 10)], 0) == 21
    assert together == [1, 9, 1, 10]


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_a_queue_that_gives_no_answer_is_told_of(
    rabbitmq_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of RabbitMQ 3.10 that was only just declared when its broker was killed, and has no leader since."""

    async def silence(_: RabbitMQSubscription) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(RabbitMQSubscription, "_declare_all", silence)
    async with line_to(rabbitmq_url, topic, timeout=2, path=path) as line:
        with pytest.raises(greet.ConnectFailed, match=f"group hello within 2 s: a queue of {topic} has no leader"):
            async with line.subscribe("hello"):
                pass


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_one_deadline_for_one_call(
    rabbitmq_url: str, topic: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait for the connection and the one for the confirm have it together."""
    async with line_to(rabbitmq_url, topic, timeout=2, path=path) as line, line.subscribe("hello"):
        opened = line._open_exchange

        async def slowly(deadline: float) -> AbstractExchange:
            await asyncio.sleep(deadline - asyncio.get_running_loop().time() - 0.2)
            return await opened(deadline)

        async def silence(*_: object, **__: object) -> None:
            await asyncio.sleep(60)

        monkeypatch.setattr(line, "_open_exchange", slowly)
        monkeypatch.setattr(Outbox, "_take_frame", lambda *_: True)
        monkeypatch.setattr(aio_pika.Exchange, "publish", silence)
        started = time.monotonic()
        with pytest.raises(greet.PublishUnknown, match="no confirm"):
            await line.publish("Ada")
        assert time.monotonic() - started < 3.6  # with a deadline for each it is 3.8
        monkeypatch.undo()


@pytest.mark.parametrize(
    "frames",
    [
        struct.pack(">BHI", 3, 7, 2**31) + b"x" * 100,
        marshal(Basic.Deliver("a tag", 1, False, "e", ""), 7)
        + marshal(ContentHeader(body_size=1), 7) * 1
        + marshal(ContentBody(b"xx"), 7),
        marshal(ContentHeader(body_size=5), 7) + marshal(ContentBody(b""), 7),
        (marshal(Basic.Deliver("a tag", 1, False, "e", ""), 7) + marshal(ContentHeader(body_size=0), 7)) * 11,
        struct.pack(">BHI", 1, 7, 6) + bytes(Inbox._deliver) + b"\xff\xff\xce",
        b"\xff" * 140_000,
    ],
    ids=[
        *("a frame without end", "more than was said", "nothing for ever", "more than the prefetch"),
        *("a tag that ends", "no frames"),
    ],
)
async def test_a_broker_that_sends_what_nobody_asked_for(frames: bytes) -> None:
    class Aborted(Wire):
        aborted = False

        def abort(self) -> None:
            self.aborted = True

    wire = Aborted(None)
    tap, _ = _Tap(wire), Inbox(wire, 7, 10)
    tap.feed_data(frames)
    assert wire.aborted


def test_frames_that_are_smaller_than_amqp_allows() -> None:
    with pytest.raises(ConnectionError, match="frames of 8 bytes"):
        Wire(None).tune(8)
