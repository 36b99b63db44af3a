"""Who the client is behind proxies: what the PROXY protocol and X-Forwarded-For say, and whom to believe.

No sockets, no files, no clock. The PROXY protocol is HAProxy's "The PROXY protocol, versions 1 & 2" ("the spec" below);
X-Forwarded-For has no standard, and is read as everybody writes it. Forwarded (RFC 7239) is not read. A proxy
forwards the field that it does not write unchanged, so a client could forge it; and hardly any proxy writes Forwarded.

The field is read from the right, one element at a time, and only as far as it is needed: its right end was written by
the proxy that is trusted, and what stands left of it may be anything a client made up.

Nothing here hands out bytes of the peer: an address is parsed, and written anew in its canonical form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import NamedTuple

UNIX = "unix"
"""What a peer on a unix socket is called, in the configuration and in the log."""

CR = b"\r"
CRLF = b"\r\n"


# -- addresses --------------------------------------------------------------------------------------------------


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """An IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) as its IPv4 one: a listener for both families sees the former,
    and a host has to have one name in the log.
    """
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def _plain_network(text: str) -> IPv4Network | IPv6Network:
    """A network or a single address. Raises ValueError.

    A network of IPv4-mapped addresses is one of IPv4, as its addresses are. `::/0` is nevertheless all of IPv6 and
    nothing else. (A shorter prefix than theirs, of 96 bits, does not end in theirs, or `ip_network` refuses it.)
    """
    network = ip_network(text)
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return network if mapped is None else IPv4Network((mapped, network.prefixlen - 96))


IPV6_NETWORK_BITS = 48
"""The most that one site is given (RFC 6177 2), which can use all of its addresses. With 64, which every household has
256 of, one of them could be as many clients as a queue has places."""
NAT64 = IPv6Network("64:ff9b::/96")
"""Its addresses are those of IPv4 hosts (RFC 6052 2.1)."""


def network_of(client: str) -> str:
    """What a client is counted as where something is shared fairly: its address, or for IPv6 the network of it; any
    other name, such as `unix`, is itself.
    """
    try:
        address = ip_address(client)
    except ValueError:
        return client
    if isinstance(address, IPv4Address):
        return client
    if address in NAT64:
        return str(IPv4Address(int(address) & 0xFFFFFFFF))
    host_bits = address.max_prefixlen - IPV6_NETWORK_BITS
    return str(IPv6Address(int(address) >> host_bits << host_bits))


# -- the PROXY protocol -----------------------------------------------------------------------------------------

TEXT_BYTES_MAX = 107
"""Longest header of version 1, CRLF included: the spec's own figure (2.1), that of its longest line."""
BINARY_BYTES_MAX = 4096
"""Longest header of version 2 that we wait for. The spec means it to fit a segment of 536 bytes, and the length field
can say 64 KiB; proxies that add a server name, an identifier and what TLS negotiated stay below one page."""
PREFACE_BYTES_MAX = max(TEXT_BYTES_MAX, BINARY_BYTES_MAX)
"""With so many bytes `read_preface` never answers that more are needed."""

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
"""What a header of version 2 begins with. Its NUL is in no head of HTTP, and it is no TLS record (spec 2.2)."""
FIXED_BYTES = 16
"""Of version 2: signature, version and command, family and protocol, length of the rest."""

_BEGINNINGS = (SIGNATURE, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")
_UNKNOWN = b"PROXY U"
_TEXT_SO_FAR = re.compile(rb"[0-9A-Fa-f:. ]*\r?")
_TEXT_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})")
"""The characters of an address keep out zone identifiers: `ipaddress` would take any text at all after a percent."""
PORT_MAX = 65535

_LOCAL, _PROXY = b"\x20", b"\x21"
"""The 13th byte: version 2 in its upper half, the command in its lower."""
_AF_UNSPEC, _AF_INET, _AF_INET6, _AF_UNIX = range(4)
_ADDRESS_BYTES = {_AF_UNSPEC: 0, _AF_INET: 12, _AF_INET6: 36, _AF_UNIX: 216}
"""The address block of each family, the upper half of the 14th byte: two addresses, and two ports where there are
ports (spec 2.2)."""
_UNSPEC, _STREAM, _DGRAM = range(3)
"""The transport, its lower half."""


class ProxyError(ValueError):
    """The peer is a trusted proxy, and what it sent is no PROXY header. The message says what is wrong with it.

    Nothing on the connection is to be taken for a request: it has to end (spec 2.1, 2.2).
    """


class Preface(NamedTuple):
    """What a connection's PROXY header said.

    client: the client's address as text (IPv6 without brackets, IPv4-mapped as IPv4), or `unix`. None: the proxy
        speaks for itself, or cannot tell (LOCAL, UNKNOWN, UNSPEC), so that the peer's own address stands.
    length: the bytes that it took; what follows is HTTP.
    """

    client: str | None
    length: int


def read_preface(data: bytes) -> Preface | None:
    """The PROXY header that `data` begins with, of either version; None while it is incomplete. Raises ProxyError.

    What cannot become a header any more is refused without waiting for the rest. Whether there is a header is not
    guessed: the spec forbids it (2), since then everybody could bring one.
    """
    if not any(beginning.startswith(data[: len(beginning)]) for beginning in _BEGINNINGS):
        raise ProxyError("no PROXY header; does the proxy send one?")
    return _read_binary(data) if data.startswith(CR) else _read_text(data)


def _read_text(data: bytes) -> Preface | None:
    """Version 1 (spec 2.1): one line. The first words of it are known to be right as far as they are here.

    The addresses are looked at when the line is whole, as the spec demands: until then, one may be cut off.
    """
    line, line_end, _rest = data[:TEXT_BYTES_MAX].partition(CRLF)
    unknown = line.startswith(_UNKNOWN)
    if not line_end:
        if len(line.removesuffix(CR)) > TEXT_BYTES_MAX - len(CRLF):
            raise ProxyError(f"the PROXY line has no end within {TEXT_BYTES_MAX} bytes")
        if not unknown and not _TEXT_SO_FAR.fullmatch(line, len(b"PROXY TCPx ")):
            raise ProxyError("a malformed PROXY line")
        return None
    length = len(line) + len(CRLF)
    if unknown:
        return Preface(None, length)  # whatever else the line says is to be ignored (spec 2.1)
    match = _TEXT_LINE.fullmatch(line)
    if not match or int(match[4]) > PORT_MAX or int(match[5]) > PORT_MAX:
        raise ProxyError("a malformed PROXY line")
    family: type[IPv4Address | IPv6Address] = IPv4Address if match[1] == b"4" else IPv6Address
    try:
        source, _destination = family(match[2].decode()), family(match[3].decode())
    except ValueError as error:
        raise ProxyError("a malformed address in the PROXY line") from error
    return Preface(str(_plain(source)), length)


def _read_binary(data: bytes) -> Preface | None:
    """Version 2 (spec 2.2). The signature is known to be right as far as it is here.

    The fields that extend it (TLVs) are skipped unread, a checksum among them: TCP has one, and a receiver is free to
    know none (2.2.3). A datagram's address is taken like a stream's: a proxy that was asked over QUIC has said so.
    """
    command = data[12:13]
    if command not in (b"", _LOCAL, _PROXY):
        raise ProxyError("a PROXY header of another version than 2, or with an unknown command")
    speaks_for_itself = command == _LOCAL  # the family is then ignored, and the length is not (spec 2.2)
    family, transport = divmod(int.from_bytes(data[13:14]), 16)
    if not speaks_for_itself and (family not in _ADDRESS_BYTES or transport not in (_UNSPEC, _STREAM, _DGRAM)):
        raise ProxyError("a PROXY header with an unknown address family or transport")
    if len(data) < FIXED_BYTES:
        return None
    length = FIXED_BYTES + int.from_bytes(data[14:FIXED_BYTES])
    if length > BINARY_BYTES_MAX:
        raise ProxyError(f"a PROXY header of more than {BINARY_BYTES_MAX} bytes")
    if not speaks_for_itself and length < FIXED_BYTES + _ADDRESS_BYTES[family]:
        raise ProxyError("a PROXY header that is too short for its address family")
    if len(data) < length:
        return None
    if speaks_for_itself or family == _AF_UNSPEC or transport == _UNSPEC:
        return Preface(None, length)
    if family == _AF_UNIX:
        return Preface(UNIX, length)  # its path is of another machine, perhaps, and may hold any bytes
    source = IPv4Address(data[16:20]) if family == _AF_INET else IPv6Address(data[16:32])
    return Preface(str(_plain(source)), length)


# -- X-Forwarded-For ----------------------------------------------------------------------------------------------

HOPS_MAX = 32
"""Elements of a field that are walked. A chain of proxies has a few; a longer one, all of trusted addresses, was made
up by a client, and each element costs microseconds."""
_NODE = re.compile(rb"(?:(?P<ipv4>[0-9.]+)|\[(?P<ipv6>[0-9A-Fa-f:.]+)\])(?::(?:\d{1,5}|_[0-9A-Za-z._-]+))?")
"""A node that names an address, with its port, which may be obfuscated (RFC 7239 6)."""
_BARE_IPV6 = re.compile(rb"[0-9A-Fa-f:.]+")


def _read_node(node: bytes) -> IPv4Address | IPv6Address | None:
    """The address of a node (RFC 7239 6); None for `unknown`, an obfuscated one, and what is no node."""
    match = _NODE.fullmatch(node)
    if not match:
        return None
    try:
        if match["ipv4"] is not None:
            return IPv4Address(match["ipv4"].decode())
        return _plain(IPv6Address(match["ipv6"].decode()))
    except ValueError:
        return None


def _read_x_forwarded_for(element: bytes) -> IPv4Address | IPv6Address | None:
    """The address in an element of X-Forwarded-For, perhaps with a port; an IPv6 address may lack its brackets, and
    has no port then.
    """
    if not _BARE_IPV6.fullmatch(element) or b":" not in element:
        return _read_node(element)
    try:
        return _plain(IPv6Address(element.decode()))
    except ValueError:
        return _read_node(element)  # an IPv4 address with a port has no other characters either


class TrustedProxies:
    """The peers whose word about the client is taken.

    networks: each a network (`10.0.0.0/8`), an address, or `unix` for whoever connects by a unix socket. Raises
        ValueError for another.
    """

    __slots__ = ("_networks", "_unix")

    def __init__(self, networks: Iterable[str]) -> None:
        names = set(networks)
        self._unix = UNIX in names
        self._networks = tuple(_plain_network(name) for name in names if name != UNIX)

    def trusts(self, peer: str) -> bool:
        """Whether a peer is one of them: an address as text, or `unix`. Any other text, such as `-`, is nobody."""
        if peer == UNIX:
            return self._unix
        try:
            # The interface that the kernel tells of a link-local address (`fe80::1%eth0`) is no matter to a network.
            return self._contain(_plain(ip_address(peer)))
        except ValueError:
            return False

    def client_of(self, peer: str, x_forwarded_for: bytes | None) -> str:
        """The client behind trusted proxies, by the value of X-Forwarded-For; `peer` itself if it is not trusted.

        The elements are walked from the right, that is from the nearest hop, as long as the hops are trusted. The first
        that is not is the client; if all are, the leftmost is. The walk ends as well at what is malformed, `unknown` or
        obfuscated, and after HOPS_MAX: the last hop that was understood is then as near to the client as can be told.

        The answer is an address in its canonical form, or `peer` as it was given.
        """
        if x_forwarded_for is None or not self.trusts(peer):
            return peer
        client = peer
        for element in islice(reversed(x_forwarded_for.rsplit(b",", HOPS_MAX)), HOPS_MAX):
            element = element.strip(b" \t")
            if not element:
                continue  # an empty one is no hop (RFC 9110 5.6.1.2)
            hop = _read_x_forwarded_for(element)
            if hop is None:
                break
            client = str(hop)
            if not self._contain(hop):
                break
        return client

    def _contain(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)
