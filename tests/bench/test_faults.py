"""When things break: nothing accepted is lost, nothing is invented, and the instrument would see it if it were."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import aio_pika
import pandas as pd
import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from common import carried, listening, on_loopback, take

import greet
from bench import contenders
from bench.contenders.cleanup import removed
from bench.faults import duty, injections, recount
from bench.faults.arena import SOONER, Arenas, Campaign, arenas
from bench.faults.catalogue import CONTROLS, FAULTS, breaches
from bench.faults.injections import control
from bench.faults.journal import Journal, grown, tampered
from bench.faults.stage import STEADY, Pool, Scene, Stage, Trial, Verdict
from bench.measure.run import session
from bench.model import DESIGNS, Measurement, Settings
from bench.questions import faults as question
from bench.show import plots
from greet import Guarantee
from greet.brokers.process import Node
from greet.designs import RABBITMQ, named
from greet.line import Line

AMO, ALO, DURABLE = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE, Guarantee.DURABLE
BOTH = ("rabbitmq", "kafka")
NOTICED = (("rabbitmq", "heartbeat=1"), ("kafka", "timeout=12"))  # a half-open connection, sooner than by default

pytestmark = [pytest.mark.timeout(600), pytest.mark.long]  # twelve servers start for the clusters


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def ground() -> AsyncIterator[Arenas]:
    """Brokers that may be hurt."""
    async with arenas(SOONER) as found:
        yield found


async def fought(ground: Arenas, folder: Path, campaign: Campaign) -> dict[Trial, Verdict]:
    """The verdicts of a campaign, without a breach. Each is counted again from its journals, which hold no password."""
    found = await ground.fight(campaign, folder)
    verdicts = {trial: verdict for trial, verdict in found.items() if not isinstance(verdict, str)}
    assert verdicts.keys() == set(campaign.trials), found
    broken = {str(trial): breaches(trial, verdict) for trial, verdict in verdicts.items()}
    assert not any(broken.values()), broken
    for trial, verdict in verdicts.items():
        again = recount.recount(folder / str(trial))
        if verdict.reordered is None:
            del again["reordered"]
        assert again.items() <= asdict(verdict).items()
        url = (await ground.at(trial.design, FAULTS[campaign.fault].nodes)).url
        password = url.partition("://")[2].rpartition("@")[0].partition(":")[2] or "no password"
        assert not any(password in path.read_text() for path in (folder / str(trial)).iterdir())
    return verdicts


def strongest(fault: str) -> list[Trial]:
    """What the fault means something to, each with what it promises at most."""
    return [Trial(fault, design, ALO if design == "asyncio" else DURABLE) for design in FAULTS[fault].designs]


@pytest.mark.parametrize(
    "fault",
    [
        *(fault for fault, what in FAULTS.items() if what.nodes == 1 and fault not in ("soak", "connection slow")),
        "cluster: the next one killed too",
    ],
)
async def test_nothing_accepted_is_lost_and_names_flow_again(ground: Arenas, tmp_path: Path, fault: str) -> None:
    """The controls beside it lose names: if one of them did not, then a zero elsewhere would mean nothing."""
    trials = (*strongest(fault), *(one for one in CONTROLS if one.fault == fault))
    options = NOTICED if "half-open" in fault else ()
    times = 2 if fault == "member killed" else 1  # in the middle of handling, and at any moment
    verdicts = await fought(ground, tmp_path, Campaign(fault, trials, times, pause_s=2, options=options))
    for trial, verdict in verdicts.items():
        if trial in CONTROLS:
            assert verdict.lost
        else:
            assert (verdict.lost, verdict.unexpected, verdict.came_though_refused) == (0, 0, 0)
            assert verdict.received >= 2 * verdict.accepted >= 2 * STEADY
            assert verdict.recovered or verdict.raised  # by its deadline
            assert verdict.gap_s is not None


@pytest.mark.parametrize("design", [one for one in DESIGNS if not named(one).in_process])
def test_nothing_is_lost_as_long_as_the_broker_may_give_it_back(tmp_path: Path, design: str) -> None:
    """A share group gives back what went into a silent connection when its lock ends: 60 s later, measured."""
    for fault, what in FAULTS.items():
        stage = Stage(Trial(fault, design, DURABLE), what, tmp_path / fault, Pool(), url="", around="")
        stage.log.close()
        assert stage.quiet_s > named(design).lends_for
        assert stage.quiet_s >= what.quiet_s


@pytest.mark.parametrize("design", [one for one in DESIGNS if not named(one).in_process])
async def test_a_cluster_of_three_outlives_a_member(ground: Arenas, design: str) -> None:
    broker = (await ground.at(design, 3)).broker
    assert broker
    assert len(set(broker.pids)) == len(set(broker.urls)) == 3
    assert [address for address, _ in listening(broker.folder) if not on_loopback(address)] == []
    if design == "rabbitmq":  # members of one cluster: what is declared through the third is there at the first
        assert await carried(broker.urls[2], "Ada", "across") == "Ada"
        async with greet.connect(broker.url, topic="across") as line:
            await line.publish("Bo")
        async with greet.connect(broker.urls[2], topic="across") as line, line.subscribe("hello") as names:
            assert await take(names, 1) == ["Bo"]
    await broker.kill(1)
    assert len(broker.pids) == 2
    assert await carried(broker.url, "Cy", "without-1") == "Cy"
    await broker.restart(1)
    assert len(broker.pids) == 3
    assert await carried(broker.urls[0], "Di", "with-1") == "Di"


@pytest.mark.parametrize("design", ["rabbitmq", "kafka", "rabbitmq-stream"])
async def test_what_a_run_made_is_removed_while_a_member_is_gone(ground: Arenas, design: str) -> None:
    """Within the deadline: it takes RabbitMQ seconds to delete a quorum queue of which a member does not answer.

    A share group is removed as any other of Kafka's, once its members are known to be gone: that may take 45 s.
    """
    arena = await ground.at(design, 3)
    assert arena.broker
    made = {f"removed-{design}-{number}": ("hello", "goodbye") for number in range(8)}
    for topic in made:
        assert await carried(arena.url, "Ada", topic) == "Ada"
    await arena.broker.kill(3)
    try:
        await removed(design, arena.url, made)  # of Kafka it looks itself until no topic is there
        if named(design).product is RABBITMQ:
            assert "removed-" not in await control(arena.broker.nodes[0], "list_queues", "name")
    finally:
        await arena.broker.restart(3)


@pytest.mark.parametrize(
    ("design", "path"),
    [
        ("rabbitmq", "plain"),
        ("rabbitmq-stream", "fast"),
        ("kafka", "plain"),
        ("kafka", "fast"),
        ("kafka-share", "plain"),
    ],
)
async def test_who_asks_with_short_time_outs_is_told_of_a_lost_broker_and_reads_on(
    ground: Arenas, topic: str, design: str, path: str
) -> None:
    broker = (await ground.at(design, 1)).broker
    assert broker
    url = named(design).url(broker.url)
    url += f"{'&' if '?' in url else '?'}timeout=4&path={path}"

    async def ask(names: greet.Subscription) -> str | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                return await anext(names)
        return None

    async with greet.connect(url, topic) as line:
        with suppress(greet.ConnectionLost):  # names may have been left unsettled
            async with line.subscribe("hello") as names, asyncio.timeout(120):
                await line.publish("Ada")
                while await ask(names) is None:
                    pass
                assert await ask(names) is None  # so Ada is settled
                await asyncio.sleep(3)  # RabbitMQ may not find a stream again that was created just before it is killed
                await broker.kill()
                with pytest.raises(greet.ConnectionLost):
                    while True:
                        await ask(names)
                await broker.restart()
                while True:
                    with suppress(greet.GreetError):
                        await line.publish("Zoë")
                        break
                got = None
                while got is None:
                    with suppress(greet.ConnectionLost):
                        got = await ask(names)
                assert got in ("Zoë", "Ada")


@pytest.mark.parametrize("path", ["fast", "plain"])
async def test_what_was_dealt_out_by_a_node_that_is_killed_comes_again_before_later_names(
    ground: Arenas, path: str
) -> None:
    """Not when that node is back, as RabbitMQ 4.3 has it by default."""
    broker = (await ground.at("rabbitmq", 3)).broker
    assert broker
    login, hosts = broker.url.rstrip("/").rpartition("@")[0], broker.url.rstrip("/").rpartition("@")[2].split(",")

    def line_to(*order: int) -> Line:
        there = ",".join(hosts[place] for place in order)
        return greet.connect(f"{login}@{there}/?queue_type=quorum&timeout=20&path={path}", f"dealt-out-{path}")

    names = [f"{number:02d}" for number in range(40)]
    async with line_to(1, 2, 0) as publisher, line_to(0, 1, 2) as line, line.subscribe("hello") as hellos:
        await publisher.publish_many(names[:20])
        assert await take(hellos, 5) == names[:5]
        await asyncio.sleep(1)  # the rest is in hand, and the broker knows those settled
        await broker.kill(1)
        try:
            later = asyncio.create_task(publisher.publish_many(names[20:]))
            await asyncio.sleep(0.5)  # the member notices, and forgets what it has in hand
            assert await take(hellos, 35) == names[5:]
            await later
        finally:
            await broker.restart(1)


async def test_a_soak_of_a_moment(ground: Arenas, tmp_path: Path) -> None:
    trial = Trial("soak", "asyncio", ALO)
    await fought(ground, tmp_path, Campaign("soak", (trial,), soak_s=2))


def test_a_control_that_finds_nothing_is_a_breach() -> None:
    nothing = Verdict(9, 9, 0, 0, 18, 0, 0, 0, 0, 0)
    assert re.search("proves nothing", breaches(CONTROLS[0], nothing)[0])
    assert breaches(replace(CONTROLS[0], guarantee=DURABLE), nothing) == []


def over_asyncio(folder: Path, url: str = "asyncio:?maxsize=1") -> Stage:
    """With room for one message, so that a flood is held back soon."""
    trial = Trial("member killed", "asyncio", ALO)
    return Stage(trial, FAULTS["member killed"], folder, Pool(), url=url, around=url)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Messages that flow over asyncio, without a fault."""
    stage = over_asyncio(tmp_path / "stage")
    await stage.begin()
    yield stage
    await stage.close()


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return Scene([stage], Pool(), random.Random(0), pause_s=1.5)


async def test_no_publisher_takes_the_place_of_one_that_ends_before_the_end(stage: Stage) -> None:
    """Its messages would come behind the end markers, and count as lost."""
    (publisher,) = stage.of("publisher")
    assert publisher.task
    publisher.task.cancel()
    await stage.until(lambda: publisher.over, "the publisher did not end")
    await stage.drain()
    await stage.dismiss("publisher", "member")
    assert [one.duty.role for one in stage.workers] == ["member", "member", "publisher"]
    verdict = stage.verdict()
    assert (verdict.lost, verdict.error) == (0, "a publisher ended by itself: killed")


@pytest.mark.parametrize(("trouble", "error", "raised"), [
    (ValueError("odd"), "a member was told to end, and failed: ValueError: odd", None),
    (greet.ConnectionLost("gone"), None, "a member was told to end, and failed: ConnectionLost: gone"),
])  # fmt: skip
async def test_an_error_of_who_is_told_to_end_is_told(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, trouble: Exception, error: str | None, raised: str | None
) -> None:
    await stage.drain()
    leaving_fails(monkeypatch, trouble)
    await stage.dismiss("publisher", "member")
    verdict = stage.verdict()
    assert (verdict.lost, verdict.recovered, verdict.error, verdict.raised) == (0, True, error, raised)


def leaving_fails(monkeypatch: pytest.MonkeyPatch, trouble: Exception) -> None:
    write = Journal.write

    def fails(journal: Journal, event: str, *more: object, **fields: object) -> None:
        if event == "left":
            raise trouble
        write(journal, event, *more, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "write", fails)


async def test_who_leaves_with_an_error_before_the_broker_is_killed_is_told_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = over_asyncio(tmp_path / "stage", "asyncio:")
    scene = Scene([stage], Pool(), random.Random(0))
    try:
        await stage.begin()
        with monkeypatch.context() as patched:
            leaving_fails(patched, greet.ConnectionLost("gone"))
            (away,) = await injections._names_wait(scene)
        assert away.over
        assert stage.errors == []
        await scene.flowing()
        (other,) = stage.of("member", away.duty.group)
        assert other is not away
        await stage.dismiss("publisher", "member")
        verdict = stage.verdict()
        assert (verdict.recovered, verdict.error) == (False, None)
        assert verdict.raised == "a member ended by itself: ConnectionLost: gone"
    finally:
        await stage.close()


async def nothing() -> None:
    """Is done to nobody."""


async def test_a_flood_that_is_stuck_is_the_fault_of_its_stage_alone(scene: Scene, tmp_path: Path) -> None:
    other = over_asyncio(tmp_path / "other")
    until = other.until

    async def stuck(true: Callable[[], bool], what: str, seconds: float = 9.0) -> None:
        if "did not go on" in what:
            raise TimeoutError("stuck")
        await until(true, what, seconds)

    other.until = stuck  # type: ignore[method-assign]
    scene.stages.insert(0, other)
    try:
        await other.begin()
        await injections._flood(scene, nothing, nothing)
        assert [one.failed for one in scene.stages] == [True, False]
        assert other.errors[-1] == "TimeoutError: stuck"
    finally:
        await other.close()


async def test_a_flood_that_ends_because_it_is_large_was_not_held_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (duty, injections):
        monkeypatch.setattr(module, "MOST_FLOOD", 50, raising=False)
    await injections._flood(scene, nothing, nothing)
    assert scene.stages[0].errors == ["50 messages went out to a broker that takes none, and more would"]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_limit_of_memory_is_what_it_was_before_the_alarm(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Where it cannot be set back, the broker is started again, which has its own limit then."""
    told: list[str] = []

    async def said(_: object, *words: str) -> str:
        told.append(words[-1])
        if fails and len(told) == 3:
            raise ChildProcessError("rabbitmqctl failed")
        return "0.4\n"

    class Started:
        nodes = (None,)

        async def restart(self) -> None:
            told.append("restart")

    monkeypatch.setattr(injections, "control", said)
    scene.broker = Started()  # type: ignore[assignment]
    with pytest.raises(ChildProcessError) if fails else nullcontext():
        await injections.alarm(scene)
    assert told[1:] == ["0.00001", "0.4", *(["restart"] if fails else [])]


async def test_a_missing_rabbitmqctl_is_told(tmp_path: Path) -> None:
    """As the file of GREET_RABBITMQ_SERVER may stand alone."""
    server = str(tmp_path / "rabbitmq-server")
    node = Node("amqp://", 0, [server], {"RABBITMQ_NODENAME": "greet1@127.0.0.1"}, tmp_path / "log", "beam.smp")
    with pytest.raises(ChildProcessError, match=f"no rabbitmqctl beside {re.escape(server)}"):
        await control(node, "status")


async def test_a_campaign_that_goes_wrong_is_told_and_not_fought_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second time it would read the journals of the first one too."""
    fought = []

    async def odd(_: Scene) -> None:
        fought.append(1)
        raise ValueError("odd")

    monkeypatch.setitem(FAULTS, "member raises", replace(FAULTS["member raises"], inject=odd))
    settings = Settings(("asyncio",), tuple(contenders.every()))
    cells = [cell for cell in question.cells(settings) if cell.rung == "member raises"]
    assert len(cells) > 1
    async with session(settings, ThreadPoolExecutor) as opened:
        found = [figures.fields["error"] for cell in cells for figures in await opened.measured(cell, 0)]
    assert (found, fought) == (["ValueError: odd"] * len(cells), [1])


def test_a_ctrl_c_waits_while_the_server_of_the_processes_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = []

    def start(_: object) -> None:
        blocked.append(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    monkeypatch.setattr(ForkServerProcess, "start", start)
    Pool().prepare(1)
    assert blocked == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_on_windows_the_faults_are_left_out_and_the_rest_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no server that forks processes."""
    without = "import multiprocessing.context as one; del one.ForkServerProcess"
    command = [sys.executable, "-c", f"{without}; from bench.__main__ import main; main(['list'])"]
    assert "faults" in subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    settings = Settings(("asyncio",), ())
    assert question.lacking(settings) == ""
    monkeypatch.setattr(sys, "platform", "win32")
    assert "Windows" in question.lacking(settings)


def test_the_accountant_sees_each_tampering() -> None:
    names = [f"tamp{lane:02d}{number:010d}" for number in range(100) for lane in range(4)]
    assert tampered(names, names) == dict.fromkeys(("nothing", "dropped", "doubled", "altered", "swapped"), True)


def test_the_other_accountant_sees_each_tampering(tmp_path: Path) -> None:
    """It runs by itself, and counts what was written by hand."""
    names = [f"tamp00{number:010d}" for number in range(6)]

    def journal(file: str, group: str, *events: tuple[str, str]) -> None:
        lines = [{"t": 0, "event": "started", "group": group}]
        lines += [{"t": t, "event": event, "name": name} for t, (event, name) in enumerate(events, start=1)]
        (tmp_path / file).write_text("".join(json.dumps(line) + "\n" for line in lines))

    answers = [("accepted", name) for name in names[:4]] + [("refused", names[4])]
    journal("publisher-1.jsonl", "", *(("trying", name) for name in names), *answers)
    journal("member-2.jsonl", "hello", *(("handled", name) for name in (*names[:4], "tamp990000000000")))
    swapped, altered, doubled = (names[1], names[0]), "tamp00000000000x", (names[2], names[2])
    journal("member-3.jsonl", "goodbye", *(("handled", name) for name in (*swapped, *doubled, altered)))
    command = [sys.executable, recount.__file__, str(tmp_path)]
    said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout)
    assert said == {
        "sent": 6,
        "accepted": 4,
        "refused": 1,
        "unknown": 1,
        "received": 7,
        "lost": 1,
        "duplicates": 1,
        "reordered": 1,
        "unexpected": 1,
    }


def test_growth_is_noticed() -> None:
    steady = [{"rss_mb": 50.0 + number % 2, "fds": 20, "threads": 3, "tasks": 9} for number in range(40)]
    assert grown(steady) == []
    leaking = [{**state, "fds": state["fds"] + number} for number, state in enumerate(steady)]
    assert grown(leaking) == ["54.5 fds after 34.5"]


@pytest.mark.parametrize("profile", ["quick", "full"])
def test_the_question_has_every_fault_and_every_control(profile: str) -> None:
    settings = Settings(DESIGNS, tuple(contenders.every()), profile=profile)
    cells = question.cells(settings)
    there = {Trial(cell.rung, cell.contender.design, cell.guarantee, cell.contender.name) for cell in cells}
    assert there >= set(CONTROLS)
    assert question.ACCOUNTANT in {cell.rung for cell in cells}
    for fault, what in FAULTS.items():
        assert there >= set(strongest(fault)) or (profile == "quick" and not what.quick)
    if profile == "full":
        campaigns = {cell.rung: cell.measure.keywords["campaign"] for cell in cells if "killed" in cell.rung}  # type: ignore[union-attr]
        assert {one.times for fault, one in campaigns.items() if "cluster" not in fault} == {20}


def rows(*found: tuple[Trial, Verdict]) -> pd.DataFrame:
    lines = []
    for trial, verdict in found:
        figures = question._figures(Campaign(trial.fault, (trial,), 20), trial, verdict, 1.0)
        params = {"way": "name", "phase": "together", "again": False, **figures.params}
        key = ("r", "faults", trial.design, trial.contender, trial.guarantee.name, params, 1)
        lines.append(asdict(Measurement(*key, **figures.fields)))
    return pd.json_normalize(lines, max_level=1)


def test_the_table_and_the_picture_say_what_became_of_the_names() -> None:
    fine = Verdict(9, 9, 0, 0, 18, 0, 2, 0, 0, 0, gap_s=0.1)
    found = rows(
        (Trial("broker killed", "kafka", DURABLE), fine),
        (Trial("broker killed", "rabbitmq", ALO), replace(fine, lost=5, gap_s=7.25)),
        (Trial("member killed", "kafka", ALO, contender="auto-commit"), replace(fine, lost=1)),
        (Trial("cluster: leader killed", "kafka", DURABLE), fine),
    )
    assert question.table(found).to_numpy().tolist() == [
        ["AT_LEAST_ONCE", "member killed: auto-commit", "20", "–", "1 / 2 / 0.1 s (control)"],
        ["AT_LEAST_ONCE", "broker killed", "20", "5 / 2 / 7.25 s (control)", "not tried"],
        ["DURABLE", "broker killed", "20", "not tried", "0 / 2 / 0.1 s"],
        ["DURABLE", "cluster: leader killed", "20", "not tried", "0 / 2 / 0.1 s"],
    ]
    figure = plots.draw(question.picture(found))
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said == ["✗ 5\n7.2 s", "–", "2× 2\n0.1 s", "2× 2\n0.1 s"]


def test_a_trial_that_failed_is_not_shown_as_one_that_lost_nothing() -> None:
    """Of a fault that failed and cost nothing else, the picture says so; the title counts what was counted."""
    fine = Verdict(9, 9, 0, 0, 18, 0, 0, 0, 0, 0, gap_s=0.1)
    failed = replace(fine, received=7, lost=None, recovered=False, error="TimeoutError: no messages flow")
    picture = question.picture(
        rows(
            (Trial("broker killed", "kafka", DURABLE), failed),
            (Trial("member killed", "kafka", ALO), replace(fine, lost=3)),
            (Trial("connection cut", "kafka", ALO), failed),
            (Trial("connection slow", "kafka", ALO), fine),
        )
    )
    assert picture.title == "Messages lost under 2 faults: AT_LEAST_ONCE 3"
    said = {text.get_text() for text in plots.draw(picture).axes[0].texts}
    assert said == {"failed", "✗ 3\n0.1 s", "✓\n0.1 s", "not\ntried"}


@pytest.mark.parametrize(("fault", "grade", "lost", "twice", "wrong"), [
    ("broker killed", DURABLE, 1, 0, True), ("broker killed", ALO, 1, 0, False), ("member killed", ALO, 1, 0, True),
    ("connection cut", AMO, 1, 0, False), ("broker killed", AMO, 0, 1, True), ("member killed", ALO, 0, 1, False),
])  # fmt: skip
def test_only_a_broken_promise_makes_a_run_wrong(
    fault: str, grade: Guarantee, lost: int, twice: int, wrong: bool
) -> None:
    trial = Trial(fault, "rabbitmq", grade)
    figures = question._figures(Campaign(fault, (trial,)), trial, Verdict(9, 9, 0, 0, 18, lost, twice, 0, 0, 0), 1.0)
    row = Measurement("r", "faults", "rabbitmq", "greet", grade.name, figures.params, 1, **figures.fields)
    assert row.wrong is wrong


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
        assert process.stdin is not None
        with suppress(ConnectionError):  # asked for: what nobody asks for is printed by asyncio, before Python 3.11.5
            process.stdin.close()
            await process.stdin.wait_closed()


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
        group.create_task(feed(process, stream()))
        await rest_of_one(url, topic)  # it is at work
        process.send_signal(number)
        _, said = await process.communicate()
    assert process.returncode == 128 + number
    found = re.fullmatch(r"greet: (\d+) names accepted \(DURABLE\)\n", said.decode())
    assert found, said
    accepted = int(found[1])
    assert ["name-0000000", *await rest_of(url, topic, "hello", accepted - 1)] == list(stream(accepted))


@pytest.mark.parametrize("design", BOTH)
async def test_send_says_what_was_accepted_when_the_broker_is_silent(ground: Arenas, topic: str, design: str) -> None:
    """Asked to end while nobody answers, it waits no longer than its deadline."""
    arena = await ground.at(design, 1)
    assert arena.broker
    url = f"{arena.url}?timeout=3"
    async with greet.connect(url, topic) as line, line.subscribe("hello"):
        pass
    async with command("send", "--url", url, "--topic", topic, "-") as process, asyncio.TaskGroup() as group:
        group.create_task(feed(process, stream()))
        await rest_of_one(arena.url, topic)
        await arena.broker.pause()
        try:
            process.send_signal(signal.SIGTERM)
            _, said = await process.communicate()
        finally:
            await arena.broker.resume()
    # What was under way is unknown, and named as that; unless the signal came between two lists of names.
    assert (process.returncode, len(said.splitlines())) in ((1, 2), (128 + signal.SIGTERM, 1))
    accepted = int(re.findall(rb"(\d+) names accepted", said)[0])
    rest = await rest_of(arena.url, topic, "hello", accepted - 1)
    assert ["name-0000000", *rest][:accepted] == list(stream(accepted))


@pytest.mark.parametrize("design", ["asyncio", *BOTH])
async def test_cancelling_at_any_await_doubles_and_loses_nothing(
    request: pytest.FixtureRequest, topic: str, design: str
) -> None:
    url = "asyncio:" if design == "asyncio" else request.getfixturevalue(f"{design}_url")
    names, accepted, got = list(stream(40)), [], list[str]()

    async def cancelled(work: Coroutine[object, object, None], ticks: int) -> bool:
        task = asyncio.create_task(work)
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        return task.cancelled()

    async def keep(hellos: greet.Subscription) -> None:
        got.append(await anext(hellos))

    async with asyncio.timeout(60), greet.connect(url, topic) as line, line.subscribe("hello") as hellos:
        for number, name in enumerate(names):
            if not await cancelled(line.publish(name), number**2):
                accepted.append(name)
        await line.publish("end")
        for number in count():
            await cancelled(keep(hellos), number % 50)
            if "end" in got:
                break
    assert len(got) == len(set(got))
    assert {*accepted, "end"} <= set(got) <= {*names, "end"}


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
        group.create_task(feed(process, stream()))
        assert process.stdout is not None
        first = await process.stdout.readline()
        process.send_signal(number)
        output, said = await process.communicate()
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
        assert await process.communicate() == (b"", f"greet: {topic} has no dead letters\n".encode())


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
