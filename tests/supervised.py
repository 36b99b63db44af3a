"""A supervisor and its workers as processes, and clients that keep asking."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from wire import TIMEOUT_S, Wire, eventually, get

BODY = b"x" * 1000
ENDS_S = 60

INHERITING = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "ringserve", *sys.argv[2:]])
"""
"""What systemd does for a service with one socket: sd_listen_fds(3)."""
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
os.execv(sys.executable, [sys.executable, "-m", "ringserve", *sys.argv[2:]])
"""
UNPRIVILEGED = """
import resource, runpy
from permissions import give_up_raising
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
give_up_raising()
runpy.run_module("ringserve", run_name="__main__")
"""
"""With 64 descriptors open at most, and as many under way, also if root runs the tests."""

SEEING_NONE_KILLED = """
import os, runpy
waitpid = os.waitpid

def blind(pid, options):
    ended = waitpid(pid, options)
    return (0, 0) if os.WIFSIGNALED(ended[1]) else ended

os.waitpid = blind
runpy.run_module("ringserve", run_name="__main__")
"""
"""A supervisor to which those that it kills seem to stay, as processes do that wait in the kernel."""


class Running:
    """A supervisor and its workers, by the command line. said: the lines on stderr."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        stdout: int = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        inherits: int | None = None,
        program: str | None = None,
        open_files: int | None = None,
    ) -> None:
        """inherits: a listening socket, which is handed over as systemd does it. program: what is run in place of the
        command, one of those above. open_files: as by `ulimit -n`.
        """
        command = ["-m", "ringserve"] if inherits is None else ["-c", INHERITING, str(inherits)]
        if program is not None:
            command = ["-c", program]
        if open_files is not None:
            command = ["-c", LIMITED, str(open_files)]
        self.process = subprocess.Popen(
            [sys.executable, *command, *arguments], cwd=directory, stderr=subprocess.PIPE, text=True, stdout=stdout,
            env=dict(os.environ) | dict(environment or {}), pass_fds=() if inherits is None else (inherits,),
        )  # fmt: skip
        self.said: list[str] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        eventually("it serves or has ended", lambda: self.heard("Ctrl-C") or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith(("  http", "  unix")):
                self.url = line.strip()
            self.said.append(line)

    def heard(self, words: str) -> int:
        return sum(words in line for line in self.said)

    @property
    def workers(self) -> set[int]:
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def reload(self) -> None:
        """And wait until the new workers serve."""
        before = self.heard("reloaded:")
        self.process.send_signal(signal.SIGHUP)
        eventually("the new workers serve", lambda: self.heard("reloaded:") > before)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        try:
            if self.process.poll() is None:
                self.process.send_signal(number)
            return self.process.wait(ENDS_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()


@contextmanager
def command(
    directory: Path,
    *arguments: str,
    stdout: int = subprocess.DEVNULL,
    environment: Mapping[str, str] | None = None,
    program: str | None = None,
    open_files: int | None = None,
) -> Iterator[Running]:
    running = Running(
        directory, "--port", "0", "--host", "127.0.0.1", *arguments, stdout=stdout, environment=environment,
        program=program, open_files=open_files,
    )  # fmt: skip
    try:
        yield running
    finally:
        running.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def has_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def stop_process(pid: int) -> None:
    """By SIGSTOP: it neither accepts nor answers nor says that its loop turns."""
    os.kill(pid, signal.SIGSTOP)
    eventually("it has stopped", lambda: has_stopped(pid))


def client_ports(pid: int) -> set[int]:
    """The clients' ports of the TCP connections (IPv4) that a process has."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = os.readlink(descriptor)
        except FileNotFoundError:
            continue  # closed meanwhile
        if name.startswith("socket:["):
            inodes.add(name[len("socket:[") : -1])
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {int(row[2].rpartition(":")[2], 16) for row in rows if row[9] in inodes} - {0}


class Failure(NamedTuple):
    """port: the client's; 0 if it was not connected."""

    port: int
    why: str


class Askers:
    """Clients that keep asking until they are told to stop, or are refused: half of them on lasting connections, half
    on new ones.
    """

    def __init__(self, url: str, count: int = 4) -> None:
        self.url = url
        self.answered = [0] * count
        self.failures: list[Failure] = []
        self.refused = 0
        self._over = False
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(count)]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over = True
        self.join()

    def join(self) -> None:
        """Wait until all have stopped."""
        for thread in self._threads:
            thread.join(TIMEOUT_S * 2)
            assert not thread.is_alive()

    def _ask(self, index: int) -> None:
        request = get("/page") if index % 2 else get("/page", "Connection: close")
        wire: Wire | None = None
        while not self._over:
            port = 0
            try:
                wire = wire or Wire(self.url)
                port = wire.socket.getsockname()[1] if self.url.startswith("http") else 0
                answer = wire.ask(request)
                assert (answer.status, answer.body) == (200, BODY)
                self.answered[index] += 1
                if answer.fields.get("connection") == "close":
                    wire.socket.close()
                    wire = None
            except ConnectionRefusedError:
                assert wire is None
                self.refused += 1
                return
            except (OSError, AssertionError) as error:
                self.failures.append(Failure(port, repr(error)))
                if wire is not None:
                    wire.socket.close()
                    wire = None
        if wire is not None:
            wire.socket.close()

    def more(self, count: int = 20) -> None:
        """Wait until each client has had some more answers."""
        wanted = [answered + count for answered in self.answered]
        eventually(
            "all are answered", lambda: all(has >= more for has, more in zip(self.answered, wanted, strict=True))
        )
