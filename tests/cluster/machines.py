"""What runs in the network of `network.py`: three ringserve, HAProxy in front of them, and the load."""

from __future__ import annotations

import csv
import json
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from checker import Asked
from network import BACK, FRONT, HOSTS, ClusterError, Network, Process, tool, until

HERE = Path(__file__).resolve().parent
KIB = 1024
SIZES = {"page": 1 * KIB, "script": 20 * KIB, "picture": 200 * KIB, "scene": 400 * KIB, "film": 24 * 1024 * KIB}
"""The site. ringserve keeps the first three in memory and splices the others; the film is for those who read slowly."""
CONNECTIONS = 32
PAUSE_MS = 50
"""About 600 requests a second, which two processors carry with room to spare: what is slow does not wait for them."""
LOAD_MAX_S = 120
"""wrk ends by itself after this time, if nobody ends it before."""
AT_LEAST = 50
"""Requests that a host must have answered before it counts as taking its part."""


class Balancer:
    """HAProxy, as its stats socket shows it."""

    def __init__(self, network: Network, directory: Path, configuration: Path) -> None:
        self._path = directory / "admin.sock"
        self._path.unlink(missing_ok=True)
        self.process = Process(
            network, "balancer", [tool("haproxy"), "-db", "-f", str(configuration)], directory / "haproxy.log",
            environment={"HAPROXY_RUN": str(directory)},
        )  # fmt: skip

    @property
    def listens(self) -> bool:
        """Whether it has opened what it listens on. Raises ClusterError if it has ended."""
        self.process.check()
        return self._path.exists()

    def ask(self, command: str) -> str:
        """One command of its own language, and the answer. Raises ClusterError."""
        self.process.check()
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(5)
                connection.connect(str(self._path))
                connection.sendall(command.encode() + b"\n")
                with connection.makefile() as answer:
                    return answer.read()
        except OSError as error:
            raise ClusterError(f"HAProxy does not answer {command!r}: {error}") from error

    def tell(self, command: str) -> None:
        """One that has no answer unless it is wrong."""
        if answer := self.ask(command).strip():
            raise ClusterError(f"HAProxy, told {command!r}: {answer}")

    def row(self, name: str) -> dict[str, str]:
        """What it says of a host, or of all (BACKEND)."""
        for row in csv.DictReader(self.ask("show stat").lstrip("# ").splitlines()):
            if (row["pxname"], row["svname"]) == ("hosts", name):
                return row
        raise ClusterError(f"HAProxy knows no server hosts/{name}")

    def is_up(self, name: str) -> bool:
        """Whether a host gets requests."""
        return self.row(name)["status"] == "UP"

    def is_down(self, name: str) -> bool:
        """Whether its checks took it out."""
        return self.row(name)["status"] == "DOWN"

    def answered(self, name: str) -> int:
        """Requests that a host has answered well so far."""
        return int(self.row(name)["hrsp_2xx"])

    def in_flight(self, name: str) -> int:
        """Requests that a host has at the moment."""
        return int(self.row(name)["scur"])

    def has_a_download(self, name: str) -> bool:
        """Whether a request to a host has been in flight for a second, and not for more than three.

        HAProxy subtracts whole seconds: what it calls two is more than one and less than three.
        """
        return re.search(rf" srv={name} .* age=2s ", self.ask("show sess")) is not None

    def retried(self) -> int:
        """Attempts that had to be made again, so far."""
        row = self.row("BACKEND")
        return int(row["wretr"]) + int(row["wredis"])


class Host:
    """One ringserve."""

    def __init__(self, cluster: Cluster, name: str, *flags: str) -> None:
        self.name = name
        self.log = cluster.directory / f"{name}.access.log"
        self.words = cluster.directory / f"{name}.log"
        self._cluster = cluster
        self._command = [
            sys.executable, "-m", "ringserve", str(cluster.site), "--host", HOSTS[name], "--port", "8080",
            "--trusted-proxy", BACK, "--log-file", str(self.log), *flags,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        """And it serves when this returns."""
        told = self._heard("Ctrl-C")
        self.process = self._cluster.start(Process(self._cluster.network, self.name, self._command, self.words))
        self._until_heard("Ctrl-C", told)

    def reload(self) -> None:
        """And the new worker serves when this returns."""
        told = self._heard("reloaded:")
        self.process.signal(signal.SIGHUP)
        self._until_heard("reloaded:", told)

    def workers(self) -> list[int]:
        """The processes of its workers, those that retire included."""
        pid = self.process.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def wait(self) -> float:
        """Until it has ended by itself. Returns for how many seconds. Raises ClusterError if it does not end well."""
        took_s = until(f"ringserve on {self.name} ends", lambda: self.process.process.poll() is not None)
        if self.process.process.returncode:
            raise ClusterError(f"ringserve on {self.name} ended with status {self.process.process.returncode}")
        return took_s

    def _heard(self, words: str) -> int:
        """How often it said them, in all its lives."""
        return self.words.read_text().count(words) if self.words.exists() else 0

    def _until_heard(self, words: str, told: int) -> None:
        def heard_again() -> bool:
            self.process.check()
            return self._heard(words) > told

        until(f"ringserve on {self.name} says {words!r}", heard_again)


class Cluster:
    """The network and all that runs in it. A context: what it made is gone when that is left."""

    def __enter__(self) -> Cluster:
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ringserve-cluster-")))
            self.site = self.directory / "site"
            self.site.mkdir()
            seeded = random.Random(1)
            for name, size in SIZES.items():
                (self.site / name).write_bytes(seeded.randbytes(size))
            (self.site / "index.html").write_text("<!doctype html><title>What the checks ask for</title>\n")
            self.network = Network()
            stack.callback(self.network.remove)
            self.network.make()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        # A second Ctrl-C would leave half of it there.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self._stack.close()

    def start(self, process: Process) -> Process:
        """It ends with the cluster at the latest."""
        self._stack.callback(process.end)
        return process

    def serve(self, configuration: Path, *flags: str) -> None:
        """Start the hosts and the balancer, and wait until all is well. flags: more of them for ringserve."""
        self.hosts = {name: Host(self, name, *flags) for name in HOSTS}
        self.balancer = Balancer(self.network, self.directory, configuration)
        self.start(self.balancer.process)
        until("HAProxy listens", lambda: self.balancer.listens)
        self.wait_until_all_are_well()

    def end(self) -> None:
        """End what `serve` has started."""
        self.balancer.process.end()
        for host in self.hosts.values():
            host.process.end()

    def wait_until_all_are_well(self) -> float:
        """Until the balancer takes every host for well. Returns for how many seconds."""
        return until("all hosts are up", lambda: all(self.balancer.is_up(name) for name in HOSTS))

    def wait_until_all_answer(self) -> None:
        """Until each host has answered some requests from now on."""
        wanted = {name: self.balancer.answered(name) + AT_LEAST for name in HOSTS}
        until("each host takes its part", lambda: all(self.balancer.answered(name) >= wanted[name] for name in HOSTS))

    def wait_for_a_download(self, name: str) -> None:
        """Until a host has had a request in flight for a second, as only those who read slowly have; most of it is
        still to come then.
        """
        until(f"a download from {name} is in flight", lambda: self.balancer.has_a_download(name))


class Load:
    """wrk and the checking clients, from the client's namespace."""

    def __init__(self, cluster: Cluster) -> None:
        files = [name for name in SIZES if name != "film"]
        wrk = [
            tool("wrk"), "-t", "1", "-c", str(CONNECTIONS), "-d", f"{LOAD_MAX_S}s", "--timeout", "20s",
            "-s", str(HERE / "load.lua"), f"http://{FRONT}/", "--", str(cluster.site), str(PAUSE_MS), *files,
        ]  # fmt: skip
        checker = [sys.executable, str(HERE / "checker.py"), FRONT, str(cluster.site)]
        self._wrk, self._checker = (
            cluster.start(
                Process(cluster.network, "client", command, cluster.directory / "load.log", output=subprocess.PIPE)
            )
            for command in (wrk, checker)
        )

    def end(self) -> tuple[int, dict[str, int], float, list[Asked]]:
        """Requests of wrk, its failures by kind, its slowest answer in seconds, and what the checking clients asked.
        Raises ClusterError.
        """
        self._wrk.check()
        self._checker.check()
        self._wrk.signal(signal.SIGINT)  # it ends, and reports
        try:
            wrk_said, _ = self._wrk.process.communicate(timeout=10)
            checker_said, _ = self._checker.process.communicate(timeout=30)  # which closes its standard input
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"the load does not end: {error}") from error
        found = re.search(rb"^REPORT (.*)$", wrk_said, re.MULTILINE)
        if found is None or self._checker.process.returncode:
            raise ClusterError(f"no report of the load: {self._wrk.said.strip()[-2000:]}")
        report = json.loads(found[1])
        failed = {kind: count for kind, count in report["failed"].items() if count}
        asked = [Asked(*values) for values in json.loads(checker_said)]
        return report["requests"], failed, report["max_us"] / 1e6, asked
