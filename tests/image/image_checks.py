"""`make image-test`: the Dockerfile built and run for real, with no container engine running and no registry.

A base by debootstrap, the build by buildah in chroot isolation, and containers by runc: a read-only root, a user that
is not root, no capability, and each of the seccomp settings that a user may have. One line is printed for each check;
the exit status is 1 if any failed, and 2 if the machine is not set up for it. Needs root.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from container import BEAT, LOOK, WAKE, Container, Network, eventually, leave_mounts, specification, status_of, traced
from image_build import BASE, IMAGE, Builder, BuildError, check_tools
from machine import MachineError
from oci_seccomp import to_oci

REPOSITORY = Path(__file__).resolve().parents[2]
DOCKER = REPOSITORY / "examples/docker"
DOCKERS_DEFAULT = REPOSITORY / "tests/image/seccomp-default.json"
PODMANS_DEFAULT = Path("/usr/share/containers/seccomp.json")
"""Of Debian's package golang-github-containers-common: the default of podman, buildah and CRI-O."""
USER = 10001
LARGE_BYTES = 8 * 1024 * 1024
"""More than the buffers of a connection hold, so that a client can leave it half-way."""
SMALL_BUFFER_BYTES = 16 * 1024
DRAIN_S = 10.0
"""--drain-timeout by default. What ends at once has to be well below."""
STARTS = 5
FAILED, NOT_SET_UP = 1, 2

SERVING_CALLS = frozenset(
    (
        "io_uring_enter",
        # Of large files: the hop out of a pipe into the socket, which does not wait, and the questions before the one
        # into the pipe (docs/decisions.md).
        "splice", "cachestat", "preadv2", "pipe2", "fcntl",
        # The log on a pipe, which does not wait either.
        "pwritev2",
        # The second look at a file, after a second: it may fall into the trace.
        LOOK, "statx", "close",
        # Once a second: the word to the supervisor, a look for SIGTERM, and another look at the listeners.
        BEAT, "rt_sigpending", WAKE,
        # What a descriptor is, and whose; no byte of a request or an answer.
        "fstat", "newfstatat", "getpeername", "getsockname", "getsockopt",
        # Memory, and the lock of the interpreter.
        "brk", "mmap", "munmap", "mremap", "madvise", "futex",
    )
)  # fmt: skip
"""What the worker may call while it serves. No accept, no recv, no send but one byte to the supervisor, no read, no
epoll, no write but lines of the log and a byte to its own ring, and no open but one that only looks."""
NAMED = {"syscall_0x1c3": "cachestat"}
"""What the strace of Debian 12 does not know yet (x86-64)."""


class Checks:
    """Prints a line for each check, and remembers whether any failed."""

    def __init__(self) -> None:
        self.made = 0
        self.failed = 0

    def that(self, what: str, holds: object, seen: object = None) -> None:
        """One check. seen: what is shown if it does not hold."""
        self.made += 1
        self.failed += not holds
        print(f"{'ok    ' if holds else 'FAILED'}  {what}", flush=True)
        if not holds and seen is not None:
            print(f"        seen: {seen!r}"[:2000], flush=True)

    def unchanged(self, what: str, root: Path, before: Mapping[str, tuple[object, ...]]) -> None:
        """One check, that the files below a directory are what they were."""
        after = manifest(root)
        names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        self.that(what, not names, [(name, before.get(name), after.get(name)) for name in names])

    def equal(self, what: str, seen: object, expected: object) -> None:
        """One check, that something is just this."""
        self.that(what, seen == expected, f"{seen!r}, not {expected!r}")

    @contextmanager
    def part(self, title: str) -> Iterator[None]:
        """Checks that belong together; what goes wrong between them is a failure, and the other parts go on."""
        print(f"-- {title}", flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.that(f"{title}: nothing went wrong between the checks", False, error)


class Place(NamedTuple):
    """What all containers are made of. image: its configuration."""

    image: dict[str, Any]
    root: Path
    site: Path
    directory: Path

    def container(self, seccomp: Mapping[str, Any] | None, **settings: Any) -> Container:
        """One that starts now. settings: of `specification`."""

        def specify(network: Network) -> dict[str, Any]:
            return specification(self.image, self.root, network, site=self.site, seccomp=seccomp, **settings)

        return Container(specify, self.directory)

    @property
    def health_command(self) -> list[str]:
        """That of the image's HEALTHCHECK, in exec form."""
        kind, *command = self.image["Healthcheck"]["Test"]
        if kind != "CMD":
            raise ValueError(f"HEALTHCHECK is in the form {kind}")
        return list(command)


def profile(path: Path) -> dict[str, Any]:
    """A profile in docker's format, as a runtime takes it for a container without capabilities on this machine."""
    major, minor = platform.release().split(".")[:2]
    return to_oci(json.loads(path.read_text()), platform.machine(), (int(major), int(minor)))


def ask(client: socket.socket, path: str, method: str = "GET", *fields: str) -> tuple[int, dict[str, str], bytes]:
    """A request on a connection and its whole answer."""
    client.sendall("\r\n".join([f"{method} {path} HTTP/1.1", "Host: test", *fields, "", ""]).encode())
    answer = http.client.HTTPResponse(client, method=method)
    answer.begin()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def get(container: Container, path: str, port: int = 8080) -> tuple[int, dict[str, str], bytes]:
    """The same on a connection of its own."""
    with container.connect(port) as client:
        return ask(client, path)


def manifest(root: Path) -> dict[str, tuple[object, ...]]:
    """Every file below a directory, with what would show that it was written to."""
    found: dict[str, tuple[object, ...]] = {}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            status = path.lstat()
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = hashlib.blake2b(path.read_bytes()).digest()
            elif stat.S_ISLNK(status.st_mode):
                content = path.readlink()
            key = str(path.relative_to(root))
            found[key] = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, content)
    return found


def size_bytes(root: Path) -> int:
    """Of all files below a directory, each counted once however many names it has."""
    sizes: dict[tuple[int, int], int] = {}
    for directory, _directories, files in os.walk(root):
        for name in files:
            status = Path(directory, name).lstat()
            sizes[status.st_dev, status.st_ino] = status.st_size
    return sum(sizes.values())


# -- the image ----------------------------------------------------------------------------------------------------


def check_image(checks: Checks, place: Place) -> None:
    """What is in it, by its configuration and its files."""
    image, root = place.image, place.root
    checks.equal("the image runs as a user by number, who is not root", image["User"], f"{USER}:{USER}")
    checks.equal("it is stopped by SIGTERM", image["StopSignal"], "SIGTERM")
    checks.equal(
        "its HEALTHCHECK asks by ringserve itself",
        image.get("Healthcheck", {}).get("Test"),
        ["CMD", "/opt/ringserve/bin/ringserve", "healthcheck"],
    )
    tools = [
        path for path in ("usr/bin/gcc", "usr/include/liburing.h", "usr/bin/pip3", "tools") if (root / path).exists()
    ]
    checks.equal("no compiler, no headers and no pip are left in it", tools, [])
    traces = [path for path in ("etc/pip.conf", "run/machine") if (root / path).exists()]
    checks.equal("no trace of how this machine gets its packages is left in it", traces, [])


def check_profile(checks: Checks) -> None:
    """The profile of the repository against the default that it comes from."""
    derived = subprocess.run(
        [sys.executable, str(DOCKER / "derive_seccomp.py"), "--check"], capture_output=True, text=True, check=False
    )
    checks.that(
        "seccomp.json is the default plus three calls", derived.returncode == 0, derived.stdout + derived.stderr
    )
    print("\n".join(f"        {line}" for line in derived.stdout.splitlines()))
    ours, default = profile(DOCKER / "seccomp.json"), profile(DOCKERS_DEFAULT)
    added = [call for call in ours["syscalls"] if call not in default["syscalls"]]
    expected = [{"names": ["io_uring_enter", "io_uring_register", "io_uring_setup"], "action": "SCMP_ACT_ALLOW"}]
    checks.equal("so it is in the runtime's format", added, expected)
    ours["syscalls"] = [call for call in ours["syscalls"] if call not in added]
    checks.equal("and nothing else differs", ours, default)


# -- with our profile ---------------------------------------------------------------------------------------------


def check_serving(checks: Checks, place: Place, seccomp: Mapping[str, Any]) -> None:
    """Answers, privileges, logs, and what it calls."""
    before = manifest(place.root)
    with place.container(seccomp) as container:
        container.wait_until_served()
        index = (place.site / "index.html").read_bytes()
        status, fields, body = get(container, "/")
        checks.equal("GET / is 200", status, 200)
        checks.equal("with the bytes of index.html", (body, fields["content-length"]), (index, str(len(index))))
        for process, name in ((container.pid, "PID 1"), (container.worker(), "its worker")):
            check_privileges(checks, name, status_of(process), filtered=True)
        doctor = container.execute(place.image["Entrypoint"][0], "doctor")
        checks.that(
            "`ringserve doctor` inside says that it works",
            doctor.returncode == 0 and doctor.stdout.endswith("ringserve works here.\n"),
            doctor.stdout + doctor.stderr,
        )
        health = container.execute(*place.health_command)
        checks.equal("the HEALTHCHECK inside is healthy", (health.returncode, health.stderr), (0, ""))
        check_ring(checks, place, container)
        eventually("the log is written", lambda: "large.bin" in container.stdout)
        logged = [line.split('"')[1] for line in container.stdout.splitlines()]
        expected = ["GET / HTTP/1.1", "HEAD / HTTP/1.1", *TRACED_LINES]
        checks.equal("the access log is on stdout, a line for each answer, and nothing else", logged, expected)
        checks.equal("/dev/shm is empty", os.listdir(f"/proc/{container.pid}/root/dev/shm"), [])
        checks.that("its root cannot be written to", is_read_only(container.pid, place.image), container.pid)
        container.signal(signal.SIGTERM)
        checks.equal("SIGTERM to PID 1 ends it with status 0", container.end(), 0)
    checks.unchanged("no file of the image was written, made, touched or removed", place.root, before)
    with place.container(seccomp, command=place.health_command) as container:
        unhealthy = container.end(), container.stdout, container.stderr
    expected_line = "ringserve healthcheck: 127.0.0.1:8080: Connection refused\n"
    checks.equal("the HEALTHCHECK where no server runs is not", unhealthy, (1, "", expected_line))


def check_privileges(checks: Checks, name: str, status: Mapping[str, list[str]], *, filtered: bool) -> None:
    """What a process may do, by proc(5)."""
    seen = {key: status[key] for key in ("Uid", "Gid", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")}
    nothing = ["0" * 16]
    expected = {
        "Uid": [str(USER)] * 4, "Gid": [str(USER)] * 4, "CapEff": nothing, "CapPrm": nothing, "CapBnd": nothing,
        "NoNewPrivs": ["1"], "Seccomp": ["2" if filtered else "0"],
    }  # fmt: skip
    held = "a filter" if filtered else "no filter"
    checks.equal(f"{name} is user {USER}, has no capability, can gain none, and has {held}", seen, expected)


def is_read_only(pid: int, image: Mapping[str, Any]) -> bool:
    """Whether the root of a process is mounted so, by proc(5), mountinfo."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    mounts = {fields[4]: fields[5].split(",") for fields in lines}
    return "ro" in mounts["/"] and "ro" in mounts["/srv"] and image["WorkingDir"] not in mounts


CONNECTIONS = 20
TRACED_LINES = [
    *["GET /style.css HTTP/1.1", "HEAD / HTTP/1.1", "GET /missing HTTP/1.1"] * CONNECTIONS,
    "GET /large.bin HTTP/1.1",
]


def check_ring(checks: Checks, place: Place, container: Container) -> None:
    """That requests go through the ring: it is there, and nothing else is called by which they could."""
    worker = container.worker()
    open_files = [os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")]
    checks.that("the worker has a ring, and no epoll", "anon_inode:[io_uring]" in open_files, open_files)
    checks.that("nor has it an epoll", "anon_inode:[eventpoll]" not in open_files, open_files)
    style, large = (place.site / "style.css").read_bytes(), (place.site / "large.bin").read_bytes()
    right = 0
    with traced(worker, place.directory) as calls:
        for _connection in range(CONNECTIONS):
            with container.connect() as client:
                right += ask(client, "/style.css")[2] == style
                right += ask(client, "/", "HEAD")[0] == 200
                right += ask(client, "/missing")[0] == 404
        right += get(container, "/large.bin")[2] == large
    calls = [NAMED.get(name, name) for name in calls]
    made = {name: calls.count(name) for name in sorted(set(calls))}
    answers = 3 * CONNECTIONS + 1
    checks.equal(
        f"{answers} answers on {CONNECTIONS + 1} connections are right, one of {LARGE_BYTES >> 20} MiB", right, answers
    )
    checks.that("for them the worker entered the ring", made.get("io_uring_enter", 0) > 0, made)
    others = set(made) - SERVING_CALLS
    checks.that("and called nothing else that could take a connection, a request or an answer", not others, made)
    print(f"        system calls: {', '.join(f'{name} {count}' for name, count in made.items())}")


def check_drain(checks: Checks, place: Place, seccomp: Mapping[str, Any]) -> None:
    """SIGTERM while a client is slow, and a second one."""
    large = (place.site / "large.bin").read_bytes()
    with place.container(seccomp) as container:
        container.wait_until_served()
        with container.connect() as idle, container.connect(receive_bytes=SMALL_BUFFER_BYTES) as slow:
            ask(idle, "/")
            slow.sendall(b"GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = http.client.HTTPResponse(slow)
            answer.begin()
            body = answer.read(SMALL_BUFFER_BYTES)
            container.signal(signal.SIGTERM)
            # An idle connection is closed when the drain begins: then, and not before, the rest is asked for.
            checks.equal("SIGTERM during a slow download ends idle connections", idle.recv(1), b"")
            checks.that("and not the server", not container.has_ended)
            body += answer.read()
        checks.that("the download comes to its end", body == large, len(body))
        checks.equal("and the exit status is 0", container.end(), 0)
        checks.equal("with nothing on stderr but where it served", container.stderr.count("\n"), 3)
    with place.container(seccomp) as container:
        container.wait_until_served()
        with container.connect() as idle, container.connect(receive_bytes=SMALL_BUFFER_BYTES) as slow:
            ask(idle, "/")
            slow.sendall(b"GET /large.bin HTTP/1.1\r\nHost: test\r\n\r\n")
            answer = http.client.HTTPResponse(slow)
            answer.begin()
            container.signal(signal.SIGTERM)
            idle.recv(1)
            began = time.monotonic()
            container.signal(signal.SIGTERM)
            status = container.end()
            took_s = time.monotonic() - began
        checks.that("a second SIGTERM ends it at once, download or not", took_s < DRAIN_S / 2, took_s)
        checks.equal("with status 0 as well", status, 0)


def check_first_process(checks: Checks, place: Place, seccomp: Mapping[str, Any]) -> None:
    """The duties of PID 1: it replaces its own children, and buries those of others."""
    with place.container(seccomp) as container:
        container.wait_until_served()
        checks.equal("the supervisor is PID 1", status_of(container.pid)["NSpid"][-1], "1")
        before = container.worker()
        os.kill(before, signal.SIGKILL)
        eventually("there is another worker", lambda: container.children() not in ([], [before]))
        container.wait_until_served()
        checks.equal("a worker that was killed is replaced, and serves", get(container, "/")[0], 200)
        container.execute("/bin/sh", "-c", "sleep 3600 >/dev/null 2>&1 &")
        worker, orphan = container.children()
        checks.equal("an orphan is left to PID 1", Path(f"/proc/{orphan}/comm").read_text(), "sleep\n")
        os.kill(orphan, signal.SIGKILL)
        eventually("the orphan is buried", lambda: container.children() == [worker])
        checks.that("which buries it when it ends", not Path(f"/proc/{orphan}").exists())
        container.signal(signal.SIGTERM)
        checks.equal("the exit status is 0 after all that", container.end(), 0)


def check_variables(checks: Checks, place: Place, seccomp: Mapping[str, Any]) -> None:
    """Settings by the environment, as `docker run -e` gives them."""
    variables = [
        "RINGSERVE_PORT=8081", "RINGSERVE_LOG_FORMAT=json", "RINGSERVE_SERVER_NAME=checked", "RINGSERVE_LISTING=1",
        "RINGSERVE_WORKERS=2",
    ]  # fmt: skip
    with place.container(seccomp, variables=variables) as container:
        container.wait_until_served()
        status, fields, body = get(container, "/files/", 8081)
        checks.equal("RINGSERVE_PORT, _LISTING, _SERVER_NAME hold", (status, fields.get("server")), (200, "checked"))
        checks.that("the listing names what is there", b"one.txt" in body and b"two.txt" in body, body)
        checks.equal("RINGSERVE_WORKERS holds", len(container.children()), 2)
        health = container.execute(*place.health_command)
        checks.equal("the HEALTHCHECK asks at that port", (health.returncode, health.stderr), (0, ""))
        eventually("both are logged", lambda: container.stdout.count("\n") == 2)
        paths = [json.loads(line)["target"] for line in container.stdout.splitlines()]
        checks.equal("RINGSERVE_LOG_FORMAT holds", paths, ["/files/", "/"])


# -- the other settings -------------------------------------------------------------------------------------------


def check_refusal(checks: Checks, place: Place, name: str, seccomp: Mapping[str, Any], error: str) -> None:
    """A default profile: one line, and status 2."""
    with place.container(seccomp) as container:
        status = container.end()
        said, out = container.stderr, container.stdout
    line = (
        f"ringserve: a seccomp filter refuses io_uring ({error}), as the default profiles of docker and containerd do; "
        "run the container with --security-opt seccomp=examples/docker/seccomp.json\n"
    )
    checks.equal(f"with {name} the exit status is 2", status, 2)
    checks.equal("after the one line that says why and what to do", (said, out), (line, ""))
    print(f"        {said.strip()}")


def check_plain(checks: Checks, place: Place, name: str, seccomp: Mapping[str, Any] | None) -> None:
    """It serves and ends, and even where it may write, it writes nothing."""
    before = manifest(place.root)
    with place.container(seccomp, read_only=False) as container:
        container.wait_until_served()
        index = (place.site / "index.html").read_bytes()
        checks.that(f"{name}: GET / is the index", get(container, "/")[2] == index)
        check_privileges(checks, f"{name}: PID 1", status_of(container.pid), filtered=seccomp is not None)
        container.signal(signal.SIGTERM)
        checks.equal(f"{name}: SIGTERM ends it with status 0", container.end(), 0)
    checks.unchanged(f"{name}: with a root that it may write to it writes nothing either", place.root, before)


# -- figures ------------------------------------------------------------------------------------------------------


def time_start(place: Place, seccomp: Mapping[str, Any]) -> float:
    """Seconds from `runc run` to the last byte of the first answer."""
    with place.container(seccomp) as container:
        eventually("its port takes a connection", container.listens)  # and holds it until a worker serves
        status, _fields, _body = get(container, "/")
        took_s = time.monotonic() - container.began
        if status != HTTPStatus.OK:
            raise ValueError(f"the first answer was {status}")
        container.signal(signal.SIGTERM)
        container.end()
    return took_s


def print_figures(checks: Checks, builder: Builder, place: Place, seccomp: Mapping[str, Any]) -> None:
    """Size and time, for the README."""
    with builder.mounted(BASE) as base:
        base_bytes = size_bytes(base)
    image_bytes, own_bytes = size_bytes(place.root), size_bytes(place.root / "opt/ringserve")
    starts_ms = sorted(time_start(place, seccomp) * 1000 for _start in range(STARTS))
    checks.that("the image is larger than its base", image_bytes > base_bytes, (image_bytes, base_bytes))
    mib = 1024 * 1024
    print(
        f"size: {image_bytes / mib:.0f} MiB, of which {base_bytes / mib:.0f} MiB are the base, "
        f"{own_bytes / mib:.1f} MiB /opt/ringserve, and the rest Debian's Python"
    )
    print(
        f"from `runc run` to the first answer: {statistics.median(starts_ms):.0f} ms "
        f"(median of {STARTS}, {starts_ms[0]:.0f} to {starts_ms[-1]:.0f})"
    )


# -- all of it ----------------------------------------------------------------------------------------------------


def make_site(directory: Path) -> Path:
    """The example site, and beside it a large file and a directory without an index."""
    site = Path(shutil.copytree(REPOSITORY / "examples/site", directory / "site"))
    block = hashlib.blake2b(b"ringserve").digest()
    (site / "large.bin").write_bytes(block * (LARGE_BYTES // len(block)))
    (site / "files").mkdir()
    for name in ("one.txt", "two.txt"):
        (site / "files" / name).write_text(name)
    return site


def derive_for_podman(directory: Path) -> Path:
    """podman's default with the three calls, by the script that users have."""
    derived = directory / "podman.json"
    subprocess.run(
        [sys.executable, str(DOCKER / "derive_seccomp.py"), "--base", str(PODMANS_DEFAULT), "--output", str(derived)],
        check=True, capture_output=True,
    )  # fmt: skip
    return derived


def check_all(checks: Checks, builder: Builder, place: Place) -> None:
    """Every part."""
    ours = profile(DOCKER / "seccomp.json")
    with checks.part("the image"):
        check_image(checks, place)
    with checks.part("the seccomp profile"):
        check_profile(checks)
    with checks.part("with examples/docker/seccomp.json"):
        check_serving(checks, place, ours)
    with checks.part("the end"):
        check_drain(checks, place, ours)
    with checks.part("PID 1"):
        check_first_process(checks, place, ours)
    with checks.part("variables"):
        check_variables(checks, place, ours)
    with checks.part("with the default profiles"):
        check_refusal(checks, place, "docker's default profile", profile(DOCKERS_DEFAULT), "EPERM")
        check_refusal(checks, place, "podman's default profile", profile(PODMANS_DEFAULT), "ENOSYS")
    with checks.part("unconfined, and with podman's default plus the three calls"):
        check_plain(checks, place, "unconfined", None)
        check_plain(checks, place, "derived from podman's", profile(derive_for_podman(place.directory)))
    with checks.part("figures"):
        print_figures(checks, builder, place, ours)


def main(arguments: Sequence[str]) -> int:
    """The command. arguments: the directory that keeps base and layers. Returns the exit status."""
    (state,) = arguments
    if os.geteuid():
        print("image-test: mounts and namespaces need root; run it as root", file=sys.stderr)
        return NOT_SET_UP
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(FAILED))  # so that containers are ended
    leave_mounts()
    checks = Checks()
    began = time.monotonic()
    try:
        check_tools("buildah", "debootstrap", "runc", "strace")
        builder = Builder(Path(state).resolve(), REPOSITORY)
        print("-- the base, by debootstrap", flush=True)
        made = builder.ensure_base()
        print(f"        {'made' if made else 'there already'}, {time.monotonic() - began:.0f} s", flush=True)
        print("-- the build, by buildah", flush=True)
        builder.build()
        print(f"        built, {time.monotonic() - began:.0f} s", flush=True)
        with tempfile.TemporaryDirectory(prefix="ringserve-image-") as made_for_it, builder.mounted(IMAGE) as root:
            directory = Path(made_for_it)
            check_all(checks, builder, Place(builder.configuration(), root, make_site(directory), directory))
    except (BuildError, MachineError) as error:
        print(f"image-test: {error}", file=sys.stderr)
        return NOT_SET_UP
    print(f"{checks.made} checks, {checks.failed} failed, {time.monotonic() - began:.0f} s")
    return FAILED if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
