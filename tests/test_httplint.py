"""What httplint says of our answers: a linter of HTTP messages, by an editor of the RFCs.

Every answer to every row of exchanges.py, and to more that have to be real to be judged, goes through it as it came
over the wire, beside its request. It marks what it sees as good, worth knowing (info), doubtful (warning) or bad.
Whatever is not good has to stand here with the reason why it stays: a note that nobody has judged fails, and so does a
reason that nothing needs.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Serving
from exchanges import ALADDIN, CODINGS, GROUPS, MODIFIED, PASSWORD_HASH, Group, Row, fill
from httplint import HttpRequestLinter, HttpResponseLinter, Note, levels
from wire import Wire, get

from ringserve.cli.compress import SUFFIXES, encode
from ringserve.config.rules import AuthRule, RedirectRule

PLAIN_NOTES = {"FRESHNESS_NO_CACHE", "LM_PRESENT", "STORE_STORABLE"}
"""What any file gets."""
EXAMPLE = Path(__file__).parent.parent / "examples" / "site"
PNG = (EXAMPLE / "ring.png").read_bytes()
PAGE = b"<!doctype html><title>A page</title>" + b"<p>of many words" * 200
CODED = {coding: encode(coding, PAGE) for coding in SUFFIXES}
HEADER_TIMEOUT_S = 0.05


class Allowed(NamedTuple):
    """Why a note may be made, and of which statuses."""

    reason: str
    statuses: Iterable[int]


# RFC numbers without more are 9110.
ALLOWED = {
    # -- bad and warning: it is mistaken, or speaks of the request --------------------------------------------------
    "PARTIAL_WITHOUT_RANGE": Allowed(
        "It was a multipart/byteranges, which must have no Content-Range in its head (15.3.7.2). The linter does not "
        "tell the two kinds of 206 apart.",
        [206],
    ),
    "FRESHNESS_NO_CACHE_NO_VALIDATOR": Allowed(
        "It would have no-store for what has no tag. `no-cache` comes to the same, and is what is meant: the user may "
        "take the redirect back, and the password may be right the next time.",
        [301, 401],
    ),
    "STORE_PUBLIC_UNNECESSARY": Allowed(
        "Names with a hash are `public`. It does add something: browsers send the password of a page with requests for "
        "all that is beside it (7617 2.2), and shared caches may keep those answers nevertheless. What needs the "
        "password is `private` instead. (And a rule of a user says what its user says.)",
        [200, 206, 304],
    ),
    "DATE_CLOCKLESS": Allowed(
        "An interim response need not have a Date (6.6.1); ours is a line and nothing else.", [100]
    ),
    "STATUS_BAD_REQUEST": Allowed("The request was bad: the rows are full of such.", [400]),
    "STATUS_URI_TOO_LONG": Allowed("The target was too long.", [414]),
    "STATUS_VERSION_NOT_SUPPORTED": Allowed("It was HTTP/2.0 in the form of HTTP/1.", [505]),
    # -- info: it describes what is meant ---------------------------------------------------------------------------
    "CORS_ORIGIN_MATCH": Allowed("`--cors-origin` names that origin.", [200, 204, 404]),
    "CORS_ORIGIN_STAR": Allowed("`--cors-origin '*'` asks for it.", [200]),
    "CORS_PREFLIGHT_RESPONSE": Allowed("It is one.", [204]),
    "FRESHNESS_NO_CACHE": Allowed("Our default: stored, and asked about before each use.", [200, 206]),
    "LM_PRESENT": Allowed("The date of the file (8.8.2.1).", [200, 206, 304]),
    "LOCATION_NOT_ABSOLUTE": Allowed(
        "10.2.2 allows it, and behind a proxy only the client knows scheme and host.", [301, 303, 307, 308]
    ),
    "STALE_SERVABLE": Allowed(
        "A cache that cannot reach us may do so (9111 4.2.4), and the content of a name with a hash never changes.",
        [200, 206, 304],
    ),
    "STORE_PRIVATE_AUTH": Allowed("What asks for a password is nothing for a shared cache.", [200, 401]),
    "STORE_PRIVATE_CC": Allowed("The same, for a protected name with a hash.", [200]),
    "STORE_STORABLE": Allowed("Files are there to be stored.", [200, 206, 301, 304]),
    "STORE_UNSTORABLE": Allowed(
        "Nothing is lost: errors and redirects are short, and a 304 updates what is stored (9111 4.3.4).",
        [100, 302, 303, 304, 307, 308, *range(400, 506)],
    ),
    # -- info: the answer has the status that it has ----------------------------------------------------------------
    "VARY_COMPLEX": Allowed(
        "Whether an application's page answers depends on Accept and three Sec-Fetch fields.", [200, 404]
    ),
    "STATUS_METHOD_NOT_ALLOWED": Allowed("It had another method.", [405]),
    "STATUS_NOT_ACCEPTABLE": Allowed("It accepted nothing that there is.", [406]),
    "STATUS_NOT_FOUND": Allowed("It asked for what does not exist.", [404]),
    "STATUS_NOT_IMPLEMENTED": Allowed("It had a method or a coding that nobody knows.", [501]),
    "STATUS_PRECONDITION_FAILED": Allowed("It had a condition that does not hold.", [412]),
    "STATUS_REQUEST_HEADER_FIELDS_TOO_LARGE": Allowed("They were.", [431]),
    "STATUS_SERVICE_UNAVAILABLE": Allowed("There were as many connections as there may be.", [503]),
}


def coded(coding: str, *fields: str) -> bytes:
    return get("/page.html", f"Accept-Encoding: {coding}", *fields)


PRECOMPRESSED = Group("Precompressed, and really so", [
    *(Row("12.5.3", f"{coding} is chosen", coded(coding), 200, body) for coding, body in CODED.items()),
    Row("12.5.3", "nothing is chosen", get("/page.html"), 200, PAGE),
    Row("12.5.3", "identity is chosen", coded("deflate"), 200, PAGE),
    Row("9.3.2", "HEAD of one", get("/page.html", "Accept-Encoding: gzip", method="HEAD"), 200, b"", {}, "HEAD"),
    Row("14.2", "a part, which is one of the page itself", coded("gzip", "Range: bytes=10-19"), 206, PAGE[10:20]),
    Row("14.6", "parts of it", coded("gzip", "Range: bytes=0-0,-1"), 206),
    Row("15.4.5", "one that is known", coded("br", "If-None-Match: *"), 304),
    Row("15.5.13", "one that is another", coded("br", 'If-Match: "x"'), 412),
    Row("15.5.17", "a part beyond it", coded("zstd", "Range: bytes=99999-"), 416),
    Row("15.5.7", "none that is acceptable", coded("identity;q=0"), 406),
], files={"page.html": PAGE} | {f"page.html{SUFFIXES[coding]}": body for coding, body in CODED.items()})  # fmt: skip

LARGE = Group("What does not fit into memory", [
    Row("9.3.1", "whole", get("/large.bin"), 200),
    Row("9.3.2", "HEAD of it", get("/large.bin", method="HEAD"), 200, b"", {}, "HEAD"),
    Row("14.2", "a part of it", get("/large.bin", "Range: bytes=100-299999"), 206),
    Row("14.6", "parts of it", get("/large.bin", "Range: bytes=0-99999,200000-299999"), 206),
    Row("15.4.5", "known", get("/large.bin", "If-None-Match: *"), 304),
    Row("15.5.17", "a part beyond it", get("/large.bin", "Range: bytes=600000-"), 416),
])  # fmt: skip

MOVED = Group("Redirects of each kind", [
    *(Row("15.4", f"with {status}", get(f"/{status}/x?q"), status) for status in (301, 302, 303, 307, 308)),
    Row("15.4", "HEAD", get("/301/x", method="HEAD"), 301, b"", {}, "HEAD"),
], lambda _site: {"redirects": (
    RedirectRule("/302/*", "https://other.example/$1", 302),
    *(RedirectRule(f"/{status}/*", "/new/$1", status) for status in (301, 303, 307, 308)),
)})  # fmt: skip

HASHED = Group("Names with a hash, protected and not", [
    Row("9111 5.2", "for everybody", get("/app.3f9a1c2b.js"), 200),
    Row("9111 5.2", "a part", get("/app.3f9a1c2b.js", "Range: bytes=1-3"), 206),
    Row("9111 5.2", "known", get("/app.3f9a1c2b.js", "If-None-Match: *"), 304),
    Row("9111 5.2.2.7", "for some", get("/private/app.3f9a1c2b.js", ALADDIN), 200),
    Row("15.5.2", "for none", get("/private/app.3f9a1c2b.js"), 401),
], lambda _site: {"auth": (AuthRule(("/private/**",), "The cave", (("aladdin", PASSWORD_HASH),)),)}, {
    "private/app.3f9a1c2b.js": b"export {}",
})  # fmt: skip

ERROR_PAGES = Group("The site's own pages for errors", [
    Row("15.5.5", "for what is missing", get("/missing"), 404, PAGE),
    Row("15.5.5", "HEAD of it", get("/missing", method="HEAD"), 404, b"", {}, "HEAD"),
    Row("15.5.2", "for what is protected", get("/private/plan.txt"), 401, PAGE),
], lambda _site: {"auth": (AuthRule(("/private/**",), "The cave", (("aladdin", PASSWORD_HASH),)),)}, {
    "404.html": PAGE, "401.html": PAGE,
})  # fmt: skip

LINTED = [*GROUPS, PRECOMPRESSED, LARGE, MOVED, HASHED, ERROR_PAGES]


# -- feeding it -------------------------------------------------------------------------------------------------


def request_linter(request: bytes) -> HttpRequestLinter | None:
    """The linter's view of a request, for what it says of answers; None for one that cannot be read."""
    head, _end, content = request.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    words = re.fullmatch(rb"([!-~]+) ([!-~]+) HTTP/([0-9.]+)", line)
    if words is None or not all(re.match(rb"[!-9;-~]+:", field) for field in fields):
        return None
    linter = HttpRequestLinter()
    linter.process_request_topline(words[1], words[2], words[3])
    linter.process_headers(_split(fields))
    linter.feed_content(content)
    linter.finish_content(True)
    return linter


def _split(fields: list[bytes]) -> list[tuple[bytes, bytes]]:
    pairs = (field.partition(b":") for field in fields)
    return [(name, value.strip(b" \t")) for name, _colon, value in pairs]


def lint(
    request: bytes, answer: bytes, asked_at: float, *, method: str = "GET", with_content: bool = True
) -> list[Note]:
    """All that it notes of an answer, good or bad. asked_at: before it was made, or it would seem to be aged."""
    head, _end, content = answer.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    version, status, phrase = line.split(b" ", 2)
    linter = HttpResponseLinter(start_time=asked_at, no_content=not with_content)
    linter.request = request_linter(request)
    linter.is_head_response = method == "HEAD"
    linter.process_response_topline(version.removeprefix(b"HTTP/"), status, phrase)
    linter.process_headers(_split(fields))
    linter.feed_content(content)
    linter.finish_content(True)
    return list(_with_what_is_below(linter.notes))


def _with_what_is_below(notes: Iterable[Note]) -> Iterator[Note]:
    for note in notes:
        yield note
        yield from _with_what_is_below(note.subnotes)


def name_of(note: Note) -> str:
    return type(note).__name__


def names(notes: list[Note]) -> set[str]:
    """Of those that are worse than good."""
    return {name_of(note) for note in notes if note.level is not levels.GOOD}


def unjudged(status: int, notes: list[Note]) -> list[str]:
    """The notes that are not allowed."""
    return [
        f"{status}: {note.level.value}: {name_of(note)} ({note.subject}): {note.summary}"
        for note in notes
        if note.level is not levels.GOOD
        and (name_of(note) not in ALLOWED or status not in ALLOWED[name_of(note)].statuses)
    ]


def start(serving: Serving, site: Path, group: Group) -> str:
    """The address of a server with what a group needs."""
    if not (site / "index.html").exists():
        fill(site)
    for name, content in {"photo.png": PNG, **group.files}.items():
        (site / name).write_bytes(content)
        os.utime(site / name, (MODIFIED, MODIFIED))
    return serving(**group.settings(site)).url


def lint_group(url: str, group: Group) -> set[str]:
    """Ask every row, and judge the answers; the names of the notes on them."""
    found: set[str] = set()
    for row in group.rows:
        with Wire(url) as wire:
            asked_at = time.time()
            answer = wire.ask(row.request, method=row.method)
            assert answer.status == row.status, row.name
            notes = lint(
                row.request,
                answer.raw,
                asked_at,
                method=row.method,
                with_content=group is not CODINGS,  # bodies there only say of which coding they are
            )
            assert unjudged(answer.status, notes) == [], row.name
            found |= names(notes)
    return found


# -- what it says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", LINTED, ids=[group.title for group in LINTED])
def test_nothing_is_noted_that_nobody_has_judged(serving: Serving, site: Path, group: Group) -> None:
    lint_group(start(serving, site, group), group)


def test_every_note_that_is_allowed_is_made(serving: Serving, site: Path) -> None:
    found = {"DATE_CLOCKLESS", "STATUS_SERVICE_UNAVAILABLE"}  # by tests of their own, below
    for group in LINTED:
        found |= lint_group(start(serving, site, group), group)
    assert set(ALLOWED) == found


def test_nothing_is_noted_of_the_example_site(serving: Serving, site: Path) -> None:
    shutil.copytree(EXAMPLE, site, dirs_exist_ok=True)
    url = serving(security_headers=True).url
    with Wire(url) as wire:
        for file in sorted(site.rglob("*.*")):
            request = get(f"/{file.relative_to(site)}")
            asked_at = time.time()
            answer = wire.ask(request)
            assert (answer.status, answer.body) == (200, file.read_bytes())
            assert names(lint(request, answer.raw, asked_at)) == PLAIN_NOTES, file


def test_nothing_is_noted_of_a_connection_too_many(serving: Serving, site: Path) -> None:
    (site / "big").write_bytes(bytes(16 * 1024 * 1024))
    url = serving(connections_max=1).url
    with Wire(url, receive_bytes=4096) as first:
        first.send(get("/big"))
        first.socket.recv(100)
        with Wire(url) as second:
            asked_at = time.time()
            answer = second.answer()
            assert answer.status == 503
            found = names(lint(get("/"), answer.raw, asked_at))
            assert found == {"STATUS_SERVICE_UNAVAILABLE", "STORE_UNSTORABLE"}


def test_nothing_is_noted_of_a_request_that_did_not_come_in_time(serving: Serving) -> None:
    with Wire(serving(header_timeout_s=HEADER_TIMEOUT_S).url) as wire:
        asked_at = time.time()
        answer = wire.ask(b"GET / HT")
        assert answer.status == 408
        assert names(lint(b"", answer.raw, asked_at)) == {"STORE_UNSTORABLE"}


# -- that it is told all that there is --------------------------------------------------------------------------


class Spoilt(NamedTuple):
    """What makes a right answer wrong, and the note that it gets then and not before. right: a pattern."""

    told: str
    request: bytes
    right: bytes
    wrong: bytes
    note: str


HELLO = get("/hello.txt")
SPOILT = [
    Spoilt("the status", HELLO, b" 200 ", b" 299 ", "STATUS_NONSTANDARD"),
    Spoilt("the length", HELLO, b"Length: 12", b"Length: 13", "CL_INCORRECT"),
    Spoilt("all of the content", HELLO, b"ring\n", b"ring", "CL_INCORRECT"),
    Spoilt("the content itself", coded("gzip"), rb"\x1f\x8b", b"no", "BAD_GZIP"),
    Spoilt("its type", get("/page.html"), b"text/html", b"image/png", "CONTENT_TYPE_MISMATCH"),
    Spoilt("that there is none", get("/", method="OPTIONS"), rb"\r\n\r\n", rb"\g<0>x", "CONTENT_NOT_ALLOWED"),
    Spoilt("the names of fields", HELLO, b"Date:", b"Late:", "DATE_CLOCKLESS_BAD_HDR"),
    Spoilt("the values of fields", HELLO, b'ETag: "(.*)"', rb"ETag: \1", "BAD_SYNTAX"),
    Spoilt("when it was", HELLO, b"Date: .{16}", b"Date: Mon, 01 Jan 2001", "DATE_INCORRECT"),
    Spoilt("fields that come twice", HELLO, b"ETag: .*\n", rb"\g<0>\g<0>", "SINGLE_HEADER_REPEAT"),
    Spoilt("a field too many", get("/", "If-None-Match: *"), b"ETag", rb"Content-Type: a/b\r\nETag",
           "HEADER_SHOULD_NOT_BE_IN_304"),
    Spoilt("a field too few", get("/docs"), b"Location", b"Vocation", "REDIRECT_WITHOUT_LOCATION"),
    Spoilt("the method", get("/", method="POST"), b"Allow:", b"Allow: POST,", "STATUS_405_METHOD_IN_ALLOW"),
    Spoilt("the request's fields", HELLO, b" 200 ", b" 412 ", "STATUS_412_WITHOUT_PRECONDITION"),
    Spoilt("the values of those", get("/", "Origin: https://a.example"), b"ETag",
           rb"Access-Control-Allow-Origin: https://b.example\r\nETag", "CORS_ORIGIN_MISMATCH"),
    Spoilt("a range that was asked for", get("/", "Range: bytes=99-"), b"Content-Range", b"X",
           "STATUS_416_WITHOUT_CONTENT_RANGE"),
]  # fmt: skip


@pytest.mark.parametrize("case", SPOILT, ids=[case.told for case in SPOILT])
def test_the_linter_is_told(serving: Serving, site: Path, case: Spoilt) -> None:
    with Wire(start(serving, site, PRECOMPRESSED)) as wire:
        asked_at = time.time()
        right = wire.ask(case.request).raw
    wrong = re.sub(case.right, case.wrong, right, count=1)
    assert wrong != right
    method = case.request.partition(b" ")[0].decode()
    assert case.note not in names(lint(case.request, right, asked_at, method=method))
    notes = lint(case.request, wrong, asked_at, method=method)
    assert any(case.note in line for line in unjudged(int(wrong.split(b" ")[1]), notes))
