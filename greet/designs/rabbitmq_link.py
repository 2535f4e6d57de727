"""A connection to RabbitMQ, with deadlines: how it comes about, what it says when it does not, its end."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import uniform
from typing import TypeVar
from urllib.parse import quote

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPConnectionError,
    ChannelPreconditionFailed,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from pamqp.exceptions import PAMQPException
from yarl import URL

from greet.address import Address
from greet.designs.rabbitmq_wire import Wire
from greet.errors import BadURL, ConnectFailed, one_line

# What aio-pika raises when a connection fails: it does not wrap all of it in errors of its own.
DRIVER = (*CONNECTION_EXCEPTIONS, TimeoutError, EOFError)
CLOSING = 5.0
"""How many seconds a farewell may take."""
T = TypeVar("T")

# What goes wrong is raised; that the drivers also log it is shown only where logging is configured.
for _driver in ("aio_pika", "aiormq"):
    logging.getLogger(_driver).addHandler(logging.NullHandler())


class Link:
    """A connection to the broker: the publisher has one, and so has each member of a group.

    They do not share one, as a broker that runs out of memory stops reading from connections that
    publish, and would not see the acknowledgements that free it.

    It is aio-pika's plain connection, not its robust one. That one restores itself in the
    background, and hides from those who use it that their unsettled names come again and that
    their iterator has ended. Here they are told, and begin again with all of it.
    """

    wire: Wire

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._name = name
        self._heartbeat = whole(address, "heartbeat", 5)
        self._tls = tls(address)
        self._connection: aio_pika.Connection | None = None
        self._channel: AbstractChannel | None = None

    def usable(self) -> bool:
        """Whether the connection is up, as far as can be known."""
        transport = self._connection.transport if self._connection else None
        return transport is not None and transport.connection.is_opened

    async def open(self) -> None:
        """Connect to the first host that lets us, after a farewell to the last; each has its share of the time."""
        await self.close()
        hosts = self._address.hosts
        for host, port in hosts:
            try:
                async with within(self._address.timeout / len(hosts)):
                    return await self._open(host, port)
            except DRIVER:
                if (host, port) == hosts[-1]:
                    raise
        return None

    async def _open(self, host: str, port: int) -> None:
        address = self._address
        login = f"{quote(address.user, safe='')}:{quote(address.password, safe='')}@" if address.user else ""
        where = f"[{host}]" if ":" in host else host
        url = URL(f"{address.scheme}://{login}{where}:{port}{address.path}?heartbeat={self._heartbeat}")
        connection = aio_pika.Connection(url, client_properties={"connection_name": f"greet: {self._name}"})
        wire = connection.kwargs["transport_factory"] = Wire(self._tls)
        self._connection, self.wire = connection, wire
        try:
            await connection.connect()
        except BaseException:
            await self._cut(connection, wire)
            raise
        if connection is not self._connection:  # closed meanwhile
            await self._cut(connection, wire)
            raise ConnectionError("the line was closed")

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A channel of the connection."""
        if not self._connection:
            raise ConnectionError("not connected")
        self._channel = await self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)
        return self._channel

    async def close(self) -> None:
        """Say farewell, so that the broker has seen all that was written; then cut the connection."""
        connection, channel = self._connection, self._channel
        self._connection = self._channel = None
        if not connection:
            return
        wire = self.wire
        try:
            async with within(min(CLOSING, self._address.timeout)):
                if channel:  # the answer to this comes when all before it is done
                    await channel.close()
                await connection.close()
        except DRIVER:
            pass  # it is gone already
        finally:
            await self._cut(connection, wire)

    @staticmethod
    async def _cut(connection: aio_pika.Connection, wire: Wire) -> None:
        """Drop the connection, and what aio-pika holds of it: there is nothing to wait for any more."""
        wire.abort()
        with suppress(*DRIVER):
            async with within(1):
                await connection.close()


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """A deadline for calls of the drivers, which may end in `DRIVER`, and as cancelled only by who cancels us.

    When a connection has been silent for too long, aiormq cancels its own reader, and all who wait
    for an answer with it: they would disappear without a word.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    async with asyncio.timeout(seconds):
        try:
            yield
        except asyncio.CancelledError as error:
            if task is None or task.cancelling() > before:
                raise
            raise ConnectionError("the connection fell silent") from error


async def keep_trying(attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
    """The result of the first `attempt` that succeeds; after `seconds`, what the others failed with."""
    now = asyncio.get_running_loop().time
    deadline = now() + seconds
    failure: BaseException | None = None
    pause = 0.05
    while True:
        try:
            async with within(deadline - now()):
                return await attempt()
        except DRIVER as error:
            if not failure or not isinstance(error, TimeoutError):  # a time-out says the least
                failure = error
        pause = min(2 * pause, 2) * uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        if now() + pause >= deadline:
            raise failure
        await asyncio.sleep(pause)


def unusable(address: Address, error: BaseException) -> ConnectFailed:
    """What to say when a broker cannot be used."""
    match error:
        case TimeoutError():
            why = f"it did not answer as RabbitMQ within {address.timeout:g} s"
        case ConnectionRefusedError():
            why = "nothing listens there: start the broker, or check host and port"
        case ssl.SSLCertVerificationError():
            why = f"its certificate is refused ({error.verify_message}); ?ca=FILE names an authority to trust"
        case ssl.SSLError():
            why = f"TLS fails, so check the port and the certificates: {one_line(error)}"
        case ProbableAuthenticationError():
            why = "it refuses this user and password: check them"
        case InvalidFrameError() if "Connection.Close" in str(error):  # the answer to Connection.Open
            why = f"it does not let this user into the virtual host {address.path or '/'}: check both"
        case ProtocolSyntaxError() | PAMQPException():
            why = "what answers there does not speak AMQP 0-9-1 as RabbitMQ does: check host and port"
        case AMQPConnectionError():
            why = f"the connection broke off, so check host, port and certificates: {one_line(error)}"
        case ChannelPreconditionFailed():
            why = f"use another topic, or the settings that this one was made with: {one_line(error)}"
        case _:
            why = one_line(error)
    return ConnectFailed(f"cannot use {address}: {why}")


def tls(address: Address) -> ssl.SSLContext | None:
    """How to encrypt: with verification of the broker's certificate and host name, always."""
    if not address.tls:
        return None
    files = address.options
    try:
        context = ssl.create_default_context(cafile=files.get("ca"))
        if "cert" in files:
            context.load_cert_chain(files["cert"], files.get("key"))
    except OSError as error:
        raise BadURL(f"cannot read the files ca, cert and key of the URL: {one_line(error)}") from error
    return context


def whole(address: Address, key: str, default: int) -> int:
    """The option `key`, where 0 would mean to AMQP that there is no limit."""
    value = address.number(key, default)
    if not 1 <= value <= 65_535:
        raise BadURL(f"{key}={value:g} in the URL is not from 1 to 65,535")
    return int(value)
