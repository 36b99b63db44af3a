"""Containers: a bundle as the OCI's runtimes want it, made of an image, and run by runc in a network of its own.

What an engine such as docker would do between an image and runc is done here, with docker's own defaults for mounts
and masked paths (moby's `oci.DefaultSpec`), so that what is seen is what users get. Privileges are those of
`docker run --read-only --cap-drop=ALL --security-opt no-new-privileges`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000  # sched.h
MS_REC, MS_PRIVATE = 0x4000, 0x40000  # mount(2)
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1  # netdevice(7)
IFREQ_FLAGS = struct.Struct("16sH14x")
WAIT_S = 20.0
"""No wait is longer; each ends earlier by what it waits for."""
POLL_S = 0.001

MASKED = [
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]

_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


def _called(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def leave_mounts() -> None:
    """Give this process a mount namespace of its own: whatever is mounted from now on is gone when it has ended."""
    _called(_libc.unshare(CLONE_NEWNS))
    _called(_libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))


def eventually(what: str, condition: Callable[[], object], within_s: float = WAIT_S) -> None:
    """Wait for something that has no event. Raises TimeoutError."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)


class Network:
    """A network namespace with nothing but loopback in it. It lives as long as its descriptor, or a process in it."""

    def __init__(self) -> None:
        self._fd = -1
        self._apart(self._make)

    @property
    def path(self) -> str:
        """Where runc finds it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    def _make(self) -> None:
        _called(_libc.unshare(CLONE_NEWNET))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = IFREQ_FLAGS.pack(b"lo", 0)
            name, flags = IFREQ_FLAGS.unpack(fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, IFREQ_FLAGS.pack(name, flags | IFF_UP))
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def inside(self, function: Callable[[], T]) -> T:
        """What the function returns in the namespace. A socket that it makes belongs there and can be used anywhere."""

        def enter() -> T:
            _called(_libc.setns(self._fd, CLONE_NEWNET))
            return function()

        return self._apart(enter)

    @staticmethod
    def _apart(function: Callable[[], T]) -> T:
        """In a thread of its own: a namespace is a thread's, and this one's is not changed."""
        results: list[T] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                results.append(function())
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def close(self) -> None:
        """Let it go."""
        os.close(self._fd)


def specification(
    image: Mapping[str, Any],
    root: Path,
    network: Network,
    *,
    site: Path,
    seccomp: Mapping[str, Any] | None,
    variables: Sequence[str] = (),
    command: Sequence[str] | None = None,
    read_only: bool = True,
) -> dict[str, Any]:
    """The config.json of a bundle (runtime-spec, config.md). image: its configuration, as docker has it."""
    user, _colon, group = image["User"].partition(":")
    linux: dict[str, Any] = {
        "namespaces": [
            *({"type": kind} for kind in ("pid", "mount", "ipc", "uts")),
            {"type": "network", "path": network.path},
        ],
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    }
    if seccomp is not None:
        linux["seccomp"] = seccomp
    arguments = [*image["Entrypoint"], *image["Cmd"]] if command is None else list(command)
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": int(user), "gid": int(group)},
            "args": arguments,
            "env": [*image["Env"], *variables],
            "cwd": image["WorkingDir"],
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 4096, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": read_only},
        "hostname": "ringserve",
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            {"destination": "/srv", "type": "bind", "source": str(site), "options": ["rbind", "ro"]},
        ],
        "linux": linux,
    }


def _mount(destination: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": kind, "options": list(options)}


class Container:
    """One that runs. When its block ends, it has ended, by force if need be, and runc has forgotten it."""

    _count = 0

    def __init__(self, specify: Callable[[Network], dict[str, Any]], directory: Path) -> None:
        """specify: makes the specification, for a network. directory: where the bundle and the outputs are kept."""
        Container._count += 1
        self._name = f"ringserve-image-test-{os.getpid()}-{Container._count}"
        self._state = directory / "runc"
        self._bundle = Path(tempfile.mkdtemp(dir=directory, prefix="bundle-"))
        self._pid_file = self._bundle / "pid"
        self.network = Network()
        (self._bundle / "config.json").write_text(json.dumps(specify(self.network)))
        with open(self._bundle / "stdout", "wb") as out, open(self._bundle / "stderr", "wb") as err:
            self.began = time.monotonic()
            self._process = subprocess.Popen(
                self._runc("run", "--bundle", str(self._bundle), "--pid-file", str(self._pid_file), self._name),
                stdin=subprocess.DEVNULL, stdout=out, stderr=err,
            )  # fmt: skip

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        subprocess.run(self._runc("delete", "--force", self._name), capture_output=True, check=False, timeout=WAIT_S)
        try:
            self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self.network.close()

    def _runc(self, *arguments: str) -> list[str]:
        return ["runc", "--root", str(self._state), *arguments]

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def stdout(self) -> str:
        """All that it wrote up to now."""
        return (self._bundle / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """Likewise."""
        return (self._bundle / "stderr").read_text()

    @property
    def pid(self) -> int:
        """Of its first process, as this machine counts."""
        return int(self._pid_file.read_text())

    @property
    def has_ended(self) -> bool:
        """Whether its first process has."""
        return self._process.poll() is not None

    def children(self) -> list[int]:
        """Of its first process; zombies count."""
        return [int(child) for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def worker(self) -> int:
        """The one process that serves."""
        (only,) = self.children()
        return only

    # -- what can be done to it -----------------------------------------------------------------------------------

    def connect(self, port: int = 8080, *, receive_bytes: int | None = None) -> socket.socket:
        """A connection over loopback. receive_bytes: of the socket's buffer, for a client that is slow."""

        def make() -> socket.socket:
            client = socket.socket()
            try:
                client.settimeout(WAIT_S)
                if receive_bytes is not None:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
                client.connect(("127.0.0.1", port))
            except BaseException:
                client.close()
                raise
            return client

        return self.network.inside(make)

    def listens(self, port: int = 8080) -> bool:
        """Whether its port takes a connection; that is before anybody serves it."""
        try:
            self.connect(port).close()
        except ConnectionRefusedError:
            return False
        return True

    def wait_until_served(self) -> None:
        """Until it says so. Raises TimeoutError, or ChildProcessError if it ends instead."""

        def serves() -> bool:
            if self.has_ended:
                raise ChildProcessError(f"it ended with status {self.end()}: {self.stderr.strip()}")
            return "Stop it with Ctrl-C." in self.stderr

        eventually("it serves", serves)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command inside, as an engine's `exec` and HEALTHCHECK do it."""
        return subprocess.run(
            self._runc("exec", self._name, *command), capture_output=True, text=True, check=False, timeout=WAIT_S
        )

    def signal(self, number: signal.Signals) -> None:
        """To its first process, as `docker stop` and `docker kill` do."""
        subprocess.run(self._runc("kill", self._name, number.name), check=True, capture_output=True, timeout=WAIT_S)

    def end(self) -> int:
        """Wait for its end. Returns the exit status of its first process, which runc passes on."""
        return self._process.wait(WAIT_S)


LOOK = "openat2 of a look"
BEAT = "sendmsg of a beat"
WAKE = "write that wakes its own ring"


def _name_of(call: str) -> str:
    """The name of a traced call. Three are told apart: an open that can neither wait nor read (it only names what is
    there), the word of a worker to its supervisor that its loop turns, and the byte by which it wakes its own ring.
    """
    name = call.partition("(")[0]
    if name == "sendmsg" and 'iov_base=".", iov_len=1}' in call:
        return BEAT
    if name == "write" and r'"\0", 1)' in call:
        return WAKE
    return LOOK if name == "openat2" and "O_PATH" in call and "RESOLVE_CACHED" in call else name


@contextlib.contextmanager
def traced(pid: int, directory: Path) -> Iterator[list[str]]:
    """strace on a process and its threads; yields a list that has the names of its system calls afterwards."""
    names: list[str] = []
    with tempfile.NamedTemporaryFile("r", dir=directory) as written:
        tracer = subprocess.Popen(
            ["strace", "-f", "-qq", "-o", written.name, "-p", str(pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            eventually("strace is attached", lambda: f"TracerPid:\t{tracer.pid}\n" in _status(pid))
            yield names
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(WAIT_S)
        for line in written:
            call = line.split(None, 1)[1]
            if not call.startswith(("<...", "---", "+++")):
                names.append(_name_of(call))


def _status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def status_of(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status by its keys (proc(5))."""
    return {name: rest.split() for name, _colon, rest in (line.partition(":") for line in _status(pid).splitlines())}
