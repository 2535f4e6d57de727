"""A TCP proxy on loopback that delays what passes, holds it back or loses it: the same for any broker.

    async with proxy("127.0.0.1", 5672, delay_s=0.02) as between:
        url = f"amqp://guest:guest@127.0.0.1:{between.port}/"

A Kafka client follows the address that the broker advertises, so a Kafka behind it needs a listener
that advertises the proxy: `greet.brokers.kafka(proxy_port=port)` and `proxy(..., listen=port)`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CHUNK = 65_536
HELD = 1_000  # chunks that may be under way in one direction; then the sender waits


@dataclass(eq=False)
class _Link:
    """One connection: the ways to the client and to the broker."""

    near: asyncio.StreamWriter
    far: asyncio.StreamWriter
    silent: bool = False
    deaf: bool = False
    ends: int = 0
    dropped: asyncio.Event = field(default_factory=asyncio.Event)

    def loses(self, writer: asyncio.StreamWriter) -> bool:
        return self.silent or (self.deaf and writer is self.near)

    def abort(self) -> None:
        self.dropped.set()
        self.near.transport.abort()
        self.far.transport.abort()


@dataclass
class Proxy:
    """`delay_s` may be changed while it runs; it holds for what comes in from then on, each way.

    What `silence`, `deafen` and `drop` do, they do to the connections of that moment; later ones are whole.
    """

    port: int = 0
    delay_s: float = 0.0
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _links: set[_Link] = field(default_factory=set)

    def hold(self) -> None:
        """Let nothing pass, with all connections kept: as a network that is cut."""
        self._open.clear()

    def release(self) -> None:
        """Let it pass again, what was held first."""
        self._open.set()

    def drop(self) -> None:
        """Break every connection, without a farewell."""
        for link in list(self._links):
            link.abort()

    def silence(self) -> None:
        """Lose every byte, and tell neither side of the other's end: half-open, as if a cable were pulled."""
        for link in self._links:
            link.silent = True

    def deafen(self) -> None:
        """Let requests through and lose the responses."""
        for link in self._links:
            link.deaf = True

    async def _serve(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, out = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, out)
        self._links.add(link)
        try:
            with suppress(ExceptionGroup):  # either side is gone: so is the other
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(link, reader, out))
                    both.create_task(self._pass(link, upstream, writer))
        finally:
            self._links.discard(link)
            link.abort()

    async def _pass(self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way: a chunk leaves `delay_s` after it came, however many are under way."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD)

        async def take() -> None:
            with suppress(ConnectionError):
                while chunk := await reader.read(CHUNK):
                    await under_way.put((time.perf_counter() + self.delay_s, chunk))
            link.ends += 1
            if link.silent and link.ends < 2:
                await link.dropped.wait()
            raise ConnectionResetError

        async def give() -> None:
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(due - time.perf_counter())
                await self._open.wait()
                if not link.loses(writer):
                    writer.write(chunk)
                    await writer.drain()

        async with asyncio.TaskGroup() as both:
            both.create_task(take())
            both.create_task(give())


@asynccontextmanager
async def proxy(host: str, port: int, *, delay_s: float = 0.0, listen: int = 0) -> AsyncIterator[Proxy]:
    """A proxy on a free port of loopback, or on `listen`, to `host`:`port`."""
    between = Proxy(delay_s=delay_s)
    between.release()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await between._serve(host, port, reader, writer)

    server = await asyncio.start_server(serve, "127.0.0.1", listen)
    between.port = server.sockets[0].getsockname()[1]
    try:
        yield between
    finally:
        server.close()
        between.drop()
        await asyncio.sleep(0)
