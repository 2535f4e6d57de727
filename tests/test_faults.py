"""When things break: nothing accepted is lost, nothing is invented, and the instrument would see it if it were."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path

import aio_pika
import pandas as pd
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient

import greet
from bench import contenders, faults, results, run
from bench.faults import Arena, Trial, Verdict, arena, breaches, tampered
from bench.questions import faults as question
from greet import Guarantee
from greet.brokers import Broker, process

AMO, ALO, DURABLE = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE
QUICK = {"broker.session.timeout.ms": "2000", "broker.heartbeat.interval.ms": "500"}  # a killed Kafka is let in sooner
SOONER = {"rabbitmq": "heartbeat=1", "kafka": "timeout=12"}  # a half-open connection is noticed sooner
BOTH = ("rabbitmq", "kafka")

pytestmark = pytest.mark.timeout(400)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def arenas() -> AsyncIterator[dict[str, Arena]]:
    """Brokers that may be hurt."""
    async with AsyncExitStack() as stack:
        yield {
            "asyncio": await stack.enter_async_context(arena("asyncio")),
            "rabbitmq": await stack.enter_async_context(arena("rabbitmq")),
            "kafka": await stack.enter_async_context(arena("kafka", QUICK)),
        }


async def all_tried(arenas: dict[str, Arena], folder: Path, *trials: Trial) -> list[Verdict]:
    """Trials side by side, at most one of a design; each is counted again from its journals."""
    async with asyncio.TaskGroup() as group:
        found = [group.create_task(arenas[one.design].tried(one, folder / one.design)) for one in trials]
    verdicts = [task.result() for task in found]
    for trial, verdict in zip(trials, verdicts, strict=True):
        assert recount(folder / trial.design) == (
            *(verdict.sent, verdict.accepted, verdict.refused, verdict.unknown, verdict.received),
            *(verdict.lost, verdict.duplicates, verdict.unexpected),
        )
        password = arenas[trial.design].url.partition("://")[2].rpartition("@")[0].partition(":")[2] or "no password"
        assert not any(password in path.read_text() for path in (folder / trial.design).iterdir())
    return verdicts


def recount(folder: Path) -> tuple[int, ...]:
    """Another accountant, who knows of the journals what the docstring of bench/faults.py says."""
    names: dict[str, list[str]] = defaultdict(list)
    for path in folder.glob("*-*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        group = lines[0]["group"]
        for line in lines:
            if "name" in line and line["name"][4:6] != "99":
                names[line["event"] + group].append(line["name"])
    tried, accepted, refused = (names[event] for event in ("trying", "accepted", "refused"))
    groups = [names["handledhello"], names["handledgoodbye"]]
    unknown = len(set(tried) - set(accepted) - set(refused))
    return (
        *(len(tried), len(accepted), len(refused), unknown),
        sum(len(set(group) & set(tried)) for group in groups),
        sum(len(set(accepted) - set(group)) for group in groups),
        sum(times - 1 for group in groups for times in Counter(group).values()),
        sum(len(set(group) - set(tried)) for group in groups),
    )


@pytest.mark.parametrize(
    "fault",
    [
        *("member killed", "members come and go", "publisher killed", "broker killed", "broker hangs, then killed"),
        *("broker stopped", "connection cut", "connection half-open", "responses dropped"),
    ],
)
async def test_durable_loses_nothing_and_comes_back(arenas: dict[str, Arena], tmp_path: Path, fault: str) -> None:
    trials = [
        Trial(fault, design, DURABLE, pause_s=1, options=SOONER[design] if "half-open" in fault else "")
        for design in BOTH
    ]
    for trial, verdict in zip(trials, await all_tried(arenas, tmp_path, *trials), strict=True):
        assert breaches(trial, verdict) == []
        assert (verdict.lost, verdict.unexpected, verdict.came_though_refused) == (0, 0, 0)
        assert verdict.received >= 2 * verdict.accepted >= 2 * faults.STEADY
        assert verdict.recovered


@pytest.mark.parametrize("fault", ["member killed", "member raises", "members come and go"])
async def test_asyncio_gives_back_what_a_task_did_not_handle(
    arenas: dict[str, Arena], tmp_path: Path, fault: str
) -> None:
    trial = Trial(fault, "asyncio", ALO, times=3)
    (verdict,) = await all_tried(arenas, tmp_path, trial)
    assert breaches(trial, verdict) == []
    assert (verdict.lost, verdict.unknown, verdict.recovered) == (0, 0, True)


async def test_the_controls_find_losses(arenas: dict[str, Arena], tmp_path: Path) -> None:
    """If one of them finds nothing, then a zero elsewhere means nothing."""
    trials = [Trial(fault, design, grade, contender=name) for fault, design, grade, name in faults.CONTROLS]
    transient, unacknowledged, auto_commit = trials
    verdicts = await all_tried(arenas, tmp_path / "1", transient, unacknowledged)
    verdicts += await all_tried(arenas, tmp_path / "2", auto_commit)
    for trial, verdict in zip(trials, verdicts, strict=True):
        assert faults.is_control(trial)
        assert verdict.lost > 0, f"{trial}: {verdict}"
        assert breaches(trial, verdict) == []


def test_a_control_that_finds_nothing_is_a_breach() -> None:
    fault, design, grade, name = faults.CONTROLS[0]
    nothing = Verdict(9, 9, 0, 0, 18, 0, 0, 0, 0, 0, 0.1, 0.1, recovered=True, raised=None, error=None)
    assert re.search("proves nothing", breaches(Trial(fault, design, grade, contender=name), nothing)[0])
    assert breaches(Trial(fault, design, DURABLE), nothing) == []


def test_the_accountant_sees_each_tampering() -> None:
    names = [f"tamp{lane:02d}{number:010d}" for number in range(100) for lane in range(4)]
    assert tampered(names, names) == dict.fromkeys(("nothing", "dropped", "doubled", "altered", "swapped"), True)


def test_growth_is_noticed() -> None:
    steady = [{"rss_mb": 50.0 + number % 2, "fds": 20, "threads": 3, "tasks": 9} for number in range(40)]
    assert faults.grown(steady) == []
    leaking = [{**state, "fds": state["fds"] + number} for number, state in enumerate(steady)]
    assert faults.grown(leaking) == ["54.5 fds after 34.5"]


async def test_a_soak_of_a_moment(arenas: dict[str, Arena], tmp_path: Path) -> None:
    trial = Trial("soak", "asyncio", ALO, soak_s=5)
    (verdict,) = await all_tried(arenas, tmp_path, trial)
    assert breaches(trial, verdict) == []


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_question_has_every_fault_and_every_control(profile: str) -> None:
    settings = run.Settings(contenders.DESIGNS, tuple(contenders.every()), profile=profile)
    cells = question.cells(settings)
    there = {(cell.rung, cell.contender.design, cell.guarantee, cell.contender.name) for cell in cells}
    assert there >= set(faults.CONTROLS)
    assert question.ACCOUNTANT in {cell.rung for cell in cells}
    strongest = {"asyncio": ALO, "rabbitmq": DURABLE, "kafka": DURABLE}
    for kind, fault in faults.FAULTS.items():
        if profile == "full" or kind != "soak":
            assert there >= {(kind, design, strongest[design], "greet") for design in fault.designs}
    if profile == "full":
        kills = {cell.measure.keywords["trial"].times * cell.rounds for cell in cells if "killed" in cell.rung}  # type: ignore[union-attr]
        assert kills == {20}


def rows(*found: tuple[Trial, Verdict]) -> pd.DataFrame:
    lines = []
    for trial, verdict in found:
        figures = question._figures(trial, verdict, 1.0)
        params = {"way": "name", "phase": "together", "again": False, **figures.params}
        key = ("r", "faults", trial.design, trial.contender, trial.guarantee.name, params, 1)
        lines.append(asdict(results.Measurement(*key, **figures.fields)))
    return pd.json_normalize(lines, max_level=1)


def test_the_table_and_the_picture_say_what_became_of_the_names() -> None:
    fine = Verdict(9, 9, 0, 0, 18, 0, 2, 0, 0, 0, 0.1, 0.1, recovered=True, raised=None, error=None)
    found = rows(
        (Trial("broker killed", "kafka", DURABLE), fine),
        (Trial("broker killed", "rabbitmq", ALO), replace(fine, lost=5, gap_s=7.25)),
        (Trial("member killed", "kafka", ALO, contender="auto-commit"), replace(fine, lost=1)),
    )
    assert question.table(found).to_numpy().tolist() == [
        ["AT_LEAST_ONCE", "member killed: auto-commit", "–", "1 / 2 / 0.1 s (control)"],
        ["AT_LEAST_ONCE", "broker killed", "5 / 2 / 7.25 s (control)", "not tried"],
        ["DURABLE", "broker killed", "not tried", "0 / 2 / 0.1 s"],
    ]
    figure = question.picture(found)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["✗ 5 lost\n7.2 s", "2× 2 twice\n0.1 s"]


@pytest.mark.parametrize(("fault", "grade", "lost", "wrong"), [
    ("broker killed", DURABLE, 1, True), ("broker killed", ALO, 1, False), ("member killed", ALO, 1, True),
    ("connection cut", AMO, 1, False),
])  # fmt: skip
def test_only_a_broken_promise_makes_a_run_wrong(fault: str, grade: Guarantee, lost: int, wrong: bool) -> None:
    trial = Trial(fault, "rabbitmq", grade)
    verdict = Verdict(9, 9, 0, 0, 18, lost, 0, 0, 0, 0, 0.1, 0.1, recovered=True, raised=None, error=None)
    figures = question._figures(trial, verdict, 1.0)
    row = results.Measurement("r", "faults", "rabbitmq", "greet", grade.name, figures.params, 1, **figures.fields)
    assert row.wrong is wrong


# Clusters of three


@dataclass
class Traffic:
    """One publisher and one member in this process, that go on whatever is raised."""

    url: str
    topic: str
    sent: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    handled: list[str] = field(default_factory=list)

    async def publish(self) -> None:
        async with greet.connect(self.url, self.topic) as line:
            for number in count():
                name = f"clus00{number:010d}"
                self.sent.append(name)
                try:
                    await line.publish(name)
                    self.accepted.append(name)
                except greet.PublishFailed:
                    self.refused.append(name)
                except greet.PublishUnknown:
                    self.unknown.append(name)
                await asyncio.sleep(0.005)

    async def read(self, ready: asyncio.Event) -> None:
        async with greet.connect(self.url, self.topic) as line, line.subscribe("hello") as names:
            ready.set()
            while True:
                with suppress(greet.ConnectionLost):  # by its deadline; asked again, it goes on
                    self.handled.append(await anext(names))

    async def flows(self, seconds: float = 90) -> None:
        """Return when names that are published from now on are handled."""
        fresh = len(self.sent)

        def flowing() -> bool:
            return len({name for name in self.accepted if int(name[6:]) >= fresh}.intersection(self.handled)) >= 20

        assert await faults.until(flowing, seconds)


async def leader_of(broker: Broker, topic: str) -> int:
    """Which node leads; of a quorum queue, the one that it was declared at."""
    if not broker.url.startswith("kafka"):
        return 1
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.urls[0].partition("://")[2])
    await admin.start()
    try:
        (found,) = await admin.describe_topics([topic])
        return int(found["partitions"][0]["leader"])
    finally:
        await admin.close()


@pytest.mark.parametrize(("design", "options"), [("kafka", "replication=3"), ("rabbitmq", "queue_type=quorum")])
async def test_a_cluster_of_three(design: str, options: str, topic: str) -> None:
    """It outlives its leader, then another one; without two of them nothing is accepted, and nothing is lost."""
    start = {"kafka": lambda: greet.brokers.kafka(3, config=QUICK), "rabbitmq": lambda: greet.brokers.rabbitmq(3)}
    async with start[design]() as broker:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in broker.nodes)
        login = broker.url.partition("://")[2].rpartition("@")[0]
        url = f"{broker.url.partition(':')[0]}://{login}{'@' if login else ''}{hosts}/?timeout=10&{options}"
        traffic, ready = Traffic(url, topic), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(traffic.read(ready))]
            await ready.wait()
            tasks.append(group.create_task(traffic.publish()))
            await traffic.flows()

            leader = await leader_of(broker, topic)
            for node in (leader, leader % 3 + 1):
                await broker.kill(node)
                for _ in range(5):  # new ones are let in, though a host of the URL is gone
                    async with greet.connect(url, topic) as line, line.subscribe("goodbye"):
                        pass
                await traffic.flows()
                await broker.restart(node)
                await traffic.flows()

            await broker.kill(2)
            await broker.kill(3)
            alone = len(traffic.sent)
            assert await faults.until(lambda: len(traffic.sent) > alone + 1, 60)  # one was answered, and another begun
            assert [name for name in traffic.accepted if int(name[6:]) >= alone] == []
            await process.together(broker.restart(2), broker.restart(3))
            await traffic.flows()

            tasks[1].cancel()
            assert await faults.until(lambda: not set(traffic.accepted).difference(traffic.handled), 60)
            tasks[0].cancel()
        counted = faults.reckoned(traffic.sent, traffic.accepted, [traffic.handled])
        assert (counted.lost, counted.strangers, counted.reordered) == (0, 0, 0)
        assert not set(traffic.refused) & set(traffic.handled)


# Shutdown in the middle of work

SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])


def stream(length: int | None = None) -> Iterator[str]:
    """Names in a row, for ever if no length is given."""
    return (f"name-{number:07d}" for number in (count() if length is None else range(length)))


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m greet` as a process of its own, which is gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "greet", *arguments), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(90):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def feed(process: asyncio.subprocess.Process, names: Iterable[str]) -> None:
    """Write names to its standard input for as long as it reads."""
    assert process.stdin is not None
    with suppress(ConnectionError):
        for name in names:
            process.stdin.write(f"{name}\n".encode())
            await process.stdin.drain()


async def rest_of(url: str, topic: str, group: str, wanted: int) -> list[str]:
    """What still waits for a group: `wanted` names, or fewer if no more come."""
    found: list[str] = []
    async with greet.connect(url, topic) as line, line.subscribe(group) as names:
        with suppress(TimeoutError):
            while True:
                async with asyncio.timeout(20 if len(found) < wanted else 0.5):
                    found += await anext(names.batches())
    return found


@SIGNALS
@pytest.mark.parametrize("design", BOTH)
async def test_send_ends_with_what_it_had_accepted(
    request: pytest.FixtureRequest, topic: str, design: str, number: signal.Signals
) -> None:
    url = request.getfixturevalue(f"{design}_url")
    async with greet.connect(url, topic) as line, line.subscribe("hello"):
        pass
    async with command("send", "--url", url, "--topic", topic, "-") as process, asyncio.TaskGroup() as group:
        feeding = group.create_task(feed(process, stream()))
        await rest_of_one(url, topic)  # it is at work
        process.send_signal(number)
        _, said = await process.communicate()
        feeding.cancel()
    assert process.returncode == 128 + number
    found = re.fullmatch(r"greet: (\d+) names accepted \(DURABLE\)\n", said.decode())
    assert found, said
    accepted = int(found[1])
    assert ["name-0000000", *await rest_of(url, topic, "hello", accepted - 1)] == list(stream(accepted))


async def rest_of_one(url: str, topic: str) -> None:
    """Take the first name."""
    async with asyncio.timeout(60), greet.connect(url, topic) as line, line.subscribe("hello") as names:
        assert await anext(names) == "name-0000000"


@SIGNALS
@pytest.mark.parametrize("design", BOTH)
async def test_consume_settles_what_it_has_greeted(
    request: pytest.FixtureRequest, topic: str, design: str, number: signal.Signals
) -> None:
    url = request.getfixturevalue(f"{design}_url")
    names = list(stream(20_000))
    async with greet.connect(url, topic) as line:
        async with line.subscribe("hello"):
            pass
        await line.publish_many(names)
    async with command("consume", "--url", url, "--topic", topic, "--as", "hello") as process:
        assert process.stdout is not None
        first = await process.stdout.readline()
        process.send_signal(number)
        output, _ = await process.communicate()
    assert process.returncode == 0
    greeted = (first + output).decode().splitlines()
    rest = await rest_of(url, topic, "hello", len(names) - len(greeted))
    assert [*greeted, *map(greet.hello, rest)] == list(map(greet.hello, names))


@SIGNALS
@pytest.mark.parametrize("design", ["asyncio", *BOTH])
async def test_run_greets_what_it_had_accepted(
    request: pytest.FixtureRequest, topic: str, design: str, number: signal.Signals
) -> None:
    url = "asyncio:" if design == "asyncio" else request.getfixturevalue(f"{design}_url")
    async with command("run", "--url", url, "--topic", topic, "-") as process, asyncio.TaskGroup() as group:
        feeding = group.create_task(feed(process, stream()))
        assert process.stdout is not None
        first = await process.stdout.readline()
        process.send_signal(number)
        output, said = await process.communicate()
        feeding.cancel()
    lines = (first + output).decode().splitlines()
    hellos, goodbyes = ([line for line in lines if line.startswith(word)] for word in ("hello", "goodbye"))
    assert (process.returncode, said) == (128 + number, b"")
    assert hellos == [greet.hello(name) for name in stream(len(hellos))]
    assert goodbyes == [greet.goodbye(name) for name in stream(len(hellos))]


# Dead letters on the command line


@pytest.mark.parametrize("design", BOTH)
async def test_dead_letters_are_listed_and_sent_again(request: pytest.FixtureRequest, topic: str, design: str) -> None:
    url = request.getfixturevalue(f"{design}_url")
    hostile = [b"\x1b[31mred", b"\xff\xfe", b""]
    where = ("dead", "--url", url, "--topic", topic)
    async with greet.connect(url, topic) as line, line.subscribe("hello") as names:
        await line.publish("Ada")
        await put(url, topic, hostile)
        await line.publish("Zoë")
        assert [await anext(names), await anext(names)] == ["Ada", "Zoë"]
        async with asyncio.timeout(30):
            while len(await line.dead_letters()) < len(hostile):  # the broker moves them in its own time
                pass
    async with command(*where) as process:
        output, _ = await process.communicate()
    lines = output.decode().splitlines()
    assert (process.returncode, len(lines)) == (0, len(hostile))
    assert all(line.replace("\t", "").isprintable() and topic in line and "hello" in line for line in lines)
    async with command(*where, "--resend") as process:
        _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"greet: 3 sent again\n")
    async with command(*where) as process:
        assert await process.communicate() == (b"", b"")


async def put(url: str, topic: str, bodies: list[bytes]) -> None:
    """Messages of another client, which knows nothing of names."""
    if url.startswith("kafka"):
        async with AIOKafkaProducer(bootstrap_servers=url.partition("://")[2].partition("?")[0]) as producer:
            for body in bodies:
                await producer.send_and_wait(topic, body)
    else:
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            exchange = await channel.get_exchange(topic)
            for body in bodies:
                await exchange.publish(aio_pika.Message(body), "")
