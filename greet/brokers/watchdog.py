"""Ends a private broker with all that it started, also when the Python that owned it was killed.

Every process of a broker has `MARK` with the broker's folder in its environment, which its own children
inherit; so epmd, which makes a daemon of itself, is found just like a server that was started again.
Run as a script (`watchdog.py FOLDER OWNER`), this file sleeps until the process `OWNER`, its parent, is
gone, and then ends what is left. It imports nothing of greet, so that it stands before the broker does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil

MARK = "GREET_BROKER"
PATIENCE = 10.0  # seconds; SIGKILL is quick, but a busy machine is not
POLL_SECONDS = 0.02
PARENT_SECONDS = 0.25


def marked(folder: Path) -> list[psutil.Process]:
    """The processes that run and belong to the broker in `folder`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == str(folder):
                found.append(process)
        except (psutil.Error, OSError):  # gone meanwhile, or another user's
            continue
    return found


def runs(process: psutil.Process) -> bool:
    """Whether the process is there and no zombie, which only waits for somebody to read its status."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def end(folder: Path) -> None:
    """Kill the processes of the broker in `folder`, wait up to 10 s until none runs, and remove the folder."""
    deadline = time.monotonic() + PATIENCE
    killed: set[psutil.Process] = set()  # one that ends has no environment any more, but still its ports
    while (left := {*marked(folder), *filter(runs, killed)}) and time.monotonic() < deadline:
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        killed = left
        time.sleep(POLL_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Survive the parent, then end its broker."""
    folder, owner = Path(sys.argv[1]), int(sys.argv[2])
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    # Polled, since no event does: a pipe stays open in what the parent has forked, and a parent that
    # nobody reaps is waited for in vain. Its children get another parent at once.
    while os.getppid() == owner:
        time.sleep(PARENT_SECONDS)
    end(folder)


if __name__ == "__main__":
    main()
