"""What is answered for static files, as pure decisions. Sections are of RFC 9110 unless said."""

from __future__ import annotations

import base64
import email
import email.policy
import itertools
import json
import re
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, NamedTuple
from urllib.parse import urljoin

import pytest
from exchanges import PASSWORD_HASH
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve import static
from ringserve.config.globs import compile_glob
from ringserve.config.rules import AuthRule, CacheRule, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import SiteConfig
from ringserve.files.directory import Item
from ringserve.files.entries import Directory, Entry, Failure, File, Key
from ringserve.http import negotiation, semantics
from ringserve.http.dates import format_date
from ringserve.http.heads import CONFIGURED_FIELDS, Request
from ringserve.http.negotiation import CODINGS
from ringserve.http.request import Limits, Parser
from ringserve.http.response import FileSlice, Response, SharedDescriptor
from ringserve.http.semantics import KNOWN_METHODS, LIST_MEMBERS_MAX, content_hash, locate
from ringserve.responders.listing import DATA_PAGE_ITEMS, PAGE_ITEMS
from ringserve.responders.policy import Site
from ringserve.responders.steps import Claim, Lookup, Question, Verified
from ringserve.ring.world import FileStatus
from ringserve.static import INDEX, PAGES, read_credentials, responder

PARSER = Parser(Limits(32 * 1024, 8 * 1024, 100), CONFIGURED_FIELDS)
MODIFIED = 784_111_777
NOW = 1_700_000_000.0
LONG_AFTER_NS = 1_700_000_000 * 10**9
BODY = bytes(range(100))
DATE = format_date(MODIFIED)
respond = responder(bytes(16))


def request_of(method: bytes = b"GET", target: bytes = b"/a.txt", *fields: bytes) -> Request:
    return PARSER.parse(b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n")


def status_with(size: int, modified: int = MODIFIED) -> FileStatus:
    return FileStatus(0o100644, 1, 2, size, modified * 1_000_000_000, modified * 1_000_000_000)


def must_not_close(fd: int) -> None:
    raise AssertionError(f"a responder closes nothing, descriptor {fd} included")


def in_memory(body: bytes = BODY, modified: int = MODIFIED, path: bytes = b"a.txt", coding: bytes = b"") -> File:
    return File(path, status_with(len(body), modified), body, None, LONG_AFTER_NS, coding, content_hash(body))


def on_disk(size: int = 100, modified: int = MODIFIED, path: bytes = b"a.txt") -> File:
    descriptor = SharedDescriptor(7, must_not_close)
    return File(path, status_with(size, modified), None, descriptor, LONG_AFTER_NS, digest=content_hash(path))


def with_siblings(source: File, *codings: bytes) -> File:
    """A file, and precompressed ones of it whose bytes are their names."""
    for coding in codings:
        path = source.path + CODINGS[coding]
        source.siblings = {**source.siblings, coding: in_memory(path, source.validators.modified or 0, path, coding)}
    return source


def values_of(response: Response) -> dict[bytes, bytes]:
    values = dict(response.fields)
    assert len(values) == len(response.fields), "no field stands twice"
    return values


def body_of(response: Response) -> bytes:
    assert all(isinstance(segment, bytes) for segment in response.body)
    return b"".join(segment for segment in response.body if isinstance(segment, bytes))


TAG = in_memory().validators.entity_tag
PLAIN = Site(SiteConfig())


class World:
    """A file system, and people who know a password. looked_up, claims: what was asked for, in order. roots: below
    which.
    """

    def __init__(self, entries: dict[bytes, Entry], password: bytes | None = None, busy: bool = False) -> None:
        self.entries = entries
        self.password = password
        self.busy = busy
        self.looked_up: list[bytes] = []
        self.roots: set[int] = set()
        self.claims: list[Claim] = []

    def answer(self, wanted: Question) -> Entry | Verified:
        assert wanted.lasts, "or nothing that follows from it would be prepared"
        if isinstance(wanted, Claim):
            self.claims.append(wanted)
            return Verified(wanted.password == self.password and not self.busy, self.busy)
        assert isinstance(wanted, Lookup), "a file's responder asks nothing else"
        root, path = wanted.key
        self.looked_up.append(path)
        self.roots.add(root)
        return self.entries.get(path) or Failure(path, 404)


def respond_in(world: World, request: Request, site: Site = PLAIN, now: float = NOW) -> Response:
    steps = respond(request, site, now)
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(world.answer(wanted))
    except StopIteration as done:
        response: Response = done.value
        return response


def plan(request: Request) -> Lookup | Response:
    """What is looked up first, or the answer without a look (but for the site's page of an error)."""
    steps = respond(request, PLAIN, NOW)
    try:
        wanted = next(steps)
    except StopIteration as done:
        response: Response = done.value
        return response
    assert isinstance(wanted, Lookup)
    return respond_in(World({}), request) if wanted.key.path in PAGES.values() else wanted


def answer(request: Request, found: Entry, now: float) -> Response:
    """What is answered when this is found first."""
    wanted = plan(request)
    assert isinstance(wanted, Lookup)
    return respond_in(World({wanted.key.path: found}), request, now=now)


# -- plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", INDEX),
        (b"/?q", INDEX),
        (b"/a.txt", b"a.txt"),
        (b"/a/", b"a/" + INDEX),
        (b"/a/b/..", b"a/" + INDEX),
        (b"/%61%20b?q", b"a b"),
        (b"//etc/passwd", b"etc/passwd"),
        (b"http://elsewhere.example/x", b"x"),
        (b"/.well-known/security.txt", b".well-known/security.txt"),
    ],
)
def test_a_target_is_looked_up(method: bytes, target: bytes, path: bytes) -> None:
    question = plan(request_of(method, target))
    assert isinstance(question, Lookup)
    assert question.key == Key(0, path)


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("target", "status"),
    [
        (b"/..", 400),
        (b"/a%00", 400),
        (b"/%2f", 400),
        (b"/%", 400),
        (b"*", 400),
        (b"a.example:443", 400),
        (b"/.env", 404),
        (b"/.git/config", 404),
        (b"/a/.b/", 404),
        (b"/.well-known/.b", 404),
    ],
)
def test_a_target_that_names_nothing_is_answered_without_a_look(method: bytes, target: bytes, status: int) -> None:
    response = plan(request_of(method, target))
    assert isinstance(response, Response)
    assert response.status == status
    assert bool(response.body) is (method == b"GET")
    assert response.content_length


@pytest.mark.parametrize("target", [b"/a.txt", b"/", b"/.env", b"/..", b"*"])
@pytest.mark.parametrize("method", sorted(KNOWN_METHODS - {b"GET", b"HEAD", b"OPTIONS"}))
def test_a_method_that_is_known_but_not_allowed_is_405_with_allow(method: bytes, target: bytes) -> None:
    response = plan(request_of(method, target))  # 15.5.6
    assert isinstance(response, Response)
    assert response.status == 405
    assert values_of(response)[b"Allow"] == b"GET, HEAD, OPTIONS"


@pytest.mark.parametrize("method", [b"BREW", b"get", b"GETT", b"PROPFIND", b"G"])
def test_an_unknown_method_is_501(method: bytes) -> None:
    response = plan(request_of(method))  # 15.6.2; methods are case-sensitive (9.1)
    assert isinstance(response, Response)
    assert response.status == 501
    assert b"Allow" not in values_of(response)


@pytest.mark.parametrize("target", [b"*", b"/", b"/a.txt", b"/.env", b"http://a/x"])
def test_options_tells_what_is_allowed(target: bytes) -> None:
    assert plan(request_of(b"OPTIONS", target)) == Response(
        204, ((b"Allow", b"GET, HEAD, OPTIONS"),), content_length=None
    )


@pytest.mark.parametrize("target", [b"/..", b"/%", b"**", b"a.example:443"])
def test_options_of_a_bad_target_is_400(target: bytes) -> None:
    response = plan(request_of(b"OPTIONS", target))
    assert isinstance(response, Response)
    assert response.status == 400


# -- files ------------------------------------------------------------------------------------------------------


def test_a_file_is_answered_with_its_fields() -> None:
    response = answer(request_of(), in_memory(), NOW)
    assert response == Response(
        200,
        (
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"X-Content-Type-Options", b"nosniff"),
            (b"ETag", TAG),
            (b"Last-Modified", DATE),
            (b"Accept-Ranges", b"bytes"),
            (b"Cache-Control", b"no-cache"),
        ),
        (BODY,),
        100,
    )


def test_a_whole_file_in_memory_is_not_copied() -> None:
    file = in_memory()
    assert answer(request_of(), file, NOW).body[0] is file.body
    assert answer(request_of(b"GET", b"/a.txt", b"Range: bytes=0-"), file, NOW).body[0] is file.body


def test_a_file_that_is_not_in_memory_is_a_slice_of_its_descriptor() -> None:
    file = on_disk()
    assert file.descriptor is not None
    assert answer(request_of(), file, NOW).body == (FileSlice(file.descriptor, 0, 100),)
    part = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=10-19"), file, NOW)
    assert part.body == (FileSlice(file.descriptor, 10, 10),)
    assert file.descriptor.users == 0, "whoever sends it holds it"


def test_an_empty_file_has_no_segments() -> None:
    for file in (in_memory(b""), on_disk(0)):
        response = answer(request_of(), file, NOW)
        assert (response.status, response.body, response.content_length) == (200, (), 0)


def test_a_file_has_its_bytes_or_its_descriptor() -> None:
    neither = File(b"a.txt", status_with(100), None, None, now_ns=LONG_AFTER_NS)
    with pytest.raises(AssertionError, match="has its descriptor"):
        answer(request_of(), neither, NOW)


CONDITIONAL = [
    [],
    [b"If-None-Match: " + TAG],
    [b"If-None-Match: *"],
    [b"If-None-Match: W/" + TAG],
    [b"If-None-Match: rubbish"],
    [b"If-Modified-Since: " + DATE],
    [b"If-Match: " + TAG],
    [b'If-Match: "other"'],
    [b"If-Match: *"],
    [b"If-Unmodified-Since: " + DATE],
    [b"If-Unmodified-Since: " + format_date(0)],
    [b"If-Modified-Since: " + DATE, b'If-None-Match: "other"'],
]


@pytest.mark.parametrize("fields", CONDITIONAL)
@pytest.mark.parametrize("found", [in_memory(), on_disk(), in_memory(b""), Directory(b"a.txt"), Failure(b"a.txt", 404)])
def test_head_is_get_without_its_body(fields: list[bytes], found: Entry) -> None:
    get = answer(request_of(b"GET", b"/a.txt", *fields), found, NOW)  # 9.3.2
    head = answer(request_of(b"HEAD", b"/a.txt", *fields), found, NOW)
    assert head.body == ()
    assert (head.status, head.fields, head.content_length) == (get.status, get.fields, get.content_length)


@pytest.mark.parametrize(
    ("fields", "status"),
    list(zip(CONDITIONAL, [200, 304, 304, 304, 200, 304, 200, 412, 200, 200, 412, 200], strict=True)),
)
def test_preconditions_decide_before_anything_else(fields: list[bytes], status: int) -> None:
    assert answer(request_of(b"GET", b"/a.txt", *fields), in_memory(), NOW).status == status
    ranged = answer(request_of(b"GET", b"/a.txt", *fields, b"Range: bytes=0-0"), in_memory(), NOW)
    assert ranged.status == (206 if status == 200 else status)


def test_not_modified_has_the_fields_that_a_cache_updates_and_no_body() -> None:
    whole = values_of(answer(request_of(), in_memory(), NOW))
    response = answer(request_of(b"GET", b"/a.txt", b"If-None-Match: " + TAG), in_memory(), NOW)
    assert (response.status, response.body, response.content_length) == (304, (), None)
    names = (b"ETag", b"Last-Modified", b"Cache-Control")
    assert values_of(response) == {name: whole[name] for name in names}  # 15.4.5


def test_a_file_without_an_honest_date_has_none() -> None:
    file = in_memory(modified=0)
    assert file.validators.modified is None
    for fields in ([], [b"If-Modified-Since: " + DATE], [b"If-Unmodified-Since: " + format_date(0)]):
        response = answer(request_of(b"GET", b"/a.txt", *fields), file, NOW)
        assert response.status == 200
        assert b"Last-Modified" not in values_of(response)
        assert values_of(response)[b"ETag"] == TAG


@pytest.mark.parametrize("fields", [[], [b"If-None-Match: *"], [b"Range: bytes=0-0"]])
def test_last_modified_is_never_in_the_future(fields: list[bytes]) -> None:
    file = in_memory(modified=int(NOW) + 1000)
    response = answer(request_of(b"GET", b"/a.txt", *fields), file, NOW)
    assert values_of(response)[b"Last-Modified"] == format_date(NOW)  # 8.8.2.1


# -- ranges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [in_memory(), on_disk()], ids=["memory", "disk"])
def test_a_single_range_is_206_with_its_place_and_all_fields_of_the_200(file: File) -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=5-14"), file, NOW)
    assert (response.status, response.content_length, response.body_bytes) == (206, 10, 10)
    values = values_of(response)
    assert values[b"Content-Range"] == b"bytes 5-14/100"
    assert values.items() >= values_of(answer(request_of(), file, NOW)).items()  # 15.3.7


@pytest.mark.parametrize("value", [b"bytes=0-0", b"bytes=100-"])
def test_a_range_is_for_get_only(value: bytes) -> None:
    response = answer(request_of(b"HEAD", b"/a.txt", b"Range: " + value), in_memory(), NOW)  # 14.2
    assert response == answer(request_of(b"HEAD"), in_memory(), NOW)


def test_a_range_of_another_version_is_not_looked_at() -> None:
    for if_range, status in ((TAG, 416), (b'"other"', 200)):  # 13.1.5
        fields = [b"Range: bytes=100-", b"If-Range: " + if_range]
        assert answer(request_of(b"GET", b"/a.txt", *fields), in_memory(), NOW).status == status


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    size=st.integers(min_value=0, max_value=100),
    first=st.none() | st.integers(min_value=0, max_value=120),
    last=st.none() | st.integers(min_value=0, max_value=120),
)
def test_what_a_206_announces_is_what_it_carries(size: int, first: int | None, last: int | None) -> None:
    body = BODY[:size]
    spec = b"%s-%s" % tuple(b"" if number is None else b"%d" % number for number in (first, last))
    response = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=" + spec), in_memory(body), NOW)
    assert response.content_length == response.body_bytes
    if response.status == 206:
        unit, _space, place = values_of(response)[b"Content-Range"].partition(b" ")
        span, _slash, total = place.partition(b"/")
        start, end = map(int, span.split(b"-"))
        assert (unit, int(total)) == (b"bytes", size)
        assert body_of(response) == body[start : end + 1] != b""
    elif response.status == 200:
        assert body_of(response) == body
    else:
        assert response.status == 416
        assert values_of(response)[b"Content-Range"] == b"bytes */%d" % size


# -- directories and failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reference"),
    [
        (b"/a", b"./a/"),
        (b"/a/b", b"./b/"),
        (b"/a?q=1&r=//x", b"./a/?q=1&r=//x"),
        (b"/a?", b"./a/?"),
        (b'/a?q="<>%&r[]', b"./a/?q=%22%3C%3E%25&r%5B%5D"),
        (b"/a//b", b"./b/"),
        (b"/javascript:alert(1)", b"./javascript:alert(1)/"),
        (b"//evil.example", b"./evil.example/"),
        (b"//evil.example/..//x", b"./x/"),
        (b"/\\evil.example", b"./%5Cevil.example/"),
        (b"/%5c%5cevil.example", b"./%5C%5Cevil.example/"),
        (b"http://evil.example/a", b"./a/"),
        (b"http://a//evil.example", b"./evil.example/"),
        (b"/a%20b%0d%0aSet-Cookie:x", b"./a%20b%0D%0ASet-Cookie:x/"),
        (b"/%e9%3f%23", b"./%E9%3F%23/"),
    ],
)
def test_a_directory_without_its_slash_is_redirected_on_this_host(target: bytes, reference: bytes) -> None:
    request = request_of(b"GET", target)
    wanted = plan(request)
    assert isinstance(wanted, Lookup)
    response = answer(request, Directory(wanted.key.path), NOW)
    assert (response.status, response.body, response.content_length) == (308, (), 0)
    assert values_of(response)[b"Location"] == reference
    # A client behind a proxy that takes a prefix away keeps the prefix (RFC 3986 5.2).
    address = b"http://a/prefix" + target.removeprefix(b"http://a").removeprefix(b"http://evil.example")
    followed = urljoin(address, reference)
    assert followed.partition(b"?")[0].startswith(b"http://a/prefix/")
    assert locate(followed.replace(b"/prefix", b"", 1)).path == wanted.key.path + b"/"


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from((b"/", b"\\", b"..", b".", b"%5c", b"%09", b"evil", b"@", b":", b"?", b"%2e")), max_size=9)
)
def test_no_directory_is_redirected_to_another_host(pieces: list[bytes]) -> None:
    request = request_of(b"GET", b"/" + b"".join(pieces))
    wanted = plan(request)
    if isinstance(wanted, Response):
        assert wanted.status in (400, 404)
        return
    if wanted.key.path.endswith(INDEX):
        return  # a directory by its name; see the next test
    reference = values_of(answer(request, Directory(wanted.key.path), NOW))[b"Location"]
    assert reference[:2] == b"./"
    assert reference[2:3] not in (b"/", b"\\", b"\t")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("target", [b"/", b"/?q", b"/a/", b"/a/?q"])
def test_an_index_that_is_a_directory_is_no_index(method: bytes, target: bytes) -> None:
    # The target has its slash already: a redirect to it would go round in circles, and that of the root would be
    # `//`, a reference to another host with an empty name.
    request = request_of(method, target)
    wanted = plan(request)
    assert isinstance(wanted, Lookup)
    assert answer(request, Directory(wanted.key.path), NOW).status == 404


@pytest.mark.parametrize("status", [403, 404, 500, 503])
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_failure_is_answered_with_its_status_and_names_no_path(method: bytes, status: int) -> None:
    response = answer(request_of(method, b"/secret.txt", b"Range: bytes=0-0"), Failure(b"secret.txt", status), NOW)
    assert response.status == status
    assert b"secret" not in body_of(response)
    assert bool(response.body) is (method == b"GET")
    assert b"ETag" not in values_of(response)


# -- several ranges (14.6, 15.3.7) ------------------------------------------------------------------------------


def parts_of(response: Response) -> list[tuple[bytes, bytes]]:
    """Content-Range and bytes of each part of a multipart response in memory, read by the standard library."""
    values = values_of(response)
    message = email.message_from_bytes(
        b"Content-Type: " + values[b"Content-Type"] + b"\r\n\r\n" + body_of(response), policy=email.policy.HTTP
    )
    assert message.is_multipart()
    assert not message.defects
    parts = []
    for part in message.get_payload():
        assert isinstance(part, EmailMessage)
        assert part.get_content_type() == "text/plain"
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        parts.append((part["Content-Range"].encode(), payload))
    return parts


TEXT = bytes(65 + number % 26 for number in range(2000))


def test_several_ranges_are_parts_in_the_order_asked_for_with_an_exact_length() -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=1500-1509, 0-4, -1"), in_memory(TEXT), NOW)
    assert response.status == 206
    assert response.content_length == len(body_of(response))
    assert b"Content-Range" not in values_of(response)
    assert parts_of(response) == [
        (b"bytes 1500-1509/2000", TEXT[1500:1510]),
        (b"bytes 0-4/2000", TEXT[:5]),
        (b"bytes 1999-1999/2000", TEXT[-1:]),
    ]


def test_parts_of_a_file_on_disk_are_slices_between_their_heads() -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=0-4, 1500-1509"), on_disk(2000), NOW)
    slices = [(part.offset, part.length) for part in response.body if isinstance(part, FileSlice)]
    assert slices == [(0, 5), (1500, 10)]
    assert response.content_length == response.body_bytes


# -- content codings (12.5.3) -----------------------------------------------------------------------------------


def test_a_file_that_has_no_accepted_coding_is_406_and_says_what_it_varies_by() -> None:
    file = in_memory()
    request = request_of(b"GET", b"/a.txt", b"Accept-Encoding: identity;q=0")
    assert answer(request, file, NOW).status == 406
    assert b"Vary" not in values_of(answer(request, file, NOW))
    file.siblings = {**file.siblings, b"gzip": in_memory(b"gz!", path=b"a.txt.gz", coding=b"gzip")}
    assert body_of(answer(request_of(b"GET", b"/a.txt", b"Accept-Encoding: gzip"), file, NOW)) == b"gz!"
    refused = answer(request_of(b"GET", b"/a.txt", b"Accept-Encoding: *;q=0"), file, NOW)
    assert refused.status == 406
    assert values_of(refused)[b"Vary"] == b"Accept-Encoding"


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [(None, None), (b"gzip", b"gzip"), (b"gzip, br", b"br"), (b"br;q=0, *", b"gzip"), (b"zstd", None)],
)
def test_a_coding_has_the_fields_of_its_file_and_says_that_there_are_others(
    accepts: bytes | None, coding: bytes | None
) -> None:
    file = with_siblings(in_memory(), b"gzip", b"br")
    fields = [] if accepts is None else [b"Accept-Encoding: " + accepts]
    chosen = file if coding is None else file.siblings[coding]
    mine = b"If-Range: " + chosen.validators.entity_tag
    for more, status in (([], 200), ([b"Range: bytes=0-0", mine], 206), ([b"If-None-Match: *"], 304)):
        response = answer(request_of(b"GET", b"/a.txt", *fields, *more), file, NOW)
        values = values_of(response)
        assert response.status == status
        assert values[b"Vary"] == b"Accept-Encoding"
        assert values[b"ETag"] == chosen.validators.entity_tag
        assert values.get(b"Content-Encoding") == (None if status == 304 else coding)
        assert values.get(b"Content-Type") == (None if status == 304 else file.content_type)
    for field, status in ((b'If-Match: "x"', 412), (b"Range: bytes=900-", 416)):
        response = answer(request_of(b"GET", b"/a.txt", *fields, field), file, NOW)
        assert (response.status, values_of(response)[b"Vary"]) == (status, b"Accept-Encoding")


CODED = with_siblings(in_memory(), b"gzip", b"br")
GZIP = CODED.siblings[b"gzip"]
OWN_TAG, GZIP_TAG = CODED.validators.entity_tag, GZIP.validators.entity_tag
PART = b"Range: bytes=2-4"


@pytest.mark.parametrize(
    ("accepts", "if_range", "status", "coding"),
    [
        # A part is one of the file itself
        (None, None, 206, None),
        (b"gzip, br", None, 206, None),
        (b"gzip;q=1, identity;q=0.1", None, 206, None),
        (b"*", None, 206, None),
        # What If-Range names by a tag, whatever is accepted
        (b"gzip", OWN_TAG, 206, None),
        (b"gzip, identity;q=0", OWN_TAG, 206, None),
        (b"*;q=0", OWN_TAG, 206, None),
        (b"gzip", GZIP_TAG, 206, b"gzip"),
        (b"br", GZIP_TAG, 206, b"gzip"),
        (None, GZIP_TAG, 206, b"gzip"),
        # Another version: whole, in the best coding
        (b"gzip", b'"other"', 200, b"gzip"),
        (b"gzip", b"W/" + OWN_TAG, 200, b"gzip"),
        (None, b'"other"', 200, None),
        # A date does not say of which coding
        (None, DATE, 206, None),
        (b"zstd", DATE, 206, None),
        (b"gzip;q=0.5, identity", DATE, 206, None),
        (b"gzip", DATE, 200, b"gzip"),
        (b"gzip, identity;q=0", DATE, 200, b"gzip"),
        (b"gzip", format_date(MODIFIED + 1), 200, b"gzip"),
        # A client that does not take the file itself
        (b"gzip, identity;q=0", None, 206, b"gzip"),
        (b"gzip;q=0.5, *;q=0", None, 206, b"gzip"),
        (b"*;q=0", None, 406, None),
        (b"identity;q=0", b'"other"', 406, None),
    ],
)
def test_a_range_is_of_the_file_itself_unless_the_client_has_or_wants_a_coding(
    accepts: bytes | None, if_range: bytes | None, status: int, coding: bytes | None
) -> None:
    fields = [PART]
    fields += [] if accepts is None else [b"Accept-Encoding: " + accepts]
    fields += [] if if_range is None else [b"If-Range: " + if_range]
    response = answer(request_of(b"GET", b"/a.txt", *fields), CODED, NOW)
    values = values_of(response)
    assert (response.status, values.get(b"Content-Encoding"), values[b"Vary"]) == (status, coding, b"Accept-Encoding")
    file = CODED if coding is None else CODED.siblings[coding]
    if status < 400:
        assert file.body is not None
        assert values[b"ETag"] == file.validators.entity_tag
        assert body_of(response) == (file.body[2:5] if status == 206 else file.body)
    if status == 206:
        assert values[b"Content-Range"] == b"bytes 2-4/%d" % file.size


@pytest.mark.parametrize("value", [b"bytes=5-2", b"lines=1-2", b"bytes=0-,0-", b"bytes=" + b"0-0," * 64 + b"0-0"])
def test_a_range_that_does_not_count_is_no_reason_for_another_coding(value: bytes) -> None:
    fields = [b"Accept-Encoding: gzip"]
    whole = answer(request_of(b"GET", b"/a.txt", *fields), CODED, NOW)
    assert answer(request_of(b"GET", b"/a.txt", *fields, b"Range: " + value), CODED, NOW) == whole
    assert values_of(whole)[b"Content-Encoding"] == b"gzip"


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([PART, b"If-Match: " + OWN_TAG], 206),
        ([PART, b"If-Match: " + GZIP_TAG], 412),
        ([PART, b"If-None-Match: " + OWN_TAG], 304),
        ([PART, b"If-None-Match: " + GZIP_TAG], 206),
        ([PART, b"If-Match: " + GZIP_TAG, b"If-Range: " + GZIP_TAG], 206),
        ([PART, b"If-None-Match: " + GZIP_TAG, b"If-Range: " + GZIP_TAG], 304),
        ([PART, b"If-Match: " + GZIP_TAG, b"If-Range: " + DATE], 200),
        ([b"Range: lines=1", b"If-Match: " + GZIP_TAG], 200),
        ([b"If-Match: " + GZIP_TAG], 200),
    ],
)
def test_conditions_are_about_the_representation_that_is_answered_with(fields: list[bytes], status: int) -> None:
    assert answer(request_of(b"GET", b"/a.txt", b"Accept-Encoding: gzip", *fields), CODED, NOW).status == status


@pytest.mark.parametrize(("if_range", "size"), [(None, 100), (GZIP_TAG, len(GZIP.body or b""))])
def test_an_unsatisfiable_range_tells_the_size_of_what_it_is_of(if_range: bytes | None, size: int) -> None:
    fields = [b"Accept-Encoding: gzip", b"Range: bytes=100-"] + ([b"If-Range: " + if_range] if if_range else [])
    response = answer(request_of(b"GET", b"/a.txt", *fields), CODED, NOW)
    assert (response.status, values_of(response)[b"Content-Range"]) == (416, b"bytes */%d" % size)
    fields[1] = b"Range: bytes=0-0,-1"
    assert values_of(answer(request_of(b"GET", b"/a.txt", *fields), CODED, NOW))[b"ETag"] == (if_range or OWN_TAG)


def test_head_has_the_fields_of_the_coding_whatever_range_it_asks_for() -> None:
    fields = [b"Accept-Encoding: gzip", PART]
    head = answer(request_of(b"HEAD", b"/a.txt", *fields), CODED, NOW)
    assert (head.status, values_of(head)[b"ETag"]) == (200, GZIP_TAG)  # 14.2


# -- the order of decisions -------------------------------------------------------------------------------------

ALADDIN = b"Authorization: Basic " + base64.b64encode(b"aladdin:open sesame")
SESAME = b"open sesame"


def auth(*globs: str, realm: str = "Restricted") -> AuthRule:
    return AuthRule(globs, realm, (("aladdin", PASSWORD_HASH),))


EVERYTHING = Site(
    SiteConfig(
        listing=True,
        spa=True,
        clean_urls=True,
        redirects=(RedirectRule("/moved/**", "/new/$1"),),
        rewrites=(RewriteRule("/alias/**", "/$1"), RewriteRule("/out*/*", "/$1/$2")),
        auth=(auth("/private/**", "/moved/**", realm="P"), auth("/alias/vault/**", "/vault/**", realm="V")),
    )
)


@pytest.mark.parametrize(
    ("method", "target", "status", "looked_up"),
    [
        # The method, then the target
        (b"BREW", b"/..", 501, []),
        (b"BREW", b"/moved/a", 501, []),
        (b"POST", b"/..", 405, []),
        (b"POST", b"/private/a", 405, []),
        (b"POST", b"/moved/a", 405, []),
        (b"OPTIONS", b"/moved/a", 204, []),
        (b"OPTIONS", b"/private/a", 204, []),
        (b"GET", b"/moved/%2f", 400, []),
        # A redirect before what is hidden or protected
        (b"GET", b"/moved/.env", 308, []),
        (b"GET", b"/moved/a", 308, []),
        # What is hidden before who may read it, and before a rewrite
        (b"GET", b"/private/.env", 404, [b"404.html"]),
        (b"GET", b"/alias/.env", 404, [b"404.html"]),
        (b"GET", b"/ringserve.toml", 404, [b"404.html"]),
        # A rewrite that leads nowhere
        (b"GET", b"/out../x", 404, [b"404.html"]),
        # Who may read it before what is there, by either of its names
        (b"GET", b"/private/missing", 401, [b"401.html"]),
        (b"GET", b"/private/", 401, [b"401.html"]),
        (b"GET", b"/alias/private/missing", 401, [b"401.html"]),
        (b"GET", b"/alias/vault/missing", 401, [b"401.html"]),
        # The file, its clean URL, the directory's redirect
        (b"GET", b"/both", 200, [b"both"]),
        (b"GET", b"/page", 200, [b"page", b"page.html"]),
        (b"GET", b"/shadowed", 200, [b"shadowed", b"shadowed.html"]),
        (b"GET", b"/dir", 308, [b"dir", b"dir.html"]),
        # The index, the listing, the application
        (b"GET", b"/docs/", 200, [b"docs/index.html"]),
        (b"GET", b"/dir/", 200, [b"dir/index.html", b"dir.html", b"dir/"]),
        (b"GET", b"/page/", 308, [b"page/index.html", b"page.html", b"page"]),
        (
            b"GET",
            b"/shadowed/",
            200,
            [b"shadowed/index.html", b"shadowed.html", b"shadowed", b"shadowed/", b"index.html"],
        ),
        (b"GET", b"/missing/", 200, [b"missing/index.html", b"missing.html", b"missing/", b"index.html"]),
        (b"GET", b"/missing", 200, [b"missing", b"missing.html", b"index.html"]),
        (b"GET", b"/missing.js", 404, [b"missing.js", b"missing.js.html", b"404.html"]),
        (b"GET", b"/jane.doe", 200, [b"jane.doe", b"jane.doe.html", b"index.html"]),
        (b"GET", b"/x.y/missing", 200, [b"x.y/missing", b"x.y/missing.html", b"index.html"]),
    ],
)
def test_the_first_decision_that_applies_is_taken(
    method: bytes, target: bytes, status: int, looked_up: list[bytes]
) -> None:
    names = (b"index.html", b"both", b"both.html", b"page.html", b"shadowed.html", b"docs/index.html")
    world = World({name: in_memory(name, path=name) for name in names})
    for name in (b"shadowed", b"dir", b"dir/", b"docs/", b""):
        world.entries[name] = Directory(name)
    response = respond_in(world, request_of(method, target), EVERYTHING)
    assert (response.status, world.looked_up) == (status, looked_up)
    assert world.claims == [], "nobody has said who asks"


@pytest.mark.parametrize("status", [403, 500, 503])
@pytest.mark.parametrize(
    ("target", "failing"),
    [
        (b"/page", b"page"),
        (b"/page", b"page.html"),
        (b"/docs/", b"docs/index.html"),
        (b"/docs/", b"docs/"),
        (b"/missing", b"index.html"),
        (b"/missing/", b"index.html"),
    ],
)
def test_a_failure_on_the_way_is_told_and_nothing_is_concluded_from_it(
    status: int, target: bytes, failing: bytes
) -> None:
    # Out of descriptors, a page would otherwise not be found (404), and a crawler forgets what is not found.
    world = World({failing: Failure(failing, status)})
    response = respond_in(world, request_of(b"GET", target), EVERYTHING)
    assert response.status == status
    assert world.looked_up[:-1][-1:] == [failing], "then only the page for the error"


def test_what_ends_with_a_slash_is_no_file() -> None:
    world = World({b"docs/": in_memory(path=b"docs/")})
    with pytest.raises(AssertionError, match="no file"):
        respond_in(world, request_of(b"GET", b"/docs/"), EVERYTHING)


# -- OPTIONS (9.3.7) --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [b"*", b"/", b"/missing"])
@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ([], {}),
        ([b"Origin: https://app.example"], {b"Access-Control-Allow-Origin"}),
        (
            [b"Origin: https://app.example", b"Access-Control-Request-Method: GET"],
            {b"Access-Control-Allow-Origin", b"Access-Control-Allow-Methods"},
        ),
        ([b"Origin: https://evil.example", b"Access-Control-Request-Method: GET"], {}),
    ],
)
def test_options_answers_a_preflight(target: bytes, fields: list[bytes], allowed: set[bytes]) -> None:
    site = Site(SiteConfig(cors_origin=("https://app.example",)))
    world = World({})
    response = respond_in(world, request_of(b"OPTIONS", target, *fields), site)
    values = values_of(response)
    assert (response.status, response.body, response.content_length) == (204, (), None)
    assert values[b"Allow"] == b"GET, HEAD, OPTIONS"
    assert b"Origin" in values[b"Vary"]
    told = {b"Access-Control-Allow-Origin", b"Access-Control-Allow-Methods"} & set(values)
    assert told == set(allowed)
    assert world.looked_up == []


# -- redirects and rewrites -------------------------------------------------------------------------------------


def test_a_redirect_has_an_address_and_no_body() -> None:
    site = Site(SiteConfig(redirects=(RedirectRule("/a", "/b", 302),)))
    for method in (b"GET", b"HEAD"):
        assert respond_in(World({}), request_of(method, b"/a?q"), site) == Response(
            302,
            ((b"Location", b"/b?q"), (b"X-Content-Type-Options", b"nosniff"), (b"Cache-Control", b"no-cache")),
        )


@pytest.mark.parametrize(
    ("target", "reference"),
    [
        (b"/docs?q=1", b"./docs/?q=1"),
        (b"/docs?", b"./docs/?"),
        (b"/alias/docs?q=1", b"../docs/?q=1"),
        (b"http://a/alias/docs?q=/", b"../docs/?q=/"),
        (b"/in/a/deep/place", b"../../../docs/"),
        (b"/here", b"./docs/"),
    ],
)
def test_a_directory_is_redirected_with_the_query_also_behind_a_rewrite(target: bytes, reference: bytes) -> None:
    rules = {"/alias/**": "/$1?of=the-rule", "/in/a/deep/place": "/docs", "/here": "/docs"}
    site = Site(SiteConfig(rewrites=tuple(RewriteRule(source, path) for source, path in rules.items())))
    response = respond_in(World({b"docs": Directory(b"docs")}), request_of(b"GET", target), site)
    assert (response.status, values_of(response)[b"Location"]) == (308, reference)


def test_a_rewrite_does_not_lead_to_what_is_hidden() -> None:
    site = Site(SiteConfig(rewrites=(RewriteRule("/a", "/.env"), RewriteRule("/b", "/ringserve.toml"))))
    world = World({name: in_memory(path=name) for name in (b".env", b"ringserve.toml")})
    for target in (b"/a", b"/b"):
        assert respond_in(world, request_of(b"GET", target), site).status == 404
    assert world.looked_up == [b"404.html"] * 2


def test_the_query_of_a_request_is_that_of_the_rewritten_one() -> None:
    site = Site(SiteConfig(listing=True, rewrites=(RewriteRule("/alias/", "/docs/"),)))
    world = World({b"docs/": Directory(b"docs/", (Item(b"a", False, 1, 0), Item(b"b", False, 2, 0)))})
    request = request_of(b"GET", b"/alias/?sort=size&order=desc", b"Accept: text/plain")
    assert body_of(respond_in(world, request, site)) == b"b\na\n"


def test_fields_are_by_the_path_asked_for_and_by_the_file_that_answers() -> None:
    site = Site(
        SiteConfig(
            rewrites=(RewriteRule("/alias/*", "/real/$1"),),
            headers=tuple(
                HeaderRule((glob,), ((f"X-{number}", "yes"),))
                for number, glob in enumerate(("/alias/*", "/real/*", "/other/*"))
            ),
            cache=(CacheRule(("/alias/*",), "max-age=1"), CacheRule(("/real/*",), "max-age=2")),
        )
    )
    world = World({b"real/a.txt": in_memory(path=b"real/a.txt")})
    for fields in ([], [b"If-None-Match: *"], [b"If-Match: x"]):
        values = values_of(respond_in(world, request_of(b"GET", b"/alias/a.txt", *fields), site))
        assert {name for name in values if name.startswith(b"X-") and len(name) == 3} == {b"X-0", b"X-1"}
    assert values_of(respond_in(world, request_of(b"GET", b"/alias/a.txt"), site))[b"Cache-Control"] == b"max-age=2"


def test_a_site_looks_for_its_files_and_pages_below_its_own_root() -> None:
    site = Site(
        SiteConfig(listing=True, spa=True, clean_urls=True, headers=(HeaderRule(("/a.txt",), (("X-A", "yes"),)),)),
        1,
    )
    world = World({b"a.txt": in_memory()})
    response = respond_in(world, request_of(), site)
    assert (body_of(response), values_of(response)[b"X-A"]) == (BODY, b"yes")
    for target in (b"/", b"/b", b"/b/", b"/.b", b"/b.c"):
        assert respond_in(world, request_of(b"GET", target), site).status == 404
    assert world.roots == {1}


# -- clean URLs and applications --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "target", "status", "body"),
    [
        (None, b"/users/7", 200, b"app"),
        (b"text/html,*/*;q=0.8", b"/users/7", 200, b"app"),
        (b"*/*", b"/users/", 200, b"app"),
        (b"text/html", b"/users/7?x=a.js", 200, b"app"),
        (b"text/html", b"/v1.2/users", 200, b"app"),
        (b"text/html", b"/users/jane.doe", 200, b"app"),
        (b"text/html", b"/pkg/lodash@4.17.21", 200, b"app"),
        (b"*/*", b"/search/192.168.1.0", 200, b"app"),
        (b"text/html", b"/map/52.5,13.4", 200, b"app"),
        (b"text/html", b"/users/app.js", 404, None),
        (b"text/html", b"/users/APP.JS", 404, None),
        (b"text/html", b"/missing.html", 404, None),
        (b"text/html", b"/users/.", 200, b"app"),
        (b"text/html", b"/.users", 404, None),
        (b"application/json", b"/users/7", 404, None),
        (b"application/json, text/plain, */*", b"/users/7", 404, None),
        (b"text/html;q=0, */*", b"/users/7", 404, None),
        (b"image/png", b"/users/7", 404, None),
        (b"image/png", b"/about", 200, b"about"),
    ],
)
def test_an_application_answers_for_pages_and_for_nothing_else(
    accept: bytes | None, target: bytes, status: int, body: bytes | None
) -> None:
    site = Site(SiteConfig(spa=True, clean_urls=True))
    names = {b"index.html": b"app", b"about.html": b"about"}
    world = World({name: in_memory(content, path=name) for name, content in names.items()})
    response = respond_in(world, request_of(b"GET", target, *([] if accept is None else [b"Accept: " + accept])), site)
    assert response.status == status
    assert body is None or body_of(response) == body
    depends = (b".users", b"about", b".js", b".html")
    if not target.lower().endswith(depends):
        assert values_of(response)[b"Vary"] == b"Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Fetch-Site", (
            "another client gets something else"
        )


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: document", b"Sec-Fetch-Site: none"], 200),
        ([b"Sec-Fetch-Mode: navigate", b"Sec-Fetch-Dest: iframe", b"Accept: image/png"], 200),
        *(
            ([b"Sec-Fetch-Mode: %s" % mode, b"Sec-Fetch-Dest: %s" % destination, b"Accept: */*"], 404)
            for mode, destination in (
                (b"cors", b"empty"), (b"same-origin", b"empty"), (b"no-cors", b"script"), (b"no-cors", b"style"),
                (b"no-cors", b"image"), (b"cors", b"font"), (b"cors", b"manifest"), (b"websocket", b"empty"),
            )
        ),
        ([b"Sec-Fetch-Dest: script", b"Accept: text/html"], 404),
        ([b"Sec-Fetch-Site: same-origin", b"Accept: text/html"], 404),
        ([b"Sec-Fetch-Mode: NAVIGATE"], 404),
    ],
)  # fmt: skip
def test_only_a_navigation_gets_the_page_of_an_application_from_a_browser(
    method: bytes, fields: list[bytes], status: int
) -> None:
    world = World({b"index.html": in_memory(b"app", path=b"index.html")})
    response = respond_in(world, request_of(method, b"/users/jane.doe", *fields), Site(SiteConfig(spa=True)))
    assert (response.status, values_of(response)[b"Vary"]) == (
        status,
        b"Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Fetch-Site",
    )
    assert respond_in(world, request_of(method, b"/app.js", *fields), Site(SiteConfig(spa=True))).status == 404


@pytest.mark.parametrize(
    ("target", "reference"),
    [
        (b"/about/", b"../about"),
        (b'/about/?a=1&b="', b"../about?a=1&b=%22"),
        (b"/%61bout/", b"../about"),
        (b"http://a/about/?q", b"../about?q"),
        (b"/in/a:b/", b"../a:b"),
        (b"/alias/about/", b"../about"),
        (b"//about/", b"../about"),
        # Relative to these it would lead elsewhere
        (b"/about//", None),
        (b"/about/.", None),
        (b"/about/x/../", None),
        (b"/other/", None),
        # A directory, a file without an ending, nothing
        (b"/dir/", None),
        (b"/file/", None),
        (b"/missing/", None),
        (b"/", None),
    ],
)
def test_a_clean_url_with_a_slash_too_many_leads_to_the_page(target: bytes, reference: bytes | None) -> None:
    site = Site(
        SiteConfig(clean_urls=True, rewrites=(RewriteRule("/alias/**", "/$1"), RewriteRule("/other/", "/about/")))
    )
    names = (b"about.html", b"in/a:b.html", b"dir.html", b"file.html", b"file", b".html")
    world = World({name: in_memory(path=name) for name in names})
    world.entries[b"dir"] = Directory(b"dir")
    response = respond_in(world, request_of(b"GET", target), site)
    assert (response.status, values_of(response).get(b"Location")) == (308 if reference else 404, reference)


@pytest.mark.parametrize("status", [403, 503])
@pytest.mark.parametrize("name", [b"about.html", b"about"])
def test_what_is_at_a_clean_url_with_a_slash_is_not_guessed(name: bytes, status: int) -> None:
    world = World({b"about.html": in_memory(path=b"about.html")} | {name: Failure(name, status)})
    site = SiteConfig(clean_urls=True)
    assert respond_in(world, request_of(b"GET", b"/about/"), Site(site)).status == status
    guarded = Site(SiteConfig(clean_urls=True, auth=(auth("/about.html"),)))
    world.entries[name] = in_memory(path=name)
    assert respond_in(world, request_of(b"GET", b"/about/"), guarded).status == 401


def test_an_application_is_a_file_with_validators_ranges_and_codings() -> None:
    site = Site(SiteConfig(spa=True))
    page = with_siblings(in_memory(path=b"index.html"), b"gzip")
    for fields, status in (([], 200), ([b"If-None-Match: *"], 304), ([b"Range: bytes=0-0"], 206)):
        response = respond_in(World({b"index.html": page}), request_of(b"GET", b"/users/7", *fields), site)
        assert response.status == status
        assert values_of(response)[b"ETag"] == page.validators.entity_tag
        assert (
            values_of(response)[b"Vary"] == b"Accept-Encoding, Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Fetch-Site"
        )


def test_an_application_without_its_page_is_not_found() -> None:
    response = respond_in(World({}), request_of(b"GET", b"/users/7"), Site(SiteConfig(spa=True)))
    assert response.status == 404
    assert values_of(response)[b"Vary"] == b"Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Fetch-Site"


def test_clean_urls_are_for_what_is_no_file_and_are_never_a_directorys() -> None:
    site = Site(SiteConfig(clean_urls=True))
    world = World({b"a.html": Directory(b"a.html"), b"b/.html": in_memory()})
    assert respond_in(world, request_of(b"GET", b"/a"), site).status == 404
    assert respond_in(world, request_of(b"GET", b"/b/"), site).status == 404


# -- listings ---------------------------------------------------------------------------------------------------

ITEMS = (Item(b"sub", True, 0, 0), Item(b"a.txt", False, 5, 0), Item(b"<b>", False, 1, 0))
LISTING = Site(SiteConfig(listing=True))


def listed(
    *fields: bytes,
    items: tuple[Item, ...] = ITEMS,
    site: Site = LISTING,
    target: bytes = b"/d/",
    method: bytes = b"GET",
) -> Response:
    world = World({b"d/": Directory(b"d/", items)}, password=SESAME)
    return respond_in(world, request_of(method, target, *fields), site)


@pytest.mark.parametrize(
    ("accept", "content_type", "piece"),
    [
        ([], b"text/html; charset=utf-8", b"&lt;b&gt;"),
        ([b"Accept: */*"], b"text/html; charset=utf-8", b"./a.txt"),
        ([b"Accept: application/json"], b"application/json", b'"href":"./a.txt"'),
        ([b"Accept: application/json;charset=utf-8"], b"application/json", b'"name":"<b>"'),
        ([b"Accept: text/plain"], b"text/plain; charset=utf-8", b"sub/\n<b>\na.txt\n"),
    ],
)
def test_a_directory_is_listed_in_the_form_that_is_accepted(
    accept: list[bytes], content_type: bytes, piece: bytes
) -> None:
    response = listed(*accept)
    assert response.status == 200
    assert piece in body_of(response)
    assert response.content_length == response.body_bytes
    values = values_of(response)
    assert values.pop(b"ETag")[:1] == b'"'
    assert values == {
        b"Content-Type": content_type,
        b"X-Content-Type-Options": b"nosniff",
        b"Cache-Control": b"no-cache",
        b"Vary": b"Accept",
    }


def test_a_listing_has_a_tag_of_its_content() -> None:
    tags = {
        values_of(response)[b"ETag"]
        for response in (
            listed(), listed(b"Accept: application/json"), listed(items=ITEMS[1:]), listed(target=b"/d/?sort=size"),
        )
    }  # fmt: skip
    assert len(tags) == 4
    assert values_of(listed(method=b"HEAD"))[b"ETag"] in tags
    (tag,) = {values_of(listed())[b"ETag"] for _again in range(2)}
    not_modified = listed(b"If-None-Match: " + tag)
    assert (not_modified.status, not_modified.body, not_modified.content_length) == (304, (), None)
    assert values_of(not_modified) == {b"ETag": tag, b"Cache-Control": b"no-cache", b"Vary": b"Accept"}  # 15.4.5
    assert listed(b"If-None-Match: " + tag, items=ITEMS[1:]).status == 200
    assert listed(b"If-None-Match: " + tag, b"Accept: text/plain").status == 200
    assert listed(b"If-Match: " + tag).status == 200


@pytest.mark.parametrize(
    ("field", "status"),
    [
        (b'If-Match: "x"', 412),
        (b"Accept: image/png", 406),
        (b"Accept: text/html;q=0", 406),
        (b"If-Modified-Since: " + DATE, 200),
        (b"If-Unmodified-Since: " + DATE, 200),
        (b"Range: bytes=0-0", 200),
        (b"Accept-Encoding: gzip", 200),
    ],
)
def test_a_listing_has_no_date_no_ranges_and_no_codings(field: bytes, status: int) -> None:
    response = listed(field)
    assert response.status == status
    assert values_of(response)[b"Vary"] == b"Accept"
    if status == 200:
        assert response == listed()


@pytest.mark.parametrize(
    ("accept", "page_items"),
    [(b"text/html", PAGE_ITEMS), (b"application/json", DATA_PAGE_ITEMS), (b"text/plain", DATA_PAGE_ITEMS)],
)
def test_a_page_of_a_listing_names_those_around_it(accept: bytes, page_items: int) -> None:
    items = tuple(Item(b"%05d" % number, False, 1, 0) for number in range(2 * page_items + 1))
    links = []
    for page in range(1, 4):
        response = listed(b"Accept: " + accept, items=items, target=b"/d/?page=%d" % page)
        links.append(re.findall(rb'rel="(\w+)"', values_of(response)[b"Link"]))
        head = listed(b"Accept: " + accept, items=items, target=b"/d/?page=%d" % page, method=b"HEAD")
        assert head == response._replace(body=())
    assert links == [[b"next"], [b"prev", b"next"], [b"prev"]]
    assert b"Link" not in values_of(listed(b"Accept: " + accept, items=items[:page_items]))


@pytest.mark.parametrize("accept", [b"text/html", b"application/json", b"text/plain"])
def test_what_is_somebody_elses_is_not_named(accept: bytes) -> None:
    site = Site(
        SiteConfig(
            listing=True,
            auth=(
                auth("/d/secret-directory/**", "/d/secret-file", realm="A"), auth("*.key", realm="B"),
                auth("/d/**", realm="D"),
            ),
        )
    )  # fmt: skip
    items = (
        Item(b"secret-directory", True, 0, 0), Item(b"secret-file", False, 1, 0), Item(b"secret-file.br", False, 1, 0),
        Item(b"server.key", False, 1, 0), Item(b"a.txt", False, 1, 0), Item(b"secret-directory.txt", False, 1, 0),
    )  # fmt: skip
    response = listed(ALADDIN, b"Accept: " + accept, items=items, site=site)
    assert response.status == 200
    body = body_of(response)
    assert b"a.txt" in body
    assert b"secret-directory.txt" in body
    assert b"server.key" not in body
    assert b"secret-file" not in body
    assert body.count(b"secret-directory") == body.count(b"secret-directory.txt")
    if accept == b"application/json":
        assert json.loads(body)["total"] == 2
    assert listed(b"Accept: " + accept, items=items, site=site).status == 401


# -- pages for errors -------------------------------------------------------------------------------------------

PROTECTED = Site(SiteConfig(auth=(auth("/private/**", realm="The cave"),)))
FAILING: dict[int, tuple[bytes, Entry]] = {
    401: (b"/private/x", Failure(b"private/x", 404)),
    403: (b"/x", Failure(b"x", 403)),
    404: (b"/x", Failure(b"x", 404)),
    500: (b"/x", Failure(b"x", 500)),
    503: (b"/x", Failure(b"x", 503)),
}


def failed(status: int, page: File | None, *fields: bytes, method: bytes = b"GET") -> Response:
    target, failure = FAILING[status]
    world = World({failure.path: failure} if page is None else {failure.path: failure, PAGES[status]: page})
    response = respond_in(world, request_of(method, target, *fields), PROTECTED)
    assert response.status == status
    return response


@pytest.mark.parametrize("status", FAILING)
@pytest.mark.parametrize("fields", [[], [b"Range: bytes=0-0"], [b"If-None-Match: *"], [b'If-Match: "x"']])
def test_a_page_of_the_site_is_the_body_of_an_error_and_no_representation(status: int, fields: list[bytes]) -> None:
    page = in_memory(b"my own page", path=PAGES[status])
    response = failed(status, page, *fields)
    assert body_of(response) == b"my own page"
    assert response.content_length == 11
    values = values_of(response)
    assert values[b"Content-Type"] == b"text/html; charset=utf-8"
    assert values[b"Cache-Control"] == b"no-cache"
    assert b"Vary" not in values
    assert values[b"X-Content-Type-Options"] == b"nosniff"
    assert not {b"ETag", b"Last-Modified", b"Accept-Ranges", b"Content-Range"} & set(values)


@pytest.mark.parametrize("status", FAILING)
def test_an_error_says_the_same_beside_its_body_with_and_without_a_page(status: int) -> None:
    page = in_memory(b"my own page", path=PAGES[status])
    own = failed(status, page)
    assert values_of(failed(status, None)) == values_of(own)
    needed = {401: b"WWW-Authenticate", 503: b"Retry-After"}.get(status)  # 15.5.2, 15.6.4
    assert needed is None or needed in values_of(own)
    assert values_of(failed(401, page))[b"WWW-Authenticate"] == b'Basic realm="The cave", charset="UTF-8"'


@pytest.mark.parametrize("status", FAILING)
@pytest.mark.parametrize("accept", [b"text/html", b"*/*", b"image/png", b"application/json"])
def test_an_error_is_a_page_whatever_is_accepted(status: int, accept: bytes) -> None:
    for page in (None, in_memory(b"mine", path=PAGES[status])):
        assert failed(status, page, b"Accept: " + accept) == failed(status, page)


@pytest.mark.parametrize("status", FAILING)
def test_a_page_for_errors_is_negotiated_and_may_be_large_or_empty(status: int) -> None:
    page = with_siblings(in_memory(b"plain", path=PAGES[status]), b"gzip")
    for fields, coding, body in (
        ([], None, b"plain"),
        ([b"Accept-Encoding: gzip"], b"gzip", PAGES[status] + b".gz"),
        ([b"Accept-Encoding: *;q=0"], None, b"plain"),
    ):
        response = failed(status, page, *fields)
        assert body_of(response) == body
        assert values_of(response).get(b"Content-Encoding") == coding
        assert values_of(response)[b"Vary"] == b"Accept-Encoding"
    large = on_disk(10**6, path=PAGES[status])
    assert large.descriptor is not None
    assert failed(status, large).body == (FileSlice(large.descriptor, 0, 10**6),)
    empty = failed(status, in_memory(b"", path=PAGES[status]))
    assert (empty.body, empty.content_length) == ((), 0)


@pytest.mark.parametrize("status", FAILING)
@pytest.mark.parametrize("page", [None, in_memory(b"mine"), on_disk(10**6), with_siblings(in_memory(), b"gzip")])
@pytest.mark.parametrize("accept", [b"text/html", b"application/json"])
def test_head_of_an_error_is_get_without_its_body(status: int, page: File | None, accept: bytes) -> None:
    fields = [b"Accept: " + accept, b"Accept-Encoding: gzip"]
    get, head = (failed(status, page, *fields, method=method) for method in (b"GET", b"HEAD"))
    assert head == get._replace(body=())


def test_what_is_no_file_is_no_page() -> None:
    for page in (Directory(b"404.html"), Failure(b"404.html", 403), Failure(b"404.html", 503)):
        response = respond_in(World({b"404.html": page}), request_of(b"GET", b"/x"))
        assert response.status == 404
        assert b"There is nothing" in body_of(response)


def test_a_page_that_is_protected_is_for_those_who_may_read_it() -> None:
    site = Site(SiteConfig(auth=(auth("*.html", "/private/**"),)))
    names = [*PAGES.values(), b"private/x"]
    for fields, page in (([], False), ([ALADDIN], True)):
        world = World({name: in_memory(b"mine", path=name) for name in names}, password=SESAME)
        world.entries[b"private/y"] = Failure(b"private/y", 404)
        assert (b"mine" in respond_in(world, request_of(b"GET", b"/x.txt", *fields), site).body) is False
        response = respond_in(world, request_of(b"GET", b"/private/y", *fields), site)
        # The one that says who may is for those who may not; else nobody would see it where all is protected.
        assert (response.status, body_of(response)) == (404 if page else 401, b"mine")


# -- who may ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "claimed", "status"),
    [
        ([], [], 401),
        ([ALADDIN], [(b"aladdin", SESAME)], 200),
        ([ALADDIN.replace(b"Basic", b"bASIC")], [(b"aladdin", SESAME)], 200),
        ([b"Authorization: Basic " + base64.b64encode(b"cassim:x")], [(b"cassim", b"x")], 401),
        ([b"Authorization: Bearer abc"], [], 401),
        ([b"Authorization: Basic !"], [], 401),
        ([ALADDIN, ALADDIN], [], 401),
    ],
)
def test_a_protected_file_is_for_who_says_the_right_password(
    fields: list[bytes], claimed: list[tuple[bytes, bytes]], status: int
) -> None:
    world = World({b"private/x": in_memory(path=b"private/x")}, password=SESAME)
    response = respond_in(world, request_of(b"GET", b"/private/x", *fields), PROTECTED)
    assert response.status == status
    assert [(claim.user, claim.password) for claim in world.claims] == claimed
    assert all(claim.guard is PROTECTED.guard(b"private/x") for claim in world.claims)
    if status == 401:
        assert world.looked_up == [b"401.html"], "what is there is not even looked at"


def test_too_many_who_say_passwords_are_asked_to_come_again() -> None:
    world = World({b"private/x": in_memory(path=b"private/x")}, password=SESAME, busy=True)
    response = respond_in(world, request_of(b"GET", b"/private/x", ALADDIN), PROTECTED)
    assert response.status == 503
    assert values_of(response)[b"Retry-After"] == b"1"  # 15.6.4
    assert b"WWW-Authenticate" not in values_of(response), "or the browser would ask its user again"
    assert world.looked_up == [b"50x.html"]


def test_a_password_is_asked_for_once_on_the_whole_way() -> None:
    site = Site(SiteConfig(listing=True, auth=(auth("**"),), rewrites=(RewriteRule("/alias/**", "/$1"),)))
    world = World({b"d/": Directory(b"d/", ITEMS), b"index.html": in_memory()}, password=SESAME)
    assert respond_in(world, request_of(b"GET", b"/alias/d/", ALADDIN), site).status == 200
    assert len(world.claims) == 1


def test_a_file_behind_two_guards_needs_both() -> None:
    site = Site(
        SiteConfig(
            auth=(auth("/outer/**", realm="Outer"), auth("/inner/**", realm="Inner")),
            rewrites=(RewriteRule("/outer/**", "/inner/$1"),),
        )
    )
    world = World({b"inner/x": in_memory(path=b"inner/x")}, password=SESAME)
    assert respond_in(world, request_of(b"GET", b"/outer/x", ALADDIN), site).status == 200
    assert [claim.guard.challenge[:18] for claim in world.claims] == [b'Basic realm="Outer', b'Basic realm="Inner']
    world.password = b"another"
    response = respond_in(world, request_of(b"GET", b"/outer/x", ALADDIN), site)
    assert values_of(response)[b"WWW-Authenticate"].startswith(b'Basic realm="Outer"')


@pytest.mark.parametrize(
    ("glob", "target", "entries"),
    [
        ("/d/index.html", b"/d/", [b"d/index.html"]),
        ("/index.html", b"/", [b"index.html"]),
        ("/page.html", b"/page", [b"page.html"]),
        ("/index.html", b"/users/7", [b"index.html"]),
        ("/real/*", b"/alias/x", [b"real/x"]),
        ("/d/", b"/d/", []),
        ("/x.css", b"/x.css.gz", [b"x.css.gz"]),
        ("/x.css", b"/x.css.br", [b"x.css.br"]),
        ("/x.css", b"/./%78.css", [b"x.css"]),
    ],
)
def test_no_way_to_a_protected_file_goes_around_its_guard(glob: str, target: bytes, entries: list[bytes]) -> None:
    site = Site(
        SiteConfig(
            listing=True, spa=True, clean_urls=True, auth=(auth(glob),), rewrites=(RewriteRule("/alias/*", "/real/$1"),)
        )
    )
    world = World({path: in_memory(path=path) for path in entries}, password=SESAME)
    world.entries[b"d/"] = Directory(b"d/", ITEMS)
    assert respond_in(world, request_of(b"GET", target), site).status == 401
    assert world.claims == []
    assert respond_in(world, request_of(b"GET", target, ALADDIN), site).status == 200


def test_a_coding_that_is_protected_by_its_own_name_is_for_those_who_may_read_it() -> None:
    site = Site(SiteConfig(auth=(auth("*.gz", "/both.txt"),)))
    open_file = with_siblings(in_memory(path=b"a.txt"), b"gzip", b"br")
    world = World({b"a.txt": open_file}, password=SESAME)
    response = respond_in(world, request_of(b"GET", b"/a.txt", b"Accept-Encoding: gzip"), site)
    assert body_of(response) == BODY
    assert values_of(response)[b"Vary"] == b"Accept-Encoding", "there is another still"
    world.entries[b"both.txt"] = with_siblings(in_memory(path=b"both.txt"), b"gzip")
    response = respond_in(world, request_of(b"GET", b"/both.txt", b"Accept-Encoding: gzip", ALADDIN), site)
    assert body_of(response) == b"both.txt.gz"


@pytest.mark.parametrize(
    ("name", "control"), [(b"a.txt", b"no-cache"), (b"a.3f9a1c2b.js", b"private, max-age=31536000, immutable")]
)
def test_what_was_given_for_a_password_is_for_no_shared_cache(name: bytes, control: bytes) -> None:
    world = World({b"private/" + name: in_memory(path=b"private/" + name)}, password=SESAME)
    for fields in ([], [b"If-None-Match: *"], [b"Range: bytes=0-0"]):
        response = respond_in(world, request_of(b"GET", b"/private/" + name, ALADDIN, *fields), PROTECTED)
        assert values_of(response)[b"Cache-Control"] == control


# -- credentials (RFC 7617 2) -----------------------------------------------------------------------------------


def naive_base64(data: bytes) -> bytes:
    """RFC 4648 4, bit by bit."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bits = "".join(f"{byte:08b}" for byte in data)
    bits += "0" * (-len(bits) % 6)
    encoded = bytes(alphabet[int(bits[index : index + 6], 2)] for index in range(0, len(bits), 6))
    return encoded + b"=" * (-len(encoded) % 4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    user=st.binary(max_size=12).filter(lambda user: b":" not in user),
    password=st.binary(max_size=12),
    scheme=st.sampled_from([b"Basic", b"basic", b"BASIC"]),
    spaces=st.integers(1, 3),
)
def test_credentials_are_read_back(user: bytes, password: bytes, scheme: bytes, spaces: int) -> None:
    encoded = naive_base64(user + b":" + password)
    assert read_credentials(scheme + b" " * spaces + encoded) == (user, password)
    assert read_credentials(scheme + encoded) is None


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"Basic", b"Basic ", b"Basic YWxhZGRpbg==", b"Basic YTpi=", b"Basic YTp", b"Basic YTpi YTpi",
        b"Basic YTpi, Basic YTpi", b"Basic YT-i", b"Basic YT\npi", b"Basic YTpi\n", b"Basic =", b"Basic \xe9",
        b"Digest YTpi", b"Basi YTpi", b"BasicYTpi", b"Basic\tYTpi", b"YTpi", b'Basic realm="x"',
    ],
)  # fmt: skip
def test_what_holds_no_credentials_is_none(value: bytes | None) -> None:
    assert read_credentials(value) is None


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=20) | st.text(alphabet="YTpiA=+/ ", max_size=12).map(str.encode))
def test_whatever_is_said_is_read_as_it_is_written_or_not_at_all(rest: bytes) -> None:
    credentials = read_credentials(b"Basic " + rest)
    if credentials is not None:
        user, password = credentials
        assert b":" not in user
        # But for the bits that padding leaves over, there is one way to write it.
        assert len(naive_base64(user + b":" + password)) == len(rest.strip(b" "))
        assert naive_base64(user + b":" + password)[:-4] == rest.strip(b" ")[:-4]


# -- what a head can cost ---------------------------------------------------------------------------------------

PARSERS = ("parse_accept", "parse_accept_encoding", "parse_entity_tags", "parse_ranges", "parse_date")
LONG = [
    b"Accept: " + b",".join(b"a/%d" % number for number in range(500)),
    b"Accept-Encoding: " + b",".join(b"a%d" % number for number in range(500)),
    b"If-None-Match: " + b",".join(b'"%d"' % number for number in range(500)),
    b"If-Modified-Since: " + DATE,
    b"Range: bytes=" + b",".join(b"%d-%d" % (number, number) for number in range(500)),
    b"If-Range: " + DATE,
]


@pytest.mark.parametrize("site", [EVERYTHING, PLAIN])
@pytest.mark.parametrize(
    ("target", "most"),
    [
        (b"/a.txt", {"parse_accept_encoding", "parse_entity_tags", "parse_ranges", "parse_date"}),
        (b"/missing.js", set()),
        (b"/.env", set()),
        (b"/..", set()),
        (b"/private/x", set()),
        (b"/missing", {"parse_accept"}),
        (b"/d/", {"parse_accept", "parse_entity_tags"}),
    ],
)
def test_each_field_is_parsed_once_at_most_and_not_beyond_the_most_members(
    monkeypatch: pytest.MonkeyPatch, site: Site, target: bytes, most: set[str]
) -> None:
    calls: list[str] = []

    def counted(name: str, parse: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            calls.append(name)
            found = parse(*arguments)
            assert not isinstance(found, list | dict) or len(found) <= LIST_MEMBERS_MAX
            return found

        return counting

    for name in PARSERS:
        counting = counted(name, getattr(semantics, name, None) or getattr(negotiation, name))
        for module in (negotiation, semantics, static):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counting)
    world = World({b"a.txt": CODED, b"d/": Directory(b"d/", ITEMS)})
    respond_in(world, request_of(b"GET", target, *LONG), site)
    assert len(calls) == len(set(calls))
    assert set(calls) <= most


# -- what holds of every response -------------------------------------------------------------------------------

DIRECTORIES = (b"", b"a/", b"private/")
FILES = (
    b"index.html", b"a", b"a.html", b"a/index.html", b"b.css", b"b.css.gz", b"app.3f9a1c2b.js", b"private/x",
    b"private/x.html", b"private/index.html", b"401.html", b"403.html", b"404.html", b"50x.html",
)  # fmt: skip
TARGETS = (
    *(b"/" + path for path in (*FILES, *DIRECTORIES)), b"/private", b"/b", b"/a?q=1", b"/missing", b"/missing.js",
    b"/missing/", b"/private/missing", b"/alias/a", b"/alias/private/x", b"/alias/private/", b"/to/x",
    b"/to//evil.example?q", b"/swap/private/x", b"//a", b"/a.html.gz", b"/.env", b"/..", b"*",
)  # fmt: skip
KINDS = st.sampled_from(["coded", "coded", "file", "file", "disk", "empty", "directory", "403", "500", "503"])
AUTHS = ((), ("/private/**",), ("*.html",), ("**",), ("*.gz",), ("/b.css", "/a"), ("/alias/**",), ("{a,b}*",))
SITES = st.builds(
    SiteConfig,
    listing=st.booleans(),
    spa=st.booleans(),
    clean_urls=st.booleans(),
    security_headers=st.booleans(),
    cors_origin=st.sampled_from(((), ("https://app.example",), ("*",))),
    headers=st.sampled_from(
        (
            (),
            (HeaderRule(("**",), (("X-Everywhere", "yes"), ("Vary", "accept, X-Theme"))),),
            (HeaderRule(("*.html", "/b.css"), (("Content-Type", "text/x"), ("Cache-Control", "max-age=5"))),),
        )
    ),
    cache=st.sampled_from(((), (CacheRule(("*.css", "/private/**"), "public, max-age=60"),))),
    redirects=st.sampled_from(((), (RedirectRule("/to/**", "/$1"),), (RedirectRule("/a", "https://other.example/x"),))),
    rewrites=st.sampled_from(
        (
            (),
            (RewriteRule("/alias/**", "/$1"),),
            (RewriteRule("/swap/*/*", "/$1/$2"), RewriteRule("/b.css", "/private/")),
            (RewriteRule("/alias/**", "/$1"), RewriteRule("/a", "/private/x"), RewriteRule("/missing", "/.env")),
        )
    ),
    auth=st.sampled_from(AUTHS).map(lambda globs: (auth(*globs),) if globs else ()),
)
WORLDS = st.tuples(
    st.dictionaries(st.sampled_from(FILES), KINDS, min_size=3, max_size=11), st.sets(st.sampled_from(DIRECTORIES))
).map(lambda drawn: world_of(*drawn))
ACCEPTS = (None, b"text/html", b"application/json", b"text/plain", b"image/png", b"*/*;q=0.1, text/*")
CODINGS_ACCEPTED = (None, b"gzip", b"br, gzip;q=0.5", b"gzip;q=0", b"zstd")
FETCH_MODES = (None, b"navigate", b"cors")
ORIGINS = (None, b"https://app.example", b"https://evil.example")


def entry_of(path: bytes, kind: str) -> Entry:
    """Each file has bytes and a tag of its own."""
    modified = MODIFIED + 10 * FILES.index(path)
    if kind == "directory":
        return Directory(path)
    if kind in ("403", "500", "503"):
        return Failure(path, int(kind))
    if kind == "disk":
        return on_disk(100, modified, path)
    file = in_memory(b"" if kind == "empty" else b"<%s>" % path, modified, path)
    return with_siblings(file, b"gzip", b"br") if kind == "coded" else file


def world_of(kinds: dict[bytes, str], directories: set[bytes]) -> World:
    entries = {path: entry_of(path, kind) for path, kind in kinds.items()}
    for directory in directories:
        below = (path.removeprefix(directory) for path in kinds if path.startswith(directory))
        items = tuple(Item(name, False, 1, 0) for name in below if b"/" not in name)
        entries[directory] = Directory(directory, items)
        if directory.endswith(b"/"):
            entries.setdefault(directory[:-1], Directory(directory[:-1]))
    return World(entries, password=SESAME)


class Asked(NamedTuple):
    """What a request says."""

    target: bytes
    accept: bytes | None = None
    accept_encoding: bytes | None = None
    fetch_mode: bytes | None = None
    origin: bytes | None = None
    authorization: bytes | None = None
    condition: bytes | None = None

    def request(self, method: bytes) -> Request:
        fields = {
            b"Accept": self.accept, b"Accept-Encoding": self.accept_encoding, b"Origin": self.origin,
            b"Sec-Fetch-Mode": self.fetch_mode,
        }  # fmt: skip
        lines = [name + b": " + value for name, value in fields.items() if value is not None]
        return request_of(method, self.target, *lines, *(one for one in (self.authorization, self.condition) if one))


CONDITIONS = st.sampled_from(
    [None, None, b"If-None-Match: *", b'If-Match: "x"', b"If-Modified-Since: " + format_date(NOW),
     b"Range: bytes=0-1,3-3", b"Range: bytes=900-", b"Range: bytes=0-0,300-"]
)  # fmt: skip
WRONG = b"Authorization: Basic " + base64.b64encode(b"aladdin:wrong")
ASKED = st.builds(
    Asked,
    target=st.just(b"/"),
    accept=st.sampled_from(ACCEPTS),
    accept_encoding=st.sampled_from(CODINGS_ACCEPTED),
    fetch_mode=st.sampled_from(FETCH_MODES),
    origin=st.sampled_from(ORIGINS),
    authorization=st.sampled_from([None, ALADDIN, WRONG]),
    condition=CONDITIONS,
)
"""A request for each of TARGETS: each world is walked through from end to end."""
EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


@EXAMPLES
@given(world=WORLDS, config=SITES, asked=ASKED)
def test_head_has_the_fields_of_get_wherever_the_way_leads(world: World, config: SiteConfig, asked: Asked) -> None:
    site = Site(config)
    if asked.condition is not None and asked.condition.startswith(b"Range"):
        asked = asked._replace(condition=None)  # for GET only (14.2)
    for target in TARGETS:
        get, head = (
            respond_in(world, asked._replace(target=target).request(method), site) for method in (b"GET", b"HEAD")
        )
        assert head == get._replace(body=()), target  # 9.3.2


@EXAMPLES
@given(world=WORLDS, config=SITES, asked=ASKED)
def test_every_response_is_well_formed(world: World, config: SiteConfig, asked: Asked) -> None:
    site = Site(config)
    for target in TARGETS:
        check_form(respond_in(world, asked._replace(target=target).request(b"GET"), site))


def check_form(response: Response) -> None:
    values = {name.lower(): value for name, value in response.fields}
    assert len(values) == len(response.fields), "no field stands twice"
    assert all(re.fullmatch(rb"[\x20-\x7e]*", value) for value in values.values())
    if response.content_length is None:
        assert response.status == 304
        assert response.body == ()
    else:
        assert response.body_bytes == response.content_length
    assert (b"location" in values) is (response.status == 308)
    if response.status == 308:
        assert re.match(rb"(?:\./|(?:\.\./)+|/)(?![/\\])|https://other\.example/x", values[b"location"])
    needed = {401: b"www-authenticate", 416: b"content-range", 503: b"retry-after"}.get(response.status)
    assert needed is None or needed in values
    varies = [name.strip().lower() for name in values.get(b"vary", b"").split(b",")]
    assert len(varies) == len(set(varies))
    assert not response.body or b"content-type" in values
    if response.status >= 400:
        assert not {b"etag", b"last-modified", b"accept-ranges"} & set(values)


# What a 304 need not have, as the cache keeps what it stored of it (15.4.5).
OF_THE_BODY = {b"Content-Type", b"Content-Encoding", b"Accept-Ranges", b"X-Content-Type-Options", b"Link"}


@EXAMPLES
@given(world=WORLDS, config=SITES, asked=ASKED)
def test_a_304_has_every_field_of_the_200_but_for_those_of_its_body(
    world: World, config: SiteConfig, asked: Asked
) -> None:
    site = Site(config)
    for target in TARGETS:
        asked = asked._replace(target=target, condition=None)
        whole = respond_in(world, asked.request(b"GET"), site)
        tag = dict(whole.fields).get(b"ETag")
        assert (tag is None) is (whole.status != 200)
        if tag is not None:
            again = respond_in(world, asked._replace(condition=b"If-None-Match: " + tag).request(b"GET"), site)
            assert again.status == 304
            assert {name: value for name, value in whole.fields if name not in OF_THE_BODY} == dict(again.fields)


@settings(EXAMPLES, max_examples=30)
@given(world=WORLDS, config=SITES, asked=ASKED)
def test_what_a_response_depends_on_stands_in_vary(world: World, config: SiteConfig, asked: Asked) -> None:
    site = Site(config)
    for target in TARGETS[:-1]:  # the last is bad, and what is said to it is no representation of anything
        asked = asked._replace(target=target)
        response = respond_in(world, asked.request(b"GET"), site)
        others = (
            *((b"accept", asked._replace(accept=value)) for value in ACCEPTS),
            *((b"accept-encoding", asked._replace(accept_encoding=value)) for value in CODINGS_ACCEPTED),
            *((b"sec-fetch-mode", asked._replace(fetch_mode=value)) for value in FETCH_MODES),
            *((b"origin", asked._replace(origin=value)) for value in ORIGINS),
        )
        for name, other in others:
            another = respond_in(world, other.request(b"GET"), site)
            if another != response:
                for one in (response, another):
                    assert name in dict(one.fields).get(b"Vary", b"").lower().split(b", "), target  # 12.5.5


@settings(EXAMPLES, max_examples=100)
@given(world=WORLDS, config=SITES, asked=ASKED, globs=st.sampled_from([globs for globs in AUTHS if globs]))
def test_nothing_of_a_protected_file_is_told_without_the_right_password(
    world: World, config: SiteConfig, asked: Asked, globs: tuple[str, ...]
) -> None:
    site = Site(SiteConfig(**(vars(config) | {"auth": (auth(*globs),)})))
    if asked.authorization == ALADDIN:
        asked = asked._replace(authorization=WRONG)
    patterns = [compile_glob(glob) for glob in globs]
    protected = []
    for entry in world.entries.values():
        for file in (entry, *entry.siblings.values()) if isinstance(entry, File) else ():
            names = {file.path, *(file.path.removesuffix(ending) for ending in CODINGS.values())}
            if any(pattern.fullmatch(b"/" + name) for pattern in patterns for name in names):
                protected.append(file)
    for target, coding in itertools.product(TARGETS, (asked.accept_encoding, b"gzip")):
        response = respond_in(world, asked._replace(target=target, accept_encoding=coding).request(b"GET"), site)
        told = b"".join(segment for segment in response.body if isinstance(segment, bytes))
        slices = [segment.file for segment in response.body if isinstance(segment, FileSlice)]
        named = {target[1:] + name for name in re.findall(rb'"\./([^"]+)"', told)}  # by a listing
        for file in protected:
            if (response.status, file.path) != (401, PAGES[401]):  # but for the page that says who may
                # All empty files have one tag.
                assert not file.size or dict(response.fields).get(b"ETag") != file.validators.entity_tag
                assert file.descriptor is None or file.descriptor not in slices
                assert not file.body or file.body not in told
            assert file.path not in named


def test_the_right_password_opens_all_of_it() -> None:
    for path in FILES:
        world = world_of(dict.fromkeys(FILES, "file"), set())
        response = respond_in(world, request_of(b"GET", b"/" + path, ALADDIN), Site(SiteConfig(auth=(auth("**"),))))
        assert (response.status, body_of(response)) == (200, b"<%s>" % path)
