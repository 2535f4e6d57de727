"""A connection to RabbitMQ, with deadlines: how it comes about, what it says when it does not, its end."""

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

# What aio-pika raises when a connection fails: it does not wrap all of it in errors of its own.
DRIVER = (*CONNECTION_EXCEPTIONS, TimeoutError, EOFError)
HOPELESS = (ChannelAccessRefused, ChannelPreconditionFailed)
"""What trying again does not mend."""
CLOSING = 5.0
"""How many seconds a farewell may take."""
STEP = 4096
"""A name of more bytes, by such steps, than any that the broker has taken is sent alone: it may be refused."""
MAYBE = "it may have been accepted, so publishing it again may double it"
REFUSED = "the broker refused names, as a queue is full or without a leader,"
T = TypeVar("T")

# What goes wrong is raised; that the drivers also log it is shown only where logging is configured.
for _driver in ("aio_pika", "aiormq"):
    logging.getLogger(_driver).addHandler(logging.NullHandler())


class Link:
    """A connection to the broker: the publisher has one, and so has each member of a group.

    They do not share one, as a broker that runs out of memory stops reading from connections that
    publish, and would not see the acknowledgements that free it.

    It is aio-pika's plain connection, not its robust one. That one restores itself in the
    background, and hides from those who use it that their unsettled names come again. Here they
    are told, and begin again with all of it.
    """

    def __init__(self, address: Address, name: str) -> None:
        self.address = address
        self.heartbeat = whole(address, "heartbeat", 5)
        self._properties: FieldTable = {"connection_name": f"greet: {name}"}
        self._tls = tls(address)
        self._connection: AbstractConnection | None = None
        self._opening = 0  # counts up: what was opened before is not wanted any more

    def usable(self) -> bool:
        """Whether the connection is up, as far as is known."""
        return self._connection is not None and self._connection.connected.is_set()

    async def open(self, deadline: float) -> None:
        """Connect to the first host that lets us, after a farewell to the last; each has its share of the time."""
        await self.close(deadline)
        mine = self._opening
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
            if mine != self._opening:
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
        return await aio_pika.connect(url, ssl_context=self._tls, client_properties=self._properties)

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        """A channel of the connection."""
        if not self._connection:
            raise ConnectionError("not connected")
        return await self._connection.channel(publisher_confirms=confirms, on_return_raises=confirms)

    async def close(self, deadline: float) -> None:
        """Say farewell, so that the broker has seen all that was written."""
        self._opening += 1
        connection, self._connection = self._connection, None
        if connection:
            await self._end(connection, deadline)

    async def _end(self, connection: AbstractConnection, deadline: float) -> None:
        """A broker that does not answer does not hold us up: what is left of the farewell goes on beside us."""
        farewell = asyncio.create_task(connection.close())
        _farewells.add(farewell)
        farewell.add_done_callback(_is_over)
        left = deadline - asyncio.get_running_loop().time()
        await asyncio.wait([farewell], timeout=max(0.0, min(CLOSING, left)))


_farewells: set[asyncio.Task[None]] = set()  # a task that nobody holds may disappear


def _is_over(farewell: asyncio.Task[None]) -> None:
    _farewells.discard(farewell)
    looked_at(farewell)  # the connection is gone in any case


def looked_at(task: asyncio.Task[None]) -> None:
    """As a callback of `task`: asyncio shall not print that nobody asks how it ended."""
    if not task.cancelled():
        task.exception()


@asynccontextmanager
async def within(deadline: float) -> AsyncIterator[None]:
    """A deadline for calls of the drivers, which may end in `DRIVER`, and as cancelled only by who cancels us.

    When a connection has been silent for too long, aiormq cancels its own reader, and all who wait
    for an answer with it; others it fails with a bare `Exception`.
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
    """The result of the first `attempt` that succeeds; at the deadline, what the last failed with.

    What no second attempt mends is raised at once.
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
            # An attempt for which little time was left says nothing by not being done.
            if not failure or not isinstance(error, TimeoutError) or now() - began > 1:
                failure = error
        pause = min(2 * pause, 2) * uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        if now() + pause >= deadline:
            raise failure
        await asyncio.sleep(pause)


# What RabbitMQ answers to what greet asks, and what to do then: the first whose beginning fits.
# Each is a reply code of AMQP 0-9-1, or of that code a case that has another remedy.
REPLIES = (
    ("ACCESS_REFUSED - Login was refused", "it refuses this user and password: check them"),
    ("ACCESS_REFUSED", "the user has not that right: give it with `rabbitmqctl set_permissions`, or use another user"),
    ("NOT_FOUND - no exchange", "no group has ever read the topic, or its exchange was deleted: subscribe first"),
    ("NOT_FOUND - no queue", "the queue was deleted: subscribe again"),
    ("NOT_FOUND - home node", "the member of the cluster that keeps the queue is down: start it again"),
    ("NOT_FOUND", "what keeps it is not there or not running: look into the broker's log"),
    ("RESOURCE_LOCKED", "another client has the queue for itself: stop that, or use another topic or group"),
    ("PRECONDITION_FAILED - message size", "the name is larger than the broker takes: raise its max_message_size"),
    ("PRECONDITION_FAILED - inequivalent arg", "use another topic, or the settings that this one was made with"),
    ("PRECONDITION_FAILED - delivery acknowledgement", "a handler took longer than the broker's consumer_timeout"),
    ("PRECONDITION_FAILED - unknown delivery tag", "the broker was told twice that a name is handled: report this"),
    ("PRECONDITION_FAILED", "the broker does not allow it: change what it names"),
    ("CONTENT_TOO_LARGE", "the name is larger than the broker takes: raise its max_message_size"),
    ("CONNECTION_FORCED", "the broker closed the connection, as it stops or its operator wants: connect again"),
    ("INVALID_PATH", "it does not let this user into the virtual host: check both"),
    ("NOT_ALLOWED", "it does not let this user into the virtual host: check both, and their limits"),
    ("RESOURCE_ERROR", "the broker has not what that takes: close other connections, or give it more"),
    ("INTERNAL_ERROR", "the broker failed: look into its log"),
    ("NOT_IMPLEMENTED", "the broker cannot do that: use a current RabbitMQ"),
    ("FRAME_ERROR", "it does not understand us: check that RabbitMQ listens there, and nothing stands between"),
    ("SYNTAX_ERROR", "it does not understand us: check that RabbitMQ listens there, and nothing stands between"),
    ("COMMAND_INVALID", "it does not understand us: check that RabbitMQ listens there, and nothing stands between"),
    ("CHANNEL_ERROR", "it does not understand us: check that RabbitMQ listens there, and nothing stands between"),
    ("UNEXPECTED_FRAME", "it does not understand us: check that RabbitMQ listens there, and nothing stands between"),
)
_reply = re.compile(r"\b[A-Z]+_[A-Z_]+ - .*", re.DOTALL)


def remedy(error: BaseException) -> str:
    """What RabbitMQ replied, if `error` holds a reply, with what to do; else an empty text."""
    text = next((one for one in reversed(error.args) if isinstance(one, str)), "")
    if found := _reply.search(text):
        reply = one_line(Exception(found[0]))
        for beginning, todo in REPLIES:
            if reply.startswith(beginning):
                return f"{todo} ({reply})"
    return ""


def why(address: Address, error: BaseException) -> str:  # noqa: PLR0911 - a table
    """What to say of a driver's error: what is wrong, and what to do next."""
    if reply := remedy(error):
        return reply
    cause: BaseException | None = error  # aiormq says "connection problem", and hides which in the cause
    while cause and not isinstance(cause, (ssl.SSLError, ConnectionRefusedError, socket.gaierror)):
        cause = cause.__cause__
    match cause or error:
        case TimeoutError():
            return str(error) or f"it did not answer as RabbitMQ within {address.timeout:g} s"
        case ConnectionRefusedError():
            return "nothing listens there: start the broker, or check host and port"
        case socket.gaierror():
            return "no host of that name is known: correct the URL"
        case ssl.SSLCertVerificationError() as refused:
            return f"its certificate is refused ({refused.verify_message}); ?ca=FILE names an authority to trust"
        case ssl.SSLError():
            return f"TLS fails, so check the port and the certificates: {one_line(error)}"
        case ProbableAuthenticationError() | AuthenticationError():
            return "it refuses this user and password: check them"
        case InvalidFrameError() if "Connection.Close" in str(error):  # the answer to Connection.Open
            return f"it does not let this user into the virtual host {address.path or '/'}: check both"
        case ProtocolSyntaxError() | PAMQPException():
            return "what answers there does not speak AMQP 0-9-1 as RabbitMQ does: check host and port"
        case AMQPConnectionError() if "Connect call failed" in str(error) or "Multiple exceptions" in str(error):
            return "nothing listens there: start the broker, or check host and port"
        case AMQPConnectionError():
            return f"the connection broke off, so check host, port and certificates: {one_line(error)}"
    return one_line(error)


def failed(kind: type[GreetError], what: str, address: Address, error: BaseException) -> GreetError:
    """`kind`, with the words for a driver's error; chain it to that."""
    return kind(f"{what}{' ' if what else ''}cannot use {address}: {why(address, error)}")


def refused(error: BaseException, *, certain: bool) -> PublishFailed | PublishUnknown:
    """What to say of a name whose channel the broker closed; `certain` if no other was on its way there."""
    reason = remedy(error) or one_line(error)
    return PublishFailed(f"not accepted: {reason}") if certain else PublishUnknown(f"{reason}; {MAYBE}")


def nowhere(topic: str) -> str:
    """Why a name was not accepted that no queue would get."""
    return f"no group has ever read {topic}, so it has nowhere to go: subscribe first"


def rounded(size: int) -> int:
    """The bytes that are taken from now on, as a name of `size` was."""
    return -(-size // STEP) * STEP


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
