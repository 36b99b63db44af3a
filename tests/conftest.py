"""What all tests share. The one rule here: a run that skipped the io_uring tests says so, and is not green in CI."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ringserve.library import RunningServer, serve
from ringserve.ring import open_world
from ringserve.ring.world import RingRefusedError

if TYPE_CHECKING:
    from browser import Browser

Serving = Callable[..., RunningServer]

SKIPPED = pytest.StashKey[list[str]]()
"""The tests that were skipped because this machine refuses io_uring."""


@functools.cache
def io_uring_refusal() -> str | None:
    """Why this process cannot have a ring, or None."""
    try:
        open_world().ring.shut()
    except RingRefusedError as refused:
        return str(refused)
    return None


@pytest.fixture
def io_uring(request: pytest.FixtureRequest) -> None:
    """Every test that opens a ring of the kernel asks for this."""
    refusal = io_uring_refusal()
    if refusal is not None:
        request.config.stash.setdefault(SKIPPED, []).append(request.node.nodeid)
        pytest.skip(f"IO_URING IS REFUSED HERE: {refusal}")


def _skips_are_failures() -> bool:
    # In CI nothing excuses a skip; elsewhere a developer behind a seccomp filter may say that it is known.
    return bool(os.environ.get("CI")) or os.environ.get("RINGSERVE_ALLOW_SKIP") != "1"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Skipped io_uring tests make the run fail."""
    if session.config.stash.get(SKIPPED, []) and _skips_are_failures() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The banner."""
    skipped = config.stash.get(SKIPPED, [])
    if not skipped:
        return
    terminalreporter.section("THE RING WAS NOT TESTED", sep="!", red=True, bold=True)
    terminalreporter.line(f"{len(skipped)} tests need io_uring and were skipped: {io_uring_refusal()}")
    if not _skips_are_failures():
        terminalreporter.line("RINGSERVE_ALLOW_SKIP=1 lets this run pass.")
    elif os.environ.get("CI"):
        terminalreporter.line("The run fails for it: in CI the ring must be tested.")
    else:
        terminalreporter.line("The run fails for it; RINGSERVE_ALLOW_SKIP=1 would let it pass outside of CI.")


# -- a server on the real ring ----------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory to serve."""
    directory = tmp_path / "site"
    directory.mkdir()
    return directory


@pytest.fixture
def serving(request: pytest.FixtureRequest, site: Path) -> Iterator[Serving]:
    """Starts servers of `site`. When the test is over, each has to drain with nothing left and nothing gone wrong."""
    request.getfixturevalue("io_uring")
    started: list[RunningServer] = []

    def start(**settings: Any) -> RunningServer:
        settings.setdefault("drain_timeout_s", 5.0)
        running = serve(site, **settings)
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()
        tasks, shared = running.server.tasks, running.server.shared
        assert tasks.faults == 0, "a fault of ours was reported on stderr"
        assert not shared.connections
        assert tasks.ring.in_flight() == 0 or request.node.get_closest_marker("leaves_in_flight")
        assert shared.pipes.count == 0


@pytest.fixture
def only_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without inotify, and every entry is old at once: a change is seen by the look alone."""
    monkeypatch.setattr("ringserve.files.watches.Watches.start", lambda _watches, _root_gone: None)
    monkeypatch.setattr("ringserve.files.entries.RACY_NS", 0)
    monkeypatch.setattr("ringserve.files.table.FRESH_S", 1e-9)


# -- a browser --------------------------------------------------------------------------------------------------

FOUND = {200, 206, 304}
"""What a browser gets from a site in which everything is there: whole, in part, or from its cache."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One process for the tests of a module. Without Chromium they fail: a page that nobody looked at is not tested."""
    from browser import Browser, BrowserError  # here, since most modules need none

    try:
        made = Browser()
    except BrowserError as error:
        pytest.fail(str(error), pytrace=False)
    with made:
        yield made


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A fresh page. When the test is over, nothing went wrong that only the console would tell."""
    chromium.fresh()
    yield chromium
    assert chromium.console == []
    assert chromium.failures == []
    assert {url: status for url, status in chromium.statuses.items() if status not in FOUND} == {}
