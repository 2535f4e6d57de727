"""Faults for real, and Jepsen's accounting of what they did to the names.

A publisher and the members of two groups, each an operating-system process of its own, carry names while
a fault is injected. Each writes a journal, which also outlives a SIGKILL of it. When the publisher has
stopped, end markers are published until every group has handled one; then what is still missing is lost.

The journals
------------
A file for each process, `publisher-1.jsonl`, `member-2.jsonl` …; one JSON object a line, written at once:

    t       seconds of the machine's monotonic clock, the same for all processes
    event   of all: "started" (with role, group, design, guarantee and topic), "ended" (with error, or null),
            and "state" every few seconds (with rss_mb, fds, threads and tasks of the process)
            of a publisher: "trying", then "accepted", "refused" (surely not) or "unknown" (nobody can tell)
            of a member: "ready", then "taken" and "handled" for each name that it was handed
    name    the name: 4 characters of the trial, 2 of the lane, 10 of its number in the lane

`fault.jsonl` has the beginning and the end of each injection. To count again, leaving out lane 99, the end
markers: sent = tried. accepted and refused as they say, unknown = tried and neither. For each group, over all
of its members: lost = accepted and never handled; unexpected = handled and never tried; duplicates = handled
less handled once; reordered, where the group has one member at a time = first handlings that come after one
of a higher number in their lane. A name that was taken and not handled was in the hands of a member that died.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil

import greet
from bench import account
from bench.contenders import Contender, Place
from bench.proxy import Proxy, proxy
from greet import Guarantee, brokers
from greet.brokers import Broker

GROUPS = ("hello", "goodbye")
SIZE = account.HEADER
MARKERS = 99  # the lane of the end markers
STEADY = 40  # names that each group has handled before a fault comes
BACK_S = 90.0  # how long a fault may keep the names from flowing again
LEAVE_S = 45.0  # how long a process may take to end when it is asked to
POLL_S = 0.05
STATE_S = 5.0
GROWTH = {"rss_mb": 15.0, "fds": 4, "threads": 2, "tasks": 4}
"""What a process may have more at the end of a soak than after its first quarter."""


# ------------------------------------------------------------------------------------- the journals


class Journal:
    """A file that is written line by line, each at once."""

    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, event: str, name: str | None = None, **more: Any) -> None:
        """Add a line."""
        line = {"t": round(time.monotonic(), 6), "event": event} | ({"name": name} if name else {}) | more
        os.write(self._handle, (json.dumps(line) + "\n").encode())

    def close(self) -> None:
        """Give the file back."""
        os.close(self._handle)


class Reader:
    """A journal that is read while it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[dict[str, Any]] = []
        self._offset = 0

    def read(self) -> list[dict[str, Any]]:
        """All events so far."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
            self._offset += len(whole) + len(newline)
            self.events += map(json.loads, whole.splitlines())
        return self.events


# ----------------------------------------------------------------------- what carries the names


@dataclass(frozen=True)
class Duty:
    """What a publisher or member does; a process is told on its standard input, as the URL may hold a password."""

    role: Literal["publisher", "member"]
    url: str = field(repr=False)
    topic: str
    tag: str
    journal: str
    design: str
    guarantee: str
    contender: str = "greet"
    group: str = ""
    first_lane: int = 0
    lanes: int = 4
    rate: float = 200.0
    """Names a second of a publisher."""
    handling_s: float = 0.002
    """How long a member handles a name."""


class Crash(Exception):
    """What a member that shall fail raises in the middle of handling."""


def contender(duty: Duty) -> Contender:
    """Who carries the names: greet, name by name, or a control."""
    if duty.contender == "auto-commit":
        return import_module("bench.contenders.auto_commit").CONTROL  # type: ignore[no-any-return]
    found: list[Contender] = import_module("bench.contenders.greets").CONTENDERS
    return next(one for one in found if (one.design, one.way) == (duty.design, "name"))


async def work(duty: Duty, stop: asyncio.Event, crash: asyncio.Event) -> None:
    """Publish, or read, until `stop`; whatever ends it is in the journal."""
    journal = Journal(Path(duty.journal))
    told = {key: getattr(duty, key) for key in ("role", "group", "design", "guarantee", "topic")}
    journal.write("started", **told, pid=os.getpid())
    telling = asyncio.create_task(_tell_state(journal))
    place = Place(duty.url, duty.topic, Guarantee[duty.guarantee])
    error: str | None = "killed"
    try:
        if duty.role == "publisher":
            async with contender(duty).publisher(place) as publisher, asyncio.TaskGroup() as lanes:
                for lane in range(duty.first_lane, duty.first_lane + duty.lanes):
                    lanes.create_task(_publish(duty, lane, publisher.publish, journal, stop))
        else:
            async with contender(duty).consumer(place, duty.group) as names:
                journal.write("ready")
                await _handle(duty, names, journal, stop, crash)
        error = None
    except* Exception as errors:  # noqa: BLE001, of any driver: it is in the journal, and ends the process
        error = "; ".join(f"{type(one).__name__}: {greet_line(one)}" for one in _leaves(errors))
    finally:
        telling.cancel()
        journal.write("ended", error=error)
        journal.close()


async def _tell_state(journal: Journal) -> None:
    me = psutil.Process()
    while True:
        held: dict[str, Any] = {"fds": me.num_fds(), "threads": me.num_threads(), "tasks": len(asyncio.all_tasks())}
        journal.write("state", rss_mb=round(me.memory_info().rss / 1e6, 1), **held)
        await asyncio.sleep(STATE_S)


async def _publish(
    duty: Duty, lane: int, publish: Callable[[str], Awaitable[object]], journal: Journal, stop: asyncio.Event
) -> None:
    """Each name once: one that was refused or is unknown is not tried again, the next one is."""
    number, pause = 0, duty.lanes / duty.rate
    while not stop.is_set():
        name = f"{duty.tag}{lane:02d}{number:010d}"
        number += 1
        journal.write("trying", name)
        try:
            await publish(name)
        except greet.PublishFailed as error:
            journal.write("refused", name, error=greet_line(error))
        except greet.PublishUnknown as error:
            journal.write("unknown", name, error=greet_line(error))
        else:
            journal.write("accepted", name)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()


async def _handle(
    duty: Duty, names: AsyncIterator[str], journal: Journal, stop: asyncio.Event, crash: asyncio.Event
) -> None:
    """Handle name by name; `stop` comes between two names, `crash` in the middle of handling one."""
    stopped = asyncio.ensure_future(stop.wait())
    following: asyncio.Future[str] | None = None
    try:
        while not stop.is_set():
            following = asyncio.ensure_future(anext(names))
            await asyncio.wait((following, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                following.cancel()
                await asyncio.wait((following,))
                if following.cancelled():
                    return
            name = following.result()
            journal.write("taken", name)
            await asyncio.sleep(duty.handling_s)
            if crash.is_set():
                raise Crash
            journal.write("handled", name)
    finally:
        stopped.cancel()
        if following:
            following.cancel()


def greet_line(error: BaseException) -> str:
    """What an error says, on one line."""
    return " ".join(str(error).split())


def _leaves(errors: BaseExceptionGroup[Any]) -> list[BaseException]:
    return [
        leaf for one in errors.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


# ------------------------------------------------------------------------------------- the processes


@dataclass(eq=False)
class Worker:
    """A publisher or member: a process, or for asyncio, whose queue is in one process, a task."""

    duty: Duty
    reader: Reader
    process: asyncio.subprocess.Process | None = None
    task: asyncio.Task[None] | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    crash: asyncio.Event = field(default_factory=asyncio.Event)
    expected_to_end: bool = False

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self.process.returncode is None if self.process else bool(self.task and not self.task.done())

    async def kill(self) -> None:
        """End it here and now: SIGKILL for a process, for a task its cancellation."""
        self.expected_to_end = True
        if self.process:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        elif self.task:
            self.task.cancel()
            await asyncio.wait((self.task,))

    async def ask_to_end(self) -> None:
        """Let it finish what it is at and leave; raises `TimeoutError` when it does not, and it is then killed."""
        self.expected_to_end = True
        try:
            async with asyncio.timeout(LEAVE_S):
                if self.process:
                    assert self.process.stdin is not None
                    self.process.stdin.close()
                    await self.process.wait()
                elif self.task:
                    self.asked.set()
                    await asyncio.wait((self.task,))
        finally:
            if self.running:
                await self.kill()


async def _run_duty() -> None:
    """A process: its duty is the first line of its standard input, whose end is the wish that it ends."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    duty = Duty(**json.loads(sys.stdin.readline()))
    loop.add_reader(sys.stdin.fileno(), stop.set)  # nothing more comes but the end of the file
    await work(duty, stop, asyncio.Event())


# ------------------------------------------------------------------------------------------ the trial


@dataclass(frozen=True)
class Trial:
    """A fault, injected `times` times into one design under one guarantee; `seed` decides when."""

    fault: str
    design: str
    guarantee: Guarantee
    times: int = 1
    seed: int = 0
    pause_s: float = 2.0
    """How long a broker is stopped, or a connection slow."""
    soak_s: float = 600.0
    """How long a soak takes."""
    contender: str = "greet"
    options: str = ""
    """What is added to the query of the URL."""


@dataclass(frozen=True)
class Verdict:
    """What became of the names, over both groups; `reordered` is None where no order is promised."""

    sent: int
    accepted: int
    refused: int
    unknown: int
    received: int
    lost: int
    duplicates: int
    reordered: int | None
    unexpected: int
    came_though_refused: int
    gap_s: float
    """The longest time without a name handled, in either group, from the first injection on."""
    publish_gap_s: float
    """The longest time without a name accepted."""
    recovered: bool
    """Whether all that were not killed went on by themselves."""
    raised: str | None
    """What greet raised by its deadline instead, as it promises to."""
    error: str | None
    """What went wrong besides: a hang, a silent end, an error that is not greet's."""


class Stage:
    """The processes of one trial; `async with` ends them."""

    def __init__(self, trial: Trial, folder: Path, url: str, broker: Broker | None, proxy: Proxy | None) -> None:
        self.trial = trial
        self.folder = folder
        self.broker = broker
        self.proxy = proxy
        self.random = random.Random(f"{trial}")  # noqa: S311, repeatable and no secret
        self.recovered = True
        self.raised: list[str] = []
        self.errors: list[str] = []
        self.workers: list[Worker] = []
        self._direct = url
        self._url = url
        self._topic = f"faults-{secrets.token_hex(4)}"
        self._tag = secrets.token_hex(2)
        self._lanes = 0
        fault = FAULTS[trial.fault]
        if fault.routed and proxy:
            self._url = through(url, proxy)
        if trial.options:
            self._url += f"{'&' if '?' in self._url else '?'}{trial.options}"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = Journal(folder / "fault.jsonl")

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.running:
                await worker.kill()
        self.log.close()

    # The processes

    async def publisher(self) -> Worker:
        """Start a publisher, with lanes of its own."""
        self._lanes += 4
        rate = FAULTS[self.trial.fault].rate
        return await self._start(Duty(**self._shared("publisher"), first_lane=self._lanes - 4, rate=rate))

    async def member(self, group: str, handling_s: float | None = None) -> Worker:
        """Start a member of `group`."""
        handling = FAULTS[self.trial.fault].handling_s if handling_s is None else handling_s
        if self.trial.contender != "greet" and group == GROUPS[0] and handling_s is None:
            handling = 0.02  # four times slower than names come, so that there is something to lose
        return await self._start(Duty(**self._shared("member"), group=group, handling_s=handling))

    def _shared(self, role: str) -> dict[str, Any]:
        journal = self.folder.resolve() / f"{role}-{len(self.workers) + 1}.jsonl"
        trial = self.trial
        return {
            "role": role,
            "url": self._url,
            "topic": self._topic,
            "tag": self._tag,
            "journal": str(journal),
            "design": trial.design,
            "guarantee": trial.guarantee.name,
            "contender": trial.contender if role == "member" else "greet",
        }

    async def _start(self, duty: Duty) -> Worker:
        worker = Worker(duty, Reader(Path(duty.journal)))
        self.workers.append(worker)
        if duty.design == "asyncio":
            worker.task = asyncio.create_task(work(duty, worker.asked, worker.crash))
            return worker
        worker.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.faults"), cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert worker.process.stdin is not None
        worker.process.stdin.write(json.dumps(asdict(duty)).encode() + b"\n")
        return worker

    def of(self, role: str, group: str = "") -> list[Worker]:
        """Those that run."""
        return [one for one in self.workers if one.running and one.duty.role == role and group in ("", one.duty.group)]

    async def ready(self, *members: Worker) -> None:
        """Return when they have joined their groups; raises `TimeoutError`."""
        if not await until(lambda: all(_has(one, "ready") for one in members), BACK_S):
            raise TimeoutError("a member did not join its group")

    # What the journals say

    def events(self, kind: str, group: str = "") -> list[dict[str, Any]]:
        """The events of a kind, in the order of time, without those of end markers."""
        found = [
            event
            for worker in self.workers
            if group in ("", worker.duty.group)
            for event in worker.reader.read()
            if event["event"] == kind and event.get("name", "")[4:6] != str(MARKERS)
        ]
        return sorted(found, key=lambda event: event["t"])

    def names(self, kind: str, group: str = "") -> list[str]:
        """The names of those events."""
        return [event["name"] for event in self.events(kind, group)]

    async def flowing(self) -> None:
        """Return when names that were accepted from now on are handled in every group, `STEADY` of them.

        What ended without being told to is started again: it did not come back by itself.
        """
        began = time.monotonic()

        def flows() -> bool:
            fresh = {event["name"] for event in self.events("accepted") if event["t"] > began}
            return all(len(fresh.intersection(self.names("handled", group))) >= STEADY for group in GROUPS)

        deadline = began + BACK_S
        while not flows():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no names flow {BACK_S:.0f} s after the fault")
            await self._mend()
            await asyncio.sleep(max(POLL_S, 0.01 * (time.monotonic() - began)))

    async def _mend(self) -> None:
        for worker in list(self.workers):
            if not worker.running and not worker.expected_to_end:
                self._ended(worker)
                await (self.publisher() if worker.duty.role == "publisher" else self.member(worker.duty.group))

    def _ended(self, worker: Worker) -> None:
        """Note that it ended without being told to."""
        worker.expected_to_end = True
        self.recovered = False
        words = _last_words(worker)
        greets = words.startswith(tuple(one.__name__ for one in greet.GreetError.__subclasses__()))
        (self.raised if greets else self.errors).append(f"a {worker.duty.role} ended by itself: {words}")

    async def drain(self) -> None:
        """Publish end markers until each group has handled one, then wait for what is still missing."""
        for publisher in self.of("publisher"):
            await publisher.ask_to_end()
        number, deadline = 0, time.monotonic() + BACK_S
        async with greet.connect(self._direct, self._topic) as line:
            while not self._marked():
                if time.monotonic() > deadline:
                    raise TimeoutError("no end marker arrived")
                await self._mend()
                with suppress(greet.GreetError):
                    await line.publish(f"{self._tag}{MARKERS}{number:010d}")
                number += 1
                await until(self._marked, 1.0)
        accepted, handled, moved = set(self.names("accepted")), -1, time.monotonic()
        quiet_s = 1.0 if self.trial.design == "asyncio" else FAULTS[self.trial.fault].quiet_s
        while time.monotonic() - moved < quiet_s:
            groups = [self.names("handled", group) for group in GROUPS]
            if not any(accepted.difference(group) for group in groups):
                break
            if sum(map(len, groups)) != handled:
                handled, moved = sum(map(len, groups)), time.monotonic()
            await asyncio.sleep(POLL_S)

    def _marked(self) -> bool:
        """Whether every group has handled an end marker."""
        marker = f"{self._tag}{MARKERS}"
        return all(
            any(
                event["event"] == "handled" and event["name"].startswith(marker)
                for worker in self.workers
                if worker.duty.group == group
                for event in worker.reader.read()
            )
            for group in GROUPS
        )

    async def end(self) -> None:
        """Let all leave, and note who could not."""
        for worker in self.workers:
            if worker.running:
                try:
                    await worker.ask_to_end()
                except TimeoutError:
                    self.errors.append(f"a {worker.duty.role} did not end within {LEAVE_S:.0f} s")
            elif not worker.expected_to_end:
                self._ended(worker)


def through(url: str, proxy: Proxy) -> str:
    """The URL with the proxy in place of host and port."""
    scheme, _, rest = url.partition("://")
    login, at, where = rest.rpartition("@")
    _, slash, path = where.partition("/")
    return f"{scheme}://{login}{at}127.0.0.1:{proxy.port}{slash}{path}"


def _has(worker: Worker, event: str) -> bool:
    if not worker.running:
        raise ChildProcessError(f"a {worker.duty.role} ended as it started: {_last_words(worker)}")
    return any(one["event"] == event for one in worker.reader.read())


def _last_words(worker: Worker) -> str:
    ends = [one["error"] for one in worker.reader.read() if one["event"] == "ended"]
    return str(ends[-1] if ends else "without a word")


async def until(true: Callable[[], bool], seconds: float) -> bool:
    """Whether `true` came about in time. A journal that another process writes has no event to wait for."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_S)
    return True


async def tried(
    trial: Trial, folder: Path, url: str, broker: Broker | None = None, proxy: Proxy | None = None
) -> Verdict:
    """Carry names, inject the fault, wait until names flow again, drain, and count."""
    fault = FAULTS[trial.fault]
    error = None
    async with Stage(trial, folder, url, broker, proxy) as stage:
        began = time.monotonic()
        try:
            await stage.ready(*[await stage.member(group) for group in GROUPS])
            await stage.publisher()
            await stage.flowing()
            began = time.monotonic()
            for number in range(trial.times):
                await asyncio.sleep(stage.random.uniform(0, 0.3))  # somewhere in the middle of the work
                stage.log.write("begins", fault=trial.fault, number=number)
                await fault.inject(stage)
                stage.log.write("ends", fault=trial.fault, number=number)
                await stage.flowing()
            await stage.drain()
        except (TimeoutError, ChildProcessError, greet.GreetError) as trouble:
            error = f"{type(trouble).__name__}: {greet_line(trouble)}"
            stage.recovered = False
        await stage.end()
        return counted(stage, began, error)


def counted(stage: Stage, began: float, error: str | None = None) -> Verdict:
    """The accounting, from the journals alone."""
    sent, accepted, refused = (stage.names(kind) for kind in ("trying", "accepted", "refused"))
    groups = [stage.names("handled", group) for group in GROUPS]
    count = reckoned(sent, accepted, groups, ordered=not FAULTS[stage.trial.fault].shares)
    said = [*stage.errors, *([error] if error else [])]
    return Verdict(
        sent=len(sent),
        accepted=len(accepted),
        refused=len(refused),
        unknown=len(sent) - len(accepted) - len(refused),
        received=count.received,
        lost=count.lost,
        duplicates=count.duplicates,
        reordered=count.reordered,
        unexpected=count.strangers,
        came_though_refused=sum(len(set(refused).intersection(group)) for group in groups),
        gap_s=max(gap(stage.events("handled", group), began) for group in GROUPS),
        publish_gap_s=gap(stage.events("accepted"), began),
        recovered=stage.recovered,
        raised="; ".join(stage.raised) or None,
        error="; ".join(said) or None,
    )


def reckoned(
    sent: Sequence[str], accepted: Sequence[str], groups: Iterable[Sequence[str]], *, ordered: bool = True
) -> account.Count:
    """Compare what each group handled with what was accepted. All names have the tag of the first one sent."""
    tag = sent[0][:4] if sent else "none"
    numbered = [account.codes(names, tag, SIZE) for names in (accepted, sent, *groups)]
    return account.count(np.unique(numbered[0]), numbered[1], numbered[2:], ordered=ordered)


def gap(events: Iterable[dict[str, Any]], began: float) -> float:
    """The longest time between two events in a row since `began`, in seconds."""
    times = [began, *(event["t"] for event in events if event["t"] > began)]
    return round(max((later - earlier for earlier, later in pairwise(times)), default=0.0), 3)


# ------------------------------------------------------------------------------------------ the faults


@dataclass(frozen=True)
class Fault:
    """What is done, to whom, and what may come of it."""

    inject: Callable[[Stage], Awaitable[None]]
    designs: tuple[str, ...] = ("rabbitmq", "kafka")
    kills: str = ""
    """What dies: "member", "broker", "connection", or nothing."""
    routed: bool = False
    """The connections go through a proxy."""
    shares: bool = False
    """A group has more than one member, so no order is promised."""
    handling_s: float = 0.002
    rate: float = 200.0
    """Names a second."""
    quiet_s: float = 20.0
    """So long after the last name handled, what is missing is lost: until then a broker may give back names
    that a dead connection held."""

    def allows(self, guarantee: Guarantee) -> set[str]:
        """What may happen to names without a promise being broken."""
        allowed = set()
        if guarantee is Guarantee.AT_MOST_ONCE or (guarantee is Guarantee.AT_LEAST_ONCE and self.kills == "broker"):
            allowed.add("lost")
        if self.kills:
            allowed.add("duplicates")
        return allowed


async def kill_member(stage: Stage) -> None:
    """The member of "hello" is gone in the middle of handling; another one takes its place."""
    (member,) = stage.of("member", "hello")
    if stage.trial.contender != "greet":  # it is slow: let it have a batch in hand
        await until(lambda: len(stage.names("handled", "hello")) > 3 * STEADY, BACK_S)
    await member.kill()
    await stage.member("hello", handling_s=0.0)


async def crash_member(stage: Stage) -> None:
    """Handling raises; another member takes its place."""
    (member,) = stage.of("member", "hello")
    member.expected_to_end = True
    member.crash.set()
    if not await until(lambda: not member.running, LEAVE_S):
        raise TimeoutError("the member did not crash")
    await stage.member("hello")


async def kill_publisher(stage: Stage) -> None:
    """The publisher is gone with what it had not got confirmed; another one goes on with names of its own."""
    (publisher,) = stage.of("publisher")
    await publisher.kill()
    await stage.publisher()


async def kill_broker(stage: Stage) -> None:
    """SIGKILL while names are published and read, and a start on the same data."""
    assert stage.broker
    await stage.broker.kill()
    await stage.broker.restart()


async def kill_full_broker(stage: Stage) -> None:
    """SIGKILL while names wait in it that nobody reads."""
    assert stage.broker
    for member in stage.of("member"):
        await member.ask_to_end()
    waiting = len(stage.names("accepted")) + 100
    await until(lambda: len(stage.names("accepted")) >= waiting, BACK_S)
    await kill_broker(stage)
    await stage.ready(*[await stage.member(group) for group in GROUPS])


async def hang_and_kill_broker(stage: Stage) -> None:
    """It does not answer for a while, as with a full disk, and then is killed."""
    assert stage.broker
    await stage.broker.pause()
    await asyncio.sleep(stage.trial.pause_s)
    await kill_broker(stage)


async def stop_broker(stage: Stage) -> None:
    """SIGSTOP and, later, SIGCONT: connections stay open and nothing answers."""
    assert stage.broker
    await stage.broker.pause()
    try:
        await asyncio.sleep(stage.trial.pause_s)
    finally:
        await stage.broker.resume()


async def cut(stage: Stage) -> None:
    """All connections are reset."""
    assert stage.proxy
    stage.proxy.drop()


async def half_open(stage: Stage) -> None:
    """No byte gets through the present connections, and no end of them is told."""
    assert stage.proxy
    stage.proxy.silence()


async def slow(stage: Stage) -> None:
    """Each piece of data takes 50 ms more, both ways."""
    assert stage.proxy
    stage.proxy.delay_s = 0.05
    try:
        await asyncio.sleep(stage.trial.pause_s)
    finally:
        stage.proxy.delay_s = 0.0


async def drop_responses(stage: Stage) -> None:
    """Requests reach the broker and the answers are lost; then the connections are reset."""
    assert stage.proxy
    stage.proxy.deafen()
    await asyncio.sleep(0.5)
    stage.proxy.drop()


async def come_and_go(stage: Stage) -> None:
    """Another member of "hello" joins under load, works a moment, and leaves as it should."""
    other = await stage.member("hello")
    await stage.ready(other)
    await asyncio.sleep(0.5)
    await other.ask_to_end()


async def alarm(stage: Stage) -> None:
    """RabbitMQ is told that it has no memory left: it stops reading from publishers; then it has some again."""
    assert stage.broker
    await _limit_memory(stage.broker, "0.00001")
    try:
        await asyncio.sleep(stage.trial.pause_s)
    finally:
        await _limit_memory(stage.broker, "0.6")


async def soak(stage: Stage) -> None:
    """Faults at random, one after the other; those who carry the names live through all of it and must not grow."""
    kinds = [kind for kind in ENDURED if stage.trial.design in FAULTS[kind].designs]
    deadline = time.monotonic() + stage.trial.soak_s
    while time.monotonic() < deadline:
        kind = stage.random.choice(kinds)
        stage.log.write("begins", fault=kind)
        await FAULTS[kind].inject(stage)
        stage.log.write("ends", fault=kind)
        await stage.flowing()
        await asyncio.sleep(stage.random.uniform(0, 2))
    for worker in stage.of("publisher") + stage.of("member"):
        states = [event for event in worker.reader.read() if event["event"] == "state"]
        stage.errors += [f"a {worker.duty.role} has {what}" for what in grown(states)]


def grown(states: Sequence[Mapping[str, Any]]) -> list[str]:
    """What there is more of in the last quarter of `states` than in the second, by more than `GROWTH`."""
    quarter = len(states) // 4
    if not quarter:
        return []
    found = []
    for what, allowed in GROWTH.items():
        early, late = (
            statistics.median(state[what] for state in part)
            for part in (states[quarter : 2 * quarter], states[-quarter:])
        )
        if late - early > allowed:
            found.append(f"{late:g} {what} after {early:g}")
    return found


async def _limit_memory(broker: Broker, share: str) -> None:
    node = broker.nodes[0]
    control = Path(node.command[0]).with_name("rabbitmqctl")
    process = await asyncio.create_subprocess_exec(
        *(str(control), "-n", node.environment["RABBITMQ_NODENAME"], "set_vm_memory_high_watermark", share),
        env=dict(node.environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    if await process.wait():
        raise ChildProcessError("rabbitmqctl could not set the limit of memory")


FAULTS: dict[str, Fault] = {
    "member killed": Fault(kill_member, ("asyncio", "rabbitmq", "kafka"), "member", handling_s=0.004),
    "member raises": Fault(crash_member, ("asyncio",), "member", handling_s=0.004),
    "members come and go": Fault(come_and_go, ("asyncio", "rabbitmq", "kafka"), shares=True),
    "publisher killed": Fault(kill_publisher),
    "broker killed": Fault(kill_full_broker, kills="broker", quiet_s=5.0),
    "broker killed under load": Fault(kill_broker, kills="broker", quiet_s=5.0),
    "broker hangs, then killed": Fault(hang_and_kill_broker, kills="broker", quiet_s=5.0),
    "broker stopped": Fault(stop_broker),
    "connection cut": Fault(cut, kills="connection", routed=True),
    "connection half-open": Fault(half_open, kills="connection", routed=True),
    "connection slow": Fault(slow, routed=True),
    "responses dropped": Fault(drop_responses, kills="connection", routed=True),
    "memory alarm": Fault(alarm, ("rabbitmq",)),
    "soak": Fault(soak, ("asyncio", "rabbitmq", "kafka"), "broker", routed=True, shares=True, rate=50.0),
}
ENDURED = (
    *("members come and go", "broker killed under load", "broker stopped", "connection cut", "connection half-open"),
    *("connection slow", "responses dropped", "memory alarm"),
)
"""What happens in a soak."""

CONTROLS = (
    ("broker killed", "rabbitmq", Guarantee.AT_LEAST_ONCE, "greet"),
    ("broker hangs, then killed", "kafka", Guarantee.AT_MOST_ONCE, "greet"),
    ("member killed", "kafka", Guarantee.AT_LEAST_ONCE, "auto-commit"),
)
"""What must lose names, or the instrument cannot see a loss: transient messages over a broker's kill, `acks=0`
over a broker that hangs and is killed, and auto-commit over a consumer's kill."""


def is_control(trial: Trial) -> bool:
    """Whether the trial must find a loss."""
    return (trial.fault, trial.design, trial.guarantee, trial.contender) in CONTROLS


def breaches(trial: Trial, verdict: Verdict) -> list[str]:
    """What the verdict says against the promises, or of a control against the instrument; empty if all is well."""
    found = [verdict.error] if verdict.error else []
    if is_control(trial):
        return found if verdict.lost else [*found, "the control lost nothing, so this run proves nothing"]
    allowed = FAULTS[trial.fault].allows(trial.guarantee)
    counts = ("lost", "duplicates", "reordered", "unexpected", "came_though_refused")
    found += [
        f"{count} {what.replace('_', ' ')}"
        for what in counts
        if (count := getattr(verdict, what)) and what not in allowed
    ]
    if not verdict.recovered and not (verdict.raised or verdict.error):
        found.append("it did not come back by itself, and said nothing")
    return found


def tampered(sent: Sequence[str], handled: Sequence[str]) -> dict[str, bool]:
    """Whether the accountant notices a name that was dropped, doubled, altered or swapped with its successor."""
    middle = len(handled) // 2
    twin = next(k for k in range(middle + 1, len(handled)) if handled[k][:6] == handled[middle][:6])
    altered, swapped = list(handled), list(handled)
    altered[middle] = handled[middle][:-1] + "x"
    swapped[middle], swapped[twin] = swapped[twin], swapped[middle]

    def count(names: Sequence[str]) -> account.Count:
        return reckoned(sent, handled, [names])

    whole = account.Count(len(set(handled)), 0, 0, 0, 0)
    return {
        "nothing": count(handled) == whole,
        "dropped": count([*handled[:middle], *handled[middle + 1 :]]).lost == 1,
        "doubled": count([*handled[:middle], handled[middle], *handled[middle:]]).duplicates == 1,
        "altered": (found := count(altered)).strangers == 1 and found.lost == 1,
        "swapped": count(swapped).reordered == 1,
    }


# ---------------------------------------------------------------------------------------- the brokers


@dataclass(frozen=True)
class Arena:
    """A private broker that may be hurt, and a proxy before it; asyncio has neither."""

    url: str = field(repr=False)
    broker: Broker | None = None
    proxy: Proxy | None = None

    async def tried(self, trial: Trial, folder: Path) -> Verdict:
        """A trial here; a broker that a failed one left dead or stopped is started again first."""
        if self.broker:
            with suppress(greet.GreetError, psutil.Error):
                await self.broker.resume()
            if len(self.broker.pids) < len(self.broker.nodes):
                await self.broker.restart()
        return await tried(trial, folder, self.url, self.broker, self.proxy)


@asynccontextmanager
async def arena(design: str, config: Mapping[str, str] | None = None) -> AsyncIterator[Arena]:
    """Where `design` is tried. Raises `BrokerMissing`."""
    async with AsyncExitStack() as stack:
        if design == "asyncio":
            yield Arena("asyncio:")
            return
        if design == "kafka":
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            broker = await stack.enter_async_context(brokers.kafka(config=config, proxy_port=port))
            inner = int(str(broker.proxied).rpartition(":")[2])
        else:
            broker, port = await stack.enter_async_context(brokers.rabbitmq(config=config)), 0
            inner = broker.nodes[0].port
        yield Arena(broker.url, broker, await stack.enter_async_context(proxy("127.0.0.1", inner, listen=port)))


if __name__ == "__main__":
    asyncio.run(_run_duty())
