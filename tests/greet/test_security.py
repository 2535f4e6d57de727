"""TLS and logins, tried against private brokers that demand them; and passwords that are never shown.

Kafka stands here; what RabbitMQ says of certificates is in test_rabbitmq.py. What a URL may not ask for, such
as a password over an unencrypted network, is in test_address.py.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import nbformat
import pytest
import pytest_asyncio
import trustme
from guarded import CANARY, TIMEOUT, Guarded, guarded_kafka, jwt
from nbclient import NotebookClient

import greet

WRONG = "wrong-canary-7c1e"
pytestmark = pytest.mark.timeout(240)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    async with guarded_kafka(tmp_path_factory.mktemp("certificates")) as found:
        yield found


@pytest.fixture(autouse=True)
def no_word_of_it(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever a test here does: neither password is in a log, at any level, or on the terminal."""
    caplog.set_level(logging.DEBUG)
    yield
    assert "canary" not in caplog.text
    assert "canary" not in "".join(capfd.readouterr())


async def carries(url: str, topic: str) -> bool:
    async with asyncio.timeout(60), greet.connect(url, topic) as line, line.subscribe("hello") as names:
        assert "canary" not in f"{line!r} {line.address}"
        await line.publish("Ada")
        return await anext(names) == "Ada"


async def refusal(url: str, topic: str = "names") -> str:
    """What `ConnectFailed` says: one line, by the deadline, without a secret in all of its traceback."""
    with pytest.raises(greet.ConnectFailed) as caught:
        async with asyncio.timeout(TIMEOUT * 3), greet.connect(url, topic):
            pass
    message = str(caught.value)
    assert message.isprintable()
    assert "canary" not in "".join(traceback.format_exception(caught.value))
    assert "canary" not in repr(caught.value)
    return message


# Who is let in


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_password_over_tls(guarded: Guarded, topic: str, mechanism: str) -> None:
    assert await carries(guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca, sasl=mechanism), topic)


async def test_a_token(guarded: Guarded, topic: str) -> None:
    assert await carries(guarded.url(guarded.login, ca=guarded.ca, token_file=guarded.token(jwt())), topic)


async def test_a_share_group_over_tls(guarded: Guarded, topic: str) -> None:
    """Also the connection on which the group is founded: it is not the driver's."""
    pytest.importorskip("confluent_kafka")
    for url in (guarded.url(guarded.tls, ca=guarded.ca), guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca)):
        assert await carries(url.replace("kafka+ssl", "kafka+share+ssl"), topic)
    wrong = guarded.url(guarded.login, f"ada:{WRONG}", ca=guarded.ca).replace("kafka+ssl", "kafka+share+ssl")
    assert "refuses the login" in await refusal(wrong)
    assert "certificate" in await refusal(guarded.url(guarded.tls).replace("kafka+ssl", "kafka+share+ssl"))


async def test_tls_alone(guarded: Guarded, topic: str) -> None:
    assert await carries(guarded.url(guarded.tls, ca=guarded.ca), topic)


async def test_leaving_a_silent_broker_over_tls(guarded: Guarded, topic: str) -> None:
    """It does not answer the farewell of TLS either: that is given up, and nothing is raised for it."""
    try:
        async with greet.connect(guarded.url(guarded.tls, ca=guarded.ca, timeout=2), topic) as line:
            async with line.subscribe("hello") as names:
                await line.publish("Ada")
                assert await anext(names) == "Ada"
            await guarded.broker.pause()
            started = time.monotonic()
        assert time.monotonic() - started < 8
    finally:
        await guarded.broker.resume()


# Who is not


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("login", [f"ada:{WRONG}", f"nobody:{CANARY}"], ids=["password", "user"])
async def test_a_wrong_login(guarded: Guarded, mechanism: str, login: str) -> None:
    said = await refusal(guarded.url(guarded.login, login, ca=guarded.ca, sasl=mechanism))
    assert "refuses the login" in said


@pytest.mark.parametrize("token", [jwt(-5), f"{CANARY}.no.token", ""], ids=["expired", "garbage", "empty"])
async def test_a_wrong_token(guarded: Guarded, token: str) -> None:
    said = await refusal(guarded.url(guarded.login, ca=guarded.ca, token_file=guarded.token(token)))
    assert "refuses the login" in said or "token" in said


async def test_a_token_file_that_is_not_there(guarded: Guarded) -> None:
    said = await refusal(guarded.url(guarded.login, ca=guarded.ca, token_file=guarded.folder / "nothing"))
    assert "nothing" in said


async def test_no_login_at_all(guarded: Guarded) -> None:
    await refusal(guarded.url(guarded.login, ca=guarded.ca))


async def test_an_unknown_authority(guarded: Guarded) -> None:
    assert "certificate" in await refusal(guarded.url(guarded.tls))


async def test_another_authority(guarded: Guarded, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    assert "certificate" in await refusal(guarded.url(guarded.login, f"ada:{CANARY}", ca=tmp_path / "other.pem"))


@pytest.mark.parametrize("scheme", ["amqps", "rabbitmq+stream+ssl", "kafka+ssl", "kafka+share+ssl"])
@pytest.mark.parametrize("key", ["ca", "cert"])
async def test_a_file_that_is_no_certificate(scheme: str, key: str, tmp_path: Path) -> None:
    """No broker has refused anything, nor is one missing."""
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(greet.BadURL, match="are not what TLS needs"):
        async with greet.connect(f"{scheme}://127.0.0.1:1/?timeout=2&{key}={tmp_path / 'junk.pem'}"):
            pass


async def test_a_wrong_host_name(guarded: Guarded) -> None:
    said = await refusal(guarded.url(guarded.login, f"ada:{CANARY}", "localhost", ca=guarded.ca))
    assert "localhost" in said
    assert "certificate" in said


async def test_an_expired_certificate(guarded: Guarded) -> None:
    assert "expired" in await refusal(guarded.url(guarded.expired, ca=guarded.ca))


async def test_no_tls_where_it_is_demanded(guarded: Guarded) -> None:
    await refusal(f"kafka://127.0.0.1:{guarded.tls}?timeout={TIMEOUT}")


async def test_tls_where_there_is_none(kafka_url: str) -> None:
    await refusal(f"{kafka_url.partition('?')[0].replace('kafka:', 'kafka+ssl:')}?timeout={TIMEOUT}")


# Where a password could show up


async def run(*arguments: str, **environment: str) -> tuple[int, str]:
    """A module's command line, with all that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments), env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


def files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}


async def test_the_command_line_says_nothing_of_it(guarded: Guarded, topic: str) -> None:
    url = guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca)
    status, said = await run("greet", "run", "--url", url, "--topic", topic, "Ada")
    assert (status, sorted(said.splitlines())) == (0, ["goodbye Ada", "hello Ada"])
    status, said = await run("greet", "send", "--url", url.replace(CANARY, WRONG), "--topic", topic, "Ada")
    assert status == 3
    assert "refuses the login" in said
    assert "canary" not in said


async def test_a_run_of_the_bench_says_nothing_of_it(guarded: Guarded, tmp_path: Path) -> None:
    url = guarded.url(guarded.login, f"ada:{CANARY}", ca=guarded.ca)
    asked = ("--designs", "kafka", "--questions", "throughput", "--seconds", "0.05", "--rounds", "1")
    _, said = await run("bench", "run", *asked, "--out", str(tmp_path), GREET_KAFKA_URL=url)
    kept = files(tmp_path)
    assert {"run.json", "measurements.jsonl"} <= set(kept)
    assert "canary" not in said + "".join(kept.values())
    (folder,) = tmp_path.iterdir()
    for form in ("--html", "--markdown"):
        status, page = await run("bench", "report", str(folder), form, GREET_KAFKA_URL=url)
        assert status == 0
        assert "canary" not in page


async def test_a_notebook_says_nothing_of_it(rabbitmq_url: str, kafka_url: str) -> None:
    """Run with the real, random password of a private broker: no output has it."""
    password = greet.connect(rabbitmq_url).address.password
    assert len(password) > 10
    path = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        cell.update({"outputs": [], "execution_count": None} if cell.cell_type == "code" else {})
    await NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(path.parent)}}).async_execute()
    said = nbformat.writes(notebook)  # type: ignore[no-untyped-call]
    assert "hello Ada" in said
    assert password not in said
    assert kafka_url not in said
