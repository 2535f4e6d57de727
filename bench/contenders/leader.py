"""Which member of a Kafka cluster leads a topic: asked by those who mean to kill it, so no contender."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from greet import ConnectFailed


async def leader_and_followers(url: str, topic: str) -> tuple[int, set[int]]:
    """The node that leads partition 0, and those that are in step with it, itself included.

    Raises:
        ConnectFailed: nobody answers.
    """
    hosts = url.rpartition("@")[2].rpartition("://")[2].partition("?")[0].partition("/")[0]
    admin = AIOKafkaAdminClient(bootstrap_servers=hosts, request_timeout_ms=5000)
    try:
        await admin.start()
        (found,) = await admin.describe_topics([topic])
        (partition,) = found["partitions"]
        return int(partition["leader"]), set(partition["isr"])
    except (KafkaError, OSError, ValueError) as error:
        raise ConnectFailed(f"{topic} has no leader: {error}") from error
    finally:
        await admin.close()
