"""Real clients, as people use them: curl, wget and httpx, each against a server of ours.

What they make of our answers is compared byte by byte with the files. A client that is not installed is a failure: what
was not tried is not tested. Nothing of the user's reaches them, neither configuration nor proxies.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from conftest import Serving
from exchanges import HELLO, LARGE_BYTES, MODIFIED, MODIFIED_DATE, PASSWORD_HASH, STYLE, TAG, fill

from ringserve.compress import SUFFIXES, encode
from ringserve.config import AuthRule
from ringserve.library import RunningServer

WAIT_S = 30
"""Longer than any of them takes, even on a loaded machine; each is ended by what it was told to do."""
HALF = LARGE_BYTES // 2
UPLOAD_BYTES = 2_000_000
"""More than we read over."""
WGET_REFUSED = 8
"""Its exit status when a server answered with an error."""


@pytest.fixture
def served(site: Path) -> Path:
    """The site, filled."""
    fill(site)
    return site


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where clients put what they got."""
    directory = tmp_path / "place"
    directory.mkdir()
    return directory


def run(place: Path, name: str, *arguments: str, status: int = 0) -> str:
    """Run a client, and return what it printed. status: what it has to exit with."""
    program = shutil.which(name)
    if program is None:
        pytest.fail(f"there is no {name} on this machine; to install it: apt-get install {name}", pytrace=False)
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C.UTF-8"}
    ended = subprocess.run(
        [program, *arguments], cwd=place, env=environment, capture_output=True, timeout=WAIT_S, check=False
    )
    printed = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == status, f"{name} ended with {ended.returncode}: {printed}"
    return ended.stdout.decode()


def test_a_client_that_is_not_installed_is_a_failure_that_names_its_package(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place))
    for name in ("curl", "wget"):
        with pytest.raises(pytest.fail.Exception, match=f"apt-get install {name}"):
            run(place, name)


class Log:
    """The access log of a server, read when the server has ended. settings: those that write it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.settings = {"log_file": str(path), "log_format": "json"}

    def of(self, running: RunningServer) -> list[dict[str, Any]]:
        """All lines."""
        running.stop()
        return [json.loads(line) for line in self._path.read_bytes().splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


# -- curl -------------------------------------------------------------------------------------------------------


class Transfer(NamedTuple):
    """What curl got. told: what it knows of the transfer, as listed under --write-out in curl(1)."""

    status: int
    fields: dict[str, str]
    body: bytes
    told: dict[str, Any]


REPORT = ("--write-out", "%{json}\n%{header_json}\n\n")
CURL = ("--silent", "--show-error", "--noproxy", "*", "--max-time", str(WAIT_S), *REPORT)


def curl_all(place: Path, *arguments: str) -> list[Transfer]:
    """Each of the transfers of one run. The arguments name an output for each."""
    printed = run(place, "curl", "--disable", *CURL, *arguments)
    transfers = []
    for block in re.findall(r"(\{.*\})\n(\{[^}]*\})\n\n", printed):
        told, fields = map(json.loads, block)
        path = place / (told["filename_effective"] or "nothing")
        transfers.append(
            Transfer(
                told["http_code"],
                {name: ", ".join(values) for name, values in fields.items()},
                path.read_bytes() if path.exists() else b"",
                told,
            )
        )
    return transfers


def curl(place: Path, url: str, *arguments: str) -> Transfer:
    """One transfer."""
    (transfer,) = curl_all(place, *arguments, "--output", "0", url)
    return transfer


def each_to_a_file(*urls: str) -> list[str]:
    """Arguments for several transfers."""
    return [word for number, url in enumerate(urls) for word in ("--output", str(number), url)]


@pytest.mark.usefixtures("served")
def test_curl_gets_a_file(serving: Serving, place: Path) -> None:
    got = curl(place, f"{serving().url}hello.txt")
    assert (got.status, got.body, got.told["http_version"]) == (200, HELLO, "1.1")
    assert got.fields["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("0-0", 0, 1),
        ("100-299999", 100, 300_000),
        (f"{HALF}-", HALF, None),
        ("-5", -5, None),
        ("599999-700000", -1, None),
    ],
)
def test_curl_gets_a_range(
    serving: Serving, served: Path, place: Path, wanted: str, start: int, end: int | None
) -> None:
    large = (served / "large.bin").read_bytes()
    got = curl(place, f"{serving().url}large.bin", "--range", wanted)
    assert (got.status, got.body) == (206, large[start:end])
    first = start % LARGE_BYTES
    assert got.fields["content-range"] == f"bytes {first}-{first + len(got.body) - 1}/{LARGE_BYTES}"


def test_curl_gets_several_ranges(serving: Serving, served: Path, place: Path) -> None:
    large = (served / "large.bin").read_bytes()
    got = curl(place, f"{serving().url}large.bin", "--range", "0-9,300000-399999,-1")
    assert got.status == 206
    assert "content-range" not in got.fields
    head = f"Content-Type: {got.fields['content-type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + got.body, EmailMessage, policy=email.policy.HTTP)
    assert not message.defects
    parts = [(part["content-range"], part.get_payload(decode=True)) for part in message.iter_parts()]
    assert parts == [
        (f"bytes 0-9/{LARGE_BYTES}", large[:10]),
        (f"bytes 300000-399999/{LARGE_BYTES}", large[300_000:400_000]),
        (f"bytes {LARGE_BYTES - 1}-{LARGE_BYTES - 1}/{LARGE_BYTES}", large[-1:]),
    ]


@pytest.mark.usefixtures("served")
def test_curl_is_told_the_size_of_a_file_without_such_a_range(serving: Serving, place: Path) -> None:
    got = curl(place, f"{serving().url}large.bin", "--range", f"{LARGE_BYTES}-")
    assert (got.status, got.fields["content-range"]) == (416, f"bytes */{LARGE_BYTES}")


@pytest.mark.parametrize("so_far", [0, 1, HALF, LARGE_BYTES - 1])
def test_curl_resumes_a_download(serving: Serving, served: Path, place: Path, so_far: int) -> None:
    large = (served / "large.bin").read_bytes()
    (place / "0").write_bytes(large[:so_far])
    got = curl(place, f"{serving().url}large.bin", "--continue-at", "-")
    assert got.status == (206 if so_far else 200)
    assert got.told["size_download"] == LARGE_BYTES - so_far, "only what was missing was sent"
    assert got.body == large


def test_curl_resumes_a_download_that_is_complete(serving: Serving, served: Path, place: Path) -> None:
    large = (served / "large.bin").read_bytes()
    (place / "0").write_bytes(large)
    got = curl(place, f"{serving().url}large.bin", "--continue-at", "-")
    assert (got.status, got.body) == (416, large)


@pytest.mark.parametrize(("coding", "feature"), [("br", "brotli"), ("zstd", "zstd"), ("gzip", "libz")])
def test_curl_decodes_what_is_precompressed(
    serving: Serving, served: Path, place: Path, coding: str, feature: str
) -> None:
    for suffix in SUFFIXES.values():
        (served / f"style.css{suffix}").unlink()
    (served / f"style.css{SUFFIXES[coding]}").write_bytes(encode(coding, STYLE))
    # One that was built without a library asks for less, and gets less; never what it cannot read.
    able = feature in run(place, "curl", "--disable", "--version").lower()
    got = curl(place, f"{serving().url}style.css", "--compressed")
    assert (got.status, got.body) == (200, STYLE)
    assert got.fields.get("content-encoding") == (coding if able else None)
    assert got.fields["vary"] == "Accept-Encoding"
    if able:
        assert got.told["size_download"] == len(encode(coding, STYLE)) < len(STYLE)


def test_curl_that_decodes_nothing_gets_the_file_itself(serving: Serving, served: Path, place: Path) -> None:
    got = curl(place, f"{serving().url}style.css")
    assert (got.status, got.body) == (200, (served / "style.css").read_bytes())
    assert "content-encoding" not in got.fields


@pytest.mark.usefixtures("served")
def test_curl_of_http_1_0_is_answered_and_the_connection_ends(serving: Serving, place: Path) -> None:
    url = serving().url
    first, second = curl_all(place, "--http1.0", *each_to_a_file(f"{url}hello.txt", f"{url}hello.txt"))
    for got in (first, second):
        assert (got.status, got.body, got.fields["connection"]) == (200, HELLO, "close")
        assert got.told["num_connects"] == 1, "each has a connection of its own"


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd", "docs/../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
        ".%2e/.%2E/etc/passwd", "./../etc/passwd", "..", "%2e%2e%5cetc%5cpasswd", "..\\..\\etc\\passwd",
        "//etc/passwd", "%00/etc/passwd", "outside", ".secret", "docs/./../.secret", "%2esecret",
        "..%252f..%252fetc/passwd", "..%c0%af..%c0%afetc/passwd", "hello.txt/../../../etc/passwd",
    ],
)  # fmt: skip
@pytest.mark.parametrize("listing", [False, True])
def test_curl_does_not_get_out_of_the_site(
    serving: Serving, served: Path, place: Path, path: str, listing: bool
) -> None:
    (served.parent / "etc").mkdir()
    (served.parent / "etc" / "passwd").write_bytes(b"a secret")
    got = curl(place, f"{serving(listing=listing).url}{path}", "--path-as-is")
    assert got.status in (400, 404)
    for told in (b"root:", b"secret", b"no\n", str(served).encode()):
        assert told not in got.body


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("path", ["docs/../hello.txt", "./hello.txt", "docs/./../hello.txt", "docs/%2e%2e/hello.txt"])
def test_curl_goes_around_within_the_site(serving: Serving, place: Path, path: str) -> None:
    got = curl(place, f"{serving().url}{path}", "--path-as-is")
    assert (got.status, got.body) == (200, HELLO)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("path", ["hello.txt", "large.bin", "", "style.css", "empty"])
def test_curl_asks_for_the_head_alone(serving: Serving, place: Path, path: str) -> None:
    url = serving().url + path
    whole = curl(place, url)
    head = curl(place, url, "--head")
    assert (head.status, head.told["size_download"]) == (200, 0)
    whole.fields.pop("date")
    head.fields.pop("date")
    assert head.fields == whole.fields
    assert head.fields["content-length"] == str(len(whole.body))


@pytest.mark.usefixtures("served")
def test_curl_asks_for_what_is_newer_than_its_copy(serving: Serving, place: Path) -> None:
    url = f"{serving().url}hello.txt"
    first = curl(place, url, "--remote-time")
    assert (first.status, first.fields["last-modified"]) == (200, MODIFIED_DATE)
    assert (place / "0").stat().st_mtime == MODIFIED
    (place / "0").write_bytes(b"kept")
    os.utime(place / "0", (MODIFIED, MODIFIED))
    assert (curl(place, url, "--time-cond", "0").status, (place / "0").read_bytes()) == (304, b"kept")
    os.utime(place / "0", (MODIFIED - 1, MODIFIED - 1))
    assert (curl(place, url, "--time-cond", "0").status, (place / "0").read_bytes()) == (200, HELLO)


def test_curl_keeps_a_tag_and_asks_with_it(serving: Serving, served: Path, place: Path) -> None:
    url = f"{serving().url}hello.txt"
    tags = ("--etag-compare", "tag", "--etag-save", "tag")
    assert curl(place, url, "--etag-save", "tag").body == HELLO
    assert (place / "tag").read_text() == f"{TAG}\n"
    (place / "0").unlink()
    assert curl(place, url, *tags)[:1] == (304,)
    (served / "hello.txt").write_bytes(b"hello anew")
    assert curl(place, url, *tags)[0:3:2] == (200, b"hello anew")
    assert curl(place, url, *tags).status == 304


@pytest.mark.usefixtures("served")
def test_curl_follows_the_way_to_a_directory(serving: Serving, place: Path) -> None:
    url = serving().url
    got = curl(place, f"{url}docs?a=1&b=2", "--location")
    assert (got.status, got.body) == (200, b"<!doctype html><title>docs</title>")
    assert (got.told["num_redirects"], got.told["url_effective"]) == (1, f"{url}docs/?a=1&b=2")
    assert got.told["num_connects"] == 1, "on the same connection"


def test_curl_asks_for_many_things_on_one_connection(serving: Serving, served: Path, place: Path) -> None:
    url = serving().url
    paths = ["hello.txt", "missing", "large.bin", "docs", "", "empty", "style.css", "large.bin", "%zz", "hello.txt"]
    transfers = curl_all(place, *each_to_a_file(*(url + path for path in paths)))
    assert [got.status for got in transfers] == [200, 404, 200, 308, 200, 200, 200, 200, 400, 200]
    assert [got.told["num_connects"] for got in transfers] == [1] + [0] * (len(paths) - 1)
    large = (served / "large.bin").read_bytes()
    assert (transfers[0].body, transfers[2].body, transfers[7].body, transfers[9].body) == (HELLO, large, large, HELLO)


def test_curl_asks_for_many_things_at_once(serving: Serving, served: Path, place: Path) -> None:
    url = serving().url
    names = ["hello.txt", "large.bin", "style.css", "empty"] * 12
    transfers = curl_all(place, "--parallel", "--parallel-immediate", *each_to_a_file(*(url + name for name in names)))
    assert [got.status for got in transfers] == [200] * len(names)
    for number, name in enumerate(names):
        assert (place / str(number)).read_bytes() == (served / name).read_bytes()


@pytest.mark.usefixtures("served")
def test_curl_comes_by_a_unix_socket(serving: Serving, tmp_path: Path, place: Path) -> None:
    path = tmp_path / "socket"
    serving(unix=str(path))
    got = curl(place, "http://any.example/hello.txt", "--unix-socket", str(path))
    assert (got.status, got.body) == (200, HELLO)


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize("size", [5, UPLOAD_BYTES])
def test_curl_that_waits_for_a_go_ahead_uploads_nothing(serving: Serving, place: Path, size: int) -> None:
    (place / "upload").write_bytes(b"x" * size)
    got = curl(
        place, f"{serving().url}hello.txt", "--upload-file", "upload", "--header", "Expect: 100-continue",
        "--expect100-timeout", str(WAIT_S),
    )  # fmt: skip
    assert (got.status, got.told["size_upload"]) == (405, 0)
    assert got.fields["allow"] == "GET, HEAD, OPTIONS"


def test_curl_that_uploads_at_once_is_refused_and_goes_on(serving: Serving, served: Path, place: Path) -> None:
    (place / "upload").write_bytes(b"x" * 1000)
    url = f"{serving().url}hello.txt"
    upload = ("--upload-file", "upload", "--header", "Expect:", "--output", "0", url)
    first, second = curl_all(place, *upload, "--next", *CURL, "--output", "1", url)
    assert (first.status, first.fields["connection"]) == (405, "close")
    assert (second.status, second.body, second.told["num_connects"]) == (200, HELLO, 1)
    assert (served / "hello.txt").read_bytes() == HELLO


@pytest.mark.usefixtures("served")
def test_curl_that_uploads_much_at_once_can_read_why_not(serving: Serving, place: Path) -> None:
    (place / "upload").write_bytes(b"x" * UPLOAD_BYTES)
    got = curl(place, f"{serving().url}hello.txt", "--upload-file", "upload", "--header", "Expect:")
    assert got.status == 405
    assert got.fields["connection"] == "close"


@pytest.mark.usefixtures("served")
def test_curl_comes_through_a_proxy_that_says_so(serving: Serving, place: Path, log: Log) -> None:
    running = serving(proxy_protocol=True, trusted_proxy=("127.0.0.0/8",), **log.settings)
    url = f"{running.url}hello.txt"
    transfers = curl_all(place, "--haproxy-protocol", *each_to_a_file(url, url))
    assert [(got.status, got.body, got.told["num_connects"]) for got in transfers] == [(200, HELLO, 1), (200, HELLO, 0)]
    assert [line["client"] for line in log.of(running)] == ["127.0.0.1"] * 2


@pytest.mark.usefixtures("served")
def test_curl_is_refused_if_it_does_not_say_so_or_nobody_wants_to_know(serving: Serving, place: Path) -> None:
    proxied = serving(proxy_protocol=True, trusted_proxy=("127.0.0.0/8",))
    for got in (curl(place, proxied.url), curl(place, serving().url, "--haproxy-protocol")):
        assert (got.status, got.fields["connection"]) == (400, "close")


PROTECTED = {"auth": (AuthRule(("/private/**",), "The cave", (("aladdin", PASSWORD_HASH),)),)}


@pytest.mark.usefixtures("served")
def test_curl_says_who_it_is(serving: Serving, place: Path) -> None:
    url = f"{serving(**PROTECTED).url}private/plan.txt"
    assert curl(place, url).fields["www-authenticate"] == 'Basic realm="The cave", charset="UTF-8"'
    for user, status in (("aladdin:open sesame", 200), ("aladdin:no way", 401), ("cassim:open sesame", 401)):
        got = curl(place, url, "--user", user)
        assert got.status == status
        assert (got.body == b"the plan") is (status == 200)


@pytest.mark.usefixtures("served")
def test_curl_says_who_it_is_when_it_is_asked(serving: Serving, place: Path) -> None:
    got = curl(place, f"{serving(**PROTECTED).url}private/plan.txt", "--anyauth", "--user", "aladdin:open sesame")
    assert (got.status, got.body, got.told["num_connects"]) == (200, b"the plan", 1)


@pytest.mark.usefixtures("served")
def test_curl_that_would_rather_have_http_2_gets_http_1_1(serving: Serving, place: Path) -> None:
    got = curl(place, f"{serving().url}hello.txt", "--http2")
    assert (got.status, got.body, got.told["http_version"]) == (200, HELLO, "1.1")
    assert "upgrade" not in got.fields


# -- wget -------------------------------------------------------------------------------------------------------


def wget(place: Path, *arguments: str, status: int = 0) -> None:
    ours = ("--no-config", "--no-proxy", "--no-hsts", "--no-verbose", "--tries=1", f"--timeout={WAIT_S}")
    run(place, "wget", *ours, *arguments, status=status)


def test_wget_resumes_a_download(serving: Serving, served: Path, place: Path, log: Log) -> None:
    large = (served / "large.bin").read_bytes()
    (place / "large.bin").write_bytes(large[:HALF])
    running = serving(**log.settings)
    wget(place, "--continue", f"{running.url}large.bin")
    assert (place / "large.bin").read_bytes() == large
    wget(place, "--continue", f"{running.url}large.bin")
    assert (place / "large.bin").read_bytes() == large, "what is whole stays as it is"
    lines = log.of(running)
    assert [(line["status"], line["range"]) for line in lines] == [
        (206, f"bytes={HALF}-"),
        (416, f"bytes={LARGE_BYTES}-"),
    ]
    assert lines[0]["bytes"] == LARGE_BYTES - HALF


def test_wget_gets_what_is_newer_than_its_copy(serving: Serving, served: Path, place: Path, log: Log) -> None:
    running = serving(**log.settings)
    url = f"{running.url}hello.txt"
    for _again in range(2):
        wget(place, "--timestamping", url)
        assert (place / "hello.txt").read_bytes() == HELLO
        assert (place / "hello.txt").stat().st_mtime == MODIFIED, "it takes over the date of the file"
    (served / "hello.txt").write_bytes(b"hello anew")
    wget(place, "--timestamping", url)
    assert (place / "hello.txt").read_bytes() == b"hello anew"
    assert [line["status"] for line in log.of(running)] == [200, 304, 200]


@pytest.fixture
def tree(site: Path) -> Path:
    """Directories to be mirrored, with names that have to be escaped."""
    for name in ("a.txt", "pictures/b.bin", "pictures/raw/c d.txt", "pictures/raw/100%.txt", "pictures/raw/é#?&.txt"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(f"content of {name}".encode() * 50)
    (site / "empty").mkdir()
    (site / ".hidden").write_bytes(b"no")
    return site


def test_wget_mirrors_a_listing(serving: Serving, tree: Path, place: Path, log: Log) -> None:
    running = serving(listing=True, **log.settings)
    wget(place, "--recursive", "--no-parent", "--level=3", "--no-host-directories", running.url)
    files = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} - {".hidden"}
    got = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    for name in files:
        assert (place / name).read_bytes() == (tree / name).read_bytes()
    # What else it got are the listings, in each of their orders.
    assert all(re.fullmatch(r"index\.html(\?[a-z=&]+)?", Path(name).name) for name in got - files)
    assert {str(Path(name).parent) for name in got - files} == {".", "empty", "pictures", "pictures/raw"}
    lines = log.of(running)
    assert [line["target"] for line in lines if line["status"] != 200] == ["/robots.txt"]
    assert len({line["target"] for line in lines}) == len(lines), "no listing leads around in circles"


@pytest.mark.usefixtures("served")
def test_wget_looks_whether_something_is_there(serving: Serving, place: Path) -> None:
    url = serving().url
    wget(place, "--spider", f"{url}hello.txt", f"{url}docs")
    wget(place, "--spider", f"{url}missing", status=WGET_REFUSED)


def test_wget_decodes_what_is_precompressed(serving: Serving, served: Path, place: Path, log: Log) -> None:
    (served / "style.css.gz").write_bytes(encode("gzip", STYLE))
    running = serving(**log.settings)
    wget(place, "--compression=auto", f"{running.url}style.css")
    assert (place / "style.css").read_bytes() == STYLE
    assert [line["coding"] for line in log.of(running)] == ["gzip"]


# -- httpx ------------------------------------------------------------------------------------------------------


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=WAIT_S) as made:
        yield made


@pytest.mark.usefixtures("served")
def test_httpx_speaks_http_1_1_on_one_connection(serving: Serving, client: httpx.Client) -> None:
    url = serving().url
    local = set()
    for _again in range(3):
        with client.stream("GET", f"{url}hello.txt") as response:
            local.add(response.extensions["network_stream"].get_extra_info("client_addr"))
            assert (response.read(), response.status_code, response.http_version) == (HELLO, 200, "HTTP/1.1")
    assert len(local) == 1


def test_httpx_asks_for_ranges(serving: Serving, served: Path, client: httpx.Client) -> None:
    url = f"{serving().url}large.bin"
    large = (served / "large.bin").read_bytes()
    for wanted, part in (("0-0", large[:1]), (f"{HALF}-", large[HALF:]), ("-7", large[-7:])):
        response = client.get(url, headers={"Range": f"bytes={wanted}"})
        assert (response.status_code, response.content) == (206, part)
    tag = client.head(url).headers["etag"]
    for condition, status in ((tag, 206), ('"another"', 200)):
        response = client.get(url, headers={"Range": "bytes=0-9", "If-Range": condition})
        assert (response.status_code, response.content) == (status, large[:10] if status == 206 else large)


@pytest.mark.usefixtures("served")
def test_httpx_asks_on_conditions(serving: Serving, client: httpx.Client) -> None:
    url = f"{serving().url}hello.txt"
    first = client.get(url)
    for name, value in (
        ("If-None-Match", first.headers["etag"]),
        ("If-Modified-Since", first.headers["last-modified"]),
    ):
        response = client.get(url, headers={name: value})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", first.headers["etag"])
    assert client.get(url, headers={"If-Match": '"another"'}).status_code == 412


def test_httpx_streams_a_large_body(serving: Serving, site: Path, client: httpx.Client) -> None:
    content = os.urandom(1 << 20) * 24
    (site / "video").write_bytes(content)
    url = f"{serving().url}video"
    got = bytearray()
    with client.stream("GET", url) as response:
        assert response.headers["content-length"] == str(len(content))
        for chunk in response.iter_raw(100_000):
            got += chunk
    assert got == content


def test_httpx_goes_away_in_the_middle_of_a_body(serving: Serving, site: Path, client: httpx.Client, log: Log) -> None:
    (site / "video").write_bytes(bytes(24 << 20))
    (site / "hello.txt").write_bytes(HELLO)
    running = serving(**log.settings)
    with client.stream("GET", f"{running.url}video") as response:
        assert next(response.iter_raw(1000)) == bytes(1000)
    assert client.get(f"{running.url}hello.txt").content == HELLO
    assert {(line["target"], line["aborted"]) for line in log.of(running)} == {("/video", True), ("/hello.txt", False)}


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip"])
def test_httpx_decodes_what_is_precompressed(serving: Serving, served: Path, client: httpx.Client, coding: str) -> None:
    for name, suffix in SUFFIXES.items():
        (served / f"style.css{suffix}").write_bytes(encode(name, STYLE))
    url = f"{serving().url}style.css"
    response = client.get(url, headers={"Accept-Encoding": coding})
    assert (response.content, response.headers["content-encoding"]) == (STYLE, coding)
    offered = client.get(url)
    assert (offered.content, offered.headers["content-encoding"]) == (STYLE, "br"), "of all that it offers by itself"


@pytest.mark.usefixtures("served")
def test_httpx_follows_and_says_who_it_is(serving: Serving, client: httpx.Client) -> None:
    url = serving(**PROTECTED).url
    response = client.get(f"{url}docs", follow_redirects=True)
    assert (str(response.url), [step.status_code for step in response.history]) == (f"{url}docs/", [308])
    assert client.get(f"{url}private/plan.txt").status_code == 401
    assert client.get(f"{url}private/plan.txt", auth=("aladdin", "open sesame")).content == b"the plan"


def test_httpx_asks_for_many_things_at_once_on_few_connections(serving: Serving, served: Path, log: Log) -> None:
    running = serving(**log.settings)
    names = ["hello.txt", "large.bin", "style.css", "empty", "docs/index.html"] * 40

    async def ask_all() -> list[bytes]:
        limits = httpx.Limits(max_connections=8)
        async with httpx.AsyncClient(
            trust_env=False, timeout=WAIT_S, limits=limits, headers={"Accept-Encoding": "identity"}
        ) as pool:
            answers = await asyncio.gather(*(pool.get(running.url + name) for name in names))
            assert {answer.status_code for answer in answers} == {200}
            return [answer.content for answer in answers]

    assert asyncio.run(ask_all()) == [(served / name).read_bytes() for name in names]
    assert len(log.of(running)) == len(names)
