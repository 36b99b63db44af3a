"""Requests and the answers they get: rows that several suites run, each in its own way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from wire import get

MODIFIED = 1_600_000_000
MODIFIED_DATE = "Sun, 13 Sep 2020 12:26:40 GMT"
LATER = "Sun, 13 Sep 2020 12:26:41 GMT"
EARLIER = "Sun, 13 Sep 2020 12:26:39 GMT"
HELLO = b"hello, ring\n"
TAG = f'"{MODIFIED * 10**9:x}-{len(HELLO):x}"'
LARGE_BYTES = 600_000


def fill(site: Path) -> None:
    """The files that the rows ask for, with times that do not change."""
    (site / "hello.txt").write_bytes(HELLO)
    (site / "empty").write_bytes(b"")
    (site / "index.html").write_bytes(b"<!doctype html><title>home</title>")
    (site / "large.bin").write_bytes(os.urandom(LARGE_BYTES))
    (site / "docs").mkdir()
    (site / "docs" / "index.html").write_bytes(b"<!doctype html><title>docs</title>")
    (site / "docs" / "a b.txt").write_bytes(b"space")
    (site / "bare").mkdir()
    (site / ".secret").write_bytes(b"no")
    (site / ".well-known").mkdir()
    (site / ".well-known" / "security.txt").write_bytes(b"Contact: nobody")
    (site / "inside").symlink_to("hello.txt")
    (site / "outside").symlink_to("/etc/hostname")
    os.mkfifo(site / "fifo")
    for path in [site, *site.rglob("*")]:
        if not path.is_symlink():
            os.utime(path, (MODIFIED, MODIFIED))


class Row(NamedTuple):
    """name: a sentence. fields: what the response has, by lower-case name; None for one that it must not have."""

    name: str
    request: bytes
    status: int
    body: bytes | None = None
    fields: dict[str, str | None] = {}  # noqa: RUF012 - never changed
    method: str = "GET"
    closes: bool = False


ROWS = [
    Row("a file is answered whole", get("/hello.txt"), 200, HELLO, {
        "content-type": "text/plain; charset=utf-8", "etag": TAG, "last-modified": MODIFIED_DATE,
        "accept-ranges": "bytes", "x-content-type-options": "nosniff", "cache-control": "no-cache",
        "connection": None,
    }),
    Row("HEAD has the fields of GET and no body", get("/hello.txt", method="HEAD"), 200, b"", {
        "content-length": str(len(HELLO)), "etag": TAG,
    }, "HEAD"),
    Row("the query is ignored", get("/hello.txt?a=1&b"), 200, HELLO),
    Row("an empty file has no bytes", get("/empty"), 200, b"", {"content-length": "0"}),
    Row("a directory answers its index", get("/"), 200, b"<!doctype html><title>home</title>"),
    Row("a directory below too", get("/docs/"), 200, b"<!doctype html><title>docs</title>"),
    Row("a directory without its slash is redirected", get("/docs?x=1"), 308, b"", {"location": "/docs/?x=1"}),
    Row("two slashes never name a host", get("//docs"), 308, b"", {"location": "/docs/"}),
    Row("a directory without an index is not found", get("/bare/"), 404),
    Row("an escaped name is found", get("/docs/a%20b.txt"), 200, b"space"),
    Row("dot segments are resolved", get("/docs/../hello.txt"), 200, HELLO),
    Row("dot segments cannot leave the root", get("/../etc/passwd"), 400),
    Row("escaped dot segments cannot either", get("/%2e%2e/etc/passwd"), 400),
    Row("an encoded slash is refused", get("/docs%2findex.html"), 400),
    Row("a NUL is refused", get("/hello.txt%00"), 400),
    Row("a bad escape is refused", get("/hello%zz"), 400),
    Row("a missing file is not found", get("/missing"), 404, None, {"content-type": "text/html; charset=utf-8"}),
    Row("HEAD of a missing file has no body", get("/missing", method="HEAD"), 404, b"", {}, "HEAD"),
    Row("a file is no directory", get("/hello.txt/"), 404),
    Row("a name longer than the system takes is not found", get("/" + "x" * 300), 404),
    Row("a dotfile is not found", get("/.secret"), 404),
    Row(".well-known is found", get("/.well-known/security.txt"), 200, b"Contact: nobody"),
    Row("a symbolic link within the root is followed", get("/inside"), 200, HELLO),
    Row("one that leaves the root is not found", get("/outside"), 404),
    Row("a FIFO is not found, and does not hang", get("/fifo"), 404),
    Row("the absolute form works", get("http://test/hello.txt"), 200, HELLO),
    Row("the tag gives 304", get("/hello.txt", f"If-None-Match: {TAG}"), 304, b"", {
        "etag": TAG, "content-length": None, "content-type": None, "last-modified": MODIFIED_DATE,
    }),
    Row("a weak tag gives 304 as well", get("/hello.txt", f"If-None-Match: W/{TAG}"), 304, b""),
    Row("one of several tags gives 304", get("/hello.txt", f'If-None-Match: "x", {TAG}'), 304, b""),
    Row("a star gives 304", get("/hello.txt", "If-None-Match: *"), 304, b""),
    Row("another tag gives 200", get("/hello.txt", 'If-None-Match: "x"'), 200, HELLO),
    Row("the date gives 304", get("/hello.txt", f"If-Modified-Since: {MODIFIED_DATE}"), 304, b""),
    Row("a later date gives 304", get("/hello.txt", f"If-Modified-Since: {LATER}"), 304, b""),
    Row("an earlier date gives 200", get("/hello.txt", f"If-Modified-Since: {EARLIER}"), 200, HELLO),
    Row("what is no date is ignored", get("/hello.txt", "If-Modified-Since: yesterday"), 200, HELLO),
    Row("the tag goes before the date",
        get("/hello.txt", 'If-None-Match: "x"', f"If-Modified-Since: {LATER}"), 200, HELLO),
    Row("If-Match of another tag fails", get("/hello.txt", 'If-Match: "x"'), 412),
    Row("If-Unmodified-Since of an earlier date fails",
        get("/hello.txt", f"If-Unmodified-Since: {EARLIER}"), 412),
    Row("the first byte", get("/hello.txt", "Range: bytes=0-0"), 206, b"h", {
        "content-range": f"bytes 0-0/{len(HELLO)}", "content-length": "1",
    }),
    Row("from the middle to the end", get("/hello.txt", "Range: bytes=7-"), 206, b"ring\n"),
    Row("the last bytes", get("/hello.txt", "Range: bytes=-5"), 206, b"ring\n"),
    Row("more last bytes than there are", get("/hello.txt", "Range: bytes=-99999999999999999999999"), 206, HELLO),
    Row("an end beyond the file is clamped", get("/hello.txt", "Range: bytes=7-999"), 206, b"ring\n"),
    Row("a range beyond the file cannot be satisfied", get("/hello.txt", "Range: bytes=12-"), 416, None, {
        "content-range": f"bytes */{len(HELLO)}",
    }),
    Row("ranges near each other become one", get("/hello.txt", "Range: bytes=0-1,5-6"), 206, HELLO[:7], {
        "content-range": f"bytes 0-6/{len(HELLO)}",
    }),
    Row("ranges of more bytes than the file has get it whole", get("/hello.txt", "Range: bytes=0-,0-"), 200, HELLO),
    Row("one range of several that exists", get("/hello.txt", "Range: bytes=99-,0-0"), 206, b"h"),
    Row("a malformed range is ignored", get("/hello.txt", "Range: bytes=b-a"), 200, HELLO),
    Row("another unit is ignored", get("/hello.txt", "Range: lines=1-2"), 200, HELLO),
    Row("a range of HEAD is ignored", get("/hello.txt", "Range: bytes=0-0", method="HEAD"), 200, b"", {
        "content-length": str(len(HELLO)),
    }, "HEAD"),
    Row("If-Range of the tag", get("/hello.txt", "Range: bytes=0-0", f"If-Range: {TAG}"), 206, b"h"),
    Row("If-Range of another tag", get("/hello.txt", "Range: bytes=0-0", 'If-Range: "x"'), 200, HELLO),
    Row("If-Range of a weak tag", get("/hello.txt", "Range: bytes=0-0", f"If-Range: W/{TAG}"), 200, HELLO),
    Row("If-Range of the exact date",
        get("/hello.txt", "Range: bytes=0-0", f"If-Range: {MODIFIED_DATE}"), 206, b"h"),
    Row("If-Range of a later date", get("/hello.txt", "Range: bytes=0-0", f"If-Range: {LATER}"), 200, HELLO),
    Row("a range of an empty file", get("/empty", "Range: bytes=0-0"), 416),
    Row("OPTIONS tells the methods", get("/hello.txt", method="OPTIONS"), 204, b"", {
        "allow": "GET, HEAD, OPTIONS", "content-length": None,
    }),
    Row("OPTIONS of the server", get("*", method="OPTIONS"), 204, b"", {"allow": "GET, HEAD, OPTIONS"}),
    Row("a known method that is not served", get("/hello.txt", method="DELETE"), 405, None, {
        "allow": "GET, HEAD, OPTIONS",
    }),
    Row("an unknown method", get("/hello.txt", method="BREW"), 501),
    Row("a body of POST is read over", get("/hello.txt", "Content-Length: 3", method="POST") + b"abc", 405),
    Row("a body of GET is read over", get("/hello.txt", "Content-Length: 3") + b"GET", 200, HELLO),
    Row("a chunked body of GET is read over",
        get("/hello.txt", "Transfer-Encoding: chunked") + b"3\r\nGET\r\n0\r\n\r\n", 200, HELLO),
    Row("the connection ends when asked", get("/hello.txt", "Connection: close"), 200, HELLO, {
        "connection": "close",
    }, closes=True),
    Row("HTTP/1.0 ends the connection", get("/hello.txt", version="1.0"), 200, HELLO, {"connection": "close"},
        closes=True),
    Row("HTTP/1.0 goes on when asked", get("/hello.txt", "Connection: keep-alive", version="1.0"), 200, HELLO, {
        "connection": "keep-alive",
    }),
    Row("HTTP/1.1 without Host", b"GET / HTTP/1.1\r\n\r\n", 400, None, {"connection": "close"}, closes=True),
    Row("two Host fields", get("/", "Host: other"), 400, closes=True),
    Row("a folded field", get("/", "X: a\r\n b"), 400, closes=True),
    Row("a bare LF", b"GET / HTTP/1.1\nHost: x\r\n\r\n", 400, closes=True),
    Row("a space before the colon", get("/", "X : a"), 400, closes=True),
    Row("both framings", get("/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, closes=True),
    Row("two lengths", get("/", "Content-Length: 3", "Content-Length: 4") + b"abcd", 400, closes=True),
    Row("an unknown transfer coding", get("/", "Transfer-Encoding: gzip"), 501, closes=True),
    Row("another major version", b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, closes=True),
    Row("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, closes=True),
    Row("an unknown expectation", get("/", "Expect: more"), 417, closes=True),
    Row("a large file is spliced", get("/large.bin", method="HEAD"), 200, b"", {
        "content-length": str(LARGE_BYTES),
    }, "HEAD"),
]  # fmt: skip


def check(row: Row, status: int, fields: dict[str, str], body: bytes) -> None:
    """Whether an answer is the row's."""
    assert status == row.status
    if row.body is not None:
        assert body == row.body
    for name, value in row.fields.items():
        assert fields.get(name) == value, name
    assert fields["server"] == "ringserve"
    assert fields["date"].endswith(" GMT")
