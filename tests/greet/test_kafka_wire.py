"""Long messages over Kafka's connections: what is written and read by hand is what aiokafka writes and reads."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c

from greet.designs.kafka_settings import CLIENT, NoKafka
from greet.fast import kafka_bounds, kafka_wire
from greet.fast.kafka_wire import RECORD_BYTES, Bundle, Frames, Lost, checked

BODIES = [b"Ada", b"x" * 65_536, b"", *[b"y" * 300] * 9_000]


def test_a_batch_is_made_as_aiokafka_makes_it() -> None:
    theirs = DefaultRecordBatchBuilder(2, 0, 0, 7, 1, 5, 10_000_000)
    for number, body in enumerate(BODIES):
        theirs.append(number, 1_700_000_000_000, None, body, [])
    ours = Bundle(BODIES, 1_700_000_000_000)
    ours._set_producer_state(7, 1, 5)
    made = b"".join(ours._build())
    assert made == bytes(theirs.build())
    assert ours.size() == len(made) <= 61 + sum(map(len, BODIES)) + RECORD_BYTES * len(BODIES)
    assert (ours.record_count(), ours.closed()) == (len(BODIES), True)


@pytest.mark.parametrize("by_processor", [True, False])
def test_the_checksum_is_the_same_with_and_without_the_processor(
    monkeypatch: pytest.MonkeyPatch, *, by_processor: bool
) -> None:
    monkeypatch.setattr(kafka_wire, "_by_processor", by_processor)
    assert kafka_wire.crc32c(b"Ada", b"Bob") == kafka_wire.crc32c(b"AdaBob") == calc_crc32c(b"AdaBob")


@pytest.mark.parametrize("broken", [None, 0, 1])
def test_a_damaged_batch_is_noticed(broken: int | None) -> None:
    data = bytearray(b"".join(b"".join(Bundle([name * 2000], 0)._build()) for name in (b"Ada", b"Bob")))
    half = len(data) // 2
    if broken is not None:
        data[broken * half + 1000] ^= 1
    records, place, found = MemoryRecords(bytes(data)), 0, []
    while records.has_next():
        wrong, place = checked(records.next_batch(), bytes(data), place)
        found.append(wrong)
    assert place == len(data)
    assert found == [broken == 0, broken == 1]


class _Connection:
    """So much of aiokafka's as `Frames` uses."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.closed: list[Any] = []
        self._reader: Any = object()
        self._protocol = SimpleNamespace(connection_lost=self.closed.append)
        self._last_action = 0.0
        self._requests = deque[Any]()

    def _handle_frame(self, answer: memoryview) -> None:
        if bytes(answer) == b"nonsense":
            raise ValueError(bytes(answer))
        self.got.append(bytes(answer))
        self._requests.popleft()

    def close(self, reason: Any, exc: Any) -> None:
        self._reader = None
        self.closed.append(exc)


def _receive(frames: Frames, data: bytes, piece: int) -> None:
    start = 0
    while start < len(data):
        buffer = frames.get_buffer(-1)
        count = min(piece, len(buffer), len(data) - start)
        assert count
        buffer[:count] = data[start : start + count]
        frames.buffer_updated(count)
        start += count


@pytest.mark.parametrize("piece", [1, 3, 1000, 70_000, 10**9])
async def test_answers_come_whole_however_they_are_cut(piece: int) -> None:
    loop = asyncio.get_running_loop()
    long_one = b"y" * (9_000_000 if piece > 3 else 70_000)
    bodies = [b"", b"Ada", b"x" * 20_000, long_one, b"Bob"] * 2
    connection = _Connection()
    asked = SimpleNamespace(
        parse_response_header=lambda reader: SimpleNamespace(correlation_id=int.from_bytes(reader.read(4))),
        RESPONSE_TYPE=SimpleNamespace(decode=lambda reader: reader.read(10**9)),
    )
    waiting = [loop.create_future() for _ in bodies]
    connection._requests.extend((number, asked, one) for number, one in enumerate(waiting))
    frames = Frames(connection)
    answers = [number.to_bytes(4) + body for number, body in enumerate(bodies)]
    _receive(frames, b"".join(len(one).to_bytes(4) + one for one in answers), piece)
    by_hand = [one.result() for one in waiting if one.done()]
    assert connection.got == [one for one in answers if len(one) < kafka_wire.ALONE]
    assert by_hand == [one for one in bodies if len(one) >= kafka_wire.ALONE]
    assert len(frames._buffer) <= kafka_wire.KEPT


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"HTTP"])
async def test_an_answer_that_is_too_long_closes_the_connection(size: bytes) -> None:
    connection = _Connection()
    _receive(Frames(connection), size, 100)
    assert [type(one) for one in connection.closed] == [NoKafka]


async def test_only_the_first_answer_must_be_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list of all topics may be long, and the client that asks for it does not receive by `Frames`."""
    monkeypatch.setattr(kafka_bounds, "_create_reader_task", lambda _: None)
    connection: Any = SimpleNamespace(_client_id=CLIENT, _reader=asyncio.StreamReader())
    kafka_bounds._bounded(connection)
    for size in (4, kafka_bounds.FIRST_ANSWER, 4, kafka_bounds.FIRST_ANSWER + 1):
        connection._reader.feed_data(bytes(size))
        assert len(await connection._reader.readexactly(size)) == size


async def test_an_answer_that_cannot_be_read_closes_the_connection_and_so_does_its_end() -> None:
    connection = _Connection()
    _receive(Frames(connection), b"\0\0\0\x08nonsense" * 2, 100)
    assert [type(one) for one in connection.closed] == [ValueError]
    connection = _Connection()
    frames = Frames(connection)
    assert not frames.eof_received()
    frames.connection_lost(None)
    assert [type(one) for one in connection.closed[:1]] == [asyncio.IncompleteReadError]


async def test_a_connection_that_is_lost_while_something_is_written_without_an_answer_is_an_error_of_kafka() -> None:
    """Else aiokafka's sender would end by it. It is not retriable: with AT_MOST_ONCE nothing may come twice."""

    class Writer:
        async def drain(self) -> None:
            raise ConnectionResetError("Connection lost")

    connection = SimpleNamespace(host="h", port=9092)
    with pytest.raises(Lost, match="the connection to h:9092 was lost") as raised:
        await kafka_wire._drained(connection, Writer())  # type: ignore[arg-type]
    assert not raised.value.retriable
