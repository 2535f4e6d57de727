"""A URL, taken apart: `scheme://user:password@host:port,host:port/path?key=value`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote

from greet.errors import BadURL, one_line

if TYPE_CHECKING:
    from greet.designs import Design

PARTS = re.compile(r"[^:/?#]+:(//(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(\?(?P<query>[^#]*))?")
"""The parts of a URL, as in RFC 3986, appendix B. From Python 3.14 on, `urlsplit` refuses [ ] behind a comma."""


@dataclass(frozen=True)
class Address:
    """The address of a broker, and the options of its design. Its text never shows the password."""

    scheme: str
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    options: Mapping[str, str] = field(default_factory=dict)
    tls: bool = False
    """Whether the connection is encrypted and the broker's certificate verified."""

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
            raise BadURL(f"{key}={self.options[key]} in the URL is not a positive number")
        return value

    def choice(self, key: str, *known: str) -> str:
        """The option `key`, one of `known`; the first of them is the default."""
        value = self.options.get(key, known[0])
        if value not in known:
            raise BadURL(f"{key}={value} in the URL is unknown: use {' or '.join(known)}")
        return value

    def tls_context(self) -> ssl.SSLContext:
        """How to encrypt. The broker's certificate and host name are always verified, by `ca` or by the system's.

        Raises:
            BadURL: one of the files `ca`, `cert` and `key` is not what TLS needs.
            OSError: one of them cannot be read.
        """
        try:
            context = ssl.create_default_context(cafile=self.options.get("ca"))
            if "cert" in self.options:
                context.load_cert_chain(self.options["cert"], self.options.get("key"))
        except ssl.SSLError as error:
            raise BadURL(f"the files ca, cert and key of the URL are not what TLS needs: {one_line(error)}") from error
        return context

    def __str__(self) -> str:
        login = f"{quote(self.user)}:***@" if self.password else f"{quote(self.user)}@" if self.user else ""
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{self.scheme}:{'//' if where else ''}{login}{where}{self.path}"


def parse(url: str, design: Design) -> Address:
    """Parse `url`, a URL of `design`. Its host names are converted to ASCII, as the network needs them.

    Raises:
        BadURL: it has no host, an invalid host or port, or a key that the design does not know. Also
            if a password would cross a network unencrypted, unless the query has `cleartext=yes`; and
            if it has characters that could control a terminal.
    """
    scheme = url.partition(":")[0].lower()
    if not url.isprintable():
        raise BadURL("the URL has a control or invisible character: remove it, or in a password write it as %XX")
    if re.search("://([^?#]*,)?[a-z+-]+://", url, re.IGNORECASE):
        raise BadURL(f"the URL has a second scheme: write it once, as {scheme}://host:port,host:port")
    if re.search("//[^/?#]*[/?#].*@", url):
        raise BadURL("there is an @ after the host of the URL: in a user or password write @ / ? # as %40 %2F %3F %23")
    kind = design.schemes.index(scheme)
    port = design.ports[kind]
    known = ("timeout", "path", *(["cleartext"] if port else []), *design.keys)
    parts = PARTS.match(url)
    if not parts:
        raise BadURL(f"the URL has only a scheme: write it as {scheme}:{'' if design.in_process else '//host'}")
    authority, path, query = (parts[one] or "" for one in ("authority", "path", "query"))
    login, at, where = authority.rpartition("@")
    user, _, password = login.partition(":")
    try:
        hosts = tuple(_host(one, port) for one in where.split(",")) if port else ()
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        shown = f"{url.rpartition('@')[2]!a}" if at else f"'{scheme}://…'"  # nothing that may be a password
        raise BadURL(f"cannot read the URL {shown}: {error}") from None
    options = dict(pairs)
    for key, _ in pairs:
        if key not in known:
            raise BadURL(f"unknown key {key!a} in the URL: known are {', '.join(sorted(known))}")
    if len(options) < len(pairs):
        raise BadURL(f"a key appears twice in the URL's query {query!a}: write each once")
    for text in (unquote(user), unquote(path), *options.values()):
        if not text.isprintable():
            raise BadURL("the URL has a control or invisible character, written as %XX: remove it")
    tls = kind > 0
    secret = "password" if password else "token" if "token_file" in options else ""
    if secret and not tls and options.get("cleartext") != "yes" and not all(_loopback(host) for host, _ in hosts):
        raise BadURL(
            f"a {secret} for {hosts[0][0]} would cross the network unencrypted: "
            f"use TLS ({design.schemes[-1]}://), or say ?cleartext=yes"
        )
    return Address(scheme, hosts, path, unquote(user), unquote(password), options, tls)


def _host(text: str, default: int) -> tuple[str, int]:
    """A host and its port; raises `ValueError`."""
    found = re.fullmatch(r"(?:\[(?P<ip>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]{0,5}))?", text)
    if not found:
        raise ValueError(
            "what follows : in the URL is not a port: write host:port, and a login as user:password@host:port;"
            " write an IPv6 address in [ ]"
        )
    port = int(found["port"] or default)
    if not 0 < port < 65_536:
        raise ValueError("the port is not in 1 to 65535")
    if found["ip"] is not None:
        return str(ip_address(found["ip"])), port
    if not found["name"]:
        raise ValueError("it has no host")
    try:
        host = found["name"].lower().encode("idna").decode("ascii")
    except UnicodeError:  # a label is empty, too long, or has a character that no name may have
        host = ""
    if not re.fullmatch(r"[a-z0-9._-]{1,253}", host):
        raise ValueError(f"{found['name']!a} is not a host name")
    return host, port


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
