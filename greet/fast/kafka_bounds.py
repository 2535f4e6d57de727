"""A bound on what a broker of Kafka may send: aiokafka reads an answer as long as it is said to be, up to 2 GB.

Only clients of greet are bounded, which are known by their `client_id`. The plain way has no bound but the
deadline of a request. What this uses of aiokafka that is private:

    name                                  why                                 what would break
    ------------------------------------  ----------------------------------  --------------------------------------
    AIOKafkaConnection._reader            where an answer's length is         the bound
      ._create_reader_task, ._client_id     looked at before it is read
"""

from __future__ import annotations

import asyncio

from aiokafka.conn import AIOKafkaConnection

from greet.designs.kafka import LARGEST_BODY
from greet.designs.kafka_settings import CLIENT, NoKafka

LARGEST_ANSWER = 2 * LARGEST_BODY
"""In bytes: more than a fetch of the largest message that greet writes."""

_create_reader_task = AIOKafkaConnection._create_reader_task


def _bounded(connection: AIOKafkaConnection) -> asyncio.Task[None]:
    if connection._client_id.startswith(CLIENT):
        reader = connection._reader
        read = reader.readexactly

        async def readexactly(size: int) -> bytes:
            if not 0 <= size <= LARGEST_ANSWER:
                raise NoKafka(f"an answer of {size:,} bytes")
            return await read(size)  # type: ignore[no-any-return]

        reader.readexactly = readexactly
    return _create_reader_task(connection)  # type: ignore[no-any-return]


def bound() -> None:
    """Bound what greet's clients read from now on."""
    AIOKafkaConnection._create_reader_task = _bounded
