"""The health check: against servers that live, and against what stays silent, answers garbage, refuses or dies."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from conftest import Serving

from ringserve.cli import command as cli
from ringserve.cli.healthcheck import UnhealthyError, check
from ringserve.config.settings import Config

SHORT_S = 0.2
LONG_S = 20.0
LOOPBACK = "127.0.0.0/8"


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def at(port: int, host: str = "127.0.0.1") -> Config:
    return Config(host=(host,), port=port)


# -- servers ----------------------------------------------------------------------------------------------------


def test_a_server_with_a_page_is_healthy(serving: Serving, site: Path) -> None:
    (site / "index.html").write_bytes(b"page")
    assert check(at(port_of(serving().url)), LONG_S) == 200


def test_a_server_without_a_page_lives_all_the_same(serving: Serving) -> None:
    assert check(at(port_of(serving().url)), LONG_S) == 404


@pytest.mark.parametrize(
    ("listening", "asked"),
    [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("::1", "::1"), ("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "localhost")],
)
def test_addresses_for_all_are_asked_on_loopback(serving: Serving, listening: str, asked: str) -> None:
    assert check(at(port_of(serving(host=listening).url), asked), LONG_S) == 404


def test_a_unix_socket_is_asked_and_the_port_is_not(serving: Serving, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    serving(unix=path)
    assert check(Config(unix=path, port=0), LONG_S) == 404


def test_the_proxy_protocol_is_spoken_where_it_is_expected(serving: Serving) -> None:
    port = port_of(serving(proxy_protocol=True, trusted_proxy=(LOOPBACK,)).url)
    config = Config(host=("127.0.0.1",), port=port, proxy_protocol=True, trusted_proxy=(LOOPBACK,))
    assert check(config, LONG_S) == 404
    assert check(at(port), LONG_S) == 400  # what a request without it gets there


def test_the_proxy_protocol_is_not_spoken_where_loopback_is_not_trusted(serving: Serving) -> None:
    port = port_of(serving(proxy_protocol=True, trusted_proxy=("10.0.0.0/8",)).url)
    config = Config(host=("127.0.0.1",), port=port, proxy_protocol=True, trusted_proxy=("10.0.0.0/8",))
    assert check(config, LONG_S) == 404


def test_the_proxy_protocol_is_spoken_on_a_unix_socket_that_is_trusted(serving: Serving, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    serving(unix=path, proxy_protocol=True, trusted_proxy=("unix",))
    assert check(Config(unix=path, proxy_protocol=True, trusted_proxy=("unix",)), LONG_S) == 404
    assert check(Config(unix=path), LONG_S) == 400


# -- what is no healthy server ----------------------------------------------------------------------------------

Scripted = Callable[[bytes], int]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """A server that reads the question and says something prepared, in single bytes, then ends. Returns its port."""
    opened: list[tuple[socket.socket, threading.Thread]] = []

    def start(said: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.settimeout(LONG_S)

        def serve() -> None:
            client, _address = listener.accept()
            with client:
                asked = b""
                while b"\r\n\r\n" not in asked:
                    asked += client.recv(4096)
                assert asked.startswith(b"HEAD / HTTP/1.1\r\n")
                assert b"\r\nHost: localhost\r\n" in asked
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    for piece in range(0, len(said), max(1, len(said) // 100)):
                        client.sendall(said[piece : piece + max(1, len(said) // 100)])
                except (BrokenPipeError, ConnectionResetError):
                    pass  # the check has seen enough

        thread = threading.Thread(target=serve)
        thread.start()
        opened.append((listener, thread))
        return port_of(f"http://127.0.0.1:{listener.getsockname()[1]}/")

    yield start
    for listener, thread in opened:
        thread.join(LONG_S)
        assert not thread.is_alive()
        listener.close()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 204 No Content\r\n\r\n",
        b"HTTP/1.1 404\r\n\r\n",
        b"HTTP/1.1 308 \r\nLocation: /x/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\n",
        b"HTTP/1.1 499 Odd\r\nX-Empty:\r\n\r\nand a body",
    ],
)
def test_any_answer_below_500_is_healthy(scripted: Scripted, said: bytes) -> None:
    assert check(at(scripted(said)), LONG_S) == int(said.split()[1])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "the answer was 500"),
        (b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n", "the answer was 503"),
        (b"", "ended without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "is no HTTP: 'SSH-2.0"),
        (b"HTTP/2 200 OK\r\n\r\n", "is no HTTP"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "is no HTTP"),
        (b"HTTP/1.1 600 Odd\r\n\r\n", "the answer was 600"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "without an answer"),
        (b"x" * 100_000, "is no HTTP"),
    ],
)
def test_any_other_is_not(scripted: Scripted, said: bytes, why: str) -> None:
    port = scripted(said)
    with pytest.raises(UnhealthyError, match=f"^127.0.0.1:{port}: .*{re.escape(why)}"):
        check(at(port), LONG_S)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_nobody_listens() -> None:
    port = free_port()
    with pytest.raises(UnhealthyError, match=f"^127.0.0.1:{port}: Connection refused$"):
        check(at(port), LONG_S)


def test_there_is_no_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with pytest.raises(UnhealthyError, match=f"^unix:{re.escape(str(path))}: No such file or directory$"):
        check(Config(unix=str(path)), LONG_S)


def test_a_server_that_stays_silent_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(UnhealthyError, match=r"no answer within 0\.2 s$"):
            check(at(silent.getsockname()[1]), SHORT_S)
        assert time.monotonic() - began >= SHORT_S


def test_a_server_that_trickles_is_given_up_in_time() -> None:
    """Each byte comes early enough for itself; the limit is one for all."""
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            client, _address = listener.accept()
            with client:
                while not over.wait(SHORT_S / 10):
                    try:
                        client.sendall(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with pytest.raises(UnhealthyError, match=r"no answer within 0\.2 s$"):
                check(at(listener.getsockname()[1]), SHORT_S)
        finally:
            over.set()
            thread.join(LONG_S)
        assert not thread.is_alive()


def test_a_port_that_the_kernel_picked_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="port 0 is picked by the kernel"):
        check(at(0), LONG_S)


# -- the command ------------------------------------------------------------------------------------------------


class Ended(NamedTuple):
    """How the command ended, and what it wrote."""

    status: object
    out: str
    err: str


def command(*arguments: str, directory: Path | None = None, **environment: str) -> Ended:
    """The command, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as elsewhere, redirect_stdout(out), redirect_stderr(err):
        for name, value in environment.items():
            elsewhere.setenv(name, value)
        elsewhere.chdir(directory or ".")
        with pytest.raises(SystemExit) as ended:
            cli.main(["healthcheck", *arguments])
    return Ended(ended.value.code, out.getvalue(), err.getvalue())


def test_the_command_asks_where_flags_environment_and_file_say(serving: Serving, site: Path) -> None:
    port, wrong = str(port_of(serving().url)), str(free_port())
    assert command("--host", "127.0.0.1", "--port", port).status == 0
    assert command(RINGSERVE_HOST="127.0.0.1", RINGSERVE_PORT=port).status == 0
    (site / "ringserve.toml").write_text(f'host = "127.0.0.1"\nport = {port}\n')
    for finished in (command(directory=site), command("--config", str(site / "ringserve.toml"), str(site))):
        assert finished == (0, "", "")
    assert command(directory=site, RINGSERVE_PORT=wrong).status == 1
    assert command("--port", port, directory=site, RINGSERVE_PORT=wrong).status == 0


def test_the_command_takes_what_the_server_takes(serving: Serving, site: Path) -> None:
    server = serving(listing=True)
    arguments = [str(site), "--host", "127.0.0.1", "--port", str(port_of(server.url)), "--listing", "--workers", "2"]
    assert command(*arguments).status == 0
    shown = command("--help").out
    assert "--port PORT" in shown
    assert "--workers" not in shown


def test_an_unhealthy_server_is_one_line_and_status_1() -> None:
    port = free_port()
    finished = subprocess.run(
        [sys.executable, "-m", "ringserve", "healthcheck", "--host", "127.0.0.1", "--port", str(port)],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == f"ringserve healthcheck: 127.0.0.1:{port}: Connection refused\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "0"), "port 0"),
        (("--port", "x"), "--port"),
        (("--timeout", "0"), "--timeout"),
        (("--nonsense",), "ringserve healthcheck --help"),
        (("--proxy-protocol",), "proxy-protocol needs trusted-proxy"),
        (("--config", "/nowhere.toml"), "/nowhere.toml"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(arguments: tuple[str, ...], words: str) -> None:
    status, out, err = command(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("ringserve: ")
    assert err.count("\n") == 1
    assert words in err


def test_the_timeout_is_a_flag_and_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr("ringserve.cli.healthcheck.check", lambda _config, timeout_s: asked.append(timeout_s))
    for arguments, variable in (((), None), (("--timeout", "0.5"), None), ((), "7"), (("--timeout", "0.5"), "7")):
        if variable is not None:
            monkeypatch.setenv("RINGSERVE_HEALTHCHECK_TIMEOUT", variable)
        with pytest.raises(SystemExit) as ended:
            cli.main(["healthcheck", *arguments])
        assert ended.value.code == 0
    assert asked == [2.0, 0.5, 7.0, 0.5]


def test_every_option_has_its_variable() -> None:
    for each in (cli.serve_command, cli.SUBCOMMANDS["healthcheck"]):
        options = {str(parameter.name): parameter for parameter in each.params}
        for name in ("check", "version"):
            options.pop(name, None)  # questions, and no settings
        assert set(options) >= {"directory", "config", "port", "host", "log_format"}
        for name, parameter in options.items():
            if name == "timeout":
                assert parameter.envvar == "RINGSERVE_HEALTHCHECK_TIMEOUT"
                continue
            flag = max(parameter.opts, key=len).removeprefix("--")
            assert parameter.envvar == "RINGSERVE_" + flag.replace("-", "_").upper()
