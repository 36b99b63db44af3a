"""The command line: what it prints, how it fails, and that no setting is missing from it."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ringserve.cli import command as cli
from ringserve.cli import doctor
from ringserve.config.rules import key_of, setting_of
from ringserve.config.settings import Config, settings
from ringserve.responders import passwords
from ringserve.ring.capability import Circumstances
from ringserve.ring.uring import ring as uring
from ringserve.ring.uring._uring import lib
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


Checking = Callable[..., str]
HASH = "$argon2id$v=19$m=19456,t=2,p=1$Fk2wuCWBZRW5ZI2FNiIOtg$SnZWCVc+s8lk8CMZRuJvDb5drYFDcJuUi4sMSsouhQ4"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: an empty one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ended(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Runs the command in this process: its exit status, and what it wrote."""

    def run_here(*arguments: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as status:
            cli.main(list(arguments))
        written = capsys.readouterr()
        return status.value.code, written.out, written.err

    return run_here


@pytest.fixture
def checked(ended: Callable[..., tuple[object, str, str]]) -> Checking:
    """What `--check` prints, when all is right."""

    def check(*arguments: str) -> str:
        status, out, err = ended("--check", *arguments)
        assert (status, err) == (0, "")
        return out

    return check


@pytest.fixture
def complaint(ended: Callable[..., tuple[object, str, str]]) -> Checking:
    """The one line that a command ends with, without the name of the program."""

    def complain(*arguments: str) -> str:
        status, out, err = ended(*arguments)
        assert (status, out) == (2, "")
        assert err.startswith("ringserve: ")
        assert err.count("\n") == 1
        return err.removeprefix("ringserve: ").rstrip("\n")

    return complain


def test_the_version_is_shown() -> None:
    finished = run("--version")
    assert (finished.returncode, finished.stdout) == (0, f"ringserve {__version__}\n")


def test_the_help_shows_settings_for_tuning_after_all_others() -> None:
    before, title, after = run("--help").stdout.partition("\nTuning:\n")
    assert title
    for declared in fields(Config):
        setting = setting_of(declared)
        if not setting.internal and setting.rule is None:
            flag = f"\n  --{key_of(declared)}"
            assert flag in ("\n" + after if setting.tuning else before), flag


def test_the_help_names_every_setting_its_default_and_its_variable() -> None:
    finished = run("--help")
    assert finished.returncode == 0
    for name in settings():
        assert f"--{name.removesuffix('_s').replace('_', '-')} " in finished.stdout
    for said in ("RINGSERVE_LOG_FORMAT", "--no-listing", "--config PATH", "ringserve.toml", "--check", "separated by"):
        assert said in finished.stdout
    for subcommand in cli.SUBCOMMANDS:
        assert f"ringserve {subcommand}" in finished.stdout


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path / "nowhere")), "no directory", str(tmp_path / "nowhere"), "give one that exists")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert_one_line(run(str(tmp_path / "file")), "not a directory", f"give the directory '{tmp_path}'")


def test_a_directory_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root may read everything, and tests may run as root, so the system call is made to refuse.
    def refused(*_arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ringserve.server.open_directory", refused)
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "99999"), ("--port", "65535")),
        (("--log-format", "xml"), ("--log-format", "combined", "json", "off")),
        (("--buffers", "3"), ("flag --buffers: buffers is 3", "power of two")),
        (("--listing=yes",), ("--listing",)),
        (("--header-timeout", "nan"), ("header",)),
        (("--nonsense",), ("--nonsense", "--help")),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_would_be_right(
    complaint: Checking, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    said = complaint(*arguments)
    assert [word for word in words if word not in said] == []


def test_a_variable_counts_and_a_flag_counts_more(complaint: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, arguments, words in (
        ("PORT", "99999", (), ("99999", "65535")),
        ("PORT", "99999", ("--port", "88888"), ("88888",)),
        ("DIRECTORY", "/nowhere/at/all", (), ("/nowhere/at/all",)),
        ("BUFFERS", "3", (), ("environment RINGSERVE_BUFFERS: buffers is 3",)),
        ("LISTING", "maybe", (), ("--listing", "maybe")),
    ):
        with monkeypatch.context() as variable:
            variable.setenv(f"RINGSERVE_{name}", value)
            said = complaint(*arguments)
        assert [word for word in words if word not in said] == []


def test_a_unix_socket_in_no_directory_is_named(tmp_path: Path) -> None:
    assert_one_line(run(str(tmp_path), "--unix", str(tmp_path / "no" / "socket")), "--unix", "No such file")


def test_a_refused_ring_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
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
    said = capfd.readouterr().err
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
def test_the_doctor_shows_who_may_refuse_and_limits() -> None:
    finished = run("doctor")
    assert finished.returncode == 0
    assert finished.stdout.endswith("ringserve works here.\n")
    for name in ("io_uring", "queues", "RLIMIT_NOFILE", "fs.pipe-max-size", "seccomp"):
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


# -- the configuration file -------------------------------------------------------------------------------------


def test_the_file_of_the_current_directory_is_read(here: Path, checked: Checking) -> None:
    assert "port = 8080  # default\n" in checked()
    (here / "ringserve.toml").write_text("port = 81\n")
    assert "port = 81  # ringserve.toml:1\n" in checked()
    assert "port = 8080  # default\n" in checked("--config", "")


def test_another_file_is_read_instead(here: Path, checked: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "ringserve.toml").write_text("port = 81\n")
    (here / "other.toml").write_text("\nport = 82\n")
    (here / "third.toml").write_text("port = 83\n")
    assert "port = 82  # other.toml:2\n" in checked("--config", "other.toml")
    monkeypatch.setenv("RINGSERVE_CONFIG", str(here / "third.toml"))
    assert f"port = 83  # {here}/third.toml:1\n" in checked()
    assert "port = 82  # other.toml:2\n" in checked("--config", "other.toml")


def test_a_file_that_is_asked_for_has_to_be_there(
    here: Path, complaint: Checking, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "no.toml: there is no such file; give one that exists, or '' for none"
    assert complaint("--config", "no.toml") == missing
    monkeypatch.setenv("RINGSERVE_CONFIG", "no.toml")
    assert complaint() == missing
    monkeypatch.delenv("RINGSERVE_CONFIG")
    (here / "ringserve.toml").symlink_to("no.toml")
    assert complaint().startswith("ringserve.toml: there is no such file")
    (here / "ringserve.toml").unlink()
    (here / "ringserve.toml").mkdir()
    assert complaint().startswith("ringserve.toml is a directory")


def test_a_flag_goes_before_its_variable_and_that_before_the_file_and_that_before_the_default(
    here: Path, checked: Checking, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "ringserve.toml").write_text("port = 81\nlisting = true\nhost = ['a', 'b']\nspa = true\n")
    monkeypatch.setenv("RINGSERVE_PORT", "82")
    monkeypatch.setenv("RINGSERVE_HOST", "c ::1")
    monkeypatch.setenv("RINGSERVE_CLEAN_URLS", "1")
    assert {
        "port = 82  # environment RINGSERVE_PORT",
        'host = ["c", "::1"]  # environment RINGSERVE_HOST',
        "listing = true  # ringserve.toml:2",
        "clean-urls = true  # environment RINGSERVE_CLEAN_URLS",
        "spa = true  # ringserve.toml:4",
        "buffers = 256  # default",
    } <= set(checked().splitlines())
    assert {
        "port = 83  # flag --port",
        'host = ["d", "e"]  # flag --host',
        "listing = false  # flag --no-listing",
        "clean-urls = false  # flag --no-clean-urls",
        "spa = true  # flag --spa",
    } <= set(
        checked(
            "--port", "83", "--host", "d", "--host", "e", "--no-listing", "--no-clean-urls", "--spa"
        ).splitlines()
    )  # fmt: skip


def test_the_directory_of_the_file_is_relative_to_it_and_the_argument_to_the_current_one(
    here: Path, checked: Checking, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("etc", "etc/site", "site", "other"):
        (here / name).mkdir()
    (here / "etc" / "r.toml").write_text("directory = 'site'\n")
    arguments = ("--config", "etc/r.toml")
    assert checked(*arguments).startswith(f'directory = "{here}/etc/site"  # etc/r.toml:1\n')
    assert checked(*arguments, "site").startswith(f'directory = "{here}/site"  # argument DIRECTORY\n')
    monkeypatch.setenv("RINGSERVE_DIRECTORY", "other")
    assert checked(*arguments).startswith(f'directory = "{here}/other"  # environment RINGSERVE_DIRECTORY\n')


def test_a_mistake_in_the_file_is_one_line_with_its_place(here: Path, complaint: Checking) -> None:
    for text, message in (
        ("header-timout = 5", "1: header-timout: there is no such setting; did you mean header-timeout?"),
        ("\nport = '80'", "2: port is a string ('80'); it has to be a whole number"),
        ("port = ", "1: "),
        ("\n\nbuffers = 3", "3: buffers is 3; it has to be a power of two, such as 256"),
        ("spa = true\nproxy-protocol = true", "2: proxy-protocol needs trusted-proxy, "),
        ("cors-origin = 'x'\n[[virtual-host]]\nnames = 'a'", "1: cors-origin is 'x'; it has to be"),
        ("[[virtual-host]]\nnames = 'a'\ndirectory = 'no'", "3: there is no directory 'no'; give one that exists"),
        ("\ndirectory = 'no'", "2: there is no directory 'no'; give one that exists"),
    ):
        (here / "ringserve.toml").write_text(text + "\n")
        assert complaint().startswith(f"ringserve.toml:{message}"), text
        assert complaint("--check").startswith(f"ringserve.toml:{message}"), text


def test_a_mistake_that_a_flag_made_is_not_blamed_on_the_file(here: Path, complaint: Checking) -> None:
    (here / "ringserve.toml").write_text("directory = '.'\nbuffers = 256\n[[virtual-host]]\nnames = 'a'\n")
    assert complaint("--buffers", "3").startswith("flag --buffers: buffers is 3")
    assert complaint("--cors-origin", "x").startswith("flag --cors-origin: cors-origin is 'x'")
    assert complaint("no") == "there is no directory 'no'; give one that exists"


def test_help_and_version_are_shown_beside_a_broken_file(
    here: Path, ended: Callable[..., tuple[object, str, str]]
) -> None:
    (here / "ringserve.toml").write_text("port = ")
    assert ended("--version") == (0, f"ringserve {__version__}\n", "")
    for arguments in (("--help",), ("--config", "no.toml", "--help")):
        status, out, err = ended(*arguments)
        assert (status, err) == (0, "")
        assert "--config PATH" in out


# -- --check ----------------------------------------------------------------------------------------------------

EVERYTHING = f"""
directory = "site"
listing = true
trusted-proxy = ["10.0.0.0/8", "unix"]
proxy-protocol = true
[[headers]]
paths = "*.html"
fields = {{ X-A = "a" }}
[[auth]]
paths = "/private/**"
users = {{ alice = "{HASH}" }}
[[virtual-host]]
names = ["a.example", "*.b.example"]
directory = "."
listing = false
headers = []
[[virtual-host.redirects]]
from = "/*"
to = "/a/$1"
"""


def without_comments(text: str) -> list[str]:
    return [line.partition("  # ")[0] for line in text.splitlines()]


def test_what_is_checked_can_be_used_as_the_file(here: Path, checked: Checking) -> None:
    (here / "site").mkdir()
    (here / "ringserve.toml").write_text(EVERYTHING)
    text = checked("--no-spa", "--buffers", "512")
    assert HASH not in text, "what is printed goes to terminals and logs"
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "again.toml").write_text(text.replace("(hash not shown)", HASH))
    again = checked("--config", "elsewhere/again.toml")
    assert without_comments(again) == without_comments(text)
    assert tomllib.loads(again) == tomllib.loads(text)
    assert tomllib.loads(text)["virtual-host"][0]["auth"][0]["paths"] == ["/private/**"]


@pytest.mark.usefixtures("here")
def test_a_check_opens_no_ring_and_no_port(checked: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_arguments: object, **_keywords: object) -> None:
        raise AssertionError("a check starts no server")

    monkeypatch.setattr(cli, "Supervisor", opened)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"port = {port}  # flag --port\n" in checked("--host", "127.0.0.1", "--port", str(port))


def test_a_check_is_printed_in_utf_8_whatever_the_terminal_is(here: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "ringserve", "--check", "--log-file", "é"],
        capture_output=True, timeout=30, check=True, cwd=here, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert tomllib.loads(finished.stdout.decode())["log-file"] == "é"


def test_a_check_of_a_directory_that_cannot_be_opened_fails(here: Path, complaint: Checking) -> None:
    (here / "file").touch()
    assert complaint("--check", "no") == "there is no directory 'no'; give one that exists"
    assert complaint("--check", "file").startswith("'file' is not a directory")


def counted(text: str) -> list[str]:
    tomllib.loads(text)
    return [line for line in text.splitlines() if line.startswith("# precompressed files that are not served: ")]


def test_a_check_counts_the_precompressed_files_that_are_left_out(here: Path, checked: Checking) -> None:
    site = here / "site"
    (site / "sub").mkdir(parents=True)
    for name in ("a.js", "sub/b.css", "c.html", "d.txt", "sub/e.svg", "photo.png", ".hidden.js"):
        (site / name).write_bytes(b"plain")
        os.utime(site / name, (10, 10))
    assert counted(checked("site")) == []
    for name, seconds in (("a.js.gz", 10), ("a.js.br", 9), ("photo.png.gz", 9), (".hidden.js.gz", 9), ("other.gz", 9)):
        (site / name).write_bytes(b"coded")
        os.utime(site / name, (seconds, seconds))
    (site / "sub" / "b.css.zst").touch()
    (site / "c.html.gz").symlink_to("/etc/hostname")
    (site / "d.txt.gz").symlink_to("../elsewhere.gz")
    (here / "elsewhere.gz").write_bytes(b"coded")
    (site / "d.txt.br").symlink_to("a.js.gz")
    os.utime(site / "a.js.gz", (11, 11))
    (site / "sub" / "e.svg.gz").symlink_to("nowhere")
    (site / "sub" / "e.svg.br").mkdir()
    leads_out = "leads out of the root through a symbolic link"
    assert counted(checked("site")) == [
        "# precompressed files that are not served: 5 ("
        f"site/a.js.br is older than its file; site/c.html.gz {leads_out}; site/d.txt.gz {leads_out}; "
        "site/sub/b.css.zst is empty; site/sub/e.svg.gz cannot be read (No such file or directory))"
    ]
    (line,) = counted(checked("site", "--follow-symlinks"))
    assert line.startswith("# precompressed files that are not served: 3 (")


def test_a_check_names_some_of_the_files_that_are_left_out_and_each_directory_once(
    here: Path, checked: Checking
) -> None:
    (here / "ringserve.toml").write_text("[[virtual-host]]\nnames = 'a'\n[[virtual-host]]\nnames = 'b'\n")
    (here / "a\nb.js").write_bytes(b"plain")
    (here / "a\nb.js.gz").touch()
    for number in range(9):
        (here / f"{number}.js").write_bytes(b"plain")
        (here / f"{number}.js.gz").touch()
    (line,) = counted(checked())
    assert line.startswith("# precompressed files that are not served: 10 (0.js.gz is empty; ")
    assert line.endswith("; and 5 more)")


def test_a_check_counts_a_precompressed_file_that_may_not_be_read(
    here: Path, checked: Checking, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access

    def refuse(path: str, mode: int, **keywords: Any) -> bool:  # as root may read everything
        return not path.endswith(".gz") and access(path, mode, **keywords)

    monkeypatch.setattr(os, "access", refuse)
    for name in ("page.js", "page.js.gz"):
        (here / name).write_bytes(b"plain")
    assert counted(checked()) == ["# precompressed files that are not served: 1 (page.js.gz may not be read)"]


def test_a_check_of_a_very_large_directory_ends(here: Path, checked: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ringserve.cli.compress.NAMES_MAX", 2)
    for name in ("a", "b"):
        (here / name).mkdir()
        (here / name / "page.js").write_bytes(b"plain")
        (here / name / "page.js.gz").touch()
    assert counted(checked()) == ["# precompressed files that are not served: 1 (a/page.js.gz is empty)"]


def test_rules_about_passwords_need_the_library(
    here: Path, complaint: Checking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)  # its import then fails
    advice = "argon2-cffi is not installed; pip install 'ringserve[auth]'"
    rule = f"[[auth]]\npaths = '**'\nusers.alice = '{HASH}'\n"
    (here / "ringserve.toml").write_text("port = 81\n" + rule)
    assert complaint("--check") == f"ringserve.toml:2: {advice}"
    (here / "ringserve.toml").write_text("[[virtual-host]]\nnames = 'a'\n" + rule.replace("auth", "virtual-host.auth"))
    assert complaint("--check") == f"ringserve.toml:3: {advice}"


@pytest.mark.usefixtures("io_uring")
def test_each_site_and_the_file_are_announced(here: Path) -> None:
    for name in ("site", "a"):
        (here / name).mkdir()
    (here / "ringserve.toml").write_text(
        "directory = 'site'\nport = 0\nhost = '127.0.0.1'\nlog-format = 'off'\n"
        "[[virtual-host]]\nnames = ['a.example', '*.a.example']\ndirectory = 'a'\n"
        "[[virtual-host]]\nnames = 'b.example'\n"
    )
    process = subprocess.Popen([sys.executable, "-m", "ringserve"], stderr=subprocess.PIPE, text=True, cwd=here)
    try:
        assert process.stderr is not None
        said = [process.stderr.readline().rstrip("\n") for _line in range(6)]
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert re.fullmatch(r"  http://127\.0\.0\.1:\d+/", said.pop(1))
    assert said == [
        f"ringserve {__version__} serves {here}/site on",
        f"and {here}/a as a.example, *.a.example",
        f"and {here}/site as b.example",
        "as ringserve.toml says.",
        "Stop it with Ctrl-C.",
    ]
    assert process.returncode == 0


# -- passwords --------------------------------------------------------------------------------------------------


def hashed(password: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "ringserve", "password"], input=password, capture_output=True, timeout=30, check=False
    )


@pytest.mark.parametrize("given", [b"secret", b"secret\n", b"secret\r\n", b"secret\nanother line\n"])
def test_a_password_is_read_from_a_pipe(given: bytes) -> None:
    finished = hashed(given)
    assert finished.returncode == 0
    made = finished.stdout.decode()
    assert made.endswith("\n")
    assert passwords.verify(made[:-1], b"secret")
    assert b"[[auth]]" in finished.stderr
    assert b"secret" not in finished.stderr


@pytest.mark.parametrize(
    ("given", "reason"),
    [(b"", b"empty"), (b"\nx", b"empty"), (b"a\0b", b"control"), (b"x" * 5000, b"longer than 1024")],
)
def test_a_password_that_would_be_of_no_use_is_refused(given: bytes, reason: bytes) -> None:
    finished = hashed(given)
    assert (finished.returncode, finished.stdout) == (2, b"")
    assert finished.stderr.startswith(b"ringserve: the password ")
    assert finished.stderr.count(b"\n") == 1
    assert reason in finished.stderr


def typed(*answers: bytes) -> tuple[int, bytes, bytes]:
    """`ringserve password` at a terminal: its exit status, its output, and what the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ringserve", "password"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        for answer in answers:
            while not shown.endswith(b": "):
                shown += os.read(ours, 1024)
            os.write(ours, answer)
            shown += os.read(ours, 1)  # so that the next prompt is waited for
        out, _nothing = process.communicate(timeout=30)
        while True:
            try:
                shown += os.read(ours, 1024)
            except OSError:  # EIO: nobody has the terminal open any more
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return process.returncode, out, shown


def test_a_password_is_typed_twice_and_not_shown() -> None:
    status, out, shown = typed("sécret\n".encode(), "sécret\n".encode())
    assert status == 0
    assert passwords.verify(out.decode().rstrip("\n"), "sécret".encode())
    assert b"cret" not in shown
    assert shown.startswith(b"Password: ")
    assert b"Again: " in shown
    assert b"[[auth]]" in shown


def test_two_passwords_that_differ_are_refused() -> None:
    status, out, shown = typed(b"one\n", b"two\n")
    assert (status, out) == (2, b"")
    assert shown.endswith(b"ringserve: the two passwords differ\r\n")


def test_the_end_of_input_at_the_prompt_ends_it_without_a_traceback() -> None:
    status, out, shown = typed(b"\x04")
    assert (status, out) == (130, b"")
    assert b"Traceback" not in shown


def test_without_the_library_there_are_no_passwords(complaint: Checking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    assert complaint("password") == "argon2-cffi is not installed; pip install 'ringserve[auth]'"
