"""A bound on what a broker of Kafka may send: aiokafka reads an answer as long as it is said to be, up to 2 GB.

A list costs it 0.5 s, in which the event loop is blocked, and 15 MB of memory for each MB. Importing this bounds
greet's clients, known by their `client_id`; the plain way is not bound. What it uses of aiokafka that is private:

    name                                  why                                 what would break
    ------------------------------------  ----------------------------------  --------------------------------------
    AIOKafkaConnection._reader            where an answer's length is         the bound
      ._create_reader_task, ._client_id     looked at before it is read
"""

from __future__ import annotations

import asyncio

from aiokafka.conn import AIOKafkaConnection

from greet.designs.kafka_dead import LARGEST_BODY
from greet.designs.kafka_settings import CLIENT, NoKafka

FIRST_ANSWER = 65_536
"""In bytes: a hundred times the list of the calls that a broker knows, which it sends first."""
LARGEST_ANSWER = 2 * LARGEST_BODY
"""In bytes: more than a fetch of the largest message that greet writes."""

_create_reader_task = AIOKafkaConnection._create_reader_task


def _bounded(connection: AIOKafkaConnection) -> asyncio.Task[None]:
    if connection._client_id.startswith(CLIENT):
        reader = connection._reader
        read, most = reader.readexactly, FIRST_ANSWER

        async def readexactly(size: int) -> bytes:
            nonlocal most
            if not 0 <= size <= most:
                raise NoKafka(f"an answer of {size:,} bytes")
            if size != 4:  # that many bytes have its length
                most = LARGEST_ANSWER
            return await read(size)  # type: ignore[no-any-return]

        reader.readexactly = readexactly
    return _create_reader_task(connection)  # type: ignore[no-any-return]


AIOKafkaConnection._create_reader_task = _bounded
