"""Requests and the answers they get: the behaviour of ringserve as a table, grouped by what it is about.

Several suites run the rows, each in its own way, and `docs/behaviour.md` is made of them (`make docs`), so that what
users read is what is tested. Sections without another name are of RFC 9110.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from wire import get

from ringserve.config.rules import AuthRule, CacheRule, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import HostConfig

MODIFIED = 1_600_000_000
MODIFIED_DATE = "Sun, 13 Sep 2020 12:26:40 GMT"
LATER = "Sun, 13 Sep 2020 12:26:41 GMT"
EARLIER = "Sun, 13 Sep 2020 12:26:39 GMT"
HELLO = b"hello, ring\n"
HOME = b"<!doctype html><title>home</title>"
IMAGE = b"reproducible"
LARGE_BYTES = 600_000
LARGE_MODIFIED_NS = MODIFIED * 10**9 + 500_000_000
LARGE_TAG = f'"{LARGE_MODIFIED_NS:x}-{LARGE_BYTES:x}"'
STYLE = b"body { margin: 0 }" * 100
CODED = {"br": b"as brotli", "zstd": b"as zstandard", "gzip": b"as gzip"}
PASSWORD_HASH = "$argon2id$v=19$m=8,t=1,p=1$YJMPZn/sl0RSNXEJ+Y5kGQ$Q/KPB7f3eODp2+J/TZ/pg6+DMswvL5Cz3AuDYih7Hd8"
"""Of `open sesame`, by the cheapest parameters there are."""


def tag_of(content: bytes, suffix: str = "") -> str:
    """The entity tag of a small file."""
    return f'"{hashlib.sha256(content).hexdigest()[:24]}{suffix}"'


TAG = tag_of(HELLO)
STYLE_TAG = tag_of(STYLE)
CODED_TAGS = {name: tag_of(body, f"-{name}") for name, body in CODED.items()}

FILES: dict[str, bytes] = {
    "hello.txt": HELLO,
    "empty": b"",
    "index.html": HOME,
    "docs/index.html": b"<!doctype html><title>docs</title>",
    "docs/a b.txt": b"space",
    "100%.txt": b"percent",
    ".secret": b"no",
    ".well-known/security.txt": b"Contact: nobody",
    ".well-known/.hidden": b"no",
    "ringserve.toml": b"# no",
    "style.css": STYLE,
    "style.css.br": CODED["br"],
    "style.css.zst": CODED["zstd"],
    "style.css.gz": CODED["gzip"],
    "coded/index.html": b"plain index",
    "coded/index.html.gz": b"coded index",
    "app.js": b"1",
    "data.json": b"{}",
    "logo.svg": b"<svg/>",
    "photo.png": b"png",
    "thing.unknown": b"?",
    "app.3f9a1c2b.js": b"hashed",
    "report-20261122.pdf": b"dated",
    "listed/b.txt": b"12345",
    "listed/a.txt": b"1",
    "listed/sub/x": b"",
    "listed/.hidden": b"",
    "listed/data:x/y": b"",
    "about.html": b"about",
    "private/plan.txt": b"the plan",
}


def fill(site: Path, more: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """The files that the rows ask for, and a group's own, with times that do not change: of a large one that was just
    written the tag is weak for some milliseconds, and two servers that read it before and after that answer
    differently; so it has a fraction of a second, which keeps the time of the last change out of its tag.
    """
    for name, content in (FILES | dict(more)).items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)
    (site / "large.bin").write_bytes(os.urandom(LARGE_BYTES))
    (site / "bare").mkdir()
    (site / "inside").symlink_to("hello.txt")
    (site / "outside").symlink_to("/etc/hostname")
    (site / "loop").symlink_to("loop")
    os.mkfifo(site / "fifo")
    (site / "stale.css").write_bytes(STYLE)
    (site / "stale.css.gz").write_bytes(b"of an older version")
    (site / "emptied.css").write_bytes(STYLE)
    (site / "emptied.css.gz").write_bytes(b"")
    (site / "copied.css").write_bytes(STYLE)
    (site / "copied.css.gz").write_bytes(CODED["gzip"])
    (site / "copied.txt").write_bytes(HELLO)
    (site / "image.txt").write_bytes(IMAGE)
    for path in [site, *site.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, (MODIFIED, MODIFIED))
    os.utime(site / "stale.css.gz", (MODIFIED - 1, MODIFIED - 1))
    os.utime(site / "image.txt", (1, 1))
    os.utime(site / "copied.txt", (MODIFIED + 1, MODIFIED + 1))
    os.utime(site / "large.bin", ns=(LARGE_MODIFIED_NS, LARGE_MODIFIED_NS))
    os.utime(site / "copied.css", ns=(MODIFIED * 10**9 + 500, MODIFIED * 10**9 + 500))
    (site.parent / "other").mkdir()
    (site.parent / "other" / "index.html").write_bytes(b"the other site")
    os.utime(site.parent / "other" / "index.html", (MODIFIED, MODIFIED))


class Row(NamedTuple):
    """name: a sentence. section: where it says so. fields: what the response has, by lower-case name; None for one
    that it must not have. A pattern has to match the whole value.
    """

    section: str
    name: str
    request: bytes
    status: int
    body: bytes | re.Pattern[bytes] | None = None
    fields: Mapping[str, str | re.Pattern[str] | None] = {}
    method: str = "GET"
    closes: bool = False


class Group(NamedTuple):
    """Rows for one configuration. settings: made for the site's directory. files: more of them. told: of the settings.
    about: paragraphs for what the rows do not show.
    """

    title: str
    rows: list[Row]
    settings: Callable[[Path], dict[str, Any]] = lambda _site: {}
    files: Mapping[str, bytes] = {}
    told: str = ""
    about: str = ""


ABOUT_VALIDATORS = """\
A file of at most 256 KiB is named by its content: its tag is the first 24 digits of its SHA-256
(`sha256sum FILE | cut -c -24`), and the coding if it is a precompressed one. The tag is strong. It is the same on every
replica, and after every deployment that changed nothing.

A larger file is named by its modification time in nanoseconds and its size. Archives and layers of images keep times in
whole seconds, and often one time for all files; there the tag has the time of the last change too. Such a file gets
another tag on each replica and after each deployment. A file system that keeps only one time for each file (squashfs,
EROFS) cannot tell two versions of it apart that have the same time and size. The tag of a larger file is weak while
another change could bear the same time: 10 ms, and two seconds on a file system without fractions of a second.

`If-Modified-Since` without `If-None-Match` is answered by the modification time alone. A file that was replaced by
another one with the same time is 304 then, whatever is in it; `If-Range` with a date is the same. A client that sends
the tag is not misled, since the tag goes before the date. A modification time of 0 or 1 is no date: there is no
`Last-Modified`.
"""

ABOUT_SIBLINGS = """\
A precompressed sibling stands for its file if it is not older, and not empty unless the file is. Times are compared as
far as the coarser one tells, since tools copy them in whole seconds, in milliseconds, in microseconds, or as
floating-point numbers: only the seconds count if one of the times has no fraction, only the milliseconds if one has no
more, and a microsecond never counts. A sibling that is left out is said on stderr, once; `ringserve --check` counts
them.
"""

HTML = {"content-type": "text/html; charset=utf-8"}
LISTED = {**HTML, "vary": "Accept"}
BROWSER = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
CSS = {"content-type": "text/css; charset=utf-8", "vary": "Accept-Encoding"}


def chosen(coding: str) -> Mapping[str, str | re.Pattern[str] | None]:
    """The fields of the style sheet in a coding."""
    return {
        **CSS, "content-encoding": coding, "etag": CODED_TAGS[coding], "content-length": str(len(CODED[coding])),
    }  # fmt: skip


def accepting(value: str, *fields: str, path: str = "/style.css") -> bytes:
    return get(path, f"Accept-Encoding: {value}", *fields)


MALFORMED = ("%zz", "[12345::1]", "localhost:80x", "localhost:80:80", "4713::abcd:8001", "[::1", "test:65536")
"""What neither a Host field nor the absolute form may have."""

METHODS = Group("Methods", [
    Row("9.3.1", "a file is answered whole", get("/hello.txt"), 200, HELLO, {
        "content-type": "text/plain; charset=utf-8", "etag": TAG, "last-modified": MODIFIED_DATE,
        "accept-ranges": "bytes", "x-content-type-options": "nosniff", "cache-control": "no-cache",
        "connection": None, "content-length": str(len(HELLO)),
    }),
    Row("9.3.2", "HEAD has the fields of GET and no body", get("/hello.txt", method="HEAD"), 200, b"", {
        "content-length": str(len(HELLO)), "etag": TAG, "content-type": "text/plain; charset=utf-8",
    }, "HEAD"),
    Row("9.3.7", "OPTIONS tells the methods", get("/hello.txt", method="OPTIONS"), 204, b"", {
        "allow": "GET, HEAD, OPTIONS", "content-length": None,
    }),
    Row("9.3.7", "OPTIONS of the server", get("*", method="OPTIONS"), 204, b"", {"allow": "GET, HEAD, OPTIONS"}),
    Row("9.3.7", "OPTIONS of a bad target", get("/..", method="OPTIONS"), 400),
    *(
        Row("15.5.6", f"{method} is known and not served", get("/hello.txt", method=method), 405, None, {
            "allow": "GET, HEAD, OPTIONS",
        })
        for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE")
    ),
    Row("15.6.2", "an unknown method", get("/hello.txt", method="BREW"), 501, None, {"allow": None}),
    Row("9.1", "methods are case-sensitive", get("/hello.txt", method="get"), 501),
    Row("9.3.1", "a GET with a body is answered from its head, and is the last",
        get("/hello.txt", "Content-Length: 3") + b"GET", 200, HELLO, {"connection": "close"}, closes=True),
    Row("9.3.1", "a body that never comes is not waited for", get("/hello.txt", "Content-Length: 3"), 200, HELLO, {
        "connection": "close",
    }, closes=True),
    Row("9112 7.1", "a chunked body is not read either",
        get("/hello.txt", "Transfer-Encoding: chunked") + b"3\r\nGET\r\n0\r\n\r\n", 200, HELLO, {"connection": "close"},
        closes=True),
    Row("15.5.6", "a POST with a body hears at once that there is none",
        get("/hello.txt", "Content-Length: 3", method="POST"), 405, None, {
            "connection": "close", "allow": "GET, HEAD, OPTIONS",
        }, closes=True),
    Row("15.5.6", "however large its body is", get("/hello.txt", "Content-Length: 999999999999", method="PUT"), 405,
        closes=True),
    Row("9.3.1", "a missing file that is sent a body", get("/missing", "Content-Length: 3") + b"abc", 404, closes=True),
    Row("9.3.1", "a length of nothing is no body", get("/hello.txt", "Content-Length: 0"), 200, HELLO, {
        "connection": None,
    }),
    Row("9.3.1", "a body in HTTP/1.0",
        get("/hello.txt", "Content-Length: 3", "Connection: keep-alive", method="POST", version="1.0"), 405, None, {
            "connection": "close",
        }, closes=True),
    Row("10.1.1", "a client that waits for a go-ahead gets the final answer in its place",
        get("/", "Content-Length: 5", "Expect: 100-continue", method="PUT"), 405, None, {"connection": "close"},
        closes=True),
    Row("10.1.1", "a GET that waits for a go-ahead gets its file",
        get("/hello.txt", "Content-Length: 9999999", "Expect: 100-continue"), 200, HELLO, closes=True),
    Row("10.1.1", "an expectation in HTTP/1.0 is ignored",
        get("/hello.txt", "Content-Length: 5", "Expect: 100-continue", method="POST", version="1.0"), 405, closes=True),
    Row("10.1.1", "an expectation without a body changes nothing",
        get("/hello.txt", "Expect: 100-continue"), 200, HELLO, {"connection": None}),
    Row("10.1.1", "an unknown expectation gets the final answer too", get("/hello.txt", "Expect: more"), 200, HELLO),
])  # fmt: skip

TARGETS = Group("Targets", [
    Row("4.2.3", "the query is ignored", get("/hello.txt?a=1&b"), 200, HELLO),
    Row("9112 3.2.2", "the absolute form works", get("http://test/hello.txt"), 200, HELLO),
    Row("9112 3.2.2", "and its empty path is the root", get("http://test"), 200, HOME),
    *(
        Row("3986 3.2", f"the absolute form with a malformed authority: {authority}", get(f"http://{authority}/"), 400)
        for authority in MALFORMED
    ),
    Row("4.2.1", "the absolute form without a host", get("http:///hello.txt"), 400),
    Row("4.2.4", "the absolute form with a user", get("http://user@test/hello.txt"), 400),
    Row("9112 3.2.3", "the authority form is for CONNECT", get("test:443"), 400),
    Row("15.5.6", "which is not served", get("test:443", method="CONNECT"), 405, None, {}, "CONNECT"),
    Row("3986 2.1", "an escaped name is found", get("/docs/a%20b.txt"), 200, b"space"),
    Row("3986 2.4", "escapes are undone once", get("/100%2525.txt"), 404),
    Row("3986 2.4", "and not twice", get("/100%25.txt"), 200, b"percent"),
    Row("3986 2.1", "a bad escape is refused", get("/hello%zz"), 400),
    Row("3986 2.2", "an encoded slash is refused", get("/docs%2findex.html"), 400),
    Row("3986 7.3", "a NUL is refused", get("/hello.txt%00"), 400),
    Row("4.2.5", "a fragment is refused", get("/hello.txt#part"), 400),
    Row("3986 5.2.4", "dot segments are resolved", get("/docs/../hello.txt"), 200, HELLO),
    Row("3986 5.2.4", "dot segments cannot leave the root", get("/../etc/passwd"), 400),
    Row("3986 5.2.4", "escaped dot segments cannot either", get("/%2e%2e/etc/passwd"), 400),
    Row("3986 5.2.4", "dot segments further in cannot leave it either", get("/docs/../../etc/passwd"), 400),
    Row("15.5.15", "a target beyond the limit", get("/" + "x" * 8300), 414, None, {"connection": "close"}, closes=True),
    Row("6585 5", "more fields than the limit", get("/", *(f"X-{n}: a" for n in range(101))), 431, closes=True),
    Row("6585 5", "a head beyond the limit", get("/", "X: " + "a" * 33_000), 431, closes=True),
])  # fmt: skip

TYPES = Group("Content types and validators", [
    Row("8.3", "HTML", get("/"), 200, HOME, {"content-type": "text/html; charset=utf-8"}),
    Row("8.3", "JavaScript", get("/app.js"), 200, b"1", {"content-type": "text/javascript; charset=utf-8"}),
    Row("8.3", "JSON", get("/data.json"), 200, b"{}", {"content-type": "application/json; charset=utf-8"}),
    Row("8.3", "SVG", get("/logo.svg"), 200, b"<svg/>", {"content-type": "image/svg+xml"}),
    Row("8.3", "PNG", get("/photo.png"), 200, b"png", {"content-type": "image/png"}),
    Row("8.3", "what is in no table is offered to be saved", get("/thing.unknown"), 200, b"?", {
        "content-type": "application/octet-stream", "x-content-type-options": "nosniff",
    }),
    Row("8.3", "an empty file has no bytes", get("/empty"), 200, b"", {"content-length": "0"}),
    Row("8.8", "a file of a reproducible image has the tag of its content, and no date", get("/image.txt"), 200,
        IMAGE, {"last-modified": None, "etag": tag_of(IMAGE)}),
    Row("8.8.3", "the tag of the same content is the same, whatever the time of its file is", get("/copied.txt"), 200,
        HELLO, {"etag": TAG, "last-modified": LATER}),
    Row("9111 5.2", "a name with a hash of its content never changes", get("/app.3f9a1c2b.js"), 200, b"hashed", {
        "cache-control": "public, max-age=31536000, immutable",
    }),
    Row("9111 5.2", "a name with a date is no such name", get("/report-20261122.pdf"), 200, b"dated", {
        "cache-control": "no-cache",
    }),
    Row("9.3.2", "a large file is spliced", get("/large.bin", method="HEAD"), 200, b"", {
        "content-length": str(LARGE_BYTES), "etag": LARGE_TAG,
    }, "HEAD"),
], about=ABOUT_VALIDATORS)  # fmt: skip

CODINGS = Group("Content codings", [
    Row("12.5.3", "without Accept-Encoding the file itself", get("/style.css"), 200, STYLE, {
        **CSS, "content-encoding": None, "etag": STYLE_TAG,
    }),
    *(
        Row("12.5.3", f"{coding} is served to a client that accepts it", accepting(coding), 200, CODED[coding],
            chosen(coding))
        for coding in CODED
    ),
    Row("12.5.3", "equal qualities: br, never the order of the field", accepting("gzip, zstd, br"), 200, CODED["br"],
        chosen("br")),
    Row("12.5.3", "then zstd", accepting("gzip, deflate, zstd"), 200, CODED["zstd"], chosen("zstd")),
    Row("12.5.3", "a higher quality goes first", accepting("br;q=0.5, gzip;q=0.9, zstd;q=0.1"), 200, CODED["gzip"],
        chosen("gzip")),
    Row("12.5.3", "a quality of 0 forbids", accepting("br;q=0, gzip"), 200, CODED["gzip"], chosen("gzip")),
    Row("12.5.3", "a star stands for the rest", accepting("br;q=0, *"), 200, CODED["zstd"], chosen("zstd")),
    Row("12.5.3", "identity is acceptable unless it is forbidden", accepting("deflate"), 200, STYLE, {
        **CSS, "content-encoding": None,
    }),
    Row("12.5.3", "and preferred where the client says so", accepting("gzip;q=0.5, identity"), 200, STYLE),
    Row("15.5.7", "nothing acceptable", accepting("identity;q=0, deflate"), 406, None, {
        "vary": "Accept-Encoding",
    }),
    Row("15.5.7", "nothing at all", accepting("*;q=0", path="/hello.txt"), 406),
    Row("12.5.3", "an empty field accepts the file itself", accepting(""), 200, STYLE),
    Row("12.5.3", "an index is negotiated as well", accepting("gzip", path="/coded/"), 200, b"coded index", {
        "content-encoding": "gzip", "content-type": "text/html; charset=utf-8", "vary": "Accept-Encoding",
    }),
    Row("8.8.3", "a sibling older than its source is ignored", accepting("gzip", path="/stale.css"), 200, STYLE, {
        "content-encoding": None,
    }),
    Row("8.8.3", "half a microsecond is not older: a tool that copied the times lost it",
        accepting("gzip", path="/copied.css"), 200, CODED["gzip"], {"content-encoding": "gzip"}),
    Row("8.4", "an empty sibling of a file that is not is ignored", accepting("gzip", path="/emptied.css"), 200,
        STYLE, {"content-encoding": None}),
    Row("8.4", "a precompressed file by its own name is that file", get("/style.css.gz"), 200, CODED["gzip"], {
        "content-encoding": None, "content-type": "application/gzip",
    }),
    Row("12.5.5", "304 varies as well", accepting("br", f"If-None-Match: {CODED_TAGS['br']}"), 304, b"", {
        "vary": "Accept-Encoding", "etag": CODED_TAGS["br"],
    }),
    Row("8.8.3.3", "the tag of another coding is another tag",
        accepting("br", f"If-None-Match: {CODED_TAGS['gzip']}"), 200, CODED["br"]),
    Row("14.2", "a range is one of the file itself, whatever is accepted", accepting("gzip", "Range: bytes=0-3"), 206,
        STYLE[:4], {
            **CSS, "content-encoding": None, "content-range": f"bytes 0-3/{len(STYLE)}", "etag": STYLE_TAG,
        }),
    Row("13.1.5", "also for a client that has a part of it",
        accepting("gzip", "Range: bytes=0-3", f"If-Range: {STYLE_TAG}"), 206, STYLE[:4], {"content-encoding": None}),
    Row("13.1.5", "a client that has a part of a coding gets another part of that coding",
        accepting("gzip", "Range: bytes=3-6", f"If-Range: {CODED_TAGS['gzip']}"), 206, b"gzip", {
            "vary": "Accept-Encoding", "content-encoding": "gzip", "content-range": "bytes 3-6/7",
            "etag": CODED_TAGS["gzip"],
        }),
    Row("13.1.5", "a date does not say which coding the client has a part of",
        accepting("gzip", "Range: bytes=3-6", f"If-Range: {MODIFIED_DATE}"), 200, CODED["gzip"], chosen("gzip")),
    Row("13.1.5", "unless that client gets the file itself anyway",
        accepting("deflate", "Range: bytes=0-3", f"If-Range: {MODIFIED_DATE}"), 206, STYLE[:4]),
    Row("12.5.3", "a client that does not take the file itself gets a range of the coding",
        accepting("gzip, identity;q=0", "Range: bytes=3-6"), 206, b"gzip", {"content-encoding": "gzip"}),
    Row("14.2", "a range that is ignored is no reason for another coding",
        accepting("gzip", "Range: bytes=6-3"), 200, CODED["gzip"], chosen("gzip")),
    Row("13.2.2", "conditions are about what is answered with",
        accepting("gzip", "Range: bytes=0-3", f"If-None-Match: {STYLE_TAG}"), 304, b"", {"etag": STYLE_TAG}),
    Row("15.5.17", "416 tells the size of the file itself",
        accepting("gzip", f"Range: bytes={len(STYLE)}-"), 416, None, {
        "vary": "Accept-Encoding", "content-range": f"bytes */{len(STYLE)}",
    }),
    Row("12.5.3", "without siblings nothing varies", accepting("br", path="/hello.txt"), 200, HELLO, {"vary": None}),
], about=ABOUT_SIBLINGS)  # fmt: skip

CONDITIONS = Group("Conditions", [
    Row("13.1.2", "the tag gives 304", get("/hello.txt", f"If-None-Match: {TAG}"), 304, b"", {
        "etag": TAG, "content-length": None, "content-type": None, "last-modified": MODIFIED_DATE,
        "cache-control": "no-cache",
    }),
    Row("13.1.2", "a weak tag gives 304 as well", get("/hello.txt", f"If-None-Match: W/{TAG}"), 304, b""),
    Row("13.1.2", "one of several tags gives 304", get("/hello.txt", f'If-None-Match: "x", {TAG}'), 304, b""),
    Row("13.1.2", "also in several fields", get("/hello.txt", 'If-None-Match: "x"', f"If-None-Match: {TAG}"), 304, b""),
    Row("13.1.2", "a star gives 304", get("/hello.txt", "If-None-Match: *"), 304, b""),
    Row("13.1.2", "another tag gives 200", get("/hello.txt", 'If-None-Match: "x"'), 200, HELLO),
    Row("13.1.2", "HEAD is conditional too", get("/hello.txt", f"If-None-Match: {TAG}", method="HEAD"), 304, b"", {},
        "HEAD"),
    Row("13.1.3", "the date gives 304", get("/hello.txt", f"If-Modified-Since: {MODIFIED_DATE}"), 304, b""),
    Row("13.1.3", "a later date gives 304", get("/hello.txt", f"If-Modified-Since: {LATER}"), 304, b""),
    Row("13.1.3", "an earlier date gives 200", get("/hello.txt", f"If-Modified-Since: {EARLIER}"), 200, HELLO),
    Row("13.1.3", "what is no date is ignored", get("/hello.txt", "If-Modified-Since: yesterday"), 200, HELLO),
    Row("5.6.7", "the obsolete form of RFC 850 is read",
        get("/hello.txt", "If-Modified-Since: Sunday, 13-Sep-20 12:26:40 GMT"), 304, b""),
    Row("5.6.7", "and that of asctime", get("/hello.txt", "If-Modified-Since: Sun Sep 13 12:26:40 2020"), 304, b""),
    Row("13.2.2", "the tag goes before the date",
        get("/hello.txt", 'If-None-Match: "x"', f"If-Modified-Since: {LATER}"), 200, HELLO),
    Row("13.1.1", "If-Match of the tag holds", get("/hello.txt", f"If-Match: {TAG}"), 200, HELLO),
    Row("13.1.1", "If-Match of a star holds", get("/hello.txt", "If-Match: *"), 200, HELLO),
    Row("13.1.1", "If-Match of another tag fails", get("/hello.txt", 'If-Match: "x"'), 412),
    Row("13.1.1", "If-Match compares strongly", get("/hello.txt", f"If-Match: W/{TAG}"), 412),
    Row("13.1.4", "If-Unmodified-Since of the date holds",
        get("/hello.txt", f"If-Unmodified-Since: {MODIFIED_DATE}"), 200, HELLO),
    Row("13.1.4", "If-Unmodified-Since of an earlier date fails",
        get("/hello.txt", f"If-Unmodified-Since: {EARLIER}"), 412),
    Row("13.2.2", "If-Match goes before If-Unmodified-Since",
        get("/hello.txt", f"If-Match: {TAG}", f"If-Unmodified-Since: {EARLIER}"), 200, HELLO),
    Row("13.2.2", "If-Match goes before If-None-Match",
        get("/hello.txt", 'If-Match: "x"', f"If-None-Match: {TAG}"), 412),
    Row("13.2.2", "304 goes before a range", get("/hello.txt", f"If-None-Match: {TAG}", "Range: bytes=0-0"), 304, b""),
    Row("13.1.2", "more tags than are read give 200",
        get("/hello.txt", f"If-None-Match: {TAG}" + ', "x"' * 64), 200, HELLO),
    Row("13.1.1", "If-Match of more tags than are read fails",
        get("/hello.txt", f"If-Match: {TAG}" + ', "x"' * 64), 412),
    Row("13.2.1", "a missing file has no conditions", get("/missing", "If-None-Match: *"), 404),
])  # fmt: skip

RANGES = Group("Ranges", [
    Row("14.2", "the first byte", get("/hello.txt", "Range: bytes=0-0"), 206, b"h", {
        "content-range": f"bytes 0-0/{len(HELLO)}", "content-length": "1", "etag": TAG,
        "last-modified": MODIFIED_DATE, "content-type": "text/plain; charset=utf-8", "cache-control": "no-cache",
    }),
    Row("14.1.2", "from the middle to the end", get("/hello.txt", "Range: bytes=7-"), 206, b"ring\n"),
    Row("14.1.2", "the last bytes", get("/hello.txt", "Range: bytes=-5"), 206, b"ring\n"),
    Row("14.1.2", "the last byte", get("/hello.txt", "Range: bytes=-1"), 206, b"\n"),
    Row("14.1.2", "more last bytes than there are",
        get("/hello.txt", "Range: bytes=-99999999999999999999999"), 206, HELLO),
    Row("14.1.2", "an end beyond the file is clamped", get("/hello.txt", "Range: bytes=7-999"), 206, b"ring\n"),
    Row("15.5.17", "a range beyond the file cannot be satisfied", get("/hello.txt", "Range: bytes=12-"), 416, None, {
        "content-range": f"bytes */{len(HELLO)}",
    }),
    Row("15.5.17", "the last no bytes cannot be satisfied", get("/hello.txt", "Range: bytes=-0"), 416),
    Row("15.5.17", "a range of an empty file cannot be satisfied", get("/empty", "Range: bytes=0-0"), 416),
    Row("14.2", "a malformed range is ignored", get("/hello.txt", "Range: bytes=b-a"), 200, HELLO),
    Row("14.1.1", "and one that ends before it begins", get("/hello.txt", "Range: bytes=5-2"), 200, HELLO),
    Row("14.2", "another unit is ignored", get("/hello.txt", "Range: lines=1-2"), 200, HELLO),
    Row("14.1", "the unit is in any case", get("/hello.txt", "Range: Bytes=0-0"), 206, b"h"),
    Row("14.2", "a range of HEAD is ignored", get("/hello.txt", "Range: bytes=0-0", method="HEAD"), 200, b"", {
        "content-length": str(len(HELLO)),
    }, "HEAD"),
    Row("14.6", "several ranges are parts", get("/large.bin", "Range: bytes=0-0,1000-1001"), 206,
        re.compile(rb"(?s)--[0-9a-f]{32}\r\n.*content-range: bytes 0-0/.*bytes 1000-1001/.*--\r\n", re.IGNORECASE), {
            "content-type": re.compile("multipart/byteranges; boundary=[0-9a-f]{32}"), "content-range": None,
        }),
    Row("14.2", "ranges near each other become one", get("/hello.txt", "Range: bytes=0-1,5-6"), 206, HELLO[:7], {
        "content-range": f"bytes 0-6/{len(HELLO)}",
    }),
    Row("14.2", "ranges of more bytes than the file has get it whole",
        get("/hello.txt", "Range: bytes=0-,0-"), 200, HELLO),
    Row("14.2", "so do too many", get("/hello.txt", "Range: bytes=" + "0-0," * 33 + "1-1"), 200, HELLO),
    Row("15.5.17", "one range of several that exists", get("/hello.txt", "Range: bytes=99-,0-0"), 206, b"h"),
    Row("13.1.5", "If-Range of the tag", get("/hello.txt", "Range: bytes=0-0", f"If-Range: {TAG}"), 206, b"h"),
    Row("13.1.5", "If-Range of another tag", get("/hello.txt", "Range: bytes=0-0", 'If-Range: "x"'), 200, HELLO),
    Row("13.1.5", "If-Range of a weak tag", get("/hello.txt", "Range: bytes=0-0", f"If-Range: W/{TAG}"), 200, HELLO),
    Row("13.1.5", "If-Range of the exact date",
        get("/hello.txt", "Range: bytes=0-0", f"If-Range: {MODIFIED_DATE}"), 206, b"h"),
    Row("13.1.5", "If-Range of a later date",
        get("/hello.txt", "Range: bytes=0-0", f"If-Range: {LATER}"), 200, HELLO),
    Row("13.1.5", "without a range it says nothing", get("/hello.txt", 'If-Range: "x"'), 200, HELLO),
])  # fmt: skip

DIRECTORIES = Group("Directories, links and what cannot be served", [
    Row("9.3.1", "a directory answers its index", get("/docs/"), 200, b"<!doctype html><title>docs</title>"),
    Row("15.4.9", "a directory without its slash is redirected", get("/docs?x=1"), 308, b"", {
        "location": "./docs/?x=1", "cache-control": "no-cache",
    }),
    Row("3986 4.2", "two slashes never name a host", get("//docs"), 308, b"", {"location": "./docs/"}),
    Row("3986 4.2", "a name with a colon is no scheme", get("/listed/data:x"), 308, b"", {"location": "./data:x/"}),
    Row("3986 3.4", "what no query may have is escaped", get('/docs?a="<b>&c=%2f'), 308, b"", {
        "location": "./docs/?a=%22%3Cb%3E&c=%2f",
    }),
    Row("15.5.5", "a directory without an index is not found", get("/bare/"), 404),
    Row("15.5.5", "a missing file is not found", get("/missing"), 404, re.compile(b"(?s).*404 Not Found.*"), HTML),
    Row("9.3.2", "HEAD of a missing file has no body", get("/missing", method="HEAD"), 404, b"", {}, "HEAD"),
    Row("12.5.1", "an error is HTML, whatever is accepted", get("/missing", "Accept: application/json"), 404, None, {
        **HTML, "vary": None,
    }),
    Row("15.5.5", "a file is no directory", get("/hello.txt/"), 404),
    Row("15.5.5", "a file has no files below it", get("/hello.txt/x"), 404),
    Row("15.5.5", "a name longer than the system takes is not found", get("/" + "x" * 300), 404),
    Row("15.5.5", "a link to itself is not found", get("/loop"), 404),
    Row("15.5.5", "a dotfile is not found", get("/.secret"), 404),
    Row("8615 3", ".well-known is found", get("/.well-known/security.txt"), 200, b"Contact: nobody"),
    Row("15.5.5", "a dotfile in it is not", get("/.well-known/.hidden"), 404),
    Row("15.5.5", "a configuration of ours is not found", get("/ringserve.toml"), 404),
    Row("9.3.1", "a symbolic link within the root is followed", get("/inside"), 200, HELLO),
    Row("15.5.5", "one that leaves the root is not found", get("/outside"), 404),
    Row("15.5.5", "a FIFO is not found, and does not hang", get("/fifo"), 404),
])  # fmt: skip

LISTING = Group("Listings", [
    Row("9.3.1", "a directory without an index is listed", get("/listed/", BROWSER), 200,
        re.compile(rb"(?s).*<table.*sub/.*a\.txt.*b\.txt.*"), {**LISTED, "cache-control": "no-cache"}),
    Row("12.5.1", "as JSON for programs", get("/listed/", "Accept: application/json"), 200,
        re.compile(rb'(?s)\{.*"sub".*"a\.txt".*"b\.txt".*\}\n?'), {"content-type": "application/json"}),
    Row("12.5.1", "as text", get("/listed/", "Accept: text/plain"), 200, b"data:x/\nsub/\na.txt\nb.txt\n", {
        "content-type": "text/plain; charset=utf-8", "vary": "Accept",
    }),
    Row("12.5.1", "sorted as asked for",
        get("/listed/?sort=size&order=desc", "Accept: text/plain"), 200, b"data:x/\nsub/\nb.txt\na.txt\n"),
    Row("15.5.7", "as nothing else", get("/listed/", "Accept: image/png"), 406),
    Row("9.3.1", "an index goes before a listing", get("/docs/"), 200, b"<!doctype html><title>docs</title>"),
    Row("15.4.9", "the slash is asked for as always", get("/listed"), 308, b"", {"location": "./listed/"}),
    Row("15.5.5", "what is not there is not listed", get("/missing/"), 404),
    Row("9.3.2", "HEAD of a listing has no body", get("/listed/", method="HEAD"), 200, b"", LISTED, "HEAD"),
], lambda _site: {"listing": True}, told="`--listing`")  # fmt: skip

NAVIGATION = "Sec-Fetch-Mode: navigate"

SPA = Group("Applications that route in the browser", [
    Row("9.3.1", "a page that does not exist is the application's", get("/users/7", BROWSER), 200, HOME, {
        "vary": "Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Fetch-Site", "cache-control": "no-cache",
        "etag": re.compile('".*"'),
    }),
    Row("9.3.1", "also below a directory that does not exist", get("/users/", BROWSER), 200, HOME),
    Row("9.3.1", "also for a client that does not say what it likes", get("/users/7"), 200, HOME),
    Row("9.3.1", "also where a browser goes, whatever it accepts",
        get("/users/7", NAVIGATION, "Accept: a/b"), 200, HOME),
    *(
        Row("9.3.1", f"an ending of no known type is part of a name: {path}", get(path, NAVIGATION, BROWSER), 200, HOME)
        for path in ("/users/jane.doe", "/pkg/lodash@4.17.21", "/search/192.168.1.0", "/map/52.5,13.4")
    ),
    Row("15.5.5", "a missing script is not", get("/users/app.js", BROWSER), 404, None, {"vary": None}),
    Row("15.5.5", "also if a browser goes there", get("/users/app.js", NAVIGATION, BROWSER), 404),
    Row("15.5.5", "a missing page with its ending gets 404", get("/users/7.html", NAVIGATION, BROWSER), 404),
    Row("15.5.5", "a client that reads no HTML gets 404", get("/users/7", "Accept: application/json"), 404, None, {
        "vary": "Accept, Sec-Fetch-Mode, Sec-Fetch-Dest, Sec-Fetch-Site",
    }),
    Row("15.5.5", "a client that prefers JSON gets 404",
        get("/users/7", "Accept: application/json, text/plain, */*"), 404),
    *(
        Row("15.5.5", f"what a page fetches gets 404: {what}",
            get("/users/7", f"Sec-Fetch-Dest: {what}", f"Sec-Fetch-Mode: {mode}", "Accept: */*"), 404)
        for what, mode in (
            ("empty", "cors"), ("script", "no-cors"), ("style", "no-cors"), ("image", "no-cors"), ("font", "cors"),
        )
    ),
    Row("15.5.5", "a client that names only its destination gets 404", get("/users/7", "Sec-Fetch-Dest: image"), 404),
    Row("15.5.6", "another method gets 405", get("/users/7", method="POST"), 405),
    Row("9.3.1", "what exists is itself", get("/hello.txt", BROWSER), 200, HELLO),
], lambda _site: {"spa": True}, told="`--spa`")  # fmt: skip

CLEAN = Group("Clean URLs", [
    Row("9.3.1", "a page is found without its ending", get("/about"), 200, b"about", {
        "content-type": "text/html; charset=utf-8",
    }),
    Row("9.3.1", "and with it", get("/about.html"), 200, b"about"),
    Row("15.5.5", "a page that does not exist is not found", get("/nothing"), 404),
    Row("15.4.9", "a directory is still one", get("/docs"), 308, b"", {"location": "./docs/"}),
    Row("15.4.9", "a slash too many is taken away", get("/about/?x=1"), 308, b"", {"location": "../about?x=1"}),
    Row("15.5.5", "but not two", get("/about//"), 404),
], lambda _site: {"clean_urls": True}, told="`--clean-urls`")  # fmt: skip

PAGES = Group(
    "The site's own error pages",
    [
        Row(
            "15.5.5",
            "the site's page keeps the status",
            get("/missing"),
            404,
            b"my own page",
            {
                "content-type": "text/html; charset=utf-8",
                "vary": None,
                "etag": None,
                "last-modified": None,
                "accept-ranges": None,
                "cache-control": "no-cache",
            },
        ),
        Row("14.2", "it has no ranges", get("/missing", "Range: bytes=0-0"), 404, b"my own page"),
        Row(
            "9.3.2",
            "HEAD of it has no body",
            get("/missing", method="HEAD"),
            404,
            b"",
            {"content-length": "11"},
            "HEAD",
        ),
        Row(
            "12.5.1",
            "whatever is accepted",
            get("/missing", "Accept: application/json"),
            404,
            b"my own page",
        ),
        Row("9.3.1", "by its own name it is a file", get("/404.html"), 200, b"my own page"),
    ],
    files={"404.html": b"my own page"},
    told="a `404.html` at the root (also `401.html`, `403.html`, `50x.html`)",
)

HEADERS = Group("Fields, caching, redirects and rewrites by configuration", [
    Row("5.1", "fields by path", get("/hello.txt"), 200, HELLO, {"x-everywhere": "yes", "x-text": "yes"}),
    Row("5.1", "whatever the status", get("/missing.txt"), 404, None, {"x-everywhere": "yes", "x-text": "yes"}),
    Row("15.4.5", "304 among them", get("/hello.txt", "If-None-Match: *"), 304, b"", {"x-everywhere": "yes"}),
    Row("5.1", "also on what could not be read", b"GET / HTTP/1.1\r\n\r\n", 400, None, {"x-everywhere": "yes"},
        closes=True),
    Row("5.1", "by the path of the file as well", get("/"), 200, HOME, {"x-html": "yes", "x-text": None}),
    Row("5.1", "an empty value takes a field away", get("/data.json"), 200, b"{}", {"x-content-type-options": None}),
    Row("12.5.5", "names are added to Vary", get("/style.css"), 200, STYLE, {"vary": "Accept-Encoding, X-Theme"}),
    Row("9111 5.2", "Cache-Control by file", get("/hello.txt"), 200, HELLO, {"cache-control": "public, max-age=60"}),
    Row("15.4.9", "a path that moved", get("/old/page?q=1"), 308, b"", {"location": "/new/page?q=1"}),
    Row("3986 3.4", "what no query may have is escaped", get('/old/page?q="<'), 308, b"", {
        "location": "/new/page?q=%22%3C",
    }),
    Row("15.4.3", "for a while, to another host", get("/away"), 302, b"", {"location": "https://other.example/"}),
    Row("3986 4.2", "what a star stands for never names a host", get("/to//evil.example"), 308, b"", {
        "location": "/evil.example",
    }),
    Row("9.3.1", "a path answered by another file", get("/alias/hello.txt"), 200, HELLO),
    Row("15.5.5", "but not by a hidden one", get("/alias/.secret"), 404),
    *(
        Row("5.1", f"the security preset sets {name}", get("/hello.txt"), 200, HELLO, {name.lower(): value})
        for name, value in (
            ("X-Frame-Options", "SAMEORIGIN"), ("Referrer-Policy", "strict-origin-when-cross-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
            ("Content-Security-Policy", "frame-ancestors 'self'; object-src 'none'; base-uri 'self'"),
        )
    ),
], lambda _site: {
    "security_headers": True,
    "headers": (
        HeaderRule(("**",), (("X-Everywhere", "yes"),)),
        HeaderRule(("*.txt",), (("X-Text", "yes"),)),
        HeaderRule(("*.html",), (("X-Html", "yes"),)),
        HeaderRule(("*.json",), (("X-Content-Type-Options", ""),)),
        HeaderRule(("*.css",), (("Vary", "X-Theme"),)),
    ),
    "cache": (CacheRule(("*.txt",), "public, max-age=60"),),
    "redirects": (
        RedirectRule("/old/*", "/new/$1"), RedirectRule("/away", "https://other.example/", 302),
        RedirectRule("/to/**", "/$1"),
    ),
    "rewrites": (RewriteRule("/alias/**", "/$1"),),
}, told="`[[headers]]`, `[[cache]]`, `[[redirects]]`, `[[rewrites]]`, `--security-headers`")  # fmt: skip

CORS = Group("Scripts of other origins", [
    Row("fetch 3.3", "an origin that may read", get("/hello.txt", "Origin: https://app.example"), 200, HELLO, {
        "access-control-allow-origin": "https://app.example", "vary": "Origin",
        "access-control-expose-headers": "Accept-Ranges, Content-Encoding, Content-Range, ETag",
    }),
    Row("fetch 3.3", "another one", get("/hello.txt", "Origin: https://evil.example"), 200, HELLO, {
        "access-control-allow-origin": None, "vary": "Origin",
    }),
    Row("fetch 3.3", "none", get("/hello.txt"), 200, HELLO, {"access-control-allow-origin": None, "vary": "Origin"}),
    Row("fetch 3.3", "errors can be read too", get("/missing", "Origin: https://app.example"), 404, None, {
        "access-control-allow-origin": "https://app.example", "vary": "Origin",
    }),
    Row("fetch 3.3", "a preflight", get("/hello.txt", "Origin: https://app.example",
        "Access-Control-Request-Method: GET", "Access-Control-Request-Headers: range", method="OPTIONS"), 204, b"", {
            "access-control-allow-origin": "https://app.example",
            "access-control-allow-methods": "GET, HEAD, OPTIONS", "access-control-allow-headers": "range",
            "access-control-max-age": "86400",
            "vary": "Access-Control-Request-Method, Access-Control-Request-Headers, Origin",
        }),
    Row("fetch 3.3", "a preflight of another origin", get("/hello.txt", "Origin: https://evil.example",
        "Access-Control-Request-Method: GET", method="OPTIONS"), 204, b"", {
            "access-control-allow-origin": None, "access-control-allow-methods": None,
        }),
], lambda _site: {"cors_origin": ("https://app.example",)}, told="`--cors-origin https://app.example`")  # fmt: skip

OPEN_CORS = Group("Scripts of every origin", [
    Row("fetch 3.3", "a script of any origin", get("/hello.txt", "Origin: https://any.example"), 200, HELLO, {
        "access-control-allow-origin": "*", "vary": None,
    }),
    Row("fetch 3.3", "a client that names no origin", get("/hello.txt"), 200, HELLO, {
        "access-control-allow-origin": "*",
    }),
], lambda _site: {"cors_origin": ("*",)}, told="`--cors-origin '*'`")  # fmt: skip

ALADDIN = "Authorization: Basic YWxhZGRpbjpvcGVuIHNlc2FtZQ=="
AUTH = Group("Protected paths", [
    Row("15.5.2", "a client without a password", get("/private/plan.txt"), 401, None, {
        "www-authenticate": 'Basic realm="The cave", charset="UTF-8"',
    }),
    Row("7617 2", "a client with the right password", get("/private/plan.txt", ALADDIN), 200, b"the plan"),
    Row("7617 2", "the scheme is in any case", get("/private/plan.txt", ALADDIN.replace("Basic", "basic")), 200),
    Row("7617 2", "a wrong password", get("/private/plan.txt", "Authorization: Basic YWxhZGRpbjpuby13YXk="), 401),
    Row("7617 2", "an unknown user", get("/private/plan.txt", "Authorization: Basic Y2Fzc2ltOm9wZW4gc2VzYW1l"), 401),
    Row("7617 2", "what is no base64", get("/private/plan.txt", "Authorization: Basic %%%"), 401),
    Row("7617 2", "what has no colon", get("/private/plan.txt", "Authorization: Basic YWxhZGRpbg=="), 401),
    Row("11.4", "another scheme", get("/private/plan.txt", "Authorization: Bearer abc"), 401),
    Row("15.5.2", "what is missing there is not told either", get("/private/missing"), 401),
    Row("15.5.2", "another way to it needs the password too", get("/public/plan.txt"), 401),
    Row("9.3.1", "the rest is for everybody", get("/hello.txt"), 200, HELLO),
    Row("9.3.7", "OPTIONS too, as a preflight has no password", get("/private/plan.txt", method="OPTIONS"), 204),
], lambda _site: {
    "auth": (AuthRule(("/private/**",), "The cave", (("aladdin", PASSWORD_HASH),)),),
    "rewrites": (RewriteRule("/public/**", "/private/$1"),),
}, told="`[[auth]]`")  # fmt: skip


def host(name: str, path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()


HOSTS = Group("Virtual hosts", [
    Row("7.2", "a host's own site", host("other.example"), 200, b"the other site"),
    Row("7.2", "whatever the case and the port", host("Other.Example:8080"), 200, b"the other site"),
    Row("7.2", "with the dot of the root", host("other.example."), 200, b"the other site"),
    Row("7.2", "a name below", host("a.b.below.example"), 200, b"the other site"),
    Row("7.2", "but not that name itself", host("below.example"), 200, HOME),
    Row("7.2", "an unknown host gets the first site", host("unknown.example"), 200, HOME),
    Row("9112 3.2.2", "the absolute form goes before the field", host("test", "http://other.example/"), 200,
        b"the other site"),
    Row("9.3.1", "files of one are not in the other", host("other.example", "/hello.txt"), 404),
    Row("9112 3.2", "HTTP/1.0 without a Host gets the first site", b"GET / HTTP/1.0\r\n\r\n", 200, HOME, closes=True),
], lambda site: {
    "virtual_host": (
        HostConfig(directory=str(site.parent / "other"), names=("other.example", "*.below.example")),
    ),
}, told="`[[virtual-host]]`")  # fmt: skip

CONNECTIONS = Group("Connections", [
    Row("9112 9.3", "a connection goes on", get("/hello.txt"), 200, HELLO, {"connection": None}),
    Row("9112 9.6", "and ends when asked", get("/hello.txt", "Connection: close"), 200, HELLO, {
        "connection": "close",
    }, closes=True),
    Row("9112 9.3", "HTTP/1.0 ends the connection", get("/hello.txt", version="1.0"), 200, HELLO, {
        "connection": "close",
    }, closes=True),
    Row("9112 9.3", "HTTP/1.0 goes on when asked", get("/hello.txt", "Connection: keep-alive", version="1.0"), 200,
        HELLO, {"connection": "keep-alive"}),
    Row("9112 2.3", "HTTP/1.0 has to have no Host", b"GET /hello.txt HTTP/1.0\r\n\r\n", 200, HELLO, closes=True),
    Row("2.5", "a later HTTP/1 is read as the highest we know", get("/hello.txt", version="1.9"), 200, HELLO),
    Row("15.6.6", "another major version", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, closes=True),
    Row("9113 3.4", "the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, closes=True),
    Row("9112 2.2", "an empty line before a request is skipped", b"\r\n" + get("/hello.txt"), 200, HELLO),
])  # fmt: skip


def chunked(body: bytes) -> bytes:
    return get("/hello.txt", "Transfer-Encoding: chunked") + body


AMBIGUOUS = Group("Requests that two readers could read in two ways", [
    Row("9112 3.2", "HTTP/1.1 without Host", b"GET / HTTP/1.1\r\n\r\n", 400, None, {"connection": "close"},
        closes=True),
    Row("9112 3.2", "two Host fields", get("/", "Host: other"), 400, closes=True),
    Row("9112 3.2", "a Host with a path", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, closes=True),
    Row("9112 3.2", "a Host with a space", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, closes=True),
    Row("9112 3.2", "a Host with a user", b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400, closes=True),
    *(
        Row("3986 3.2", f"a malformed Host: {authority}", f"GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode(), 400,
            closes=True)
        for authority in MALFORMED
    ),
    Row("9112 5.2", "a folded field", get("/", "X: a\r\n b"), 400, closes=True),
    Row("9112 5.2", "a folded field, with a tab", get("/", "X: a\r\n\tb"), 400, closes=True),
    Row("9112 2.2", "a space before the first field", b"GET / HTTP/1.1\r\n X: a\r\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 2.2", "a bare LF after the request line", b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 2.2", "a bare LF after a field", b"GET / HTTP/1.1\r\nHost: x\nX: a\r\n\r\n", 400, closes=True),
    Row("9112 2.2", "a bare LF as the end of the head", b"GET / HTTP/1.1\r\nHost: x\r\n\n\r\n\r\n", 400, closes=True),
    Row("9112 2.2", "a bare CR in a field", get("/", "X: a\rb"), 400, closes=True),
    Row("9112 2.2", "a bare CR in the request line", b"GET /\r HTTP/1.1\r\nHost: x\r\n\r\n", 400, closes=True),
    *(
        Row("5.5", f"a control character in a field: 0x{ord(control):02x}", get("/", f"X: a{control}b"), 400,
            closes=True)
        for control in "\0\1\b\x0b\x0c\x0e\x1b\x1f\x7f"
    ),
    Row("5.1", "a NUL in a field's name", get("/", "X\0: a"), 400, closes=True),
    Row("9112 5.1", "a space before the colon", get("/", "X : a"), 400, closes=True),
    Row("9112 5.1", "a space before the colon of a framing", get("/", "Content-Length : 3"), 400, closes=True),
    Row("5.1", "a field without a name", get("/", ": a"), 400, closes=True),
    Row("5.1", "a field without a colon", get("/", "X"), 400, closes=True),
    Row("5.1", "a name that is no token", get("/", "X[]: a"), 400, closes=True),
    Row("9112 3", "two spaces in the request line", b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 3", "a tab in the request line", b"GET\t/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 3", "a target with a space", b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 3", "a request line without a version", b"GET /\r\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 2.3", "a version that is none", b"GET / HTTP/1\r\nHost: x\r\n\r\n", 400, closes=True),
    Row("9112 6.1", "both framings", get("/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400,
        closes=True),
    Row("9112 6.3", "two lengths", get("/", "Content-Length: 3", "Content-Length: 4") + b"abcd", 400, closes=True),
    Row("9112 6.3", "two lengths in one field", get("/", "Content-Length: 3, 4") + b"abcd", 400, closes=True),
    Row("8.6", "a length with a sign", get("/", "Content-Length: +3") + b"abc", 400, closes=True),
    Row("8.6", "a negative length", get("/", "Content-Length: -3"), 400, closes=True),
    Row("8.6", "a length in hexadecimal", get("/", "Content-Length: 0x3") + b"abc", 400, closes=True),
    Row("8.6", "a length with an underscore", get("/", "Content-Length: 1_0") + b"0123456789", 400, closes=True),
    Row("8.6", "an empty length", get("/", "Content-Length:"), 400, closes=True),
    Row("8.6", "a length of absurd size", get("/", "Content-Length: " + "9" * 30), 400, closes=True),
    Row("9112 6.1", "an unknown transfer coding", get("/", "Transfer-Encoding: gzip"), 501, closes=True),
    Row("9112 6.1", "a transfer coding before chunked", get("/", "Transfer-Encoding: gzip, chunked"), 501, closes=True),
    Row("9112 6.1", "chunked twice", get("/", "Transfer-Encoding: chunked, chunked"), 501, closes=True),
    Row("9112 6.1", "chunked in two fields",
        get("/", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501, closes=True),
    Row("9112 6.1", "a coding that only looks like chunked", get("/", "Transfer-Encoding: xchunked"), 501, closes=True),
    Row("9112 6.1", "a coding with a control before it", get("/", "Transfer-Encoding: \x0bchunked"), 400, closes=True),
    Row("9112 6.1", "a transfer coding in HTTP/1.0",
        get("/", "Transfer-Encoding: chunked", version="1.0") + b"0\r\n\r\n", 400, closes=True),
    *(
        Row("9112 7.1", f"nothing behind {what} is a request", chunked(body + get("/missing")), 200, HELLO, {
            "connection": "close",
        }, closes=True)
        for what, body in (
            ("a chunked body", b"3\r\nabc\r\n0\r\n\r\n"), ("a chunk size with a sign", b"+3\r\nabc\r\n0\r\n\r\n"),
            ("a chunk longer than its size", b"3\r\nabcd\r\n0\r\n\r\n"), ("a bare LF after the last chunk", b"0\n\n"),
            ("a blank after a chunk size", b"3 \r\nabc\r\n0\r\n\r\n"), ("a folded trailer", b"0\r\nA: b\r\n c\r\n\r\n"),
        )
    ),
    Row("9112 6.3", "nothing behind a body with a length is a request",
        get("/hello.txt", "Content-Length: 3", method="POST") + b"abc" + get("/hello.txt"), 405, closes=True),
    Row("8446 5.1", "a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, closes=True),
])  # fmt: skip

UNNAMED = Group("Without the Server field", [
    Row("10.2.4", "it can be turned off", get("/hello.txt"), 200, HELLO, {"server": None}),
], lambda _site: {"server_name": ""}, told="`--server-name ''`")  # fmt: skip

GROUPS = [
    METHODS, TARGETS, TYPES, CODINGS, CONDITIONS, RANGES, DIRECTORIES, LISTING, SPA, CLEAN, PAGES, HEADERS, CORS,
    OPEN_CORS, AUTH, HOSTS, CONNECTIONS, AMBIGUOUS, UNNAMED,
]  # fmt: skip
PLAIN = [METHODS, TARGETS, TYPES, CODINGS, CONDITIONS, RANGES, DIRECTORIES, CONNECTIONS, AMBIGUOUS]
"""Those that a server without any settings answers."""


def check(row: Row, status: int, fields: dict[str, str], body: bytes) -> None:
    """Whether an answer is the row's."""
    assert status == row.status, row.name
    if isinstance(row.body, bytes):
        assert body == row.body, row.name
    elif row.body is not None:
        assert row.body.fullmatch(body), (row.name, body)
    for name, value in row.fields.items():
        got = fields.get(name)
        if isinstance(value, re.Pattern):
            assert got is not None, (row.name, name)
            assert value.fullmatch(got), (row.name, name, got)
        else:
            assert got == value, (row.name, name)
    assert fields["date"].endswith(" GMT")
