"""Brokers for the whole test run: started once, shared by the tests and by the notebooks' kernels."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from uuid import uuid4

import pytest

from greet.brokers import VARIABLES

_processes: list[subprocess.Popen[str]] = []


def _brokers() -> dict[str, str]:
    """The URLs of the environment; what is missing there is started once, and put there."""
    missing = [design for design, key in VARIABLES.items() if key not in os.environ]
    if not _processes:
        for design in missing:
            command = [sys.executable, "-m", "greet.brokers", "--only", design]
            _processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in _processes:
            # One line, or none and the end of its output if there is no such broker to be had.
            if process.stdout and (found := re.match(r"export (GREET_\w+_URL)=(.+)", process.stdout.readline())):
                os.environ[found[1]] = shlex.split(found[2])[0]
    return {design: os.environ[key] for design, key in VARIABLES.items() if key in os.environ}


def pytest_unconfigure() -> None:
    """The brokers end with the run, and end well."""
    for process in _processes:
        process.terminate()
        process.communicate(timeout=30)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A notebook's cells take no fixture: the brokers are there before its kernel starts."""
    if type(item).__name__ == "IPyNbCell":
        _brokers()


def _url(design: str) -> str:
    urls = _brokers()
    if design not in urls:
        message = f"no {design} to be had here"
        pytest.fail(message) if os.environ.get("GREET_REQUIRE") == "all" else pytest.skip(message)
    return urls[design]


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    """A real RabbitMQ."""
    return _url("rabbitmq")


@pytest.fixture(scope="session")
def kafka_url() -> str:
    """A real Kafka."""
    return _url("kafka")


@pytest.fixture
def topic() -> str:
    """A topic that no other test has."""
    return f"t{uuid4().hex[:12]}"
