"""The machine, the versions and the commit of a run."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

CLIENTS = ("aio-pika", "aiormq", "aiokafka", "confluent-kafka", "faststream", "uvloop", "numpy", "pandas")
BUSY = 0.3
"""The share of the cores in use from which on other programs disturb a run."""
LOOK_S = 0.5
"""For how long it is looked how many cores are in use before a run; the load average knows only the last minute."""


def surroundings() -> dict[str, Any]:
    """The machine, the versions and the commit; no host name, user or path. It takes half a second."""
    clock = time.get_clock_info("perf_counter")
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": psutil.cpu_count(logical=False),
            "threads": os.cpu_count(),
            "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "os": f"{platform.system()} {platform.release()} {platform.machine()}",
            "load_average": psutil.getloadavg(),
            "busy": round(psutil.cpu_percent(LOOK_S) / 100 * (os.cpu_count() or 1), 2),
        },
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "clients": {name: found for name in CLIENTS if (found := _version(name))},
        "clock": {"name": clock.implementation, "resolution_s": clock.resolution, "monotonic": clock.monotonic},
        "commit": _commit(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    if sys.platform == "darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this kit, with "+" when something is changed; None outside of a repository."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None
