"""Heads for tests: good ones, refused ones, and what comes of them."""

from __future__ import annotations

import pytest

from ringserve.connection.prepared import PreparedResponses
from ringserve.connection.remembered import Memory
from ringserve.connection.remembered import request_of as request_of_head
from ringserve.http.heads import Request
from ringserve.http.request import Limits, Parser, RequestError, RequestReader
from ringserve.http.semantics import LIST_MEMBERS_MAX, TargetError

LIMITS = Limits(head_bytes_max=32 * 1024, target_bytes_max=8 * 1024, fields_max=100)
SMALL = Limits(head_bytes_max=400, target_bytes_max=128, fields_max=8)


def described(request: Request) -> tuple[object, ...]:
    """All of a request that bears on its response, as a value."""
    line, block = request.line, request.block
    location = str(line.location) if isinstance(line.location, TargetError) else line.location
    selection = request.selection
    return (
        line.method, line.target, line.version, line.http_10, location, request.is_head,
        block.persistent, block.says_keep_alive, block.plain, block.has_body,
        request.told, line.query, selection.conditions, selection.accept, selection.accept_encoding,
    )  # fmt: skip


Outcome = tuple[object, ...] | int
"""A request as a value, or the status of a refusal."""


class Reader(RequestReader):
    """Reads requests of a connection, whose halves `memory` may know."""

    def __init__(self, limits: Limits, memory: Memory) -> None:
        super().__init__(limits)
        self.memory = memory

    def next_request(self) -> Request | None:
        head = self.next_head()
        return None if head is None else request_of_head(self.memory.read(head))


def outcomes(reader: Reader, *chunks: bytes) -> list[Outcome]:
    """What comes of the chunks, up to a head with a body. A refusal is the last; 0 stands for one without a reason."""
    seen: list[Outcome] = []
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while (request := reader.next_request()) is not None:
                seen.append(described(request))
                if request.block.has_body:
                    return seen
    except RequestError as refused:
        seen.append(refused.status if str(refused) else 0)
    return seen


def new_memory(
    heeded: tuple[bytes, ...] = (), limits: Limits = LIMITS, *, enabled: bool = True, tells: bool = True
) -> Memory:
    return Memory(
        Parser(limits, heeded), PreparedResponses(b"ringserve", 100, 1024 * 1024), enabled=enabled, tells=tells
    )


def new_reader(limits: Limits = LIMITS, memory: Memory | None = None) -> Reader:
    return Reader(limits, memory or new_memory(limits=limits))


def request_of(head: bytes, limits: Limits = LIMITS) -> Request:
    reader = new_reader(limits)
    reader.feed(head)
    request = reader.next_request()
    assert request is not None
    return request


def status_of(data: bytes, limits: Limits = LIMITS) -> int:
    """The status with which the bytes are refused."""
    reader = new_reader(limits)
    reader.feed(data)
    with pytest.raises(RequestError) as refused:
        reader.next_request()
    return refused.value.status


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def joined(*fields: bytes) -> bytes:
    """A header block."""
    return b"".join(field + b"\r\n" for field in fields) + b"\r\n"


HOST = b"Host: example.org"
BROWSER = joined(
    HOST,
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
    b"Accept: text/html,application/xhtml+xml,*/*;q=0.8",
    b"Accept-Encoding: gzip, deflate, br, zstd",
    b"Referer: http://example.org/\xe9",
    b"Cookie: a=\xe9b",
    b"If-None-Match: \"v1\"",
    b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",
    b"Range: bytes=0-0",
    b"If-Range: \"v1\"",
)  # fmt: skip
GOOD = [
    b"GET / HTTP/1.1\r\n" + joined(HOST),
    b"GET /a/b?c HTTP/1.1\r\n" + BROWSER,
    b"HEAD / HTTP/1.1\r\n" + joined(HOST),
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\n" + joined(b"Connection: Keep-Alive"),
    b"GET /../x HTTP/1.1\r\n" + joined(HOST, b"Connection: close"),
    b"OPTIONS * HTTP/1.1\r\n" + joined(HOST),
    b"GET http://example.org/x HTTP/1.1\r\n" + joined(b"Host:example.org \t"),
    b"BREW /pot HTTP/1.1\r\n" + joined(b"hOST: [::1]:8080", b"Expect: 100-continue"),
    b"POST / HTTP/1.1\r\n" + joined(HOST, b"Content-Length: 0"),
    b"GET / HTTP/1.2\r\n" + joined(HOST),
]
LINE = b"GET / HTTP/1.1\r\n"
REFUSED = [
    # Stricter than h11 (11.2)
    pytest.param(b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400, id="bare LF after the request line"),
    pytest.param(LINE + b"Host: a\nX: b\r\n\r\n", 400, id="bare LF after a field"),
    pytest.param(LINE + b"Host: a\r\nX: b\n\r\n\r\n", 400, id="bare LF and an empty line"),
    pytest.param(LINE + b"Host: a\r\n\n\r\n\r\n", 400, id="an empty line of a bare LF"),
    pytest.param(LINE + b"Host: a\n\nGET /admin HTTP/1.1\r\nHost: a\r\n\r\n", 400, id="a second head behind bare LFs"),
    pytest.param(LINE + b"Host: a\r\nX: b\r\n c\r\n\r\n", 400, id="obs-fold by a space (5.2)"),
    pytest.param(LINE + b"Host: a\r\nX: b\r\n\tc\r\n\r\n", 400, id="obs-fold by a tab (5.2)"),
    pytest.param(LINE + b" Host: a\r\n\r\n", 400, id="space before the first field (2.2)"),
    pytest.param(LINE + b"Host: a\r\n \r\n\r\n", 400, id="a line of spaces"),
    pytest.param(LINE + joined(HOST, b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, id="CL and TE (6.1)"),
    pytest.param(
        LINE + joined(HOST, b"Transfer-Encoding: chunked", b"Content-Length: 0"), 400, id="TE and CL: 0 (6.1)"
    ),
    pytest.param(b"GET / HTTP/1.0\r\n" + joined(b"Transfer-Encoding: chunked"), 400, id="TE in HTTP/1.0 (6.1)"),
    # Host (3.2)
    pytest.param(LINE + b"\r\n", 400, id="no Host"),
    pytest.param(LINE + joined(b"X: a"), 400, id="no Host among others"),
    pytest.param(b"GET / HTTP/1.2\r\n" + joined(b"X: a"), 400, id="no Host in HTTP/1.2"),
    pytest.param(LINE + joined(b"Host: a", b"Host: a"), 400, id="two Hosts"),
    pytest.param(LINE + joined(b"Host: a", b"Host: b"), 400, id="two Hosts that differ"),
    pytest.param(b"GET / HTTP/1.0\r\n" + joined(b"Host: a", b"Host: a"), 400, id="two Hosts in HTTP/1.0"),
    pytest.param(b"GET / HTTP/1.0\r\n" + joined(b"Host: a b"), 400, id="malformed Host in HTTP/1.0"),
    *(
        pytest.param(LINE + joined(b"Host: " + host), 400, id=f"Host {host!r}")
        for host in (
            b"a b",
            b"a/b",
            b"http://a",
            b"a@b",
            b"a?b",
            b"a#b",
            b"a:b",
            b"a:1:2",
            b"localhost:80x",
            b"localhost:80:80",
            b"a:65536",
            b"a:-1",
            b":80",
            b"%zz",
            b"a%2",
            b"4713::abcd:8001",
            b"[::1",
            b"[12345::1]",
            b"[1::2::3]",
            b"[::1%25eth0]",
            b"[v1.a]",
            b"[::1]80",
            b"::1",
            b"[]",
            b"[a]x",
            b"[g::]",
            b'a"b',
            b"a\\b",
            b"a<b>",
            b"caf\xc3\xa9",
            b"a\x01b",
        )
    ),
    # Framing (6.1 to 6.3)
    pytest.param(LINE + joined(HOST, b"Content-Length: 5", b"Content-Length: 6"), 400, id="CL repeated and differing"),
    pytest.param(LINE + joined(HOST, b"Content-Length: 5, 6"), 400, id="CL as a differing list"),
    pytest.param(LINE + joined(HOST, b"Content-Length: "), 400, id="CL empty"),
    pytest.param(LINE + joined(HOST, b"Content-Length: -1"), 400, id="CL negative"),
    pytest.param(LINE + joined(HOST, b"Content-Length: +1"), 400, id="CL with a sign"),
    pytest.param(LINE + joined(HOST, b"Content-Length: 0x5"), 400, id="CL hexadecimal"),
    pytest.param(LINE + joined(HOST, b"Content-Length: 1_0"), 400, id="CL with an underscore"),
    pytest.param(LINE + joined(HOST, b"Content-Length: " + b"9" * 21), 400, id="CL of 21 digits"),
    pytest.param(LINE + joined(HOST, b"Transfer-Encoding: gzip"), 501, id="TE unknown"),
    pytest.param(LINE + joined(HOST, b"Transfer-Encoding: gzip, chunked"), 501, id="TE gzip and chunked"),
    pytest.param(LINE + joined(HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 501, id="TE twice"),
    pytest.param(LINE + joined(HOST, b"Transfer-Encoding : chunked"), 400, id="space before the colon (5.1)"),
    pytest.param(LINE + joined(HOST, b"Transfer-Encoding: \x0bchunked"), 400, id="TE behind a vertical tab"),
    # Lines and fields
    pytest.param(LINE + joined(HOST, b"X: a\rb"), 400, id="bare CR in a value (2.2)"),
    *(
        pytest.param(LINE + joined(HOST, b"X: a%cb" % control), 400, id=f"0x{control:02x} in a value (9110 5.5)")
        for control in (*range(9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F)
    ),
    pytest.param(b"GET /\x01 HTTP/1.1\r\n" + joined(HOST), 400, id="a control character in the target"),
    pytest.param(LINE + joined(HOST, b"Connection: " + b"a," * LIST_MEMBERS_MAX), 431, id="too many options"),
    pytest.param(LINE + joined(HOST, *[b"Connection: a,b"] * LIST_MEMBERS_MAX), 431, id="too many options in all"),
    pytest.param(LINE + joined(HOST, b"content-length: " + b"0," * LIST_MEMBERS_MAX), 431, id="too many lengths"),
    pytest.param(LINE + joined(HOST, b"Expect: " + b"a," * LIST_MEMBERS_MAX), 431, id="too many expectations"),
    pytest.param(LINE + joined(HOST, b"Upgrade: " + b"a," * LIST_MEMBERS_MAX), 431, id="too many protocols"),
    pytest.param(LINE + joined(HOST, b"X"), 400, id="no colon"),
    pytest.param(LINE + joined(HOST, b": a"), 400, id="no name"),
    pytest.param(LINE + joined(HOST, b"X y: a"), 400, id="space in a name"),
    pytest.param(LINE + joined(HOST, b"X\xe9: a"), 400, id="a name beyond ASCII"),
    pytest.param(b"GET  / HTTP/1.1\r\n" + joined(HOST), 400, id="two spaces"),
    pytest.param(b"GET\t/ HTTP/1.1\r\n" + joined(HOST), 400, id="a tab"),
    pytest.param(b" GET / HTTP/1.1\r\n" + joined(HOST), 400, id="space before the method"),
    pytest.param(b"GET / HTTP/1.1 \r\n" + joined(HOST), 400, id="space after the version"),
    pytest.param(b"GET /a b HTTP/1.1\r\n" + joined(HOST), 400, id="space in the target"),
    pytest.param(b"GET /\xe9 HTTP/1.1\r\n" + joined(HOST), 400, id="a target beyond ASCII"),
    pytest.param(b"GET /\r HTTP/1.1\r\n" + joined(HOST), 400, id="bare CR in the target"),
    pytest.param(b"GET\r\n" + joined(HOST), 400, id="only a method"),
    pytest.param(b"GET /\r\n\r\n", 400, id="HTTP/0.9"),
    pytest.param(b"(GET) / HTTP/1.1\r\n" + joined(HOST), 400, id="a method that is no token"),
    # Versions (2.3)
    pytest.param(b"GET / http/1.1\r\n" + joined(HOST), 400, id="version in lower case"),
    pytest.param(b"GET / HTTP/1.10\r\n" + joined(HOST), 400, id="version of three digits"),
    pytest.param(b"GET / HTTP/1\r\n" + joined(HOST), 400, id="version of one digit"),
    pytest.param(b"GET / FTP/1.1\r\n" + joined(HOST), 400, id="another protocol"),
    pytest.param(b"GET / HTTP/2.0\r\n" + joined(HOST), 505, id="HTTP/2.0"),
    pytest.param(b"GET / HTTP/0.9\r\n" + joined(HOST), 505, id="HTTP/0.9 by name"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\n", 505, id="HTTP/2 preface (RFC 9113 3.4)"),
    # What is not HTTP at all
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, id="TLS hello"),
    pytest.param(b"\nGET / HTTP/1.1\r\n" + joined(HOST), 400, id="bare LF before a request"),
    pytest.param(b"\0" * 8, 400, id="NULs"),
]
LENGTH_10 = b"POST / HTTP/1.1\r\n" + joined(HOST, b"Content-Length: 10")
CHUNKED = b"POST / HTTP/1.1\r\n" + joined(HOST, b"Transfer-Encoding: chunked")
