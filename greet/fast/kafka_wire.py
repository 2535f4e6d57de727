"""What goes over aiokafka's connections, with fewer copies of long messages; see the table in `greet.fast.kafka`.

Bundle      a batch of long bodies, which is made by one join
carry       has the connections of a client receive by `Frames`, and write batches without joining them to the rest
Frames      receives a broker's answers
checked     whether a batch that was fetched is what was sent
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache, partial
from time import monotonic
from typing import Any

from aiokafka.conn import CloseReason
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.protocol.types import Int16, Int32, String
from aiokafka.record.util import calc_crc32c, encode_varint
from aiokafka.util import wait_for

from greet.designs.kafka_settings import NoKafka
from greet.fast.kafka_bounds import LARGEST_ANSWER

try:
    import google_crc32c

    _by_processor = google_crc32c.implementation == "c"
except ImportError:
    _by_processor = False

LONG_BODY = 1024  # bytes of a message, on the average, from which on a batch is made by a join
ALONE = 32_768  # bytes of a batch, from which on it is worth a write of its own
RECORD_BYTES = 22  # of a record, besides its body, at most
KEPT = 8 * 2**20  # bytes of a buffer that is kept for the next answer
_FRONT = struct.Struct(">qiibI")  # offset, length, epoch of the leader, version, checksum of all that follows
_BACK = struct.Struct(">hiqqqhii")  # attributes, last offset, times, producer, its epoch and sequence, count
_LENGTH = 12  # where that begins to count


def crc32c(first: bytes, then: bytes = b"") -> int:
    """The checksum of a batch: by the processor ten times as fast as by aiokafka, which has it in C."""
    if _by_processor:
        return google_crc32c.extend(google_crc32c.value(first), then)  # type: ignore[no-any-return]
    return calc_crc32c(first + then)  # type: ignore[no-any-return]


@lru_cache(4096)
def _varint(number: int) -> bytes:
    found = bytearray()
    encode_varint(number, found.append)
    return bytes(found)


class Bundle:
    """A batch of `bodies`, as `BatchBuilder` makes it, without a copy of each and one of all of them."""

    def __init__(self, bodies: Sequence[bytes], milliseconds: int) -> None:
        self._count = len(bodies)
        self._records = b"".join(_records(bodies))
        self._time = milliseconds
        self._producer = (-1, -1, 0)
        self._built: tuple[bytes, bytes] | None = None

    def record_count(self) -> int:
        return self._count

    def size(self) -> int:
        return _FRONT.size + _BACK.size + len(self._records)

    def close(self) -> None:
        pass

    def closed(self) -> bool:
        return True

    def append(self, **message: Any) -> None:
        """None: nothing more goes in."""

    def _set_producer_state(self, number: int, epoch: int, sequence: int) -> None:
        self._producer = (number, epoch, sequence)

    def _build(self) -> tuple[bytes, bytes]:
        """Its two parts."""
        if self._built is None:
            back = _BACK.pack(0, self._count - 1, self._time, self._time, *self._producer, self._count)
            front = _FRONT.pack(0, self.size() - _LENGTH, -1, 2, crc32c(back, self._records))
            self._built = front + back, self._records
        return self._built


def _records(bodies: Sequence[bytes]) -> Iterator[bytes]:
    """What the records of a batch consist of: no attributes, key or headers, and the time of the batch."""
    for number, body in enumerate(bodies):
        head = b"\0\0" + _varint(number) + b"\1" + _varint(len(body))
        yield _varint(len(head) + len(body) + 1) + head
        yield body
        yield b"\0"


def checked(batch: Any, data: bytes, start: int) -> tuple[bool, int]:
    """Whether `batch`, which begins at `start` of `data`, is damaged; and where it ends."""
    end = start + _LENGTH + int.from_bytes(data[start + 8 : start + _LENGTH])
    if data[start + 16] < 2:  # of Kafka before 0.11
        return not batch.validate_crc(), end
    return crc32c(data[start + _FRONT.size : end]) != batch.crc, end


def carry(client: Any) -> None:
    """Have the connections that `client` will make receive by `Frames`, and send by `_send`."""
    connect = client._get_conn

    async def get(*arguments: Any, **more: Any) -> Any:
        connection = await connect(*arguments, **more)
        if connection is not None and "send" not in vars(connection):
            connection.send = partial(_send, connection, connection.send)
            if not connection._requests:  # else some of an answer may have come
                connection._read_task.cancel()
                connection._writer.transport.set_protocol(Frames(connection))
        return connection

    client._get_conn = get


def _send(
    connection: Any, send: Callable[..., Awaitable[Any]], request: Any, expect_response: bool = True
) -> Awaitable[Any]:
    """As `AIOKafkaConnection.send`, which copies a batch seven times."""
    if not isinstance(request, ProduceRequest):
        found: Awaitable[Any] = send(request, expect_response=expect_response)
        return found
    if connection._writer is None:
        raise KafkaConnectionError(f"no connection to {connection.host}:{connection.port}")
    asked = request.prepare(connection._versions)
    number = connection._next_correlation_id()
    header = asked.build_request_header(correlation_id=number, client_id=connection._client_id)
    text = String()
    parts = [
        header.encode(),
        text.encode(asked.transactional_id) + Int16.encode(asked.required_acks) + Int32.encode(asked.timeout),
        Int32.encode(len(asked.topics)),
    ]
    for topic, partitions in asked.topics:
        parts.append(text.encode(topic) + Int32.encode(len(partitions)))
        for partition, batch in partitions:
            pieces = batch if isinstance(batch, tuple) else (batch,)
            parts += [Int32.encode(partition) + Int32.encode(sum(map(len, pieces))), *pieces]
    parts.insert(0, Int32.encode(sum(map(len, parts))))
    for part in _joined(parts):
        connection._writer.write(part)
    if not expect_response:
        return _drained(connection, connection._writer)
    answer = asyncio.get_running_loop().create_future()
    connection._requests.append((number, asked, answer))
    answered: Awaitable[Any] = wait_for(answer, connection._request_timeout)
    return answered


class Lost(KafkaConnectionError):  # type: ignore[misc]
    """The connection was lost while a batch was written that gets no answer. It may have arrived."""

    retriable = False


async def _drained(connection: Any, writer: asyncio.StreamWriter) -> None:
    """Wait until there is room for more. aiokafka's sender would end by an error that is not Kafka's."""
    try:
        await writer.drain()
    except OSError as error:
        raise Lost(f"the connection to {connection.host}:{connection.port} was lost") from error


def _joined(parts: Sequence[bytes]) -> Iterator[bytes | memoryview]:
    """Short parts joined, each long one by itself, and so that a transport can keep its rest by one copy."""
    short: list[bytes] = []
    for part in parts:
        if len(part) < ALONE:
            short.append(part)
        else:
            yield b"".join(short)
            yield memoryview(part)
            short = []
    if short:
        yield b"".join(short)


class _Reader:
    """Reads a long answer by one copy; `io.BytesIO` makes two."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def read(self, count: int) -> bytes:
        self._place += count
        return bytes(self._data[self._place - count : self._place])


def _answered(connection: Any, answer: memoryview) -> bool:
    """As `AIOKafkaConnection._handle_frame`; False if that has to say what is wrong."""
    number, request, waiting = connection._requests[0]
    reader = _Reader(answer)
    if number is None or request.parse_response_header(reader).correlation_id != number:
        return False
    if not waiting.done():
        waiting.set_result(request.RESPONSE_TYPE.decode(reader))
    connection._last_action = monotonic()
    connection._requests.popleft()
    return True


class Frames(asyncio.BufferedProtocol):
    """Receives a broker's answers: by a `StreamReader` each byte of a long one would be copied twice more."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._before = connection._protocol  # it goes on to tell who writes or closes
        self._buffer = bytearray(65_536)
        self._filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        start, filled, view = 0, self._filled, memoryview(self._buffer)
        need = 4
        while filled - start >= 4:
            size = int.from_bytes(view[start : start + 4], signed=True)
            if not 0 <= size <= LARGEST_ANSWER:
                self._end(NoKafka(f"an answer of {size:,} bytes"))
                return
            end = start + 4 + size
            if end > filled:
                need = end - start
                break
            if not self._hand_on(view[start + 4 : end]):
                return
            start = end
        rest = bytes(view[start:filled]) if start or need > len(self._buffer) else b""
        if need > len(self._buffer) or len(self._buffer) > KEPT >= need:
            self._buffer = bytearray(max(need, 65_536))
        if rest:
            self._buffer[: len(rest)] = rest
        self._filled = filled - start

    def _hand_on(self, answer: memoryview) -> bool:
        """Give an answer to the call that waits for it; False if the connection is closed."""
        connection = self._connection
        if connection._reader is None:
            return False
        try:
            if len(answer) < ALONE or not _answered(connection, answer):
                connection._handle_frame(answer)
        except Exception as error:  # noqa: BLE001 - as aiokafka does with an answer that it cannot read
            connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
        return connection._reader is not None

    def eof_received(self) -> bool | None:
        self._end(asyncio.IncompleteReadError(b"", 4))
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        self._before.connection_lost(exc)

    def _end(self, error: Exception | None) -> None:
        self._connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)

    def pause_writing(self) -> None:
        self._before.pause_writing()

    def resume_writing(self) -> None:
        self._before.resume_writing()
