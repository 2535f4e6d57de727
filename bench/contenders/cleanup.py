"""What a run has made on a broker that stays: its topics, queues and groups, and their removal; no contender."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

import aiormq
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError, for_code

import greet
from greet.designs import KAFKA, RABBITMQ, Product, named

DEADLINE_S = 60.0
Made = Mapping[str, Iterable[str]]
"""The groups of each topic."""


async def remove(design: str, url: str, made: Made) -> None:
    """Delete what was made on the broker at `url`; says on standard error what is left behind, and why."""
    address = greet.connect(url).address
    try:
        async with asyncio.timeout(DEADLINE_S):
            record = named(design)
            await REMOVERS[record.product](address, made, record.made)
    except Exception as error:  # noqa: BLE001, of whatever a driver raises: the run is over, and its figures are kept
        # Of the error only its name: its text may hold the URL.
        what = f"the topics {min(made)} to {max(made)} and their groups: {type(error).__name__}"
        logging.getLogger("bench").warning("left on %s: %s", design, what)


def _tls(address: Any) -> ssl.SSLContext | None:
    """How to encrypt, as the URL says."""
    if not address.tls:
        return None
    context = ssl.create_default_context(cafile=address.options.get("ca"))
    if "cert" in address.options:
        context.load_cert_chain(address.options["cert"], address.options.get("key"))
    return context


def _names(topic: str, groups: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """What a design has made for a topic and its groups."""
    return {one.format(topic=topic, group=group) for one in patterns for group in groups}


async def _of_rabbitmq(address: Any, made: Made, patterns: Iterable[str]) -> None:
    """Exchanges, queues of groups, and dead letters; RabbitMQ takes it that one is not there."""
    host, port = address.hosts[0]
    login = f"{quote(address.user or 'guest', '')}:{quote(address.password or 'guest', '')}"
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "amqps" if address.tls else "amqp"
    connection = await aiormq.connect(f"{scheme}://{login}@{where}{address.path or '/'}", context=_tls(address))
    try:
        channel = await connection.channel()
        for topic, groups in made.items():
            for queue in (*_names(topic, groups, patterns), f"{topic}.dead"):
                await channel.queue_delete(queue)
            await channel.exchange_delete(topic)
    finally:
        await connection.close()


async def _of_kafka(address: Any, made: Made, patterns: Iterable[str]) -> None:
    """Topics, and groups: where confluent-kafka is not there, a broker removes a group some time after its topic."""
    settings = {"security_protocol": "SSL" if address.tls else "PLAINTEXT", "ssl_context": _tls(address)}
    if address.user:
        settings["security_protocol"] = "SASL_SSL" if address.tls else "SASL_PLAINTEXT"
        settings["sasl_mechanism"] = address.options.get("sasl", "PLAIN")
        settings |= {"sasl_plain_username": address.user, "sasl_plain_password": address.password}
    servers = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in address.hosts]
    admin = AIOKafkaAdminClient(bootstrap_servers=servers, **settings)
    await admin.start()
    try:
        there = set(await admin.list_topics())
        doomed = [name for topic in made for name in (topic, f"{topic}.dead") if name in there]
        answer = await admin.delete_topics(doomed, timeout_ms=30_000)
        for topic, code in answer.topic_error_codes:
            if code and for_code(code) is not UnknownTopicOrPartitionError:
                raise for_code(code)(topic)
    finally:
        await admin.close()
    if find_spec("confluent_kafka") and not address.tls and not address.user:
        doomed = [name for topic, groups in made.items() for name in _names(topic, groups, patterns)]
        await asyncio.to_thread(_groups, ",".join(servers), doomed)


Remove = Callable[[Any, Made, Iterable[str]], Awaitable[None]]
REMOVERS: Mapping[Product | None, Remove] = {RABBITMQ: _of_rabbitmq, KAFKA: _of_kafka}


def _groups(servers: str, groups: list[str]) -> None:
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415, an extra
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    admin = AdminClient({"bootstrap.servers": servers, "log_level": 0})  # kept: its futures run as long as it does
    for deleted in admin.delete_consumer_groups(groups).values():
        try:
            deleted.result(30)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.GROUP_ID_NOT_FOUND:
                raise
