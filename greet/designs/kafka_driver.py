"""aiokafka made fit for the promises: what version 0.14 lacks, in one place, each with its reason.

    settings     what every client of it needs, from a URL: TLS, SASL, time-outs
    connecting   why a connection did not come about: aiokafka logs the reason and raises a vaguer one
    take         names read 5 times as fast, without a Python object for each
    close        a stop that ends by a deadline: its own waits for as long as a broker is away

`take` and `close` reach into parts of aiokafka that it does not document, as nothing public does
what they need. So its version is pinned, and this file is the only one to do so.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
import warnings
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.abc import AbstractTokenProvider
from aiokafka.consumer.fetcher import FetchError
from aiokafka.errors import (
    AuthenticationFailedError,
    ConsumerStoppedError,
    CorruptRecordException,
    IllegalOperation,
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.record import default_records

from greet.address import Address
from greet.errors import ConnectFailed, one_line

DRIVER_ERRORS = (KafkaError, ConsumerStoppedError, IllegalOperation, OSError, ValueError, AssertionError)
"""What aiokafka raises, on purpose or not; a time-out is an OSError."""

if not default_records.DefaultRecordBatch.__module__.startswith("aiokafka.record._crecords"):
    warnings.warn(
        "aiokafka runs without its C extensions, some 13 times slower: reinstall it from a wheel,"
        " and leave AIOKAFKA_NO_EXTENSIONS unset",
        RuntimeWarning,
        stacklevel=2,
    )


# ---------------------------------------------------------------------------------- what aiokafka logs

_heard: ContextVar[deque[Exception] | None] = ContextVar("_heard", default=None)


class _Listening(logging.Handler):
    """Keeps the last exception that aiokafka logs, for who listens in this context.

    As the one handler of aiokafka's logger it also keeps Python from printing the log to standard
    error, ten lines a second during an outage: what matters of it is raised. An application that
    sets up logging gets all of it, as ever.
    """

    def emit(self, record: logging.LogRecord) -> None:
        heard = _heard.get()
        if heard is not None and isinstance(record.args, tuple):
            heard.extend(one for one in record.args if isinstance(one, Exception))


def _without_secrets(record: logging.LogRecord) -> bool:
    """False for the request that holds the password or token: aiokafka would log it at level DEBUG."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    return not any(type(one).__name__.startswith("SaslAuthenticate") for one in arguments)


logging.getLogger("aiokafka").addHandler(_Listening())
logging.getLogger("aiokafka.conn").addFilter(_without_secrets)


# ------------------------------------------------------------------------------------------ connecting


def settings(address: Address) -> dict[str, Any]:
    """The arguments that every client of aiokafka takes. A deadline has room for some requests."""
    options = address.options
    found: dict[str, Any] = {
        "bootstrap_servers": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts],
        "request_timeout_ms": int(address.timeout * 250),
        # Members are sorted by this when partitions are shared out: who came first keeps the first ones.
        "client_id": f"greet-{time.time_ns()}",
        "security_protocol": "SSL" if address.tls else "PLAINTEXT",
    }
    if address.tls:
        found["ssl_context"] = _tls(options)
    if "token_file" in options:
        found["sasl_mechanism"] = "OAUTHBEARER"
        found["sasl_oauth_token_provider"] = _TokenFile(Path(options["token_file"]))
    elif address.user:
        found["sasl_mechanism"] = address.choice("sasl", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        found["sasl_plain_username"] = address.user
        found["sasl_plain_password"] = address.password
    if "sasl_mechanism" in found:
        found["security_protocol"] = "SASL_SSL" if address.tls else "SASL_PLAINTEXT"
    return found


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
    heard: deque[Exception] = deque(maxlen=1)
    token = _heard.set(heard)
    try:
        async with asyncio.timeout(address.timeout):
            yield
    except DRIVER_ERRORS as error:
        reason = heard[0] if heard else error
        raise ConnectFailed(_why(address, reason)) from reason
    finally:
        _heard.reset(token)


def _why(address: Address, reason: Exception) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"the certificate of {address} is refused, {reason.verify_message}: correct it, or the URL's host or ca="
    if isinstance(reason, (AuthenticationFailedError, SaslAuthenticationFailed)):
        return f"{address} refuses the login: check the user, the password (or token) and sasl="
    if isinstance(reason, UnsupportedSaslMechanismError):
        return f"{address} knows another way to log in: {one_line(reason)}: set sasl="
    if isinstance(reason, TimeoutError):
        return f"{address} does not answer within {address.timeout:g} s: check that a broker runs there"
    return f"no connection to {address}, {one_line(reason)}: check that a broker runs there, and the URL"


async def start_producer(address: Address, **more: Any) -> AIOKafkaProducer:
    """A producer that is connected."""
    producer = AIOKafkaProducer(**settings(address), **more)
    # aiokafka gives a batch as long as a request. A request shall fail early, so that a half-open
    # connection is renewed; the batch shall then be sent again.
    producer._message_accumulator._batch_ttl = address.timeout
    try:
        await producer.start()
    except BaseException:
        await close(producer, 0)
        raise
    return producer


# --------------------------------------------------------------------------------- writing and reading


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
    return start + count


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


# --------------------------------------------------------------------------------------------- closing


async def close(client: AIOKafkaProducer | AIOKafkaConsumer, seconds: float) -> None:
    """Stop `client`; after `seconds`, or when this is cancelled, without waiting for a broker.

    A producer first gets out what was handed to it, a consumer leaves its group.
    """
    stopped = False
    try:
        async with asyncio.timeout(seconds):
            await client.stop()
            stopped = True
    except TimeoutError:
        pass
    finally:
        if not stopped:
            await _kill(client)


async def _kill(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """End the tasks and cut the connections of a client whose `stop` was interrupted."""
    if isinstance(client, AIOKafkaProducer):
        inner, parts = client.client, [client.client, client._sender]
    else:
        inner, parts = client._client, [client._client, client._coordinator, client._fetcher]
    found = [one for part in parts if part is not None for one in vars(part).values()]
    tasks = [one for one in found if isinstance(one, asyncio.Task)]
    tasks += [one for many in found if isinstance(many, set) for one in many if isinstance(one, asyncio.Task)]
    for _ in range(2):  # the first time, the producer's task goes on to wait for its requests
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=0.1)
    if isinstance(client, AIOKafkaProducer):
        client._message_accumulator.fail_all(KafkaTimeoutError("the producer was closed"))
    for connection in inner._conns.values():
        if connection._writer is not None:
            connection._writer.transport.abort()  # close() would wait until a broker has read the rest
    await inner.close()
