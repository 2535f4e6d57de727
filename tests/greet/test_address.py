"""URLs: what is understood, what is refused, and that a password is never repeated."""

from __future__ import annotations

import re

import pytest

import greet
from greet import designs
from greet.address import Address
from greet.address import parse as parse_for
from greet.errors import one_line

CANARY = "c4n@ry/p:w"
QUOTED = "c4n%40ry%2Fp%3Aw"


def parse(url: str) -> Address:
    return parse_for(url, designs.of_url(url))


def test_a_url_is_taken_apart() -> None:
    address = parse(f"amqps://ada:{QUOTED}@[::1]:5,h/v%2Fhost?timeout=3")
    assert address.hosts == (("::1", 5), ("h", 5671))
    assert (address.user, address.password, address.path) == ("ada", CANARY, "/v%2Fhost")
    assert (address.timeout, address.tls) == (3, True)


def test_the_password_is_in_no_text() -> None:
    address = parse(f"amqp://ada:{QUOTED}@localhost/")
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
        ("kafka", "the URL has only a scheme: write it as kafka://host"),
        ("asyncio", "the URL has only a scheme: write it as asyncio:"),
        ("kafka://", "it has no host"),
        ("kafka://a:b", "is not a port"),
        ("kafka://h:99999", "cannot read"),
        ("kafka://h?acks=0", "unknown key 'acks' in the URL: known are"),
        ("kafka://h?partitions=four", "partitions=four in the URL is not a positive number"),
        ("asyncio:?maxsize=0", "maxsize=0 in the URL is not a positive number"),
        ("asyncio:?partitions=3", "unknown key 'partitions' in the URL: known are maxsize, path, timeout"),
        ("amqp://h?timeout=-1", "timeout=-1 in the URL is not a positive number"),
        (f"kafka://ada:{QUOTED}@h:port", "cannot read"),
        ("amqp://ada:c4n/ary@h/", "there is an @ after the host"),
        ("amqp://ada:12?c4nary=1@h/", "there is an @ after the host"),
        ("amqp://ada:12#c4nary@h/", "write @ / ? # as %40 %2F %3F %23"),
        (f"amqp://ada:{QUOTED}@example.org/", "would cross the network unencrypted: use TLS"),
        (f"kafka://ada:{QUOTED}@10.0.0.1", "would cross the network unencrypted: use TLS (kafka+ssl://)"),
        ("kafka://h1:9092,kafka://h2:9092", "a second scheme: write it once, as kafka://host:port,host:port"),
        (f"amqp://ada:{QUOTED}@h1,amqp://ada:{QUOTED}@h2", "a second scheme"),
        ("KAFKA://amqp://h", "a second scheme"),
        ("amqp://a..b/", "'a..b' is not a host name"),
        ("kafka://.a", "'.a' is not a host name"),
        ("kafka://" + "x" * 64 + ".org", "is not a host name"),
        ("kafka://" + "x." * 130, "is not a host name"),
        ("amqp://a b/", "'a b' is not a host name"),
        ("amqp://h%41/", "'h%41' is not a host name"),
        (f"amqp://ada:{QUOTED}@h\uff0f/", "is not a host name"),
        ("kafka://[h]", "cannot read"),
        ("kafka://[::1", "cannot read"),
        ("kafka://[::1]h", "cannot read"),
        ("kafka://::1", "write an IPv6 address in [ ]"),
        ("amqp://ada:c4n", "what follows : in the URL is not a port"),
        ("amqp://ada:c4n:1", "what follows : in the URL is not a port"),
        ("kafka://h:1,ada:c4n/x", "what follows : in the URL is not a port"),
        ("kafka://h?token_file=t", "a token for h would cross the network unencrypted"),
        ("kafka://h:0", "is not in 1 to 65535"),
        ("kafka:h:9092", "it has no host"),
        ("kafka://h?timeout=3&timeout=4", "a key appears twice"),
        ("amqp://h/\x1b[31m", "a control or invisible character"),
        ("amqp://h/%1B[31m", "a control or invisible character, written as %XX"),
        ("amqp://h/%C2%9B31m", "a control or invisible character, written as %XX"),
        ("amqp://%1B%5B31m@h/", "a control or invisible character, written as %XX"),
        ("amqp://h/?queue_type=%1B[31m", "a control or invisible character, written as %XX"),
        ("amqp://h/?queue_type=\u202ered", "a control or invisible character"),
        ("kafka://h?timeout=%0A1", "a control or invisible character, written as %XX"),
        ("asyncio:\r\n", "a control or invisible character"),
    ],
)
async def test_what_is_refused(url: str, says: str) -> None:
    with pytest.raises(greet.BadURL) as caught:
        async with greet.connect(url) as line:
            pytest.fail(f"{line} was opened")
    assert says in str(caught.value)
    assert str(caught.value).isprintable()
    assert "c4n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "known_as"),
    [("H", "h"), ("a_b.c-d", "a_b.c-d"), ("h.", "h."), ("10.0.0.1", "10.0.0.1"), ("bücher.de", "xn--bcher-kva.de")],
)
def test_a_host_is_as_the_network_wants_it(host: str, known_as: str) -> None:
    assert parse(f"kafka://{host}:1,[FE80::1]").hosts == ((known_as, 1), ("fe80::1", 9092))


@pytest.mark.parametrize(("url", "tls"), [("AMQP://h", False), ("Amqps://h", True), ("KAFKA+ssl://h", True)])
def test_a_scheme_is_written_in_any_case(url: str, tls: bool) -> None:
    address = parse(url)
    assert (address.scheme, address.tls) == (url.partition(":")[0].lower(), tls)
    assert greet.connect(url).address == address


def test_every_design_has_a_fast_way_and_a_plain_one() -> None:
    for design in designs.DESIGNS:
        url = f"{design.scheme}://{'h' if design.ports[0] else ''}"
        assert parse(url).choice("path", "fast", "plain") == "fast"
        assert parse(f"{url}?path=plain").choice("path", "fast", "plain") == "plain"
        with pytest.raises(greet.BadURL, match="path=slow in the URL is unknown: use fast or plain"):
            parse(f"{url}?path=slow").choice("path", "fast", "plain")


def test_clear_text_has_to_be_asked_for() -> None:
    assert parse(f"amqp://ada:{QUOTED}@example.org?cleartext=yes").password == CANARY
    assert parse(f"amqps://ada:{QUOTED}@example.org").password == CANARY
    assert parse("amqp://example.org").password == ""
    assert parse("kafka://example.org?token_file=t&cleartext=yes").options["token_file"] == "t"
    assert parse("kafka://localhost?token_file=t").options["token_file"] == "t"


@pytest.mark.parametrize("topic", ["", ".", "a b", "a/b", "é", "x" * 201, ".dead", "a:b", "\x1b[31m"])
def test_a_topic_is_a_plain_word(topic: str) -> None:
    with pytest.raises(greet.BadURL, match="is not allowed"):
        greet.connect("asyncio:", topic)


def test_one_line_hides_a_password() -> None:
    assert one_line(OSError("cannot reach\n amqp://ada:secret@host/ now")) == "cannot reach amqp://ada:***@host/ now"
    assert one_line(TimeoutError()) == "TimeoutError"


def test_a_design_that_cannot_replay_names_one_of_each_broker_that_can() -> None:
    for one in designs.DESIGNS:
        named = [designs.with_scheme(scheme) for scheme in re.findall(r"(\S+)://", one.no_replay)]
        assert all(other and other.replays for other in named), one.name
        assert one.replays or {other.product for other in named if other} == set(designs.PRODUCTS), one.name
