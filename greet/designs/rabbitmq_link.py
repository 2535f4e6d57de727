"""A connection to RabbitMQ, with deadlines: how it is opened and closed, and what its errors say."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import uniform
from typing import TypeVar
from urllib.parse import quote

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import (
    CONNECTION_EXCEPTIONS,
    AMQPConnectionError,
    AuthenticationError,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from pamqp.common import FieldTable
from pamqp.exceptions import PAMQPException
from yarl import URL

from greet.address import Address
from greet.errors import BadURL, GreetError, PublishFailed, PublishUnknown, one_line
from greet.tasks import beside, left, patiently

# What aio-pika raises when a connection fails: it does not wrap all of these in errors of its own.
DRIVER = (*CONNECTION_EXCEPTIONS, TimeoutError, EOFError)
NOT_AMQP = (ProtocolSyntaxError, PAMQPException)
"""What came cannot be read."""
HOPELESS = (ChannelAccessRefused, ChannelPreconditionFailed)
"""Errors that trying again does not fix."""
CLOSING = 5.0
"""The longest time in seconds that closing a connection may take."""
MOMENT = 0.1
"""If aio-pika 10.2 is cancelled just when a connection is made, it forgets it: so many seconds later it has it."""
STEP = 4096
"""A name that is longer, in steps of so many bytes, than all accepted before is sent alone: it may be refused."""
MAYBE = "it may have been accepted, so publishing it again may make a duplicate"
REFUSED = "a queue refused names, because it is full or has no leader,"
T = TypeVar("T")

# Errors are raised. The drivers also log them; that is shown only if the application configures logging.
for _driver in ("aio_pika", "aiormq"):
    logging.getLogger(_driver).addHandler(logging.NullHandler())


class Link:
    """A connection to the broker: the publisher has one, and each member of a group has its own.

    They do not share one. A broker that runs out of memory stops reading from connections that
    publish, so it would not see the acknowledgements that free its memory.

    This is aio-pika's plain connection (`connect`), not `connect_robust`. A robust connection restores
    itself in the background, so its users do not notice that their unsettled names are redelivered.
    Here they notice a lost connection, and open everything again.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.heartbeat = whole(address, "heartbeat", 5)
        self._properties: FieldTable = {"connection_name": f"greet: {name}"}
        self._tls = tls(address)
        self._connection: AbstractConnection | None = None
        self._spare: AbstractChannel | None = None
        self.refused: set[str] = set()
        """What this user may not declare, as far as the broker has said so on this connection."""
        self._closings = 0  # counts the calls of `close`: a connection that an older `open` made is closed again

    def usable(self) -> bool:
        """Whether the connection is open, as far as we know."""
        return self._connection is not None and self._connection.connected.is_set()

    async def open(self, deadline: float) -> None:
        """Close the old connection and connect to the first host that accepts. Each host gets its share of the time."""
        await self.close(deadline)
        mine = self._closings
        hosts = self.address.hosts
        for place, (host, port) in enumerate(hosts):
            now = asyncio.get_running_loop().time()
            try:
                async with within(now + (deadline - now) / (len(hosts) - place)):
                    connection = await self._connect(self._url(host, port))
            except DRIVER:
                if place == len(hosts) - 1:
                    raise
                continue
            if mine != self._closings:
                await self._end(connection, deadline)
                raise ConnectionError("the line was closed")
            self._connection = connection
            return

    def _url(self, host: str, port: int) -> URL:
        address = self.address
        login = f"{quote(address.user, safe='')}:{quote(address.password, safe='')}@" if address.user else ""
        where = f"[{host}]" if ":" in host else host
        scheme = "amqps" if address.tls else "amqp"
        return URL(f"{scheme}://{login}{where}:{port}{address.path}?heartbeat={self.heartbeat}")

    async def _connect(self, url: URL) -> AbstractConnection:
        connection = aio_pika.Connection(url, ssl_context=self._tls, client_properties=self._properties)
        try:
            await patiently(connection.connect(), MOMENT)
        except BaseException:
            await self._end(connection, 0)  # `aio_pika.connect` leaves it unclosed, which Python complains of later
            raise
        return connection

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """Open a channel on the connection."""
        if not self._connection:
            raise ConnectionError("not connected")
        return await self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)

    @asynccontextmanager
    async def spare(self) -> AsyncIterator[AbstractChannel]:
        """A channel for what may fail: an error closes it, and then the next call opens another.

        It is kept as long as nothing fails: aio-pika keeps some objects of each channel until the connection ends.
        """
        channel = self._spare
        if channel is None or channel.is_closed:
            channel = self._spare = await self.channel()
        try:
            yield channel
        except BaseException:
            if self._spare is channel:
                self._spare = None
            raise

    async def close(self, deadline: float) -> None:
        """Close the connection by the protocol, so that the broker has read all that was written."""
        self._closings += 1
        self._spare, self.refused = None, set()
        connection, self._connection = self._connection, None
        if connection:
            await self._end(connection, deadline)

    async def _end(self, connection: AbstractConnection, deadline: float) -> None:
        """Close, and wait at most `CLOSING`: if the broker does not answer, closing goes on in the background."""
        farewell = beside(connection.close(), _farewells)  # an error does not matter: it is closed in any case
        await asyncio.wait([farewell], timeout=min(CLOSING, left(deadline)))


_farewells: set[asyncio.Task[None]] = set()


@asynccontextmanager
async def within(deadline: float) -> AsyncIterator[None]:
    """A deadline for calls of the drivers. They raise `DRIVER`, or `CancelledError` only if our task is cancelled.

    When a connection has been silent for too long, aiormq cancels its reader, and with it all tasks
    that wait for an answer. Some other calls fail with a bare `Exception`. Both are translated here.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    async with asyncio.timeout_at(deadline):
        try:
            yield
        except asyncio.CancelledError as error:
            if task is None or task.cancelling() > before:
                raise
            raise ConnectionError("the connection fell silent") from error
        except Exception as error:
            if type(error) is Exception:
                raise ConnectionError("the connection was closed") from error
            raise


async def keep_trying(attempt: Callable[[float], Awaitable[T]], deadline: float) -> T:
    """The result of the first `attempt` that succeeds; at the deadline, raise the last error.

    Errors that a second attempt does not fix are raised at once.
    """
    now = asyncio.get_running_loop().time
    failure: BaseException | None = None
    pause = 0.05
    while True:
        began = now()
        try:
            async with within(deadline):
                return await attempt(deadline)
        except HOPELESS:
            raise
        except DRIVER as error:
            # A time-out of an attempt that had less than a second says nothing: keep the error before it.
            if not failure or not isinstance(error, TimeoutError) or now() - began > 1:
                failure = error
        pause = min(2 * pause, 2) * uniform(0.5, 1)  # noqa: S311 - so that not all clients reconnect at once
        if now() + pause >= deadline:
            raise failure
        await asyncio.sleep(pause)


# The replies of RabbitMQ, and what to do then. The first entry whose beginning matches is taken.
# Each is a reply code of AMQP 0-9-1, or one case of it that needs another action.
REPLIES: tuple[tuple[str | tuple[str, ...], str], ...] = (
    ("ACCESS_REFUSED - Login was refused", "it refuses this user and password: check them"),
    ("ACCESS_REFUSED", "the user lacks this permission: `rabbitmqctl set_permissions` grants it, or use another user"),
    ("NOT_FOUND - no exchange", "no group has ever read the topic, or its exchange was deleted: subscribe first"),
    ("NOT_FOUND - no queue", "the queue was deleted: subscribe again"),
    ("NOT_FOUND - home node", "the member of the cluster that keeps the queue is down: start it again"),
    ("NOT_FOUND", "it was deleted, or the node that keeps it is down: look into the broker's log"),
    ("RESOURCE_LOCKED", "another client uses the queue exclusively: stop it, or use another topic or group"),
    (
        ("PRECONDITION_FAILED - message size", "CONTENT_TOO_LARGE"),
        "the name is larger than the broker allows: raise its max_message_size",
    ),
    ("PRECONDITION_FAILED - inequivalent arg", "use another topic, or the settings that this one was made with"),
    (
        "PRECONDITION_FAILED - delivery acknowledgement",
        "names were held for longer than the broker's consumer_timeout: use a smaller prefetch=, or raise it",
    ),
    ("PRECONDITION_FAILED - unknown delivery tag", "a name was acknowledged twice: please report this"),
    ("PRECONDITION_FAILED", "the broker does not allow it: change the setting that it names"),
    ("CONNECTION_FORCED", "the broker stopped, or its operator closed the connection: connect again"),
    ("INVALID_PATH", "this user may not use the virtual host: check both"),
    ("NOT_ALLOWED", "this user may not use the virtual host: check both, and their limits"),
    ("RESOURCE_ERROR", "the broker lacks the resources: close other connections, or raise its limits"),
    ("INTERNAL_ERROR", "the broker failed: look into its log"),
    ("NOT_IMPLEMENTED", "the broker cannot do that: use a current RabbitMQ"),
    (
        ("FRAME_ERROR", "SYNTAX_ERROR", "COMMAND_INVALID", "CHANNEL_ERROR", "UNEXPECTED_FRAME"),
        "it rejects the protocol: check that RabbitMQ listens there, without a proxy between",
    ),
)
_reply = re.compile(r"\b[A-Z]+_[A-Z_]+ - .*", re.DOTALL)


def remedy(error: BaseException) -> str:
    """The reply of RabbitMQ in `error`, with what to do; an empty text if there is none."""
    text = next((one for one in reversed(error.args) if isinstance(one, str)), "")
    if found := _reply.search(text):
        reply = one_line(Exception(found[0]))
        for beginning, todo in REPLIES:
            if reply.startswith(beginning):
                return f"{todo} ({reply})"
    return ""


def why(address: Address, error: BaseException) -> str:  # noqa: PLR0911 - a table
    """The message for a driver's error: what is wrong, and what to do next."""
    if reply := remedy(error):
        return reply
    cause: BaseException | None = error  # aiormq only says "connection problem"; the reason is in the cause
    while cause and not isinstance(cause, (ssl.SSLError, ConnectionRefusedError, socket.gaierror)):
        cause = cause.__cause__
    match cause or error:
        case TimeoutError():
            return str(error) or f"it did not answer as RabbitMQ within {address.timeout:g} s"
        case ConnectionRefusedError():
            return "nothing listens there: start the broker, or check host and port"
        case socket.gaierror():
            return "the host name is unknown: correct the URL"
        case ssl.SSLCertVerificationError() as refused:
            return f"its certificate is not trusted ({refused.verify_message}): name its authority with ?ca=FILE"
        case ssl.SSLError():
            return f"TLS fails, so check the port and the certificates: {one_line(error)}"
        case ProbableAuthenticationError() | AuthenticationError():
            return "it refuses this user and password: check them"
        case InvalidFrameError() if "Connection.Close" in str(error):  # the answer to Connection.Open
            return f"this user may not use the virtual host {address.path or '/'}: check both"
        case _ if isinstance(error, NOT_AMQP):
            return "what answers there does not speak AMQP 0-9-1 as RabbitMQ does: check host and port"
        case AMQPConnectionError() if "Connect call failed" in str(error) or "Multiple exceptions" in str(error):
            return "nothing listens there: start the broker, or check host and port"
        case AMQPConnectionError():
            return f"the connection broke off, so check host, port and certificates: {one_line(error)}"
    return one_line(error)


def failed(kind: type[GreetError], what: str, address: Address, error: BaseException) -> GreetError:
    """An error of `kind` with the message for a driver's error; raise it from that error."""
    return kind(f"{what}{' ' if what else ''}cannot use {address}: {why(address, error)}")


def refused(error: BaseException, *, certain: bool) -> PublishFailed | PublishUnknown:
    """The error of a name whose channel the broker closed; `certain` if it was the only one being published."""
    reason = remedy(error) or one_line(error)
    return PublishFailed(f"not accepted: {reason}") if certain else PublishUnknown(f"{reason}; {MAYBE}")


def nowhere(topic: str) -> str:
    """Why a name was not accepted that no queue would have got."""
    return (
        f"no group reads {topic} now (none ever did, or its queue or exchange was deleted),"
        " so it has nowhere to go: subscribe first"
    )


def rounded(size: int) -> int:
    """`size` in whole steps: names of up to so many bytes are sent together from now on."""
    return -(-size // STEP) * STEP


def tls(address: Address) -> ssl.SSLContext | None:
    """How to encrypt, if the URL says so."""
    try:
        return address.tls_context() if address.tls else None
    except OSError as error:
        raise BadURL(f"cannot read the files ca, cert and key of the URL: {one_line(error)}") from error


def whole(address: Address, key: str, default: int) -> int:
    """The option `key`, from 1 on: in AMQP, 0 would mean that there is no limit."""
    value = address.number(key, default)
    if not 1 <= value <= 65_535:
        raise BadURL(f"{key}={value:g} in the URL is not from 1 to 65,535")
    return int(value)
