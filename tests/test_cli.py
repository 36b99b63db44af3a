"""The command line: what it prints, how it fails, and that no setting is missing from it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from ringserve import cli, doctor
from ringserve.config import settings
from ringserve.ring import uring
from ringserve.ring._uring import lib
from ringserve.ring.capability import Circumstances
from ringserve.version import __version__


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ringserve", *arguments],
        capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def assert_one_line(finished: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit status 2, and one line on stderr with these words in it."""
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("ringserve: ")
    assert finished.stderr.count("\n") == 1
    for word in words:
        assert word in finished.stderr


def test_the_version_is_shown() -> None:
    finished = run("--version")
    assert (finished.returncode, finished.stdout) == (0, f"ringserve {__version__}\n")


def test_the_help_names_every_setting_its_default_and_its_variable() -> None:
    finished = run("--help")
    assert finished.returncode == 0
    for name in settings():
        assert f"--{name.removesuffix('_s').replace('_', '-')} " in finished.stdout
    assert "RINGSERVE_LOG_FORMAT" in finished.stdout
    assert "ringserve doctor" in finished.stdout


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path / "nowhere")), "no directory", str(tmp_path / "nowhere"), "give one that exists")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert_one_line(run(str(tmp_path / "file")), "not a directory", f"give the directory '{tmp_path}'")


def test_a_directory_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, and tests may run as root, so the system call is made to refuse.
    def refused(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ringserve.server.os.open", refused)
    with pytest.raises(SystemExit) as ended:
        cli.main([str(tmp_path)])
    assert ended.value.code == 2


def test_a_port_in_use_is_named_and_not_moved(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(
            run(str(tmp_path), "--host", "127.0.0.1", "--port", port), f"127.0.0.1:{port}", "in use", "--port"
        )


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path), "--host", "192.0.2.1"), "192.0.2.1", "--host")


def test_a_wrong_value_is_one_line_that_says_what_would_be_right(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path), "--port", "99999"), "--port", "65535")
    assert_one_line(run(str(tmp_path), "--log-format", "xml"), "--log-format", "combined", "json", "off")
    assert_one_line(run(str(tmp_path), "--buffers", "3"), "buffers", "power of two")
    assert_one_line(run(str(tmp_path), "--header-timeout", "nan"), "header")
    assert_one_line(run(str(tmp_path), "--nonsense"), "--nonsense", "--help")


def test_a_variable_counts_and_a_flag_counts_more(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path), RINGSERVE_PORT="99999"), "99999", "65535")
    assert_one_line(run(str(tmp_path), "--port", "88888", RINGSERVE_PORT="99999"), "88888")
    assert_one_line(run(RINGSERVE_DIRECTORY="/nowhere/at/all"), "/nowhere/at/all")


def test_a_unix_socket_in_no_directory_is_named(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path), "--unix", str(tmp_path / "no" / "socket")), "--unix", "No such file")


def test_a_refused_ring_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = Circumstances(kernel="6.18.0", sysctl=0, seccomp=2, privileged=False)
    monkeypatch.setattr(uring, "circumstances", lambda: seen)

    class Refusing:
        def __getattr__(self, name: str) -> object:
            if name == "ringserve_ring_create":
                return lambda *_arguments: -1  # EPERM
            return getattr(lib, name)

    monkeypatch.setattr(uring, "lib", Refusing())
    with pytest.raises(SystemExit) as ended:
        cli.main([str(tmp_path), "--port", "0"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "seccomp" in said
    assert "examples/docker/seccomp.json" in said

    report = doctor.examine()
    assert not report.works
    assert "seccomp" in doctor.render(report)
    with pytest.raises(SystemExit) as ended:
        cli.main(["doctor"])
    assert ended.value.code == 2


@pytest.mark.usefixtures("io_uring")
def test_the_doctor_shows_flags_operations_and_limits() -> None:
    finished = run("doctor")
    assert finished.returncode == 0
    assert finished.stdout.endswith("ringserve works here.\n")
    for name in (*uring.SETUP_FLAGS, *uring.OPERATIONS, "RLIMIT_NOFILE", "fs.pipe-max-size", "seccomp"):
        assert re.search(rf"^  (ok|!!)  {re.escape(name)} ", finished.stdout, re.MULTILINE), name


def test_a_directory_named_like_a_subcommand_can_be_served() -> None:
    assert_one_line(run("./doctor"), "no directory './doctor'")


@pytest.mark.usefixtures("io_uring")
def test_the_urls_that_are_printed_work(tmp_path: Path) -> None:
    (tmp_path / "page").write_bytes(b"page")
    process = subprocess.Popen(
        [sys.executable, "-m", "ringserve", str(tmp_path), "--port", "0", "--host", "0.0.0.0", "--log-format", "off"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == f"ringserve {__version__} serves {tmp_path} on\n"
        url = process.stderr.readline().strip()
        host, port = url.removeprefix("http://").rstrip("/").split(":")
        assert host == "127.0.0.1"
        with socket.create_connection((host, int(port)), timeout=10) as client:
            client.sendall(b"GET /page HTTP/1.0\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0
