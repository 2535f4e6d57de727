"""Kafka's jars: pinned by coordinate and SHA-256 in kafka.lock, fetched once, checked at every start.

The lock has what `mvn dependency:list -DincludeScope=runtime` finds for kafka_2.13, kafka-tools by itself
(what it needs more is for Kafka Connect) and log4j-slf4j-impl. jgo fetches each by its coordinate, since its
own resolution of dependencies mixes versions; it knows where from. `cached` has the jars of another lock.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import Progress

from greet.brokers.process import POLL_SECONDS, together
from greet.errors import BrokerMissing

if sys.platform != "win32":
    import fcntl

LOCK = Path(__file__).with_name("kafka.lock")
FETCH_SECONDS = 600.0  # for all jars, or for another process that fetches them


@dataclass(frozen=True)
class Jar:
    """One artefact of a lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.artifact}-{self.version}.jar"


def locked(lock: Path = LOCK) -> list[Jar]:
    """The jars of a lock: `group:artifact:version sha256:…`, one a line."""
    jars = []
    for line in lock.read_text().splitlines():
        coordinate, sha256 = line.split(" sha256:")
        group, artifact, number = coordinate.split(":")
        jars.append(Jar(group, artifact, number, sha256))
    return jars


def version() -> str:
    """The version of Kafka that the lock names."""
    return next(jar.version for jar in locked() if jar.artifact == "kafka_2.13")


async def fetched() -> list[Path]:
    """All jars of kafka.lock, as `cached` has them."""
    return await cached(locked(), f"Kafka {version()}", "; or set GREET_KAFKA_URL")


async def cached(jars: Sequence[Jar], what: str, instead: str = "") -> list[Path]:
    """`jars` in the user's cache folder, each checked against its hash; fetches what is missing.

    `what` is their name and version, and `instead` what else can be done if one is not available.

    Raises:
        BrokerMissing: one cannot be fetched, kept, or is not the locked one; names it.
    """
    folder = user_cache_path("greet") / what.lower().replace(" ", "-")
    try:
        async with asyncio.timeout(FETCH_SECONDS):
            if await asyncio.to_thread(lacking, jars, folder):
                folder.mkdir(parents=True, exist_ok=True)
                async with alone(folder / "lock"):  # another process may have fetched them meanwhile
                    await fetch(await asyncio.to_thread(lacking, jars, folder), folder, what, instead)
    except TimeoutError:
        message = f"{what} was not fetched within {FETCH_SECONDS:.0f} s: try again, it continues where it stopped"
        raise BrokerMissing(message) from None
    except OSError as error:
        message = f"{what} cannot be stored in {folder}: {error.strerror}; set XDG_CACHE_HOME to a writable folder"
        raise BrokerMissing(message) from error
    return [folder / jar.file for jar in jars]


def lacking(jars: Sequence[Jar], folder: Path) -> list[Jar]:
    """Those of `jars` that are not in `folder`; raises `BrokerMissing` if one that is there differs."""
    for jar in (present := [jar for jar in jars if (folder / jar.file).exists()]):
        check(jar, folder / jar.file)
    return [jar for jar in jars if jar not in present]


def check(jar: Jar, path: Path) -> None:
    """Raise `BrokerMissing` unless the file is the locked jar."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise BrokerMissing(f"refused {jar.file}: its SHA-256 {found[:12]}… is not that of its lock; remove {path}")


async def fetch(jars: Sequence[Jar], folder: Path, what: str, instead: str) -> None:
    """Fetch `jars`, some at a time, each to where it is only seen once it is whole and checked."""
    console = Console(stderr=True)
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)  # a killed fetch left half a jar there, which jgo would take for whole
    if jars and not console.is_terminal:
        console.print(f"fetching {what}: {len(jars)} jars, once")
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task(f"fetching {what}", total=len(jars))

        async def one(jar: Jar) -> None:
            await asyncio.to_thread(fetch_one, jar, partial, folder / jar.file, instead)
            progress.advance(bar)

        await together(*map(one, jars))
    shutil.rmtree(partial, ignore_errors=True)


def fetch_one(jar: Jar, partial: Path, target: Path, instead: str) -> None:
    """Fetch one jar by its coordinate; raises `BrokerMissing` if it is not available, or not the locked one."""
    from jgo.maven import MavenContext  # noqa: PLC0415 - 0.1 s that only a first start needs

    context = MavenContext(repo_cache=partial)
    try:
        path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
    except (OSError, RuntimeError) as error:
        raise BrokerMissing(f"{jar.file} could not be fetched: {str(error)[:200]}{instead}") from error
    check(jar, path)
    path.replace(target)


@asynccontextmanager
async def alone(path: Path) -> AsyncIterator[None]:
    """Hold the lock file, once no other process does; it is free again when its holder dies."""
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(POLL_SECONDS)
        yield
