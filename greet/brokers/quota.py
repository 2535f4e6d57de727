"""Limits processes that run to a share of a core, by a cgroup of Linux with a CPU quota (version 1 or 2).

What a machine can do when each of its processors is a small one shows so on any machine: three brokers at 0.2 of a
core leave two cores room for their clients.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
PERIOD_US = 20_000
"""The quota is a share of each period: what is spent waits for the next."""
LEAVE_S = 2.0
"""How long a cgroup may take to be empty."""
MISSING = "a broker can be limited to a share of a core only where a cgroup can be made: run it as root on Linux"


@dataclass(frozen=True)
class Control:
    """Where cgroups with a quota can be made."""

    parent: Path
    home: Path
    """The cgroup of this process, to which the others go back."""
    unified: bool
    """Version 2 of cgroups."""

    def make(self, share: float) -> Path:
        """A new one. Raises `OSError` where that is not allowed."""
        made = self.parent / f"greet-{os.getpid()}-{secrets.token_hex(4)}"  # other containers have this number too
        made.mkdir()
        try:
            quota = int(share * PERIOD_US)
            if self.unified:
                (made / "cpu.max").write_text(f"{quota} {PERIOD_US}")
            else:
                (made / "cpu.cfs_period_us").write_text(str(PERIOD_US))
                (made / "cpu.cfs_quota_us").write_text(str(quota))
        except BaseException:
            made.rmdir()
            raise
        return made

    def remove(self, made: Path) -> None:
        """Send home who is in it, and remove it."""
        deadline = time.monotonic() + LEAVE_S
        while True:
            for pid in (made / "cgroup.procs").read_text().split():
                _move(int(pid), self.home)
            try:
                made.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


def find(root: Path = ROOT, own: Path = OWN) -> Control | None:
    """Where a quota can be set here: it is tried. None where it cannot."""
    with suppress(OSError):
        control = _first(root, _paths(own))
        if control:
            control.make(0.5).rmdir()
            return control
    return None


def _paths(own: Path) -> dict[str, str]:
    """The cgroup of this process, by its controllers; that of version 2 has none."""
    lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    return {controllers: path for _, controllers, path in lines}


def _first(root: Path, paths: dict[str, str]) -> Control | None:
    for controllers, path in paths.items():
        if "cpu" in controllers.split(","):
            mount = next((found for name in (controllers, "cpu") if (found := root / name).is_dir()), root)
            home = _within(mount, path)
            return Control(home, home, unified=False)
    home = _within(root, paths.get("", "/"))
    for parent in (home, *home.parents):  # one with processes has no children with a quota, but for the first of all
        if not parent.is_relative_to(root):
            break
        if "cpu" in (parent / "cgroup.subtree_control").read_text().split():
            return Control(parent, home, unified=True)
    return None


def _within(mount: Path, path: str) -> Path:
    """In a container the path may be that of the machine around it, which is not seen."""
    found = mount / path.lstrip("/")
    return found if found.is_dir() else mount


@contextmanager
def limited(families: Sequence[Sequence[psutil.Process]], share: float) -> Iterator[None]:
    """Let each family of processes, and what it starts from now on, use `share` of a core at most, until this ends.

    Raises:
        OSError: no quota can be set here; `find` tells before.
    """
    control = find()
    if control is None:
        raise OSError(MISSING)
    with ExitStack() as stack:
        for family in families:
            made = control.make(share)
            stack.callback(control.remove, made)
            for process in family:
                _move(process.pid, made)
        yield


def _move(pid: int, cgroup: Path) -> None:
    with suppress(ProcessLookupError):
        (cgroup / "cgroup.procs").write_text(str(pid))
