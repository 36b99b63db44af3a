"""Pytest fixtures for people who test against real HTTP.

    def test_my_client(ringserve_server):
        (ringserve_server.directory / "hello.txt").write_text("hello")
        assert my_client.get(ringserve_server.url + "hello.txt") == "hello"

`@pytest.mark.ringserve(directory="site", log_format="json", ...)` serves another directory, or gives any setting of
`ringserve.serve`.

`ringserve_session_server` is one server for the whole session. Its directory and settings are what the fixture
`ringserve_session_settings` returns, which a conftest.py may define anew:

    @pytest.fixture(scope="session")
    def ringserve_session_settings():
        return {"directory": "site", "spa": True}

Where this machine refuses io_uring, the tests that ask for a server are skipped, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class ServedDirectory(NamedTuple):
    """What the fixtures give: where the server is reached, and the directory that it serves."""

    url: str
    directory: Path


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "ringserve(directory=..., **settings): how `ringserve_server` serves")


@contextmanager
def _served(settings: Mapping[str, Any], fresh: Path) -> Iterator[ServedDirectory]:
    """A running server. fresh: the directory that is made and served where the settings name none."""
    # Only now: the plugin is loaded into every pytest run where ringserve is installed, and must cost it nothing.
    from ringserve.library import serve
    from ringserve.ring.world import RingRefusedError

    if "directory" not in settings:
        fresh.mkdir()
    chosen = {"directory": fresh, **settings}
    try:
        server = serve(**chosen)
    except RingRefusedError as refused:
        pytest.skip(f"ringserve cannot serve here: {refused}")
    with server:
        yield ServedDirectory(server.url, Path(chosen["directory"]))


@pytest.fixture
def ringserve_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedDirectory]:
    """A running server on a free port of 127.0.0.1, by default for an empty directory that the test can fill."""
    marker = request.node.get_closest_marker("ringserve")
    with _served(marker.kwargs if marker else {}, tmp_path / "site") as served:
        yield served


@pytest.fixture(scope="session")
def ringserve_session_settings() -> Mapping[str, Any]:
    """The settings of `ringserve_session_server`, `directory` among them; to be overridden."""
    return {}


@pytest.fixture(scope="session")
def ringserve_session_server(
    ringserve_session_settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedDirectory]:
    """As `ringserve_server`, but one server for all tests of the session."""
    with _served(ringserve_session_settings, tmp_path_factory.mktemp("ringserve") / "site") as served:
        yield served
