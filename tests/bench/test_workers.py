"""Workers on other machines: their clocks, their seats, and what becomes of a run when one of them is lost.

Hosts are addresses of loopback, each with a real Dask worker under a real scheduler. Foreign clocks are time
namespaces, which take root.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
import pytest

from bench import __main__ as command_line
from bench import results
from bench.contenders.greets import CONTENDERS
from bench.judge.answer import answer
from bench.judge.claims import verdicts
from bench.measure import clock, workers
from bench.measure.account import Series
from bench.measure.clock import Begun, ClockMoved, Echo, Look, Scale, bound_ns, known, look, worked
from bench.measure.loops import Receive, Received, Send, Sent, now
from bench.measure.pool import Lease, Unreached, seated
from bench.measure.run import session
from bench.measure.workers import Cluster, NoSeat, WorkerDied, WorkersLost, on_this_machine
from bench.model import Cell, Place, Settings
from greet import Guarantee

ROOT = Path(__file__).parents[2]
OURS = [one for one in CONTENDERS if one.design == "asyncio"]
PLACE = Place("asyncio:", "workers", Guarantee.AT_LEAST_ONCE)
AHEAD_S = 100_000
"""How far ahead a foreign clock is."""
UNSHARE = ("unshare", "--time", "--fork", "--monotonic", str(AHEAD_S))


def jobs(number: int = 500) -> list[Send | Receive]:
    return [
        Receive(OURS[0], PLACE, "g0", "abcd", 18, number, stamped=True),
        Send(OURS[0], PLACE, Series("abcd", 0, number), 2_000.0, start_ns=now() + 50_000_000),
    ]


@pytest.fixture
def lease() -> Iterator[Lease]:
    echo = Echo("127.0.0.1")
    yield echo.lease
    echo.close()


# --- clocks ---


def test_the_same_clock_is_found_to_be_the_same(lease: Lease) -> None:
    found = look(lease)
    assert abs(found.offset_ns) <= found.bound_ns < 5_000_000
    assert found.host == "127.0.0.1"


@pytest.mark.parametrize("ahead_s", [AHEAD_S, -AHEAD_S])
def test_another_clock_is_found_as_far_away_as_it_is(ahead_s: int, lease: Lease) -> None:
    """A stand-in tells the time that a machine whose clock is behind, or ahead, would tell."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))

        def answer() -> None:
            for _ in range(clock.ASKED):
                question, where = other.recvfrom(64)
                *_, turn = clock._QUESTION.unpack(question)
                other.sendto(clock._ANSWER.pack(turn, now() - ahead_s * 10**9, True), where)

        thread = Thread(target=answer, daemon=True)
        thread.start()
        found = look(replace(lease, clock_port=other.getsockname()[1]))
    assert abs(found.offset_ns + ahead_s * 10**9) <= found.bound_ns < 5_000_000


def test_who_is_not_there_or_does_not_know_the_token_is_told(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "PATIENCE_S", 0.01)
    monkeypatch.setattr(clock, "DEADLINE_NS", 100_000_000)
    with pytest.raises(Unreached, match=r"is not reached at 127.0.0.1:\d+ by UDP: let its workers through"):
        look(replace(lease, token=bytes(16)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        with pytest.raises(Unreached):
            look(replace(lease, clock_port=silent.getsockname()[1]))


def test_a_call_is_for_the_first_who_asks(lease: Lease) -> None:
    look(lease, call=7, who=1)
    look(lease, call=7, who=1)
    with pytest.raises(Begun, match="not done twice"):
        look(lease, call=7, who=2)
    look(lease, call=8, who=2)


def test_stamps_follow_a_clock_that_drifts_and_none_stays_none() -> None:
    scale = Scale(Look(1_000_000, 500, 10), Look(2_000_000, 700, 30))
    assert list(scale.stamps(np.array([0, 1_000_000, 1_500_000, 2_000_000]))) == [0, 1_000_500, 1_500_600, 2_000_700]
    assert (scale.stamp(1_500_000), scale.stamp(0), scale.bound_ns) == (1_500_600, 0, 30)
    assert len(scale.stamps(np.empty(0, np.int64))) == 0


def test_a_drift_is_borne_and_a_clock_that_was_set_is_not() -> None:
    second = 10**9
    Scale(Look(0, 0, 1_000), Look(second, 900_000, 1_000)).check()
    with pytest.raises(ClockMoved, match=r"the clock of h moved by 5.0 ms in 1.0 s"):
        Scale(Look(0, 0, 1_000, "h"), Look(second, 5_000_000, 1_000, "h")).check()


def test_what_is_below_ten_times_the_bound_is_not_known() -> None:
    assert known({"p50": 0.9, "p99": 1.0, "max": None}, 100_000) == {"p50": None, "p99": 1.0, "max": None}
    assert known({"p50": 0.0, "max": 0.1}, 0) == {"p50": 0.0, "max": 0.1}


def test_a_latency_by_two_clocks_is_held_against_one_by_a_single_clock() -> None:
    alone = np.array([900_000, 1_000_000, 1_100_000])
    assert clock.doubt(alone, alone + 600_000, 200_000, 0.5) == ""
    said = "a message takes 2 ms to its consumer by two clocks, but 1 ms back to its publisher by one, of which 0.2 ms"
    assert clock.doubt(alone, alone + 1_000_000, 200_000, 0.5).startswith(said)
    assert clock.doubt(alone, alone - 1_000_000, 200_000, 0.5).startswith("a message takes 0 ms to its consumer")
    assert clock.doubt(alone, alone[:2], 0, 0.5) == "", "the row tells what is missing"


def test_work_for_another_machine_is_on_its_clock_and_done_once(lease: Lease) -> None:
    before = now()
    outcomes = worked(lease, 1, jobs(), "select", 30)
    received, sent = outcomes
    assert isinstance(received, Received)
    assert isinstance(sent, Sent)
    assert (len(received.codes), received.error, sent.error) == (500, None, None)
    slack = received.bound_ns
    assert 0 < slack < 5_000_000
    assert before - slack <= sent.intended[0] < sent.ended_ns <= now() + slack
    assert sent.usage.pid >> 32 == 0x7F000001
    assert bound_ns(outcomes) == 0, "of one process"
    other = replace(sent, usage=replace(sent.usage, pid=1), bound_ns=5)
    assert bound_ns([received, sent, other]) == max(received.bound_ns, sent.bound_ns) + 5
    with pytest.raises(Begun):
        worked(lease, 1, jobs(), "select", 30)


# --- processes that end with a lease ---


def test_a_process_of_a_lease_stays_and_ends_with_it() -> None:
    echo = Echo("127.0.0.1")
    pids = [pickle.loads(seated(echo.lease, pickle.dumps((os.getpid, ())))) for _ in range(2)]
    assert pids[0] == pids[1] != os.getpid()
    process = psutil.Process(pids[0])
    with ThreadPoolExecutor() as threads:
        working = threads.submit(seated, echo.lease, pickle.dumps((time.sleep, (60,))))
        time.sleep(0.5)
        echo.close()
        with pytest.raises(BrokenProcessPool):
            working.result(10)
    process.wait(10)
    with pytest.raises(Unreached, match="by TCP"):
        seated(echo.lease, pickle.dumps((os.getpid, ())))


# --- seats, over a cluster of the test's own making ---


@dataclass
class Imagined:
    """As much of a Dask client as a cluster needs; `hosts` has the seats of each worker. Calls run in threads."""

    hosts: dict[str, int]
    status: str = "running"
    given: list[str] = field(default_factory=list)
    pending: list[Future[bytes]] = field(default_factory=list)
    works: bool = True
    threads: ThreadPoolExecutor = field(default_factory=ThreadPoolExecutor)

    @property
    def scheduler(self) -> Any:
        return self

    def identity(self, **_: Any) -> Any:
        def worker(address: str, seats: int) -> dict[str, Any]:
            resources = {"seat": float(seats)}
            return {"host": address.rpartition(":")[0], "resources": resources, "nthreads": 8, "status": "running"}

        return {"workers": {address: worker(address, seats) for address, seats in self.hosts.items()}}

    def sync(self, function: Callable[..., Any], **words: Any) -> Any:
        return function(**words)

    def get_executor(self, **settings: Any) -> Any:
        assert settings == {"pure": False, "retries": 0, "resources": {"seat": 1}}
        return self

    def submit(self, function: Callable[..., bytes], lease: Lease, call: bytes, workers: Sequence[str]) -> Any:
        (worker,) = workers
        self.given.append(worker)
        made, arguments = pickle.loads(call)
        found = self.threads.submit(lambda: pickle.dumps(made(*arguments))) if self.works else Future()
        self.pending.append(found)
        return found

    def shutdown(self, **_: Any) -> None:
        pass

    def close(self, *_: Any) -> None:
        self.threads.shutdown()


@contextmanager
def imagined(**seats: int) -> Iterator[tuple[Imagined, Cluster]]:
    """A cluster with workers such as `a1=2`: the host 127.0.0.2 ("a") has one with two seats."""
    hosts = {f"127.0.0.{'abcd'.index(name[0]) + 2}:{name[1:]}": number for name, number in seats.items()}
    client = Imagined(hosts)
    found = Cluster(client, "tcp://there:8786")
    try:
        found.begin()
        client.given.clear()
        yield client, found
    finally:
        found.end()


def hosts(client: Imagined) -> list[str]:
    return [worker.rpartition(":")[0] for worker in client.given]


PUBLISH = Send(OURS[0], PLACE, Series("abcd", 0, 1))
CONSUME = Receive(OURS[0], PLACE, "g0", "abcd", 18, 1)


def test_no_host_publishes_and_consumes() -> None:
    with imagined(a1=4, b1=4, c1=2, c2=2) as (client, cluster), cluster.executor() as crew:
        client.works = False
        for job in [CONSUME] * 6 + [PUBLISH] * 3:
            crew.work([job], "select", 1)
        assert Counter(hosts(client)[:6]) == {"127.0.0.3": 3, "127.0.0.4": 3}
        assert set(hosts(client)[6:]) == {"127.0.0.2"}
        assert all(number <= client.hosts[worker] for worker, number in Counter(client.given).items())


def test_the_only_host_does_both_and_its_seats_are_all_there_are() -> None:
    with imagined(a1=2) as (client, cluster), cluster.executor() as crew:
        client.works = False
        crew.work([CONSUME], "select", 1)
        crew.work([PUBLISH], "select", 1)
        with pytest.raises(NoSeat, match="all 2 seats to publish are taken: start more, each with `dask worker tcp://"):
            crew.work([PUBLISH], "select", 1)
        client.pending[-1].set_exception(ValueError("no"))
        crew.work([PUBLISH], "select", 1)


def test_a_worker_that_is_gone_fails_its_work_and_takes_its_seats_along() -> None:
    with imagined(a1=2, b1=2) as (client, cluster), cluster.executor() as crew:
        client.works = False
        waiting, other = crew.work([PUBLISH], "select", 1), crew.work([CONSUME], "select", 1)
        del client.hosts["127.0.0.2:1"]
        assert isinstance(waiting.exception(5), WorkerDied)
        assert str(waiting.exception()) == "the worker at 127.0.0.2 died"
        assert not other.done()
        with pytest.raises(NoSeat, match="no worker is left to publish"):
            crew.work([PUBLISH], "select", 1)


def test_a_scheduler_that_is_gone_fails_all() -> None:
    with imagined(a1=2) as (client, cluster), cluster.executor() as crew:
        client.works = False
        waiting = crew.work([PUBLISH], "select", 1)
        client.status = "connecting"
        assert isinstance(waiting.exception(5), WorkersLost)
        with pytest.raises(WorkersLost, match="the Dask scheduler at tcp://there:8786 is gone"):
            crew.work([PUBLISH], "select", 1)


def test_work_that_dask_cancels_is_no_cancelled_session() -> None:
    with imagined(a1=2) as (client, cluster), cluster.executor() as crew:
        client.works = False
        waiting = crew.work([PUBLISH], "select", 1)
        client.pending[-1].cancel()
        assert isinstance(waiting.exception(5), WorkersLost)


async def test_a_session_carries_over_a_crew_as_over_processes_and_tells_the_bound() -> None:
    settings = Settings(("asyncio",), tuple(OURS), seconds=0.05, rounds=2)
    with imagined(a1=4) as (client, cluster):
        async with session(settings, cluster.executor) as opened:
            assert opened.far
            assert await opened.clock_is_shared(), "stamps were put on one clock"
            (figures,) = await opened.measured(Cell(OURS[0], Guarantee.AT_LEAST_ONCE, rate=2_000.0), 1_000)
            client.status = "closed"
            await asyncio.sleep(2 * workers.WATCH_S)
            with pytest.raises(WorkersLost):
                await opened.measured(Cell(OURS[0], Guarantee.AT_LEAST_ONCE), 1_000)
    assert (figures.fields["error"], figures.fields["received"]) == (None, 1_000)
    assert figures.fields["latency_ms"]["p50"] > 0, "one process, one clock"
    assert "clock" not in figures.params


@pytest.mark.parametrize("bound", [10_000_000, 1_000_000_000])
async def test_what_the_clocks_cannot_tell_is_null_with_its_reason(bound: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "bound_ns", lambda _: bound)
    settings = Settings(("asyncio",), tuple(OURS), seconds=0.05, rounds=2)
    with imagined(a1=4) as (_, cluster):
        async with session(settings, cluster.executor) as opened:
            (figures,) = await opened.measured(Cell(OURS[0], Guarantee.AT_LEAST_ONCE, rate=2_000.0), 1_000)
    assert figures.fields["received"] == 1_000
    assert figures.fields["latency_ms"]["p50"] is None
    assert figures.params["clock"].startswith("p50, ")
    assert "below ten times the" in figures.params["clock"]
    assert figures.details["latencies"]["service"]["p50"] is None
    assert figures.details["latencies"]["publish"]["p50"] is not None, "of one clock"
    assert figures.details["clock_bound_ms"] == bound / 1e6
    if bound == 1_000_000_000:
        assert (figures.fields["elapsed_s"], figures.fields["messages_per_s"]) == (None, None)
        assert "s were measured by clocks that may be 1 s apart" in figures.fields["error"]
    else:
        assert (figures.fields["error"], figures.fields["elapsed_s"] > 0.1) == (None, True)


@pytest.mark.parametrize(
    ("host", "here"), [("localhost", True), ("127.0.0.1", True), ("::1", True), ("203.0.113.7", False)]
)
def test_what_is_on_this_machine(host: str, here: bool) -> None:
    assert on_this_machine(host) is here
    own = {one.address for found in psutil.net_if_addrs().values() for one in found if one.family == socket.AF_INET}
    assert all(map(on_this_machine, own))


def test_the_answer_tells_where_broker_and_clients_were() -> None:
    rows = results.reference()
    rows = rows[rows["question"].ne("faults")].drop(columns="clock_bound_ms", errors="ignore")
    judged = verdicts(rows)
    far = rows.assign(clock_bound_ms=[0.25, *[np.nan] * (len(rows) - 1)])
    away = rows.assign(broker_elsewhere=rows["design"].eq("kafka"))
    here, there, beside = (answer(one, judged)[-1] for one in (rows, far, away))
    assert "rounds, in which broker and clients shared this machine; " in here
    assert "rounds, in which the clients ran on this machine, the broker of kafka on another; " in beside
    assert "rounds, in which Dask workers were the clients, their clocks known to 0.25 ms; " in there


# --- the command line ---


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("there", "there are no workers 'there': give dask:tcp://HOST:8786, dask:FILE"),
        ("dask:", "takes the scheduler's address from DASK_SCHEDULER_ADDRESS: set it"),
        ("dask:http://there", "is not the address of a Dask scheduler: give it as tcp://HOST:8786"),
        ("dask:no/such.json", "no/such.json: No such file"),
        ("dask:pyproject.toml", "is not a file of a Dask scheduler"),
    ],
)
def test_wrong_use_is_told_in_a_line(
    where: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    try:
        status = command_line.main(["run", "--workers", where])
    except SystemExit as left:
        status = int(left.code or 0)
    assert status == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("url", ["", "kafka://localhost:9092", "kafka://[::1]:9092"])
def test_a_broker_on_loopback_is_refused_to_workers_elsewhere(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREET_KAFKA_URL", url)
    with imagined(a1=1) as (_, cluster):
        command_line._check_reach(cluster, ("asyncio", "kafka"))
        cluster._sides["10.255.0.7"] = ("consume",)
        command_line._check_reach(cluster, ("asyncio",))
        with pytest.raises(ValueError, match=r"10.255.0.7 cannot reach a broker on .*: set GREET_KAFKA_URL to"):
            command_line._check_reach(cluster, ("asyncio", "kafka"))
        monkeypatch.setenv("GREET_KAFKA_URL", "kafka://10.255.0.8:9092")
        command_line._check_reach(cluster, ("asyncio", "kafka"))


# --- real clusters ---


def dask(*words: str) -> list[str]:
    return [sys.executable, "-m", "dask", *words]


@dataclass
class Real:
    """A scheduler and its workers as processes, each in a group of its own."""

    folder: Path
    scheduler: subprocess.Popen[bytes]
    workers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"dask:{self.folder / 'scheduler.json'}"

    def join(self, name: str, host: str, *before: str) -> None:
        """Start a worker with four seats on `host`, under the command `before`."""
        log = self.folder / f"{name}.log"
        words = ["worker", "--scheduler-file", str(self.folder / "scheduler.json"), "--host", host, "--no-nanny"]
        words += ["--nthreads", "4", "--resources", "seat=4", "--memory-limit", "0", "--no-dashboard"]
        words += ["--local-directory", str(self.folder / name)]
        self.workers[name] = started([*before, *dask(*words)], log)
        until(lambda: "Registered to" in log.read_text(), log)

    def children(self) -> list[psutil.Process]:
        """The processes at the seats that are there now."""
        return [one for worker in self.workers.values() for one in seats(worker)]


def seats(worker: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = []
    with suppress(psutil.Error):
        for one in psutil.Process(worker.pid).children(recursive=True):
            with suppress(psutil.Error):
                found += [one] if "spawn_main" in " ".join(one.cmdline()) else []
    return found


def cpu_s(worker: subprocess.Popen[bytes]) -> float:
    """What the processes at its seats have used."""
    spent = 0.0
    for one in seats(worker):
        with suppress(psutil.Error):
            times = one.cpu_times()
            spent += times.user + times.system
    return spent


def started(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        return subprocess.Popen(
            command, cwd=log.parent, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def until(holds: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.1)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Real]:
    with scheduled(tmp_path, "127.0.0.1") as found:
        yield found


@contextmanager
def scheduled(folder: Path, host: str, *before: str) -> Iterator[Real]:
    """A scheduler on `host`, under the command `before`, and no worker yet; all that they start ends with this."""
    pytest.importorskip("distributed")
    log, file = folder / "scheduler.log", folder / "scheduler.json"
    words = ("scheduler", "--host", host, "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    found = Real(folder, started([*before, *dask(*words)], log))
    try:
        until(file.exists, log)
        yield found
    finally:
        children = found.children()
        for one in (*found.workers.values(), found.scheduler):
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)
            one.wait(10)
        assert not psutil.wait_procs(children, timeout=10)[1], "what a worker started ends with it"


@contextmanager
def running(out: Path, *words: str, before: Sequence[str] = (), **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m bench run` under the command `before`, its rows on standard output."""
    process = subprocess.Popen(
        [*before, sys.executable, "-m", "bench", "run", "--json", "--out", str(out), *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ended(process: subprocess.Popen[str], seconds: float = 150) -> tuple[int, list[dict[str, Any]], str]:
    """Its status, its rows and its complaints."""
    output, complaints = process.communicate(timeout=seconds)
    return process.returncode, [json.loads(line) for line in output.splitlines()], complaints


def cell(row: dict[str, Any]) -> tuple[str, ...]:
    return (row["question"], *(str(row["params"][key]) for key in ("way", "rate", "again")))


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("foreign", [False, True], ids=["one clock", "foreign clocks"])
def test_a_run_over_two_hosts_counts_and_times_as_one_here(
    foreign: bool, real: Real, tmp_path: Path, rabbitmq_url: str
) -> None:
    before = UNSHARE if foreign else ()
    if before and subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no time namespaces here: they take root, and Linux 5.6")
    real.join("a", "127.0.0.2", *before)
    real.join("b", "127.0.0.3")
    short = ("--designs", "rabbitmq", "--questions", "throughput,wake_up", "--seconds", "0.5", "--rounds", "1")
    found = []
    for where in ((), ("--workers", real.where)):
        with running(tmp_path / "results", *short, *where, GREET_RABBITMQ_URL=rabbitmq_url) as process:
            status, rows, complaints = ended(process)
        assert (status, complaints) == (0, "")
        found.append(rows)
    here, there = found
    assert Counter(map(cell, here)) == Counter(map(cell, there))
    for row in there:
        assert row["error"] is None
        assert row["sent"] == row["accepted"] == row["received"] > 0
        assert (row["lost"], row["duplicates"], row["reordered"]) == (0, 0, 0)
        if row["latency_ms"]:
            # Not p99: here are too few messages to tell it.
            unknown = [name for name in ("p50", "p90", "max") if row["latency_ms"][name] is None]
            assert bool(unknown) == ("clock" in row["params"])
            assert all(row["params"]["clock"].count(name) for name in unknown)
            assert row["latency_ms"]["max"] is None or 0 < row["latency_ms"]["max"] < 5_000
    for one in set(map(cell, here)):
        rates = [np.median([row["messages_per_s"] for row in rows if cell(row) == one]) for rows in found]
        assert 1 / 4 < rates[1] / rates[0] < 4, one
    about = json.loads(next((tmp_path / "results").glob(f"{there[0]['run']}/run.json")).read_text())
    assert (about["workers"]["hosts"], about["workers"]["seats"]) == (2, 8)
    assert 0 < about["workers"]["clock_bound_us"] < 5_000
    until(lambda: not real.children(), tmp_path / "scheduler.log", 10)


LONG = ("--designs", "rabbitmq", "--questions", "throughput", "--seconds", "5", "--rounds", "1")


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_worker_killed_in_mid_run_fails_its_row_and_the_run_goes_on(
    real: Real, tmp_path: Path, rabbitmq_url: str
) -> None:
    """Two workers are on the host that publishes: the run goes on with the other."""
    real.join("a", "127.0.0.2")
    real.join("b", "127.0.0.2")
    real.join("c", "127.0.0.3")
    publishing = [real.workers["a"], real.workers["b"]]
    environment = {"GREET_RABBITMQ_URL": rabbitmq_url}
    with running(tmp_path / "results", *LONG, "--workers", real.where, **environment) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["error"] is None
        before = {one.pid: cpu_s(one) for one in publishing}
        log = tmp_path / "scheduler.log"
        until(lambda: any(cpu_s(one) > before[one.pid] + 0.2 for one in publishing), log)
        busy = max(publishing, key=lambda one: cpu_s(one) - before[one.pid])
        left = seats(busy)
        busy.kill()
        assert left
        assert not psutil.wait_procs(left, timeout=5)[1], "a seat ends with its worker"
        status, rows, complaints = ended(process)
    assert status == 1
    failed = [row for row in rows if row["error"]]
    assert [row["error"] for row in failed] == ["the worker at 127.0.0.2 died"]
    assert rows[-1]["error"] is None, "the run goes on"
    assert all(row["lost"] == row["duplicates"] == 0 for row in rows if not row["error"])
    assert "the worker at 127.0.0.2 died" in complaints
    assert len(complaints.splitlines()) == 1


@pytest.mark.long
@pytest.mark.timeout(200)
def test_a_scheduler_killed_in_mid_run_ends_it_in_a_line(real: Real, tmp_path: Path, rabbitmq_url: str) -> None:
    real.join("a", "127.0.0.2")
    environment = {"GREET_RABBITMQ_URL": rabbitmq_url}
    with running(tmp_path / "results", *LONG, "--workers", real.where, **environment) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["error"] is None
        began = time.monotonic()
        real.scheduler.kill()
        status, _, complaints = ended(process, 60)
    assert status == 1
    assert time.monotonic() - began < 30
    assert re.fullmatch(
        r"bench: WorkersLost: the Dask scheduler at tcp://\S+ is gone: stopped, and the run is INCOMPLETE\n", complaints
    )


@pytest.mark.long
def test_an_address_where_nobody_answers_is_told_in_a_line(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with running(tmp_path, "--workers", f"dask:{address}") as process:
            status, rows, complaints = ended(process, 60)
    assert (status, rows) == (3, [])
    assert complaints.startswith(f"bench: no Dask scheduler answers at {address}: start one with `dask scheduler`")
    assert len(complaints.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_a_scheduler_without_seats_is_told_in_a_line(real: Real, tmp_path: Path) -> None:
    with running(tmp_path / "results", "--workers", real.where) as process:
        status, _, complaints = ended(process, 60)
    assert status == 3
    assert "has no worker with a seat: start one with `dask worker tcp://" in complaints
    assert len(complaints.splitlines()) == 1
