"""Servers under measurement: started pinned to a CPU, read through /proc, ended by their pid.

Shared by compare.py and memory.py. Needs nothing outside the standard library; Linux only.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
SERVER_CPU = 0
CLIENT_CPU = 1
START_S = 10.0
"""Until a server accepts. Generous, since the machine may be busy; it is over at the first success."""
STOP_S = 5.0
"""Between SIGTERM and SIGKILL."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is for the user."""


class Server(NamedTuple):
    """A running server. `output` is its stdout, which is where ringserve logs."""

    name: str
    pid: int
    port: int
    output: Path
    command: Sequence[str]


def tool(name: str) -> str:
    """The path of a program, or its bare name if there is none (see `check_machine`)."""
    # /usr/sbin has nginx, and is not in an ordinary user's PATH.
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/bin") or name


def check_machine(tools: Sequence[str]) -> None:
    """Raise BenchmarkError, with the remedy, when a program or a CPU is missing."""
    packages = {"taskset": "util-linux"}
    if missing := [name for name in tools if tool(name) == name]:
        install = " ".join(packages.get(name, name) for name in missing)
        raise BenchmarkError(f"{', '.join(missing)} not found; apt-get install {install}")
    if not {SERVER_CPU, CLIENT_CPU} <= os.sched_getaffinity(0):
        raise BenchmarkError(f"needs CPU {SERVER_CPU} for the server and CPU {CLIENT_CPU} for the client")


def free_port() -> int:
    """A port that the kernel says is free. It could be taken before the server binds it, which then fails loudly."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def ringserve_command(directory: Path, port: int, log_format: str) -> list[str]:
    """The command line of ringserve of the interpreter that runs this."""
    script = Path(sys.executable).with_name("ringserve")
    program = [str(script)] if script.exists() else [sys.executable, "-m", "ringserve"]
    return [*program, str(directory), "--host", HOST, "--port", str(port), "--log-format", log_format]


def published(command: Sequence[str], work: Path) -> str:
    """The command line with programs by their names and the temporary directory as WORK."""
    return " ".join([Path(command[0]).name, *command[1:]]).replace(str(work), "WORK")


@contextmanager
def started(name: str, command: Sequence[str], port: int, work: Path) -> Iterator[Server]:
    """Run `command` on the servers' CPU while the block runs. Raises BenchmarkError if it does not accept."""
    output, errors = work / f"{name}.stdout", work / f"{name}.stderr"
    # Settings of the user's own would make the figures say something about those.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RINGSERVE_")}
    # Appending, as a log of a service is opened, so that the file can be emptied between rounds.
    with output.open("ab") as output_file, errors.open("ab") as errors_file:
        process = subprocess.Popen(
            [tool("taskset"), "-c", str(SERVER_CPU), *command],
            stdin=subprocess.DEVNULL, stdout=output_file, stderr=errors_file, env=environment,
            start_new_session=True,  # Ctrl-C is for this script, which then ends the servers in order.
        )  # fmt: skip
    try:
        _wait_until_it_accepts(name, process, port, errors)
        yield Server(name, process.pid, port, output, command)
        if process.poll() is not None:
            raise BenchmarkError(f"{name} ended with status {process.returncode}: {_tail(errors)}")
    finally:
        _end(process)


def _wait_until_it_accepts(name: str, process: subprocess.Popen[bytes], port: int, errors: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BenchmarkError(f"{name} ended with status {process.returncode}: {_tail(errors)}")
        try:
            socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError(f"{name} does not accept connections after {START_S:.0f} s: {_tail(errors)}")


def _tail(errors: Path) -> str:
    return errors.read_text(errors="replace")[-2000:].strip() or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        # Its session is its own, so the group is the server and its workers and nobody else.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the second, a name in brackets, may contain anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """The pids of a process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int(_stat(int(entry.name))[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # It ended meanwhile.
            children.setdefault(parent, []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far, in steps of a tick (10 ms).

    /proc/PID/stat counts all threads, those of the kernel's io_uring workers and those that ended included, which the
    sum over task/* would lose; its cutime and cstime count children that ended.
    """
    ticks = sum(sum(map(int, _stat(pid)[11:15])) for pid in process_tree(root))
    return ticks / TICKS_PER_S


def stray_threads(root: int) -> list[str]:
    """Names of the tree's threads that may run elsewhere than on the servers' CPU.

    The kernel's io_uring workers do not inherit what taskset set, and would give a server a part of a second CPU.
    """
    strays = []
    for pid in process_tree(root):
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                if os.sched_getaffinity(int(task.name)) != {SERVER_CPU}:
                    strays.append((task / "comm").read_text().strip())
            except (FileNotFoundError, ProcessLookupError):
                continue  # A worker that became idle.
    return strays
