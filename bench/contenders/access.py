"""How a peer reaches the broker of greet's URL: its hosts, TLS and login in the words of each driver.

A secret stands in no argument list and in no file: Java's tools read it from a pipe, or from their environment.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from aiokafka.abc import AbstractTokenProvider

import greet
from bench.model import Place

if TYPE_CHECKING:
    from greet.address import Address

LISTENS_S = 5.0
"""How long a host may take to answer before the next one is tried."""
TOKEN_S = 300.0
"""After so many seconds at most a token is read from its file again: who renews it only has to write the file."""
SECURITY = "org.apache.kafka.common.security."
PEM = r"-----BEGIN {0}-----.+?-----END {0}-----"


def address_of(url: str) -> Address:
    """`url`, taken apart by greet."""
    return greet.connect(url).address


def options(place: Place) -> dict[str, str]:
    """What the query of greet's URL says, and what a question adds to it."""
    return {**address_of(place.url).options, **dict(place.options)}


def tls(address: Address) -> ssl.SSLContext | None:
    """How to encrypt, as greet does: certificate and host name are verified."""
    if not address.tls:
        return None
    context = ssl.create_default_context(cafile=address.options.get("ca"))
    if "cert" in address.options:
        context.load_cert_chain(address.options["cert"], address.options.get("key"))
    return context


# RabbitMQ


@dataclass(frozen=True)
class Door:
    """The member of a RabbitMQ cluster that is used: the first of the URL that listens, as for greet."""

    url: str = field(repr=False)
    """As AMQP's clients read it: one host, and no query."""
    context: ssl.SSLContext | None
    host: str
    port: int

    async def certificate(self) -> bytes:
        """The certificate that it shows, verified, in DER. Raises `OSError` where it is refused."""
        _, writer = await asyncio.open_connection(self.host, self.port, ssl=self.context)
        shown: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return shown


async def rabbitmq(url: str) -> Door:
    """Where to knock, and how."""
    address = address_of(url)
    host, port = await listening(address)
    login = f"{quote(address.user or 'guest', '')}:{quote(address.password or 'guest', '')}"
    scheme = "amqps" if address.tls else "amqp"
    return Door(f"{scheme}://{login}@{_place(host, port)}{address.path or '/'}", tls(address), host, port)


async def listening(address: Address) -> tuple[str, int]:
    """The first host that listens; the last where none does."""
    *others, last = address.hosts
    for host, port in others:
        if await listens(host, port):
            return host, port
    return last


async def listens(host: str, port: int) -> bool:
    """Whether somebody answers there."""
    with suppress(OSError):
        async with asyncio.timeout(LISTENS_S):
            _, writer = await asyncio.open_connection(host, port)
        writer.close()
        return True
    return False


# Kafka


def servers(address: Address) -> list[str]:
    """Each host with its port."""
    return [_place(host, port) for host, port in address.hosts]


def _place(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def compression(place: Place) -> str | None:
    """How batches are packed."""
    codec = options(place).get("compression", "none")
    return None if codec == "none" else codec


def mechanism(address: Address) -> str:
    """Of SASL; empty without a login."""
    if "token_file" in address.options:
        return "OAUTHBEARER"
    return address.options.get("sasl", "PLAIN") if address.user else ""


def _protocol(address: Address) -> str:
    return ("SASL_" if mechanism(address) else "") + ("SSL" if address.tls else "PLAINTEXT")


def aiokafka(url: str) -> dict[str, Any]:
    """The arguments of every client of aiokafka."""
    address = address_of(url)
    found = {
        "bootstrap_servers": servers(address),
        "security_protocol": _protocol(address),
        "ssl_context": tls(address),
    }
    if kind := mechanism(address):
        found |= {"sasl_mechanism": kind, "sasl_plain_username": address.user, "sasl_plain_password": address.password}
    if "token_file" in address.options:
        found["sasl_oauth_token_provider"] = _TokenFile(Path(address.options["token_file"]))
    return found


def faststream(url: str) -> dict[str, Any]:
    """The arguments of FastStream's broker of Kafka, which hands them to aiokafka."""
    from faststream import security  # noqa: PLC0415, an extra

    address, known = address_of(url), aiokafka(url)
    found = {"bootstrap_servers": known["bootstrap_servers"]}
    context = {"ssl_context": known["ssl_context"], "use_ssl": address.tls}
    login = (address.user, address.password)
    match mechanism(address):
        case "":
            found["security"] = security.BaseSecurity(**context)
        case "PLAIN":
            found["security"] = security.SASLPlaintext(*login, **context)
        case "SCRAM-SHA-256":
            found["security"] = security.SASLScram256(*login, **context)
        case "SCRAM-SHA-512":
            found["security"] = security.SASLScram512(*login, **context)
        case _:
            found["security"] = security.SASLOAuthBearer(**context)
            found["sasl_oauth_token_provider"] = known["sasl_oauth_token_provider"]
    return found


def confluent(url: str) -> dict[str, Any]:
    """The settings of every client of librdkafka; none writes to standard error."""
    address = address_of(url)
    files = {"ca": "ssl.ca.location", "cert": "ssl.certificate.location", "key": "ssl.key.location"}
    found: dict[str, Any] = {
        "bootstrap.servers": ",".join(servers(address)),
        "security.protocol": _protocol(address),
        "log_level": 0,
        **{name: address.options[key] for key, name in files.items() if key in address.options},
    }
    if kind := mechanism(address):
        found["sasl.mechanism"] = kind
    if "token_file" in address.options:
        found["oauth_cb"] = partial(_token, Path(address.options["token_file"]))
    elif kind:
        found |= {"sasl.username": address.user, "sasl.password": address.password}
    return found


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the token for each login."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def token(self) -> str:
        return _token(self._path)[0]


def _token(path: Path, _: str = "") -> tuple[str, float]:
    """The token, and when it is to be read again."""
    return path.read_text().strip(), time.time() + TOKEN_S


# Java's tools


def no_java(address: Address) -> str:
    """Why Kafka's own tools cannot be used there; empty if they can."""
    if "token_file" in address.options:
        return "Java's client takes no token_file= as it is: use a user and a password"
    if "cert" in address.options and not _pem(_key(address), "PRIVATE KEY"):
        return "Java reads a key= in PKCS #8 alone, unencrypted: convert it with `openssl pkcs8 -topk8 -nocrypt`"
    return ""


def no_perftest(address: Address) -> str:
    """Why PerfTest cannot be used there; empty if it can."""
    return "PerfTest reads no key= in PEM: use a login without cert= and key=" if "cert" in address.options else ""


def _key(address: Address) -> str:
    return address.options.get("key") or address.options["cert"]


def _pem(path: str, kind: str) -> list[str]:
    try:
        return re.findall(PEM.format(kind), Path(path).read_text(), re.DOTALL)
    except (OSError, ValueError):  # greet says what is wrong with it
        return []


@contextmanager
def properties(url: str) -> Iterator[tuple[str, int]]:
    """The settings of a Java client in the form of a file that is a pipe: its path, and its descriptor to hand on."""
    reading, writing = os.pipe()
    try:
        with open(writing, "w", encoding="ascii") as pipe:  # noqa: PTH123, it has no path
            pipe.writelines(f"{key}={_escaped(value)}\n" for key, value in _java(address_of(url)).items())
        yield f"/dev/fd/{reading}", reading
    finally:
        os.close(reading)


def _java(address: Address) -> Mapping[str, str]:
    found = {"security.protocol": _protocol(address)}
    if kind := mechanism(address):
        module = "plain.PlainLoginModule" if kind == "PLAIN" else "scram.ScramLoginModule"
        login = f"username={_quoted(address.user)} password={_quoted(address.password)}"
        found |= {"sasl.mechanism": kind, "sasl.jaas.config": f"{SECURITY}{module} required {login};"}
    if "ca" in address.options:
        found |= {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(Path(address.options["ca"]).resolve())}
    if "cert" in address.options:
        found |= {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.certificate.chain": "\n".join(_pem(address.options["cert"], "CERTIFICATE")),
            "ssl.keystore.key": "\n".join(_pem(_key(address), "PRIVATE KEY")),
        }
    return found


def _quoted(text: str) -> str:
    """As the login modules read it: what could end or change a text there is written in octal."""
    safe = re.sub(r'[\x00-\x1f"\\]', lambda found: f"\\{ord(found[0]):03o}", text)
    return f'"{safe}"'


def _escaped(text: str) -> str:
    """As a file of properties has it: what is no printable ASCII is written as UTF-16."""

    def units(found: re.Match[str]) -> str:
        raw = found[0].encode("utf-16-be")
        return "".join(f"\\u{raw[at : at + 2].hex()}" for at in range(0, len(raw), 2))

    return re.sub(r"^ |[^ -~]|\\", units, text)


def truststore(certificate: bytes) -> bytes:
    """A store of Java's (JKS) that trusts one certificate, in DER; without a password it needs no digest."""

    def sized(data: bytes, width: int) -> bytes:
        return len(data).to_bytes(width, "big") + data

    magic, version, entries, trusted, made_ms = 0xFEEDFEED, 2, 1, 2, bytes(8)
    head = b"".join(number.to_bytes(4, "big") for number in (magic, version, entries, trusted))
    return head + sized(b"broker", 2) + made_ms + sized(b"X.509", 2) + sized(certificate, 4)
