"""Private brokers that demand TLS and a login, for the tests of several suites."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

import greet
from greet.brokers import Broker
from greet.brokers.process import free_ports, listens

CANARY = "canary-7c1e"
TIMEOUT = 8
SASL = "org.apache.kafka.common.security."


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
    mutual: int
    """The port for TLS with a certificate of the client's, as `client` is."""
    broker: Broker

    def url(self, port: int, user: str = "", host: str = "127.0.0.1", **options: object) -> str:
        query = "&".join(f"{key}={value}" for key, value in {"timeout": TIMEOUT, **options}.items())
        return f"kafka+ssl://{user}{'@' if user else ''}{host}:{port}?{query}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    @property
    def client(self) -> Path:
        return self.folder / "client.pem"

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


@asynccontextmanager
async def guarded_kafka(folder: Path, more: Mapping[str, str] | None = None) -> AsyncIterator[Guarded]:
    """A Kafka with a door for each way in; `more` has lines for its server.properties."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    good = pem(authority.issue_cert("127.0.0.1"), folder / "good.pem")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    pem(authority.issue_cert("client"), folder / "client.pem")
    old = pem(authority.issue_cert("127.0.0.1", not_after=yesterday), folder / "old.pem")
    login, tls, expired, mutual = free_ports(4)
    doors = {"LOGIN": login, "TLS": tls, "OLD": expired, "MUTUAL": mutual}
    where = ",".join(f"{name}://127.0.0.1:{port}" for name, port in doors.items())
    config = {
        "listeners": where,
        "advertised.listeners": where,
        "listener.security.protocol.map": (
            "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,LOGIN:SASL_SSL,TLS:SSL,OLD:SSL,MUTUAL:SSL"
        ),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": good,
        "listener.name.old.ssl.keystore.type": "PEM",
        "listener.name.old.ssl.keystore.location": old,
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.truststore.type": "PEM",
        "listener.name.mutual.ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.login.plain.sasl.jaas.config": f'{SASL}plain.PlainLoginModule required user_ada="{CANARY}"'
        f' user_eve="{CANARY}";',
        "listener.name.login.scram-sha-256.sasl.jaas.config": f"{SASL}scram.ScramLoginModule required;",
        "listener.name.login.scram-sha-512.sasl.jaas.config": f"{SASL}scram.ScramLoginModule required;",
        "listener.name.login.oauthbearer.sasl.jaas.config": f"{SASL}oauthbearer.OAuthBearerLoginModule required;",
        "listener.name.login.oauthbearer.sasl.server.callback.handler.class": (
            f"{SASL}oauthbearer.internals.unsecured.OAuthBearerUnsecuredValidatorCallbackHandler"
        ),
    }
    async with greet.brokers.kafka(config=config | dict(more or {})) as broker:
        for bits in (256, 512):
            await add_user(broker.url.partition("://")[2], f"SCRAM-SHA-{bits}=[iterations=4096,password={CANARY}]")
        yield Guarded(folder, login, tls, expired, mutual, broker)


@asynccontextmanager
async def guarded_rabbitmq(folder: Path, more: Mapping[str, str] | None = None) -> AsyncIterator[tuple[Broker, str]]:
    """A RabbitMQ with a door for TLS, and the URL of that; `more` has lines for its rabbitmq.conf."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    leaf = authority.issue_cert("127.0.0.1")
    leaf.cert_chain_pems[0].write_to_path(str(folder / "broker.pem"))
    leaf.private_key_pem.write_to_path(str(folder / "broker.key"))
    (port,) = free_ports(1)
    config = {
        "listeners.ssl.1": f"127.0.0.1:{port}",
        "ssl_options.cacertfile": str(folder / "ca.pem"),
        "ssl_options.certfile": str(folder / "broker.pem"),
        "ssl_options.keyfile": str(folder / "broker.key"),
    }
    async with greet.brokers.rabbitmq(config=config | dict(more or {})) as broker:
        login = broker.url.partition("://")[2].rpartition("@")[0]
        while not await listens(port):  # the broker opens it after the other one
            await asyncio.sleep(0.1)
        yield broker, f"amqps://{login}@127.0.0.1:{port}/?ca={folder / 'ca.pem'}"
