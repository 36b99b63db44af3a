"""The machines that `cluster.py` plays with: network namespaces, the wires between them, and processes in them.

    client  198.51.100.2 ---- 198.51.100.1  balancer  192.0.2.1 ----+
                                                                    |  switch (a bridge in a namespace of its own)
    one 192.0.2.11 ---- two 192.0.2.12 ---- three 192.0.2.13 -------+

The addresses are those that RFC 5737 keeps for documentation. Nothing of it touches the network of the machine itself:
a namespace begins empty, and none of these is joined to it. A host's wire can be pulled out at the switch. The balancer
then sees nothing of that, its own wire being there: packets vanish.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

CLIENT = "198.51.100.2"
FRONT = "198.51.100.1"
"""The balancer, as its clients see it."""
BACK = "192.0.2.1"
"""The balancer, as the hosts see it."""
HOSTS = {"one": "192.0.2.11", "two": "192.0.2.12", "three": "192.0.2.13"}

NAMESPACES = Path("/run/netns")
"""Where ip-netns(8) keeps their names."""
STOP_S = 15.0
"""Between SIGTERM and SIGKILL: a ringserve that drains may take the 10 s of --drain-timeout."""
WAIT_S = 30.0
"""No wait is longer; each ends earlier by what it waits for."""
LOOK_AGAIN_S = 0.02


class ClusterError(Exception):
    """The test cannot go on; the message is for the user."""


def tool(name: str) -> str:
    """The path of a program. Raises ClusterError, with the remedy, if there is none."""
    # /usr/sbin has ip and haproxy, and is not in everybody's PATH.
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise ClusterError(f"{name} not found; `make cluster-test` installs what is needed")
    return found


def until(what: str, condition: Callable[[], bool], within_s: float = WAIT_S) -> float:
    """Wait for something that has no event of its own, and return for how many seconds. Raises ClusterError."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            raise ClusterError(f"not within {within_s:g} s: {what}")
        time.sleep(LOOK_AGAIN_S)
    return time.monotonic() - began


class Network:
    """The namespaces and wires; see the module. Their names carry our process id, so that two runs do not meet."""

    def __init__(self) -> None:
        self._ip_path = tool("ip")
        self._made: list[str] = []

    def namespace(self, role: str) -> str:
        """The namespace's name, as `ip netns` knows it."""
        return f"ringserve-{os.getpid()}-{role}"

    def make(self) -> None:
        """All of it. Raises ClusterError; `remove` takes away what there is by then."""
        for role in ("switch", "balancer", "client", *HOSTS):
            self._made.append(role)  # before it is there: we may be interrupted in between
            self._ip("netns", "add", self.namespace(role))
            self._in(role, "link", "set", "lo", "up")
        self._in("switch", "link", "add", "lan", "type", "bridge")
        self._in("switch", "link", "set", "lan", "up")
        for role, address in {"balancer": BACK, **HOSTS}.items():
            self._wire("switch", role, role, "lan")
            self._in("switch", "link", "set", role, "master", "lan", "up")
            self._address(role, "lan", address)
        self._wire("balancer", "wan", "client", "wan")
        self._address("balancer", "wan", FRONT)
        self._address("client", "wan", CLIENT)

    def pull(self, host: str) -> None:
        """Pull a host's wire out of the switch."""
        self._in("switch", "link", "set", host, "down")

    def plug(self, host: str) -> None:
        """Put it back."""
        self._in("switch", "link", "set", host, "up")

    def remove(self) -> None:
        """The namespaces, and the wires with them. What still runs in one would live on unseen, so it is killed."""
        while self._made:
            name = self.namespace(self._made.pop())
            if (NAMESPACES / name).exists():
                for pid in self._ip("netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                self._ip("netns", "delete", name)

    def command(self, role: str, command: Sequence[str]) -> list[str]:
        """A command that runs in a namespace, in the very process that is started for it."""
        return [self._ip_path, "netns", "exec", self.namespace(role), *command]

    def _wire(self, left: str, left_name: str, right: str, right_name: str) -> None:
        self._in(
            left, "link", "add", left_name, "type", "veth", "peer", "name", right_name, "netns", self.namespace(right)
        )

    def _address(self, role: str, device: str, address: str) -> None:
        self._in(role, "address", "add", f"{address}/24", "dev", device)
        self._in(role, "link", "set", device, "up")

    def _in(self, role: str, *words: str) -> None:
        self._ip("-n", self.namespace(role), *words)

    def _ip(self, *words: str) -> str:
        done = subprocess.run([self._ip_path, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ClusterError(f"ip {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout


class Process:
    """A program in a namespace, with a session of its own: Ctrl-C is for the test, which then ends all in order, and
    what it starts itself can be found. words: where its standard error goes. output: a pipe, or None for the same file.
    """

    def __init__(
        self,
        network: Network,
        role: str,
        command: Sequence[str],
        words: Path,
        *,
        output: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"{Path(command[0]).name} ({role})"
        self.words = words
        # Settings of the user's own would make the test say something about those.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RINGSERVE_")}
        with words.open("ab") as file:
            self.process = subprocess.Popen(
                network.command(role, command), stdin=subprocess.DEVNULL if output is None else subprocess.PIPE,
                stdout=file if output is None else output, stderr=file, cwd=words.parent, start_new_session=True,
                env=inherited | dict(environment or {}),
            )  # fmt: skip

    @property
    def said(self) -> str:
        """All that it has said so far."""
        return self.words.read_text(errors="replace")

    def check(self) -> None:
        """Raise ClusterError if it has ended."""
        if (status := self.process.poll()) is not None:
            raise ClusterError(f"{self.name} ended with status {status}: {self.said.strip()[-2000:]}")

    def signal(self, number: signal.Signals) -> None:
        """To the program alone."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to it and to all that it started, at once."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """Ask it to end, wait, and kill what is left."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
