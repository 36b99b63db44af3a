"""What is remembered of requests, and that it never changes an answer. Sections are of RFC 9112 unless said."""

from __future__ import annotations

import itertools

import h11
import pytest
from fakes import PinnedBytes
from heads_cases import (
    BROWSER,
    CHUNKED,
    GOOD,
    HOST,
    LENGTH_10,
    LIMITS,
    LINE,
    REFUSED,
    Outcome,
    described,
    joined,
    new_memory,
    new_reader,
    outcomes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.connection.prepared import PREPARED_PER_PATH_MAX, Prepared, PreparedResponses, Renderings
from ringserve.connection.remembered import (
    KEY_BYTES_MAX,
    PREPARED_PER_LINE_MAX,
    SELECTION_BYTES_MAX,
    Memory,
    Remembered,
    key_of,
    request_of,
)
from ringserve.files.entries import Entry, Key
from ringserve.http.heads import (
    APART_BYTES_MAX,
    APART_NAMES,
    CONFIGURED_FIELDS,
    PLAIN_LINE,
    Request,
    set_apart,
    sieve,
    told_of,
)
from ringserve.http.response import Response, head_parts
from ringserve.http.semantics import Conditions


def test_a_head_with_a_body_is_remembered_as_others_are() -> None:
    for head in (LENGTH_10, CHUNKED):
        memory = new_memory()
        assert remembered(memory, head).block is remembered(memory, head).block


@pytest.mark.parametrize(("head", "status"), REFUSED)
def test_a_refused_head_is_refused_again_by_a_memory_that_saw_it(head: bytes, status: int) -> None:
    memory = new_memory()
    for good in GOOD:
        assert len(outcomes(new_reader(memory=memory), good)) == 1
    for _again in range(2):
        assert outcomes(new_reader(memory=memory), head) == [status]


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


EXPECTED = {head: first_outcome(new_memory(enabled=False), head) for head in HEADS}


@pytest.mark.parametrize("backwards", [False, True])
def test_remembered_halves_never_change_what_a_head_means(backwards: bool) -> None:
    memory = new_memory()
    for head in [*HEADS, *HEADS][:: -1 if backwards else 1]:
        assert first_outcome(memory, head) == EXPECTED[head], head[:80]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from(BLOCKS)), min_size=1, max_size=12))
def test_whatever_was_seen_before_the_memory_answers_as_h11_would(halves: list[tuple[bytes, bytes]]) -> None:
    memory = new_memory()
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
    memory = new_memory()
    reader = new_reader(memory=memory)
    block = joined(b"Connection: keep-alive")
    assert outcomes(reader, b"GET / HTTP/1.1\r\n" + joined(HOST)) == [described(remembered(new_memory(), GOOD[0]))]
    assert len(outcomes(reader, b"GET / HTTP/1.0\r\n" + block)) == 1
    for version in (b"1.1", b"1.2"):
        assert outcomes(new_reader(memory=memory), b"GET / HTTP/" + version + b"\r\n" + block) == [400]


def test_a_block_means_something_else_in_another_version() -> None:
    memory = new_memory()
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
    return request_of(memory.read(head))


def test_both_halves_of_a_head_are_remembered() -> None:
    memory = new_memory()
    browser = b"GET /a/b HTTP/1.1\r\n" + BROWSER
    first = remembered(memory, browser)
    again = remembered(memory, browser)
    assert again.line is first.line
    assert again.block is first.block
    line_bytes, _end, block_bytes = browser.partition(b"\n")
    line = memory.lines.recent[line_bytes]
    assert line.line is first.line
    assert line.blocks is memory.blocks
    apart = set_apart(b"".join(sieve()(block_bytes)))
    assert apart is not None
    assert line.blocks.sifted.recent[apart[0]].block is first.block


def test_a_known_line_is_the_same_object_with_a_new_block() -> None:
    memory = new_memory()
    first = remembered(memory, GOOD[0])
    second = remembered(memory, LINE + joined(HOST, b"Cookie: a"))
    assert second.line is first.line, "what is prepared for it is found again"
    assert second.block is first.block
    assert remembered(memory, LINE + joined(HOST, b"Accept-Encoding: a")).block is not first.block


def test_a_line_that_has_grown_old_is_recalled() -> None:
    memory = new_memory()
    memory.lines = Remembered(2, 1)
    first = remembered(memory, GOOD[0])
    remembered(memory, b"GET /other HTTP/1.1\r\n" + joined(HOST))
    assert LINE[:-1] not in memory.lines.recent
    head = memory.recall(GOOD[0])
    assert head is not None
    assert request_of(head).line is first.line


def test_a_known_block_serves_another_line() -> None:
    memory = new_memory()
    first = remembered(memory, GOOD[0])
    assert remembered(memory, b"GET /other HTTP/1.1\r\n" + joined(HOST)).block is first.block
    assert remembered(memory, b"PUT /other HTTP/1.1\r\n" + joined(HOST)).block is not first.block, "h11 read it"


def test_selections_that_are_equal_are_one_object() -> None:
    memory = new_memory()
    first = remembered(memory, LINE + joined(HOST, b"Accept: a", b"Cookie: 1"))
    second = remembered(memory, LINE + joined(b"Connection: a", HOST, b"Cookie: 2", b"User-Agent: b"))
    other = remembered(memory, LINE + joined(HOST, b"Accept-Encoding: a", b"Cookie: 1"))
    assert first.block is not second.block
    assert first.block.selection is second.block.selection
    assert other.block.selection is not first.block.selection


def test_fields_that_select_and_are_too_long_are_nobodys_again() -> None:
    # A request line keeps responses by selection: were these kept, 16,384 lines could hold 8 heads of 32 KiB each.
    memory = new_memory()
    kept = remembered(memory, GOOD[0])
    block = joined(HOST, b"Accept-Encoding: " + b"a" * SELECTION_BYTES_MAX)
    for _again in range(2):
        long = remembered(memory, LINE + block)
        assert long.block.selection is not remembered(memory, LINE + block).block.selection
        assert long.line is not kept.line, "whatever is kept with this line goes with it"
    line = memory.lines.get(LINE[:-1])
    assert line is not None
    assert line.line is kept.line
    assert memory.blocks.sifted.get(block) is None
    assert remembered(memory, GOOD[0]).block.selection is kept.block.selection


def test_entity_tags_that_are_too_long_are_not_set_apart() -> None:
    memory = new_memory()
    kept = remembered(memory, GOOD[0])
    for length, key_is_kept in ((APART_BYTES_MAX, True), (APART_BYTES_MAX + 1, True), (SELECTION_BYTES_MAX, False)):
        tags = b'"%s"' % (b"a" * (length - 2))
        request = remembered(memory, LINE + joined(HOST, b"If-None-Match: " + tags))
        assert request.selection.conditions.if_none_match == tags
        assert (request.apart is None) is (length > APART_BYTES_MAX)
        assert (request.line is kept.line) is key_is_kept


def test_other_fields_may_be_as_long_as_a_block() -> None:
    memory = new_memory()
    request = remembered(memory, LINE + joined(HOST, b"Cookie: " + b"a" * SELECTION_BYTES_MAX))
    assert request.block.selection is remembered(memory, GOOD[0]).block.selection
    for _again in range(3):
        long = remembered(memory, LINE + joined(HOST, b"Cookie: " + b"a" * KEY_BYTES_MAX))
        assert long.line is request.line, "what is prepared for it is found"
    assert not memory.blocks.whole.recent


def test_a_browser_that_asks_about_another_copy_needs_no_parser() -> None:
    memory = new_memory()
    plain = remembered(memory, LINE + joined(HOST, b"Cookie: a"))
    other = b"GET /other HTTP/1.1\r\n"
    remembered(memory, other + joined(HOST))
    fields = [HOST, b"Cookie: a", b"If-Modified-Since: b", b'If-None-Match: "2"']
    for _again in range(3):
        head = memory.recall(other + joined(*fields))
        assert head is not None
        request = request_of(head)
        assert (request.block, request.apart) == (plain.block, (b'"2"', None, None))
        assert key_of(head) == (plain.block.selection, (b'"2"', None, None))
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
        memory = new_memory(enabled=enabled)
        if enabled:
            remembered(memory, LINE + joined(HOST))
        selections.append(remembered(memory, LINE + block).selection.conditions)
    assert selections[0] == selections[1]
    assert text.encode() in apart[1]


def test_the_range_that_was_asked_for_is_known_wherever_it_is_kept() -> None:
    memory = new_memory()
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
    memory = new_memory()
    remembered(memory, LINE + joined(b"Host: a"))
    block = before + name + b'"1"' + after
    assert memory.recall(LINE + block) is None
    reader = new_reader(memory=memory)
    fresh = new_reader(memory=new_memory(enabled=False))
    assert outcomes(reader, LINE + block) == outcomes(fresh, LINE + block)


def test_what_is_joined_is_no_longer_than_a_head_may_be() -> None:
    head = LINE + joined(HOST, b'If-None-Match: "1"')
    for head_bytes_max, is_recalled in ((len(head), True), (len(head) - 1, False)):
        memory = new_memory(limits=LIMITS._replace(head_bytes_max=head_bytes_max))
        remembered(memory, LINE + joined(HOST))
        assert (memory.recall(head) is not None) is is_recalled


def test_an_absent_field_is_not_an_empty_one() -> None:
    memory = new_memory()
    absent = remembered(memory, LINE + joined(HOST)).block.selection
    empty = remembered(memory, LINE + joined(HOST, b"If-None-Match:")).block.selection
    assert (absent.conditions.if_none_match, empty.conditions.if_none_match) == (None, b"")


# -- what decides nothing ---------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        b"Host", b"hOST", b"Connection", b"Content-Length", b"Transfer-Encoding", b"Expect", b"Upgrade", b"Range",
        b"Accept-Encoding", b"If-None-Match", b"Accept", b"Origin", b"Authorization", b"Sec-Fetch-Mode", b"Cookie",
        b"X-Request-Id", b"User-Agent", b"Referer", b"X-Forwarded-For", b"Hostx", b"Ho", b"x", b"Keep-Alive", b"Te",
        b"Content-Lengthy", b"X:Host", b"", b"X ", b"X\t", b" X", b"\xe9", b"a(b", b"Host ", b"$~^", b"accept-encodin",
    ]
)  # fmt: skip
VALUES = st.sampled_from(
    [
        b"a", b"", b" ", b"a b", b"\ta\t", b"close", b"0", b"1", b"chunked", b"caf\xc3\xa9", b"\xff", b"a:b", b"\0",
        b"a\rb", b"a\nb", b"a\r\n b", b"\x0b", b"a\x7fb", b"a\x1fb", b"192.0.2.1", b"a" * 300, b"\r", b"a\r\nHost: b",
    ]
)  # fmt: skip
FIELDS = st.tuples(NAMES, st.sampled_from([b":", b": ", b":\t", b" :", b""]), VALUES).map(b"".join)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"\r\n\r\n", b"\r\n\r\nX: y\r\n"])
BLOCKS_OF_FIELDS = st.builds(
    lambda fields, ends, last: b"".join(field + end for field, end in zip(fields, ends, strict=False)) + last,
    st.lists(FIELDS | st.just(HOST), max_size=8),
    st.lists(st.just(b"\r\n") | ENDS, min_size=8, max_size=8),
    st.sampled_from([b"\r\n", b"\r\n", b"\n", b"", b"\r\nGET / HTTP/1.1\r\n\r\n"]),
)
PLAIN = [HOST, b"Connection: close", b"Accept-Encoding: gzip", b"Content-Length: 1", b"Transfer-Encoding: chunked"]
THOROUGH = settings(max_examples=500, deadline=None, derandomize=True)


def knowing_memory(heeded: tuple[bytes, ...] = ()) -> Memory:
    """One that knows what plain fields lead to, in every order that tests come upon."""
    memory = new_memory(heeded)
    for count in range(4):
        for fields in itertools.permutations(PLAIN, count):
            for version in (b"1.0", b"1.1"):
                outcomes(new_reader(memory=memory), b"GET / HTTP/" + version + b"\r\n" + joined(*fields))
    return memory


KNOWING: dict[tuple[bytes, ...], Memory] = {heeded: knowing_memory(heeded) for heeded in ((), CONFIGURED_FIELDS)}


@pytest.mark.parametrize("heeded", KNOWING)
@THOROUGH
@given(line=st.sampled_from([LINE, b"HEAD /a?b HTTP/1.1\r\n", b"GET / HTTP/1.0\r\n"]), block=BLOCKS_OF_FIELDS)
def test_h11_takes_each_head_that_is_taken_without_it_and_reads_the_same(
    heeded: tuple[bytes, ...], line: bytes, block: bytes
) -> None:
    recalled = KNOWING[heeded].recall(line + block)
    if recalled is None:
        return
    fresh = new_memory(heeded, enabled=False)
    assert outcomes(new_reader(memory=fresh), line + block) == [described(request_of(recalled))]


def test_the_test_of_what_h11_takes_sees_some_that_were_taken_without_it() -> None:
    memory = KNOWING[()]
    head = LINE + joined(b"X-Request-Id: 1", HOST, b"Cookie: \xe9", b"Hostx: b", b"Accept-Encoding: gzip", b"$~^:")
    assert memory.recall(head) is not None
    assert memory.recall(head.replace(b"Hostx", b"Host")) is None


@THOROUGH
@given(
    st.one_of(
        st.builds(
            b"%s %s HTTP/%s".__mod__,
            st.tuples(
                st.sampled_from([b"GET", b"HEAD", b"PUT", b"get", b"GET "]),
                st.binary(max_size=6) | st.sampled_from([b"/", b"/a?b", b"/%2f", b"/a#b", b"*", b"http://a/", b"/a b"]),
                st.sampled_from([b"1.1", b"1.0", b"1.1 ", b"2.0"]),
            ),
        ),
        st.binary(max_size=12),
    )
)
def test_h11_takes_each_request_line_that_is_taken_without_it(line: bytes) -> None:
    memory = new_memory()
    remembered(memory, LINE + joined(HOST))
    head = line + b"\r\n" + joined(HOST)
    recalled = memory.recall(head)
    if recalled is None:
        return
    assert PLAIN_LINE.fullmatch(line + b"\r")
    assert outcomes(new_reader(memory=new_memory(enabled=False)), head) == [described(request_of(recalled))]


@THOROUGH
@given(st.lists(FIELDS, max_size=6))
def test_what_a_block_tells_is_what_h11_reads_in_it(fields: list[bytes]) -> None:
    head = LINE + joined(HOST, *fields)
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError:
        return
    if not isinstance(event, h11.Request) or not isinstance(outcomes(new_reader(), head)[0], tuple):
        return
    wanted = []
    for name in (b"host", b"referer", b"user-agent", b"x-forwarded-for"):
        values = [value for known, value in event.headers if known == name]
        wanted.append(b", ".join(values) if values else None)
    assert list(told_of(joined(HOST, *fields))) == wanted


def test_a_request_that_differs_in_what_decides_nothing_is_not_parsed() -> None:
    memory = new_memory()
    first = remembered(memory, LINE + joined(HOST, b"Accept-Encoding: gzip"))
    for number in range(3):
        unique = b"X-Request-Id: %d" % number, b"Referer: http://a/%d" % number
        head = memory.recall(LINE + joined(unique[0], HOST, b"Accept-Encoding: gzip", unique[1]))
        assert head is not None
        request = request_of(head)
        assert request.block is first.block
        assert request.told.referer == b"http://a/%d" % number


def test_the_end_of_a_head_that_revalidates_is_remembered_apart_from_its_beginning() -> None:
    memory = new_memory()
    remembered(memory, LINE + joined(HOST))
    bare = [HOST, b"Cookie: a"]
    for number in range(6):
        head = memory.recall(LINE + joined(*bare, b'If-None-Match: "%d"' % number))
        assert head is not None
        assert head[2] == (b'"%d"' % number, None, None)
    assert joined(*bare) in memory.blocks.whole.recent
    sieved: list[bytes] = []
    memory._sieve = lambda block: sieved.append(block) or [block]  # type: ignore[func-returns-value]
    again = memory.recall(LINE + joined(*bare, b'If-None-Match: "7"'))
    assert again is not None
    assert again[2] == (b'"7"', None, None)
    assert not sieved, "it is found by its two halves"
    odd = memory.recall(LINE + joined(*bare, b'If-None-Match: "7"', b"Cookie: b"))
    assert odd is None
    assert sieved, "what is behind the tag is no end of a head that is known"


def test_an_answer_that_is_nobodys_is_of_no_bound() -> None:
    memory = new_memory()
    head = memory.read(b"PUT / HTTP/1.1\r\n" + joined(HOST))
    alone = memory.of_its_own(OK, looked_at(entry_of(b"a")))
    assert memory.prepare(head, OK, looked_at(entry_of(b"a"))) is not alone
    assert head[0].line.method == b"PUT", "what h11 read is kept"


def test_where_nothing_is_told_of_a_block_those_that_differ_in_it_are_one_object() -> None:
    for tells in (True, False):
        memory = new_memory(tells=tells)
        known = memory.read(LINE + joined(HOST))[1]
        assert (memory.read(LINE + joined(HOST, b"Referer: a"))[1] is known) is not tells


def test_a_block_that_came_twice_is_remembered_whole() -> None:
    memory = new_memory()
    remembered(memory, LINE + joined(HOST))
    block = joined(HOST, b"Cookie: a")
    memory.recall(LINE + block)
    assert not memory.blocks.whole.recent
    memory.recall(LINE + block)
    assert list(memory.blocks.whole.recent) == [block]


def test_lines_that_differ_in_their_query_share_the_answers_that_do_not_heed_it() -> None:
    memory = new_memory()
    head = memory.read(b"GET /a HTTP/1.1\r\n" + joined(HOST))
    entry = Entry(b"a")
    entry.freshness.until = 1.0
    prepared = memory.prepare(head, Response(200, ()), {entry: Key(0, b"a")})
    asked = memory.read(b"GET /a?1 HTTP/1.1\r\n" + joined(HOST))
    assert asked[0].prepared[key_of(asked)] is prepared
    assert asked[0].line.target == b"/a?1"


def test_an_answer_that_heeds_the_query_is_to_that_query_alone() -> None:
    memory = new_memory()
    entry = Entry(b"a")
    entry.freshness.until = 1.0
    for target in (b"/a", b"/a?1"):
        for other in (b"/a", b"/a?1", b"/a?2"):
            head = memory.read(b"GET " + target + b" HTTP/1.1\r\n" + joined(HOST))
            assert head[0].line.query == target[len(b"/a") :]
            memory.prepare(head, Response(200, ((b"X", target),)), {entry: Key(0, b"a")})
            found = memory.read(b"GET " + other + b" HTTP/1.1\r\n" + joined(HOST))
            if other != target:
                known = found[0].prepared.get(key_of(found))
                assert known is None or b"X: %s\r\n" % target not in known.after


def test_a_line_of_another_version_that_has_grown_old_is_not_taken_for_one_of_1_1() -> None:
    memory = new_memory()
    memory.lines = Remembered(2, 1)
    old = b"GET / HTTP/1.0\r\n"
    for line in (old, b"GET /other HTTP/1.1\r\n"):
        remembered(memory, line + joined(HOST))
    assert memory.recall(old + joined(HOST)) is None
    assert remembered(memory, old + joined(HOST)).line.http_10


def test_nothing_is_remembered_when_memory_is_off() -> None:
    memory = new_memory(enabled=False)
    first = remembered(memory, GOOD[1])
    assert remembered(memory, GOOD[1]).line is not first.line
    assert not memory.lines.recent
    assert not memory.blocks.sifted.recent


@pytest.mark.parametrize(("head", "_status"), REFUSED)
def test_a_refused_head_is_not_remembered(head: bytes, _status: int) -> None:
    memory = new_memory()
    outcomes(new_reader(memory=memory), head)
    assert not memory.lines.recent
    assert not memory.blocks.sifted.recent
    assert not memory.blocks_10.sifted.recent


def test_a_half_that_is_too_long_is_parsed_each_time() -> None:
    memory = new_memory()
    long_line = b"GET /" + b"a" * KEY_BYTES_MAX + b" HTTP/1.1\r\n"
    long_block = joined(HOST, b"Connection: " + b"a" * KEY_BYTES_MAX)
    remembered(memory, long_line + joined(HOST))
    remembered(memory, LINE + long_block)
    assert list(memory.lines.recent) == [LINE[:-1]]
    assert list(memory.blocks.sifted.recent) == [joined(HOST)]


ROOM = 4
"""Bytes of two keys of one, each with a value that counts as one."""


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.binary(max_size=50), max_size=60), st.integers(200, 400), st.integers(0, 40))
def test_what_is_remembered_never_takes_more_than_its_bytes(
    keys: list[bytes], bytes_max: int, value_bytes: int
) -> None:
    memory: Remembered[int] = Remembered(bytes_max, value_bytes)
    for number, key in enumerate(keys):
        memory.put(key, number)
        assert memory.recent[key] == number
        held = sum(len(each) + value_bytes for each in (*memory.recent, *memory.old))
        assert held <= bytes_max


def test_a_value_is_remembered_until_two_generations_have_passed() -> None:
    memory: Remembered[int] = Remembered(2 * ROOM, 1)
    memory.put(b"a", 1)
    memory.put(b"b", 2)
    assert memory.get(b"a") == 1
    memory.put(b"c", 3)
    assert list(memory.recent) == [b"c"]
    memory.put(b"d", 4)
    memory.put(b"e", 5)
    assert memory.get(b"a") is None
    assert memory.get(b"b") is None
    assert [memory.get(key) for key in (b"c", b"d", b"e")] == [3, 4, 5]


def test_a_value_that_is_used_becomes_young_again() -> None:
    memory: Remembered[int] = Remembered(2 * ROOM, 1)
    for number in range(50):
        memory.put(b"%d" % number, number)
        memory.put(b"kept", -1) if number == 0 else None
        assert memory.get(b"kept") == -1
        assert len(memory.recent) <= 2
    assert memory.get(b"0") is None


def test_a_key_that_is_too_long_is_not_remembered() -> None:
    memory: Remembered[int] = Remembered(4 * KEY_BYTES_MAX, 1)
    memory.put(b"a" * KEY_BYTES_MAX, 1)
    memory.put(b"b" * (KEY_BYTES_MAX + 1), 2)
    assert list(memory.recent) == [b"a" * KEY_BYTES_MAX]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(min_value=0, max_value=20), max_size=60), st.integers(min_value=1, max_value=4))
def test_a_remembered_value_is_never_another_keys(keys: list[int], entries_max: int) -> None:
    memory: Remembered[int] = Remembered(2 * entries_max * 10, 9)
    for key in keys:
        value = memory.get(b"%d" % key)
        assert value in (None, key)
        if value is None:
            memory.put(b"%d" % key, key)
        assert memory.get(b"%d" % key) == key
        assert len(memory.recent) <= entries_max


# -- prepared responses -----------------------------------------------------------------------------------------

OK = Response(200, (), (b"body",), 4)


def looked_at(*entries: Entry) -> dict[Entry, Key]:
    return {entry: Key(0, entry.path) for entry in entries}


def entry_of(path: bytes, until: float = 1.0) -> Entry:
    entry = Entry(path)
    entry.freshness.until = until
    return entry


def test_a_prepared_response_is_rendered_with_the_date_of_the_second() -> None:
    response = Response(200, ((b"A", b"1"),), (b"bo", b"dy"), 4)
    entry = entry_of(b"a", 5.0)
    prepared = Prepared(response, b"ringserve", looked_at(entry), Renderings(1024))
    assert (prepared.body, prepared.status, prepared.body_bytes) == (b"body", 200, 4)
    assert prepared.freshness is entry.freshness
    assert entry.freshness.until == 5.0
    assert (prepared.second, prepared.data, prepared.pinned) == (-1, b"", None)
    pinned = prepared.render(17, b"Date: then\r\n", PinnedBytes)
    expected = b"HTTP/1.1 200 OK\r\nServer: ringserve\r\nDate: then\r\nA: 1\r\nContent-Length: 4\r\n\r\nbody"
    assert pinned == PinnedBytes(expected)
    assert (prepared.second, prepared.data, prepared.pinned) == (17, expected, pinned)


def test_a_last_rendering_says_so_and_has_the_bytes_of_the_general_path() -> None:
    response = Response(200, ((b"A", b"1"),), (b"bo", b"dy"), 4)
    prepared = Prepared(response, b"ringserve", looked_at(entry_of(b"a")), Renderings(1024))
    for second in (17, 17, 18):
        date = b"Date: %d\r\n" % second
        before, after = head_parts(response, b"ringserve", b"close")
        expected = before + date + after + b"body"
        assert prepared.render_last(second, date, PinnedBytes) == PinnedBytes(expected)
    assert prepared.render_last(18, b"not looked at", PinnedBytes) is prepared.render_last(18, b"nor here", PinnedBytes)
    assert prepared.pinned is None, "the other rendering is another one"
    prepared.retire()
    last = prepared.render_last(18, date, PinnedBytes)
    assert isinstance(last, PinnedBytes)
    assert b"body" not in last.data, "the memory of the file was given back"


def test_an_earlier_rendering_is_not_touched_by_the_next() -> None:
    prepared = Prepared(Response(200, ()), b"", looked_at(entry_of(b"a")), Renderings(1024))
    first = prepared.render(1, b"Date: 1\r\n", PinnedBytes)
    second = prepared.render(2, b"Date: 2\r\n", PinnedBytes)
    assert first == PinnedBytes(b"HTTP/1.1 200 OK\r\nDate: 1\r\nContent-Length: 0\r\n\r\n")
    assert second == PinnedBytes(b"HTTP/1.1 200 OK\r\nDate: 2\r\nContent-Length: 0\r\n\r\n")
    assert prepared.pinned is second


def test_a_retired_response_holds_no_memory_and_is_never_fresh_again() -> None:
    entry = entry_of(b"a", 1000.0)
    prepared = Prepared(Response(200, (), (b"body",), 4), b"", looked_at(entry), Renderings(1024))
    prepared.render(1, b"Date: 1\r\n", PinnedBytes)
    prepared.retire()
    assert (prepared.second, prepared.data, prepared.pinned, prepared.body) == (-1, b"", None, b"")
    assert prepared.freshness.until == 0.0
    assert entry.freshness.until == 1000.0, "others that share it are fresh still"


def test_renderings_are_dropped_where_others_need_the_room_and_made_again() -> None:
    renderings = Renderings(100)
    responses = [Prepared(OK, b"", looked_at(entry_of(b"a")), renderings) for _number in range(9)]
    for _again in range(3):
        for number, prepared in enumerate(responses):
            pinned = prepared.render(1, b"Date: 1\r\n", PinnedBytes)
            assert prepared.pinned is pinned
            assert prepared.render_last(1, b"Date: 1\r\n", PinnedBytes)
            hot = [each for each in responses if each.pinned is not None]
            assert number in map(responses.index, hot)
            assert sum(len(each.after) + each.body_bytes for each in hot) <= 100


def test_a_response_that_is_rendered_each_second_is_counted_once() -> None:
    renderings = Renderings(100)
    prepared = Prepared(OK, b"", looked_at(entry_of(b"a")), renderings)
    for second in range(50):
        prepared.render(second, b"", PinnedBytes)
    assert len(renderings._kept) == 1


def test_a_response_of_several_entries_is_fresh_for_as_long_as_all_of_them() -> None:
    entries = [entry_of(b"a", 5.0), entry_of(b"b", 3.0), entry_of(b"c", 4.0)]
    prepared = Prepared(OK, b"", looked_at(*entries), Renderings(1024))
    assert prepared.freshness.until == 3.0
    entries[1].freshness.until = 6.0
    assert prepared.freshness.until == 4.0
    entries[0].freshness.until = 0.0
    assert prepared.freshness.until == 0.0


def test_equal_responses_from_the_same_entries_are_one_object() -> None:
    kept = PreparedResponses(b"", 100, 1024 * 1024)
    first, second = entry_of(b"a"), entry_of(b"b")
    shared = kept.share(OK, looked_at(first, second))
    assert kept.share(OK._replace(), looked_at(first, second, first)) is shared
    assert kept.share(OK._replace(status=404), looked_at(first, second)) is not shared
    assert kept.share(OK, looked_at(second)) is not shared
    assert kept.share(OK, looked_at(entry_of(b"a"), second)) is not shared


def test_a_response_whose_entry_is_no_more_gives_its_memory_back_when_another_is_prepared_for_its_path() -> None:
    kept = PreparedResponses(b"", 100, 1024 * 1024)
    old, other = entry_of(b"a"), entry_of(b"other")
    over, lasting = kept.share(OK, looked_at(old, other)), kept.share(OK, looked_at(other))
    old.freshness.until = 0.0
    assert over.body
    kept.share(OK, looked_at(entry_of(b"a"), other))
    assert not over.body
    assert lasting.body


def test_the_responses_of_the_path_that_was_prepared_for_longest_ago_go_first() -> None:
    room_bytes = 3 * PreparedResponses(b"", 3, 0).of_its_own(OK, looked_at(entry_of(b"a"))).memory_bytes
    for kept in (PreparedResponses(b"", 3, 1024 * 1024), PreparedResponses(b"", 100, room_bytes)):
        entries = [entry_of(b"%d" % number) for number in range(5)]
        responses = [kept.share(OK, looked_at(entry)) for entry in entries[:3]]
        kept.share(OK, looked_at(entries[0]))
        responses += [kept.share(OK, looked_at(entry)) for entry in entries[3:]]
        assert [bool(response.body) for response in responses] == [True, False, False, True, True]
        assert kept.share(OK, looked_at(entries[1])) is not responses[1]


def test_what_is_counted_is_what_is_kept_whoever_retires_a_response() -> None:
    # Seen: a file that changed and was asked for again, 600 times, and there was room for one path.
    kept = PreparedResponses(b"", 100, 1024 * 1024)
    for _change in range(50):
        kept.share(OK, looked_at(entry_of(b"a"))).retire()
    last = kept.share(OK, looked_at(entry_of(b"a")))
    assert kept._bytes == last.memory_bytes


def test_the_responses_of_a_path_that_was_prepared_for_last_stay_however_large_they_are() -> None:
    kept = PreparedResponses(b"", 1, 0)
    entry = entry_of(b"a")
    assert kept.share(OK, looked_at(entry)) is kept.share(OK, looked_at(entry))


def test_a_path_keeps_a_few_responses() -> None:
    kept = PreparedResponses(b"", 100, 1024 * 1024)
    entry = entry_of(b"a")
    different = [OK._replace(fields=((b"A", b"%d" % number),)) for number in range(PREPARED_PER_PATH_MAX + 1)]
    responses = [kept.share(response, looked_at(entry)) for response in different]
    assert [bool(response.body) for response in responses] == [False] * PREPARED_PER_PATH_MAX + [True]


def test_a_line_keeps_a_few_prepared_responses() -> None:
    memory = new_memory()
    for number in range(PREPARED_PER_LINE_MAX + 1):
        head = memory.read(LINE + joined(HOST, b"Accept-Encoding: %d" % number))
        prepared = memory.prepare(head, OK, looked_at(entry_of(b"a")))
        assert head[0].prepared[key_of(head)] is prepared
    assert len(head[0].prepared) == 1
