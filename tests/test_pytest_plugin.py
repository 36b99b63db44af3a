"""The pytest plugin, and runs of pytest that use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ringserve.pytest_plugin import ServedDirectory
from ringserve.ring.world import RingRefusedError

pytest_plugins = ["pytester"]


@pytest.mark.usefixtures("io_uring")
def test_the_fixture_serves_a_fresh_directory(ringserve_server: ServedDirectory) -> None:
    (ringserve_server.directory / "hello.txt").write_text("hello")
    response = httpx.get(ringserve_server.url + "hello.txt")
    assert response.text == "hello"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.usefixtures("io_uring")
@pytest.mark.ringserve(directory=Path(__file__).parent, server_name="mine")
def test_the_marker_sets_the_directory_and_any_field(ringserve_server: ServedDirectory) -> None:
    response = httpx.get(ringserve_server.url + Path(__file__).name)
    assert response.content == Path(__file__).read_bytes()
    assert response.headers["server"] == "mine"


@pytest.mark.usefixtures("io_uring")
def test_the_session_server_serves_all_tests_of_a_session_as_its_settings_say(pytester: pytest.Pytester) -> None:
    pytester.mkdir("page")
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture(scope="session")
        def ringserve_session_settings():
            return {"directory": "page", "listing": True}
        """
    )
    pytester.makepyfile(
        """
        from urllib.request import urlopen

        urls = []

        def test_one(ringserve_session_server):
            urls.append(ringserve_session_server.url)
            (ringserve_session_server.directory / "hello.txt").write_text("hello")

        def test_two(ringserve_session_server, ringserve_server):
            urls.append(ringserve_session_server.url)
            assert urls[0] == urls[1] != ringserve_server.url
            assert urlopen(urls[0] + "hello.txt").read() == b"hello"
            assert b"hello.txt" in urlopen(urls[0]).read()
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=2)


@pytest.mark.usefixtures("io_uring")
def test_the_session_server_has_an_empty_directory_of_its_own_by_default(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_fresh(ringserve_session_server):
            assert list(ringserve_session_server.directory.iterdir()) == []
        """
    )
    pytester.runpytest_inprocess().assert_outcomes(passed=1)


def test_where_io_uring_is_refused_the_tests_are_skipped_with_the_reason(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_settings: object) -> None:
        raise RingRefusedError("io_uring is switched off")

    monkeypatch.setattr("ringserve.library.serve", refuse)
    pytester.makepyfile(
        """
        def test_one(ringserve_server): pass
        def test_two(ringserve_session_server): pass
        def test_three(ringserve_session_server): pass
        def test_four(): pass
        """
    )
    result = pytester.runpytest_inprocess("-rs")
    result.assert_outcomes(passed=1, skipped=3)
    result.stdout.fnmatch_lines(["SKIPPED*ringserve cannot serve here: io_uring is switched off"])


def test_the_plugin_does_not_load_the_server() -> None:
    code = "import sys, ringserve.pytest_plugin; sys.exit('ringserve.server' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
