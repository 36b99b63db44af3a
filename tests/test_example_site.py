"""Sites in a real browser: our example, a recording to jump in, assets with a hash in their names, an application."""

from __future__ import annotations

import functools
import json
import os
import re
import select
import shutil
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urldefrag, urljoin

import httpx
import pytest
from browser import Browser
from conftest import Serving
from wire import TIMEOUT_S

from ringserve.cli.compress import SUFFIXES, encode
from ringserve.config.rules import CacheRule

EXAMPLE = Path(__file__).parent.parent / "examples" / "site"
PAGES = sorted(str(page.relative_to(EXAMPLE)).removesuffix("index.html") for page in EXAMPLE.rglob("*.html"))
REFUSED = "Failed to load resource: the server responded with a status of {}"
"""What Chromium writes to its console of an answer that is an error."""


class Log:
    """The access log of a server as it is written: a pipe."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe()
        self._buffer = b""

    def until(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """The lines up to one, which has to come."""
        deadline = time.monotonic() + TIMEOUT_S
        lines = []
        while True:
            data, end, rest = self._buffer.partition(b"\n")
            if end:
                self._buffer = rest
                lines.append(json.loads(data))
                if wanted(lines[-1]):
                    return lines
            else:
                readable, _, _ = select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))
                assert readable, f"not in the log; there are {lines}"
                self._buffer += os.read(self._read_fd, 65536)

    def so_far(self, url: str) -> list[tuple[str, int]]:
        """Target and status of each answer that came before now."""
        # Lines are in the order in which answers ended, so that what a request of ours comes after is complete.
        target = f"/now?{time.monotonic_ns()}"
        httpx.get(urljoin(url, target), trust_env=False)
        lines = self.until(lambda line: line["target"] == target)
        return [(line["target"], line["status"]) for line in lines[:-1]]

    def close(self) -> None:
        os.close(self._read_fd)
        os.close(self.fd)


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


@pytest.fixture
def logged(log: Log, serving: Serving) -> Serving:
    """Starts servers that write that log. It is made before they are, and outlives them."""
    return functools.partial(serving, log_fd=log.fd, log_format="json")


@pytest.fixture
def browser(browser: Browser) -> Iterator[Browser]:
    """A fresh page. A player ends a request as soon as it has enough, or needs another part; that is no failure."""
    yield browser
    browser.failures[:] = [
        failure for failure in browser.failures if not re.search(r"\.wav: net::ERR_ABORTED$", failure)
    ]


def after(browser: Browser, condition: str) -> None:
    """Wait until a condition holds in the page, as what it shows changes."""
    browser.evaluate(
        f"""new Promise(resolve => {{
            const look = () => ({condition}) && resolve();
            new MutationObserver(look).observe(document, {{attributes: true, childList: true, subtree: true}});
            look();
        }})"""
    )


# -- the example ------------------------------------------------------------------------------------------------


def test_the_example_is_whole_and_shows_how_it_is_served(browser: Browser, serving: Serving, site: Path) -> None:
    shutil.copytree(EXAMPLE, site, dirs_exist_ok=True)
    url = serving(security_headers=True).url
    for page in PAGES:
        assert browser.open(url + page) == 200
        assert browser.evaluate("[...document.images].every(image => image.complete && image.naturalWidth)")
        links = browser.evaluate("[...document.querySelectorAll('[href]')].map(link => link.href)")
        for target, fragment in {urldefrag(link) for link in links if link.startswith(url)}:
            answer = httpx.get(target, trust_env=False)
            assert answer.status_code == 200, target
            assert not fragment or f'id="{fragment}"' in answer.text, (target, fragment)
        if not page:
            after(browser, "document.querySelector('.again')")
            statuses = "[...document.querySelectorAll('td.status')].map(cell => cell.textContent)"
            assert browser.evaluate(statuses) == ["200", "304", "206"]


# -- media ------------------------------------------------------------------------------------------------------

SEEK = """(async time => {
    const media = document.querySelector("audio");
    const next = name => new Promise((resolve, reject) => {
        media.addEventListener(name, resolve, {once: true});
        media.addEventListener("error", () => reject(media.error.message), {once: true});
    });
    if (media.readyState < media.HAVE_METADATA) await next("loadedmetadata");
    const seeked = next("seeked");
    media.currentTime = time;
    await seeked;
    return media.currentTime;
})"""


class Recording(NamedTuple):
    """A wave file of silence. It is mostly a hole, so that it costs nothing to make."""

    seconds: int = 1200
    bytes_a_second: int = 2 * 44_100

    def write(self, path: Path) -> int:
        """Its size."""
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(44_100)
            file.setnframes(self.seconds * 44_100)
            file.writeframesraw(b"")
        with path.open("r+b") as raw:
            raw.truncate(44 + self.seconds * self.bytes_a_second)
        return path.stat().st_size


def test_a_jump_in_a_long_recording_asks_for_what_is_there_and_not_for_what_is_before(
    browser: Browser, logged: Serving, site: Path, log: Log
) -> None:
    recording = Recording()
    size = recording.write(site / "recording.wav")
    (site / "index.html").write_text(
        '<!doctype html><title>t</title><link rel="icon" href="data:,">'
        '<audio src="recording.wav" controls preload="metadata"></audio>'
    )
    # Not stored: a cache that holds parts has them confirmed (304), and lets a second request wait for the first.
    browser.open(logged(cache=(CacheRule(("*.wav",), "no-store"),)).url)
    for wanted_s in (recording.seconds - 5, recording.seconds // 2):
        assert browser.evaluate(f"{SEEK}({wanted_s})") == wanted_s
    assert browser.evaluate("document.querySelector('audio').seekable.end(0)") == recording.seconds
    browser.open("about:blank")
    # The answers that it has cut off end with the page, in any order; that from the middle is one of them.
    middle = recording.seconds // 2 * recording.bytes_a_second
    lines = log.until(lambda line: line["range"] is not None and abs(start_of(line) - middle) < size // 10)
    asked = [line for line in lines if line["target"] == "/recording.wav"]
    assert {line["status"] for line in asked} == {206}
    assert any(start_of(line) > size * 9 // 10 for line in asked), "it asked for the end"
    assert sum(line["bytes"] for line in asked) < size // 2, "and not for all that is before"


def start_of(line: dict[str, Any]) -> int:
    """Where the range begins that was asked for."""
    start: str = line["range"].removeprefix("bytes=").partition("-")[0]
    return int(start)


# -- assets with a hash in their names --------------------------------------------------------------------------


def write_page(site: Path, script: str, style: str) -> None:
    """An index.html that refers to these, put in place at once, as a deployment does it."""
    (site / "index.new").write_text(
        f'<!doctype html><title>before</title><link rel="icon" href="data:,"><link rel="stylesheet" href="{style}">'
        f'<script src="{script}" defer></script><button onclick="location.reload()">Reload</button>'
    )
    (site / "index.new").rename(site / "index.html")


def write_asset(site: Path, name: str, content: str) -> None:
    """With its precompressed siblings."""
    (site / name).write_text(content)
    for coding, suffix in SUFFIXES.items():
        (site / f"{name}{suffix}").write_bytes(encode(coding, content.encode()))


FROM_CACHE = """(async path => {
    const response = await fetch(path, {cache: "only-if-cached", mode: "same-origin"});
    return [response.status, response.headers.get("cache-control"), response.headers.get("content-encoding")];
})"""


def test_assets_with_a_hash_are_asked_for_once_and_new_ones_at_once(
    browser: Browser, logged: Serving, site: Path, log: Log
) -> None:
    padding = "/* enough to be worth compressing */ " * 50
    for script, style, title, colour in (
        ("app.3f9a1c2b.js", "style.9e107d9d.css", "first", "rgb(1, 2, 3)"),
        ("app.8d2e4f60.js", "style.b6d81b36.css", "second", "rgb(4, 5, 6)"),
    ):
        write_asset(site, script, f"{padding} document.title = '{title}';")
        write_asset(site, style, f"{padding} body {{ color: {colour}; }}")
    url = logged().url
    shown = "[document.title, getComputedStyle(document.body).color]"

    write_page(site, "app.3f9a1c2b.js", "style.9e107d9d.css")
    browser.open(url)
    assert browser.evaluate(shown) == ["first", "rgb(1, 2, 3)"]
    first = log.so_far(url)
    assert first[0] == ("/", 200)
    assert sorted(first[1:]) == [("/app.3f9a1c2b.js", 200), ("/style.9e107d9d.css", 200)]
    for name in ("app.3f9a1c2b.js", "style.9e107d9d.css"):
        assert browser.evaluate(f"{FROM_CACHE}('{name}')") == [200, "public, max-age=31536000, immutable", "br"]
    assert log.so_far(url) == [], "those came from the cache"

    for _again in range(2):
        browser.follow("button")
        assert browser.evaluate(shown) == ["first", "rgb(1, 2, 3)"]
        assert log.so_far(url) == [("/", 304)], "a page is asked about, and its assets are not"

    write_page(site, "app.8d2e4f60.js", "style.b6d81b36.css")
    browser.follow("button")
    assert browser.evaluate(shown) == ["second", "rgb(4, 5, 6)"]
    second = log.so_far(url)
    assert second[0] == ("/", 200)
    assert sorted(second[1:]) == [("/app.8d2e4f60.js", 200), ("/style.b6d81b36.css", 200)]
    browser.follow("button")
    assert log.so_far(url) == [("/", 304)]


def test_an_asset_without_a_hash_is_never_stale(browser: Browser, logged: Serving, site: Path, log: Log) -> None:
    (site / "app.js").write_text("document.title = 'first'")
    (site / "style.css").write_text("body { color: rgb(1, 2, 3) }")
    write_page(site, "app.js", "style.css")
    url = logged().url
    browser.open(url)
    assert [status for _target, status in log.so_far(url)] == [200, 200, 200]
    (site / "app.js").write_text("document.title = 'second'")
    browser.follow("button")
    assert browser.evaluate("document.title") == "second"
    assert sorted(log.so_far(url)) == [("/", 304), ("/app.js", 200), ("/style.css", 304)]


# -- an application ---------------------------------------------------------------------------------------------

APPLICATION = """<!doctype html><title>Application</title><link rel="icon" href="data:,">
<main></main>
<button id="on" onclick="history.pushState(null, '', '/users/8'); show()">On</button>
<button id="reload" onclick="location.reload()">Reload</button>
<script src="/app.js"></script>
"""


@pytest.fixture
def application(site: Path) -> Path:
    """One that routes in the browser."""
    (site / "index.html").write_text(APPLICATION)
    (site / "app.js").write_text(
        "function show() { document.querySelector('main').textContent = location.pathname }\nshow()"
    )
    return site


@pytest.mark.usefixtures("application")
def test_a_deep_link_loads_the_application(browser: Browser, serving: Serving) -> None:
    url = serving(spa=True).url
    shown = "document.querySelector('main').textContent"
    for path in ("users/7", "users/7/", "a/b/c?d=e", "users/jane.doe", "pkg/lodash@4.17.21"):
        assert browser.open(url + path) == 200
        assert browser.evaluate(shown) == "/" + path.partition("?")[0]
    browser.click("#on")
    assert browser.evaluate(shown) == "/users/8"
    browser.follow("#reload")
    assert (browser.url, browser.evaluate(shown)) == (f"{url}users/8", "/users/8")


@pytest.mark.usefixtures("application")
def test_what_a_page_of_an_application_fetches_is_missing_if_it_is(browser: Browser, serving: Serving) -> None:
    url = serving(spa=True).url
    browser.open(f"{url}users/7")
    fetched = "fetch('/api/users', {headers: {accept: %s}}).then(response => response.status)"
    for accept in ("'*/*'", "'text/html'", "'application/json, text/plain, */*'"):
        assert browser.evaluate(fetched % accept) == 404
    failed = "new Promise(resolve => { const made = document.createElement('%s'); made.onerror = () => resolve(true);"
    assert browser.evaluate(failed % "img" + " made.src = '/picture'; document.body.append(made); })")
    assert browser.evaluate(failed % "script" + " made.src = '/module'; document.body.append(made); })")
    for name in ("api/users", "picture", "module"):
        assert browser.statuses.pop(url + name) == 404
    browser.console.clear()
    browser.failures.clear()


@pytest.mark.usefixtures("application")
def test_a_missing_script_of_an_application_is_missing(browser: Browser, serving: Serving) -> None:
    url = serving(spa=True).url
    browser.open(f"{url}users/7")
    came = browser.evaluate(
        """new Promise(resolve => {
            const script = document.createElement("script");
            script.src = "/users/old.js";
            script.onload = script.onerror = event => resolve(event.type);
            document.head.append(script);
        })"""
    )
    assert came == "error"
    assert browser.statuses.pop(f"{url}users/old.js") == 404
    assert any(REFUSED.format(404) in line for line in browser.console)
    # What Chromium says beside that is about the page in the place of a script, which it does not run.
    browser.console.clear()
    browser.failures.clear()
