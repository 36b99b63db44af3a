"""Behind proxies, over the wire: whom the log names, whom a connection speaks for, and who is believed."""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from wire import TIMEOUT_S, Wire, eventually, get

from ringserve.conn import Connection
from ringserve.connection.states import IDLE, PREFACE
from ringserve.library import RunningServer
from ringserve.observe import access_log

TRUSTED = "127.0.0.1"
UNTRUSTED = "127.0.0.2"
"""Another address of the loopback, for a peer of the same server that is no proxy."""


class Log:
    """An access log that is a pipe, read line by line."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe()
        self._data = b""

    def lines(self, count: int) -> list[dict[str, Any]]:
        """The next lines, once they are there; fails if there are more."""
        while self._data.count(b"\n") < count:
            readable, _, _ = select.select([self._read_fd], [], [], TIMEOUT_S)
            assert readable, f"{count} lines are due, and there are {self._data!r}"
            self._data += os.read(self._read_fd, 65536)
        *lines, self._data = self._data.split(b"\n")
        assert len(lines) == count
        return [json.loads(line) for line in lines]

    def clients(self, count: int) -> list[str]:
        """Whom the next lines name."""
        return [line["client"] for line in self.lines(count)]

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self.fd)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


@pytest.fixture
def proxied(log: Log, serving: Serving, site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunningServer]:
    """Starts servers that trust one address and log to the pipe. (It asks for the log first, so that it goes last.)"""
    monkeypatch.setattr(access_log, "FLUSH_AFTER_S", 0.005)  # each test waits for its lines
    (site / "page").write_bytes(b"page")

    def start(**settings: Any) -> RunningServer:
        settings.setdefault("trusted_proxy", (TRUSTED,))
        return serving(log_format="json", log_fd=log.fd, **settings)

    return start


Proxied = Callable[..., RunningServer]


def connection_of(running: RunningServer) -> Connection:
    """The only one."""
    eventually("it is accepted", lambda: len(running.server.shared.connections) == 1)
    (connection,) = running.server.shared.connections
    assert isinstance(connection, Connection)
    return connection


def pending_bytes_of(connection: Connection) -> int:
    reader = connection.inbound.reader
    return 0 if reader is None else reader.pending_bytes


def text(source: str, family: str = "TCP4", destination: str = TRUSTED) -> bytes:
    """A header of version 1."""
    return f"PROXY {family} {source} {destination} 50000 80\r\n".encode()


def binary(source: str | None, *, command: int = 0x21, extensions: bytes = b"") -> bytes:
    """A header of version 2. source: an address, `unix`, or None for an unspecified family."""
    if source is None:
        family, addresses = 0x00, b""
    elif source == "unix":
        family, addresses = 0x31, bytes(216)
    else:
        address = ip_address(source)
        family = 0x11 if address.version == 4 else 0x21
        addresses = address.packed + address.packed + struct.pack("!HH", 50000, 80)
    rest = addresses + extensions
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", command, family, len(rest)) + rest


NAME = b"\x02\x00\x0bexample.org"  # an extension of version 2: the name that was asked for in TLS

PREFACES = {
    "text-ipv4": (text("203.0.113.7"), "203.0.113.7"),
    "text-ipv6": (text("2001:DB8:0::7", "TCP6", "::1"), "2001:db8::7"),
    "text-unknown": (b"PROXY UNKNOWN\r\n", TRUSTED),
    "text-unknown-with-words": (b"PROXY UNKNOWN 203.0.113.7 whatever\r\n", TRUSTED),
    "binary-ipv4": (binary("203.0.113.7"), "203.0.113.7"),
    "binary-ipv6": (binary("2001:db8::7"), "2001:db8::7"),
    "binary-mapped": (binary("::ffff:203.0.113.7"), "203.0.113.7"),
    "binary-extended": (binary("203.0.113.7", extensions=NAME), "203.0.113.7"),
    "binary-unix": (binary("unix"), "unix"),
    "binary-local": (binary(None, command=0x20), TRUSTED),
    "binary-local-with-addresses": (binary("203.0.113.7", command=0x20), TRUSTED),
    "binary-unspecified": (binary(None), TRUSTED),
}
EACH_PREFACE = pytest.mark.parametrize(("preface", "client"), PREFACES.values(), ids=PREFACES)
CUT = ("text-ipv4", "text-unknown", "binary-ipv4", "binary-extended", "binary-unix", "binary-local")
EACH_PATH = pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])


# -- the PROXY protocol -----------------------------------------------------------------------------------------


@EACH_PREFACE
def test_a_preface_with_its_request_in_one_packet_names_the_client(
    proxied: Proxied, log: Log, preface: bytes, client: str
) -> None:
    with Wire(proxied(proxy_protocol=True).url) as wire:
        assert wire.ask(preface + get("/page"), method="GET").body == b"page"
        assert wire.ask(get("/page")).body == b"page"  # by the hot path now
        assert wire.ask(get("/missing")).status == 404
        assert log.clients(3) == [client] * 3


@pytest.mark.parametrize("name", CUT)
def test_a_preface_cut_at_any_byte_is_the_same(proxied: Proxied, log: Log, name: str) -> None:
    preface, client = PREFACES[name]
    running = proxied(proxy_protocol=True)
    data = preface + get("/page")
    cuts = [*range(1, len(preface) + 2), len(data) - 1]
    if len(cuts) > 100:  # the paths of unix sockets, which are skipped as one
        cuts = [*range(1, 20), 100, *range(len(preface) - 5, len(preface) + 2)]
    for cut in cuts:
        with Wire(running.url) as wire:
            connection = connection_of(running)
            wire.send(data[:cut])
            has_preface = cut >= len(preface)
            here = cut - len(preface) if has_preface else cut
            eventually(
                f"the first {cut} bytes are read",
                lambda connection=connection, here=here, has_preface=has_preface: (
                    pending_bytes_of(connection) == here and (connection.state is not PREFACE) is has_preface
                ),
            )
            assert wire.ask(data[cut:], method="GET").body == b"page"
        eventually("it is gone", lambda: not running.server.shared.connections)
    assert log.clients(len(cuts)) == [client] * len(cuts)


def test_a_preface_in_single_bytes_is_the_same(proxied: Proxied, log: Log) -> None:
    running = proxied(proxy_protocol=True)
    for preface in (text("203.0.113.7"), binary("203.0.113.7")):
        with Wire(running.url) as wire:
            for byte in preface + get("/page"):
                wire.send(bytes([byte]))
            assert wire.answer().body == b"page"
    assert log.clients(2) == ["203.0.113.7"] * 2


@EACH_PATH
def test_requests_pipelined_behind_a_preface_are_all_the_clients(proxied: Proxied, log: Log, hot_path: bool) -> None:
    with Wire(proxied(proxy_protocol=True, hot_path=hot_path).url) as wire:
        wire.send(binary("203.0.113.7") + get("/page") + get("/missing") + get("/page", method="HEAD") + get("/page"))
        assert wire.answer().body == b"page"
        assert wire.answer().status == 404
        assert wire.answer(method="HEAD").status == 200
        assert wire.answer().body == b"page"
        wire.send(b"garbage\r\n\r\n")  # which is the client's too
        assert wire.answer().status == 400
        assert wire.at_end()
    lines = log.lines(5)
    assert {line["client"] for line in lines} == {"203.0.113.7"}
    assert [line["status"] for line in lines] == [200, 404, 200, 200, 400]


@pytest.mark.parametrize(
    "garbage",
    [
        get("/page"),
        b"x",
        b"PROXY TCP9",
        b"proxy TCP4 203.0.113.7 127.0.0.1 5 80\r\n",
        b"PROXY TCP4 203.0.113.7 127.0.0.1 5 99999\r\n",
        b"PROXY TCP4 203.0.113.300 127.0.0.1 5 80\r\n",
        b"PROXY TCP4 " + b"1" * 120,
        b"\r\n\r\n\0\r\nQUIT\r",
        binary("203.0.113.7", command=0x31),
        binary("203.0.113.7", command=0x22),
        binary("203.0.113.7")[:14] + b"\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=[
        "a-request", "one-byte", "family", "lower-case", "port", "address", "endless", "signature", "version",
        "command", "too-long", "tls",
    ],
)  # fmt: skip
def test_what_is_no_preface_gets_400_and_the_end(proxied: Proxied, log: Log, garbage: bytes) -> None:
    running = proxied(proxy_protocol=True)
    with Wire(running.url, source=UNTRUSTED) as other:
        for _ in range(3):
            assert other.ask(get("/page")).status == 200  # so that the hot path would know the request
    with Wire(running.url) as wire:
        wire.send(garbage)
        answer = wire.answer()
        assert answer.status == 400
        assert answer.fields["connection"] == "close"
        assert wire.at_end()
    assert [(line["client"], line["method"], line["status"]) for line in log.lines(4)] == [
        *[(UNTRUSTED, "GET", 200)] * 3,
        (TRUSTED, None, 400),
    ]


def test_a_second_preface_is_no_request(proxied: Proxied, log: Log) -> None:
    with Wire(proxied(proxy_protocol=True).url) as wire:
        assert wire.ask(text("203.0.113.7") + get("/page"), method="GET").body == b"page"
        wire.send(text("203.0.113.8") + get("/page"))
        assert wire.answer().status == 400
        assert wire.at_end()
    assert log.clients(2) == ["203.0.113.7"] * 2


@EACH_PATH
def test_a_peer_that_is_not_trusted_has_no_preface(proxied: Proxied, log: Log, hot_path: bool) -> None:
    running = proxied(proxy_protocol=True, hot_path=hot_path)
    with Wire(running.url, source=UNTRUSTED) as wire:
        for _ in range(3):
            assert wire.ask(get("/page")).body == b"page"
        wire.send(text("203.0.113.7") + get("/page"))
        assert wire.answer().status == 400
        assert wire.at_end()
    with Wire(running.url, source=UNTRUSTED) as wire:
        wire.send(binary("203.0.113.7") + get("/page"))
        assert wire.answer().status == 400
        assert wire.at_end()
    assert log.clients(5) == [UNTRUSTED] * 5
    assert bool(running.server.listening[0].hot_answers) is hot_path


@pytest.mark.parametrize(
    "start", [b"", text("203.0.113.7")[:-1], binary("203.0.113.7")[:-1]], ids=["silent", "text", "binary"]
)
def test_a_proxy_that_does_not_finish_its_preface_gets_408(proxied: Proxied, log: Log, start: bytes) -> None:
    with Wire(proxied(proxy_protocol=True, header_timeout_s=0.2, keep_alive_timeout_s=30).url) as wire:
        began = time.monotonic()
        wire.send(start)
        answer = wire.answer()
        assert answer.status == 408
        assert answer.fields["connection"] == "close"
        assert wire.at_end()
        assert time.monotonic() - began < 5
    (line,) = log.lines(1)
    assert (line["client"], line["status"]) == (TRUSTED, 408)
    assert 0.2 <= line["duration"] < 5


def test_after_its_preface_a_connection_is_idle_for_as_long_as_any_other(proxied: Proxied) -> None:
    running = proxied(proxy_protocol=True, header_timeout_s=0.1, keep_alive_timeout_s=0.5)
    with Wire(running.url) as wire:
        wire.send(binary("203.0.113.7"))
        connection = connection_of(running)
        eventually("the preface is read", lambda: connection.state is IDLE)
        began = time.monotonic()
        assert wire.at_end()  # without a word, where a request that does not arrive gets 408
        assert time.monotonic() - began > 0.3


@pytest.mark.parametrize(
    "start", [b"", text("203.0.113.7")[:-1], text("203.0.113.7")], ids=["silent", "unfinished", "whole"]
)
def test_a_proxy_that_ends_its_side_without_a_request_is_let_go(proxied: Proxied, log: Log, start: bytes) -> None:
    running = proxied(proxy_protocol=True)
    with Wire(running.url) as wire:
        wire.send(start)
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.at_end()
    with Wire(running.url) as wire:
        assert wire.ask(text("203.0.113.7") + get("/page"), method="GET").body == b"page"
    assert log.clients(1) == ["203.0.113.7"]


def test_a_drain_does_not_wait_for_a_proxy_that_has_said_nothing(proxied: Proxied) -> None:
    running = proxied(proxy_protocol=True, drain_timeout_s=30, header_timeout_s=60)
    with Wire(running.url) as silent, Wire(running.url) as prefaced:
        prefaced.send(binary("203.0.113.7"))
        eventually(
            "both have been accepted, and one is idle",
            lambda: (
                sorted(one.state.name for one in tuple(running.server.shared.connections))  # type: ignore[attr-defined]
                == ["IDLE", "PREFACE"]
            ),
        )
        running.server.stop()
        assert silent.at_end()
        assert prefaced.at_end()


def test_a_drain_does_not_wait_for_half_a_preface(proxied: Proxied) -> None:
    running = proxied(proxy_protocol=True, drain_timeout_s=600, header_timeout_s=600)
    with Wire(running.url) as wire:
        wire.send(text("203.0.113.7")[:10])
        eventually(
            "it has begun",
            lambda: [pending_bytes_of(one) for one in tuple(running.server.shared.connections)] == [10],  # type: ignore[arg-type]
        )
        running.server.stop()
        assert wire.at_end()


def test_a_full_server_tells_a_proxy_so_without_waiting_for_its_preface(proxied: Proxied, site: Path) -> None:
    (site / "big").write_bytes(bytes(16 * 1024 * 1024))
    running = proxied(proxy_protocol=True, connections_max=1)
    with Wire(running.url, receive_bytes=4096) as first:
        first.send(text("203.0.113.7") + get("/big"))
        first.socket.recv(100)
        with Wire(running.url) as refused:
            assert refused.answer().status == 503
            assert refused.at_end()


# -- X-Forwarded-For --------------------------------------------------------------------------------------------

FORWARDED = ("X-Forwarded-For: 198.51.100.1, 203.0.113.7", 'Forwarded: for=198.51.100.2, for="[2001:db8::7]:80"')
"""The second is not read: a proxy that writes the first passes it on from whoever made it up."""


@EACH_PATH
def test_only_trusted_peers_say_for_whom_they_ask(proxied: Proxied, log: Log, hot_path: bool) -> None:
    running, client = proxied(hot_path=hot_path), "203.0.113.7"
    with Wire(running.url) as proxy, Wire(running.url, source=UNTRUSTED) as other:
        for _ in range(4):
            # The same bytes from both, so that what is remembered with the block of one must not name the other's.
            for wire in (proxy, other):
                assert wire.ask(get("/page", *FORWARDED)).body == b"page"
        assert log.clients(8) == [client, UNTRUSTED] * 4
        for path in ("/missing", "/page?other"):
            for wire in (other, proxy):
                wire.ask(get(path, *FORWARDED))
        assert log.clients(4) == [UNTRUSTED, client] * 2
    assert bool(running.server.listening[0].hot_answers) is hot_path


@EACH_PATH
def test_each_request_of_a_proxy_has_a_client_of_its_own(proxied: Proxied, log: Log, hot_path: bool) -> None:
    names = [f"203.0.113.{number}" for number in (1, 2, 1, 3, 2, 1)]
    with Wire(proxied(hot_path=hot_path).url) as wire:
        for _round in range(2):
            for name in names:
                wire.ask(get("/page", f"X-Forwarded-For: {name}"))
        wire.send(b"".join(get("/page", f"X-Forwarded-For: {name}") for name in names))
        for _name in names:
            wire.answer()
        wire.ask(get("/page"))
        assert log.clients(3 * len(names) + 1) == names * 3 + [TRUSTED]


def test_a_request_of_a_proxy_that_cannot_be_read_is_the_proxys(proxied: Proxied, log: Log) -> None:
    with Wire(proxied().url) as wire:
        wire.ask(get("/page", "X-Forwarded-For: 203.0.113.7"))
        wire.send(get("/page", "X-Forwarded-For: 203.0.113.8").replace(b"Host: test\r\n", b""))
        assert wire.answer().status == 400
    assert log.clients(2) == ["203.0.113.7", TRUSTED]


@EACH_PATH
def test_what_is_malformed_names_the_last_hop_that_was_understood(proxied: Proxied, log: Log, hot_path: bool) -> None:
    with Wire(proxied(hot_path=hot_path).url) as wire:
        for value, client in (
            ("", TRUSTED),
            ("unknown", TRUSTED),
            ('"><script>, 127.0.0.1', TRUSTED),
            (f"203.0.113.7, {TRUSTED}", "203.0.113.7"),
        ):
            for _ in range(2):
                assert wire.ask(get("/page", f"X-Forwarded-For: {value}")).status == 200
            assert log.clients(2) == [client] * 2


@EACH_PATH
def test_a_client_named_by_a_preface_may_be_a_proxy_itself(proxied: Proxied, log: Log, hot_path: bool) -> None:
    running = proxied(proxy_protocol=True, trusted_proxy=(TRUSTED, "10.0.0.0/8"), hot_path=hot_path)
    for source, client in (("10.1.2.3", "203.0.113.7"), ("203.0.113.9", "203.0.113.9"), ("10.9.9.9", "203.0.113.7")):
        with Wire(running.url) as wire:
            wire.send(binary(source))
            for _ in range(3):
                wire.ask(get("/page", "X-Forwarded-For: 203.0.113.7"))
            wire.ask(get("/page"))
        assert log.clients(4) == [client] * 3 + [source]


def test_without_trusted_proxies_nobody_is_believed(proxied: Proxied, log: Log) -> None:
    with Wire(proxied(trusted_proxy=()).url) as wire:
        for _ in range(3):
            wire.ask(get("/page", *FORWARDED))
        assert log.clients(3) == [TRUSTED] * 3


# -- other peers ------------------------------------------------------------------------------------------------


@EACH_PATH
def test_a_peer_on_a_unix_socket_is_called_unix_and_trusted_as_such(
    proxied: Proxied, log: Log, tmp_path: Path, hot_path: bool
) -> None:
    path = str(tmp_path / "socket")
    for trusted, client in ((("unix",), "203.0.113.7"), ((TRUSTED,), "unix"), ((), "unix")):
        running = proxied(unix=path, trusted_proxy=trusted, hot_path=hot_path)
        with Wire(running.url) as wire:
            for _ in range(3):
                assert wire.ask(get("/page", "X-Forwarded-For: 203.0.113.7")).body == b"page"
            assert log.clients(3) == [client] * 3
        running.stop()


def test_a_proxy_on_a_unix_socket_has_its_preface(proxied: Proxied, log: Log, tmp_path: Path) -> None:
    running = proxied(unix=str(tmp_path / "socket"), trusted_proxy=("unix",), proxy_protocol=True)
    for preface, client in ((text("203.0.113.7"), "203.0.113.7"), (binary(None, command=0x20), "unix")):
        with Wire(running.url) as wire:
            assert wire.ask(preface + get("/page"), method="GET").body == b"page"
            assert wire.ask(get("/page")).body == b"page"
        assert log.clients(2) == [client] * 2
    with Wire(running.url) as wire:
        wire.send(get("/page"))
        assert wire.answer().status == 400
        assert wire.at_end()


def test_a_proxy_with_an_ipv6_address_is_believed(proxied: Proxied, log: Log) -> None:
    running = proxied(host="::1", trusted_proxy=("::/64",), proxy_protocol=True)
    with Wire(running.url) as wire:
        assert wire.ask(text("203.0.113.7") + get("/page"), method="GET").body == b"page"
    assert log.clients(1) == ["203.0.113.7"]


@EACH_PATH
def test_each_line_tells_what_its_own_request_told_though_no_two_heads_are_alike(
    proxied: Proxied, log: Log, hot_path: bool
) -> None:
    told = []
    with Wire(proxied(hot_path=hot_path).url) as wire:
        for number in range(12):
            target = f"/page?{number}"
            fields = (
                f"Referer: http://r/{number}",
                f"X-Forwarded-For: 203.0.113.{number}",
                f"User-Agent: agent {number}",
            )
            for _again in range(1 + number % 3):
                told.append((target, f"http://r/{number}", f"203.0.113.{number}", f"agent {number}"))
                assert wire.ask(get(target, *fields, f"X-Request-Id: {len(told)}")).status == 200
    lines = log.lines(len(told))
    assert [(line["target"], line["referer"], line["client"], line["user_agent"]) for line in lines] == told
