"""What is asked of Kafka besides carrying names: start a client, create a topic, and say which offsets of a group are
committed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    KafkaError,
    NodeNotReadyError,
    NoError,
    NotControllerError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from greet.address import Address
from greet.designs.kafka_settings import RETRY_SECONDS, settings
from greet.tasks import beside, patiently

stopping = set[asyncio.Task[None]]()  # clients whose broker did not answer in time


async def make_topic(
    address: Address,
    topic: str,
    partitions: int,
    replicas: int,
    config: dict[str, str] | None = None,
    *,
    only_look: bool = False,
) -> int:
    """Create `topic` if it does not exist, wait until its partitions have leaders, and count them.

    With -1 it gets as many replicas as the broker gives by default. With `only_look` it is not
    created; the broker only checks whether it could be.
    """
    async with admin_of(address) as admin:
        if topic not in await admin.list_topics():
            # aiokafka accepts -1 only with an (empty) assignment of replicas.
            new = NewTopic(topic, partitions, replicas, {} if replicas < 0 else None, config)
            try:
                answer = await admin.create_topics([new], validate_only=only_look)
            except AttributeError as missing:  # aiokafka 0.14 raises this if the cluster has no controller for now
                raise NodeNotReadyError(str(missing)) from missing
            _, code, message = answer.topic_errors[0]
            if code == NotControllerError.errno or "All brokers are currently fenced" in (message or ""):
                raise NodeNotReadyError(message)
            if for_code(code) not in (NoError, TopicAlreadyExistsError):
                raise for_code(code)(message)
            if only_look and code == NoError.errno:
                return partitions
        while True:
            (found,) = await admin.describe_topics([topic])
            error = for_code(found["error_code"])()
            if found["partitions"] and all(one["leader"] >= 0 for one in found["partitions"]):
                return len(found["partitions"])
            if not (isinstance(error, NoError) or error.retriable):
                raise error
            await asyncio.sleep(0.02)


@asynccontextmanager
async def admin_of(address: Address) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client that is started, and is closed in the end."""
    admin = AIOKafkaAdminClient(**settings(address))
    try:
        await start(admin)
        yield admin
    finally:  # over TLS it waits until the broker closes too: that goes on in the background
        await asyncio.wait([beside(admin.close(), stopping)], timeout=RETRY_SECONDS)


async def start(client: AIOKafkaAdminClient | AIOKafkaConsumer | AIOKafkaProducer) -> None:
    """Start `client`. If the caller is cancelled, this first waits a moment longer, so that closing it closes all.

    If aiokafka 0.14 is cancelled while its first connection asks for the brokers, it forgets that connection: it
    stays open until the garbage collector comes.
    """
    await patiently(client.start(), RETRY_SECONDS)


async def committed(address: Address, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
    """The committed offset of `group` in each of `partitions`, or -1. Waits until the broker knows it.

    After a restart, a broker first loads the groups. Until then its answer is an error, without any
    partition. aiokafka 0.14 ignores that error: then `consumer.committed` says that nothing is
    committed, and the group would start again. The admin client leaves the partitions out.
    """
    while True:
        try:
            async with admin_of(address) as admin:
                found = await admin.list_consumer_group_offsets(group, partitions=list(partitions))
            if found.keys() >= set(partitions):
                return {one: found[one].offset for one in partitions}
        except NoError:  # aiokafka 0.14 raises this for an error of one partition: the user lacks the right to see it
            raise TopicAuthorizationFailedError from None
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(RETRY_SECONDS)


async def eager() -> bool:
    """Whether a new task runs before `create_task` returns, as with `asyncio.eager_task_factory`."""

    async def nothing() -> None: ...

    probe = asyncio.create_task(nothing())
    began = probe.done()
    await probe
    return began
