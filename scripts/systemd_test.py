"""Runs the unit of examples/systemd under a systemd of its own: `make systemd-test`.

A Debian in a directory is booted by systemd-nspawn, with a network that has nothing but loopback; the wheel of dist/ is
installed in /opt/ringserve, and the examples are put where docs/operations.md says. Then the service is started,
asked, reloaded, hung and stopped, as it is and with its socket.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import clean_debian
from clean_debian import fail, run
from wheel_test import HOME, PYTHONS, fetch_dependencies, find_python

BOOTS_S = 90
HAPPENS_S = 30
CONFIGURATION = "etc/ringserve/ringserve.toml"
PAGE = "<!doctype html><title>Hello</title>\n"
LARGE_BYTES = 64 * 1024 * 1024
"""More than the buffers of two sockets can hold, so that a response is in flight for as long as nobody reads it."""

CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], 80), timeout=30) as client:
    client.sendall(b"GET %s HTTP/1.1\\r\\nHost: test\\r\\nConnection: close\\r\\n\\r\\n" % sys.argv[2].encode())
    received = client.recv(10)
    print("begun", flush=True)
    sys.stdin.readline()
    while part := client.recv(1 << 20):
        received += part
head, _, body = received.partition(b"\\r\\n\\r\\n")
print(head.split()[1].decode(), len(body), flush=True)
"""
"""Asks ADDRESS for TARGET, says when the response has begun, and reads on when it is told so."""


def eventually(what: str, condition: Callable[[], object], deadline_s: float = HAPPENS_S) -> None:
    """Wait until it is so; fail if it does not come to be."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            fail(f"not so after {deadline_s:g} s: {what}")
        time.sleep(0.1)


class Machine:
    """A booted systemd. pid: its first process, as this machine sees it."""

    def __init__(self, root: Path, nspawn: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._nspawn = nspawn
        self.pid = 0
        eventually("the machine boots", self._is_up, BOOTS_S)

    def _is_up(self) -> bool:
        if self._nspawn.poll() is not None:
            fail(f"systemd-nspawn ended with status {self._nspawn.returncode}; see above")
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._nspawn.pid)], capture_output=True, check=False
        )
        self.pid = int(children.stdout.split()[0]) if children.stdout.split() else 0
        return self.pid != 0 and self.ask("systemctl", "is-system-running") in ("running", "degraded")

    def ask(self, *command: str) -> str:
        """What a command says in there, whatever its status."""
        done = subprocess.run(self._line(*command), capture_output=True, text=True, timeout=HAPPENS_S, check=False)
        return done.stdout.strip()

    def do(self, *command: str) -> str:
        """What a command says in there, which has to succeed."""
        done = subprocess.run(self._line(*command), capture_output=True, text=True, timeout=2 * HAPPENS_S, check=False)
        if done.returncode:
            fail(f"{done.stdout}{done.stderr}{self.journal()}\n{' '.join(command)}: status {done.returncode}")
        return done.stdout

    def refuses(self, *command: str) -> None:
        """A command that has to fail."""
        if subprocess.run(self._line(*command), capture_output=True, check=False).returncode == 0:
            fail(f"{' '.join(command)} should have failed, and did not")

    def _line(self, *command: str) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--all", "/usr/bin/env", "-i", f"PATH={clean_debian.PATH}", *command]

    def journal(self) -> str:
        """All that the service and systemd said of it."""
        return self.ask("journalctl", "--unit=ringserve.service", "--no-pager", "--output=cat")

    def said(self, words: str) -> int:
        """How often it is in the journal, which is one for all that is tried."""
        return self.journal().count(words)

    def client(self, address: str, target: str) -> subprocess.Popen[str]:
        """Begin to ask. This Python, in the machine's network."""
        client = subprocess.Popen(
            ["nsenter", f"--target={self.pid}", "--net", sys.executable, "-c", CLIENT, address, target],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert client.stdout is not None
        if client.stdout.readline() != "begun\n":
            client.kill()
            client.communicate()
            fail(f"{self.journal()}\n{address} does not answer")
        return client

    def expect(self, address: str, target: str, answer: str) -> None:
        """Ask, and compare status and length."""
        finish(self.client(address, target), answer)

    def main(self) -> int:
        """The supervisor, as the machine counts its processes."""
        return int(self.ask("systemctl", "show", "--property=MainPID", "--value", "ringserve.service"))


def finish(client: subprocess.Popen[str], answer: str) -> None:
    """Let a client read to the end."""
    said, _errors = client.communicate("\n", timeout=HAPPENS_S)
    if said.strip() != answer:
        fail(f"the client got {said.strip()!r}, and not {answer!r}")


RELOADED = "workers serve by the new configuration"
TIMEOUT = "Watchdog timeout"
PAGE_ANSWER = f"200 {len(PAGE)}"
LARGE_ANSWER = f"200 {LARGE_BYTES}"


def check_process(machine: Machine, capabilities: int) -> None:
    """That what the unit says is what the process has."""
    lines = machine.do("cat", f"/proc/{machine.main()}/status").splitlines()
    status = {name: value.split() for name, _colon, value in (line.partition(":") for line in lines)}
    if "0" in status["Uid"] or status["NoNewPrivs"] != ["1"] or status["Seccomp"] != ["2"]:
        fail(f"the process is not as confined as its unit says: {status}")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        if int(status[name][0], 16) != capabilities:
            fail(f"{name} is {status[name][0]}, and should be {capabilities:x}")


def check_reload(machine: Machine) -> None:
    """A good configuration comes into force; of a bad one `systemctl reload` says that it is, and nothing changes."""
    configuration = machine.root / CONFIGURATION
    good = configuration.read_text()
    reloads, refusals = machine.said(RELOADED), machine.said("directroy")
    configuration.write_text(good + '\n[[redirects]]\nfrom = "/old"\nto = "/index.html"\n')
    machine.do("systemctl", "reload", "ringserve.service")
    eventually("the reload is done", lambda: machine.said(RELOADED) > reloads)
    eventually("the new workers answer", lambda: asks_for(machine, "/old").startswith("308 "))
    main = machine.main()
    configuration.write_text("directroy = 'x'\n")
    machine.refuses("systemctl", "reload", "ringserve.service")
    if machine.said("directroy") == refusals:
        fail(f"{machine.journal()}\nthe mistake is not named")
    configuration.write_text(good)
    machine.expect("127.0.0.1", "/", PAGE_ANSWER)
    if machine.main() != main:
        fail("a refused reload ended the service")


def asks_for(machine: Machine, target: str) -> str:
    """Status and length."""
    return machine.client("127.0.0.1", target).communicate("\n", timeout=HAPPENS_S)[0]


def check_watchdog(machine: Machine) -> None:
    """A supervisor that hangs is ended and replaced."""
    main, timeouts = machine.main(), machine.said(TIMEOUT)
    machine.do("systemctl", "kill", "--kill-who=main", "--signal=STOP", "ringserve.service")
    eventually("the watchdog ended it", lambda: machine.said(TIMEOUT) > timeouts)
    eventually("another is there", lambda: machine.main() not in (0, main))
    eventually("it serves", lambda: machine.ask("systemctl", "is-active", "ringserve.service") == "active")
    machine.expect("::1", "/", PAGE_ANSWER)


def check_stop(machine: Machine) -> None:
    """What is in flight is finished."""
    client = machine.client("127.0.0.1", "/large.bin")
    machine.do("systemctl", "stop", "--no-block", "ringserve.service")
    eventually("it stops", lambda: machine.ask("systemctl", "is-active", "ringserve.service") == "deactivating")
    finish(client, LARGE_ANSWER)
    eventually("it has stopped", lambda: machine.ask("systemctl", "is-active", "ringserve.service") == "inactive")
    shown = machine.ask("systemctl", "show", "--property=Result,ExecMainStatus", "ringserve.service")
    if set(shown.split()) != {"Result=success", "ExecMainStatus=0"}:
        fail(f"{machine.journal()}\nit did not end well: {shown}")


CAP_NET_BIND_SERVICE = 1 << 10


def try_alone(machine: Machine) -> None:
    """The service as it is: it listens itself."""
    machine.do("systemctl", "start", "ringserve.service")
    machine.expect("127.0.0.1", "/", PAGE_ANSWER)
    machine.expect("::1", "/large.bin", LARGE_ANSWER)
    check_process(machine, CAP_NET_BIND_SERVICE)
    check_reload(machine)
    check_watchdog(machine)
    check_stop(machine)
    print("ringserve.service: starts, reloads, is restarted by the watchdog, and drains", flush=True)


def try_with_socket(machine: Machine) -> None:
    """The same, started by the first connection to a socket that systemd opened."""
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "start", "ringserve.socket")
    if machine.ask("systemctl", "is-active", "ringserve.service") != "inactive":
        fail("the service runs before anybody has asked")
    machine.expect("127.0.0.1", "/", PAGE_ANSWER)
    machine.expect("::1", "/large.bin", LARGE_ANSWER)
    check_process(machine, 0)
    devices = machine.do("cat", f"/proc/{machine.main()}/net/dev").splitlines()[2:]
    if [line.split(":")[0].strip() for line in devices] != ["lo"]:
        fail(f"the service has a network: {devices}")
    check_reload(machine)
    check_watchdog(machine)
    check_stop(machine)
    machine.expect("127.0.0.1", "/", PAGE_ANSWER)
    print("ringserve.socket: starts it at the first connection, and again; it has no capability and no network")


# -- the machine ------------------------------------------------------------------------------------------------


def install(root: Path, scratch: Path) -> None:
    """ringserve, its units, a configuration and a site."""
    version = run(clean_debian.inside(root, ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]))
    found = [python for python in map(find_python, PYTHONS) if python is not None and python[1] == version.strip()]
    if not found:
        fail(f"python{version.strip()} is needed here to fetch wheels for it", clean_debian.USER_ERROR)
    wheels = list((HOME / "dist").glob("ringserve-*.whl"))
    if len(wheels) != 1:
        fail("dist/ should have one wheel: run `make wheel`", clean_debian.USER_ERROR)
    run([found[0][0], "-m", "venv", scratch / "venv"])
    fetch_dependencies(str(scratch / "venv/bin/python"), wheels[0], root / "wheels")
    for command in (
        ["python3", "-m", "venv", "/opt/ringserve"],
        ["/opt/ringserve/bin/pip", "install", "--quiet", "--no-index", "--find-links", "/wheels", "ringserve"],
    ):
        run(clean_debian.inside(root, command))
    examples, units = HOME / "examples/systemd", root / "etc/systemd/system"
    for name in ("ringserve.service", "ringserve.socket"):
        shutil.copy(examples / name, units / name)
    (root / CONFIGURATION).parent.mkdir()
    shutil.copy(examples / "ringserve.toml", root / CONFIGURATION)
    # Or the test of the watchdog takes as long as the unit allows.
    (units / "ringserve.service.d").mkdir()
    (units / "ringserve.service.d" / "test.conf").write_text("[Service]\nWatchdogSec=2\n")
    (root / "srv/www").mkdir()
    (root / "srv/www/index.html").write_text(PAGE)
    with (root / "srv/www/large.bin").open("wb") as file:
        file.truncate(LARGE_BYTES)


@contextmanager
def booted(root: Path) -> Iterator[Machine]:
    """Boot it, and shut it down afterwards."""
    nspawn = subprocess.Popen(
        ["systemd-nspawn", "--quiet", f"--directory={root}", "--machine=ringserve-test", "--boot", "--private-network",
         "--register=no", "--keep-unit", "--console=pipe"],
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Machine(root, nspawn)
    finally:
        nspawn.terminate()  # systemd halts
        try:
            nspawn.wait(HAPPENS_S)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()


def main() -> None:
    """See the module."""
    with tempfile.TemporaryDirectory(prefix="ringserve-systemd-") as directory:
        root = Path(directory) / "debian"
        clean_debian.build(root, ["python3", "python3-venv", "systemd", "systemd-sysv"])
        install(root, Path(directory))
        with booted(root) as machine:
            print(machine.do("systemctl", "--version").partition("\n")[0], flush=True)
            try_alone(machine)
            shutil.copy(HOME / "examples/systemd/ringserve.service.d/socket.conf",
                        root / "etc/systemd/system/ringserve.service.d/socket.conf")  # fmt: skip
            try_with_socket(machine)


if __name__ == "__main__":
    main()
