"""What answers as RabbitMQ does and then misbehaves: each call of greet ends, over the fast way and the plain one.

What only the fast way looks at, as it reads frames itself, is tried in test_rabbitmq.py.
"""

from __future__ import annotations

import asyncio
import gc
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any

import aio_pika
import pytest
from common import take
from pamqp import commands
from pamqp.base import Frame
from pamqp.body import ContentBody
from pamqp.commands import Basic, Connection, Exchange, Queue
from pamqp.frame import marshal, unmarshal
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

import greet
from greet.designs.rabbitmq_publisher import PublishingLine

WAYS = pytest.mark.parametrize("path", ["fast", "plain"])
FLOOD = 2**28
"""So many bytes are sent at most: a plain way may take as much of them as comes before its deadline."""
Say = Callable[[bytes], Awaitable[None]]
Work = Coroutine[Any, Any, None]


async def confirm(number: int, say: Say) -> None:
    """Accept the message of that number, as RabbitMQ does."""
    await say(marshal(Basic.Ack(number), 1))


async def deliver(channel: int, tag: str, say: Say) -> None:
    """Deliver "Ada" to a consumer, as RabbitMQ does."""
    head = marshal(Basic.Deliver(tag, 1, False, "names", ""), channel)
    await say(head + marshal(ContentHeader(body_size=3), channel) + marshal(ContentBody(b"Ada"), channel))


async def nothing(channel: int, frame: Frame, say: Say) -> None:
    """Answer at once, as RabbitMQ does."""


@dataclass
class Impostor:
    """What it says; all else is as RabbitMQ says it."""

    frame_max: int = 131_072
    on_publish: Callable[[int, Say], Work] = confirm
    on_consume: Callable[[int, str, Say], Work] = deliver
    before_an_answer: Callable[[int, Frame, Say], Work] = nothing
    url: str = ""
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client."""

        async def say(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        self.writers.append(writer)
        saying: set[asyncio.Task[None]] = set()
        try:
            await reader.readexactly(8)
            can: Any = {"capabilities": {"publisher_confirms": True, "basic.nack": True, "connection.blocked": True}}
            await say(marshal(Connection.Start(0, 9, can, "PLAIN", "en_US"), 0))
            published = missing = 0
            while True:
                head = await reader.readexactly(7)
                rest = await reader.readexactly(struct.unpack(">I", head[3:])[0] + 1)
                _, channel, frame = unmarshal(head + rest)
                if isinstance(frame, ContentHeader):
                    missing = frame.body_size
                elif isinstance(frame, ContentBody):
                    missing -= len(frame.value)
                if isinstance(frame, ContentHeader | ContentBody) and not missing:
                    published += 1
                    saying.add(asyncio.create_task(self.on_publish(published, say)))
                elif isinstance(frame, Connection.StartOk):
                    await say(marshal(Connection.Tune(0, self.frame_max, 5), 0))
                elif isinstance(frame, Basic.Consume):
                    await say(marshal(Basic.ConsumeOk(frame.consumer_tag), channel))
                    saying.add(asyncio.create_task(self.on_consume(channel, frame.consumer_tag, say)))
                elif isinstance(frame, Queue.Declare):
                    await say(marshal(Queue.DeclareOk(frame.queue, 0, 0), channel))
                elif isinstance(frame, Frame) and frame.synchronous:
                    await self.before_an_answer(channel, frame, say)
                    group, _, name = frame.valid_responses[0].partition(".")
                    await say(marshal(getattr(getattr(commands, group), name)(), channel))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in saying:
                one.cancel()
            await asyncio.gather(*saying, return_exceptions=True)
            writer.close()


@asynccontextmanager
async def running(impostor: Impostor) -> AsyncIterator[Impostor]:
    async with await asyncio.start_server(impostor.serve, "127.0.0.1", 0) as server:
        impostor.url = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield impostor
        for writer in impostor.writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)


@WAYS
async def test_one_that_does_as_it_should(path: str) -> None:
    """The control."""
    async with running(Impostor()) as there, greet.connect(f"{there.url}?path={path}") as line:
        await line.publish("Ada")
        assert await line.publish_many(["Ada", "x" * 65_536]) == 2
        async with line.subscribe("hello") as names:
            assert await take(names, 1) == ["Ada"]


@WAYS
async def test_a_connection_that_fails_is_closed_too(path: str) -> None:
    """Else Python complains, at any later time, that nobody awaited its end."""
    gc.collect()
    gc.disable()
    try:
        async with running(Impostor(frame_max=8)) as there:
            for port in (there.url.rpartition(":")[2].rstrip("/"), "9"):
                with pytest.raises((greet.ConnectFailed, greet.PublishUnknown)):
                    async with greet.connect(f"amqp://127.0.0.1:{port}/?timeout=1&path={path}") as line:
                        await line.publish("Ada")
        made = [one for one in gc.get_objects() if isinstance(one, aio_pika.Connection)]
        assert made
        assert [one for one in made if not one.is_closed] == []
    finally:
        gc.enable()


@WAYS
async def test_frames_too_small_for_a_name(path: str) -> None:
    """The fast way refuses such a broker; over the plain one its driver writes what nobody can accept."""
    async with running(Impostor(frame_max=8)) as there:
        start = monotonic()
        with pytest.raises((greet.ConnectFailed, greet.PublishUnknown)):
            async with greet.connect(f"{there.url}?timeout=1&path={path}") as line:
                await line.publish("Ada")
        assert monotonic() - start < 3


@WAYS
@pytest.mark.parametrize("many", [False, True], ids=["each", "many"])
async def test_one_that_confirms_nothing(path: str, many: bool) -> None:
    async def silence(number: int, say: Say) -> None:
        """Say nothing."""

    impostor = Impostor(on_publish=silence)
    async with running(impostor), greet.connect(f"{impostor.url}?timeout=2&path={path}") as line:
        start = monotonic()
        with pytest.raises(greet.PublishUnknown, match="no confirm within 2 s"):
            await (line.publish_many(["Ada"] * 10) if many else line.publish("Ada"))
        assert monotonic() - start < 4  # two deadlines


@WAYS
@pytest.mark.parametrize("many", [False, True], ids=["each", "many"])
async def test_a_channel_that_confirms_nothing_is_replaced(path: str, many: bool) -> None:
    """As RabbitMQ 4.3.6 sometimes has it after a quorum queue had no leader: a new connection is served at once."""

    async def silent_at_first(number: int, say: Say) -> None:
        if len(impostor.writers) > 1:
            await confirm(number, say)
        else:
            await say(marshal(Heartbeat(), 0))

    impostor = Impostor(on_publish=silent_at_first)
    async with running(impostor), greet.connect(f"{impostor.url}?timeout=1&path={path}") as line:
        for _ in range(2):
            impostor.writers[:-1] = []  # the connection of now is the first again
            with pytest.raises(greet.PublishUnknown, match="no confirm within 1 s"):
                await (line.publish_many(["Ada"] * 10) if many else line.publish("Ada"))
            assert await line.publish_many(["Bo"] * 60) == 60


async def test_a_channel_that_refuses_while_the_broker_is_asked_on_another_is_replaced() -> None:
    """The broker goes on counting there: who begins at one again would wait for its confirms in vain."""

    async def refuse(channel: int, asked: Frame, say: Say) -> None:
        if channel > 1 and isinstance(asked, Exchange.Declare):
            await say(marshal(Basic.Nack(1), 1))

    async with running(Impostor(before_an_answer=refuse)) as there:
        line: Any = greet.connect(f"{there.url}?timeout=3")
        async with line:
            await line.publish("Ada")
            line._link.wire.heard = -inf  # so the broker is asked first
            assert await line.publish_many(["Bo", "Cy"]) == 2


async def test_a_connection_that_is_lost_just_when_its_channel_opens_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find, times = PublishingLine._find_exchange, 0

    async def find_and_lose(line: Any, deadline: float) -> Any:
        nonlocal times
        found, times = await find(line, deadline), times + 1
        if times == 1:
            line._link.wire.lost()
            line._link.wire.abort()
        return found

    monkeypatch.setattr(PublishingLine, "_find_exchange", find_and_lose)
    async with running(Impostor()) as there, greet.connect(f"{there.url}?timeout=3") as line:
        await line.publish("Ada")


@WAYS
async def test_confirms_of_what_was_never_sent(path: str) -> None:
    async def lie(number: int, say: Say) -> None:
        for wrong in (2**63 - 1, 10**6, 0):
            for multiple in (True, False):
                await say(marshal(Basic.Ack(wrong, multiple=multiple and wrong > 0), 1))
        await confirm(number, say)

    async with running(Impostor(on_publish=lie)) as there, greet.connect(f"{there.url}?path={path}") as line:
        async with asyncio.timeout(5):
            for _ in range(10):
                await line.publish("Ada")


FLOODS = {"a frame without end": struct.pack(">BHI", 3, 1, 2**31 - 1), "nulls": b"", "no frames": b"\xff" * 7}


@WAYS
@pytest.mark.parametrize("first", FLOODS.values(), ids=FLOODS.keys())
async def test_a_flood_ends_and_the_member_reads_on(path: str, first: bytes) -> None:
    """Over the next connection; of the flood, the fast way takes a little."""
    flooded = 0

    async def flood(channel: int, tag: str, say: Say) -> None:
        nonlocal flooded
        if flooded:
            await deliver(channel, tag, say)
            return
        await say(first)
        while flooded < FLOOD:
            flooded += 2**20
            await say(bytes(2**20))

    impostor, got = Impostor(on_consume=flood), list[str]()
    async with (
        running(impostor),
        greet.connect(f"{impostor.url}?timeout=2&path={path}") as line,
        line.subscribe("hello") as names,
        asyncio.timeout(20),
    ):
        while not got:
            with suppress(greet.ConnectionLost):  # closing the connection may take all the time that there is
                got = await take(names, 1)
    assert got == ["Ada"]
    if path == "fast":
        assert flooded < 2**26
