"""URLs: what is understood, what is refused, and that a password is never repeated."""

from __future__ import annotations

import pytest

import greet
from greet.address import parse
from greet.errors import one_line

CANARY = "c4n@ry/p:w"
QUOTED = "c4n%40ry%2Fp%3Aw"


def test_a_url_is_taken_apart() -> None:
    address = parse(f"amqps://ada:{QUOTED}@[::1]:5,h/v%2Fhost?timeout=3", 5672, ("prefetch",))
    assert address.hosts == (("::1", 5), ("h", 5672))
    assert (address.user, address.password, address.path) == ("ada", CANARY, "/v%2Fhost")
    assert (address.timeout, address.tls) == (3, True)


def test_the_password_is_in_no_text() -> None:
    address = parse(f"amqp://ada:{QUOTED}@localhost/", 5672, ())
    line = greet.connect(f"amqp://ada:{QUOTED}@localhost/")
    for text in (str(address), repr(address), repr(line), f"{line.address}"):
        assert "c4n" not in text
    assert str(address) == "amqp://ada:***@localhost:5672/"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "no design has the scheme ''"),
        ("nonsense", "no design has the scheme 'nonsense': use one of asyncio, amqp"),
        ("http://localhost", "no design has the scheme 'http'"),
        ("kafka://", "it names no host"),
        ("kafka://a:b", "cannot read"),
        ("kafka://h:99999", "cannot read"),
        ("kafka://h?acks=0", "unknown key 'acks' in the URL: known are"),
        ("kafka://h?partitions=four", "partitions=four in the URL is no positive number"),
        ("asyncio:?maxsize=0", "maxsize=0 in the URL is no positive number"),
        ("asyncio:?partitions=3", "unknown key 'partitions' in the URL: known are maxsize, timeout"),
        ("amqp://h?timeout=-1", "timeout=-1 in the URL is no positive number"),
        (f"kafka://ada:{QUOTED}@h:port", "cannot read"),
        ("amqp://ada:c4n/ary@h/", "an @ stands behind the host"),
        ("amqp://ada:12?c4nary=1@h/", "an @ stands behind the host"),
        ("amqp://ada:12#c4nary@h/", "write @ / ? # as %40 %2F %3F %23"),
        (f"amqp://ada:{QUOTED}@example.org/", "would cross the network unencrypted: use TLS"),
        (f"kafka://ada:{QUOTED}@10.0.0.1", "would cross the network unencrypted: use TLS"),
    ],
)
async def test_what_is_refused(url: str, says: str) -> None:
    with pytest.raises(greet.BadURL) as caught:
        async with greet.connect(url) as line:
            pytest.fail(f"{line} was opened")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "c4n" not in str(caught.value)


def test_clear_text_has_to_be_asked_for() -> None:
    assert parse(f"amqp://ada:{QUOTED}@example.org?cleartext=yes", 5672, ()).password == CANARY
    assert parse(f"amqps://ada:{QUOTED}@example.org", 5672, ()).password == CANARY
    assert parse("amqp://example.org", 5672, ()).password == ""


@pytest.mark.parametrize("topic", ["", ".", "a b", "a/b", "é", "x" * 201, ".dead", "a:b", "\x1b[31m"])
def test_a_topic_is_a_plain_word(topic: str) -> None:
    with pytest.raises(greet.BadURL, match="is no plain word"):
        greet.connect("asyncio:", topic)


def test_one_line_hides_a_password() -> None:
    assert one_line(OSError("cannot reach\n amqp://ada:secret@host/ now")) == "cannot reach amqp://ada:***@host/ now"
    assert one_line(TimeoutError()) == "TimeoutError"
