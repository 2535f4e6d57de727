"""The settings that every client of aiokafka gets (addresses, time-outs, TLS, SASL), and its errors.

settings   the arguments of every client, from a URL
words      the message for an error: what is wrong, where, and what to do
trouble    raises aiokafka's errors and a missed deadline as one of greet's errors
insist     repeats a call while a node of the cluster is down, or a broker has just started
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import math
import re
import socket
import ssl
import time
import warnings
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cramjam
from aiokafka import errors as kafka
from aiokafka.abc import AbstractTokenProvider
from aiokafka.record import default_records

from greet.address import Address
from greet.errors import BadURL, ConnectFailed, GreetError, Unsupported, one_line

T = TypeVar("T")
UNPACKING = (cramjam.DecompressionError, zlib.error, gzip.BadGzipFile)
DRIVER_ERRORS = (
    kafka.KafkaError,
    kafka.ConsumerStoppedError,
    kafka.IllegalOperation,
    OSError,
    ValueError,
    AssertionError,
    *UNPACKING,
)
"""All that aiokafka raises, intended or not. A time-out is an OSError."""
AWAY = (ConnectionError, TimeoutError, kafka.KafkaConnectionError, kafka.KafkaTimeoutError)
"""Raised when the broker that was asked is down."""
SLOW = (TimeoutError, kafka.KafkaTimeoutError, kafka.RequestTimedOutError)
"""Raised when the broker that was asked has not answered in the time of a request."""
NOBODY = (kafka.NodeNotReadyError, kafka.StaleMetadata)
"""Raised when a broker's answer lists no brokers: it was silent, and has not rejoined the cluster yet."""
UNREADABLE = (kafka.UnsupportedCodecError, kafka.CorruptRecordException, UnicodeDecodeError, *UNPACKING)
"""Raised for messages that came and cannot be decompressed, or have a header whose key is not UTF-8."""
CLIENT = "greet-"
"""The prefix of the `client_id` of each client."""
RETRY_SECONDS = 0.1
QUIET_SECONDS = 10.0

if not default_records.DefaultRecordBatch.__module__.startswith("aiokafka.record._crecords"):
    warnings.warn(
        "aiokafka runs without its C extensions, some 13 times slower: reinstall it from a wheel,"
        " and leave AIOKAFKA_NO_EXTENSIONS unset",
        RuntimeWarning,
        stacklevel=2,
    )


# ------------------------------------------------------------------------------------------ arguments


def settings(address: Address) -> dict[str, Any]:
    """The arguments of every client of aiokafka. Within a deadline, some requests can time out and be repeated."""
    options = address.options
    found: dict[str, Any] = {
        "bootstrap_servers": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts],
        "request_timeout_ms": max(500, int(address.timeout * 250)),  # a fetch may wait 150 ms for names
        # Kafka sorts the members of a group by this when it assigns partitions: older members keep the first ones.
        "client_id": f"{CLIENT}{time.time_ns()}",
        "metadata_max_age_ms": 3000,  # an added partition is noticed within this time
        "security_protocol": "SSL" if address.tls else "PLAINTEXT",
    }
    if address.tls:
        found["ssl_context"] = address.tls_context()
    if mechanism := login(address):
        found["security_protocol"] = "SASL_SSL" if address.tls else "SASL_PLAINTEXT"
        found["sasl_mechanism"] = mechanism
        found["sasl_plain_username"] = address.user
        found["sasl_plain_password"] = address.password
        if mechanism == "OAUTHBEARER":
            found["sasl_oauth_token_provider"] = _TokenFile(Path(options["token_file"]))
    return found


def login(address: Address) -> str:
    """The SASL mechanism; empty without a login. Raises `BadURL` if the URL's keys do not fit together."""
    if "token_file" in address.options:
        return address.choice("sasl", "OAUTHBEARER")
    if address.user:
        return address.choice("sasl", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
    if "sasl" in address.options:
        raise BadURL("sasl= in the URL needs a user and a password, or a token_file=")
    return ""


def codec(address: Address) -> str | None:
    """The compression of batches."""
    name = address.choice("compression", "none", "gzip", "snappy", "lz4", "zstd")
    return None if name == "none" else name


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the token for each login, so to renew it, write a new one to the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        """The token for the broker."""
        return (await asyncio.to_thread(self._path.read_text)).strip()


# ---------------------------------------------------------------------------------- what aiokafka logs


@dataclass
class _Log:
    """What one call of the driver has logged."""

    reason: Exception | None = None
    """The last exception that says why something failed."""
    said: dict[str, float] = field(default_factory=dict)


_log: ContextVar[_Log | None] = ContextVar("_log", default=None)  # aiokafka's tasks inherit it


def _listen(record: logging.LogRecord) -> bool:
    """Whether a log record of aiokafka is passed on to the application's log.

    - The request with the password or token is not: at level DEBUG aiokafka logs it too.
    - The same warning of greet's own clients is passed on once in ten seconds. During an outage they
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
# Without this, Python prints warnings to standard error if no logging is configured. Errors are raised anyway.
logging.getLogger("aiokafka").addHandler(logging.NullHandler())


# ------------------------------------------------------------------------------------- what went wrong


def _answer(number: int, name: str) -> type[Exception]:
    """An error code of Kafka that aiokafka 0.14 does not know: without this it is an `UnknownError` with code -1."""
    kind: type[Exception] = type(name, (kafka.UnknownError,), {"errno": number})
    return kafka.kafka_errors.setdefault(number, kind)  # type: ignore[no-any-return]


InvalidRecord = _answer(87, "InvalidRecord")
UnsupportedCompression = _answer(76, "UnsupportedCompression")
GroupMaxSizeReached = _answer(81, "GroupMaxSizeReached")
ThrottlingQuotaExceeded = _answer(89, "ThrottlingQuotaExceeded")


class NoKafka(ConnectionError):
    """The answer is not one of Kafka."""


class SilentCoordinator(kafka.KafkaError):  # type: ignore[misc]
    """The broker answers, but not for this group."""


_WORDS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    # No connection, or an unusable one.
    ((ssl.SSLCertVerificationError,), "the certificate of {address} is refused: correct it, or the URL's host or ca="),
    ((FileNotFoundError, PermissionError), "a file cannot be read: correct ca=, cert=, key= or token_file="),
    (
        (kafka.AuthenticationFailedError, kafka.SaslAuthenticationFailed),
        "{address} refuses the login: correct user and password, or the token, or sasl=",
    ),
    ((kafka.UnsupportedSaslMechanismError,), "{address} does not offer this SASL mechanism: correct sasl="),
    ((kafka.IllegalSaslStateError,), "{address} does not accept a login: leave user and password out"),
    (
        (ConnectionRefusedError, kafka.NoBrokersAvailable, kafka.KafkaUnavailableError),
        "no connection to {address}: check that a broker runs there",
    ),
    ((NoKafka, kafka.CorrelationIdError), "what answers at {address} is not Kafka: check host and port"),
    ((socket.gaierror,), "the host name is unknown: correct {address}"),
    ((SilentCoordinator,), "{address} answers, but not for {group}: restart the broker that coordinates this group"),
    (
        (
            kafka.GroupCoordinatorNotAvailableError,
            kafka.NotCoordinatorForGroupError,
            kafka.GroupLoadInProgressError,
        ),
        "{address} has no coordinator ready for {group}: wait; if that does not help, restart the broker",
    ),
    # Missing rights.
    ((kafka.TopicAuthorizationFailedError,), "{user} may not {verb} topic {topic} at {address}: grant {right} on it"),
    (
        (kafka.GroupAuthorizationFailedError,),
        "{user} may not read as {group} at {address}: grant READ and DESCRIBE on that group",
    ),
    (
        (kafka.ClusterAuthorizationFailedError, kafka.TransactionalIdAuthorizationFailed),
        "{user} may not publish as DURABLE at {address}: grant WRITE on topic {topic}, or IDEMPOTENT_WRITE",
    ),
    ((kafka.SecurityDisabled,), "security is disabled at {address}: leave the login out"),
    # Topics.
    (
        (kafka.InvalidPartitionsError, kafka.InvalidReplicationFactorError, kafka.InvalidReplicationAssignmentError),
        "{address} cannot create topic {topic} with these settings: correct partitions= or replication=",
    ),
    (
        (kafka.InvalidTopicError,),
        "{address} refuses the name of topic {topic}: Kafka takes a.b and a_b for the same; use another name",
    ),
    ((kafka.PolicyViolationError,), "a policy of {address} forbids these settings of topic {topic}: create it by hand"),
    ((kafka.InvalidConfigurationError,), "{address} refuses the settings of topic {topic}: create it by hand"),
    ((ThrottlingQuotaExceeded,), "{address} creates no more topics for {user} now: wait, or raise the quota"),
    (
        (kafka.UnknownTopicOrPartitionError,),
        "topic {topic} does not exist at {address}: create it, and connect again",
    ),
    # Publishing.
    (
        (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError, kafka.RecordTooLargeError),
        "TooLarge for topic {topic}: raise its max.message.bytes",
    ),
    (
        (InvalidRecord,),
        "topic {topic} refuses the message: if compacted, it needs a key, so use one with cleanup.policy=delete",
    ),
    ((kafka.InvalidTimestampError,), "topic {topic} refuses the time of this machine: set its clock"),
    ((UnsupportedCompression,), "topic {topic} refuses this codec: correct compression="),
    (
        (kafka.NotEnoughReplicasError, kafka.NotEnoughReplicasAfterAppendError),
        "topic {topic} has too few replicas in sync: start the brokers that are down",
    ),
    ((kafka.InvalidRequiredAcksError,), "{address} does not know this kind of acknowledgement: use Kafka 2.1 or later"),
    (
        (kafka.OutOfOrderSequenceNumber, kafka.UnknownProducerId, kafka.ProducerFenced, kafka.InvalidProducerEpoch),
        "{address} has lost the sequence of this producer: read topic {topic} to see which names it has",
    ),
    ((kafka.KafkaStorageError, kafka.LogDirNotFound), "a disk of {address} fails: repair it"),
    (
        (kafka.LeaderNotAvailableError, kafka.NotLeaderForPartitionError, kafka.ReplicaNotAvailableError),
        "a partition of topic {topic} has no leader: start the brokers that are down",
    ),
    # Reading.
    (
        (kafka.UnsupportedCodecError,),
        "messages of topic {topic} have a codec that cannot be read here: pip install cramjam",
    ),
    (
        (UnicodeDecodeError,),
        "topic {topic} has a header that is not UTF-8: kafka-consumer-groups.sh --reset-offsets moves {group} past it",
    ),
    (
        (kafka.CorruptRecordException, *UNPACKING),
        "topic {topic} has damaged messages: move {group} past them with kafka-consumer-groups.sh --reset-offsets",
    ),
    (
        (kafka.OffsetMetadataTooLargeError, kafka.InvalidCommitOffsetSizeError),
        "{address} refuses the offsets of {group}: raise its offset.metadata.max.bytes",
    ),
    (
        (kafka.InvalidSessionTimeoutError,),
        "{address} refuses a session of 6 s: set its group.min.session.timeout.ms to 6000 or less",
    ),
    ((GroupMaxSizeReached,), "{group} has as many members as {address} allows: raise group.max.size"),
    (
        (kafka.InconsistentGroupProtocolError,),
        "{group} has members of another client library: use another name for this group",
    ),
    ((kafka.InvalidGroupIdError,), "{address} refuses the name of {group}: use another one"),
    (
        (kafka.CommitFailedError, kafka.UnknownMemberIdError, kafka.IllegalGenerationError),
        "{group} has removed this member, because its handler kept it from answering",
    ),
    # Versions, and the rest.
    (
        (kafka.UnsupportedVersionError, kafka.IncompatibleBrokerVersion, kafka.UnrecognizedBrokerVersion),
        "{address} is too old for aiokafka: use Kafka 2.1 or later",
    ),
    ((TimeoutError, kafka.RequestTimedOutError), "{address} has not answered in time"),
    (
        (EOFError, ConnectionResetError, kafka.KafkaConnectionError, *NOBODY),
        "{address} closed the connection{advice}",
    ),
)
_RIGHTS = {
    "create": "CREATE, or DESCRIBE if it exists,",
    "write": "WRITE and DESCRIBE",
    "read": "READ and DESCRIBE",
}


def words(
    error: BaseException,
    address: Address,
    topic: str,
    *,
    group: str = "the group",
    verb: str = "write",
    entering: bool = False,
) -> str:
    """The message for an error: what is wrong, where, and what to do. Only who is `entering` may have a wrong login."""
    user = f"user {address.user}" if address.user else "an anonymous user"
    known = {"address": address, "topic": topic, "group": group, "verb": verb, "right": _RIGHTS[verb], "user": user}
    known["advice"] = ": correct the scheme, or the login (user and password, sasl=, token_file=)" if entering else ""
    error = _named(error)
    for kinds, text in _WORDS:
        if isinstance(error, kinds):
            detail = getattr(error, "verify_message", "") or (str(error) if isinstance(error, OSError) else "")
            if isinstance(error, kafka.InvalidPartitionsError | kafka.PolicyViolationError | kafka.InvalidTopicError):
                detail = ", ".join(map(str, error.args))
            return text.format(**known) + (f" ({detail})" if detail else "")
    return f"{address} refuses: {one_line(error)}"


def _named(error: BaseException) -> BaseException:
    """The error inside: aiokafka wraps some answers in a `KafkaError` that only has their name, and wraps `NoKafka`."""
    if isinstance(error.__cause__, NoKafka):
        return error.__cause__
    cause = error.__cause__  # of the first error; the others of the same batch have none
    if "Unexpected error during batch" in str(error) and (cause is None or isinstance(cause, OSError)):
        return kafka.KafkaConnectionError()  # type: ignore[no-any-return] # a batch that gets no answer was written
    if type(error) is kafka.KafkaError and (found := re.search(r"(\w+)\(", str(error))):
        for kind in kafka.kafka_errors.values():
            if kind.__name__ == found[1]:
                return kind()  # type: ignore[no-any-return]
    return error


@asynccontextmanager
async def trouble(
    ours: type[GreetError], deadline: float, address: Address, topic: str, *, what: str = "", **more: str
) -> AsyncIterator[None]:
    """Raise `ours`, with the real reason, for errors of the driver and a missed deadline.

    Messages that cannot be decompressed raise `Unsupported` instead: the connection is not lost.
    """
    log = _Log()
    token = _log.set(log)
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except GreetError:
        raise
    except DRIVER_ERRORS as error:
        reason = _reason(error) if ours is ConnectFailed else error  # only connecting can have a logged reason
        kind = Unsupported if isinstance(reason, UNREADABLE) else ours
        raise kind(what + words(reason, address, topic, entering=ours is ConnectFailed, **more)) from reason
    finally:
        _log.reset(token)


async def insist(address: Address, attempt: Callable[[], Awaitable[T]], passing: tuple[type[Exception], ...] = ()) -> T:
    """The result of `attempt`. While it raises `passing`, it is repeated, until the caller's deadline.

    A request ends earlier than the caller does, so a time-out passes. With a cluster, errors of a node that is
    down pass too: the other nodes list it for some seconds more, and aiokafka asks it as well. An answer that lists
    no brokers passes too, unless there is a token: aiokafka raises the same for a token that has expired.
    """
    passing += SLOW
    if "token_file" not in address.options:
        passing += NOBODY
    if len(address.hosts) > 1:
        passing += NOBODY + AWAY
    log = _log.get() or _Log()
    while True:
        before = log.reason
        try:
            return await attempt()
        except DRIVER_ERRORS as error:
            if log.reason is before:
                log.reason = None  # that of an earlier attempt
            if not isinstance(_reason(error), passing):
                raise
        await asyncio.sleep(RETRY_SECONDS)


def _reason(error: Exception) -> Exception:
    """The exception that aiokafka logged before it raised `error`. The answer of a broker is preferred to it."""
    log = _log.get()
    if log is None or log.reason is None or (isinstance(error, kafka.BrokerResponseError) and not error.retriable):
        return error
    return log.reason
