"""The CPU time of the loop for the costliest request heads that were found, for each field that is read.

    python benchmarks/heads.py            # a table, the costliest first
    python benchmarks/heads.py Accept     # only the cases whose name has this in it

Each head is as large as the limits allow, and no two are alike, so that nothing is remembered. The server has a rule of
each kind, every setting that reads fields is on, and it writes an access log. The figure is the CPU time of the loop's
thread, the median of rounds; a busy machine changes it little. A head without anything costly comes first, to compare
with.
"""

from __future__ import annotations

import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ringserve.config.rules import AuthRule, CacheRule, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import HostConfig
from ringserve.library import RunningServer, serve

HEAD_BYTES = 31_000
"""Of 32 KiB, with room for the rest of the head."""
TARGET_BYTES = 8_000
PASSWORD_HASH = "$argon2id$v=19$m=8,t=1,p=1$YWFhYWFhYWE$YWFhYWFhYWE"
ROUNDS = 9
HEADS = 8
"""In a round."""
SLOW_MICROSECONDS = 100_000
"""Asked once only."""
TIMEOUT_S = 20.0

Head = Callable[[int], bytes]
"""A head by its number."""


def filled(piece: bytes, size: int, first: bytes = b"", last: bytes = b"") -> bytes:
    """`piece` again and again, to this size."""
    return first + piece * ((size - len(first) - len(last)) // len(piece)) + last


def of_field(name: str, piece: bytes, first: bytes = b"", last: bytes = b"", target: str = "/a.css") -> Head:
    """A head whose field is full of pieces. The number stands in a field of its own."""
    value = filled(piece, HEAD_BYTES, first, last)

    def head(number: int) -> bytes:
        field = b"%s: %s\r\n" % (name.encode(), value)
        host = b"" if name == "Host" else b"Host: a\r\n"
        return b"GET %s HTTP/1.1\r\n%sX-Number: %d\r\n%s\r\n" % (target.encode(), host, number, field)

    return head


def of_fields(name: str, count: int, value: bytes, target: str = "/a.css") -> Head:
    """A head with a field many times."""

    def head(number: int) -> bytes:
        fields = b"%s: %s\r\n" % (name.encode(), value) * count
        return b"GET %s HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\n%s\r\n" % (target.encode(), number, fields)

    return head


def of_target(piece: bytes, first: bytes = b"/", last: bytes = b"", size: int = TARGET_BYTES) -> Head:
    """A head whose target is full of pieces, with the number at its beginning."""

    def head(number: int) -> bytes:
        target = filled(piece, size, first + b"%d" % number, last)
        return b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target

    return head


def of_two(name: str, piece: bytes, other: bytes, target: str = "/a.css") -> Head:
    """As `of_field`, with another field."""
    head = of_field(name, piece, target=target)
    return lambda number: head(number)[:-2] + other + b"\r\n\r\n"


CASES: dict[str, Head] = {
    "nothing costly": lambda number: b"GET /a.css HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\n\r\n" % number,
    "nothing costly, 404": lambda number: b"GET /m.css HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\n\r\n" % number,
    "a field that is not read, 31 KB": of_field("X-Other", b"a"),
    "a field of control characters": of_field("X-Other", b"\x01"),
    "100 fields": of_fields("X", 98, b"a" * 300),
    "6,000 fields": of_fields("a", 6000, b""),
    "100 fields of one name": of_fields("X", 98, b"a" * 300),
    "Accept, a listing": of_field("Accept", b"a/b;q=0.1,", target="/list/"),
    "Accept, an application": of_field("Accept", b"a/b;q=0.1,", target="/missing"),
    "Accept, 404": of_field("Accept", b"a/b;q=0.1,", target="/missing.css"),
    "Accept of commas, a listing": of_field("Accept", b",", target="/list/"),
    "Accept of semicolons, a listing": of_field("Accept", b";", b"text/html", target="/list/"),
    "Accept of parameters, a listing": of_field("Accept", b";a=b", b"text/html", target="/list/"),
    "Accept of quotes, a listing": of_field("Accept", b'"",', target="/list/"),
    "Accept of escaped quotes, a listing": of_field("Accept", b'\\"', b'a/b;c="', target="/list/"),
    "Accept of spaces, a listing": of_field("Accept", b" ", b"a/b;", b"q=0.1", target="/list/"),
    "Accept of many blanks, a listing": of_field("Accept", b"; ", b"a/b", b"q=0.1", target="/list/"),
    "Accept-Encoding": of_field("Accept-Encoding", b"a;q=0.1,"),
    "Accept-Encoding of commas": of_field("Accept-Encoding", b","),
    "Accept-Encoding of names": of_field("Accept-Encoding", b"a,"),
    "Accept-Encoding of spaces": of_field("Accept-Encoding", b" ", b"gzip;", b"q=0.1"),
    "If-None-Match": of_field("If-None-Match", b'"",'),
    "If-None-Match of weak tags": of_field("If-None-Match", b'W/"",'),
    "If-None-Match of commas": of_field("If-None-Match", b",", b'"a"', b'"b"'),
    "If-None-Match of spaces": of_field("If-None-Match", b" ", b'"a"', b'"b"'),
    "If-None-Match, a listing": of_field("If-None-Match", b'"",', target="/list/"),
    "If-Match": of_field("If-Match", b'"",'),
    "If-Modified-Since": of_field("If-Modified-Since", b"Sun, "),
    "If-Modified-Since of digits": of_field("If-Modified-Since", b"0", b"Sun, "),
    "If-Unmodified-Since": of_field("If-Unmodified-Since", b"Sun, "),
    "Range": of_field("Range", b"0-0,", b"bytes="),
    "Range of suffixes": of_field("Range", b"-1,", b"bytes="),
    "Range of commas": of_field("Range", b",", b"bytes=", b"0-0"),
    "Range of digits": of_field("Range", b"9" * 3999 + b"-,", b"bytes="),
    "Range of a long number": of_field("Range", b"9", b"bytes=", b"-"),
    "Range of zeros": of_field("Range", b"0", b"bytes=", b"-"),
    "Range of spaces": of_field("Range", b" ", b"bytes=", b"0-0"),
    "Range of 32": lambda number: (
        b"GET /a.css HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\nRange: bytes=%s\r\n\r\n"
        % (number, b",".join(b"%d-%d" % (n * 200, n * 200) for n in range(32)))
    ),
    "If-Range": of_two("If-Range", b'"', b"Range: bytes=0-0"),
    "If-Range of spaces": of_two("If-Range", b"Sun, ", b"Range: bytes=0-0"),
    "Connection": of_field("Connection", b"a,"),
    "Connection of commas": of_field("Connection", b","),
    "Connection of spaces": of_field("Connection", b" ", b"a,", b",a"),
    "Upgrade": of_field("Upgrade", b"a,"),
    "Expect": of_field("Expect", b"a,"),
    "Content-Length": of_field("Content-Length", b"0,", last=b"0"),
    "Transfer-Encoding": of_field("Transfer-Encoding", b"a,", last=b"0"),
    "Host of dots": of_field("Host", b"."),
    "Host of labels": of_field("Host", b"a."),
    "Host of escapes": of_field("Host", b"%61"),
    "Host of digits": of_field("Host", b"1", b"a:"),
    "Host in brackets": of_field("Host", b"1:", b"[", b"]"),
    "Cookie": of_field("Cookie", b"a=b; "),
    "Referer of quotes": of_field("Referer", b'"'),
    "User-Agent of bytes": of_field("User-Agent", b"\xe9"),
    "Authorization": of_field("Authorization", b"YTpi", b"Basic ", target="/private/a.css"),
    "Authorization of spaces": of_field("Authorization", b" ", b"Basic", b"YTpi", target="/private/a.css"),
    "Origin": of_field("Origin", b"https://a,"),
    "preflight": lambda number: (
        b"OPTIONS /a.css HTTP/1.1\r\nHost: a\r\nX-Number: %d\r\nOrigin: https://app.example\r\n"
        b"Access-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: %s\r\n\r\n"
        % (number, filled(b"a,", 30_000, last=b"a"))
    ),
    "X-Forwarded-For": of_field("X-Forwarded-For", b"127.0.0.1,"),
    "X-Forwarded-For of commas": of_field("X-Forwarded-For", b","),
    "Sec-Fetch": of_fields("Sec-Fetch-A", 90, b"a" * 300, target="/missing"),
    "target of segments": of_target(b"/a"),
    "target of segments, protected": of_target(b"/a", b"/private/"),
    "target of long segments, protected": of_target(b"/" + b"a" * 30, b"/private/"),
    "target of dots": of_target(b"/a/.."),
    "target of single dots": of_target(b"/."),
    "target of slashes": of_target(b"/"),
    "target of escapes": of_target(b"%61"),
    "target of bad escapes": of_target(b"a", last=b"%"),
    "target of hashes": of_target(b"#"),
    "target of escaped hashes": of_target(b"/%23"),
    "target of hyphens": of_target(b"-"),
    "target of hyphens and dots": of_target(b"-.", last=b".png"),
    "target of a file's ending": of_target(b".html"),
    "target of many directories": of_target(b"/list"),
    "target in absolute form": of_target(b".", b"http://a"),
    "query of quotes, a redirect": of_target(b'"', b"/list?"),
    "query of percents, a redirect": of_target(b"%", b"/list?"),
    "query of quotes, a redirect by rule": of_target(b'"', b"/old/a?"),
    "query of parameters, a listing": of_target(b"a&", b"/list/?"),
    "a redirect by rule": of_target(b"%80", b"/old/"),
    "a rewrite": of_target(b"%80", b"/alias/"),
}


def start(site: Path, log: int) -> RunningServer:
    """A server whose settings read every field."""
    (site / "a.css").write_bytes(b"a" * 20_000)
    for ending in (".gz", ".br", ".zst"):
        (site / f"a.css{ending}").write_bytes(b"coded")
    (site / "index.html").write_bytes(b"<!doctype html>")
    (site / "private").mkdir()
    (site / "private" / "a.css").write_bytes(b"a")
    (site / "list").mkdir()
    (site / "list" / "a.txt").write_bytes(b"a")
    (site / "other").mkdir()
    return serve(
        site,
        log_format="json",
        log_fd=log,
        listing=True,
        spa=True,
        clean_urls=True,
        security_headers=True,
        cors_origin=("https://app.example",),
        trusted_proxy=("127.0.0.1",),
        auth=(AuthRule(("/private/**", "*.secret"), "A", (("a", PASSWORD_HASH),)),),
        redirects=(RedirectRule("/old/**", "/new/$1"),),
        rewrites=(RewriteRule("/alias/**", "/$1"),),
        headers=(HeaderRule(("*-*.png", "/img/*.{png,jpg}"), (("X-A", "b"),)),),
        cache=(CacheRule(("*.css",), "max-age=1"),),
        virtual_host=(HostConfig(directory=str(site / "other"), names=("*.example",)),),
    )  # fmt: skip


class Client:
    """One connection, made again when it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._number = 0

    def ask(self, head: Head) -> int:
        """Send the next head, and read its whole answer. Returns the status."""
        self._number += 1
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), TIMEOUT_S)
        self._socket.sendall(head(self._number))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._receive(self._socket)
        fields, _, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", fields)
        left = (int(length[1]) if length else 0) - len(body)
        while left > 0:
            left -= len(self._receive(self._socket))
        if b"\r\nConnection: close" in fields:
            self._socket.close()
            self._socket = None
        return int(fields[9:12])

    @staticmethod
    def _receive(connection: socket.socket) -> bytes:
        data = connection.recv(1 << 16)
        if not data:
            raise SystemExit("the server closed the connection without a whole answer")
        return data


def measure(running: RunningServer, wanted: str) -> Iterator[tuple[str, int, float]]:
    """Name, status and microseconds of the loop for each case."""
    thread = running._thread.ident
    assert thread is not None, "the server has started"
    clock = time.pthread_getcpuclockid(thread)
    client = Client(port_of(running.url))
    for name, head in CASES.items():
        if wanted.lower() not in name.lower():
            continue
        before_ns = time.clock_gettime_ns(clock)
        status = client.ask(head)
        times = [(time.clock_gettime_ns(clock) - before_ns) / 1000]
        for _round in range(ROUNDS if times[0] < SLOW_MICROSECONDS else 0):
            before_ns = time.clock_gettime_ns(clock)
            for _head in range(HEADS):
                client.ask(head)
            times.append((time.clock_gettime_ns(clock) - before_ns) / HEADS / 1000)
        yield name, status, statistics.median(times)


def port_of(url: str) -> int:
    """The port of a URL."""
    return int(url.rstrip("/").rpartition(":")[2])


def main() -> None:
    """Measure, and print a table."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    with (
        tempfile.TemporaryDirectory() as directory,
        open("/dev/null", "wb") as log,
        start(Path(directory), log.fileno()) as running,
    ):
        results = sorted(measure(running, wanted), key=lambda result: -result[2])
    print(f"{'head':45} status  microseconds")
    for name, status, microseconds in results:
        print(f"{name:45} {status:6}  {microseconds:12,.0f}")


if __name__ == "__main__":
    main()
