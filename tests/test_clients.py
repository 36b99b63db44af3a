"""Real clients, as people use them: curl, wget and httpx, each against a server of ours.

Here is only what a client shows that reads our answers for purposes of its own: it resumes, mirrors, decodes, follows,
and asks again. Whether an answer is right byte for byte is asked by `exchanges.py`. A client that is not installed is a
failure: what was not tried is not tested. Nothing of the user's reaches them, neither configuration nor proxies.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from conftest import Serving
from exchanges import HELLO, LARGE_BYTES, MODIFIED, PASSWORD_HASH, STYLE, TAG, fill

from ringserve.cli.compress import SUFFIXES, encode
from ringserve.config.rules import AuthRule
from ringserve.library import RunningServer

WAIT_S = 30
"""Longer than any of them takes, even on a loaded machine; each is ended by what it was told to do."""
HALF = LARGE_BYTES // 2
UPLOAD_BYTES = 2_000_000
"""More than we read over."""


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


def run(place: Path, name: str, *arguments: str) -> str:
    """Run a client, and return what it printed."""
    program = shutil.which(name)
    if program is None:
        pytest.fail(f"there is no {name} on this machine; to install it: apt-get install {name}", pytrace=False)
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C.UTF-8"}
    ended = subprocess.run(
        [program, *arguments], cwd=place, env=environment, capture_output=True, timeout=WAIT_S, check=False
    )
    printed = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 0, f"{name} ended with {ended.returncode}: {printed}"
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


@pytest.mark.parametrize(("so_far", "status"), [(0, 200), (HALF, 206), (LARGE_BYTES, 416)])
def test_curl_resumes_a_download(serving: Serving, served: Path, place: Path, so_far: int, status: int) -> None:
    large = (served / "large.bin").read_bytes()
    (place / "0").write_bytes(large[:so_far])
    got = curl(place, f"{serving().url}large.bin", "--continue-at", "-")
    assert (got.status, got.body) == (status, large)
    if status != 416:
        assert got.told["size_download"] == LARGE_BYTES - so_far, "only what was missing was sent"


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


@pytest.mark.usefixtures("served")
def test_curl_of_http_1_0_is_answered_and_the_connection_ends(serving: Serving, place: Path) -> None:
    url = serving().url
    first, second = curl_all(place, "--http1.0", *each_to_a_file(f"{url}hello.txt", f"{url}hello.txt"))
    for got in (first, second):
        assert (got.status, got.body, got.fields["connection"]) == (200, HELLO, "close")
        assert got.told["num_connects"] == 1, "each has a connection of its own"


AROUND = (
    "../../etc/passwd", "docs/../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
    ".%2e/.%2E/etc/passwd", "./../etc/passwd", "..", "%2e%2e%5cetc%5cpasswd", "..\\..\\etc\\passwd",
    "//etc/passwd", "%00/etc/passwd", "outside", ".secret", "docs/./../.secret", "%2esecret",
    "..%252f..%252fetc/passwd", "..%c0%af..%c0%afetc/passwd", "hello.txt/../../../etc/passwd",
)  # fmt: skip


@pytest.mark.parametrize("listing", [False, True])
def test_curl_does_not_get_out_of_the_site(serving: Serving, served: Path, place: Path, listing: bool) -> None:
    (served.parent / "etc").mkdir()
    (served.parent / "etc" / "passwd").write_bytes(b"a secret")
    url = serving(listing=listing).url
    transfers = curl_all(place, "--path-as-is", *each_to_a_file(*(url + path for path in AROUND)))
    assert len(transfers) == len(AROUND)
    for path, got in zip(AROUND, transfers, strict=True):
        assert got.status in (400, 404), path
        for told in (b"root:", b"secret", b"no\n", str(served).encode()):
            assert told not in got.body, path


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
    names = ["hello.txt", "large.bin", "style.css", "empty"] * 4
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
def test_curl_that_waits_for_a_go_ahead_uploads_nothing(serving: Serving, place: Path) -> None:
    (place / "upload").write_bytes(b"x" * 5)
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


PROTECTED = {"auth": (AuthRule(("/private/**",), "The cave", (("aladdin", PASSWORD_HASH),)),)}


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


def wget(place: Path, *arguments: str) -> None:
    ours = ("--no-config", "--no-proxy", "--no-hsts", "--no-verbose", "--tries=1", f"--timeout={WAIT_S}")
    run(place, "wget", *ours, *arguments)


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


# -- httpx ------------------------------------------------------------------------------------------------------


def test_httpx_goes_away_in_the_middle_of_a_body(serving: Serving, site: Path, log: Log) -> None:
    (site / "video").write_bytes(bytes(8 << 20))
    (site / "hello.txt").write_bytes(HELLO)
    running = serving(**log.settings)
    with httpx.Client(trust_env=False, timeout=WAIT_S) as client:
        with client.stream("GET", f"{running.url}video") as response:
            assert next(response.iter_raw(1000)) == bytes(1000)
        assert client.get(f"{running.url}hello.txt").content == HELLO
    assert {(line["target"], line["aborted"]) for line in log.of(running)} == {("/video", True), ("/hello.txt", False)}


def test_httpx_asks_for_many_things_at_once_on_few_connections(serving: Serving, served: Path, log: Log) -> None:
    running = serving(**log.settings)
    names = ["hello.txt", "large.bin", "style.css", "empty", "docs/index.html"] * 8

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
