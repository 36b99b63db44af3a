"""What is answered for static files, as pure decisions. Sections are of RFC 9110 unless said."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.config import SiteConfig
from ringserve.files import Directory, Entry, Failure, File
from ringserve.policy import Site
from ringserve.request import Limits, Memory, Request, RequestReader
from ringserve.response import FileSlice, Response, SharedDescriptor
from ringserve.ring.interface import FileStatus
from ringserve.semantics import KNOWN_METHODS, Validators, format_date
from ringserve.static import INDEX, PAGES, Claim, Lookup, Verified, respond

MEMORY = Memory()
MODIFIED = 784_111_777
NOW = 1_700_000_000.0
LONG_AFTER_NS = 1_700_000_000 * 10**9
BODY = bytes(range(100))
DATE = format_date(MODIFIED)


def request_of(method: bytes = b"GET", target: bytes = b"/a.txt", *fields: bytes) -> Request:
    reader = RequestReader(MEMORY, Limits(32 * 1024, 8 * 1024, 100, 0))
    reader.feed(b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: a", *fields]) + b"\r\n\r\n")
    request = reader.next_request()
    assert request is not None
    return request


def status_with(size: int, modified: int = MODIFIED) -> FileStatus:
    return FileStatus(0o100644, 1, 2, size, modified * 1_000_000_000, modified * 1_000_000_000)


def must_not_close(fd: int) -> None:
    raise AssertionError(f"a responder closes nothing, descriptor {fd} included")


def in_memory(body: bytes = BODY, modified: int = MODIFIED) -> File:
    return File(b"a.txt", status_with(len(body), modified), body, None, now_ns=LONG_AFTER_NS)


def on_disk(size: int = 100) -> File:
    return File(b"a.txt", status_with(size), None, SharedDescriptor(7, must_not_close), now_ns=LONG_AFTER_NS)


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
    """A file system, and people who know a password. looked_up: what was asked for, in order."""

    def __init__(self, entries: dict[bytes, Entry], password: bytes | None = None, busy: bool = False) -> None:
        self.entries = entries
        self.password = password
        self.busy = busy
        self.looked_up: list[bytes] = []

    def answer(self, wanted: Lookup | Claim) -> Entry | Verified:
        if isinstance(wanted, Claim):
            return Verified(wanted.password == self.password, self.busy)
        self.looked_up.append(wanted.path)
        return self.entries.get(wanted.path) or Failure(wanted.path, 404)


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
    return respond_in(World({}), request) if wanted.path in PAGES.values() else wanted


def answer(request: Request, found: Entry, now: float) -> Response:
    """What is answered when this is found first."""
    wanted = plan(request)
    assert isinstance(wanted, Lookup)
    return respond_in(World({wanted.path: found}), request, now=now)


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
    assert plan(request_of(method, target)) == Lookup(path)


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
    file = in_memory()
    file.validators = Validators(b'"tag"', None)
    for fields in ([], [b"If-Modified-Since: " + DATE], [b"If-Unmodified-Since: " + format_date(0)]):
        response = answer(request_of(b"GET", b"/a.txt", *fields), file, NOW)
        assert response.status == 200
        assert b"Last-Modified" not in values_of(response)
        assert values_of(response)[b"ETag"] == b'"tag"'


@pytest.mark.parametrize("fields", [[], [b"If-None-Match: *"], [b"Range: bytes=0-0"]])
def test_last_modified_is_never_in_the_future(fields: list[bytes]) -> None:
    file = in_memory(modified=int(NOW) + 1000)
    response = answer(request_of(b"GET", b"/a.txt", *fields), file, NOW)
    assert values_of(response)[b"Last-Modified"] == format_date(NOW)  # 8.8.2.1


# -- ranges -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [in_memory(), on_disk()], ids=["memory", "disk"])
@pytest.mark.parametrize(
    ("value", "start", "length"),
    [
        (b"bytes=0-0", 0, 1),
        (b"bytes=5-", 5, 95),
        (b"bytes=-1", 99, 1),
        (b"bytes=-1000", 0, 100),
        (b"bytes=90-1000", 90, 10),
        (b"bytes=0-99", 0, 100),
        (b"bytes=200-,5-6", 5, 2),
    ],
)
def test_a_single_range_is_206_with_its_place(file: File, value: bytes, start: int, length: int) -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: " + value), file, NOW)
    assert (response.status, response.content_length, response.body_bytes) == (206, length, length)
    values = values_of(response)
    assert values[b"Content-Range"] == b"bytes %d-%d/100" % (start, start + length - 1)
    assert values.items() >= values_of(answer(request_of(), file, NOW)).items(), "all fields of the 200 (15.3.7)"
    if file.body is not None:
        assert body_of(response) == BODY[start : start + length]


@pytest.mark.parametrize("value", [b"bytes=100-", b"bytes=-0", b"bytes=100-200,300-"])
def test_an_unsatisfiable_range_is_416_with_the_size(value: bytes) -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: " + value), in_memory(), NOW)
    assert response.status == 416
    assert values_of(response)[b"Content-Range"] == b"bytes */100"  # 15.5.17
    assert BODY not in response.body


def test_every_range_of_an_empty_file_is_unsatisfiable() -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=0-"), in_memory(b""), NOW)
    assert response.status == 416
    assert values_of(response)[b"Content-Range"] == b"bytes */0"


@pytest.mark.parametrize("value", [b"bytes=5-2", b"bytes=x", b"bytes", b"", b"items=0-0", b"bytes=0-0,x"])
def test_a_range_that_is_malformed_is_answered_whole(value: bytes) -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: " + value), in_memory(), NOW)  # 14.2
    assert response == answer(request_of(), in_memory(), NOW)


@pytest.mark.parametrize("value", [b"bytes=0-0", b"bytes=100-"])
def test_a_range_is_for_get_only(value: bytes) -> None:
    response = answer(request_of(b"HEAD", b"/a.txt", b"Range: " + value), in_memory(), NOW)  # 14.2
    assert response == answer(request_of(b"HEAD"), in_memory(), NOW)


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        (TAG, 206),
        (DATE, 206),
        (b'"other"', 200),
        (b"W/" + TAG, 200),
        (format_date(MODIFIED + 1), 200),
        (format_date(MODIFIED - 1), 200),
        (b"rubbish", 200),
    ],
)
def test_a_range_of_another_version_is_answered_whole(if_range: bytes, status: int) -> None:
    fields = [b"Range: bytes=0-0", b"If-Range: " + if_range]  # 13.1.5
    assert answer(request_of(b"GET", b"/a.txt", *fields), in_memory(), NOW).status == status
    unsatisfiable = [b"Range: bytes=100-", b"If-Range: " + if_range]
    assert answer(request_of(b"GET", b"/a.txt", *unsatisfiable), in_memory(), NOW).status == (
        416 if status == 206 else 200
    )


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
        (b"/a", b"/a/"),
        (b"/a/b", b"/a/b/"),
        (b"/a?q=1&r=//x", b"/a/?q=1&r=//x"),
        (b"/a?", b"/a/?"),
        (b"//evil.example", b"/evil.example/"),
        (b"//evil.example/..//x", b"/x/"),
        (b"/\\evil.example", b"/%5Cevil.example/"),
        (b"/%5c%5cevil.example", b"/%5C%5Cevil.example/"),
        (b"http://evil.example/a", b"/a/"),
        (b"http://a//evil.example", b"/evil.example/"),
        (b"/a%20b%0d%0aSet-Cookie:x", b"/a%20b%0D%0ASet-Cookie:x/"),
        (b"/%e9%3f%23", b"/%E9%3F%23/"),
    ],
)
def test_a_directory_without_its_slash_is_redirected_on_this_host(target: bytes, reference: bytes) -> None:
    request = request_of(b"GET", target)
    wanted = plan(request)
    assert isinstance(wanted, Lookup)
    response = answer(request, Directory(wanted.path), NOW)
    assert (response.status, response.body, response.content_length) == (308, (), 0)
    assert values_of(response)[b"Location"] == reference


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
    if wanted.path.endswith(INDEX):
        return  # a directory by its name; see the next test
    reference = values_of(answer(request, Directory(wanted.path), NOW))[b"Location"]
    assert reference[:1] == b"/"
    assert reference[1:2] not in (b"/", b"\\", b"\t")


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
@pytest.mark.parametrize("target", [b"/", b"/?q", b"/a/", b"/a/?q"])
def test_an_index_that_is_a_directory_is_no_index(method: bytes, target: bytes) -> None:
    # The target has its slash already: a redirect to it would go round in circles, and that of the root would be
    # `//`, a reference to another host with an empty name.
    request = request_of(method, target)
    wanted = plan(request)
    assert isinstance(wanted, Lookup)
    assert answer(request, Directory(wanted.path), NOW).status == 404


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


def test_ranges_that_overlap_or_nearly_touch_become_one() -> None:
    response = answer(request_of(b"GET", b"/a.txt", b"Range: bytes=10-19, 15-24, 30-39"), in_memory(TEXT), NOW)
    assert values_of(response)[b"Content-Range"] == b"bytes 10-39/2000"
    assert body_of(response) == TEXT[10:40]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"bytes=0-,0-,0-", id="more bytes than the file has"),
        pytest.param(b"bytes=" + b",".join(b"%d-%d" % (n * 200, n * 200) for n in range(40)), id="too many"),
    ],
)
def test_ranges_that_save_nothing_are_answered_whole(value: bytes) -> None:
    file = in_memory(bytes(8000))
    response = answer(request_of(b"GET", b"/a.txt", b"Range: " + value), file, NOW)
    assert response.status == 200
    assert response.content_length == 8000


# -- content codings (12.5.3) -----------------------------------------------------------------------------------


def test_a_file_that_has_no_accepted_coding_is_406_and_says_what_it_varies_by() -> None:
    file = in_memory()
    request = request_of(b"GET", b"/a.txt", b"Accept-Encoding: identity;q=0")
    assert answer(request, file, NOW).status == 406
    assert values_of(answer(request, file, NOW))[b"Vary"] == b"Accept"
    file.siblings[b"gzip"] = File(b"a.txt.gz", status_with(3), b"gz!", None, LONG_AFTER_NS, b"gzip")
    assert body_of(answer(request_of(b"GET", b"/a.txt", b"Accept-Encoding: gzip"), file, NOW)) == b"gz!"
    refused = answer(request_of(b"GET", b"/a.txt", b"Accept-Encoding: *;q=0"), file, NOW)
    assert refused.status == 406
    assert values_of(refused)[b"Vary"] == b"Accept, Accept-Encoding"
