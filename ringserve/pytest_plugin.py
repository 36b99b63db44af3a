"""A pytest fixture for people who test against real HTTP.

    def test_my_client(ringserve_server):
        (ringserve_server.directory / "hello.txt").write_text("hello")
        assert my_client.get(ringserve_server.url + "hello.txt") == "hello"

`@pytest.mark.ringserve(directory="site", log_format="json", ...)` serves another directory, or sets any field of
`ringserve.Config`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest


class ServedDirectory(NamedTuple):
    """What the fixture gives: where the server is reached, and the directory that it serves."""

    url: str
    directory: Path


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", "ringserve(directory=..., **settings): how `ringserve_server` serves")


@pytest.fixture
def ringserve_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServedDirectory]:
    """A running server on a free port of 127.0.0.1, by default for an empty directory that the test can fill."""
    # Only now: the plugin is loaded into every pytest run where ringserve is installed, and must cost it nothing.
    from ringserve.library import serve

    marker = request.node.get_closest_marker("ringserve")
    settings = dict(marker.kwargs) if marker else {}
    directory = Path(settings.pop("directory", tmp_path / "site"))
    if "directory" not in (marker.kwargs if marker else {}):
        directory.mkdir()
    with serve(directory, **settings) as server:
        yield ServedDirectory(server.url, directory)
