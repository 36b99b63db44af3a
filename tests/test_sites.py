"""Several sites on one server, pages that stand in for others, and protected paths, while files change."""

from __future__ import annotations

import base64
import gzip
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Serving
from wire import TIMEOUT_S, Answer, Wire, eventually, get

from ringserve.config.rules import AuthRule
from ringserve.config.settings import HostConfig
from ringserve.connection.verifier import PASSWORDS
from ringserve.library import RunningServer
from ringserve.responders import passwords
from ringserve.ring.helpers import THREADS, WAITING_MAX
from ringserve.ring.uring.ring import UringRing

EACH_PATH = pytest.mark.parametrize("hot_path", [True, False], ids=["hot", "general"])
PAGE = "Accept: text/html"


def get_of(host: str, path: str, *fields: str, method: str = "GET") -> bytes:
    """A request to one of the sites."""
    return get(path, *fields, method=method).replace(b"Host: test\r\n", f"Host: {host}\r\n".encode())


def ask(wire: Wire, request: bytes) -> Answer:
    """The answer, three times the same: the later ones can come by the hot path."""
    first, *others = (wire.ask(request) for _ in range(3))
    for other in others:
        assert (other.status, other.body) == (first.status, first.body)
    return first


@pytest.fixture
def roots(site: Path, tmp_path: Path) -> dict[str, Path]:
    """The default site's directory and those of two hosts."""
    found = {"default": site}
    for name in ("one", "two"):
        found[name] = tmp_path / name
        found[name].mkdir()
    return found


def hosts(roots: dict[str, Path], **settings: Any) -> tuple[HostConfig, ...]:
    return tuple(
        HostConfig(directory=str(roots[name]), names=(f"{name}.example",), **settings) for name in ("one", "two")
    )


def being_verified(running: RunningServer) -> int:
    """How many passwords are being verified, or wait for it."""
    ring = running.server.tasks.ring
    assert isinstance(ring, UringRing)
    return ring._helpers.running(PASSWORDS)


HOSTS = {"default": "other.example", "one": "one.example", "two": "two.example"}
"""What a client has to ask for to get to each root."""


# -- several roots ----------------------------------------------------------------------------------------------


@EACH_PATH
def test_each_name_has_its_own_files(serving: Serving, roots: dict[str, Path], hot_path: bool) -> None:
    for name, root in roots.items():
        (root / "page").write_bytes(name.encode())
        (root / f"only-{name}").write_bytes(b"only here")
    running = serving(virtual_host=hosts(roots), hot_path=hot_path)
    with Wire(running.url) as wire:
        for host, name in {
            "one.example": "one",
            "ONE.example:80": "one",
            "one.example.": "one",
            "two.example": "two",
            "three.example": "default",
            "sub.one.example": "default",
            "127.0.0.1": "default",
        }.items():
            answer = ask(wire, get_of(host, "/page"))
            assert answer.body == name.encode()
            for other in roots:
                assert ask(wire, get_of(host, f"/only-{other}")).status == (200 if other == name else 404)
        assert wire.ask(get_of("two.example", "http://one.example/page")).body == b"one"
    assert bool(running.server.listening[0].hot_answers) is hot_path


@EACH_PATH
def test_what_is_remembered_of_one_site_is_not_answered_for_another(
    serving: Serving, roots: dict[str, Path], hot_path: bool
) -> None:
    # Of the same size and the same time, so that nothing but the site tells them apart.
    for name, root in roots.items():
        (root / "page").write_bytes(f"{name:10}".encode())
        os.utime(root / "page", (1_000_000_000, 1_000_000_000))
    (roots["one"] / "sometimes").write_bytes(b"here")
    running = serving(virtual_host=hosts(roots), hot_path=hot_path)
    with Wire(running.url) as first, Wire(running.url) as second:
        for _ in range(5):
            for name, host in HOSTS.items():
                for wire in (first, second):
                    assert wire.ask(get_of(host, "/page")).body == f"{name:10}".encode()
                    assert wire.ask(get_of(host, "/page", "Range: bytes=0-2")).body == name[:3].encode()
                    assert wire.ask(get_of(host, "/sometimes")).status == (200 if name == "one" else 404)
        wire = first
        wire.send(b"".join(get_of(host, "/page") for host in HOSTS.values()) * 3)
        assert [wire.answer().body for _ in range(9)] == [f"{name:10}".encode() for name in HOSTS] * 3


@EACH_PATH
def test_a_change_in_any_root_shows_at_once_and_in_no_other(
    serving: Serving, roots: dict[str, Path], hot_path: bool
) -> None:
    contents = dict.fromkeys(roots, b"at first")
    for root in roots.values():
        (root / "sub").mkdir()
        (root / "sub" / "page").write_bytes(b"at first")
    running = serving(virtual_host=hosts(roots), hot_path=hot_path)
    with Wire(running.url) as wire:

        def check() -> None:
            for name, host in HOSTS.items():
                assert ask(wire, get_of(host, "/sub/page")).body == contents[name]

        check()
        for number in range(5):
            for name, root in roots.items():
                contents[name] = f"{name} {number}".encode()
                (root / "sub" / "page").write_bytes(contents[name])
                check()
                assert ask(wire, get_of(HOSTS[name], "/new")).status == 404
                (root / "new").write_bytes(b"new")
                assert ask(wire, get_of(HOSTS[name], "/new")).body == b"new"
                (root / "new").unlink()
    assert bool(running.server.listening[0].hot_answers) is hot_path


@EACH_PATH
def test_a_directory_that_two_hosts_serve_changes_for_both(
    serving: Serving, roots: dict[str, Path], hot_path: bool
) -> None:
    shared = roots["one"]
    plain = HostConfig(directory=str(shared), names=("plain.example",))
    listed = HostConfig(directory=str(shared), names=("listed.example",), listing=True, clean_urls=True)
    within = HostConfig(directory=str(shared / "sub"), names=("within.example",))
    (shared / "sub").mkdir()
    running = serving(virtual_host=(plain, listed, within), hot_path=hot_path)
    with Wire(running.url) as wire:
        for number in range(10):
            content = b"%d" % number
            (shared / "sub" / "page.html").write_bytes(content)
            assert ask(wire, get_of("plain.example", "/sub/page.html")).body == content
            assert ask(wire, get_of("plain.example", "/sub/page")).status == 404
            assert ask(wire, get_of("plain.example", "/sub/")).status == 404
            assert ask(wire, get_of("listed.example", "/sub/page")).body == content
            assert b"page.html" in ask(wire, get_of("listed.example", "/sub/", "Accept: text/plain")).body
            assert ask(wire, get_of("within.example", "/page.html")).body == content
            (shared / "sub" / "page.html").unlink()
            assert ask(wire, get_of("plain.example", "/sub/page.html")).status == 404
            assert ask(wire, get_of("listed.example", "/sub/page")).status == 404
            assert ask(wire, get_of("listed.example", "/sub/", "Accept: text/plain")).body == b""
            assert ask(wire, get_of("within.example", "/page.html")).status == 404
        # Another directory in its place: the watches of every host have to follow.
        for number in range(5):
            (shared / "next").mkdir()
            (shared / "next" / "page.html").write_bytes(b"next %d" % number)
            (shared / "sub").rename(shared / f"old{number}")
            (shared / "next").rename(shared / "sub")
            assert ask(wire, get_of("plain.example", "/sub/page.html")).body == b"next %d" % number
            assert ask(wire, get_of("listed.example", "/sub/page")).body == b"next %d" % number


def test_the_limits_hold_for_all_sites_together(serving: Serving, roots: dict[str, Path]) -> None:
    for root in roots.values():
        for number in range(10):
            (root / f"small{number}").write_bytes(b"%d" % number * 100)
            (root / f"large{number}").write_bytes(b"%d" % number * 3000)
    running = serving(
        virtual_host=hosts(roots),
        cached_files_max=8,
        cache_bytes_max=4096,
        cached_file_bytes_max=1000,
        open_files_max=4,
    )
    before = len(os.listdir("/proc/self/fd"))
    with Wire(running.url) as wire:
        for _ in range(2):
            for host in HOSTS.values():
                for number in range(10):
                    assert wire.ask(get_of(host, f"/small{number}")).body == b"%d" % number * 100
                    assert wire.ask(get_of(host, f"/large{number}")).body == b"%d" % number * 3000
                    assert wire.ask(get_of(host, f"/missing{number}")).status == 404
        pipes = 2 * running.server.shared.pipes.count
        # Two for the connection; the closes of the last entries may still be on their way.
        assert len(os.listdir("/proc/self/fd")) <= before + 2 + 4 + 4 + pipes


def test_one_site_follows_links_out_of_its_root_and_others_do_not(
    serving: Serving, roots: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "page").write_bytes(b"outside")
    for root in roots.values():
        (root / "link").symlink_to(tmp_path / "outside" / "page")
        (root / "directory").symlink_to("../outside")
    one, two = hosts(roots)
    follows = HostConfig(directory=one.directory, names=one.names, follow_symlinks=True)
    running = serving(virtual_host=(follows, two))
    with Wire(running.url) as wire:
        for path in ("/link", "/directory/page"):
            for name, host in HOSTS.items():
                answer = ask(wire, get_of(host, path))
                if name == "one":
                    assert answer.body == b"outside"
                else:
                    assert answer.status == 404
        (tmp_path / "outside" / "page").write_bytes(b"changed")
        assert ask(wire, get_of("one.example", "/directory/page")).body == b"changed"
        # The site that follows may not be led astray by the request itself.
        for path in ("/../outside/page", "/directory/../../outside/page", "/%2e%2e/outside/page"):
            assert wire.ask(get_of("one.example", path)).status in (400, 404)


def test_a_link_that_is_not_followed_is_told_on_stderr_with_the_flag_that_would(
    serving: Serving, roots: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page").write_bytes(b"outside")
    (roots["two"] / "a\nlink").symlink_to(tmp_path / "page")
    running = serving(virtual_host=hosts(roots))
    with Wire(running.url) as wire:
        assert wire.ask(get_of("two.example", "/a%0Alink")).status == 404
        assert wire.ask(get_of("one.example", "/a%0Alink")).status == 404
    running.stop()
    (line,) = capfd.readouterr().err.splitlines()
    assert "/a\\nlink leads out of the root" in line
    assert "--follow-symlinks" in line
    assert str(tmp_path) not in line


# -- pages that stand in for others -----------------------------------------------------------------------------


@EACH_PATH
@pytest.mark.parametrize("name", ["default", "two"])
def test_a_page_for_what_is_missing_comes_changes_and_goes_at_once(
    serving: Serving, roots: dict[str, Path], hot_path: bool, name: str
) -> None:
    root, request = roots[name], get_of(HOSTS[name], "/missing", PAGE)
    running = serving(virtual_host=hosts(roots), hot_path=hot_path)
    with Wire(running.url) as wire:
        ours = ask(wire, request)
        assert ours.status == 404
        for number in range(10):
            (root / "404.html").write_bytes(b"nothing here %d" % number)
            answer = ask(wire, request)
            assert (answer.status, answer.body) == (404, b"nothing here %d" % number)
            (root / "404.html").write_bytes(b"still nothing")
            assert ask(wire, request).body == b"still nothing"
            (root / "missing").write_bytes(b"here")
            answer = ask(wire, request)
            assert (answer.status, answer.body) == (200, b"here")
            (root / "missing").unlink()
            answer = ask(wire, request)
            assert (answer.status, answer.body) == (404, b"still nothing")
            (root / "404.html").unlink()
            answer = ask(wire, request)
            assert (answer.status, answer.body) == (404, ours.body)
    assert bool(running.server.listening[0].hot_answers) is hot_path


@EACH_PATH
def test_the_compressed_page_for_what_is_missing_comes_and_goes_at_once(
    serving: Serving, site: Path, hot_path: bool
) -> None:
    with Wire(serving(hot_path=hot_path).url) as wire:
        request = get("/missing", PAGE, "Accept-Encoding: gzip")
        (site / "404.html").write_bytes(b"nothing here")
        for _ in range(10):
            assert "content-encoding" not in ask(wire, request).fields
            (site / "404.html.gz").write_bytes(gzip.compress(b"nothing here"))
            answer = ask(wire, request)
            assert (answer.status, answer.fields["content-encoding"]) == (404, "gzip")
            (site / "404.html.gz").unlink()


@EACH_PATH
def test_an_applications_page_comes_changes_and_goes_at_once(serving: Serving, site: Path, hot_path: bool) -> None:
    running = serving(spa=True, hot_path=hot_path)
    with Wire(running.url) as wire:
        for path in ("/route", "/deep/er/route"):
            request = get(path, PAGE)
            for number in range(5):
                assert ask(wire, request).status == 404
                (site / "index.html").write_bytes(b"application %d" % number)
                answer = ask(wire, request)
                assert (answer.status, answer.body) == (200, b"application %d" % number)
                (site / "index.html").write_bytes(b"changed")
                assert ask(wire, request).body == b"changed"
                assert ask(wire, get(path, "Accept: application/json")).status == 404
                assert ask(wire, get(path + ".js")).status == 404
                file = site / path.strip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(b"a file")
                assert ask(wire, request).body == b"a file"
                file.unlink()
                assert ask(wire, request).body == b"changed"
                file.mkdir()
                assert ask(wire, request).status == 308
                file.rmdir()
                (site / "index.html").unlink()
    assert bool(running.server.listening[0].hot_answers) is hot_path


@EACH_PATH
def test_the_page_of_a_clean_url_comes_changes_and_goes_at_once(serving: Serving, site: Path, hot_path: bool) -> None:
    running = serving(clean_urls=True, hot_path=hot_path)
    with Wire(running.url) as wire:
        request = get("/about", PAGE)
        for number in range(10):
            assert ask(wire, request).status == 404
            (site / "about.html").write_bytes(b"about %d" % number)
            assert ask(wire, request).body == b"about %d" % number
            (site / "about.html").write_bytes(b"changed")
            assert ask(wire, request).body == b"changed"
            (site / "about").write_bytes(b"the file itself")
            assert ask(wire, request).body == b"the file itself"
            (site / "about").unlink()
            (site / "about").mkdir()
            assert ask(wire, request).body == b"changed"
            (site / "about.html").unlink()
            assert ask(wire, request).status == 308
            (site / "about").rmdir()
    assert bool(running.server.listening[0].hot_answers) is hot_path


@EACH_PATH
@pytest.mark.parametrize("limits", [{"cached_files_max": 1}, {"cached_files_max": 2, "cached_file_bytes_max": 0}])
def test_pages_for_errors_are_found_with_a_file_table_that_is_full(
    serving: Serving, site: Path, hot_path: bool, limits: dict[str, int]
) -> None:
    (site / "404.html").write_bytes(b"nothing here" * 1000)
    (site / "index.html").write_bytes(b"index" * 1000)
    (site / "page").write_bytes(b"page" * 1000)
    running = serving(open_files_max=1, cache_bytes_max=1024, hot_path=hot_path, **limits)
    before = len(os.listdir("/proc/self/fd"))
    with Wire(running.url) as first, Wire(running.url) as second:
        for number in range(30):
            for wire in (first, second):
                wire.send(get(f"/missing{number % 3}", PAGE) + get("/") + get("/page") + get("/missing", PAGE))
            for wire in (first, second):
                answer = wire.answer()
                assert (answer.status, answer.body) == (404, b"nothing here" * 1000)
                assert wire.answer().body == b"index" * 1000
                assert wire.answer().body == b"page" * 1000
                assert wire.answer().status == 404
        (site / "404.html").unlink()
        assert ask(first, get("/missing", PAGE)).body != b"nothing here" * 1000
    eventually("they are gone", lambda: not running.server.shared.connections)
    pipes = 2 * running.server.shared.pipes.count
    eventually("descriptors are given back", lambda: len(os.listdir("/proc/self/fd")) <= before + 1 + pipes)


# -- protected paths --------------------------------------------------------------------------------------------


def credentials(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


RIGHT = credentials("anna", "right")


class Verifying:
    """The verification of passwords, noted, and held up if the test wants it so."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()
        self.seen: list[bytes] = []
        self._verify = passwords.verify

    @property
    def count(self) -> int:
        return len(self.seen)

    def verify(self, password_hash: str, password: bytes) -> bool:
        self.seen.append(password)
        assert self.opened.wait(TIMEOUT_S)
        if password.startswith(b"guess"):
            return False  # as it is, and without the 30 ms that it takes on purpose to find out
        return self._verify(password_hash, password)


@pytest.fixture
def verifying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Verifying]:
    made = Verifying()
    monkeypatch.setattr(passwords, "verify", made.verify)
    yield made
    made.opened.set()


@pytest.fixture
def guarded(serving: Serving, site: Path) -> Callable[..., RunningServer]:
    (site / "page").write_bytes(b"page")
    (site / "private").mkdir()
    (site / "private" / "page").write_bytes(b"secret")
    (site / "other").mkdir()
    (site / "other" / "page").write_bytes(b"other")
    rules = (
        AuthRule(paths=("/private/**",), users=(("anna", passwords.make_hash(b"right")),)),
        AuthRule(paths=("/other/**",), users=(("anna", passwords.make_hash(b"another")),)),
    )

    def start(**settings: Any) -> RunningServer:
        return serving(auth=rules, **settings)

    return start


Guarded = Callable[..., RunningServer]


@EACH_PATH
def test_a_right_password_is_verified_once_and_a_wrong_one_is_never_right(
    guarded: Guarded, verifying: Verifying, hot_path: bool
) -> None:
    running = guarded(hot_path=hot_path)
    for _connection in range(2):
        with Wire(running.url) as wire:
            for _ in range(20):
                assert wire.ask(get("/private/page", RIGHT)).body == b"secret"
    assert verifying.count == 1
    with Wire(running.url) as wire:
        for wrong in (
            credentials("anna", "wrong"),
            credentials("anna", "righ"),
            credentials("anna", "right "),
            credentials("nobody", "right"),
            credentials("Anna", "right"),
            credentials("anna:right", ""),
        ):
            before = verifying.count
            answer = wire.ask(get("/private/page", wrong))
            assert (answer.status, answer.fields["www-authenticate"]) == (
                401,
                'Basic realm="Restricted", charset="UTF-8"',
            )
            assert verifying.count == before + 1, wrong
        assert wire.ask(get("/private/page")).status == 401
        # What is right for one part of the site says nothing of another.
        assert wire.ask(get("/other/page", RIGHT)).status == 401
        assert wire.ask(get("/other/page", credentials("anna", "another"))).body == b"other"
        assert wire.ask(get("/private/page", RIGHT)).body == b"secret"


@EACH_PATH
def test_an_answer_to_one_who_may_is_given_to_nobody_else(guarded: Guarded, hot_path: bool) -> None:
    with Wire(guarded(hot_path=hot_path).url) as wire:
        for _ in range(5):
            assert wire.ask(get("/private/page", RIGHT)).body == b"secret"
            assert wire.ask(get("/private/page")).status == 401
            assert wire.ask(get("/private/page", credentials("anna", "wrong"))).status == 401
            assert wire.ask(get("/private/missing")).status == 401
            assert wire.ask(get("/private/missing", RIGHT)).status == 404


def test_a_protected_file_that_changes_shows_at_once_to_those_who_may(
    guarded: Guarded, site: Path, verifying: Verifying
) -> None:
    running = guarded()
    with Wire(running.url) as wire:
        for number in range(20):
            (site / "private" / "page").write_bytes(b"secret %d" % number)
            assert ask(wire, get("/private/page", RIGHT)).body == b"secret %d" % number
            assert ask(wire, get("/private/page")).status == 401
    assert verifying.count == 1
    assert running.server.listening[0].hot_answers


@EACH_PATH
def test_the_page_that_asks_for_a_password_comes_and_goes_at_once(guarded: Guarded, site: Path, hot_path: bool) -> None:
    with Wire(guarded(hot_path=hot_path).url) as wire:
        for number in range(10):
            ours = ask(wire, get("/private/page", PAGE))
            (site / "401.html").write_bytes(b"who are you? %d" % number)
            answer = ask(wire, get("/private/page", PAGE))
            assert (answer.status, answer.body) == (401, b"who are you? %d" % number)
            assert "www-authenticate" in answer.fields
            (site / "401.html").unlink()
            assert ask(wire, get("/private/page", PAGE)).body == ours.body


def test_a_flood_of_wrong_passwords_stops_nobody_else(guarded: Guarded, verifying: Verifying) -> None:
    running = guarded()
    most = THREADS + WAITING_MAX
    with Wire(running.url) as wire:
        assert wire.ask(get("/private/page", RIGHT)).body == b"secret"
    verifying.opened.clear()
    flood = [Wire(running.url) for _ in range(most)]
    try:
        for number, wire in enumerate(flood):
            wire.send(get("/private/page", credentials("anna", f"guess {number}")))
        eventually("all of them wait", lambda: being_verified(running) == most)
        with Wire(running.url) as other:
            for number in range(100):
                assert other.ask(get("/page")).body == b"page"
                assert other.ask(get(f"/missing{number}")).status == 404
                assert other.ask(get("/private/page", RIGHT)).body == b"secret"
                assert other.ask(get("/private/page")).status == 401
            for wrong in ("one more", "and one more"):
                refused = other.ask(get("/private/page", credentials("anna", wrong)))
                assert (refused.status, refused.fields["retry-after"]) == (503, "1")
            verifying.opened.set()
            for wire in flood:
                assert wire.answer().status == 401
            # That there was no room is nothing that is remembered.
            assert other.ask(get("/private/page", credentials("anna", "one more"))).status == 401
            assert other.ask(get("/other/page", credentials("anna", "another"))).body == b"other"
    finally:
        verifying.opened.set()
        for wire in flood:
            wire.socket.close()


HERE, THERE = "127.0.0.1", "127.0.0.2"
FLOOD = 100


@pytest.fixture
def flooding(verifying: Verifying) -> Iterator[Callable[..., list[Wire]]]:
    """Sends more wrong passwords than may wait, from one client, while none is verified."""
    wires: list[Wire] = []

    def flood(running: RunningServer, *fields: str, source: str | None = HERE, preface: bytes = b"") -> list[Wire]:
        verifying.opened.clear()
        for number in range(FLOOD):
            wires.append(Wire(running.url, source=source))
            wires[-1].send(preface + get("/private/page", credentials("anna", f"guess {number}"), *fields))
        most = THREADS + WAITING_MAX
        eventually("as many as may wait do", lambda: being_verified(running) == most)
        for wire in wires[most:]:
            assert wire.answer().status == 503
        return wires[:most]

    yield flood
    verifying.opened.set()
    for wire in wires:
        wire.socket.close()


Flooding = Callable[..., list[Wire]]


def assert_next(verifying: Verifying, wire: Wire, waiting: list[Wire]) -> None:
    """The right password of `wire` was sent: it waits for one wrong one besides those that are being verified."""
    assert waiting[-1].answer().status == 503, "the newest of the flood makes room for it"
    verifying.opened.set()
    assert wire.answer().body == b"secret"
    assert verifying.seen.index(b"right") <= THREADS + 1
    assert {one.answer().status for one in waiting[:-1]} == {401}


def test_a_right_password_from_another_address_is_next_in_a_flood_of_wrong_ones(
    guarded: Guarded, verifying: Verifying, flooding: Flooding
) -> None:
    running = guarded()
    waiting = flooding(running)
    with Wire(running.url, source=THERE) as wire:
        wire.send(get("/private/page", RIGHT))
        assert_next(verifying, wire, waiting)


def test_a_right_password_is_next_if_a_trusted_proxy_names_another_client(
    guarded: Guarded, verifying: Verifying, flooding: Flooding
) -> None:
    running = guarded(trusted_proxy=(HERE,))
    waiting = flooding(running, "X-Forwarded-For: 192.0.2.1")
    with Wire(running.url) as wire:
        wire.send(get("/private/page", RIGHT, "X-Forwarded-For: 192.0.2.2"))
        assert_next(verifying, wire, waiting)


def test_a_right_password_is_next_if_a_preface_names_another_client(
    guarded: Guarded, verifying: Verifying, flooding: Flooding
) -> None:
    running = guarded(trusted_proxy=(HERE,), proxy_protocol=True)
    waiting = flooding(running, preface=b"PROXY TCP6 2001:db8::1 2001:db8::f 1 2\r\n")
    with Wire(running.url) as wire:
        wire.send(b"PROXY TCP6 2001:db8:1::1 2001:db8::f 1 2\r\n" + get("/private/page", RIGHT))
        assert_next(verifying, wire, waiting)


def test_a_page_of_many_files_costs_one_verification_though_all_are_asked_for_at_once(
    guarded: Guarded, verifying: Verifying
) -> None:
    running = guarded()
    verifying.opened.clear()
    wires = [Wire(running.url) for _ in range(THREADS + WAITING_MAX + 6)]
    for wire in wires:
        wire.send(get("/private/page", RIGHT))
    eventually("it is being verified", lambda: verifying.count == 1)
    wires[0].socket.close()  # the first to ask may leave
    with Wire(running.url) as other:
        assert other.ask(get("/page")).body == b"page"  # all that was sent before has been seen
    verifying.opened.set()
    for wire in wires[1:]:
        assert wire.answer().body == b"secret"
        wire.socket.close()
    assert verifying.seen == [b"right"]


def test_clients_that_leave_while_their_passwords_are_verified_leave_nothing(
    guarded: Guarded, verifying: Verifying
) -> None:
    running = guarded()
    verifying.opened.clear()
    for number in range(3 * THREADS):
        wire = Wire(running.url)
        wire.send(get("/private/page", credentials("anna", f"guess {number}")))
        eventually("it waits", lambda number=number: being_verified(running) == number + 1)
        wire.socket.close()
    verifying.opened.set()
    eventually("nothing is verified any more", lambda: not being_verified(running))
    eventually("they are gone", lambda: not running.server.shared.connections)
    with Wire(running.url) as wire:
        assert wire.ask(get("/private/page", RIGHT)).body == b"secret"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_is_not_found_in_time_is_answered_with_503_behind_what_was_found(
    guarded: Guarded, verifying: Verifying, tmp_path: Path, method: str
) -> None:
    # It was cut off by the limit for slow readers, and by a reset, so that its client never heard of it.
    log = tmp_path / "log"
    running = guarded(answer_timeout_s=0.2, write_timeout_s=60, log_file=str(log), log_format="common")
    verifying.opened.clear()
    with Wire(running.url) as wire:
        wire.send(get("/page") + get("/private/page", RIGHT, method=method) + get("/page"))
        assert wire.answer().body == b"page"
        answer = wire.answer(method=method)
        assert (answer.status, answer.fields["connection"], answer.fields["retry-after"]) == (503, "close", "1")
        assert bool(answer.body) is (method == "GET")
        assert wire.at_end()
    verifying.opened.set()
    eventually("it is gone", lambda: not running.server.shared.connections)
    with Wire(running.url) as wire:
        assert wire.ask(get("/private/page", RIGHT)).body == b"secret"
    running.stop()
    assert [line.split('"')[1:3] for line in log.read_text().splitlines()][1] == [
        f"{method} /private/page HTTP/1.1",
        f" 503 {len(answer.body)}",
    ]
