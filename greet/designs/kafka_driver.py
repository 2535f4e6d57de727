"""aiokafka made fit for the promises: what version 0.14 lacks, in one place, each with its reason.

    settings     what every client of it needs, from a URL: TLS, SASL, time-outs
    connecting   why a connection did not come about: aiokafka logs the reason and raises a vaguer one
    insist       asked again, while a member of a cluster is gone or a broker is only just back
    fill, take   names written twice and read five times as fast, without a Python object for each
    hand_over    a batch queued, however long that takes
    commit       a position written down, or an end to it by the caller's deadline
    close        a stop that ends by a deadline: its own waits for as long as a broker is away

All but the first three reach into parts of aiokafka that it does not document, as nothing public does
what they need. So its version is pinned, and this file is the only one to do so.
"""

from __future__ import annotations

import asyncio
import logging
import math
import ssl
import time
import warnings
from bisect import bisect_left
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.consumer.fetcher import FetchError
from aiokafka.errors import (
    AuthenticationFailedError,
    BrokerResponseError,
    CommitFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalGenerationError,
    IllegalOperation,
    IllegalSaslStateError,
    InvalidPartitionsError,
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RebalanceInProgressError,
    SaslAuthenticationFailed,
    StaleMetadata,
    UnknownMemberIdError,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.record import default_records
from aiokafka.structs import OffsetAndMetadata

from greet.address import Address
from greet.errors import BadURL, ConnectFailed, GreetError, Unsupported, one_line

T = TypeVar("T")
DRIVER_ERRORS = (KafkaError, ConsumerStoppedError, IllegalOperation, OSError, ValueError, AssertionError)
"""What aiokafka raises, on purpose or not; a time-out is an OSError."""
AWAY = (ConnectionError, TimeoutError, KafkaConnectionError, KafkaTimeoutError)
"""What is raised when the member that was asked is gone."""
NOBODY = (NodeNotReadyError, StaleMetadata)
"""What is raised when a broker answers and names no broker: it was silent, and is about to be let in again."""
RETRY_SECONDS = 0.1
QUIET_SECONDS = 10.0

if not default_records.DefaultRecordBatch.__module__.startswith("aiokafka.record._crecords"):
    warnings.warn(
        "aiokafka runs without its C extensions, some 13 times slower: reinstall it from a wheel,"
        " and leave AIOKAFKA_NO_EXTENSIONS unset",
        RuntimeWarning,
        stacklevel=2,
    )


# ---------------------------------------------------------------------------------- what aiokafka logs


@dataclass
class _Log:
    """What the clients that were started together have logged."""

    reason: Exception | None = None
    """The last exception that says why something failed."""
    said: dict[str, float] = field(default_factory=dict)


_log: ContextVar[_Log | None] = ContextVar("_log", default=None)  # aiokafka's tasks inherit it


def _listen(record: logging.LogRecord) -> bool:
    """Whether a record of aiokafka's goes on to the application's log.

    - The request that holds the password or token does not: at level DEBUG aiokafka logs it too.
    - Of greet's own clients, the same warning does so once in ten seconds: during an outage they
      would log a hundred a second.
    """
    arguments = record.args if isinstance(record.args, tuple) else ()
    if any(type(one).__name__.startswith("SaslAuthenticate") for one in arguments):
        return False
    log = _log.get()
    if log is None or record.levelno < logging.WARNING:
        return True
    for one in arguments:
        if isinstance(one, Exception) and not isinstance(one, NOBODY):
            log.reason = one
    last, log.said[record.msg] = log.said.get(record.msg, -math.inf), record.created
    if record.created - last < QUIET_SECONDS:
        log.said[record.msg] = last
        return False
    return True


for _name in (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
):
    logging.getLogger(_name).addFilter(_listen)
# Where no logging is set up, Python would print warnings to standard error: what matters is raised.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


# ------------------------------------------------------------------------------------------ connecting


def settings(address: Address) -> dict[str, Any]:
    """The arguments that every client of aiokafka takes. A deadline has room for some requests."""
    options = address.options
    found: dict[str, Any] = {
        "bootstrap_servers": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts],
        "request_timeout_ms": max(500, int(address.timeout * 250)),  # a fetch may wait 200 ms for names
        # Members are sorted by this when partitions are shared out: who came first keeps the first ones.
        "client_id": f"greet-{time.time_ns()}",
        "security_protocol": "SSL" if address.tls else "PLAINTEXT",
    }
    if address.tls:
        found["ssl_context"] = _tls(options)
    if mechanism := login(address):
        found["security_protocol"] = "SASL_SSL" if address.tls else "SASL_PLAINTEXT"
        found["sasl_mechanism"] = mechanism
        found["sasl_plain_username"] = address.user
        found["sasl_plain_password"] = address.password
        if mechanism == "OAUTHBEARER":
            found["sasl_oauth_token_provider"] = _TokenFile(Path(options["token_file"]))
    return found


def login(address: Address) -> str:
    """The SASL mechanism; empty without a login. Raises `BadURL` for one that cannot be."""
    if "token_file" in address.options:
        return address.choice("sasl", "OAUTHBEARER")
    if address.user:
        return address.choice("sasl", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    if "sasl" in address.options:
        raise BadURL("sasl= in the URL needs a user and a password, or a token_file=")
    return ""


def codec(address: Address) -> str | None:
    """How batches are compressed. Raises `Unsupported` when the library for it is not installed."""
    name = address.choice("compression", "none", "gzip", "snappy", "lz4", "zstd")
    if name not in ("none", "gzip") and find_spec("cramjam") is None:
        raise Unsupported(f"compression={name} needs a library: pip install cramjam, or use gzip")
    return None if name == "none" else name


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    """Certificate and host name of the broker are verified, by `ca` or the system's authorities."""
    context = ssl.create_default_context(cafile=options.get("ca"))
    if "cert" in options:
        context.load_cert_chain(options["cert"], options.get("key"))
    return context


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the token anew for each login, so who renews it only has to write the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """The token that the broker is shown."""
        return (await asyncio.to_thread(self._path.read_text)).strip()


@asynccontextmanager
async def connecting(address: Address) -> AsyncIterator[None]:
    """Raise `ConnectFailed`, with the real reason and by the deadline, in place of the driver's errors."""
    log = _Log()
    token = _log.set(log)
    try:
        async with asyncio.timeout(address.timeout):
            yield
    except GreetError:
        raise
    except DRIVER_ERRORS as error:
        reason = _reason(error)
        raise ConnectFailed(_why(address, reason)) from reason
    finally:
        _log.reset(token)


async def insist(address: Address, attempt: Callable[[], Awaitable[T]]) -> T:
    """The result of `attempt`, which is repeated until the caller's deadline while that may help.

    So it is while a member of a cluster is away: the others name one that has died for some seconds
    more, and aiokafka asks it as readily as them. And while a broker names nobody, itself included;
    but aiokafka reads the same out of the answer to a token that has expired.
    """
    passing: tuple[type[Exception], ...] = () if "token_file" in address.options else NOBODY
    if len(address.hosts) > 1:
        passing = NOBODY + AWAY
    while True:
        try:
            return await attempt()
        except DRIVER_ERRORS as error:
            if not isinstance(_reason(error), passing):
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _reason(error: Exception) -> Exception:
    """What aiokafka logged when it raised `error`; but what a broker has answered says more than an earlier log."""
    log = _log.get()
    if log is None or log.reason is None or (isinstance(error, BrokerResponseError) and not error.retriable):
        return error
    return log.reason


_REASONS: tuple[tuple[tuple[type[Exception], ...], str], ...] = (
    ((ssl.SSLCertVerificationError,), "the certificate of {address} is refused: correct it, or the URL's host or ca="),
    ((FileNotFoundError, PermissionError), "a file cannot be read: correct ca=, cert=, key= or token_file="),
    (
        (AuthenticationFailedError, SaslAuthenticationFailed),
        "{address} refuses the login: correct user and password, or the token, or sasl=",
    ),
    ((UnsupportedSaslMechanismError,), "{address} knows other ways to log in: correct sasl="),
    ((IllegalSaslStateError,), "{address} takes no login: leave user and password out"),
    ((TimeoutError,), "{address} does not answer in time: check that a broker runs there"),
    (
        (InvalidPartitionsError, InvalidReplicationFactorError),
        "{address} cannot make such a topic: correct partitions= or replication=",
    ),
    (
        (EOFError, ConnectionResetError, KafkaConnectionError, *NOBODY),
        "{address} hung up: correct its scheme, or the login (user and password, sasl=, token_file=)",
    ),
)


def _why(address: Address, reason: Exception) -> str:
    """What went wrong, and what to do next."""
    for kinds, text in _REASONS:
        if isinstance(reason, kinds):
            detail = getattr(reason, "verify_message", "") or (str(reason) if isinstance(reason, OSError) else "")
            return text.format(address=address) + (f" ({detail})" if detail else "")
    return f"no connection to {address}: {one_line(reason)}: check that a broker runs there"


async def start_producer(address: Address, topic: str, **more: Any) -> AIOKafkaProducer:
    """A producer that is connected, and knows the leaders of the topic."""
    producer = AIOKafkaProducer(**settings(address), **more)
    # aiokafka gives a batch as long as a request. A request shall fail early, so that a half-open
    # connection is renewed; the batch shall then be sent again.
    producer._message_accumulator._batch_ttl = address.timeout
    try:
        await producer.start()
        await producer.partitions_for(topic)
    except BaseException:
        await close(producer, 0)
        raise
    return producer


# --------------------------------------------------------------------------------- writing and reading


async def hand_over(producer: AIOKafkaProducer, batch: Any, partition: TopicPartition) -> asyncio.Future[Any]:
    """Queue `batch` behind the one that is under way; what is returned is done when it is acknowledged."""
    while True:
        with suppress(KafkaTimeoutError):  # no place in the queue for the time of a request: the caller has a deadline
            acknowledged: asyncio.Future[Any]
            acknowledged = await producer.send_batch(batch, partition.topic, partition=partition.partition)
            # When its sender has given up, asyncio would print that nobody asks how it ended.
            producer._message_accumulator._batches[partition][-1].future.add_done_callback(_asked)
            return acknowledged


def _asked(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()


async def answers(producer: AIOKafkaProducer) -> bool:
    """Whether all brokers that `producer` is connected to answer, which acks=0 does not ask of them.

    aiokafka cuts a connection over which no answer came in the time of a request, but only of a request of
    its users, not of its own for metadata.
    """
    client = producer.client
    try:
        for (node, group), connection in list(client._conns.items()):
            if connection.connected():
                await client.send(node, MetadataRequest([]), group=group)
    except (KafkaError, OSError, KeyError):  # the last where a connection was dropped meanwhile
        return False
    return True


def fill(batch: Any, bodies: Sequence[bytes], start: int) -> int:
    """Append `bodies` from number `start` on to `batch`; the number of the first that has no room.

    `batch.append` would do it one by one, by a call in Python around that of the C extension: this is
    twice as fast.
    """
    append, offset = batch._builder.append, batch._relative_offset
    now = int(time.time() * 1000)
    for body in islice(bodies, start, None):
        if append(offset, now, None, body, []) is None:
            break
        offset += 1
    count = offset - batch._relative_offset
    batch._relative_offset = offset
    return start + int(count)


@dataclass(frozen=True)
class Fetched:
    """Messages of one partition, in its order: body and offset of each."""

    partition: TopicPartition
    bodies: list[bytes | None]
    offsets: list[int]


async def take(consumer: AIOKafkaConsumer, seconds: float) -> Fetched | None:
    """All that was fetched of one partition; None if nothing came within `seconds`.

    `getmany` makes a `ConsumerRecord` of eleven fields for each message, through three calls in
    Python: 0.8 to 1.2 µs. All that greet needs of a message is its body and its offset, which the
    C extension has: 0.2 µs. So this takes what the fetcher has received, before it is unpacked, and
    unpacks it whole. Meanwhile the fetcher fetches what comes next.
    """
    consumer._coordinator.check_errors()
    fetcher, state = consumer._fetcher, consumer._subscription
    try:
        with state.fetch_context():  # who does not fetch for too long is put out of the group
            async with asyncio.timeout(seconds):
                while not consumer._closed:
                    if state.reassignment_in_progress:
                        await state.wait_for_assignment()
                    if not fetcher._records:
                        await fetcher._create_fetch_waiter()
                        continue
                    partition, result = fetcher._records.popitem(last=False)
                    fetcher._notify(fetcher._wait_consume_future)  # it may fetch what comes next
                    if isinstance(result, FetchError):
                        result.check_raise()
                    elif result.check_assignment(partition) and (fetched := _unpack(partition, result)).bodies:
                        return fetched
    except TimeoutError:
        return None
    raise ConsumerStoppedError("the member has left its group")


def _unpack(partition: TopicPartition, result: Any) -> Fetched:
    bodies: list[bytes | None] = []
    offsets: list[int] = []
    records = result._partition_records
    position = records.next_fetch_offset
    while records._records.has_next():
        batch = records._records.next_batch()
        if not batch.validate_crc():
            raise CorruptRecordException(f"{partition} holds damaged data at offset {records.next_fetch_offset}")
        if not batch.is_control_batch:
            for message in batch:  # no list of them: ten times slower, as each would stay alive
                bodies.append(message.value)
                offsets.append(message.offset)
        records.next_fetch_offset = batch.next_offset
    result._update_position()
    early = bisect_left(offsets, position)  # a batch comes whole, also for a position in the middle of it
    del bodies[:early], offsets[:early]
    return Fetched(partition, bodies, offsets)


async def commit(consumer: AIOKafkaConsumer, positions: Mapping[TopicPartition, int]) -> None:
    """Write down positions; raises `CommitFailedError` when the group has shared out its partitions anew.

    `consumer.commit` does this under a shield: when it is cancelled, at a deadline, what goes on
    behind the shield ends as an error that nobody asks for, and asyncio prints it.
    """
    coordinator, assignment = consumer._coordinator, consumer._subscription.subscription.assignment
    if assignment is None or not positions.keys() <= assignment.tps:
        raise CommitFailedError("the partitions are not this member's any more")
    offsets = {partition: OffsetAndMetadata(offset, "") for partition, offset in positions.items()}
    while True:
        await coordinator.ensure_coordinator_known()
        try:
            await coordinator._do_commit_offsets(assignment, offsets)
        except (UnknownMemberIdError, IllegalGenerationError, RebalanceInProgressError) as error:
            raise CommitFailedError(*error.args) from error
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(RETRY_SECONDS)
        else:
            return


# --------------------------------------------------------------------------------------------- closing


async def close(client: AIOKafkaProducer | AIOKafkaConsumer, seconds: float) -> None:
    """Stop `client`; after `seconds`, or when this is cancelled, without waiting for a broker.

    A producer first gets out what was handed to it, a consumer leaves its group.
    """
    # A task of its own, since a stop may end as cancelled when it has cancelled what it waits for.
    stopping = asyncio.ensure_future(client.stop())
    try:
        await asyncio.wait([stopping], timeout=seconds)
    finally:
        if not stopping.done() or stopping.cancelled() or stopping.exception():
            await _kill(client, stopping)


async def _kill(client: AIOKafkaProducer | AIOKafkaConsumer, stopping: asyncio.Future[None]) -> None:
    """End the tasks and cut the connections of a client that does not stop."""
    if isinstance(client, AIOKafkaProducer):
        inner, parts = client.client, [client.client, client._sender]
    else:
        inner, parts = client._client, [client._client, client._coordinator, client._fetcher]
    found = [one for part in parts if part is not None for one in vars(part).values()]
    tasks = [stopping, *(one for one in found if isinstance(one, asyncio.Task))]
    tasks += [one for many in found if isinstance(many, set) for one in many if isinstance(one, asyncio.Task)]
    for _ in range(2):  # the first time, the producer's task goes on to wait for its requests
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)
    if isinstance(client, AIOKafkaProducer):
        await _fail_batches(client)
    for connection in inner._conns.values():
        if connection._protocol._transport is not None:
            connection._protocol._transport.abort()  # close() waits for a broker to read the rest, over TLS to answer
    await asyncio.gather(inner.close(), return_exceptions=True)  # what `stopping` waited for is cancelled


async def _fail_batches(producer: AIOKafkaProducer) -> None:
    """Tell who waits for a batch that nobody will send it any more."""
    accumulator = producer._message_accumulator
    batches = {*accumulator._pending_batches, *(batch for queue in accumulator._batches.values() for batch in queue)}
    accumulator._pending_batches |= batches  # it is taken out of there, also when it is not in there
    for batch in batches:
        batch.failure(KafkaTimeoutError("the line was closed before the broker answered"))
        batch._drain_waiter.exception()  # nobody may wait for that
    await accumulator.flush()
