"""ringserve as a library."""

from __future__ import annotations

import ast
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest
from wire import Wire, get

import ringserve
from ringserve.config.rules import HeaderRule
from ringserve.library import DRAIN_S, Settings

PACKAGE = Path(ringserve.__file__).parent
MIB = 1024 * 1024


# -- its life -----------------------------------------------------------------------------------------------------


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


@pytest.mark.usefixtures("io_uring")
def test_a_running_server_tells_its_port_and_url(tmp_path: Path) -> None:
    with ringserve.serve(tmp_path) as server:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        assert httpx.get(f"http://127.0.0.1:{server.port}/").status_code == 404
    with ringserve.serve(tmp_path, unix=str(tmp_path / "socket")) as server:
        assert (server.port, server.url) == (0, f"unix:{tmp_path / 'socket'}")


@pytest.mark.usefixtures("io_uring")
def test_the_limit_of_open_files_stays_as_it_is(site: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (min(512, before[1] - 1), before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    try:
        (site / "page").write_bytes(b"page")
        with ringserve.serve(site) as server:
            assert httpx.get(server.url + "page").content == b"page"
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == low
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == low
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _seconds_to_end(site: Path) -> float:
    server = ringserve.serve(site)
    with Wire(server.url, receive_bytes=65536) as wire:
        wire.send(get("/big"))
        assert wire.socket.recv(1) == b"H"
        began = time.monotonic()
        server.stop()
        seconds = time.monotonic() - began
        with pytest.raises(ConnectionResetError):
            wire.answer()
    return seconds


@pytest.mark.usefixtures("io_uring")
def test_a_client_that_does_not_read_its_response_is_cut_off_within_a_second(site: Path) -> None:
    (site / "big").write_bytes(bytes(64 * MIB))
    assert DRAIN_S < 1
    assert min(_seconds_to_end(site) for _attempt in range(3)) < 1, "the machine may be busy once, not three times"


@pytest.mark.usefixtures("io_uring")
def test_a_client_that_reads_gets_its_response_whole_within_the_time_of_a_drain_that_is_given(site: Path) -> None:
    (site / "big").write_bytes(bytes(8 * MIB))
    server = ringserve.serve(site, drain_timeout_s=30)
    with Wire(server.url, receive_bytes=65536) as wire:
        wire.send(get("/big"))
        wire.put_back(wire.socket.recv(1))
        server.server.stop()
        assert len(wire.answer().body) == 8 * MIB
    server.stop()


# -- its settings -------------------------------------------------------------------------------------------------


def test_mistakes_are_raised_where_serve_is_called(tmp_path: Path) -> None:
    with pytest.raises(ringserve.StartError, match="no directory"):
        ringserve.serve(tmp_path / "nowhere")
    with pytest.raises(ringserve.ConfigError, match="port"):
        ringserve.serve(tmp_path, port=-1)
    with pytest.raises(ringserve.ListenError, match="no such address"):
        ringserve.serve(tmp_path, host="192.0.2.1")


NAMED = {"directory", "host", "port", "listen"}
"""What `serve` says itself: where it listens, too, which is in one way only."""
OF_PROCESSES = {"workers", "worker_timeout_s", "pin_workers"}


def test_the_settings_of_serve_are_those_of_the_configuration() -> None:
    fields = get_type_hints(ringserve.Config)
    assert get_type_hints(Settings) == {
        name: kind for name, kind in fields.items() if name not in NAMED | OF_PROCESSES
    }, "Settings (library.py) is not as Config says"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"header_timout_s": 5}, "header_timout_s: serve() has no such setting; did you mean header_timeout_s?"),
        ({"prot": 80}, "prot: serve() has no such setting; did you mean port?"),
        ({"workers": "2"}, "workers: serve() has no such setting; ringserve.library.Settings has those that there are"),
        ({"port": "80"}, "port is '80'; it has to be of type int"),
        ({"port": True}, "port is True; it has to be of type int"),
        ({"host": ("::1",)}, "host is ('::1',); it has to be of type str"),
        ({"log_fd": None}, "log_fd is None; it has to be of type int"),
        ({"spa": "yes"}, "spa is 'yes'; it has to be of type bool"),
        ({"header_timeout_s": "5"}, "header_timeout_s is '5'; it has to be of type float"),
        ({"unix": 5}, "unix is 5; it has to be of type str | None"),
        ({"cors_origin": "*"}, "cors_origin is '*'; it has to be of type tuple[str, ...]"),
        ({"cors_origin": ("*", 1)}, "cors_origin is ('*', 1); it has to be of type tuple[str, ...]"),
        ({"headers": ({},)}, "headers is ({},); it has to be of type tuple[ringserve.config.rules.HeaderRule, ...]"),
    ],
)
def test_a_wrong_name_or_type_of_a_setting_is_one_clear_sentence(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ringserve.ConfigError) as raised:
        ringserve.serve(tmp_path, **settings)
    assert str(raised.value) == message


@pytest.mark.usefixtures("io_uring")
def test_settings_of_each_type_are_taken(site: Path) -> None:
    rule = HeaderRule(paths=("**",), fields=(("X-Rule", "held"),))
    with ringserve.serve(site, listing=True, header_timeout_s=5, unix=None, headers=(rule,), requests_max=9) as server:
        assert httpx.get(server.url).headers["x-rule"] == "held"


TYPED = """\
from ringserve import serve

with serve("site", port=0, spa=True, header_timeout_s=5, cors_origin=("*",), unix=None) as server:
    port: int = server.port
    url: str = server.url
serve("site", header_timout_s=5)  # refused
serve("site", header_timeout_s="5")  # refused
serve("site", cors_origin=["*"])  # refused
serve("site", workers="2")  # refused
"""


def test_mypy_refuses_a_wrong_name_and_a_wrong_type_of_a_setting(tmp_path: Path, cache: pytest.Cache) -> None:
    program = tmp_path / "program.py"
    program.write_text(TYPED)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache.mkdir("mypy")), "program.py"],
        cwd=tmp_path, env={**os.environ, "MYPYPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    errors = [int(line) for line in re.findall(r"^program\.py:(\d+): error:", checked.stdout, re.MULTILINE)]
    wrong = [number for number, line in enumerate(TYPED.splitlines(), start=1) if line.endswith("# refused")]
    assert errors == wrong, checked.stdout + checked.stderr


# -- the package --------------------------------------------------------------------------------------------------


def test_every_exported_name_exists_and_no_other() -> None:
    for name in ringserve.__all__:
        assert getattr(ringserve, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = ringserve.nothing_of_the_kind


def test_only_one_module_imports_the_extension() -> None:
    # import-linter sees Python modules only; the extension is none.
    importers = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.endswith("_uring")
    ]
    assert importers == ["ring/uring/library.py"]
