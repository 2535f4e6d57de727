"""TLS and logins, tried against private brokers that demand them; and passwords that are never shown.

Kafka stands here; what RabbitMQ says of certificates is in test_rabbitmq.py. What a URL may not ask for, such
as a password over an unencrypted network, is in test_address.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
import traceback
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pytest
import pytest_asyncio
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from nbclient import NotebookClient

import greet
from greet.brokers import Broker
from greet.brokers.process import free_ports

CANARY = "canary-7c1e"
WRONG = "wrong-canary-7c1e"
TIMEOUT = 8
SASL = "org.apache.kafka.common.security."
pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Guarded:
    """A Kafka that demands TLS and logins: where its doors are."""

    folder: Path
    login: int
    """The port for TLS and a login."""
    tls: int
    """The port for TLS alone."""
    expired: int
    """The same with a certificate of yesterday."""
    broker: Broker

    def url(self, port: int, user: str = "", host: str = "127.0.0.1", **options: object) -> str:
        query = "&".join(f"{key}={value}" for key, value in {"timeout": TIMEOUT, **options}.items())
        return f"kafka+ssl://{user}{'@' if user else ''}{host}:{port}?{query}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def token(self, text: str) -> Path:
        path = self.folder / f"token-{len(list(self.folder.glob('token-*')))}"
        path.write_text(text)
        return path


def jwt(lives_s: float = 3600) -> str:
    """An unsecured token, of which the canary is a part."""
    now = time.time()
    claims = {"sub": "ada", "iat": now - 10, "exp": now + lives_s, "jti": CANARY}
    parts = [urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({"alg": "none"}, claims)]
    return ".".join([*parts, ""])


def pem(leaf: trustme.LeafCert, path: Path) -> str:
    """Key and certificates in one file, as Kafka reads them: the key in PKCS #8."""
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with path.open("ab") as file:
        for blob in leaf.cert_chain_pems:
            file.write(blob.bytes())
    return str(path)


async def add_user(servers: str, scram: str) -> None:
    """Ada's password, given to the broker over the listener that only this machine reaches."""
    user = ("--entity-type", "users", "--entity-name", "ada", "--alter", "--add-config", scram)
    command = await greet.brokers.kafka_tool("kafka.admin.ConfigCommand", "--bootstrap-server", servers, *user)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guarded]:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    good = pem(authority.issue_cert("127.0.0.1"), folder / "good.pem")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    old = pem(authority.issue_cert("127.0.0.1", not_after=yesterday), folder / "old.pem")
    login, tls, expired = free_ports(3)
    where = ",".join(f"{name}://127.0.0.1:{port}" for name, port in (("LOGIN", login), ("TLS", tls), ("OLD", expired)))
    config = {
        "listeners": where,
        "advertised.listeners": where,
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,TLS:SSL,OLD:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": good,
        "listener.name.old.ssl.keystore.type": "PEM",
        "listener.name.old.ssl.keystore.location": old,
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.login.plain.sasl.jaas.config": f'{SASL}plain.PlainLoginModule required user_ada="{CANARY}";',
        "listener.name.login.scram-sha-256.sasl.jaas.config": f"{SASL}scram.ScramLoginModule required;",
        "listener.name.login.scram-sha-512.sasl.jaas.config": f"{SASL}scram.ScramLoginModule required;",
        "listener.name.login.oauthbearer.sasl.jaas.config": f"{SASL}oauthbearer.OAuthBearerLoginModule required;",
        "listener.name.login.oauthbearer.sasl.server.callback.handler.class": (
            f"{SASL}oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
    }
    async with greet.brokers.kafka(config=config) as broker:
        for bits in (256, 512):
            await add_user(broker.url.partition("://")[2], f"SCRAM-SHA-{bits}=[iterations=4096,password={CANARY}]")
        yield Guarded(folder, login, tls, expired, broker)


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
    async with greet.connect(guarded.url(guarded.tls, ca=guarded.ca, timeout=2), topic) as line:
        async with line.subscribe("hello") as names:
            await line.publish("Ada")
            assert await anext(names) == "Ada"
        await guarded.broker.pause()
        started = time.monotonic()
    await guarded.broker.resume()
    assert time.monotonic() - started < 8


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
