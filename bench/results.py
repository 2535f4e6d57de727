"""A run as files: `run.json`, `measurements.jsonl` and the small `details.jsonl`; and back as a DataFrame.

Each row is on the disk as soon as it is measured, so a run that is interrupted keeps what it has;
its run.json says `"complete": false`. A figure that was not measured is null, never zero.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench import schema
from bench.model import Measurement

if TYPE_CHECKING:
    import pandas as pd

MEASUREMENTS, DETAILS, RUN = "measurements.jsonl", "details.jsonl", "run.json"
FIGURES = (
    *(f"latency_ms.{name}" for name in ("p50", "p90", "p99", "p99_9", "max")),
    *(f"{what}.{side}" for what in ("cpu_s", "rss_mb") for side in ("client", "broker")),
)
KEPT = ("latencies", "progress_s", "members")
"""Columns that are there also where nothing of the kind was measured."""
REFERENCE = Path(__file__).parent / "reference"
"""The published runs, a folder each."""


class Writer:
    """The folder of one run.

    Raises:
        OSError: by any method, when the folder cannot be written or the disk is full.
    """

    def __init__(self, out: Path, about: Mapping[str, Any]) -> None:
        moment = datetime.now(UTC)
        self.run = f"{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        self.folder = out / self.run
        self.folder.mkdir(parents=True)
        self._about: dict[str, Any] = {"run": self.run, "started": f"{moment:%Y-%m-%dT%H:%M:%SZ}", **about}
        (self.folder / MEASUREMENTS).touch()
        self.note(complete=False)

    def note(self, **facts: Any) -> None:
        """Add to run.json, which is replaced as a whole."""
        self._about |= facts
        partial = self.folder / f"{RUN}.partial"
        partial.write_text(json.dumps(self._about, indent=1) + "\n")
        partial.replace(self.folder / RUN)

    def append(self, row: Measurement, details: Mapping[str, Any] | None = None) -> None:
        """Keep a row, and in a line of the same number what is too long for it: curves, messages over time."""
        _append(self.folder / DETAILS, details or {})
        _append(self.folder / MEASUREMENTS, asdict(row))


def _append(path: Path, record: Mapping[str, Any]) -> None:
    """One write for one line: it is there as a whole or not at all, unless the disk is full."""
    line = (json.dumps(record) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if os.write(handle, line) < len(line):
            raise OSError(28, "No space left on device", str(path))
    finally:
        os.close(handle)


def load(*paths: str | Path, details: bool = False) -> pd.DataFrame:
    """The measurements of a run, or of several below each other. Nested fields become "cpu_s.client".

    A run is its folder, or a measurements.jsonl. With `details` there are also the columns of
    details.jsonl, where it is: "latencies", "progress_s", "members" and what else a question keeps. What
    was measured in no row is a column of nothing, and of no rows there are no columns.

    Raises:
        FileNotFoundError: there is no such run.
        BadRun: a file is damaged; it says which, where and how.
    """
    import pandas as pd  # noqa: PLC0415, no worker process needs it, and all of them import bench

    rows: list[Any] = []
    more: list[Any] = []
    for path in paths:
        file = Path(path) / MEASUREMENTS if Path(path).is_dir() else Path(path)
        aside = file.with_name(DETAILS)
        rows += schema.rows(file)
        more += schema.details(aside)[: len(rows) - len(more)] if details and aside.exists() else []
        more += [{}] * (len(rows) - len(more))
    if not rows:
        return pd.DataFrame()
    frame = pd.json_normalize(rows, max_level=1)
    frame = frame.join(pd.DataFrame(more)) if any(more) else frame
    wanted = [*FIGURES, *(KEPT if details else ())]
    return frame.reindex(columns=[*frame.columns, *(name for name in wanted if name not in frame)])


def latest(out: Path | None = None) -> tuple[pd.DataFrame, str]:
    """The newest run of one's own that is complete, as a frame with details, and which it is; else the published runs.

    One that cannot be read is told in a line of standard error, and left out.

    Args:
        out: where runs are kept; left out, the folder that BENCH_RESULTS names, or `results` beside this package.
    """
    place = out or Path(os.environ.get("BENCH_RESULTS") or Path(__file__).parents[1] / "results")
    for folder in reversed(_runs(place)):
        try:
            facts = about(folder)
            if facts.get("complete") and not {"workload", "faults"} & {*facts["questions"]}:
                return load(folder, details=True), f"your own run {folder.name}"
        except (OSError, schema.BadRun) as error:
            print(f"bench: left out: {error}", file=sys.stderr)
    return reference(), "the published run"


def reference() -> pd.DataFrame:
    """The published figures and faults as one frame, with details."""
    return load(*(folder for folder in published() if "workload" not in about(folder)), details=True)


def published() -> list[Path]:
    """The folders of the published runs: figures, faults, and the ready workloads."""
    return _runs(REFERENCE)


async def live(question: str, **options: object) -> pd.DataFrame:
    """Run `python -m bench run --questions QUESTION`, in a process of its own, and load what it measured.

    `options` are those of the command: `await bench.live("latency", designs="asyncio,kafka", rounds=3)`.

    Raises:
        RuntimeError: a message was lost, a repetition failed, or a broker that was asked for is missing.
    """
    async with _made("run", "--questions", question, *_flags(options)) as folder:
        return load(folder, details=True)


async def tried(**keys: object) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Run `python -m bench workload`, in a process of its own; its rows and its run.json, for `bench.show.workload`.

    `keys` are those of a workload: `await bench.tried(rate=300, size=800, members=3)`.

    Raises:
        RuntimeError: the command was refused or had to stop.
    """
    async with _made("workload", *_flags(keys), met=(0, 1)) as folder:
        return load(folder), about(folder)


def _flags(options: Mapping[str, object]) -> list[str]:
    said = {key: str(value).lower() if isinstance(value, bool) else str(value) for key, value in options.items()}
    return [word for key, value in said.items() for word in (f"--{key}", value)]


@asynccontextmanager
async def _made(*words: str, met: Collection[int] = (0,)) -> AsyncIterator[Path]:
    """The folder of a run that `python -m bench` makes now, for as long as it is looked at."""
    with TemporaryDirectory() as out:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench", *words, "--out", out),
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            _, said = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        folder = newest(Path(out))
        if process.returncode not in met or folder is None:
            raise RuntimeError(said.decode().strip() or f"the run ended with {process.returncode}")
        yield folder


def about(path: str | Path) -> dict[str, Any]:
    """The run.json of a run. Raises as `load` does."""
    return schema.about(Path(path) / RUN)


def newest(out: Path) -> Path | None:
    """The newest run in `out`."""
    return next(reversed(_runs(out)), None)


def _runs(out: Path) -> list[Path]:
    """The folders of the runs in `out`, the oldest first: they are named after their time."""
    return sorted(file.parent for file in out.glob(f"*/{RUN}"))
