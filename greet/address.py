"""A URL, taken apart: `scheme://user:password@host:port,host:port/path?key=value`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from greet.errors import BadURL

if TYPE_CHECKING:
    from greet.designs import Design


@dataclass(frozen=True)
class Address:
    """Where a broker is, and the options of its design. Its text never shows the password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted and the broker's certificate verified."""
        return self.scheme in ("amqps", "kafka+ssl")

    @property
    def timeout(self) -> float:
        """The deadline of each wait, in seconds."""
        return self.number("timeout", 30.0)

    def number(self, key: str, default: float) -> float:
        """The option `key` as a positive number."""
        try:
            value = float(self.options.get(key, default))
        except ValueError:
            value = -1.0
        if not 0 < value < 1e9:
            raise BadURL(f"{key}={self.options[key]} in the URL is no positive number")
        return value

    def choice(self, key: str, *known: str) -> str:
        """The option `key`, one of `known`; the first of them when it is left out."""
        value = self.options.get(key, known[0])
        if value not in known:
            raise BadURL(f"{key}={value} in the URL is unknown: use {' or '.join(known)}")
        return value

    def __str__(self) -> str:
        login = f"{quote(self.user)}:***@" if self.password else f"{quote(self.user)}@" if self.user else ""
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}:{'//' if where else ''}{login}{where}{self.path}"


def parse(url: str, design: Design) -> Address:
    """Take `url`, one of `design`, apart.

    Raises:
        BadURL: it has no host, a port that is no number, or a key that is not known. A password
            that would cross a network unencrypted is refused too, unless the query has
            `cleartext=yes`.
    """
    port = dict(zip(design.schemes, design.ports, strict=True))[url.partition(":")[0].lower()]
    known = ("timeout", "path", "cleartext", *design.keys) if port else ("timeout", "path", *design.keys)
    shown = url.rpartition("@")[2]  # what may hold a password is never repeated
    if re.search("//[^/?#]*[/?#].*@", url):
        raise BadURL("an @ stands behind the host of the URL: in a user or password write @ / ? # as %40 %2F %3F %23")
    try:
        parts = urlsplit(url)
        login, _, where = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        hosts = tuple(_host(one, port) for one in where.split(",")) if port else ()
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise BadURL(f"cannot read the URL {shown!a}: {error}") from None
    for key in options:
        if key not in known:
            raise BadURL(f"unknown key {key!a} in the URL: known are {', '.join(sorted(known))}")
    address = Address(parts.scheme, hosts, parts.path, unquote(user), unquote(password), options)
    if password and not address.tls and options.get("cleartext") != "yes" and not all(_loopback(h) for h, _ in hosts):
        raise BadURL(
            f"a password for {hosts[0][0]} would cross the network unencrypted: "
            f"use TLS ({'amqps' if parts.scheme == 'amqp' else 'kafka+ssl'}://), or say ?cleartext=yes"
        )
    return address


def _host(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("it names no host")
    return parts.hostname, parts.port or default


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
