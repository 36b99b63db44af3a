"""Targets, validators, preconditions and ranges. Sections without another name are of RFC 9110."""

from __future__ import annotations

import itertools
import math
import re
import time
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.http.dates import format_date
from ringserve.http.heads import RequestLine
from ringserve.http.negotiation import choose_media_type, parse_accept, parse_accept_encoding, prefers, rank_codings
from ringserve.http.semantics import (
    CONTENT_TAG_BYTES_MAX,
    GAP_MAX,
    KNOWN_METHODS,
    LIST_MEMBERS_MAX,
    RANGES_MAX,
    Conditions,
    Location,
    Span,
    TargetError,
    Validators,
    Verdict,
    choose_spans,
    content_hash,
    evaluate,
    fault_of_sibling,
    is_as_new,
    is_authority,
    is_entity_tag,
    is_hidden,
    is_young,
    locate,
    matches_any,
    parse_entity_tags,
    parse_ranges,
    quote_path,
    quote_query,
    range_applies,
    validators_of,
)

NOW = 1_700_000_000.0


def test_the_known_methods_are_those_of_9_3_and_patch() -> None:
    assert {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH"} == KNOWN_METHODS


# -- targets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"", b""),
        (b"/a", b"a", b""),
        (b"/a/", b"a/", b""),
        (b"/a/b.html", b"a/b.html", b""),
        (b"/a?x=1&y=/../", b"a", b"?x=1&y=/../"),
        (b"/a?", b"a", b"?"),
        (b"/a??b", b"a", b"??b"),
        (b"/?q", b"", b"?q"),
        (b"//a//b//", b"a/b/", b""),
        (b"///", b"", b""),
        (b"//evil.example/x", b"evil.example/x", b""),
        (b"/a/./b", b"a/b", b""),
        (b"/a/../b", b"b", b""),
        (b"/a/..", b"", b""),
        (b"/a/b/..", b"a/", b""),
        (b"/a/.", b"a/", b""),
        (b"/.", b"", b""),
        (b"/a/%2e%2E/b", b"b", b""),
        (b"/%61%20b", b"a b", b""),
        (b"/%252e%252e/x", b"%2e%2e/x", b""),
        (b"/%252f", b"%2f", b""),
        (b"/%c3%a9", b"\xc3\xa9", b""),
        (b"/%ff", b"\xff", b""),
        (b"/a%23b%3fc", b"a#b?c", b""),
        (b"/a?%zz%00%2f", b"a", b"?%zz%00%2f"),
        (b"/a\\..\\b", b"a\\..\\b", b""),
        (b"/a+b", b"a+b", b""),
        (b"http://example.org/a", b"a", b""),
        (b"HTTP://example.org/a", b"a", b""),
        (b"https://example.org:8443/a/?q", b"a/", b"?q"),
        (b"http://example.org", b"", b""),
        (b"http://example.org?q", b"", b"?q"),
        (b"http://example.org//evil.example/", b"evil.example/", b""),
        (b"/http://example.org/", b"http:/example.org/", b""),
    ],
)
def test_a_target_names_a_path_below_the_root(target: bytes, path: bytes, query: bytes) -> None:
    assert locate(target)[:2] == Location(path, hidden=False)[:2]
    line = RequestLine(b"GET", target, b"1.1")
    assert (line.location, line.query) == (locate(target), query)


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        (b"/a", b""),
        (b"/http://example.org/", b""),
        (b"http://example.org", b"example.org"),
        (b"HTTPS://example.org:8443/a", b"example.org:8443"),
        (b"http://[::1]:80/a", b"[::1]:80"),
    ],
)
def test_a_target_in_absolute_form_names_its_host(target: bytes, authority: bytes) -> None:
    located = locate(target)
    assert located.authority == authority
    assert located[:2] == locate(b"/" + target.partition(b"://")[2].partition(b"/")[2])[:2] or not authority


GOOD_AUTHORITIES = [
    b"a", b"example.org", b"example.org.", b"a:80", b"a:", b"a:0", b"a:65535", b"a:00080", b"127.0.0.1:8080",
    b"999.1.1.1", b"[::1]", b"[::1]:80", b"[2001:DB8::1]:", b"[::ffff:127.0.0.1]", b"a%20b", b"%C3%A9",
    b"a_b~!$&'()*+,;=", b"-",
]  # fmt: skip
BAD_AUTHORITIES = [
    b"", b":", b":80", b"%", b"%z", b"%zz", b"a%2", b"localhost:80x", b"localhost:80:80", b"localhost:+80",
    b"localhost:-1", b"a:65536", b"a:123456", b"4713::abcd:8001", b"::1", b"[::1", b"::1]", b"[]", b"[a]",
    b"[12345::1]", b"[1::2::3]", b"[1:2:3:4:5:6:7]", b"[1:2:3:4:5:6:7:8:9]", b"[::1.2.3]", b"[::256.1.1.1]",
    b"[127.0.0.1]", b"[::1]80", b"[::1]:80x", b"[::1]x", b"x[::1]", b"[v1.a]", b"[fe80::1%25eth0]", b"[fe80::1%eth0]",
    b"u@a", b"u:p@a", b"@a", b"a b", b"a/b", b"a\\b", b"a?", b"a#", b"a<b>", b'"a"', b"a\x01", b"\xe9",
    b"a^b", b"a|b", b"{a}",
]  # fmt: skip


@pytest.mark.parametrize("authority", GOOD_AUTHORITIES)
def test_a_host_and_a_port_are_an_authority(authority: bytes) -> None:
    assert is_authority(authority)  # RFC 3986 3.2.2, 3.2.3
    assert locate(b"http://" + authority + b"/a").authority == authority


@pytest.mark.parametrize("authority", BAD_AUTHORITIES)
def test_what_breaks_the_grammar_is_no_authority(authority: bytes) -> None:
    assert not is_authority(authority)
    if not {*b"/?"} & {*authority}:  # those end it in a target
        with pytest.raises(TargetError):
            locate(b"http://" + authority + b"/a")


HOSTS = st.from_regex(
    rb"\A(?:[a-zA-Z0-9._~!$&'()*+,;=-]{1,12}|\[[0-9a-fA-F:.]{1,12}\]|%[0-9A-F]{2})(?::[0-9]{0,4})?\Z"
).filter(is_authority)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    scheme=st.sampled_from((b"http", b"HTTPS")),
    host=HOSTS,
    rest=st.sampled_from((b"", b"/", b"/a//b?q", b"?q=@x", b"//x")),
)
def test_an_authority_is_all_that_stands_before_the_path(scheme: bytes, host: bytes, rest: bytes) -> None:
    located = locate(scheme + b"://" + host + rest)
    assert located.authority == host
    assert located[:2] == locate(rest if rest.startswith(b"/") else b"/" + rest)[:2]


@pytest.mark.parametrize("target", [b"http://user@example.org/", b"http://a:b@example.org/", b"http://@example.org/"])
def test_an_authority_with_a_user_is_refused(target: bytes) -> None:
    with pytest.raises(TargetError):  # 4.2.4
        locate(target)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"", "neither a path nor"),
        (b"*", "neither a path nor"),
        (b"a", "neither a path nor"),
        (b"?q", "neither a path nor"),
        (b"example.org:443", "neither a path nor"),
        (b"ftp://example.org/", "neither a path nor"),
        (b"http:/a", "neither a path nor"),
        (b"http://example.org#f", "neither a path nor"),
        (b"/a#f", "fragment"),
        (b"/a?q#f", "fragment"),
        (b"/%", "percent sign"),
        (b"/%4", "percent sign"),
        (b"/%g0", "percent sign"),
        (b"/%-1", "percent sign"),
        (b"/%%41", "percent sign"),
        (b"/a%2fb", "encoded slash"),
        (b"/a%2Fb", "encoded slash"),
        (b"/..%2f..%2fetc/passwd", "encoded slash"),
        (b"/a%00", "NUL"),
        (b"/a%00.html", "NUL"),
        (b"/a\0", "NUL"),
        (b"/..", "leaves the root"),
        (b"/../", "leaves the root"),
        (b"/a/../../b", "leaves the root"),
        (b"/%2e%2e/etc/passwd", "leaves the root"),
        (b"/./../a", "leaves the root"),
        (b"//..", "leaves the root"),
        (b"http://example.org/../a", "leaves the root"),
    ],
)
def test_a_target_that_names_nothing_is_refused_with_its_reason(target: bytes, reason: str) -> None:
    with pytest.raises(TargetError, match=reason):
        locate(target)


@pytest.mark.parametrize("target", [b"http:///a", b"https://", b"http://:80/", b"http://?q"])
def test_an_absolute_form_without_a_host_is_refused(target: bytes) -> None:
    # "A recipient that processes such a URI reference MUST reject it as invalid" (4.2.1, 4.2.2).
    with pytest.raises(TargetError):
        locate(target)


@pytest.mark.parametrize(
    ("target", "hidden"),
    [
        (b"/.env", True),
        (b"/.git/config", True),
        (b"/a/.htaccess", True),
        (b"/a/.hidden/b", True),
        (b"/%2eenv", True),
        (b"/...", True),
        (b"/a.b/c.d", False),
        (b"/a/./b", False),
        (b"/.a/../b", False),
        (b"/.well-known/acme-challenge/x", False),  # RFC 8615
        (b"/.well-known", False),
        (b"/.well-known/", False),
        (b"/.well-known/.secret", True),
        (b"/.well-known/a/.b/c", True),
        (b"/.well-known-not", True),
        (b"/a/.well-known/x", True),
    ],
)
def test_dotfiles_are_hidden_but_for_the_well_known_ones(target: bytes, hidden: bool) -> None:
    assert locate(target).hidden is hidden


@pytest.mark.parametrize(
    ("segments", "hidden"),
    [
        ([], False),
        ([b"ringserve.toml"], True),
        ([b"a", b"ringserve.toml"], True),
        ([b"ringserve.toml", b"a"], True),
        ([b"ringserve.toml~"], True),
        ([b"ringserve.toml.bak"], True),
        ([b"ringserve.toml.gz"], True),
        ([b"#ringserve.toml#"], True),
        ([b".#ringserve.toml"], True),
        ([b".well-known", b"ringserve.toml"], True),
        ([b"my-ringserve.toml"], False),
        ([b"ringserve.tom"], False),
        ([b"RingServe.TOML"], True),
        ([b"#a#"], False),
        ([b".well-known"], False),
        ([b"a", b".well-known"], True),
        ([b".well-known", b"a", b".b"], True),
        ([b"a", b".b"], True),
    ],
)
def test_a_configuration_of_ours_is_hidden_with_what_editors_leave_of_it(segments: list[bytes], hidden: bool) -> None:
    assert is_hidden(b"/".join(segments)) is hidden


@pytest.mark.parametrize(
    ("target", "expected"),
    [(b"/", True), (b"/a/", True), (b"/a/.", True), (b"/a/b/..", True), (b"/a", False), (b"/a/b?c/", False)],
)
def test_a_target_with_its_final_slash_names_a_directory(target: bytes, expected: bool) -> None:
    assert locate(target).names_directory is expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from((b"%41", b"%c3%A9", b"%5c", b"%25", b"%78", b"\\", b"\\x41", b"x", b"n", b"\xe9")), max_size=9
    )
)
def test_escapes_are_undone_once_and_nothing_else_is(pieces: list[bytes]) -> None:
    path = b"".join(pieces)
    assert locate(b"/" + path).path == unquote_to_bytes(path)


HOSTILE = st.lists(
    st.sampled_from(
        (
            b"/", b"/", b".", b"..", b"%2e", b"%2E", b"%2f", b"%2F", b"%5c", b"\\", b"%00", b"\0", b"%", b"%25",
            b"a", b"b.html", b"?", b"#", b"%c0%ae", b"%ff", b".well-known", b" ", b"\r\n", b":", b"@",
        )
    )
    | st.binary(max_size=3),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(prefix=st.sampled_from((b"", b"/", b"//", b"http://h", b"http://h/")), rest=HOSTILE)
def test_no_target_yields_a_path_that_leaves_the_root(prefix: bytes, rest: bytes) -> None:
    try:
        location = locate(prefix + rest)
    except TargetError:
        return
    assert b"\0" not in location.path
    assert not location.path.startswith(b"/")
    segments = location.path.removesuffix(b"/").split(b"/") if location.path else []
    assert not {b"", b".", b".."} & set(segments)
    dotted = [segment for segment in segments if segment.startswith(b".")]
    assert location.hidden is bool(dotted and not (segments[0] == b".well-known" and len(dotted) == 1))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(
        st.binary(min_size=1, max_size=8).filter(lambda s: s not in (b".", b"..") and not {0, 0x2F} & set(s)),
        max_size=4,
    ),
    st.booleans(),
)
def test_a_quoted_path_is_located_again(segments: list[bytes], slash: bool) -> None:
    path = b"/".join(segments) + (b"/" if segments and slash else b"")
    quoted = b"/" + quote_path(path)
    assert not quoted.startswith((b"//", b"/\\"))
    assert all(0x21 <= byte <= 0x7E for byte in quoted)
    assert locate(quoted).path == path


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        (b"", b""),
        (b"a/b/", b"a/b/"),
        (b"a b", b"a%20b"),
        (b"\\evil.example", b"%5Cevil.example"),
        (b"a?b#c%d", b"a%3Fb%23c%25d"),
        (b'"<>\r\n', b"%22%3C%3E%0D%0A"),
        (b"!$&'()*+,;=:@~-._", b"!$&'()*+,;=:@~-._"),
        (b"\xc3\xa9", b"%C3%A9"),
    ],
)
def test_a_path_is_quoted_for_a_url(path: bytes, quoted: bytes) -> None:
    assert quote_path(path) == quoted


@pytest.mark.parametrize(
    ("query", "quoted"),
    [
        (b"", b""),
        (b"?", b"?"),
        (b"?a=1&b=/?:@!$'()*+,;-._~", b"?a=1&b=/?:@!$'()*+,;-._~"),
        (b"?a=%20%2f%C3", b"?a=%20%2f%C3"),
        (b"?a=%&b=%zz%2", b"?a=%25&b=%25zz%252"),
        (b'?"<>\\^`{|}[]', b"?%22%3C%3E%5C%5E%60%7B%7C%7D%5B%5D"),
        (b"?\xc3\xa9\r\n", b"?%C3%A9%0D%0A"),
    ],
)
def test_of_a_query_only_what_no_url_has_is_escaped(query: bytes, quoted: bytes) -> None:
    assert quote_query(query) == quoted  # RFC 3986 3.4


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=20) | st.text(alphabet='a%2F"<&=[', max_size=12).map(str.encode))
def test_an_escaped_query_is_one_of_a_url_and_means_the_same(query: bytes) -> None:
    quoted = quote_query(query)
    assert re.fullmatch(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*", quoted)
    assert unquote_to_bytes(quoted) == unquote_to_bytes(query)
    assert quote_query(quoted) == quoted


# -- entity tags ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (b'"a"', [(False, b"a")]),
        (b'W/"a"', [(True, b"a")]),
        (b'""', [(False, b"")]),
        (b'"a","b"', [(False, b"a"), (False, b"b")]),
        (b' "a" ,\t W/"b" ', [(False, b"a"), (True, b"b")]),
        (b', "a",, ,"b",', [(False, b"a"), (False, b"b")]),
        (b'"a,b"', [(False, b"a,b")]),
        (b'"W/"', [(False, b"W/")]),
        (b'"\xff\\"', [(False, b"\xff\\")]),
    ],
)
def test_a_list_of_entity_tags_is_read(value: bytes, tags: list[tuple[bool, bytes]]) -> None:
    assert parse_entity_tags(value) == tags


@pytest.mark.parametrize(
    "value",
    [
        b"", b" ", b",", b",,", b"a", b"*", b'"a', b'a"', b'"a" "b"', b'"a""b"', b'"a", b', b'"a", *', b'w/"a"',
        b'W/ "a"', b"W/a", b"'a'", b'"a b"', b'"a\tb"', b'"a\x7f"', b'"a";q=1', b'"a"\n,"b"',
    ],
)  # fmt: skip
def test_what_is_not_a_list_of_entity_tags_is_none(value: bytes) -> None:
    assert parse_entity_tags(value) is None


OPAQUE = st.lists(
    st.sampled_from([0x21, *range(0x23, 0x7F), *range(0x80, 0x100)]),  # etagc of 8.8.3
    max_size=6,
).map(bytes)
SEPARATOR = st.sampled_from((b",", b", ", b" ,", b"\t,\t", b",,", b", , ,"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), OPAQUE, SEPARATOR), min_size=1, max_size=5))
def test_any_list_of_entity_tags_is_read_back(items: list[tuple[bool, bytes, bytes]]) -> None:
    value = b"".join((b"W/" if weak else b"") + b'"' + tag + b'"' + separator for weak, tag, separator in items)
    expected = [(weak, tag) for weak, tag, _separator in items]
    assert parse_entity_tags(value) == expected
    assert parse_entity_tags(value.rstrip(b", \t")) == expected
    for weak, tag in expected:
        ours = (b"W/" if weak else b"") + b'"' + tag + b'"'
        assert matches_any(value, ours, strongly=False)
        assert matches_any(value, ours, strongly=True) is ((False, tag) in expected and not weak)


@pytest.mark.parametrize(
    ("ours", "theirs", "strong", "weak"),
    [
        # The table of 8.8.3.2.
        (b'W/"1"', b'W/"1"', False, True),
        (b'W/"1"', b'W/"2"', False, False),
        (b'W/"1"', b'"1"', False, True),
        (b'"1"', b'"1"', True, True),
        (b'"1"', b'W/"1"', False, True),
        (b'"1"', b'"2", "1"', True, True),
        (b'"1"', b'W/"1", "1"', True, True),
        (b'"1"', b"*", True, True),
        (b'W/"1"', b" * ", True, True),
        (b'"1"', b"1", False, False),
        (b'"1"', b'"1" "1"', False, False),
        (b'"1"', b"", False, False),
    ],
)
def test_entity_tags_are_compared_strongly_or_weakly(ours: bytes, theirs: bytes, strong: bool, weak: bool) -> None:
    assert matches_any(theirs, ours, strongly=True) is strong
    assert matches_any(theirs, ours, strongly=False) is weak


def test_an_entity_tag_of_ours_is_well_formed() -> None:
    with pytest.raises(AssertionError, match="well-formed"):
        matches_any(b'"a"', b"a", strongly=True)


# -- preconditions ----------------------------------------------------------------------------------------------

MODIFIED = 784_111_777
DATE = format_date(MODIFIED)
EARLIER = format_date(MODIFIED - 1)
LATER = format_date(MODIFIED + 1)
CURRENT = Validators(b'"v1"', MODIFIED)
DATELESS = Validators(b'"v1"', None)


@pytest.mark.parametrize(
    ("conditions", "verdict"),
    [
        (Conditions(), Verdict.PROCEED),
        # If-Match (13.1.1)
        (Conditions(if_match=b'"v1"'), Verdict.PROCEED),
        (Conditions(if_match=b'"v0", "v1"'), Verdict.PROCEED),
        (Conditions(if_match=b"*"), Verdict.PROCEED),
        (Conditions(if_match=b'"v2"'), Verdict.FAILED),
        (Conditions(if_match=b'W/"v1"'), Verdict.FAILED),
        (Conditions(if_match=b"v1"), Verdict.FAILED),
        (Conditions(if_match=b""), Verdict.FAILED),
        # If-None-Match (13.1.2)
        (Conditions(if_none_match=b'"v1"'), Verdict.NOT_MODIFIED),
        (Conditions(if_none_match=b'W/"v1"'), Verdict.NOT_MODIFIED),
        (Conditions(if_none_match=b'"v0", W/"v1"'), Verdict.NOT_MODIFIED),
        (Conditions(if_none_match=b"*"), Verdict.NOT_MODIFIED),
        (Conditions(if_none_match=b'"v2"'), Verdict.PROCEED),
        (Conditions(if_none_match=b"v1"), Verdict.PROCEED),
        # If-Modified-Since (13.1.3)
        (Conditions(if_modified_since=DATE), Verdict.NOT_MODIFIED),
        (Conditions(if_modified_since=LATER), Verdict.NOT_MODIFIED),
        (Conditions(if_modified_since=EARLIER), Verdict.PROCEED),
        (Conditions(if_modified_since=b"yesterday"), Verdict.PROCEED),
        # If-Unmodified-Since (13.1.4)
        (Conditions(if_unmodified_since=DATE), Verdict.PROCEED),
        (Conditions(if_unmodified_since=LATER), Verdict.PROCEED),
        (Conditions(if_unmodified_since=EARLIER), Verdict.FAILED),
        (Conditions(if_unmodified_since=b"yesterday"), Verdict.PROCEED),
        # The precedence (13.2.2)
        (Conditions(if_match=b'"v1"', if_unmodified_since=EARLIER), Verdict.PROCEED),
        (Conditions(if_match=b'"v2"', if_unmodified_since=LATER), Verdict.FAILED),
        (Conditions(if_match=b'"v2"', if_none_match=b'"v1"'), Verdict.FAILED),
        (Conditions(if_match=b'"v1"', if_none_match=b'"v1"'), Verdict.NOT_MODIFIED),
        (Conditions(if_unmodified_since=EARLIER, if_none_match=b'"v1"'), Verdict.FAILED),
        (Conditions(if_none_match=b'"v2"', if_modified_since=LATER), Verdict.PROCEED),
        (Conditions(if_none_match=b'"v1"', if_modified_since=EARLIER), Verdict.NOT_MODIFIED),
        (Conditions(if_none_match=b"rubbish", if_modified_since=LATER), Verdict.PROCEED),
        (Conditions(if_unmodified_since=DATE, if_modified_since=DATE), Verdict.NOT_MODIFIED),
    ],
)
def test_preconditions_are_evaluated_in_the_order_of_13_2_2(conditions: Conditions, verdict: Verdict) -> None:
    assert evaluate(conditions, CURRENT, NOW) is verdict


@pytest.mark.parametrize("conditions", [Conditions(if_modified_since=DATE), Conditions(if_unmodified_since=EARLIER)])
def test_a_date_is_not_compared_with_a_representation_that_has_none(conditions: Conditions) -> None:
    assert evaluate(conditions, DATELESS, NOW) is Verdict.PROCEED


@pytest.mark.parametrize(
    ("if_range", "validators", "now", "applies"),
    [
        (None, CURRENT, NOW, True),
        (b'"v1"', CURRENT, NOW, True),
        (b'"v1"', DATELESS, NOW, True),
        (b'"v2"', CURRENT, NOW, False),
        (b'"v1", "v2"', CURRENT, NOW, False),
        (b"*", CURRENT, NOW, False),
        (b"v1", CURRENT, NOW, False),
        (b'"v1', CURRENT, NOW, False),
        (b"", CURRENT, NOW, False),
        # Both have to be strong (13.1.5).
        (b'W/"v1"', CURRENT, NOW, False),
        (b'W/"v1"', Validators(b'W/"v1"', MODIFIED), NOW, False),
        (b'"v1"', Validators(b'W/"v1"', MODIFIED), NOW, False),
        # The exact date, and no earlier or later one.
        (DATE, CURRENT, NOW, True),
        (EARLIER, CURRENT, NOW, False),
        (LATER, CURRENT, NOW, False),
        (b"yesterday", CURRENT, NOW, False),
        (DATE, DATELESS, NOW, False),
        # A date is a strong validator only once it is a second old (8.8.2.2).
        (DATE, CURRENT, MODIFIED + 1.0, True),
        (DATE, CURRENT, MODIFIED + 0.9, False),
        (DATE, CURRENT, MODIFIED - 5.0, False),
    ],
)
def test_a_range_is_heeded_if_if_range_names_this_version(
    if_range: bytes | None, validators: Validators, now: float, applies: bool
) -> None:
    assert range_applies(Conditions(range=b"bytes=0-0", if_range=if_range), validators, now) is applies


# -- ranges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size", "spans"),
    [
        (b"bytes=0-0", 10, [Span(0, 1)]),
        (b"bytes=0-9", 10, [Span(0, 10)]),
        (b"bytes=5-", 10, [Span(5, 5)]),
        (b"bytes=9-", 10, [Span(9, 1)]),
        (b"bytes=-1", 10, [Span(9, 1)]),
        (b"bytes=-10", 10, [Span(0, 10)]),
        (b"bytes=-11", 10, [Span(0, 10)]),
        (b"bytes=5-1000", 10, [Span(5, 5)]),
        (b"bytes=0-" + b"9" * 5000, 10, [Span(0, 10)]),
        (b"bytes=-" + b"9" * 5000, 10, [Span(0, 10)]),
        (b"BYTES=0-0", 10, [Span(0, 1)]),  # 14.1: range units are case-insensitive
        (b"bytes=0-0,5-6", 10, [Span(0, 1), Span(5, 2)]),
        (b"bytes= 5-6\t,, 0-0 ,", 10, [Span(5, 2), Span(0, 1)]),
        (b"bytes=0-9,0-9", 10, [Span(0, 10), Span(0, 10)]),
        (b"bytes=20-,3-3", 10, [Span(3, 1)]),
        (b"bytes=-0,3-3", 10, [Span(3, 1)]),
        (b"bytes=007-008", 10, [Span(7, 2)]),
        (b"bytes=0-0", 1, [Span(0, 1)]),
        (b"bytes=9223372036854775806-", 2**63 - 1, [Span(2**63 - 2, 1)]),
    ],
)
def test_a_range_field_yields_the_spans_that_exist(value: bytes, size: int, spans: list[Span]) -> None:
    assert parse_ranges(value, size) == spans


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (b"bytes=10-", 10),
        (b"bytes=10-20", 10),
        (b"bytes=-0", 10),
        (b"bytes=10-,11-,-0", 10),
        (b"bytes=0-", 0),
        (b"bytes=0-0", 0),
        (b"bytes=-1", 0),
        (b"bytes=" + b"9" * 5000 + b"-", 10),
    ],
)
def test_ranges_of_which_none_exists_are_unsatisfiable(value: bytes, size: int) -> None:
    assert parse_ranges(value, size) == []


@pytest.mark.parametrize(
    "value",
    [
        b"", b"bytes", b"bytes=", b"bytes= , ,", b"bytes=-", b"bytes=5", b"bytes=5-2", b"bytes=a-b", b"bytes=0-0,x",
        b"bytes=x,0-0", b"bytes=0-0,5-2", b"bytes=1-2-3", b"bytes=--1", b"bytes=+1-2", b"bytes=0x0-1", b"bytes=1 -2",
        b"bytes:0-0", b"items=0-0", b"kilobytes=0-0", b"bytesx=0-0", b"0-0", b" bytes=0-0", b"bytes=0-0;q=1",
        "bytes=٠-١".encode(),
    ],
)  # fmt: skip
def test_a_malformed_range_field_or_another_unit_is_ignored(value: bytes) -> None:
    assert parse_ranges(value, 10) is None


def test_leading_zeros_do_not_make_a_position_large() -> None:
    # first-pos = 1*DIGIT (14.1.1): the value counts, however it is written.
    assert parse_ranges(b"bytes=" + b"0" * 30 + b"-4", 10) == [Span(0, 5)]
    assert parse_ranges(b"bytes=0-" + b"0" * 30, 10) == [Span(0, 1)]
    assert parse_ranges(b"bytes=-" + b"0" * 30 + b"2", 10) == [Span(8, 2)]


def test_a_huge_range_whose_end_precedes_its_start_is_malformed() -> None:
    # "An int-range is invalid if the last-pos value is present and less than first-pos" (14.1.1), at any length.
    assert parse_ranges(b"bytes=2" + b"0" * 30 + b"-1" + b"0" * 30, 10) is None


NUMBER = st.tuples(st.integers(min_value=0, max_value=3), st.integers(min_value=0, max_value=40))
INT_RANGE = st.tuples(NUMBER, st.none() | NUMBER)
SUFFIX_RANGE = st.tuples(st.none(), NUMBER)
Number = tuple[int, int]
"""Leading zeros, and the value."""


def _written(number: Number | None) -> bytes:
    return b"" if number is None else b"0" * number[0] + str(number[1]).encode()


def _naive_ranges(specs: list[tuple[Number | None, Number | None]], size: int) -> list[Span] | None:
    """What 14.1.2 says, byte by byte."""
    spans = []
    for first, last in specs:
        if first is None:
            assert last is not None
            wanted = [position for position in range(size) if position >= size - last[1]]
        elif last is None:
            wanted = [position for position in range(size) if position >= first[1]]
        elif last[1] < first[1]:
            return None
        else:
            wanted = [position for position in range(size) if first[1] <= position <= last[1]]
        if wanted:
            spans.append(Span(wanted[0], len(wanted)))
    return spans


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    specs=st.lists(INT_RANGE | SUFFIX_RANGE, min_size=1, max_size=4),
    size=st.integers(min_value=0, max_value=30),
    separator=st.sampled_from((b",", b", ", b"\t,,")),
)
def test_ranges_are_those_that_a_naive_reading_finds(
    specs: list[tuple[Number | None, Number | None]], size: int, separator: bytes
) -> None:
    value = b"bytes=" + separator.join(_written(first) + b"-" + _written(last) for first, last in specs)
    assert parse_ranges(value, size) == _naive_ranges(specs, size)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    value=st.lists(st.sampled_from([b"bytes=", b"0", b"1", b"99", b"-", b",", b" ", b"x"]), max_size=10).map(b"".join),
    size=st.integers(min_value=0, max_value=120),
)
def test_every_span_lies_within_the_representation(value: bytes, size: int) -> None:
    spans = parse_ranges(value, size)
    if isinstance(spans, list):
        assert spans
        assert all(span.start >= 0 and span.length > 0 and span.start + span.length <= size for span in spans)
    else:
        assert spans in (None, [])


# -- choosing spans ---------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None, derandomize=True)
@given(data=st.data(), size=st.integers(min_value=1, max_value=3000))
def test_chosen_spans_cover_what_was_asked_and_little_more(data: st.DataObject, size: int) -> None:
    starts = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=RANGES_MAX + 3))
    spans = [Span(start, data.draw(st.integers(1, size - start))) for start in starts]
    chosen = choose_spans(spans, size)
    if len(spans) > RANGES_MAX or sum(span.length for span in spans) > size:
        assert chosen is None
        return
    assert chosen is not None
    asked = {position for span in spans for position in range(span.start, span.start + span.length)}
    sent = [position for span in chosen for position in range(span.start, span.start + span.length)]
    assert asked <= set(sent)
    assert len(sent) == len(set(sent)), "no byte twice"
    # What is sent unasked lies between two asked ones that are near each other.
    for position in set(sent) - asked:
        assert any(near in asked for near in range(position - GAP_MAX, position))
        assert any(near in asked for near in range(position + 1, position + GAP_MAX + 1))
    # Ranges that stay apart are apart, and the first asked for comes first.
    ends = sorted((span.start, span.start + span.length) for span in chosen)
    assert all(after[0] - before[1] > GAP_MAX for before, after in itertools.pairwise(ends))
    first = chosen[0]
    assert first.start <= spans[0].start < first.start + first.length


# -- the validators of a file -----------------------------------------------------------------------------------

MOMENT_NS = 1_600_000_000 * 10**9


@pytest.mark.parametrize(
    ("modified_ns", "age_ns", "young"),
    [
        (MOMENT_NS + 1, 0, True),
        (MOMENT_NS + 1, 9_999_999, True),
        (MOMENT_NS + 1, 10_000_000, False),
        (MOMENT_NS, 10_000_000, True),
        (MOMENT_NS, 1_999_999_999, True),
        (MOMENT_NS, 2_000_000_000, False),
        (MOMENT_NS, -1, True),
    ],
)
def test_a_time_is_young_while_another_change_could_bear_it(modified_ns: int, age_ns: int, young: bool) -> None:
    assert is_young(modified_ns, modified_ns + age_ns) is young


LARGE = CONTENT_TAG_BYTES_MAX + 1
CHANGED_NS = MOMENT_NS + 10**12 + 1


def test_the_hash_of_a_tag_can_be_had_by_sha256sum() -> None:
    assert content_hash(b"abc") == b"ba7816bf8f01cfea414140de"  # FIPS 180-4


@given(modified_ns=st.integers(0, 2 * MOMENT_NS), changed_ns=st.integers(0, 2 * MOMENT_NS), age_ns=st.integers(-9, 9))
def test_the_tag_of_a_small_file_is_of_its_content_alone_and_never_weak(
    modified_ns: int, changed_ns: int, age_ns: int
) -> None:
    now_ns = modified_ns + age_ns
    for coding, tag in ((b"", b'"hash"'), (b"br", b'"hash-br"')):
        assert validators_of(modified_ns, changed_ns, 5, now_ns, coding, b"hash").entity_tag == tag


def test_a_small_file_that_kept_changing_while_it_was_read_has_a_weak_tag() -> None:
    tag = validators_of(MOMENT_NS + 1, CHANGED_NS, CONTENT_TAG_BYTES_MAX, 2 * MOMENT_NS).entity_tag
    assert tag.startswith(b"W/")


def test_the_tag_of_a_large_file_tells_times_sizes_and_codings_apart() -> None:
    tags = {
        validators_of(MOMENT_NS + ns, CHANGED_NS, LARGE + more, 2 * MOMENT_NS, coding).entity_tag
        for ns in (1, 2)
        for more in (3, 4)
        for coding in (b"", b"gzip")
    }
    assert len(tags) == 8
    assert not any(tag.startswith(b"W/") for tag in tags)


@pytest.mark.parametrize("seconds", [0, 1, 315_532_800, 499_162_500, MOMENT_NS // 10**9])
def test_large_files_whose_times_are_whole_seconds_are_told_apart_by_their_last_change(seconds: int) -> None:
    tags = {
        validators_of(seconds * 10**9, CHANGED_NS + later_ns, LARGE, 2 * MOMENT_NS).entity_tag for later_ns in (0, 1)
    }
    assert len(tags) == 2
    assert not any(tag.startswith(b"W/") for tag in tags)


def test_the_last_change_of_a_large_file_does_not_matter_where_its_time_has_a_fraction() -> None:
    tags = {validators_of(MOMENT_NS + 1, CHANGED_NS + ns, LARGE, 2 * MOMENT_NS).entity_tag for ns in (0, 1)}
    assert len(tags) == 1, "a replica that copies the time has the same tag"


@pytest.mark.parametrize(
    ("modified_ns", "changed_ns", "age_ns", "weak"),
    [
        (MOMENT_NS + 1, MOMENT_NS + 1, 9_999_999, True),
        (MOMENT_NS + 1, MOMENT_NS + 1, 10_000_000, False),
        (MOMENT_NS, CHANGED_NS, 9_999_999, True),  # the last change is in the tag, and may happen again unseen
        (MOMENT_NS, CHANGED_NS, 10_000_000, False),
        (MOMENT_NS, MOMENT_NS, 1_999_999_999, True),  # no clock with fractions
        (MOMENT_NS, MOMENT_NS, 2_000_000_000, False),
    ],
)
def test_the_tag_of_a_large_file_is_weak_while_the_later_of_its_times_is_young(
    modified_ns: int, changed_ns: int, age_ns: int, weak: bool
) -> None:
    tag = validators_of(modified_ns, changed_ns, LARGE, changed_ns + age_ns).entity_tag
    assert tag.startswith(b"W/") is weak


@pytest.mark.parametrize("digest", [b"hash", None])
@pytest.mark.parametrize(("seconds", "date"), [(0, None), (1, None), (2, 2), (-1, -1)])
def test_the_times_of_reproducible_images_are_no_dates(seconds: int, date: int | None, digest: bytes | None) -> None:
    assert validators_of(seconds * 10**9, CHANGED_NS, 3, 2 * MOMENT_NS, b"", digest).modified == date


# -- precompressed siblings -------------------------------------------------------------------------------------

ODD_NS = MOMENT_NS + 123_456_789


@pytest.mark.parametrize(
    ("sibling_ns", "source_ns", "as_new"),
    [
        (ODD_NS, ODD_NS, True),
        (ODD_NS + 1, ODD_NS, True),
        (ODD_NS - 1000, ODD_NS, True),
        (ODD_NS - 1001, ODD_NS, False),
        # whole seconds
        (MOMENT_NS, ODD_NS, True),
        (MOMENT_NS, MOMENT_NS + 999_999_999, True),
        (MOMENT_NS, MOMENT_NS + 10**9, False),
        (MOMENT_NS, MOMENT_NS + 10**9 + 1, False),
        (MOMENT_NS - 1001, MOMENT_NS, False),
        (MOMENT_NS - 1000, MOMENT_NS, True),
        # milliseconds
        (MOMENT_NS + 123_000_000, ODD_NS, True),
        (MOMENT_NS + 122_000_000, ODD_NS, False),
        (ODD_NS, MOMENT_NS + 124_000_000, False),
        # 1600000000.123 is 1600000000.122999906 as a float
        (MOMENT_NS + 122_999_906, MOMENT_NS + 123_000_000, True),
        # the one of the report
        (1_700_000_000 * 10**9, 1_700_000_000 * 10**9 + 500, True),
    ],
)
def test_times_are_compared_as_far_as_the_coarser_one_tells(sibling_ns: int, source_ns: int, as_new: bool) -> None:
    assert is_as_new(sibling_ns, source_ns) is as_new


TIMES_NS = st.integers(2 * 10**9, 2**32 * 10**9)


@given(source_ns=TIMES_NS, unit_ns=st.sampled_from([1, 1000, 10**6, 10**9]))
def test_a_time_that_was_copied_more_coarsely_is_as_new(source_ns: int, unit_ns: int) -> None:
    assert is_as_new(source_ns // unit_ns * unit_ns, source_ns)
    assert is_as_new(math.floor(source_ns / 10**9 * 10**9), source_ns), "as Python's os.utime takes a float"


@given(source_ns=TIMES_NS, unit_ns=st.sampled_from([1, 1000, 10**6, 10**9]), later_ns=st.integers(10**9, 10**12))
def test_a_file_that_was_saved_again_a_second_later_has_no_sibling(source_ns: int, unit_ns: int, later_ns: int) -> None:
    assert not is_as_new(source_ns // unit_ns * unit_ns, source_ns + later_ns)


@given(sibling_ns=TIMES_NS, source_ns=TIMES_NS)
def test_a_later_time_is_as_new(sibling_ns: int, source_ns: int) -> None:
    assert is_as_new(max(sibling_ns, source_ns), min(sibling_ns, source_ns))


@pytest.mark.parametrize(
    ("sibling", "source", "fault"),
    [
        ((ODD_NS, 5), (ODD_NS, 9), None),
        ((ODD_NS, 20), (ODD_NS, 0), None),
        ((ODD_NS, 0), (ODD_NS, 0), None),
        ((ODD_NS, 0), (ODD_NS, 9), "is empty"),
        ((ODD_NS - 1001, 0), (ODD_NS, 9), "is empty"),
        ((ODD_NS - 1001, 5), (ODD_NS, 9), "is older than its file"),
    ],
)
def test_a_sibling_that_is_empty_or_older_does_not_stand_for_its_file(
    sibling: tuple[int, int], source: tuple[int, int], fault: str | None
) -> None:
    assert fault_of_sibling(*sibling, *source) == fault


# -- media types (12.5.1) ---------------------------------------------------------------------------------------

HTML, JSON, TEXT = b"text/html", b"application/json", b"text/plain"
TYPES = (HTML, JSON, TEXT)


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (None, HTML),
        (b"*/*", HTML),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", HTML),
        (b"TEXT/Plain", TEXT),
        # The quality decides, whatever the order
        (b"text/html;q=0.1, text/plain;q=0.9", TEXT),
        (b"text/html; Q=0.1 ,text/plain ; q=0.9", TEXT),
        (b"application/json;q=1.000, text/html;q=0.999", JSON),
        # Equal ones: our order, however they are named
        (b"text/plain, application/json", JSON),
        (b"application/json, text/plain, */*", HTML),
        # The most specific range that matches
        (b"text/*, text/html;q=0.3, */*;q=0.5", TEXT),
        (b"text/html;q=0, text/*", TEXT),
        (b"text/*;q=0, */*", JSON),
        (b"*/*;q=0, text/*", HTML),
        (b"text/html;charset=utf-8;q=0.1, text/html, text/plain;q=0.5", TEXT),
        # Not acceptable
        (b"", None),
        (b"image/png", None),
        (b"text/html;q=0", None),
        (b"*/*;q=0", None),
        (b"text/html;q=0.000, application/*;q=0.", None),
        # What stands twice counts once
        (b"text/html;q=0, text/html", None),
        # All of ours are in UTF-8, and have no other parameters
        (b"application/json;charset=utf-8", JSON),
        (b"application/json; Charset=UTF-8; q=0.5", JSON),
        (b"text/html;charset=latin-1, text/plain;q=0.1", TEXT),
        (b"text/html;level=1", None),
        (b"text/html;level=1;q=0.5", None),
        (b"text/html;charset=utf-8;level=1", None),
        # Quoted strings
        (b'text/plain;a=",text/html,"', None),
        (b'text/plain;a=";q=1,", text/html', HTML),
        (b'a/b;c="\\", text/html, \\"", text/plain', TEXT),
        (b'text/plain;a="text/html, application/json', None),
        (b'text/plain, a/b;c="text/html, application/json', TEXT),
        (b'text/html""', None),
        (b'text/"x"html', None),
        (b'"', None),
        (b'"\\', None),
        # Malformed elements are left out, and nothing between separators is nothing (5.6.1.2, 5.6.6)
        (b",,text/html,", HTML),
        (b"text/html;", HTML),
        (b"text/html;;q=0;", None),
        (b"text/html;q=2, text/plain", TEXT),
        (b"text/html;q=-1, text/plain", TEXT),
        (b"text/html;q=0.1234, text/plain", TEXT),
        (b"text/html;q=1.001, text/plain", TEXT),
        (b"text/html;q=.5, text/plain", TEXT),
        (b"text/html;q=, text/plain", TEXT),
        (b"text/html;q, text/plain", TEXT),
        (b"text/html;q=0.5;q=0.6, text/plain;q=0.1", TEXT),
        (b"text/html q=1, text/plain;q=0.1", TEXT),
        (b";q=1, text/plain;q=0.1", TEXT),
        (b"html", None),
        (b"*", None),
        (b"text", None),
        (b"*/html", None),
    ],
)
def test_the_media_type_is_the_best_that_is_accepted(value: bytes | None, chosen: bytes | None) -> None:
    assert choose_media_type(value, TYPES) == chosen


def test_without_accept_the_first_type_is_as_good_as_any() -> None:
    assert choose_media_type(None, (JSON, HTML)) == JSON


PARAMETERS = st.sampled_from([b"", b"", b"", b"charset=utf-8", b"level=1", b'a=", text/html;q=1,"', b'a="\\","'])
MEDIA_RANGES = st.tuples(
    st.sampled_from([HTML, JSON, TEXT, b"text/*", b"application/*", b"*/*", b"image/png"]),
    PARAMETERS,
    st.none() | st.sampled_from([0, 1, 500, 999, 1000]),
)
MALFORMED = st.sampled_from(
    [b"", b"text/html;q=2", b"application/json;q=0.0001", b"text/plain;q=x", b";q=1", b"text/html;q=1;q=1", b"text",
     b'text/html"a"', b"text / html", b"=", b"/", b'"text/html, text/plain"']
)  # fmt: skip


def written(element: bytes | tuple[bytes, bytes, int | None], space: bytes) -> bytes:
    """An element of Accept as a client could write it."""
    if isinstance(element, bytes):
        return element
    media_range, parameter, quality = element
    weight = b"" if quality is None else b"q=%d.%03d" % (quality // 1000, quality % 1000)
    return (space + b";" + space).join(part for part in (media_range, parameter, weight) if part)


def quality_of(media_type: bytes, elements: list[bytes | tuple[bytes, bytes, int | None]]) -> int:
    """By 12.5.1 to the letter, in thousandths: of the ranges that match, the most specific; of equal ones the first."""
    matching: list[tuple[int, int]] = []
    for element in elements:
        if isinstance(element, bytes):
            continue
        media_range, parameter, quality = element
        weight = 1000 if quality is None else quality
        if media_range == media_type and parameter in (b"", b"charset=utf-8"):
            matching.append((3 if parameter else 2, weight))
        elif media_range == media_type.partition(b"/")[0] + b"/*" and not parameter:
            matching.append((1, weight))
        elif media_range == b"*/*" and not parameter:
            matching.append((0, weight))
    return max(matching, key=lambda pair: pair[0])[1] if matching else 0


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    elements=st.lists(MEDIA_RANGES | MALFORMED, max_size=6),
    space=st.sampled_from([b"", b" ", b"\t "]),
    upper=st.booleans(),
    available=st.lists(st.sampled_from(TYPES), min_size=1, unique=True),
)
def test_no_acceptable_media_type_is_better_than_the_chosen_one(
    elements: list[bytes | tuple[bytes, bytes, int | None]], space: bytes, upper: bool, available: list[bytes]
) -> None:
    value = (space + b"," + space).join(written(element, space) for element in elements)
    qualities = {media_type: quality_of(media_type, elements) for media_type in available}
    best = max(available, key=lambda media_type: qualities[media_type])  # max: the first of equals
    chosen = choose_media_type(value.upper() if upper else value, available)
    assert chosen == (best if qualities[best] else None)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([b"text/html", b"*/*", b";", b",", b'"', b"\\", b"q=", b"1", b"\xff"])).map(b"".join))
def test_whatever_is_accepted_something_or_nothing_is_chosen(value: bytes) -> None:
    assert choose_media_type(value, TYPES) in (*TYPES, None)


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"\\", b'"\\', b",", b";", b'";', b"*/*;q=0.1,", b"a;q=1;"])
@pytest.mark.parametrize("first", [b"", b'"'])
def test_a_field_as_long_as_a_head_takes_no_time(piece: bytes, first: bytes) -> None:
    # The end of a quoted string was once looked for from each of its quotes: 3 s for these 30,000 bytes.
    began = time.process_time()
    choose_media_type(first + piece * (30_000 // len(piece)), TYPES)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    ("value", "preferred"),
    [
        (None, True),
        (b"*/*", True),
        (b"text/html", True),
        (b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", True),
        (b"text/html,application/xml;q=0.9,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7", True),
        (b"Text/HTML; charset=UTF-8", True),
        (b"application/json;q=0.9, text/html", True),
        (b"text/html, application/json", True),
        (b"*/*;q=0.1, a/b;q=0", True),
        (b"application/json, text/plain, */*", False),
        (b"*/*, application/json", False),
        (b"text/*, */*", False),
        (b"text/html;q=0.9, application/json", False),
        (b"image/avif,image/webp,*/*", False),
        (b"text/css,*/*;q=0.1", False),
        (b"text/html;q=0, */*", False),
        (b"*/*;q=0", False),
        (b"text/html;q=0", False),
        (b"text/html;level=1", False),
        (b"", False),
    ],
)
def test_the_client_prefers_the_highest_quality_the_more_specific_and_then_the_first(
    value: bytes | None, preferred: bool
) -> None:
    assert prefers(value, HTML) is preferred


# -- long lists -------------------------------------------------------------------------------------------------


def members(name: bytes, count: int) -> list[bytes]:
    return [name % number for number in range(count)]


@pytest.mark.parametrize("count", [LIST_MEMBERS_MAX - 1, LIST_MEMBERS_MAX, LIST_MEMBERS_MAX + 1, 2000])
def test_of_a_long_list_of_preferences_the_rest_is_ignored(count: int) -> None:
    read = min(count, LIST_MEMBERS_MAX)
    assert list(parse_accept(b", ".join(members(b"a/%d", count)))) == members(b"a/%d", read)
    assert list(parse_accept_encoding(b", ".join(members(b"a%d", count)))) == members(b"a%d", read)
    assert choose_media_type(b",".join([*members(b"a/%d", count), HTML]), TYPES) == (
        HTML if read == count < 64 else None
    )


@pytest.mark.parametrize(("count", "read"), [(LIST_MEMBERS_MAX, True), (LIST_MEMBERS_MAX + 1, False), (9000, False)])
def test_a_list_of_too_many_tags_or_ranges_counts_as_malformed(count: int, read: bool) -> None:
    tags = b", ".join(members(b'"%d"', count))
    assert (parse_entity_tags(tags) is not None) is read
    assert matches_any(tags, b'"0"', strongly=False) is read
    assert (parse_ranges(b"bytes=" + b",".join(members(b"%d-", count)), 10**6) is not None) is read


@pytest.mark.parametrize("count", [LIST_MEMBERS_MAX, LIST_MEMBERS_MAX + 1])
def test_a_condition_on_too_many_tags_fails_or_is_not_met(count: int) -> None:
    tags = b", ".join([b'"v1"', *members(b'"%d"', count - 1)])
    few = count <= LIST_MEMBERS_MAX
    # If-None-Match gets the whole file; If-Match gets nothing, rather than a version that it may not mean.
    not_modified = evaluate(Conditions(if_none_match=tags), CURRENT, NOW)
    assert not_modified is (Verdict.NOT_MODIFIED if few else Verdict.PROCEED)
    assert evaluate(Conditions(if_match=tags), CURRENT, NOW) is (Verdict.PROCEED if few else Verdict.FAILED)


# -- content codings (12.5.3) -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("if_range", "is_tag"), [(b'"v1"', True), (b'W/"v1"', True), (DATE, False), (b"v1", False), (b"", False)]
)
def test_if_range_holds_a_tag_or_a_date(if_range: bytes, is_tag: bool) -> None:
    assert is_entity_tag(if_range) is is_tag  # 13.1.5


@pytest.mark.parametrize(
    ("value", "qualities"),
    [
        (b"", {}),
        (b"gzip", {b"gzip": 1.0}),
        (b" gzip ; q=0.5 ,br;Q=1.000,, *;q=0", {b"gzip": 0.5, b"br": 1.0, b"*": 0.0}),
        (b"x-gzip;q=0.2, gzip", {b"gzip": 0.2}),
        (b"gzip;q=2, br;q=-1, zstd;q=0.1234, a;q=, b;x=1, c;q=0.5;x", {}),
        (b";q=1, identity;q=0.", {b"identity": 0.0}),
    ],
)
def test_qualities_are_read_and_malformed_elements_left_out(value: bytes, qualities: dict[bytes, float]) -> None:
    assert parse_accept_encoding(value) == qualities


ELEMENTS = st.tuples(
    st.sampled_from([b"br", b"zstd", b"gzip", b"identity", b"*", b"deflate"]), st.sampled_from([0, 1, 500, 999, 1000])
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    elements=st.lists(ELEMENTS, max_size=5, unique_by=lambda pair: pair[0]),
    available=st.sets(st.sampled_from([b"br", b"zstd", b"gzip"])),
)
def test_codings_that_are_accepted_are_ranked_the_best_first(
    elements: list[tuple[bytes, int]], available: set[bytes]
) -> None:
    listed = dict(elements)
    value = b",".join(b"%s;q=%d.%03d" % (name, quality // 1000, quality % 1000) for name, quality in elements)

    def rank(coding: bytes) -> float:
        if coding in listed:
            return listed[coding]
        return listed.get(b"*", 0.5 if coding == b"identity" else 0)

    candidates = [coding for coding in (b"br", b"zstd", b"gzip") if coding in available] + [b"identity"]
    acceptable = [coding for coding in candidates if rank(coding) > 0]
    assert rank_codings(value, available) == sorted(acceptable, key=rank, reverse=True)  # it keeps the order of equals


def test_without_the_field_everybody_gets_what_everybody_reads() -> None:
    assert rank_codings(None, [b"br", b"gzip"]) == [b"identity"]
