"""Which member of a Kafka cluster leads a topic: asked by those who mean to kill it, so no contender."""

from __future__ import annotations

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from greet import ConnectFailed

INTERNAL = ("__consumer_offsets", "__share_group_state", "__transaction_state")


async def leader_and_followers(url: str, topic: str) -> tuple[int, set[int]]:
    """The node that leads partition 0, and those that are in step with the leader of every partition.

    Also of Kafka's internal topics: if the only node that has a group's offsets is killed, the group waits for it.

    Raises:
        ConnectFailed: nobody answers.
    """
    hosts = url.rpartition("@")[2].rpartition("://")[2].partition("?")[0].partition("/")[0]
    admin = AIOKafkaAdminClient(bootstrap_servers=hosts, request_timeout_ms=5000)
    try:
        await admin.start()
        found = [one for one in await admin.describe_topics() if one["topic"] in (topic, *INTERNAL)]
        in_step = [set(partition["isr"]) for one in found for partition in one["partitions"]]
        (leader,) = (int(one["partitions"][0]["leader"]) for one in found if one["topic"] == topic)
        return leader, set.intersection(*in_step)
    except (KafkaError, OSError, ValueError) as error:
        raise ConnectFailed(f"{topic} has no leader: {error}") from error
    finally:
        await admin.close()
