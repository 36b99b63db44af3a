"""ringserve as a library and as a pytest plugin."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import ringserve
from ringserve.pytest_plugin import ServedDirectory

PACKAGE = Path(ringserve.__file__).parent


@pytest.mark.usefixtures("io_uring")
def test_a_with_block_serves_and_ends(site: Path) -> None:
    (site / "page").write_bytes(b"page")
    with ringserve.serve(site, port=0) as server:
        assert httpx.get(server.url + "page").content == b"page"
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "page")


@pytest.mark.usefixtures("io_uring")
def test_two_servers_run_side_by_side(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page").write_text(name)
    with ringserve.serve(tmp_path / "a") as a, ringserve.serve(tmp_path / "b") as b:
        assert httpx.get(a.url + "page").text == "a"
        assert httpx.get(b.url + "page").text == "b"


def test_mistakes_are_raised_where_serve_is_called(tmp_path: Path) -> None:
    with pytest.raises(ringserve.StartError, match="no directory"):
        ringserve.serve(tmp_path / "nowhere")
    with pytest.raises(ringserve.ConfigError, match="port"):
        ringserve.serve(tmp_path, port=-1)
    with pytest.raises(ringserve.ListenError, match="no such address"):
        ringserve.serve(tmp_path, host="192.0.2.1")


def test_every_exported_name_exists_and_no_other() -> None:
    for name in ringserve.__all__:
        assert getattr(ringserve, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ringserve.nothing_of_the_kind


@pytest.mark.usefixtures("io_uring")
def test_the_fixture_serves_a_fresh_directory(ringserve_server: ServedDirectory) -> None:
    (ringserve_server.directory / "hello.txt").write_text("hello")
    response = httpx.get(ringserve_server.url + "hello.txt")
    assert response.text == "hello"
    assert response.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.usefixtures("io_uring")
@pytest.mark.ringserve(directory=Path(__file__).parent, server_name="mine")
def test_the_marker_sets_the_directory_and_any_field(ringserve_server: ServedDirectory) -> None:
    response = httpx.get(ringserve_server.url + "test_library.py")
    assert response.content == Path(__file__).read_bytes()
    assert response.headers["server"] == "mine"


def test_the_plugin_does_not_load_the_server() -> None:
    code = "import sys, ringserve.pytest_plugin; sys.exit('ringserve.server' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_one_module_imports_the_extension() -> None:
    # import-linter sees Python modules only; the extension is none.
    importers = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.endswith("_uring")
    ]
    assert importers == ["ring/uring.py"]
