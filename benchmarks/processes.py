"""Processes under measurement: started pinned to a CPU, read through /proc, ended by their process group.

Needs nothing outside the standard library; Linux only.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"
SERVER_CPU = 0
CLIENT_CPU = 1
START_S = 10.0
"""Until a server accepts. Generous, since the machine may be busy; it is over at the first success."""
STOP_S = 5.0
"""Between SIGTERM and SIGKILL, for all servers together."""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is for the user."""


class Server(NamedTuple):
    """A running server. `output` and `errors` are its standard streams, `log` is where its access log goes, if on."""

    name: str
    port: int
    command: Sequence[str]
    output: Path
    errors: Path
    log: Path | None
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


def tool(name: str) -> str:
    """The path of a program, or its bare name if there is none."""
    # /usr/sbin has nginx and lighttpd, and is not in an ordinary user's PATH.
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/bin") or name


def check_machine(tools: Sequence[str]) -> None:
    """Raise BenchmarkError, with the remedy, when a program or a CPU is missing."""
    packages = {"taskset": "util-linux"}
    if missing := [name for name in tools if tool(name) == name]:
        install = " ".join(packages.get(name, name) for name in missing)
        raise BenchmarkError(f"{', '.join(missing)} not found; apt-get install {install}")
    if not {SERVER_CPU, CLIENT_CPU} <= os.sched_getaffinity(0):
        raise BenchmarkError(f"needs CPU {SERVER_CPU} for the server and CPU {CLIENT_CPU} for the client")


def raise_descriptor_limit() -> int:
    """As many open files as the system allows, for this process and for the servers, which inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port() -> int:
    """A port that the kernel says is free. It could be taken before the server binds it, which then fails loudly."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def published(text: str, names: Mapping[Path, str]) -> str:
    """The text without paths of this machine: each path by its name."""
    for path, name in names.items():
        text = text.replace(str(path), name)
    return text


def launch(
    name: str,
    command: Sequence[str],
    port: int,
    own: Path,
    log: Path | None = None,
    output: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Server:
    """Run `command` on the servers' CPU, its streams in the directory `own` or, together, in `output`."""
    errors = output or own / "stderr"
    output = output or own / "stdout"
    # Settings of the user's own would make the figures say something about those.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RINGSERVE_")}
    # Appending, as a log of a service is opened, so that the file can be emptied between rounds.
    with output.open("ab") as output_file, errors.open("ab") as errors_file:
        process = subprocess.Popen(
            [tool("taskset"), "-c", str(SERVER_CPU), *command],
            stdin=subprocess.DEVNULL, stdout=output_file, stderr=errors_file, cwd=own,
            env=inherited | dict(environment or {}),
            start_new_session=True,  # Ctrl-C is for the benchmark, which then ends the servers in order.
        )  # fmt: skip
    return Server(name, port, command, output, errors, log, process)


def wait_until_it_accepts(server: Server) -> None:
    """Raise BenchmarkError if it does not within START_S."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if (status := server.process.poll()) is not None:
            raise BenchmarkError(f"{server.name} ended with status {status}: {last_words(server)}")
        try:
            socket.create_connection((HOST, server.port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise BenchmarkError(f"{server.name} does not accept connections after {START_S:.0f} s: {last_words(server)}")


def last_words(server: Server) -> str:
    """What it said last, on either stream."""
    said = (path.read_text(errors="replace")[-2000:].strip() for path in (server.errors, server.output))
    return next(filter(None, said), "it said nothing")


def end(servers: Iterable[Server]) -> None:
    """Ask all to end, wait for all, and kill what is left of their process groups."""
    servers = list(servers)
    for server in servers:
        if server.process.poll() is None:
            thaw(server)
            server.process.terminate()
    deadline = time.monotonic() + STOP_S
    for server in servers:
        with suppress(subprocess.TimeoutExpired):
            server.process.wait(max(0.0, deadline - time.monotonic()))
        # Its session is its own, so the group is the server and its workers and nobody else.
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.process.wait()


def freeze(server: Server) -> None:
    """Stop the server from running at all; for one that never sleeps, while it is not its turn."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGSTOP)


def thaw(server: Server) -> None:
    """Let a frozen server go on."""
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGCONT)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on (the second, a name in brackets, may contain anything)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """The pids of a process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(FileNotFoundError, ProcessLookupError):  # It ended meanwhile.
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree += children.get(pid, [])
    return tree


def cpu_seconds(root: int) -> float:
    """User and system time of the tree so far.

    Read from the processes' CPU clocks, whose id is made of the pid as clock_getcpuclockid(3) does it: they count in
    nanoseconds, where the ticks of /proc/PID/stat are 1 % of a round each. A clock counts all threads of its process,
    those of the kernel's io_uring workers and those that ended included; children that ended are in the parent's
    cutime and cstime, in ticks.
    """
    total_s = 0.0
    for pid in process_tree(root):
        with suppress(OSError):  # It ended meanwhile; its parent has it in cutime then.
            total_s += time.clock_gettime(~pid << 3 | 2)
            total_s += sum(map(int, _stat(pid)[13:15])) / TICKS_PER_S
    return total_s


def busy_seconds(cpu: int) -> float:
    """How long a CPU has worked for anybody, or was taken away by the hypervisor, in ticks."""
    line = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith(f"cpu{cpu} "))
    user, nice, system, _, _, irq, softirq, steal, *_ = map(int, line.split()[1:])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def resident_kib(root: int) -> int:
    """VmRSS of the tree. Pages that its processes share are counted more than once, but not in a difference."""
    total_kib = 0
    for pid in process_tree(root):
        with suppress(OSError):
            found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            total_kib += int(found[1]) if found else 0  # A zombie has no memory.
    return total_kib


def stray_threads(root: int) -> list[str]:
    """Names of the tree's threads that may run elsewhere than on the servers' CPU.

    The kernel's io_uring workers do not inherit what taskset set, and would give a server a part of a second CPU.
    """
    strays = []
    for pid in process_tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):  # A worker that became idle.
            strays += [
                (task / "comm").read_text().strip()
                for task in Path(f"/proc/{pid}/task").iterdir()
                if os.sched_getaffinity(int(task.name)) != {SERVER_CPU}
            ]
    return strays
