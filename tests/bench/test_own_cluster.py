"""The bench on brokers that are not its own, and demand TLS and logins: its peers, `doctor`, and what is left."""

from __future__ import annotations

import asyncio
import math
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiormq
import pytest
import pytest_asyncio
import trustme
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import NodeNotReadyError
from guarded import CANARY, Guarded, guarded_kafka, guarded_rabbitmq, jwt

import greet
from bench.__main__ import main
from bench.contenders import access, every, java, kafka_look, kafka_peers, look, missing, perftest, rabbitmq_look
from bench.contenders.look import Finding
from bench.contenders.rabbitmq_peers import connected
from bench.measure import doctor
from bench.measure.run import session
from bench.model import JAVA, PERFTEST, Cell, Contender, Figures, Place, Settings
from greet import Guarantee
from greet.brokers import VARIABLES, Broker

ROOT = Path(__file__).parents[2]
PEERS = [one for one in every() if one.name not in ("greet", JAVA, PERFTEST)]
KAFKA = [one for one in PEERS if one.design == "kafka"]
RABBITMQ = [one for one in PEERS if one.design == "rabbitmq"]
(PERFORMANCE,), (TOOL,) = java.CONTENDERS, perftest.CONTENDERS
ENOUGH = PERFORMANCE.guess
"""Records of the shortest run: its consumer must report twice once it is warm."""
pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


def named(contender: Contender) -> str:
    return f"{contender.name}, {contender.way}"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    rights = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
        "super.users": "User:ANONYMOUS;User:ada",
    }
    async with guarded_kafka(tmp_path_factory.mktemp("kafka"), rights) as found:
        yield found


@dataclass(frozen=True)
class Rabbit:
    """A RabbitMQ that listens for TLS too."""

    broker: Broker
    url: str
    ca: Path

    @property
    def password(self) -> str:
        return greet.connect(self.url).address.password

    async def ctl(self, *arguments: str) -> list[str]:
        """The lines that `rabbitmqctl` prints."""
        node = self.broker.nodes[0]
        program = str(Path(node.command[0]).with_name("rabbitmqctl"))
        process = await asyncio.create_subprocess_exec(
            *(program, "-q", "-n", node.environment["RABBITMQ_NODENAME"], *arguments),
            env=dict(node.environment) | {"PATH": os.environ["PATH"]}, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert process.returncode == 0
        return said.decode().splitlines()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rabbit(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rabbit]:
    folder = tmp_path_factory.mktemp("rabbitmq")
    async with guarded_rabbitmq(folder) as (broker, url):
        yield Rabbit(broker, url, folder / "ca.pem")


# The ways in of managed clusters, each with a mechanism that the private broker demands


def confluent_cloud(guarded: Guarded) -> str:
    return guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca)


def msk_scram(guarded: Guarded) -> str:
    return guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca, sasl="SCRAM-SHA-512")


def scram_256(guarded: Guarded) -> str:
    return guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca, sasl="SCRAM-SHA-256")


def msk_iam(guarded: Guarded) -> str:
    return guarded.url(guarded.login, ca=guarded.ca, token_file=guarded.token(jwt()))


def strimzi_tls(guarded: Guarded) -> str:
    return guarded.url(guarded.mutual, ca=guarded.ca, cert=guarded.client, key=guarded.client)


WAYS: list[Callable[[Guarded], str]] = [confluent_cloud, msk_scram, scram_256, msk_iam, strimzi_tls]


# Peers


async def carried(where: Place, contender: Contender, number: int = 300) -> None:
    """A peer publishes and reads so many messages."""
    pytest.importorskip(contender.needs or "aiokafka")
    wanted = [f"{one:018d}" for one in range(number)]
    taken: list[str] = []
    async with asyncio.timeout(60):
        async with contender.consumer(where, "g0") as names, contender.publisher(where) as publisher:
            await publisher.publish_all(iter(wanted))
            assert sum(publisher.accepted) == number
            while len(taken) < number:
                some = await names.__anext__()
                taken += some if contender.way == "many" else [some]
    assert sorted(taken) == wanted


@pytest.mark.parametrize("contender", KAFKA, ids=named)
async def test_every_peer_of_kafka_logs_in_and_packs_as_the_url_says(
    guarded: Guarded, topic: str, contender: Contender
) -> None:
    url = f"{msk_scram(guarded)}&compression=gzip"
    await carried(Place(url, topic, Guarantee.DURABLE, window=contender.window), contender)


@pytest.mark.parametrize("way", [one for one in WAYS if one is not msk_scram])
@pytest.mark.parametrize("contender", [one for one in KAFKA if one.way == "many"], ids=named)
async def test_peers_of_kafka_take_every_way_in(
    guarded: Guarded, topic: str, contender: Contender, way: Callable[[Guarded], str]
) -> None:
    await carried(Place(way(guarded), topic, Guarantee.DURABLE, window=contender.window), contender)


@pytest.mark.parametrize("contender", RABBITMQ, ids=named)
async def test_every_peer_of_rabbitmq_takes_tls_and_quorum_queues(
    rabbit: Rabbit, topic: str, contender: Contender
) -> None:
    """And of several hosts the first that listens."""
    url = rabbit.url.replace("@", "@127.0.0.1:1,").replace("?", "?queue_type=quorum&prefetch=50&")
    await carried(Place(url, topic, Guarantee.DURABLE, window=contender.window), contender)
    connection = await connected(url)
    try:
        channel = await connection.channel()
        await channel.queue_declare(f"{topic}:g0", durable=True, arguments={"x-queue-type": "quorum"})
        with pytest.raises(aiormq.exceptions.ChannelPreconditionFailed):
            await channel.queue_declare(f"{topic}:g0", durable=True, arguments={"x-queue-type": "classic"})
    finally:
        await connection.close()


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that stands in the argument lists of the programs that are run."""
    found: list[str] = []
    start = asyncio.create_subprocess_exec

    async def noted(*words: str, **more: Any) -> asyncio.subprocess.Process:
        found.extend(words)
        return await start(*words, **more)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)
    return found


async def measured(url: str, cell: Cell, number: int, monkeypatch: pytest.MonkeyPatch) -> list[Figures]:
    """What a run on the broker at `url` finds."""
    monkeypatch.setenv(VARIABLES[cell.contender.design], url)
    assert cell.contender in every()
    async with session(Settings((cell.contender.design,), ()), ThreadPoolExecutor) as opened:
        return await opened.measured(cell, number)


@pytest.mark.parametrize("way", [confluent_cloud, msk_scram, strimzi_tls])
async def test_the_tools_of_kafka_log_in(
    guarded: Guarded, way: Callable[[Guarded], str], commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = await measured(way(guarded), Cell(PERFORMANCE, Guarantee.DURABLE), ENOUGH, monkeypatch)
    assert [one.fields["error"] for one in found] == [None, None]
    assert [one.fields["received"] for one in found] == [ENOUGH, ENOUGH]
    assert "org.apache.kafka.tools.ConsumerPerformance" in commands
    assert "canary" not in " ".join(commands)


async def test_perftest_takes_tls_and_quorum_queues(
    rabbit: Rabbit, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{rabbit.url}&queue_type=quorum"
    (found,) = await measured(url, Cell(TOOL, Guarantee.DURABLE), 20_000, monkeypatch)
    assert found.fields["error"] is None
    assert found.fields["received"] == 20_000
    assert rabbit.password not in " ".join(commands)
    (store,) = (word.partition("=")[2] for word in commands if word.startswith("-Djavax.net.ssl.trustStore="))
    assert not Path(store).exists()


async def test_perftest_trusts_nobody_else(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the certificate of another broker in its store it publishes nothing."""

    async def of_another(_: access.Door) -> bytes:
        return ssl.PEM_cert_to_DER_cert(trustme.CA().issue_cert("127.0.0.1").cert_chain_pems[0].bytes().decode())

    monkeypatch.setattr(access.Door, "certificate", of_another)
    monkeypatch.setattr(java, "LIMIT_S", 20.0)
    (found,) = await measured(rabbit.url, Cell(TOOL, Guarantee.DURABLE), 20_000, monkeypatch)
    assert found.fields["error"].startswith("PerfTest gave no figure")


@pytest.mark.parametrize(
    ("password", "said"),
    [
        ('a"b\\c', r"a\042b\134c"),
        ("new\nline", r"new\012line"),
        ("pass wörd €", "pass wörd €"),
    ],
)
def test_a_password_is_read_by_java_as_it_is(password: str, said: str) -> None:
    """In octal for its login modules, and then as a file of properties has it."""
    with access.properties(f"kafka+ssl://ada:{quote(password, '')}@h:1") as (path, _):
        text = Path(path).read_text()
    assert all(" " <= one <= "~" for one in text.replace("\n", ""))
    line = next(line for line in text.splitlines() if line.startswith("sasl.jaas.config="))
    read = re.sub(r"\\u([0-9a-f]{4})", lambda unit: chr(int(unit[1], 16)), line)
    assert read.endswith(f'username="ada" password="{said}";')


@pytest.mark.parametrize(
    ("design", "query", "who", "why"),
    [
        ("kafka", "token_file=/t", JAVA, "Java's client takes no token_file="),
        ("kafka", "cert=/nothing&key=/nothing", JAVA, "Java reads a key= in PKCS #8 alone"),
        ("kafka", "sasl=PLAIN", "", ""),
        ("rabbitmq", "cert={pem}&key={pem}", PERFTEST, "PerfTest reads no key= in PEM"),
        ("rabbitmq", "queue_type=quorum&prefetch=7&heartbeat=9&path=plain", "", ""),
    ],
)
def test_only_who_cannot_is_left_out(
    design: str, query: str, who: str, why: str, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)
    usual, told = every(), missing()
    scheme = {"kafka": "kafka+ssl", "rabbitmq": "amqps"}[design]
    login = "" if "token_file" in query else "ada:Pa55@"
    monkeypatch.setenv(VARIABLES[design], f"{scheme}://{login}h:1?{query.format(pem=guarded.client)}")
    assert every() == [one for one in usual if one.name != who]
    assert {name: what for name, what in missing().items() if name not in told}.keys() == {who} - {""}
    assert missing().get(who, "").startswith(why)


async def test_topics_of_peers_have_replicas(topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And Java's own waits for the topic that was made for it, where the broker makes none by itself."""
    async with greet.brokers.kafka(nodes=3, config={"auto.create.topics.enable": "false"}) as broker:
        url = f"{broker.url}?replication=2&partitions=3"
        await kafka_peers.make_topic(Place(url, topic, Guarantee.DURABLE, partitions=2))
        async with admin(broker.url) as asked:
            (found,) = await asked.describe_topics([topic])
            assert [len(one["replicas"]) for one in found["partitions"]] == [2, 2]
        rows = await measured(url, Cell(PERFORMANCE, Guarantee.DURABLE), ENOUGH, monkeypatch)
        assert [one.fields["error"] for one in rows] == [None, None]


async def test_a_topic_of_peers_is_waited_for_at_each_broker_that_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One knows it at once and one later, and one is down."""
    later, asked = {1: 0, 2: 2, 3: 0}, []

    class Client:
        cluster = SimpleNamespace(brokers=lambda: [SimpleNamespace(nodeId=broker) for broker in (3, 2, 1)])

        def __init__(self, **settings: Any) -> None:
            assert settings["bootstrap_servers"]

        async def send(self, broker: int, request: Any) -> Any:
            asked.append(broker)
            if broker == 3:
                raise NodeNotReadyError
            topic = {"partitions": [0] if asked.count(broker) > later[broker] else []}
            return SimpleNamespace(to_object=lambda: {"topics": [topic]})

        async def bootstrap(self) -> None: ...

        async def close(self) -> None:
            asked.append(0)

    monkeypatch.setattr(kafka_peers, "AIOKafkaClient", Client)
    await kafka_peers._known_to_all(Place("kafka://h:1", "names", Guarantee.DURABLE))
    assert asked == [3, 2, 2, 2, 1, 0]


# What is left


@asynccontextmanager
async def admin(url: str) -> AsyncIterator[AIOKafkaAdminClient]:
    found = AIOKafkaAdminClient(**access.aiokafka(url))
    await found.start()
    try:
        yield found
    finally:
        await found.close()


async def on_kafka(guarded: Guarded) -> set[str]:
    """Topics and groups."""
    async with admin(guarded.broker.url) as asked:
        groups = {f"group {group}" for group, *_ in await asked.list_consumer_groups()}
        return {one for one in await asked.list_topics() if not one.startswith("__")} | groups


async def on_rabbitmq(rabbit: Rabbit) -> set[str]:
    """Exchanges and queues."""
    return {*await rabbit.ctl("list_exchanges", "name"), *await rabbit.ctl("list_queues", "name")}


async def interrupted(words: Iterable[str], rows: Callable[[], Awaitable[bool]], **environment: str) -> tuple[int, str]:
    """The status of a bench that gets a Ctrl-C once `rows` says so, as a terminal sends it: to all of its processes."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", *words), cwd=ROOT, env={**os.environ, **environment}, start_new_session=True,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(90):
            while not await rows():
                assert process.returncode is None, process.stderr and (await process.stderr.read()).decode()
                await asyncio.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)
        async with asyncio.timeout(90):
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode is not None
    return process.returncode, errors.decode()


@pytest.mark.parametrize(
    "words",
    [("run", "--questions", "throughput", "--rounds", "500"), ("workload", "--seconds", "4", "--room", "false")],
)
async def test_after_ctrl_c_nothing_is_left(
    guarded: Guarded, rabbit: Rabbit, tmp_path: Path, words: tuple[str, ...]
) -> None:
    before = await on_kafka(guarded), await on_rabbitmq(rabbit)

    async def under_way() -> bool:
        """A reader works: its group is there, and on both brokers there is more than what tells who is ready."""
        there = await on_kafka(guarded) - before[0]
        return any(one.startswith("group bench-") and ":g" in one for one in there) and any(
            ":g" in one for one in await on_rabbitmq(rabbit) - before[1]
        )

    designs = ("--designs", "rabbitmq,kafka", "--out", str(tmp_path))
    urls = {VARIABLES["kafka"]: msk_scram(guarded), VARIABLES["rabbitmq"]: f"{rabbit.url}&queue_type=quorum"}
    status, errors = await interrupted([*words, *designs], under_way, **urls)
    assert (status, errors) == (130, "")
    assert await on_rabbitmq(rabbit) == before[1]
    assert await on_kafka(guarded) == before[0]


async def test_a_whole_first_look_leaves_nothing_and_tells_no_secret(
    guarded: Guarded, rabbit: Rabbit, tmp_path: Path
) -> None:
    before = await on_kafka(guarded), await on_rabbitmq(rabbit)
    words = ("--designs", "rabbitmq,kafka", "--contenders", "all", "--seconds", "0.05", "--rounds", "1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench", "run", "--questions", "throughput,start_up", *words, "--out", str(tmp_path)),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, VARIABLES["kafka"]: confluent_cloud(guarded), VARIABLES["rabbitmq"]: rabbit.url},
    )  # fmt: skip
    said, _ = await process.communicate()
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert process.returncode == 0, said.decode()
    assert "FastStream" in kept
    for secret in (CANARY, rabbit.password):
        assert secret not in said.decode() + kept
    assert await on_kafka(guarded) == before[0]
    assert await on_rabbitmq(rabbit) == before[1]


# What `doctor` sees


async def seen(url: str) -> dict[str, Finding]:
    return {one.what: one async for one in doctor.examine_broker(url)}


def faults(found: dict[str, Finding]) -> set[str]:
    """All but the round trip, which other work on this machine makes longer."""
    return {what for what, one in found.items() if one.fix} - {"round trip"}


async def test_doctor_finds_no_fault_with_a_good_broker(
    guarded: Guarded, rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(look, "FAR_MS", 1e9)
    before = await on_kafka(guarded), await on_rabbitmq(rabbit)
    for url in (msk_scram(guarded), f"{rabbit.url}&queue_type=quorum"):
        status = await asyncio.to_thread(main, ["doctor", url])
        said = capsys.readouterr().out
        assert (status, said.splitlines()[-1]) == (0, "no faults"), said
        assert "create, publish, read, delete" in said
        assert CANARY not in said
        assert rabbit.password not in said
    assert (await on_kafka(guarded), await on_rabbitmq(rabbit)) == before


async def test_doctor_knows_the_version(guarded: Guarded, rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await seen(guarded.url(guarded.tls, ca=guarded.ca))
    assert guarded.broker.version.startswith(f"{found['Kafka'].found}.")
    assert found["encryption"].found.startswith("TLSv1.3")

    async def old(_: str) -> dict[str, int]:
        return {"metadata.version": 21}

    monkeypatch.setattr(kafka_look, "_features", old)
    monkeypatch.setattr(rabbitmq_look, "support", lambda _: "without support since 2024-07-31")
    found = await seen(guarded.url(guarded.tls, ca=guarded.ca))
    assert found["Kafka"].found == "3.9"
    found |= await seen(rabbit.url)
    assert found["RabbitMQ"].found == f"{rabbit.broker.version}, without support since 2024-07-31"
    assert faults(found) == {"Kafka", "RabbitMQ"}


async def test_doctor_says_what_a_user_of_kafka_may_not(guarded: Guarded) -> None:
    pytest.importorskip("confluent_kafka")
    from confluent_kafka.admin import (
        AclBinding,
        AclOperation,
        AclPermissionType,
        AdminClient,
        ResourcePatternType,
        ResourceType,
    )

    asked = AdminClient(access.confluent(guarded.broker.url))
    on_topics = (ResourceType.TOPIC, "bench-doctor-", ResourcePatternType.PREFIXED, "User:eve", "*")
    on_cluster = (ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, "User:nobody", "*")

    async def allow(where: tuple[Any, ...], *operations: str) -> None:
        rules = [AclBinding(*where, AclOperation[one], AclPermissionType.ALLOW) for one in operations]
        for done in asked.create_acls(rules).values():
            await asyncio.wrap_future(done)

    async def rights(expected: str) -> str:
        """What is to be done, once what may be done is as `expected`: a rule is in force some time after its answer."""
        url = guarded.url(guarded.login, f"eve:{CANARY}", ca=guarded.ca)
        async with asyncio.timeout(30):
            while (found := (await seen(url))["rights"]).found != expected:
                await asyncio.sleep(0.5)
        return found.fix

    await allow(on_cluster, "CREATE")
    await allow(on_topics, "DESCRIBE", "READ")
    assert "user eve may not create topic bench-doctor-" in await rights("none")
    await allow(on_topics, "CREATE")
    assert re.search(
        "user eve may not write topic bench-doctor-.*; bench-doctor-.* is left .*: grant DELETE", await rights("create")
    )
    await allow(on_topics, "WRITE")
    assert re.match("bench-doctor-.* is left .*: grant DELETE", await rights("create, publish, read"))
    await allow(on_topics, "DELETE", "DESCRIBE_CONFIGS")
    assert await rights("create, publish, read, delete") == ""
    async with admin(guarded.broker.url) as super_user:
        left = [one for one in await super_user.list_topics() if one.startswith("bench-doctor-")]
        assert len(left) >= 2, "what eve could not delete"
        found = await seen(msk_scram(guarded))
        assert f"{len(left)} topics of runs" in found["left over"].found
        await super_user.delete_topics(left)


async def test_doctor_looks_at_replicas_retention_and_sizes_of_a_cluster() -> None:
    config = {"log.retention.ms": "60000", "message.max.bytes": "500000", "unclean.leader.election.enable": "true"}
    async with greet.brokers.kafka(nodes=3, config=config) as broker:
        found = await seen(f"{broker.url}?partitions=6")
        assert found["brokers"].found.startswith("3: 127.0.0.1:")
        assert found["replication"].found == "3 of 3 brokers, 3 in sync, at least 2"
        assert found["topic"].found.startswith("6 partitions")
        assert found["retention"].found == "60 s"
        assert found["largest batch"].found == "500,000 bytes"
        assert faults(found) == {"retention", "largest batch", "unclean leaders"}
        found = await seen(f"{broker.url}?replication=1")
        assert found["replication"].found == "1 of 3 brokers, 1 in sync, at least 2"
        assert "replication" in faults(found)
        async with greet.connect(f"{broker.url}?replication=3", "others") as line:
            await line.publish("Ada")
        await broker.kill(3)
        async with admin(broker.urls[0]) as asked, asyncio.timeout(60):
            while len((await kafka_look.asked(asked.describe_cluster))["brokers"]) > 2:
                await asyncio.sleep(0.5)
        found = await seen(f"{broker.urls[0]}?replication=2")
        assert found["brokers"].found.startswith("2: ")
        assert "replica out of step" in found["partitions"].fix


@pytest.mark.parametrize(
    ("policy", "what", "found"),
    [
        ('{"max-length": 100}', "retention", "100 of 1,000 messages are there after 1 s"),
        ('{"message-ttl": 50}', "retention", "0 of 1,000 messages are there after 1 s"),
        ('{"max-length": 100, "overflow": "reject-publish"}', "retention", "of 1,000 messages some are refused"),
        ('{"delivery-limit": 5}', "delivery limit", "6 deliveries"),
    ],
)
async def test_doctor_sees_what_a_policy_takes_away(rabbit: Rabbit, policy: str, what: str, found: str) -> None:
    await rabbit.ctl("set_policy", "own", "^bench-doctor-", policy, "--apply-to", "queues")
    try:
        seen_there = await seen(f"{rabbit.url}&queue_type=quorum")
        assert seen_there[what].found == found
        assert faults(seen_there) == {what}
    finally:
        await rabbit.ctl("clear_policy", "own")


async def test_doctor_sees_an_alarm(rabbit: Rabbit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rabbitmq_look, "CONFIRM_S", 2.0)
    await rabbit.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        await asyncio.sleep(1)
        found = await seen(f"{rabbit.url}&timeout=3")
        assert "publishers are blocked" in found["alarms"].found
    finally:
        await rabbit.ctl("set_vm_memory_high_watermark", "0.6")


async def test_doctor_says_what_a_user_of_rabbitmq_may_not(rabbit: Rabbit) -> None:
    await rabbit.ctl("add_user", "eve", "secret")
    await rabbit.ctl("set_permissions", "eve", "^$", ".*", ".*")
    found = await seen(rabbit.url.replace(rabbit.url[8 : rabbit.url.index("@")], "eve:secret"))
    assert found["rights"].found == "none"
    assert "set_permissions" in found["rights"].fix


async def test_after_ctrl_c_doctor_leaves_nothing(guarded: Guarded) -> None:
    before = await on_kafka(guarded)

    async def under_way() -> bool:
        return any(one.startswith("bench-doctor-") for one in await on_kafka(guarded))

    assert await interrupted(["doctor", msk_scram(guarded)], under_way) == (130, "")
    assert await on_kafka(guarded) == before


def test_how_long_is_told_as_people_say_it() -> None:
    said = [look.duration(one) for one in (math.inf, 604_800_000, 7_200_000, 90_000, 250)]
    assert said == ["for ever", "7 days", "2 h", "90 s", "0.25 s"]


def test_a_way_that_is_long_is_a_fault() -> None:
    assert look.of_trips([0.2, 0.3, 9.0]).fix == ""
    far = look.of_trips([20.0, 20.0, 20.0])
    assert far.found == "20 ms, the best 20 ms, of 3"
    assert "25,000 a second" in far.fix
