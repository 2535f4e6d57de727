"""What a run has made on a broker that stays: its topics, queues and groups, and their removal; no contender."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError, for_code
from aiormq.exceptions import ConnectionInternalError

from bench.contenders import access
from bench.contenders.kafka_look import asked
from bench.contenders.rabbitmq_peers import connected
from greet.designs import KAFKA, RABBITMQ, Product, named

DEADLINE_S = 60.0
LEAVING_S = 20.0
"""How long is waited for groups whose members or coordinator were killed."""
LATER = (
    "NON_EMPTY_GROUP",  # a member that was killed counts as alive until its session ends
    *("COORDINATOR_NOT_AVAILABLE", "COORDINATOR_LOAD_IN_PROGRESS", "NOT_COORDINATOR", "_TIMED_OUT"),
)
"""What of a group may pass."""
LOOK_S = 0.2
ANSWER_S, SHORT_S = 30, 5
CHANNELS = 32
"""So many queues of RabbitMQ are deleted at a time: one of a quorum takes seconds while a member is gone."""
Made = Mapping[str, Iterable[str]]
"""The groups of each topic."""
log = logging.getLogger("bench")


class GroupsLeft(Exception):
    """The topics are gone, and some groups are not."""


async def remove(design: str, url: str, made: Made) -> None:
    """Delete what was made on the broker at `url`; says on standard error what is left behind, and why."""
    if not made:
        return
    topics = f"the topics {min(made)} to {max(made)} and their groups"
    if len(made) == 1:
        topics = f"the topic {min(made)} and its groups"
    try:
        await removed(design, url, made)
    except asyncio.CancelledError:
        log.warning("left on %s: %s: interrupted", design, topics)
        raise
    except GroupsLeft as left:
        log.warning("left on %s: %s", design, left)
    except Exception as error:  # noqa: BLE001, of whatever a driver raises: the run is over, and its figures are kept
        # Of the error only its name: its text may hold the URL.
        log.warning("left on %s: %s: %s", design, topics, type(error).__name__)


async def removed(design: str, url: str, made: Made) -> None:
    """Delete it.

    Raises:
        GroupsLeft: the members of some groups are gone, and Kafka takes them for alive; or nobody answers for them.
        Exception: whatever the driver raises.
    """
    record = named(design)
    async with asyncio.timeout(DEADLINE_S):
        await REMOVERS[record.product](url, made, record.made)


def _names(topic: str, groups: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """What a design has made for a topic and its groups."""
    return {one.format(topic=topic, group=group) for one in patterns for group in groups}


async def _of_rabbitmq(url: str, made: Made, patterns: Iterable[str]) -> None:
    """Exchanges, queues of groups, and dead letters; RabbitMQ takes it that one is not there."""
    doomed = {queue for topic, groups in made.items() for queue in (*_names(topic, groups, patterns), f"{topic}.dead")}
    while not await _deleted(url, doomed, made):  # noqa: ASYNC110, the broker is asked
        await asyncio.sleep(LOOK_S)


async def _deleted(url: str, doomed: set[str], exchanges: Iterable[str]) -> bool:
    """Delete the queues `doomed`, then the exchanges; False if who coordinates the streams was killed just now."""
    connection = await connected(url)

    async def delete() -> None:
        channel = await connection.channel()
        while doomed:
            queue = doomed.pop()  # no other channel has it then
            try:
                await channel.queue_delete(queue)
            except BaseException:
                doomed.add(queue)
                raise

    try:
        found = await asyncio.gather(*(delete() for _ in range(CHANNELS)), return_exceptions=True)
        errors = [one for one in found if one is not None]
        if any(isinstance(one, ConnectionInternalError) for one in errors):
            return False
        if errors:
            raise errors[0]
        channel = await connection.channel()
        for exchange in exchanges:
            await channel.exchange_delete(exchange)
        return True
    finally:
        await connection.close()


async def _of_kafka(url: str, made: Made, patterns: Iterable[str]) -> None:
    """Topics, until none of them is there or comes back; and groups, where confluent-kafka is there.

    Without it a broker removes a group some time after its topic.
    """
    mine = {name for topic in made for name in (topic, f"{topic}.dead")}
    while await asked(partial(_delete_topics, url, mine)):  # noqa: ASYNC110, the broker is asked
        await asyncio.sleep(LOOK_S)
    if find_spec("confluent_kafka"):
        await _delete_groups(url, {name for topic, groups in made.items() for name in _names(topic, groups, patterns)})


async def _delete_topics(url: str, mine: set[str]) -> bool:
    """Have those that are there deleted; False if there is none. Each time a new client learns who is there."""
    admin = AIOKafkaAdminClient(**access.aiokafka(url))
    try:
        await admin.start()
        doomed = sorted(mine.intersection(await admin.list_topics()))
        if not doomed:
            return False
        answer = await admin.delete_topics(doomed, timeout_ms=1000 * ANSWER_S)
        for topic, code in answer.topic_error_codes:
            if code and for_code(code) is not UnknownTopicOrPartitionError:
                raise for_code(code)(topic)
        return True
    finally:
        await admin.close()


async def _delete_groups(url: str, doomed: set[str]) -> None:
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415, an extra

    loop = asyncio.get_running_loop()
    until = loop.time() + LEAVING_S
    while doomed:
        errors = await asyncio.to_thread(_errors, url, sorted(doomed))
        doomed = {group for group, error in errors.items() if error.name() in LATER}
        for group, error in errors.items():
            if group not in doomed and error.code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise KafkaException(error)
        if doomed:
            if loop.time() > until:
                one = min(doomed)
                raise GroupsLeft(f"{len(doomed)} groups, such as {one}: {errors[one].str()}")
            await asyncio.sleep(LOOK_S)


def _errors(url: str, groups: list[str]) -> dict[str, Any]:
    """Of each group that is not deleted, why. A client asks the same coordinator again, also if it is gone: a new one.

    Nothing is raised here: a traceback would keep the client until some thread collects it, and where that is one of
    the driver's own, the driver aborts the process.
    """
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415, an extra

    admin = AdminClient(access.confluent(url))  # it answers only as long as it is kept
    asked = admin.delete_consumer_groups(groups, request_timeout=SHORT_S)
    answers = {group: deleted.exception(ANSWER_S) for group, deleted in asked.items()}
    return {group: error.args[0] for group, error in answers.items() if error}


Remove = Callable[[str, Made, Iterable[str]], Awaitable[None]]
REMOVERS: Mapping[Product | None, Remove] = {RABBITMQ: _of_rabbitmq, KAFKA: _of_kafka}
