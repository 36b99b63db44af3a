"""From bytes to requests: what is read, what is refused, and that the memory never changes either.

Cases run whole, byte by byte, and with trailing data. Sections are of RFC 9112 unless said.
"""

from __future__ import annotations

import itertools

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.heads import (
    APART_BYTES_MAX,
    APART_NAMES,
    CONFIGURED_FIELDS,
    REMEMBERED_BYTES_MAX,
    SELECTION_BYTES_MAX,
    Memory,
    Preflight,
    Remembered,
    Request,
    set_apart,
)
from ringserve.request import LONGEST_METHOD_AND_VERSION, Limits, RequestError, RequestReader
from ringserve.semantics import LIST_MEMBERS_MAX, Conditions, Location, TargetError

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
        block.referer, block.user_agent, selection.conditions, selection.accept, selection.accept_encoding,
    )  # fmt: skip


Outcome = tuple[object, ...] | int
"""A request as a value, or the status of a refusal."""


def outcomes(reader: RequestReader, *chunks: bytes) -> list[Outcome]:
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


def new_reader(limits: Limits = LIMITS, memory: Memory | None = None) -> RequestReader:
    return RequestReader(memory or Memory(), limits)


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


# -- what is read -----------------------------------------------------------------------------------------------


def test_a_request_line_is_read() -> None:
    line = request_of(b"GET /a%20b/?q HTTP/1.1\r\n" + joined(HOST)).line
    assert (line.method, line.target, line.version, line.http_10) == (b"GET", b"/a%20b/?q", b"1.1", False)
    assert line.location == Location(b"a b/", b"?q", hidden=False)


def test_a_target_that_names_nothing_is_kept_with_its_reason() -> None:
    location = request_of(b"GET /%2f HTTP/1.1\r\n" + joined(HOST)).line.location
    assert isinstance(location, TargetError)
    assert "encoded slash" in str(location)


def test_only_head_is_head() -> None:
    assert request_of(b"HEAD / HTTP/1.1\r\n" + joined(HOST)).is_head
    assert not request_of(b"GET / HTTP/1.1\r\n" + joined(HOST)).is_head
    assert not request_of(b"head / HTTP/1.1\r\n" + joined(HOST)).is_head  # RFC 9110 9.1: methods are case-sensitive


def test_the_fields_that_select_are_read() -> None:
    request = request_of(b"GET / HTTP/1.1\r\n" + BROWSER)
    block = request.block
    assert request.selection.conditions == Conditions(
        if_none_match=b'"v1"',
        if_modified_since=None,  # not heeded beside the other (RFC 9110 13.1.3)
        range=b"bytes=0-0",
        if_range=b'"v1"',
    )
    assert block.selection.accept_encoding == b"gzip, deflate, br, zstd"
    assert block.user_agent == b"Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
    assert block.referer == b"http://example.org/\xe9"
    assert block.plain


def test_each_condition_stands_in_its_own_place() -> None:
    names = ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "Range", "If-Range"]
    for unheeded in ("If-None-Match", "If-Modified-Since"):
        sent = [name for name in names if name != unheeded]
        head = b"GET / HTTP/1.1\r\n" + joined(HOST, *(f"{name}: {name} value".encode() for name in sent))
        expected = [f"{name} value".encode() if name in sent else None for name in names]
        assert request_of(head).selection.conditions == Conditions(*expected)


def test_fields_by_which_the_configuration_makes_no_difference_do_not_select() -> None:
    head = LINE + joined(
        b"Host: a", b"Authorization: Basic abc", b"Origin: https://b", b"Accept: c/d", b"Sec-Fetch-Mode: cors"
    )
    for heeded in itertools.chain.from_iterable(itertools.combinations(CONFIGURED_FIELDS, n) for n in range(6)):
        reader = new_reader(memory=Memory(heeded=heeded))
        reader.feed(head)
        request = reader.next_request()
        assert request is not None
        selection = request.block.selection
        selecting = (
            selection.host, selection.authorization, selection.origin, selection.accept, selection.fetch_mode
        )  # fmt: skip
        values = (b"a", b"Basic abc", b"https://b", b"c/d", b"cors")
        assert selecting == tuple(
            value if name in heeded else None for name, value in zip(CONFIGURED_FIELDS, values, strict=True)
        )


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ([], None),
        ([b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document"], b"navigate"),
        ([b"Sec-Fetch-Mode: no-cors"], b"no-cors"),
        ([b"Sec-Fetch-Dest: script"], b""),
        ([b"sec-fetch-site: none"], b""),
        ([b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Mode: navigate"], b"navigate, navigate"),
    ],
)
def test_any_field_that_says_what_is_fetched_counts(fields: list[bytes], mode: bytes | None) -> None:
    for memory, expected in ((Memory(heeded=(b"sec-fetch-mode",)), mode), (Memory(), None)):
        reader = new_reader(memory=memory)
        reader.feed(LINE + joined(HOST, *fields))
        request = reader.next_request()
        assert request is not None
        assert request.selection.fetch_mode == expected


@pytest.mark.parametrize(
    ("fields", "preflight"),
    [
        ([], None),
        ([b"Access-Control-Request-Headers: a"], None),
        ([b"Access-Control-Request-Method: PUT"], Preflight(b"PUT", None)),
        (
            [b"Access-Control-Request-Method: PUT", b"Access-Control-Request-Headers: a, b"],
            Preflight(b"PUT", b"a, b"),
        ),
    ],
)
def test_a_preflight_is_told_by_its_method(fields: list[bytes], preflight: Preflight | None) -> None:
    # https://fetch.spec.whatwg.org/, 3.3.2
    assert request_of(b"OPTIONS / HTTP/1.1\r\n" + joined(HOST, *fields)).block.preflight == preflight


def test_for_whom_a_proxy_asks_is_kept() -> None:
    block = request_of(LINE + joined(HOST, b"X-Forwarded-For: 192.0.2.1", b"Forwarded: for=192.0.2.2")).block
    assert (block.x_forwarded_for, block.forwarded) == (b"192.0.2.1", b"for=192.0.2.2")


def test_a_repeated_field_is_one_list() -> None:
    block = request_of(b"GET / HTTP/1.1\r\n" + joined(HOST, b'If-None-Match: "a"', b'if-none-match: "b"')).block
    assert block.selection.conditions.if_none_match == b'"a", "b"'  # RFC 9110 5.2


@pytest.mark.parametrize(
    ("version", "fields", "persistent", "says_keep_alive"),
    [
        (b"1.1", [], True, False),
        (b"1.1", [b"Connection: close"], False, False),
        (b"1.1", [b"Connection: CLOSE"], False, False),
        (b"1.1", [b"Connection: x, close\t,y"], False, False),
        (b"1.1", [b"Connection: x", b"Connection: close"], False, False),
        (b"1.1", [b"Connection: closed"], True, False),
        (b"1.1", [b"Connection: keep-alive"], True, False),
        (b"1.1", [b"Connection: upgrade", b"Upgrade: h2c"], True, False),
        (b"1.2", [], True, False),
        (b"1.0", [], False, False),
        (b"1.0", [b"Connection: Keep-Alive"], True, True),
        (b"1.0", [b"Connection: keep-alive, close"], False, True),
        (b"1.0", [b"Connection: close"], False, False),
        (b"1.0", [b"Connection: x"], False, False),
    ],
)
def test_persistence_follows_version_and_connection(
    version: bytes, fields: list[bytes], persistent: bool, says_keep_alive: bool
) -> None:
    block = request_of(b"GET / HTTP/" + version + b"\r\n" + joined(HOST, *fields)).block  # 9.3
    assert (block.persistent, block.says_keep_alive) == (persistent, says_keep_alive)
    assert block.plain is not says_keep_alive, "only who expects to be told that the connection stays needs more"


@pytest.mark.parametrize(
    ("fields", "has_body"),
    [
        ([], False),
        ([b"Content-Length: 0"], False),
        ([b"Content-Length: 000"], False),
        ([b"Content-Length: 0, 0"], False),
        ([b"Content-Length: 5"], True),
        ([b"Content-Length: 050"], True),
        ([b"Content-Length: 5, 5"], True),
        ([b"Content-Length: 5", b"Content-Length: 5"], True),
        ([b"Content-Length: 99999999999999999999"], True),
        ([b"Transfer-Encoding: chunked"], True),
        ([b"Transfer-Encoding: Chunked"], True),
    ],
)
def test_a_head_tells_whether_a_body_follows(fields: list[bytes], has_body: bool) -> None:
    block = request_of(b"POST / HTTP/1.1\r\n" + joined(HOST, *fields)).block  # RFC 9112 6.3
    assert block.has_body is has_body
    assert block.plain is not has_body


def test_an_expectation_makes_no_difference() -> None:
    # What it expects is an answer before the body, and the final one is that (RFC 9110 10.1.1).
    assert request_of(b"GET / HTTP/1.1\r\n" + joined(HOST, b"Expect: 100-Continue")).block.plain


@pytest.mark.parametrize(
    "host",
    [
        b"example.org", b"example.org:8080", b"example.org:", b"127.0.0.1", b"[::1]", b"[::ffff:1.2.3.4]:80", b"",
        b"a_b", b"xn--caf-dma.example", b"a%20b", b"!$&'()*+,;=~",
    ],
)  # fmt: skip
def test_a_host_that_names_a_host_is_taken(host: bytes) -> None:
    head = b"GET / HTTP/1.1\r\n" + joined(b"Host: " + host)
    assert request_of(head).line.target == b"/"
    assert status_of(head.replace(host + b"\r\n\r\n", host + b"/\r\n\r\n")) == 400


@pytest.mark.parametrize("head", GOOD)
@pytest.mark.parametrize("enabled", [True, False], ids=["memory", "no memory"])
def test_a_head_is_the_same_whole_and_byte_by_byte(head: bytes, enabled: bool) -> None:
    expected = [described(request_of(head))]
    assert outcomes(new_reader(memory=Memory(enabled)), head) == expected
    assert outcomes(new_reader(memory=Memory(enabled)), *byte_by_byte(head)) == expected


@pytest.mark.parametrize("head", GOOD)
def test_a_head_is_complete_only_with_its_last_byte(head: bytes) -> None:
    reader = new_reader()
    reader.feed(head[:-1])
    assert reader.next_request() is None
    assert reader.next_request() is None, "asking again changes nothing"
    assert reader.pending_bytes == len(head) - 1
    reader.feed(head[-1:])
    assert reader.next_request() is not None
    assert reader.pending_bytes == 0
    assert reader.next_request() is None


@pytest.mark.parametrize("head", GOOD)
@pytest.mark.parametrize("trailing", [b"G", b"GET /next HTTP/1.1\r\n", b"\x16\x03\x01", b"\n"])
def test_what_follows_a_head_is_left(head: bytes, trailing: bytes) -> None:
    reader = new_reader()
    reader.feed(head + trailing)
    request = reader.next_request()
    assert request is not None
    assert described(request) == described(request_of(head))
    assert reader.pending_bytes == len(trailing)


def test_pipelined_requests_come_in_their_order() -> None:
    assert outcomes(new_reader(), b"".join(GOOD)) == [described(request_of(head)) for head in GOOD]


@pytest.mark.parametrize("empty_lines", [b"\r\n", b"\r\n\r\n", b"\r\n" * 50])
def test_empty_lines_before_a_request_are_skipped(empty_lines: bytes) -> None:
    expected = [described(request_of(GOOD[0])), described(request_of(GOOD[1]))]  # 2.2
    assert outcomes(new_reader(), empty_lines + GOOD[0] + empty_lines + GOOD[1]) == expected
    assert outcomes(new_reader(), empty_lines, GOOD[0], empty_lines, GOOD[1]) == expected


def test_an_empty_line_before_a_request_may_come_in_two_pieces() -> None:
    expected = [described(request_of(GOOD[0]))]
    assert outcomes(new_reader(), b"\r", b"\n" + GOOD[0]) == expected
    assert outcomes(new_reader(), *byte_by_byte(b"\r\n\r\n" + GOOD[0])) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    heads=st.lists(st.sampled_from(GOOD), min_size=1, max_size=4),
    cuts=st.lists(st.integers(min_value=0, max_value=2000), max_size=12),
    enabled=st.booleans(),
)
def test_any_split_of_valid_heads_yields_the_same_requests(heads: list[bytes], cuts: list[int], enabled: bool) -> None:
    data = b"".join(heads)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    chunks = [data[start:end] for start, end in itertools.pairwise(edges)]
    reader = new_reader(memory=Memory(enabled))
    assert outcomes(reader, *chunks) == [described(request_of(head)) for head in heads]
    assert reader.pending_bytes == 0


def test_what_a_proxy_says_before_the_first_request_is_looked_at_and_skipped() -> None:
    reader = new_reader()
    preface = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"
    reader.feed(preface[:10])
    assert reader.peek() == preface[:10]
    reader.feed(preface[10:] + GOOD[0])
    assert reader.peek() == preface + GOOD[0], "to look takes nothing"
    reader.skip(len(preface))
    assert reader.peek() == GOOD[0]
    request = reader.next_request()
    assert request is not None
    assert described(request) == described(request_of(GOOD[0]))
    assert reader.peek() == b""


def test_what_is_skipped_is_not_searched_for_the_end_of_a_head() -> None:
    reader = new_reader()
    reader.feed(b"\r\n\r\n\0\r\n" + GOOD[0][:20])
    reader.skip(7)
    assert reader.next_request() is None
    reader.feed(GOOD[0][20:])
    assert reader.next_request() is not None


def test_nothing_is_no_request() -> None:
    reader = new_reader()
    assert reader.next_request() is None
    reader.feed(b"")
    assert reader.next_request() is None
    assert reader.pending_bytes == 0


# -- what is refused --------------------------------------------------------------------------------------------

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


@pytest.mark.parametrize(("head", "status"), REFUSED)
@pytest.mark.parametrize("enabled", [True, False], ids=["memory", "no memory"])
def test_an_ill_formed_head_is_refused_whole_byte_by_byte_and_with_trailing_data(
    head: bytes, status: int, enabled: bool
) -> None:
    assert outcomes(new_reader(memory=Memory(enabled)), head) == [status]
    assert outcomes(new_reader(memory=Memory(enabled)), *byte_by_byte(head)) == [status]
    assert outcomes(new_reader(memory=Memory(enabled)), head + GOOD[1]) == [status]
    assert outcomes(new_reader(memory=Memory(enabled)), GOOD[1] + head)[1:] == [status]


@pytest.mark.parametrize(("head", "status"), REFUSED)
def test_a_refused_head_is_refused_again_by_a_memory_that_saw_it(head: bytes, status: int) -> None:
    memory = Memory()
    for good in GOOD:
        assert len(outcomes(new_reader(memory=memory), good)) == 1
    for _again in range(2):
        assert outcomes(new_reader(memory=memory), head) == [status]


def test_a_reader_that_refused_takes_what_still_arrives() -> None:
    # A receive may complete while the error is being answered, with the exception and its frames still alive.
    reader = new_reader()
    reader.feed(b"GET / HTTP/1.1\n")
    with pytest.raises(RequestError) as refused:
        reader.next_request()
    reader.feed(b"Host: a\r\n\r\n")
    assert refused.value.status == 400
    assert reader.pending_bytes == len(b"GET / HTTP/1.1\nHost: a\r\n\r\n")


# -- limits -----------------------------------------------------------------------------------------------------


def head_with_target(length: int) -> bytes:
    return b"GET /" + b"a" * (length - 1) + b" HTTP/1.1\r\n" + joined(HOST)


def head_of_bytes(length: int) -> bytes:
    filler = length - len(LINE + joined(HOST, b"X: "))
    return LINE + joined(HOST, b"X: " + b"a" * filler)


@pytest.mark.parametrize("limits", [LIMITS, SMALL])
def test_a_target_up_to_its_limit_is_taken_and_one_byte_more_is_414(limits: Limits) -> None:
    longest = limits.target_bytes_max
    assert len(request_of(head_with_target(longest), limits).line.target) == longest
    assert status_of(head_with_target(longest + 1), limits) == 414
    assert status_of(head_with_target(longest + 500), limits) == 414
    assert outcomes(new_reader(limits), *byte_by_byte(head_with_target(longest + 1))) == [414]
    assert outcomes(new_reader(limits), *byte_by_byte(head_with_target(longest + 500))) == [414]


def test_a_request_line_without_end_is_refused_before_its_end() -> None:
    longest = SMALL.target_bytes_max + LONGEST_METHOD_AND_VERSION
    reader = new_reader(SMALL)
    reader.feed(b"GET /".ljust(longest, b"a"))
    assert reader.next_request() is None
    reader.feed(b"a")
    with pytest.raises(RequestError, match="request line is too long") as refused:
        reader.next_request()
    assert refused.value.status == 414


@pytest.mark.parametrize("limits", [LIMITS, SMALL])
def test_a_head_up_to_its_limit_is_taken_and_one_byte_more_is_431(limits: Limits) -> None:
    largest = limits.head_bytes_max
    assert len(head_of_bytes(largest)) == largest
    assert request_of(head_of_bytes(largest), limits).line.target == b"/"
    assert status_of(head_of_bytes(largest + 1), limits) == 431
    assert outcomes(new_reader(limits), *byte_by_byte(head_of_bytes(largest + 1))) == [431]


def test_a_head_without_end_is_refused_before_its_end() -> None:
    reader = new_reader(SMALL)
    reader.feed(LINE + b"X: ".ljust(SMALL.head_bytes_max - len(LINE), b"a"))
    assert reader.next_request() is None
    reader.feed(b"a")
    with pytest.raises(RequestError, match="head is too large") as refused:
        reader.next_request()
    assert refused.value.status == 431


def test_the_limits_hold_behind_an_earlier_request_too() -> None:
    assert outcomes(new_reader(SMALL), GOOD[0] + head_with_target(500))[1:] == [414]
    assert outcomes(new_reader(SMALL), GOOD[0] + head_of_bytes(401))[1:] == [431]
    assert len(outcomes(new_reader(SMALL), GOOD[0] * 100)) == 100, "the limit is of a head, not of what is pending"


@pytest.mark.parametrize("limits", [LIMITS, SMALL])
@pytest.mark.parametrize("name", [b"X", b"Cookie"])
def test_fields_up_to_their_limit_are_taken_and_one_more_is_431(limits: Limits, name: bytes) -> None:
    most = [HOST, *[name + b": a"] * (limits.fields_max - 1)]
    assert request_of(LINE + joined(*most), limits).line.target == b"/"
    assert status_of(LINE + joined(*most, name + b": a"), limits) == 431


def test_repeated_lengths_count_as_fields() -> None:
    # h11 hands over one Content-Length for any number of equal ones.
    assert status_of(LINE + joined(HOST, *[b"Content-Length: 0"] * SMALL.fields_max), SMALL) == 431


# -- bodies -----------------------------------------------------------------------------------------------------

LENGTH_10 = b"POST / HTTP/1.1\r\n" + joined(HOST, b"Content-Length: 10")
CHUNKED = b"POST / HTTP/1.1\r\n" + joined(HOST, b"Transfer-Encoding: chunked")
BODIES = [
    pytest.param(LENGTH_10 + b"0123456789", id="length"),
    pytest.param(LENGTH_10 + b"GET / HTTP", id="length, a body that looks like a head"),
    pytest.param(LENGTH_10 + b"\r\n\r\n\r\n\r\n\r\n", id="length, a body of line ends"),
    pytest.param(b"POST / HTTP/1.0\r\n" + joined(b"Content-Length: 3") + b"abc", id="length in HTTP/1.0"),
    pytest.param(b"GET / HTTP/1.1\r\n" + joined(HOST, b"Content-Length: 1") + b"\n", id="length on GET"),
    pytest.param(CHUNKED + b"0\r\n\r\n", id="chunked, empty"),
    pytest.param(CHUNKED + b"3\r\nabc\r\n00A\r\n0123456789\r\n0\r\n\r\n", id="chunked"),
    pytest.param(CHUNKED + b"3;name=value\r\nabc\r\n0;x\r\n\r\n", id="chunked, with extensions (7.1.1)"),
    pytest.param(CHUNKED + b"1\r\na\r\n0\r\nTrailer: x\r\nOther: y\r\n\r\n", id="chunked, with trailers (7.1.2)"),
    pytest.param(b"CONNECT a:1 HTTP/1.1\r\n" + joined(HOST, b"Content-Length: 2") + b"ab", id="length on CONNECT"),
    pytest.param(
        b"POST / HTTP/1.1\r\n" + joined(HOST, b"Connection: upgrade", b"Upgrade: h2c", b"Content-Length: 2") + b"ab",
        id="length with an upgrade",
    ),
]


@pytest.mark.parametrize("message", BODIES)
def test_a_request_is_known_by_its_head_before_its_body_has_come(message: bytes) -> None:
    head_bytes = message.index(b"\r\n\r\n") + 4
    expected = outcomes(new_reader(), message)
    assert len(expected) == 1
    assert outcomes(new_reader(), message[:head_bytes]) == expected
    assert outcomes(new_reader(), *byte_by_byte(message)) == expected


def test_a_head_with_a_body_is_remembered_as_others_are() -> None:
    for head in (LENGTH_10, CHUNKED):
        memory = Memory()
        assert remembered(memory, head).block is remembered(memory, head).block


# -- the memory -------------------------------------------------------------------------------------------------

LINES = [
    b"GET / HTTP/1.1\r\n",
    b"GET / HTTP/1.0\r\n",
    b"GET / HTTP/1.2\r\n",
    b"GET / HTTP/2.0\r\n",
    b"HEAD /a?b HTTP/1.1\r\n",
    b"POST /%2f HTTP/1.1\r\n",
    b"GET  / HTTP/1.1\r\n",
    b"GET / HTTP/1.1\n",
    b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n",
    b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n",
]
BLOCKS = [
    b"\r\n",
    joined(HOST),
    joined(b"Host: b"),
    joined(b"Host: a b"),
    joined(HOST, HOST),
    joined(b"Connection: keep-alive"),
    joined(HOST, b"Connection: keep-alive"),
    joined(HOST, b"Connection: close"),
    joined(HOST, b"Content-Length: 0"),
    joined(HOST, b"Content-Length: 4"),
    joined(b"Content-Length: 4"),
    joined(HOST, b"Transfer-Encoding: chunked"),
    joined(HOST, b"Content-Length: 4", b"Transfer-Encoding: chunked"),
    joined(HOST, b"X: a\r\n b"),
    joined(HOST, b"X: a\nY: b"),
    joined(HOST, b"Expect: 100-continue"),
    joined(HOST, *[b"X: a"] * 101),
    joined(HOST, b"Cookie: " + b"a" * 5000),
    BROWSER,
    # What is set apart (`set_apart`), and what only looks like it.
    joined(HOST, b'If-None-Match: "1"'),
    joined(HOST, b'If-None-Match: "2"'),
    joined(HOST, b'If-None-Match: "1" \t'),
    joined(HOST, b"If-None-Match: "),
    joined(b'If-None-Match: "1"', HOST),
    joined(HOST, b'If-None-Match: "1"', b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
    joined(HOST, b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT", b'If-None-Match: "2"', b"Accept: a"),
    joined(HOST, b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
    joined(HOST, b'If-None-Match: "1"', b"If-Modified-Since: a\0b"),
    joined(HOST, b'If-None-Match: "1"', b"If-Modified-Since: a\rb"),
    joined(HOST, b'If-None-Match: "1"', b"If-Modified-Since: a", b"If-Modified-Since: b"),
    joined(HOST, b'If-None-Match: "1"', b"if-modified-since: b"),
    joined(HOST, b'If-None-Match: "1"', b'If-None-Match: "2"'),
    joined(HOST, b'If-None-Match: "1"', b'if-none-match: "2"'),
    joined(HOST, b'if-none-match: "2"'),
    joined(HOST, b"If-None-Match: a\0b"),
    joined(HOST, b'If-None-Match: "1"', b"Content-Length: 3"),
    joined(HOST, b'If-None-Match: "1"', b"Connection: close"),
    joined(HOST, b'If-None-Match: "1"', *[b"X: a"] * 98),
    joined(HOST, b'If-None-Match: "1"', *[b"X: a"] * 99),
    joined(HOST, b'If-None-Match: "1"', b"If-Modified-Since: b", *[b"X: a"] * 97),
    joined(HOST, b'If-None-Match: "1"', b"If-Modified-Since: b", *[b"X: a"] * 98),
    joined(HOST, *[b"X: a"] * 98),
    joined(HOST, *[b"X: a"] * 99),
    joined(HOST, b'If-None-Match: "' + b"1" * 200 + b'"'),
    joined(HOST, b"Range: bytes=0-1"),
    joined(HOST, b"Range: bytes=0-1", b"Range: bytes=2-3"),
    joined(HOST, b"Range: bytes=0-1", b"range: bytes=2-3"),
    joined(HOST, b"Range: bytes=0-1", b'If-Range: "1"', b'If-None-Match: "2"', b"If-Modified-Since: b"),
    joined(HOST, b'If-Range: "1"', b"If-Modified-Since: b"),
    joined(HOST, b"Range:  bytes=0-1"),
    joined(HOST, b"Range: a\x7fb"),
    joined(HOST, b"Range: a\x80b"),
    joined(HOST, b"Range: bytes=0-1", *[b"X: a"] * 99),
]
HEADS = [line + block for line, block in itertools.product(LINES, BLOCKS)]


def first_outcome(memory: Memory, head: bytes) -> Outcome:
    reader = new_reader(memory=memory)
    (outcome,) = outcomes(reader, head)
    return outcome


EXPECTED = {head: first_outcome(Memory(enabled=False), head) for head in HEADS}


@pytest.mark.parametrize("backwards", [False, True])
def test_remembered_halves_never_change_what_a_head_means(backwards: bool) -> None:
    memory = Memory()
    for head in [*HEADS, *HEADS][:: -1 if backwards else 1]:
        assert first_outcome(memory, head) == EXPECTED[head], head[:80]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(BLOCKS)), min_size=1, max_size=12))
def test_whatever_was_seen_before_the_memory_answers_as_h11_would(halves: list[tuple[bytes, bytes]]) -> None:
    memory = Memory()
    for line, block in halves:
        outcome = first_outcome(memory, line + block)
        assert outcome == EXPECTED[line + block]
        if isinstance(outcome, tuple):
            parser = h11.Connection(h11.SERVER, max_incomplete_event_size=LIMITS.head_bytes_max)
            parser.receive_data(line + block)
            event = parser.next_event()
            assert isinstance(event, h11.Request), "what is accepted, h11 accepts"
            assert outcome[:3] == (event.method, event.target, event.http_version)


def test_a_block_without_host_that_http_1_0_may_have_is_not_taken_for_http_1_1() -> None:
    memory = Memory()
    reader = new_reader(memory=memory)
    block = joined(b"Connection: keep-alive")
    assert outcomes(reader, b"GET / HTTP/1.1\r\n" + joined(HOST)) == [described(request_of(GOOD[0]))]
    assert len(outcomes(reader, b"GET / HTTP/1.0\r\n" + block)) == 1
    for version in (b"1.1", b"1.2"):
        assert outcomes(new_reader(memory=memory), b"GET / HTTP/" + version + b"\r\n" + block) == [400]


def test_a_block_means_something_else_in_another_version() -> None:
    memory = Memory()
    block = joined(HOST)
    for _again in range(2):
        persistent = {}
        for version in (b"1.0", b"1.1"):
            reader = new_reader(memory=memory)
            reader.feed(b"GET / HTTP/" + version + b"\r\n" + block)
            request = reader.next_request()
            assert request is not None
            persistent[version] = request.block.persistent
        assert persistent == {b"1.0": False, b"1.1": True}


def remembered(memory: Memory, head: bytes) -> Request:
    reader = new_reader(memory=memory)
    reader.feed(head)
    request = reader.next_request()
    assert request is not None
    return request


def test_both_halves_of_a_head_are_remembered() -> None:
    memory = Memory()
    first = remembered(memory, GOOD[1])
    again = remembered(memory, GOOD[1])
    assert again.line is first.line
    assert again.block is first.block
    line_end = GOOD[1].find(b"\r\n") + 2
    assert memory.lines.young[GOOD[1][:line_end]] is first.line
    assert first.line.blocks is memory.blocks(http_10=False)
    apart = set_apart(GOOD[1][line_end:])
    assert apart is not None
    assert first.line.blocks.young[apart[0]] is first.block


def test_a_known_line_is_the_same_object_with_a_new_block() -> None:
    memory = Memory()
    first = remembered(memory, GOOD[0])
    second = remembered(memory, LINE + joined(HOST, b"Cookie: a"))
    assert second.line is first.line, "what is prepared for it is found again"
    assert second.block is not first.block


def test_a_known_block_serves_another_line() -> None:
    memory = Memory()
    first = remembered(memory, GOOD[0])
    assert remembered(memory, b"GET /other HTTP/1.1\r\n" + joined(HOST)).block is not first.block, "the line was new"
    third = remembered(memory, b"GET /other HTTP/1.1\r\n" + joined(HOST, b"Cookie: a"))
    assert remembered(memory, b"GET / HTTP/1.1\r\n" + joined(HOST, b"Cookie: a")).block is third.block


def test_selections_that_are_equal_are_one_object() -> None:
    memory = Memory()
    first = remembered(memory, LINE + joined(HOST, b"Accept: a", b"Cookie: 1"))
    second = remembered(memory, LINE + joined(b"Accept: a", HOST, b"Cookie: 2", b"User-Agent: b"))
    other = remembered(memory, LINE + joined(HOST, b"Accept-Encoding: a", b"Cookie: 1"))
    assert first.block is not second.block
    assert first.block.selection is second.block.selection
    assert other.block.selection is not first.block.selection


def test_fields_that_select_and_are_too_long_are_nobodys_again() -> None:
    # A request line keeps responses by selection: were these kept, 16,384 lines could hold 8 heads of 32 KiB each.
    memory = Memory()
    kept = remembered(memory, GOOD[0])
    block = joined(HOST, b"Accept-Encoding: " + b"a" * SELECTION_BYTES_MAX)
    for _again in range(2):
        long = remembered(memory, LINE + block)
        assert not long.block.selection.is_shared
        assert long.line is not kept.line, "whatever is kept with this line goes with it"
    assert memory.lines.get(LINE) is kept.line
    assert memory.blocks(http_10=False).get(block) is None
    assert remembered(memory, GOOD[0]).block.selection.is_shared


def test_entity_tags_that_are_too_long_are_not_set_apart() -> None:
    memory = Memory()
    kept = remembered(memory, GOOD[0])
    for length, key_is_kept in ((APART_BYTES_MAX, True), (APART_BYTES_MAX + 1, True), (SELECTION_BYTES_MAX, False)):
        tags = b'"%s"' % (b"a" * (length - 2))
        request = remembered(memory, LINE + joined(HOST, b"If-None-Match: " + tags))
        assert request.selection.conditions.if_none_match == tags
        assert (request.apart is None) is (length > APART_BYTES_MAX)
        assert (request.line is kept.line) is key_is_kept


def test_other_fields_may_be_as_long_as_a_block() -> None:
    memory = Memory()
    request = remembered(memory, LINE + joined(HOST, b"Cookie: " + b"a" * SELECTION_BYTES_MAX))
    assert request.block.selection is remembered(memory, GOOD[0]).block.selection
    long = remembered(memory, LINE + joined(HOST, b"Cookie: " + b"a" * REMEMBERED_BYTES_MAX))
    assert long.line is request.line, "what is prepared for it is found, though its head is parsed"


def test_a_browser_that_asks_about_another_copy_needs_no_parser() -> None:
    memory = Memory()
    plain = remembered(memory, LINE + joined(HOST, b"Cookie: a"))
    other = b"GET /other HTTP/1.1\r\n"
    remembered(memory, other + joined(HOST))
    fields = [HOST, b"Cookie: a", b"If-Modified-Since: b", b'If-None-Match: "2"']
    assert memory.join(memory.lines.young[other], joined(*fields), 1000) == (plain.block, (b'"2"', None, None))
    request = remembered(memory, other + joined(*fields))
    assert request.block is plain.block
    assert request.key == (plain.block.selection, (b'"2"', None, None))
    assert request.selection.conditions == Conditions(if_none_match=b'"2"')
    part = remembered(memory, other + joined(HOST, b"Range: bytes=5-", b"Cookie: a", b'If-Range: "2"'))
    assert part.block is plain.block
    assert part.selection.conditions == Conditions(range=b"bytes=5-", if_range=b'"2"')


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(APART_NAMES[:-1]), st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7F)))
def test_what_is_set_apart_is_read_as_h11_reads_it(name: bytes, text: str) -> None:
    block = HOST + name + text.encode() + b"\r\n\r\n"
    apart = set_apart(block)
    if apart is None:
        return
    selections = []
    for enabled in (True, False):
        memory = Memory(enabled)
        if enabled:
            remembered(memory, LINE + joined(HOST))
        selections.append(remembered(memory, LINE + block).selection.conditions)
    assert selections[0] == selections[1]
    assert text.encode() in apart[1]


def test_the_range_that_was_asked_for_is_known_wherever_it_is_kept() -> None:
    memory = Memory()
    assert remembered(memory, LINE + joined(HOST, b"Range: bytes=5-")).asked_range == b"bytes=5-"
    assert remembered(memory, LINE + joined(HOST, b"range: bytes=5-")).asked_range == b"bytes=5-"
    assert remembered(memory, LINE + joined(HOST)).asked_range is None


@pytest.mark.parametrize("name", APART_NAMES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(b"Host: a\r\n", b"\r\n", id="a field behind the end of the head"),
        pytest.param(b"Host: a\r\n\r", b"\n", id="a line that does not end"),
        pytest.param(b"Host: a", b"\r\n", id="no end of the head"),
        pytest.param(b"Host: a\r\n", b"\r\n\r\n", id="a head behind the end of the head"),
    ],
)
def test_what_is_no_head_is_not_made_one_by_taking_a_field_out(name: bytes, before: bytes, after: bytes) -> None:
    # Seen: what was pipelined behind a request was taken for a field of it.
    memory = Memory()
    request = remembered(memory, LINE + joined(b"Host: a"))
    block = before + name + b'"1"' + after
    assert memory.join(request.line, block, 1000) is None
    reader = RequestReader(memory, LIMITS)
    fresh = RequestReader(Memory(enabled=False), LIMITS)
    assert outcomes(reader, LINE + block) == outcomes(fresh, LINE + block)


def test_what_is_joined_is_no_longer_than_a_head_may_be() -> None:
    memory = Memory()
    block = joined(HOST, b'If-None-Match: "1"')
    line = remembered(memory, LINE + block).line
    remembered(memory, LINE + joined(HOST))
    assert memory.join(line, block, len(block)) is not None
    assert memory.join(line, block, len(block) - 1) is None


def test_an_absent_field_is_not_an_empty_one() -> None:
    memory = Memory()
    absent = remembered(memory, LINE + joined(HOST)).block.selection
    empty = remembered(memory, LINE + joined(HOST, b"If-None-Match:")).block.selection
    assert (absent.conditions.if_none_match, empty.conditions.if_none_match) == (None, b"")


def test_nothing_is_remembered_when_memory_is_off() -> None:
    memory = Memory(enabled=False)
    first = remembered(memory, GOOD[1])
    assert remembered(memory, GOOD[1]).line is not first.line
    assert not memory.lines.young
    assert not memory.blocks(http_10=False).young


@pytest.mark.parametrize(("head", "_status"), REFUSED)
def test_a_refused_head_is_not_remembered(head: bytes, _status: int) -> None:
    memory = Memory()
    outcomes(new_reader(memory=memory), head)
    assert not memory.lines.young
    assert not memory.blocks(http_10=False).young
    assert not memory.blocks(http_10=True).young


def test_a_half_that_is_too_long_is_parsed_each_time() -> None:
    memory = Memory()
    long_line = b"GET /" + b"a" * REMEMBERED_BYTES_MAX + b" HTTP/1.1\r\n"
    long_block = joined(HOST, b"Cookie: " + b"a" * REMEMBERED_BYTES_MAX)
    remembered(memory, long_line + joined(HOST))
    remembered(memory, LINE + long_block)
    assert list(memory.lines.young) == [LINE]
    assert list(memory.blocks(http_10=False).young) == [joined(HOST)]


def test_a_value_is_remembered_until_two_generations_have_passed() -> None:
    memory: Remembered[int] = Remembered(2)
    memory.put(b"a", 1)
    memory.put(b"b", 2)
    assert memory.get(b"a") == 1
    memory.put(b"c", 3)
    assert list(memory.young) == [b"c"]
    memory.put(b"d", 4)
    memory.put(b"e", 5)
    assert memory.get(b"a") is None
    assert memory.get(b"b") is None
    assert [memory.get(key) for key in (b"c", b"d", b"e")] == [3, 4, 5]


def test_a_value_that_is_used_becomes_young_again() -> None:
    memory: Remembered[int] = Remembered(2)
    for number in range(50):
        memory.put(b"%d" % number, number)
        memory.put(b"kept", -1) if number == 0 else None
        assert memory.get(b"kept") == -1
        assert len(memory.young) <= 2
    assert memory.get(b"0") is None


def test_a_key_that_is_too_long_is_not_remembered() -> None:
    memory: Remembered[int] = Remembered(2)
    memory.put(b"a" * REMEMBERED_BYTES_MAX, 1)
    memory.put(b"b" * (REMEMBERED_BYTES_MAX + 1), 2)
    assert list(memory.young) == [b"a" * REMEMBERED_BYTES_MAX]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(min_value=0, max_value=20), max_size=60), st.integers(min_value=1, max_value=4))
def test_a_remembered_value_is_never_another_keys(keys: list[int], entries_max: int) -> None:
    memory: Remembered[int] = Remembered(entries_max)
    for key in keys:
        value = memory.get(b"%d" % key)
        assert value in (None, key)
        if value is None:
            memory.put(b"%d" % key, key)
        assert memory.get(b"%d" % key) == key
        assert len(memory.young) <= entries_max


# -- what a head can cost ---------------------------------------------------------------------------------------


def test_fields_are_counted_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each costs h11 some microseconds, and a head has room for 6,000.
    monkeypatch.setattr(h11, "Connection", lambda *_args, **_settings: pytest.fail("it was parsed"))
    assert outcomes(new_reader(), LINE + joined(HOST, *[b"a:"] * 6000)) == [431]


@pytest.mark.parametrize(
    ("value", "persistent"),
    [
        (b"close", False),
        (b"CLOSE", False),
        (b"a, close ,b", False),
        (b"a,\tclose", False),
        (b"close,", False),
        (b"a,,close", False),
        (b"closed", True),
        (b"a close", True),
        (b"close a", True),
        (b"enclose", True),
        (b'"close"', True),
        (b"", True),
        (b"keep-alive", True),
    ],
)
def test_an_option_of_connection_is_a_whole_member(value: bytes, persistent: bool) -> None:
    assert request_of(LINE + joined(HOST, b"Connection: " + value)).block.persistent is persistent
    http_10 = b"GET / HTTP/1.0\r\n"
    block = request_of(http_10 + joined(b"Connection: " + value.lower().replace(b"close", b"Keep-Alive"))).block
    assert block.persistent is block.says_keep_alive is (not persistent or value == b"keep-alive")
