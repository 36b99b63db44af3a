"""The PROXY protocol, Forwarded and X-Forwarded-For. "The spec" is HAProxy's, of the PROXY protocol 1 & 2."""

from __future__ import annotations

import contextlib
import ipaddress
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.http.proxies import (
    BINARY_BYTES_MAX,
    HOPS_MAX,
    PREFACE_BYTES_MAX,
    SIGNATURE,
    TEXT_BYTES_MAX,
    Preface,
    ProxyError,
    TrustedProxies,
    network_of,
    read_preface,
)

reproducible = settings(max_examples=200, deadline=None, derandomize=True)

HTTP = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def naive_text(source: str, destination: str, source_port: int, destination_port: int) -> bytes:
    """A header of version 1 (spec 2.1)."""
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {source_port} {destination_port}\r\n".encode()


def naive_binary(
    block: bytes, *, family: int = 0x11, version_and_command: int = 0x21, tlvs: bytes = b"", length: int | None = None
) -> bytes:
    """A header of version 2 (spec 2.2)."""
    length = len(block) + len(tlvs) if length is None else length
    return SIGNATURE + struct.pack("!BBH", version_and_command, family, length) + block + tlvs


INET_BLOCK = bytes((192, 0, 2, 1)) + bytes((192, 0, 2, 2)) + struct.pack("!HH", 56324, 443)
INET6_BLOCK = ipaddress.IPv6Address("2001:db8::1").packed + ipaddress.IPv6Address("2001:db8::2").packed + b"\xff\xff\0P"
MAPPED_BLOCK = ipaddress.IPv6Address("::ffff:192.0.2.1").packed + INET6_BLOCK[16:]
UNIX_BLOCK = b"/run/client.sock".ljust(108, b"\0") + b"/run/server.sock".ljust(108, b"\0")
TLV = b"\x02\x00\x0bexample.org"

VALID = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", "192.0.2.1"),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255"),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0"),
    (b"PROXY TCP6 2001:db8::1 ::1 56324 443\r\n", "2001:db8::1"),
    (b"PROXY TCP6 2001:DB8:0:0:0:0:0:1 ::1 56324 443\r\n", "2001:db8::1"),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 443\r\n", "192.0.2.1"),
    (b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", "ffff:" * 7 + "ffff"),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN \r\n", None),
    (b"PROXY UNKNOWN any\nthing \r but \x00\xff its end\r\n", None),
    (b"PROXY UNKNOWN " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n", None),
    (naive_binary(INET_BLOCK), "192.0.2.1"),
    (naive_binary(INET_BLOCK, family=0x12), "192.0.2.1"),
    (naive_binary(INET_BLOCK, family=0x10), None),
    (naive_binary(INET_BLOCK, tlvs=TLV), "192.0.2.1"),
    (naive_binary(INET_BLOCK, tlvs=b"no TLV at all"), "192.0.2.1"),
    (naive_binary(INET_BLOCK, tlvs=b"\x04" * (BINARY_BYTES_MAX - 16 - len(INET_BLOCK))), "192.0.2.1"),
    (naive_binary(INET6_BLOCK, family=0x21), "2001:db8::1"),
    (naive_binary(INET6_BLOCK, family=0x22, tlvs=TLV), "2001:db8::1"),
    (naive_binary(MAPPED_BLOCK, family=0x21), "192.0.2.1"),
    (naive_binary(UNIX_BLOCK, family=0x31), "unix"),
    (naive_binary(UNIX_BLOCK, family=0x32), "unix"),
    (naive_binary(UNIX_BLOCK, family=0x30), None),
    (naive_binary(b"", family=0x00), None),
    (naive_binary(b"", family=0x01), None),
    (naive_binary(INET_BLOCK, family=0x00), None),
    (naive_binary(b"", family=0x00, version_and_command=0x20), None),
    (naive_binary(INET_BLOCK, version_and_command=0x20), None),
    (naive_binary(b"", family=0x11, version_and_command=0x20), None),
    (naive_binary(b"", family=0xFF, version_and_command=0x20, tlvs=TLV), None),
]


@pytest.mark.parametrize(("preface", "client"), VALID)
def test_a_preface_names_the_client_and_its_own_length_whatever_follows_it(preface: bytes, client: str | None) -> None:
    for rest in (b"", HTTP, b"\r\n", b"\x00", preface):
        assert read_preface(preface + rest) == Preface(client, len(preface))


@pytest.mark.parametrize(("preface", "_client"), VALID)
def test_every_part_of_a_preface_is_incomplete(preface: bytes, _client: str | None) -> None:
    assert [read_preface(preface[:length]) for length in range(len(preface))] == [None] * len(preface)


def test_the_longest_lines_that_the_spec_counts_are_those_of_the_table() -> None:
    lengths = {len(preface) for preface, _client in VALID if preface.startswith(b"PROXY")}
    assert {15, 56, 104, 107} <= lengths
    assert max(lengths) == TEXT_BYTES_MAX


BROKEN_LINES = [
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",  # a port is missing
    b"PROXY TCP4\r\n",
    b"PROXY \r\n",
    b"PROXY\r\n",
    b"\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 \r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
    b"PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n",  # two spaces
    b"PROXY TCP4 192.0.2.1\t192.0.2.2 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n\r\n",  # a bare LF
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\r\n",  # a bare CR
    b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 65536\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 056324 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 0443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 00\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2.2 1e1 443\r\n",
    b"PROXY TCP4 192.0.2.256 192.0.2.2 56324 443\r\n",
    b"PROXY TCP4 192.0.2.1 192.0.2 56324 443\r\n",
    b"PROXY TCP4 192.0.02.1 192.0.2.2 56324 443\r\n",
    b"PROXY TCP4 2001:db8::1 ::1 56324 443\r\n",  # of the other family
    b"PROXY TCP6 192.0.2.1 192.0.2.2 56324 443\r\n",
    b"PROXY TCP6 2001:db8::1 192.0.2.2 56324 443\r\n",
    b"PROXY TCP6 2001:db8:::1 ::1 56324 443\r\n",
    b"PROXY TCP6 [2001:db8::1] ::1 56324 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 56324 443\r\n",
    b"PROXY TCP5 192.0.2.1 192.0.2.2 56324 443\r\n",
    b"PROXY UDP4 192.0.2.1 192.0.2.2 56324 443\r\n",
    b"PROXY unknown\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"proxy TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
    b" PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n",
]


@pytest.mark.parametrize("line", BROKEN_LINES)
def test_a_broken_line_is_refused(line: bytes) -> None:
    with pytest.raises(ProxyError):
        read_preface(line + HTTP)


@pytest.mark.parametrize(
    ("beginning", "refused_byte"),
    [
        (b"", b"G"),
        (b"", b"\x16"),  # a TLS record
        (b"P", b"O"),
        (b"PR", b"I"),  # the preface of HTTP/2
        (b"PROXY", b"\r"),
        (b"PROXY ", b"G"),
        (b"PROXY TCP", b"5"),
        (b"PROXY TCP4", b"\r"),
        (b"PROXY TCP4 ", b"x"),
        (b"PROXY TCP4 1", b"\n"),
        (b"PROXY TCP4 1\r", b"1"),
        (b"PROXY TCP6 fe80::1", b"%"),
        (b"PROXY UNKNOWN", b"S"),
        (b"PROXY UNKNOWN", b"\n"),
        (b"PROXY UNKNOWN\r", b"\r"),
        (b"\r", b"\r"),
        (b"\r\n\r\n", b"G"),
        (SIGNATURE[:-1], b"\r"),
        (SIGNATURE, b"\x11"),  # version 1
        (SIGNATURE, b"\x31"),
        (SIGNATURE, b"\x22"),  # a command that is neither LOCAL nor PROXY
        (SIGNATURE, b"\x2f"),
        (SIGNATURE + b"\x21", b"\x41"),  # a family of none
        (SIGNATURE + b"\x21", b"\x13"),  # a transport of none
        (SIGNATURE + b"\x21\x11\x00", b"\x0b"),  # too short for two IPv4 addresses with ports
        (SIGNATURE + b"\x21\x12\x00", b"\x00"),
        (SIGNATURE + b"\x21\x21\x00", b"\x23"),
        (SIGNATURE + b"\x21\x31\x00", b"\xd7"),
        (SIGNATURE + b"\x21\x11\x0f", b"\xf1"),  # one byte too long
        (SIGNATURE + b"\x20\x00\xff", b"\xff"),
    ],
)
def test_what_cannot_become_a_preface_is_refused_at_the_byte_that_shows_it(
    beginning: bytes, refused_byte: bytes
) -> None:
    assert read_preface(beginning) is None
    with pytest.raises(ProxyError):
        read_preface(beginning + refused_byte)


@pytest.mark.parametrize("name", [b"PROXY UNKNOWN ", b"PROXY TCP4 "])
def test_a_line_without_an_end_is_refused_once_its_end_would_be_too_late(name: bytes) -> None:
    line = name.ljust(TEXT_BYTES_MAX - 2, b"1")
    assert read_preface(line) is None
    assert read_preface(line + b"\r") is None
    for late in (line + b"1", line + b"1\r", line + b"1\r\n", line + b"\r1", line * 100):
        with pytest.raises(ProxyError, match=r"no end within 107 bytes|malformed"):
            read_preface(late)


ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
addresses = ipv4 | ipv6
ports = st.integers(0, 65535)


def canonical(address: str) -> str:
    """As the log has it."""
    parsed = ipaddress.ip_address(address)
    return str((isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped) or parsed)


def is_address(text: str) -> bool:
    """Whether `text` is one in canonical form. No zone identifier: whatever follows a percent would pass."""
    try:
        return "%" not in text and canonical(text) == text
    except ValueError:
        return False


@reproducible
@given(st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6), ports, ports, st.binary(max_size=32))
def test_what_a_naive_encoder_of_version_1_writes_is_read_back(
    pair: tuple[str, str], source_port: int, destination_port: int, rest: bytes
) -> None:
    preface = naive_text(*pair, source_port, destination_port)
    assert read_preface(preface + rest) == Preface(canonical(pair[0]), len(preface))
    assert all(read_preface(preface[:length]) is None for length in range(len(preface)))


@reproducible
@given(
    st.tuples(ipv4, ipv4) | st.tuples(ipv6, ipv6),
    ports,
    st.sampled_from([1, 2]),
    st.binary(max_size=300),
    st.binary(max_size=32),
)
def test_what_a_naive_encoder_of_version_2_writes_is_read_back(
    pair: tuple[str, str], port: int, transport: int, tlvs: bytes, rest: bytes
) -> None:
    source, destination = (ipaddress.ip_address(address) for address in pair)
    block = source.packed + destination.packed + struct.pack("!HH", port, port)
    preface = naive_binary(block, family=(0x10 if source.version == 4 else 0x20) | transport, tlvs=tlvs)
    assert read_preface(preface + rest) == Preface(canonical(pair[0]), len(preface))
    assert all(read_preface(preface[:length]) is None for length in range(len(preface)))


beginnings = st.sampled_from(
    [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21",
     SIGNATURE + b"\x21\x11\x00", SIGNATURE + b"\x21\x31\x00"]
)  # fmt: skip


@reproducible
@given(beginnings, st.binary(max_size=300) | st.text("0123456789.: \r\n", max_size=120).map(str.encode))
def test_no_bytes_raise_anything_but_a_proxy_error_or_name_what_is_no_address(beginning: bytes, rest: bytes) -> None:
    data = beginning + rest
    try:
        preface = read_preface(data)
    except ProxyError:
        return
    if preface is not None:
        assert 0 < preface.length <= len(data)
        assert preface.client in (None, "unix") or is_address(preface.client)


@reproducible
@given(beginnings, st.binary(max_size=300), st.integers(0, 300))
def test_what_is_refused_stays_refused_and_what_is_read_stays_as_it_was_read(
    beginning: bytes, rest: bytes, length: int
) -> None:
    data = beginning + rest
    try:
        part = read_preface(data[:length])
    except ProxyError:
        with pytest.raises(ProxyError):
            read_preface(data)
    else:
        assert part is None or read_preface(data) == part


@reproducible
@given(beginnings, st.binary(min_size=1, max_size=64))
def test_as_many_bytes_as_a_preface_may_have_are_never_too_few(beginning: bytes, rest: bytes) -> None:
    data = (beginning + rest * PREFACE_BYTES_MAX)[:PREFACE_BYTES_MAX]
    with contextlib.suppress(ProxyError):
        assert read_preface(data) is not None


# -- whom to trust ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "trusted", "others"),
    [
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["11.0.0.0", "::a00:1", "::1"]),
        ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1", "::ffff:c000:201"], ["192.0.2.2", "::192.0.2.1"]),
        ("::1", ["::1", "0:0::1"], ["::2", "127.0.0.1"]),
        ("fe80::/10", ["fe80::1", "fe80::1%eth0", "fe80::1%2"], ["fec0::1", "fe80"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3", "::ffff:10.1.2.3"], ["11.0.0.0", "::a01:203"]),
        ("::ffff:10.0.0.1", ["10.0.0.1"], ["10.0.0.2"]),
        ("::ffff:0:0/96", ["10.0.0.1", "255.255.255.255"], ["::1", "::fffe:10.0.0.1"]),
        ("::fffe:0:0/95", ["::fffe:10.0.0.1"], ["10.0.0.1", "::1"]),
        ("::a00:1", ["::10.0.0.1"], ["10.0.0.1"]),
        ("0.0.0.0/0", ["10.0.0.1", "::ffff:10.0.0.1"], ["::1", "::", "unix"]),
        ("::/0", ["::1", "::"], ["10.0.0.1", "::ffff:10.0.0.1"]),
        ("unix", ["unix"], ["unix:", "UNIX", "127.0.0.1", "::1"]),
    ],
)
def test_a_peer_is_trusted_if_it_is_in_a_network_that_is(network: str, trusted: list[str], others: list[str]) -> None:
    proxies = TrustedProxies([network])
    assert [peer for peer in trusted + others if proxies.trusts(peer)] == trusted


def test_a_peer_that_is_gone_or_no_address_is_never_trusted() -> None:
    proxies = TrustedProxies(["0.0.0.0/0", "::/0", "unix"])
    for peer in ("-", "", "localhost", "10.0.0.1:80", "[::1]", "10.0.0.0/8", " 10.0.0.1", "10.1", "1"):
        assert not proxies.trusts(peer)


def test_nobody_is_trusted_unless_named() -> None:
    proxies = TrustedProxies([])
    assert not any(proxies.trusts(peer) for peer in ("127.0.0.1", "::1", "unix", "-"))


@pytest.mark.parametrize("network", ["10.0.0.1/8", "localhost", "", "unix:", "10.0.0.0/33"])
def test_what_is_no_network_cannot_be_trusted(network: str) -> None:
    with pytest.raises(ValueError, match=r"network|host bits"):
        TrustedProxies([network])


# -- the fields -------------------------------------------------------------------------------------------------

PROXIES = TrustedProxies(["10.0.0.0/8", "::1", "unix"])
PEER = "10.0.0.1"
CLIENT = "192.0.2.43"


@pytest.mark.parametrize(
    ("value", "client"),
    [
        (b"192.0.2.43", CLIENT),
        (b" 192.0.2.43\t", CLIENT),
        (b"192.0.2.43:8080", CLIENT),
        (b"2001:db8::1", "2001:db8::1"),
        (b"2001:DB8:0::1", "2001:db8::1"),
        (b"2001:db8::1:8080", "2001:db8::1:8080"),  # nothing says that this would be a port
        (b"[2001:db8::1]", "2001:db8::1"),
        (b"[2001:db8::1]:8080", "2001:db8::1"),
        (b"::ffff:192.0.2.43", CLIENT),
        (b"[::ffff:c000:22b]:80", CLIENT),
        (b"198.51.100.17, 192.0.2.43", CLIENT),
        (b"192.0.2.43, 10.0.0.2", CLIENT),
        (b"192.0.2.43,10.0.0.2:99,::1, [::1]:80 , ::ffff:10.0.0.3", CLIENT),
        (b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        (b", ,192.0.2.43, ,10.0.0.2,,", CLIENT),
        (b"unknown, 10.0.0.2", "10.0.0.2"),
        (b"192.0.2.43, _hidden, 10.0.0.2", "10.0.0.2"),
        (b"192.0.2.43, 10.0.0.2.", PEER),
        (b"192.0.2.43\x0b", PEER),  # no white space of HTTP
        (b"192.0.2.43 10.0.0.2", PEER),
        (b"192.0.2.43;10.0.0.2", PEER),
        (b"192.0.2.43:", PEER),
        (b"192.0.2.43:999999", PEER),
        (b"192.0.2.256", PEER),
        (b"192.0.2", PEER),
        (b"3232235777", PEER),
        (b"::1::", PEER),
        (b"2001:db8::g", PEER),
        (b"fe80::1%eth0", PEER),
        (b"fe80::1%\x1b[2J", PEER),
        (b'"192.0.2.43"', PEER),
        (b"for=192.0.2.43", PEER),
        (b"unix", PEER),
        (b"unix:", PEER),
        (b"-", PEER),
        (b"\xd9\xa1.0.0.1", PEER),
        (b"", PEER),
    ],
)
def test_x_forwarded_for_is_walked_from_the_right(value: bytes, client: str) -> None:
    assert PROXIES.client_of(PEER, value) == client


def test_without_the_field_a_proxy_is_its_own_client() -> None:
    for peer in (PEER, "unix", "::1", "198.51.100.1", "-"):
        assert PROXIES.client_of(peer, None) == peer


@pytest.mark.parametrize("peer", ["unix", "::1", "::ffff:10.0.0.1", "10.0.0.1"])
def test_the_word_of_each_kind_of_proxy_is_taken(peer: str) -> None:
    assert PROXIES.client_of(peer, b"192.0.2.43") == CLIENT
    assert PROXIES.client_of(peer, b"unknown") == peer


def test_a_chain_is_walked_so_far_and_no_further() -> None:
    chain = [f"10.1.0.{number}" for number in range(HOPS_MAX)]
    for extra, client in ((chain[1:], CLIENT), (chain, chain[0])):
        hops = [CLIENT, *extra]
        assert PROXIES.client_of(PEER, ", ".join(hops).encode()) == client
    assert PROXIES.client_of(PEER, b"192.0.2.43" + b"," * (HOPS_MAX - 1)) == CLIENT
    assert PROXIES.client_of(PEER, b"192.0.2.43" + b"," * HOPS_MAX) == PEER


@pytest.mark.parametrize(
    "value",
    [
        b'"', b'\\"', b"\\", b'""', b',"', b",", b" ,", b"\t", b";", b"; ", b" ;", b"a", b"a=", b"a=b;", b"a=b ",
        b'a="', b'a="b"', b'a="\\', b"1", b"1.", b":", b"1:", b"[", b"10.0.0.1,", b"for=10.0.0.1,", b'for="[::1]",',
        b'\\",',
    ],
)  # fmt: skip
@pytest.mark.parametrize("ends", [(b"", b""), (b'for="', b'"'), (b"for=1;a=", b"\x00"), (b'a="', b'"x'), (b"[", b"]x")])
def test_long_values_are_read_in_linear_time(value: bytes, ends: tuple[bytes, bytes]) -> None:
    # Eight times what a head can hold: linear is some hundredths of a second, quadratic would be minutes.
    size = 256 * 1024
    value = ends[0] + value * (size // len(value)) + ends[1]
    start = time.process_time()
    PROXIES.client_of(PEER, value)
    assert time.process_time() - start < 2


# -- properties of both -----------------------------------------------------------------------------------------

hops = st.ip_addresses(network="10.0.0.0/8").map(str) | addresses
chains = st.lists(hops, min_size=1, max_size=HOPS_MAX)
spaces = st.sampled_from(["", " ", "\t", "  "])


def naive_client(chain: list[str]) -> str:
    """The oracle: the first from the right that is not trusted, or the leftmost."""
    for hop in reversed(chain):
        if not PROXIES.trusts(hop):
            return canonical(hop)
    return canonical(chain[0])


@reproducible
@given(chains, st.data())
def test_a_well_formed_x_forwarded_for_field_is_walked_like_the_list_that_it_stands_for(
    chain: list[str], data: st.DataObject
) -> None:
    forms = ["{}", "[{}]", "[{}]:80"]
    elements = [data.draw(st.sampled_from(forms if ":" in hop else ["{}", "{}:80"])).format(hop) for hop in chain]
    value = (data.draw(spaces) + "," + data.draw(spaces)).join(elements)
    assert PROXIES.client_of(PEER, value.encode()) == naive_client(chain)


hostile = st.lists(
    st.sampled_from(
        [b"for=", b"For", b"by=", b'"', b"\\", b",", b";", b"=", b" ", b"[", b"]", b":", b"::1", b"10.0.0.2", b"%",
         b"_x", b"192.0.2.43", b"unknown", b"unix", b"-", b"\n", b"\x1b[2J", b"\x00", b"\xff", b"2001:db8::1",
         b"::ffff:", b".1"]
    ),
    max_size=24,
).map(b"".join)  # fmt: skip
values = st.none() | hostile | st.binary(max_size=64) | st.lists(addresses, max_size=4).map(", ".join).map(str.encode)
peers = st.sampled_from([PEER, "unix", "::1", "::ffff:10.0.0.1", "-", "198.51.100.1", "fe80::1%eth0"]) | addresses


@reproducible
@given(hostile | st.binary(max_size=64), addresses)
def test_nothing_that_a_client_sends_hides_what_the_proxies_appended(sent: bytes, client: str) -> None:
    if not PROXIES.trusts(client):
        assert PROXIES.client_of(PEER, sent + f", {client}, 10.0.0.9".encode()) == canonical(client)


@reproducible
@given(peers, values)
def test_the_client_is_always_an_address_or_the_peer(peer: str, x_forwarded_for: bytes | None) -> None:
    client = PROXIES.client_of(peer, x_forwarded_for)
    assert client == peer or is_address(client)


@pytest.mark.parametrize("peer", ["198.51.100.1", "::2", "::ffff:198.51.100.1", "fe80::1%eth0", "-", "anything"])
def test_a_peer_that_is_not_trusted_is_its_own_client_as_it_was_given(peer: str) -> None:
    assert PROXIES.client_of(peer, b"192.0.2.43") == peer


@reproducible
@given(peers, values)
def test_the_field_of_a_peer_that_is_not_trusted_never_matters(peer: str, x_forwarded_for: bytes | None) -> None:
    assert TrustedProxies([]).client_of(peer, x_forwarded_for) == peer
    if not PROXIES.trusts(peer):
        assert PROXIES.client_of(peer, x_forwarded_for) == peer


# -- whom a client is counted as --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
        ("2001:db8:1::", "2001:db8:1::"),
        ("2001:db8:2:2::1", "2001:db8:2::"),
        ("64:ff9b::c000:201", "192.0.2.1"),
        ("::1", "::"),
        ("fe80::1%eth0", "fe80::"),
        ("unix", "unix"),
        ("-", "-"),
    ],
)
def test_a_client_is_counted_as_its_address_or_its_network_of_ipv6(client: str, network: str) -> None:
    assert network_of(client) == network
