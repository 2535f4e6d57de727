"""Brokers for the whole test run: started once, shared by the tests and by the notebooks' kernels."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import subprocess
import sys
from uuid import uuid4
from zlib import crc32

import pytest

from greet.designs import PRODUCTS, Product

CONTRACT = "test_contract.py"
MAY_BE_SKIPPED = (
    *("no other system tells", "this system has no ", "psutil has no memory maps on this system"),
    *("no disk can be mounted here", "a small disk can be made by root alone", "a broker can be limited to a share"),
    *("no time namespaces here", "no hosts of their own here", "no Prometheus here"),
)
"""Reasons to skip a test where all is required: what a machine cannot do or lend, whatever is installed."""
_processes: list[subprocess.Popen[str]] = []


def _brokers() -> dict[str, str]:
    """The URLs of the environment, by product; what is missing there is started once, and put there."""
    missing = [product for product in PRODUCTS if product.variable not in os.environ]
    if not _processes:
        for product in missing:
            command = [sys.executable, "-m", "greet.brokers", "--only", product.name]
            started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=_ends_with_us)  # noqa: PLW1509
            _processes.append(started)
        for process in _processes:
            # One line, or none and the end of its output if there is no such broker to be had.
            if process.stdout and (found := re.match(r"export (GREET_\w+_URL)=(.+)", process.stdout.readline())):
                os.environ[found[1]] = shlex.split(found[2])[0]
    return {one.name: os.environ[one.variable] for one in PRODUCTS if one.variable in os.environ}


def _ends_with_us() -> None:
    """On Linux a process that calls this gets SIGTERM when pytest is gone, also after a SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def pytest_configure() -> None:
    """SIGTERM, or a closed terminal, ends the run as Ctrl-C does: its brokers end too.

    They live for a minute or two, in which Java's second compiler costs more than it gains.
    """
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where all is required, a test that was skipped for want of something has failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("GREET_REQUIRE") != "all" or not reporter:  # a worker of xdist has none
        return
    reasons = {one.longrepr[2].removeprefix("Skipped: ") for one in reporter.stats.get("skipped", ())}
    if wanting := sorted(one for one in reasons if not one.startswith(MAY_BE_SKIPPED)):
        reporter.write_line("")
        for one in wanting:
            reporter.write_line(f"GREET_REQUIRE=all, and a test was skipped: {one}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    """The brokers end with the run, and end well."""
    for process in _processes:
        process.terminate()
        process.communicate(timeout=30)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """A picture as SVG is compared as little as one as PNG: by its words, which are the output's text."""
    if type(collector).__name__ == "IPyNbFile":
        collector.skip_compare = (*collector.skip_compare, "image/svg+xml")  # type: ignore[attr-defined]
        collector.sanitize_patterns[r"data:image/svg\+xml;base64,[^\"]+"] = "the same in HTML"  # type: ignore[attr-defined]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The contract comes last: its parts are small, and fill up the workers while the last long files end."""
    items.sort(key=lambda item: item.path.name == CONTRACT)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """The workers share the brokers of the run, which so get warm once."""
    _brokers()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A file goes to one worker, as its fixtures may start brokers; the contract, which has none, goes to all."""
    from xdist.scheduler import LoadFileScheduling  # noqa: PLC0415

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return f"{file} {crc32(nodeid.encode()) % 16}" if file.endswith(CONTRACT) else file

    config.option.loadscopereorder = False  # it would begin with what has the most tests, and end with what takes long
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A notebook's cells take no fixture: the brokers are there before its kernel starts, and no runs of one's own."""
    if type(item).__name__ == "IPyNbCell":
        os.environ["BENCH_RESULTS"] = os.devnull
        _brokers()


def _fixture(product: Product) -> object:
    @pytest.fixture(scope="session", name=f"{product.name}_url")
    def url() -> str:
        urls = _brokers()
        if product.name not in urls:
            message = f"no {product.title} to be had here"
            pytest.fail(message) if os.environ.get("GREET_REQUIRE") == "all" else pytest.skip(message)
        return urls[product.name]

    return url


# `rabbitmq_url`, `kafka_url`: a real broker of each product.
globals().update({f"{product.name}_url": _fixture(product) for product in PRODUCTS})


@pytest.fixture
def topic() -> str:
    """A topic that no other test has."""
    return f"t{uuid4().hex[:12]}"
