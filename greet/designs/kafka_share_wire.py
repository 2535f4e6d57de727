"""Calls of Kafka's protocol that no Python client offers: read and set the start offsets of a share group, and take a
member out of it.

And what they need: a connection, a login, and the search for the group's coordinator. Strings and
arrays are "compact" in these calls: their length plus one comes first, as a varint, seven bits a byte.
A zero byte ends each structure: it has no tagged fields.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from greet.address import Address

FIND_COORDINATOR, SASL_HANDSHAKE, SASL_AUTHENTICATE, DESCRIBE_OFFSETS, ALTER_OFFSETS = 10, 17, 36, 90, 91
HEARTBEAT, DESCRIBE_GROUP = 76, 77  # of a share group
LEAVES = -1  # instead of the epoch of a member
HAS_MEMBERS = 68  # Kafka's error code NON_EMPTY_GROUP: the offsets cannot be changed
PASSING = (3, 5, 6, 9, 14, 15, 16, 74, 75, 78)
"""Errors that pass: the topic, its leader or the coordinator is new, or moves to another broker."""
END = b"\0"
LARGEST_ANSWER = 2**20


class Refused(Exception):
    """Kafka refuses the call with this error code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"Kafka's error {code}")
        self.code = code


def refuse(*codes: int) -> None:
    """Raise `Refused` if one of `codes` is an error."""
    if any(codes):
        raise Refused(next(filter(None, codes)))


@asynccontextmanager
async def coordinator(address: Address, group: str) -> AsyncIterator[Wire]:
    """A connection to the coordinator of `group`. Raises `OSError`, `EOFError` and `Refused`."""
    broker, host, port = await _who_coordinates(address, group)
    try:
        async with asyncio.timeout(address.timeout / 4):
            wire = await Wire.opened(address, host, port)
    except ConnectionError as error:  # it was killed, and the others do not know yet: ask again, as if it were silent
        raise TimeoutError from error
    wire.broker = broker
    try:
        yield wire
    finally:
        wire.close()


async def _who_coordinates(address: Address, group: str) -> tuple[int, str, int]:
    """The coordinator's id, host and port, from the first host that answers: a stopped one only accepts connections.

    All hosts together may take a quarter of `timeout`.
    """
    failed: OSError | EOFError = TimeoutError()
    for host in address.hosts:
        try:
            async with asyncio.timeout(address.timeout / 4 / len(address.hosts)):
                wire = await Wire.opened(address, *host)
                try:
                    return await wire.coordinator(group)
                finally:
                    wire.close()
        except (OSError, EOFError) as error:
            failed = error
    raise failed


async def first(address: Address) -> Wire:
    """A connection to the first of the address's hosts that accepts one; each host has its share of `timeout`."""
    failed: OSError | EOFError = TimeoutError()
    for host in address.hosts:
        try:
            async with asyncio.timeout(address.timeout / len(address.hosts)):
                return await Wire.opened(address, *host)
        except (OSError, EOFError) as error:
            failed = error
    raise failed


class Wire:
    """A connection that speaks the small part of Kafka's protocol that is needed here."""

    broker = -1
    """The id of the broker, once it is known."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def opened(cls, address: Address, host: str, port: int) -> Wire:
        """Connect, with TLS and a login if the address says so."""
        wire = cls(*await asyncio.open_connection(host, port, ssl=address.tls_context() if address.tls else None))
        try:
            if address.user:
                await wire._log_in(address)
        except BaseException:
            wire.close()
            raise
        return wire

    def close(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    async def coordinator(self, group: str) -> tuple[int, str, int]:
        """Id, host and port of the coordinator of `group`."""
        found = await self._ask(FIND_COORDINATOR, 0, short(group), old=True)
        refuse(found.number(2))
        return found.number(4), found.take(found.number(2)).decode(), found.number(4)

    async def starts(self, group: str, topic: str, partitions: Sequence[int]) -> dict[int, int]:
        """The start offset of `group` in each partition: all before it is settled. -1 if there is none."""
        listed = length(len(partitions)) + b"".join(struct.pack(">i", one) for one in partitions)
        found = await self._ask(
            DESCRIBE_OFFSETS, 0, length(1) + text(group) + length(1) + text(topic) + listed + END * 3
        )
        codes: list[int] = []
        starts: dict[int, int] = {}
        found.number(4)  # the throttle time
        for _ in range(found.length()):
            found.text()
            for _ in range(found.length()):
                found.text()
                found.take(16)  # the topic's id
                for _ in range(found.length()):
                    number = found.number(4)
                    starts[number] = found.number(8)
                    found.number(4)  # the leader's epoch
                    codes.append(found.failure())
                found.take(1)
            codes.append(found.failure())
        refuse(*codes)
        return starts

    async def begin(self, group: str, topic: str, starts: Mapping[int, int]) -> None:
        """Create `group` at `starts`, or move it there. If it has a member, nothing is done."""
        places = length(len(starts)) + b"".join(struct.pack(">iq", *one) + END for one in starts.items())
        found = await self._ask(ALTER_OFFSETS, 0, text(group) + length(1) + text(topic) + places + END * 2)
        found.number(4)
        code = found.number(2)
        if code == HAS_MEMBERS:
            return
        refuse(code)
        found.text()
        codes: list[int] = []
        for _ in range(found.length()):
            found.text()
            found.take(16)
            for _ in range(found.length()):
                found.number(4)
                codes.append(found.failure())
            found.take(1)
        refuse(*codes)

    async def members(self, group: str) -> list[tuple[str, str]]:
        """The members of `group`: the client id and the member id of each."""
        found = await self._ask(DESCRIBE_GROUP, 1, length(1) + text(group) + END * 2)
        found.number(4)  # the throttle time
        members = []
        for _ in range(found.length()):
            refuse(found.number(2))
            for _ in range(3):
                found.text()  # an error message, the group, its state
            found.take(8)  # its epochs
            found.text()  # the assignor
            for _ in range(found.length()):
                member = found.text()
                found.text()  # its rack
                found.number(4)  # its epoch
                client = found.text()
                found.text()  # its host
                for _ in range(found.length()):
                    found.text()  # a topic
                for _ in range(found.length()):
                    found.take(16)  # the id of a topic
                    found.text()
                    found.take(4 * found.length() + 1)  # its partitions
                found.take(2)
                members.append((client.decode(), member.decode()))
            found.take(5)
        return members

    async def leave(self, group: str, member: str) -> None:
        """Take a member out of `group`."""
        nothing_new = b"\0\0"  # neither a rack nor topics
        body = text(group) + text(member) + struct.pack(">i", LEAVES) + nothing_new + END
        found = await self._ask(HEARTBEAT, 1, body)
        found.number(4)
        refuse(found.number(2))

    async def _log_in(self, address: Address) -> None:
        for api, version, body in (
            (SASL_HANDSHAKE, 1, short("PLAIN")),
            (SASL_AUTHENTICATE, 0, sized(f"\0{address.user}\0{address.password}".encode())),
        ):
            refuse((await self._ask(api, version, body, old=True)).number(2))

    async def _ask(self, api: int, version: int, body: bytes, *, old: bool = False) -> Answer:
        self._writer.write(sized(struct.pack(">hhih", api, version, 0, -1) + (b"" if old else b"\0") + body))
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        if size > LARGEST_ANSWER:
            raise EOFError
        found = Answer(await self._reader.readexactly(size))
        found.take(4 if old else 5)
        return found


class Answer:
    """The answer of a broker, read from its beginning."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next bytes."""
        self._at += count
        if self._at > len(self._data):
            raise EOFError
        return self._data[self._at - count : self._at]

    def number(self, size: int) -> int:
        """An integer of `size` bytes."""
        return int.from_bytes(self.take(size), "big", signed=True)

    def length(self) -> int:
        """The length of an array or string; 0 if there is none."""
        value = shift = 0
        while True:
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return max(0, value - 1)
            shift += 7

    def text(self) -> bytes:
        """A compact string."""
        return self.take(self.length())

    def failure(self) -> int:
        """The error code, error message and end of an entry."""
        code = self.number(2)
        self.text()
        self.take(1)
        return code


def length(count: int) -> bytes:
    """The length of a compact array or string."""
    value = count + 1
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + length((value >> 7) - 1)


def text(value: str) -> bytes:
    """A compact string."""
    return length(len(value.encode())) + value.encode()


def short(value: str) -> bytes:
    """A string of the older calls."""
    return struct.pack(">h", len(value.encode())) + value.encode()


def sized(data: bytes) -> bytes:
    """A message, preceded by its size."""
    return struct.pack(">i", len(data)) + data
