"""A private broker as processes: start, wait until it serves, hurt, stop, and never leave an orphan."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console

import greet
from greet.brokers import watchdog
from greet.brokers.watchdog import runs
from greet.errors import BrokerMissing, ConnectFailed, GreetError

READY_SECONDS = 120.0  # a start takes 3 to 6 s on two cores; a cluster on a busy machine took over 60
POLL_SECONDS = 0.05
LOOK_SECONDS = 0.25
PROBE_SECONDS = 10
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOENT)  # no folder to write in
STARTS = 3  # tries, each on new ports, while others take the ports that were free
RESTARTS = 3  # of a server whose start failed in a way that another start puts right
PRIVATE_PORTS = range(20_000, 32_000)  # below the systems' ephemeral ports: no client's own end can take one
IN_USE = re.compile(r"address already in use|eaddrinuse", re.IGNORECASE)
COLOUR = re.compile(r"\x1b\[[\d;]*m")
ERROR = re.compile(r"\b(ERROR|FATAL)\b|\[error\]")
TROUBLE = re.compile(r"error|exception|fail|refused|eaddrinuse", re.IGNORECASE)


class PortTaken(BrokerMissing):
    """Somebody else took a port between its choice and its use."""


class StartFailed(ConnectFailed):
    """A start that another start puts right."""


@dataclass
class Node:
    """One server of a broker: how it is started, where it is reached, and what process it has become."""

    url: str = field(repr=False)  # holds the password
    port: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)  # so may this
    log: Path
    program: str  # the name of the real process, which may be a grandchild: beam.smp, java
    start_again: re.Pattern[str] | None = None
    """What in the log of a start says that it will never serve, and that another start will."""
    in_vain: Mapping[str, str] = field(default_factory=dict)
    """What in the log of a start says that it will never serve, each with what to do about it."""
    plugins: Mapping[str, int] = field(default_factory=dict)
    """The port of each plugin that was asked for."""
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    begun: int = field(default=0, repr=False)
    """Where the log of the last start begins."""

    def start(self) -> None:
        """Start the server in a session of its own, so that a Ctrl-C at the terminal is not for it."""
        self.begun = self.log.stat().st_size
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=dict(self.environment),
                cwd=self.log.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=0o077,
            )

    def family(self) -> list[psutil.Process]:
        """The process that was started and what it started, the latter without daemons."""
        with suppress(psutil.NoSuchProcess):
            if self.process is not None and self.process.returncode is None:  # else the number may be another's
                first = psutil.Process(self.process.pid)
                return [first, *first.children(recursive=True)]
        return []

    def end(self) -> None:
        """End the server and what it started with SIGKILL; raises `ConnectFailed` if it is not gone within 10 s."""
        kill(self.family())
        if self.process is not None:
            self.process.wait()

    def real(self) -> psutil.Process:
        """The server itself, not the shell around it; raises `ConnectFailed` when it does not run."""
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                if process.name() == self.program and runs(process):
                    return process
        raise ConnectFailed(f"{self.program} does not run: restart() starts it again")

    async def serving(self, number: int) -> None:
        """Return once a name published to the server could be read from it.

        A start that says `start_again` is ended and done again, up to three times. Raises `ConnectFailed`
        with the telling line of its log, and where that log is kept, when the server ends instead, or
        takes longer than 120 s.
        """
        for _ in range(RESTARTS):
            try:
                await self._serves(number)
            except StartFailed as error:
                Console(stderr=True).print(f"{error}: starting it again", soft_wrap=True)
                await asyncio.to_thread(self.end)
                self.start()
            else:
                return
        await self._serves(number)

    async def _serves(self, number: int) -> None:
        probe = asyncio.create_task(self._probe(f"greet.ready.{number}"))
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not (await asyncio.wait([probe], timeout=LOOK_SECONDS))[0]:
                    self._look()
        except TimeoutError:
            raise ConnectFailed(self.failure(f"did not serve within {READY_SECONDS:.0f} s")) from None
        else:
            probe.result()
        finally:
            probe.cancel()
            await asyncio.wait([probe])

    def _look(self) -> None:
        """Raise what the log of a start, or its end, says of the reason why it will not serve."""
        text = self.text()
        if self.start_again and (found := self.start_again.search(text)):
            raise StartFailed(self.failure(f"cannot serve ({found[0]})"))
        for sign, remedy in self.in_vain.items():
            if found := re.search(sign, text):
                raise ConnectFailed(f"{self.program} cannot serve: {found[0]}: {remedy}")
        if self.process is None or self.process.poll() is not None:
            if IN_USE.search(text):
                raise PortTaken(f"{self.program} ended as it started: {self.last_words()}")
            raise ConnectFailed(self.failure("ended as it started"))

    async def _probe(self, topic: str) -> None:
        while True:
            if await self._carries(topic):
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _carries(self, topic: str) -> bool:
        if not await listens(self.port):
            return False
        try:
            async with (
                greet.connect(f"{self.url}?timeout={PROBE_SECONDS}", topic=topic) as line,
                line.subscribe("probe") as names,
            ):
                await line.publish("ready")
                async for _ in names:
                    return True
        except GreetError:  # it listens, but is not ready yet: asked again until the deadline
            pass
        return False

    def text(self) -> str:
        """What the server has written since its last start."""
        with self.log.open("rb") as log:
            log.seek(self.begun)
            return COLOUR.sub("", log.read().decode(errors="replace"))

    def last_words(self) -> str:
        """Of the log since the last start: the last line that is an error, or tells of trouble, or the last one."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()] or ["its log is empty"]
        found = [next(filter(pattern.search, reversed(lines)), None) for pattern in (ERROR, TROUBLE)]
        return (found[0] or found[1] or lines[-1])[:300]

    def failure(self, what: str) -> str:
        """A line that says `what` the server did and why; the log is kept, and named, as its folder will be gone."""
        kept = self.log.parent.parent.with_name(f"{self.log.parent.parent.name}-{self.log.parent.name}.log")
        write(kept, self.log.read_text(errors="replace"))
        return f"{self.program} {what}: {self.last_words()}; its log is {kept}"


@dataclass(repr=False)
class Broker:
    """A private broker of one or more nodes, numbered from 1, that lives as long as its `async with`.

    `url` reaches all of it, `urls` holds one URL for each node; both may hold a password, which the
    repr does not show. `folder` has its data, configuration and logs. `proxied` is the "host:port" to
    which a proxy forwards, where one was asked for. `support` says when the support of this version
    ended, and is empty if it has not; `about` is the version with that.
    """

    url: str
    version: str
    folder: Path
    nodes: Sequence[Node]
    proxied: str | None = None
    support: str = ""

    def __repr__(self) -> str:
        ports = ", ".join(str(node.port) for node in self.nodes)
        return f"<Broker {self.url.partition(':')[0]} {self.about} on 127.0.0.1, port {ports}>"

    @property
    def about(self) -> str:
        """The version, and what there is to say of its support."""
        return f"{self.version} ({self.support})" if self.support else self.version

    @property
    def urls(self) -> tuple[str, ...]:
        """One URL for each node."""
        return tuple(node.url for node in self.nodes)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process of each node that runs: beam.smp or java, never a shell around it."""
        pids = []
        for node in self.nodes:
            try:
                pids.append(node.real().pid)
            except ConnectFailed:
                continue
        return tuple(pids)

    async def kill(self, node: int = 1) -> None:
        """End the node's process with SIGKILL, and return when it is gone.

        Raises `ConnectFailed` when it does not run, or will not go within 10 s.
        """
        await asyncio.to_thread(kill, [self._node(node).real()])

    async def restart(self, node: int = 1) -> None:
        """Start the node again on its data and ports, after SIGKILL if it still runs; return when it serves.

        Raises `ConnectFailed` when it does not within 120 s.
        """
        started = self._node(node)
        await asyncio.to_thread(started.end)
        started.start()
        await started.serving(node)

    async def pause(self, node: int = 1) -> None:
        """Stop the node's process with SIGSTOP: its connections stay open and nothing answers.

        Returns once it has stopped, which took up to 17 ms where all cores were busy.
        """
        process = self._node(node).real()
        process.suspend()
        async with asyncio.timeout(PROBE_SECONDS):
            while process.status() != psutil.STATUS_STOPPED:  # noqa: ASYNC110 - the system does not tell
                await asyncio.sleep(0.001)

    async def resume(self, node: int = 1) -> None:
        """Let a paused node go on, with SIGCONT."""
        self._node(node).real().resume()

    async def hang(self, seconds: float) -> None:
        """Pause the first node for so many seconds."""
        await self.pause()
        try:
            await asyncio.sleep(seconds)
        finally:
            await self.resume()

    def _node(self, number: int) -> Node:
        if not 1 <= number <= len(self.nodes):
            raise ValueError(f"there is no node {number}: they are numbered 1 to {len(self.nodes)}")
        return self.nodes[number - 1]


@asynccontextmanager
async def launched(
    build: Callable[[Path], Broker], begin: Callable[[Broker], Awaitable[None]]
) -> AsyncIterator[Broker]:
    """The broker that `build` lays out in an empty folder and `begin` starts; and its end in every case.

    Raises `BrokerMissing` when it does not start.
    """
    for attempt in range(1, STARTS + 1):
        async with AsyncExitStack() as stack:
            with _room():
                broker = build(await stack.enter_async_context(guarded_folder()))
            try:
                try:
                    with _room():
                        await begin(broker)
                except PortTaken:
                    if attempt < STARTS:
                        continue
                    raise
                except ConnectFailed as error:
                    raise BrokerMissing(f"no private broker: {error}") from error
                yield broker
                return
            finally:
                await together(*(asyncio.to_thread(node.end) for node in broker.nodes))


@contextmanager
def _room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        todo = ": make room, or set TMPDIR to a folder to write in" if error.errno in NO_ROOM else ""
        raise BrokerMissing(f"no private broker: {error}{todo}") from error


@asynccontextmanager
async def guarded_folder() -> AsyncIterator[Path]:
    """A folder only this user can read, which goes with all processes that are marked with it.

    A watchdog in a session of its own sees to that if this process is killed.
    """
    folder, guard = guarded(secrets.token_hex(8))
    try:
        private_folder(folder)
        yield folder
    finally:
        await asyncio.to_thread(watchdog.end, folder)
        guard.kill()
        guard.wait()


def guarded(name: str) -> tuple[Path, subprocess.Popen[bytes]]:
    """A folder that is not there yet, and the watchdog that removes it when this process is gone."""
    folder = Path(tempfile.gettempdir()).resolve() / f"greet-{name}"
    guard = subprocess.Popen(
        [sys.executable, "-P", watchdog.__file__, str(folder), str(os.getpid())],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return folder, guard


async def together(*work: Coroutine[object, object, None]) -> None:
    """Do all at the same time; when one fails, end the others and raise its error by itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


def private_folder(path: Path) -> Path:
    """Make a folder that only this user can read, whatever the umask; returns it."""
    path.mkdir(0o700)
    path.chmod(0o700)
    return path


def write(path: Path, text: str) -> None:
    """Write a file that only this user can read, from its first byte on and whatever the umask."""
    path.touch(0o600)
    path.chmod(0o600)
    path.write_text(text)


def environment(folder: Path, *foreign: str) -> dict[str, str]:
    """This process's environment, marked as the broker's in `folder`, without what begins with one of `foreign`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
    return kept | {watchdog.MARK: str(folder)}


def free_ports(count: int) -> list[int]:
    """Ports of loopback, all different, that nobody listens on now."""
    found: list[int] = []
    with ExitStack() as bound:
        while len(found) < count:
            one = bound.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                one.bind(("127.0.0.1", secrets.choice(PRIVATE_PORTS)))
                found.append(one.getsockname()[1])
    return found


async def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of loopback."""
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


def kill(processes: Sequence[psutil.Process]) -> None:
    """Send SIGKILL, and return when none of them runs; raises `ConnectFailed` if one still does after 10 s."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + watchdog.PATIENCE
    for process in processes:
        while runs(process):
            if time.monotonic() > deadline:
                raise ConnectFailed(f"process {process.pid} does not end: look at what holds it")
            time.sleep(watchdog.POLL_SECONDS)
