"""From bytes to requests: what is read, what is refused, and that the memory never changes either.

Cases run whole, byte by byte, and with trailing data. Sections are of RFC 9112 unless said.
"""

from __future__ import annotations

import itertools

import h11
import pytest
from heads_cases import (
    BROWSER,
    CHUNKED,
    GOOD,
    HOST,
    LENGTH_10,
    LIMITS,
    LINE,
    REFUSED,
    SMALL,
    byte_by_byte,
    described,
    joined,
    new_memory,
    new_reader,
    outcomes,
    request_of,
    status_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.http.heads import CONFIGURED_FIELDS, Preflight, told_of
from ringserve.http.request import LONGEST_METHOD_AND_VERSION, Limits, RequestError
from ringserve.http.semantics import Conditions, Location, TargetError

# -- what is read -----------------------------------------------------------------------------------------------


def test_a_request_line_is_read() -> None:
    line = request_of(b"GET /a%20b/?q HTTP/1.1\r\n" + joined(HOST)).line
    assert (line.method, line.target, line.version, line.http_10) == (b"GET", b"/a%20b/?q", b"1.1", False)
    assert line.location == Location(b"a b/", hidden=False)
    assert not line.query_heeded
    assert line.query == b"?q"
    assert line.query_heeded


def test_a_target_that_names_nothing_is_kept_with_its_reason() -> None:
    location = request_of(b"GET /%2f HTTP/1.1\r\n" + joined(HOST)).line.location
    assert isinstance(location, TargetError)
    assert "encoded slash" in str(location)


def test_a_fragment_is_refused_in_a_path_and_in_a_query() -> None:
    for target in (b"/a#b", b"/a?b#c"):
        assert isinstance(request_of(b"GET " + target + b" HTTP/1.1\r\n" + joined(HOST)).line.location, TargetError)


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
    assert told_of(BROWSER).user_agent == b"Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"
    assert told_of(BROWSER).referer == b"http://example.org/\xe9"
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
        reader = new_reader(memory=new_memory(heeded=heeded))
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
    for memory, expected in ((new_memory(heeded=(b"sec-fetch-mode",)), mode), (new_memory(), None)):
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
    fields = HOST, b"X-Forwarded-For: 192.0.2.1", b"x-forwarded-FOR: \t192.0.2.2 "
    assert request_of(LINE + joined(*fields)).told.x_forwarded_for == b"192.0.2.1, 192.0.2.2"


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
    assert outcomes(new_reader(memory=new_memory(enabled=enabled)), head) == expected
    assert outcomes(new_reader(memory=new_memory(enabled=enabled)), *byte_by_byte(head)) == expected


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
    reader = new_reader(memory=new_memory(enabled=enabled))
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


@pytest.mark.parametrize(("head", "status"), REFUSED)
@pytest.mark.parametrize("enabled", [True, False], ids=["memory", "no memory"])
def test_an_ill_formed_head_is_refused_whole_byte_by_byte_and_with_trailing_data(
    head: bytes, status: int, enabled: bool
) -> None:
    assert outcomes(new_reader(memory=new_memory(enabled=enabled)), head) == [status]
    assert outcomes(new_reader(memory=new_memory(enabled=enabled)), *byte_by_byte(head)) == [status]
    assert outcomes(new_reader(memory=new_memory(enabled=enabled)), head + GOOD[1]) == [status]
    assert outcomes(new_reader(memory=new_memory(enabled=enabled)), GOOD[1] + head)[1:] == [status]


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
