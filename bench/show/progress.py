"""What a run shows while it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.model import Measurement


class Watch:
    """A bar where a person looks on, a line for each row that is wrong, and with `json_lines` each row."""

    def __init__(self, *, json_lines: bool) -> None:
        self._json_lines = json_lines
        self._aside = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=self._aside, disable=not self._aside.is_terminal)
        self._bar = self._progress.add_task("starting the brokers", total=None)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The bar is there until the end of this."""
        with self._progress:
            yield

    def begins(self, repetitions: int) -> None:
        """So many repetitions there will be, as far as is known: it may become more."""
        self._progress.update(self._bar, total=repetitions)

    def asks(self, question: str) -> None:
        """This question comes now."""
        self._progress.update(self._bar, description=question)

    def sees(self, row: Measurement) -> None:
        """One more repetition is done; where it makes two rows, the second says so."""
        self._progress.advance(self._bar, 0 if row.params["phase"] == "publish" else 1)
        if self._json_lines:
            print(json.dumps(asdict(row)), flush=True)
        if row.wrong:
            what = row.error or f"{row.lost} lost, {row.duplicates} twice, {row.reordered} out of order"
            self.say(f"{row.question}, {row.design} {row.contender}: {what}")

    def say(self, text: str) -> None:
        """One line beside the results."""
        self._aside.print(f"bench: {text}", markup=False, highlight=False, soft_wrap=True)
