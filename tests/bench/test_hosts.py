"""Workers on hosts of their own: what the way between them, another clock and a cut do to a run.

Hosts are network namespaces, and a foreign clock is a time namespace: both take root. The wire between them is a thread
of this process, since few kernels have `tc netem`. What becomes of a run when a worker or the scheduler is killed
stands in test_workers.py.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import re
import secrets
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from operator import itemgetter
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import pytest
from test_workers import AHEAD_S, ROOT, UNSHARE, Real, ended, running, scheduled, until

from bench.contenders.greets import CONTENDERS
from bench.measure import workers
from bench.measure.clock import look
from bench.measure.loops import LOOPS
from bench.measure.run import session
from bench.model import Cell, Settings, with_query
from greet import Guarantee
from greet.brokers import process
from greet.brokers.jars import fetched
from greet.brokers.kafka import SERVER_OPTIONS, begin, find_java, prepare

KAFKA = ("k1", "k2", "k3")
"""The hosts of a Kafka of its own."""
HOSTS = {name: f"10.255.0.{at}" for at, name in enumerate(("bench", "broker", "scheduler", "a", "b", "c", *KAFKA), 1)}
"""Of the workers, "a" publishes, and the others consume."""
PORT, MTU = 5672, 65_000
Ways = Mapping[tuple[str, str], float]
"""Milliseconds from one host to another."""
PATH = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "bench")))
"""Where a script on a host finds this file, and what it uses."""
NOISE_MS = 1.0
"""How much the p50 of the same differs on a machine with other work."""


# --- hosts, and the wire between them ---


class Network:
    """Hosts, and a wire that carries each packet after the delay of its way; it leads to the broker of this machine."""

    def __init__(self, broker: str) -> None:
        self.ways: Ways = {}
        where = urlsplit(broker)
        netloc = f"{where.netloc.rpartition('@')[0]}@{HOSTS['broker']}:{PORT}"
        self.url = with_query(where._replace(netloc=netloc).geturl(), "cleartext=yes")
        self._broker = where.hostname, where.port
        self.name = f"greet-{secrets.token_hex(3)}"
        self._devices: dict[str, str] = {}
        self._lines: dict[str, int] = {}
        self._begun = Event()

    def at(self, host: str) -> tuple[str, ...]:
        """The command before one that is to run on `host`."""
        return at(self.name, host)

    @contextmanager
    def up(self) -> Iterator[None]:
        """The hosts and the wire are there as long as this."""
        with ExitStack() as stack:
            for host in HOSTS:
                self._add(host, stack)
            with self._listening() as door:
                thread = Thread(target=self._run, args=(door,), daemon=True)
                thread.start()
                assert self._begun.wait(10)
                try:
                    yield
                finally:
                    self._loop.call_soon_threadsafe(self._over.set)
                    thread.join(10)

    def _add(self, host: str, stack: ExitStack) -> None:
        namespace = f"{self.name}-{host}"
        ip("netns", "add", namespace)
        stack.callback(ip, "netns", "del", namespace)
        line, device = tunnel()
        stack.callback(os.close, line)
        ip("link", "set", device, "netns", namespace)
        ip("-n", namespace, "address", "add", f"{HOSTS[host]}/24", "dev", device)
        ip("-n", namespace, "link", "set", device, "mtu", str(MTU))
        for one in ("lo", device):
            ip("-n", namespace, "link", "set", one, "up")
        self._devices[host], self._lines[host] = device, line

    @contextmanager
    def cut(self, host: str) -> Iterator[None]:
        """Nothing reaches `host`, and it reaches nobody."""
        device = ("-n", f"{self.name}-{host}", "link", "set", self._devices[host])
        ip(*device, "down")
        try:
            yield
        finally:
            ip(*device, "up")

    def _listening(self) -> socket.socket:
        """A socket of the host "broker", where no broker of ours listens: they keep to loopback."""

        def made() -> socket.socket:
            with Path(f"/run/netns/{self.name}-broker").open() as there:
                if ctypes.CDLL(None, use_errno=True).setns(there.fileno(), 0):
                    raise OSError(ctypes.get_errno(), "setns")
            door = socket.create_server((HOSTS["broker"], PORT))
            door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as brokers do, for who is accepted too
            return door

        with ThreadPoolExecutor(1) as thread:  # a thread is on a host, and ends with this
            return thread.submit(made).result()

    def _run(self, door: socket.socket) -> None:
        with asyncio.Runner(loop_factory=LOOPS["select"]) as runner:
            runner.run(self._carry(door))

    async def _carry(self, door: socket.socket) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        for line in self._lines.values():
            self._loop.add_reader(line, self._take, line)
        server = await asyncio.start_server(self._relay, sock=door)
        self._begun.set()
        await self._over.wait()
        server.close()

    def _take(self, line: int) -> None:
        packet = os.read(line, MTU)
        source, target = (NAMES.get(packet[at : at + 4]) for at in (12, 16))
        if packet[0] >> 4 == 4 and source and target:
            delay = self.ways.get((source, target), 0) / 1e3
            self._loop.call_later(delay, self._give, self._lines[target], packet)

    def _give(self, line: int, packet: bytes) -> None:
        with suppress(OSError):  # it is cut off
            os.write(line, packet)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(*self._broker)
        await asyncio.gather(poured(reader, there[1]), poured(there[0], writer))


NAMES = {socket.inet_aton(address): name for name, address in HOSTS.items()}


async def poured(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    sink.close()


def at(network: str, host: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", f"{network}-{host}")


def tunnel() -> tuple[int, str]:
    """A network device as a file of its packets, and its name."""
    line = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    tun, no_header, set_it = 0x0001, 0x1000, 0x400454CA
    found = fcntl.ioctl(line, set_it, struct.pack("16sH22x", b"greet%d", tun | no_header))
    return line, found[:16].rstrip(b"\0").decode()


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def lacking() -> str:
    """What there must be for hosts of one's own and is not; empty if all is."""
    if not shutil.which("ip") or not shutil.which("unshare"):
        return "`ip` and `unshare`: apt-get install iproute2 util-linux"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun"
    tried = ["unshare", "--net", "ip", "link", "set", "lo", "up"]
    if subprocess.run(tried, capture_output=True).returncode:
        return "network namespaces: they take root"
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        return "time namespaces: they take root, and Linux 5.6"
    return ""


@pytest.fixture(scope="module")
def network(rabbitmq_url: str) -> Iterator[Network]:
    if what := lacking():
        pytest.skip(f"no hosts of their own here, for want of {what}")
    found = Network(rabbitmq_url)
    with found.up():
        yield found


@contextmanager
def cluster(network: Network, folder: Path) -> Iterator[Real]:
    """A scheduler and three workers, each on its host; the clocks of those who consume are far ahead."""
    with scheduled(folder, HOSTS["scheduler"], *network.at("scheduler")) as found:
        found.join("a", HOSTS["a"], *network.at("a"))
        for name in ("b", "c"):
            found.join(name, HOSTS[name], *network.at(name), *UNSHARE)
        yield found


# --- what a way and another clock do to a latency ---


def serve(where: str) -> None:
    """On a host: do what each line of standard input says, and print what came of it.

    "carry": messages over the workers. "begin": the same, as the first of a run. "look": how far the clock of the
    host "b" is from that of this one.
    """
    with workers.dask(where) as found:

        async def carried() -> None:
            who = next(one for one in CONTENDERS if one.design == "rabbitmq" and one.way == "name")
            async with session(Settings((who.design,), (who,)), found.executor) as opened:
                while word := (await asyncio.to_thread(sys.stdin.readline)).strip():
                    if word == "look":
                        print(json.dumps(await asyncio.to_thread(looked)), flush=True)
                        continue
                    if word == "begin":
                        opened.doubts.clear()
                    (figures,) = await opened.measured(Cell(who, Guarantee.AT_LEAST_ONCE, rate=100.0), 150)
                    print(json.dumps({**figures.fields, **figures.params, **figures.details}), flush=True)

        def looked() -> dict[str, Any]:
            (worker,) = (one for one in found._seats if found.host(one) == HOSTS["b"])
            with found.executor() as crew:
                return asdict(crew.ask(worker, look, crew.lease(worker)).result(30))

        asyncio.run(carried())


Ask = Callable[[str, Ways], dict[str, Any]]


@pytest.fixture(scope="module")
def ask(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Has `serve` do something while the ways are so long."""
    folder = tmp_path_factory.mktemp("hosts")
    with cluster(network, folder) as real:
        script = f"import test_hosts; test_hosts.serve({str(real.folder / 'scheduler.json')!r})"
        process = subprocess.Popen(
            [*network.at("bench"), sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": PATH, "GREET_RABBITMQ_URL": network.url},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        asked, told = process.stdin, process.stdout

        def done(what: str, ways: Ways) -> dict[str, Any]:
            network.ways = ways
            asked.write(f"{what}\n")
            asked.flush()
            found: dict[str, Any] = json.loads(told.readline())
            network.ways = {}  # of the next trial they are not
            return found

        try:
            done("carry", {})  # the first one warms up
            yield done
        finally:
            with process:
                asked.close()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_longer_way_to_the_consumer_moves_the_latency_by_as_much(ask: Ask) -> None:
    """The quietest of three runs each: other work on the machine only adds."""
    found: dict[float, list[dict[str, Any]]] = {40.0: [], 45.0: []}
    for way in (40.0, 45.0) * 3:
        found[way].append(ask("carry", {("broker", "b"): way}))
    rows = [*found[40.0], *found[45.0]]
    assert {(row["error"], row["received"], row["lost"]) for row in rows} == {(None, 150, 0)}
    assert all(row["broker_elsewhere"] for row in rows)
    bound = max(row["clock_bound_ms"] for row in rows)
    assert bound < 2
    before, after = (min(row["latency_ms"]["p50"] for row in rows) for rows in found.values())
    assert 40 - bound < before < 50, "by a clock that is far ahead"
    assert abs(after - before - 5) < bound + NOISE_MS


@pytest.mark.long
@pytest.mark.parametrize(
    ("ways", "bias_ms", "bound_ms"),
    [
        ({("bench", "b"): 2.0}, -1, 1),
        ({("b", "bench"): 2.0}, 1, 1),
        ({("bench", "b"): 4.0, ("b", "bench"): 2.0}, -1, 3),
        ({("bench", "b"): 2.0, ("b", "bench"): 2.0}, 0, 2),
    ],
    ids=["back", "there", "both", "even"],
)
def test_half_of_what_a_clock_is_further_away_one_way_is_its_bias(
    ways: Ways, bias_ms: float, bound_ms: float, ask: Ask
) -> None:
    """The time is taken in the middle of a round trip, and the bound is half of that: it covers the bias.

    The closest of five looks each: other work on the machine only widens them.
    """
    before, after = (min((ask("look", way) for _ in range(5)), key=itemgetter("bound_ns")) for way in ({}, ways))
    assert before["offset_ns"] < -AHEAD_S * 0.99e9, "its clock is far ahead"
    moved = (after["offset_ns"] - before["offset_ns"]) / 1e6
    rest = (after["bound_ns"] + before["bound_ns"]) / 1e6 - bound_ms  # half of all else that the two round trips took
    assert 0 < rest < 1
    assert abs(moved - bias_ms) <= rest
    assert after["bound_ns"] / 1e6 >= bound_ms


@pytest.mark.long
def test_a_latency_by_two_clocks_that_is_not_that_of_one_is_said(ask: Ask) -> None:
    """The publisher reads its own messages back by one clock, over a way that is not longer."""
    assert "clock" not in ask("begin", {("broker", "a"): 20.0, ("broker", "b"): 20.0})
    found = ask("begin", {("broker", "a"): 20.0, ("broker", "b"): 60.0})
    said = r"a message takes 6\d ms to its consumer by two clocks, but 2\d ms back to its publisher by one, .*"
    assert re.fullmatch(said, found["clock"])


@pytest.mark.long
def test_a_long_way_of_the_clock_leaves_a_latency_unknown(ask: Ask) -> None:
    found = ask("carry", {("broker", "b"): 30.0, ("bench", "b"): 5.0, ("b", "bench"): 5.0})
    assert 5 < found["clock_bound_ms"] < 8
    assert found["latency_ms"]["p50"] is None
    assert re.match(r"p50\b.*: below ten times the [5-7](\.\d)? ms that the clocks may be apart", found["clock"])
    assert found["latencies"]["publish"]["p50"] is not None, "of one clock"


# --- a cluster on hosts of its own ---

MANY = 400_000


def lose_the_leader(where: str, network: str) -> None:
    """On the host "bench": carry messages over a Kafka of three hosts, and kill the leader of their topic meanwhile.

    Prints what the bench and the brokers have counted, and how many the topic had when its leader was killed.
    """
    process.listens = listening  # a member is not on loopback, where it would be looked for

    async def carried(found: workers.Cluster) -> dict[str, Any]:
        java = [find_java(), *SERVER_OPTIONS, "-cp", os.pathsep.join(map(str, await fetched()))]
        async with process.launched(lambda folder: spread(folder, java, network), begin) as broker:
            os.environ["GREET_KAFKA_URL"] = broker.url
            who = next(one for one in CONTENDERS if one.design == "kafka" and one.way == "many")
            async with session(Settings((who.design,), (who,)), found.executor) as opened:
                made, cell = opened.sites["kafka"].made, Cell(who, Guarantee.DURABLE)
                await opened.once(cell, 50_000)
                before = {*made}
                measuring = asyncio.ensure_future(opened.measured(cell, MANY))
                while not ({*made} - before):
                    await asyncio.sleep(0.05)
                (topic,) = {*made} - before
                counted = ends(broker, topic, 0)
                while counted[1] < MANY / 4:
                    counted = await asyncio.to_thread(ends, broker, topic, MANY / 4)
                leader, then = counted
                await broker.kill(leader)
                (figures,) = await measuring
                after, count = await asyncio.to_thread(ends, broker, topic, MANY)
                return {**figures.fields, "leaders": [leader, after], "then": then, "count": count}

    with workers.dask(where) as found:
        print(json.dumps(asyncio.run(carried(found))), flush=True)


async def listening(port: int) -> bool:  # noqa: ARG001
    return True


def spread(folder: Path, java: Sequence[str], network: str) -> process.Broker:
    """A Kafka with each member on its host."""
    broker = prepare(folder, java, len(KAFKA), {}, None)
    for node, host in zip(broker.nodes, KAFKA, strict=True):
        node.command = [*at(network, host), *node.command]
        node.url = node.url.replace("127.0.0.1", HOSTS[host])
    files = [node.log.with_name("server.properties") for node in broker.nodes]
    for host, file in zip(KAFKA, files, strict=True):
        (own,) = re.findall(
            r"^listeners=PLAINTEXT://(127.0.0.1:\d+),CONTROLLER://(127.0.0.1:\d+)$", file.read_text(), re.MULTILINE
        )
        for one in own:
            for each in files:
                each.write_text(each.read_text().replace(one, one.replace("127.0.0.1", HOSTS[host])))
    broker.url = "kafka://" + ",".join(node.url.partition("://")[2] for node in broker.nodes)
    return broker


def ends(broker: process.Broker, topic: str, least: float) -> tuple[int, int]:
    """The leader of a topic of one partition, and how many messages it has; asked again until it has `least`."""
    from confluent_kafka import KafkaException, TopicCollection, TopicPartition
    from confluent_kafka.admin import AdminClient, OffsetSpec

    deadline = time.monotonic() + 60
    while True:
        # A client that lives on goes on asking a member that is dead.
        admin = AdminClient({"bootstrap.servers": broker.url.partition("://")[2], "log_level": 0})
        with suppress(KafkaException):
            (described,) = admin.describe_topics(TopicCollection([topic]), request_timeout=5).values()
            (partition,) = described.result().partitions
            asked = {TopicPartition(topic, 0): OffsetSpec.latest()}
            (told,) = admin.list_offsets(asked, request_timeout=5).values()
            if partition.leader and (count := told.result().offset) >= least:
                return partition.leader.id, count
        assert time.monotonic() < deadline, "the topic has no leader, or not so many messages"
        time.sleep(0.05)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_cluster_whose_leader_is_killed_has_what_the_bench_has_counted(network: Network, tmp_path: Path) -> None:
    """Brokers on three hosts, the publisher and the consumer on two others.

    Kafka takes about as long to replace a leader as a consumer of the bench waits. One that gave up has another
    after it, and the row says so.
    """
    with cluster(network, tmp_path) as real:
        script = (
            f"import test_hosts; test_hosts.lose_the_leader({str(real.folder / 'scheduler.json')!r}, {network.name!r})"
        )
        said = subprocess.run(
            [*network.at("bench"), sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": PATH}, stdout=subprocess.PIPE, text=True, timeout=240, check=True,
        ).stdout  # fmt: skip
    found = json.loads(said.splitlines()[-1])
    killed, after = found["leaders"]
    assert killed != after
    assert MANY / 4 <= found["then"] < MANY
    assert [found[what] for what in ("sent", "accepted", "received", "count")] == [MANY] * 4
    assert [found[what] for what in ("lost", "duplicates", "reordered")] == [0, 0, 0]
    given_up = (
        r"\d+ messages came only to a reader that was started later: the others had heard nothing for 10 s or more"
    )
    assert re.fullmatch(given_up, found["error"] or "") or found["error"] is None


# --- what is cut off ---

RARE = ("--designs", "rabbitmq", "--questions", "wake_up", "--rounds", "2")


@contextmanager
def cut_in_mid_run(host: str, network: Network, folder: Path) -> Iterator[tuple[Real, subprocess.Popen[str]]]:
    """A run whose first row is there and whose second has begun when `host` is cut off."""
    with (
        cluster(network, folder) as real,
        running(
            *(folder / "results", *RARE, "--workers", real.where),
            before=network.at("bench"),
            GREET_RABBITMQ_URL=network.url,
        ) as process,
    ):
        assert process.stdout
        assert json.loads(process.stdout.readline())["error"] is None
        time.sleep(2)
        assert real.children()
        with network.cut(host):
            yield real, process


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_host_that_is_cut_off_fails_its_row_and_the_run_goes_on(network: Network, tmp_path: Path) -> None:
    with cut_in_mid_run("b", network, tmp_path) as (real, process):
        status, rows, complaints = ended(process, 120)
        assert status == 1
        assert [row["error"] for row in rows if row["error"]] == [f"the worker at {HOSTS['b']} died"]
        assert rows[-1]["error"] is None, "with another host that consumes"
        assert f"the worker at {HOSTS['b']} died" in complaints
        assert len(complaints.splitlines()) == 1, complaints
        until(lambda: not real.children(), tmp_path / "b.log", 60)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("host", ["scheduler", "bench"])
def test_a_scheduler_that_is_cut_off_ends_the_run_in_a_line(host: str, network: Network, tmp_path: Path) -> None:
    with cut_in_mid_run(host, network, tmp_path) as (real, process):
        status, _, complaints = ended(process, 60)
        assert status == 1
        assert f"the Dask scheduler at tcp://{HOSTS['scheduler']}:" in complaints
        assert " is gone: stopped, and the run is INCOMPLETE\n" in complaints
        until(lambda: not real.children(), tmp_path / "a.log", 60)
