"""Workers: nobody is failed by a reload, and a dead one is replaced. On real processes and loopback."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wire import Wire, eventually, get

from ringserve.config import Config
from ringserve.ring.descriptors import Listener, ListenError, close_listener, listen_tcp, share_listener
from ringserve.workers import Notifier, Sockets, available_cpus, cgroup_quota, how, inherited_listeners

pytestmark = pytest.mark.usefixtures("io_uring")

BODY = b"x" * 1000
ENDS_S = 30


class Running:
    """A supervisor and its workers, by the command line. said: the lines on stderr."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ringserve", *arguments], cwd=directory, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self.said: list[str] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        eventually("it serves or has ended", lambda: self.heard("Ctrl-C") or self.process.poll() is not None)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if line.startswith("  http"):
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

    def end(self) -> int:
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            return self.process.wait(ENDS_S)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()


@contextmanager
def command(directory: Path, *arguments: str) -> Iterator[Running]:
    running = Running(directory, "--port", "0", "--host", "127.0.0.1", *arguments)
    try:
        yield running
    finally:
        running.end()


class Askers:
    """Clients that keep asking until they are told to stop: half of them on lasting connections, half on new ones."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answered = [0, 0, 0, 0]
        self.failures: list[str] = []
        self._over = False
        self._threads = [threading.Thread(target=self._ask, args=(index,)) for index in range(len(self.answered))]

    def __enter__(self) -> Askers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over = True
        for thread in self._threads:
            thread.join()

    def _ask(self, index: int) -> None:
        request = get("/page") if index % 2 else get("/page", "Connection: close")
        wire: Wire | None = None
        while not self._over:
            try:
                wire = wire or Wire(self.url)
                answer = wire.ask(request)
                assert (answer.status, answer.body) == (200, BODY)
                self.answered[index] += 1
                if answer.fields.get("connection") == "close":
                    wire.socket.close()
                    wire = None
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
                if wire is not None:
                    wire.socket.close()
                    wire = None
        if wire is not None:
            wire.socket.close()

    def more(self) -> None:
        """Wait until each client has had some more answers."""
        wanted = [count + 20 for count in self.answered]
        eventually(
            "all are answered", lambda: all(count >= more for count, more in zip(self.answered, wanted, strict=True))
        )


@pytest.fixture
def page(site: Path) -> Path:
    (site / "page").write_bytes(BODY)
    return site


def test_no_request_fails_through_reloads_and_retiring_workers_end(page: Path) -> None:
    with command(page, "--workers", "2", "--log-format", "off", "--drain-timeout", "2") as running:
        first = running.workers
        with Askers(running.url) as askers:
            for _reload in range(3):
                askers.more()
                running.reload()
            askers.more()
        assert askers.failures == []
        eventually("the old workers have ended", lambda: len(running.workers) == 2)
        assert not first & running.workers
        assert running.end() == 0


def test_a_killed_worker_fails_its_own_connections_alone_and_is_replaced(page: Path) -> None:
    with command(page, "--workers", "2", "--log-format", "off") as running:
        with Askers(running.url) as askers:
            askers.more()
            victim = min(running.workers)
            os.kill(victim, signal.SIGKILL)
            eventually("another is there", lambda: len(running.workers - {victim}) == 2)
            askers.more()
        assert len(askers.failures) <= len(askers.answered), "one for each connection that it had at most"
        eventually("it is said", lambda: running.heard(f"(pid {victim}) was ended by SIGKILL; another is started"))


def test_a_worker_that_is_told_to_end_drains_and_is_replaced_without_a_failure_for_new_clients(page: Path) -> None:
    with command(page, "--workers", "1", "--log-format", "off") as running:
        (worker,) = running.workers
        os.kill(worker, signal.SIGUSR2)
        # What comes before its successor is there waits in the socket, which is the supervisor's.
        for _client in range(20):
            with Wire(running.url) as wire:
                assert wire.ask(get("/page")).body == BODY
        eventually("it is replaced", lambda: running.workers and worker not in running.workers)


def test_a_bad_configuration_changes_nothing_and_says_why(page: Path) -> None:
    configuration = page / "ringserve.toml"
    configuration.write_text("[[headers]]\npaths = '**'\nfields = { X-Version = 'one' }\n")
    with command(page, "--workers", "1", "--log-format", "off", "--drain-timeout", "0.1") as running:
        workers = running.workers

        def version() -> str:
            with Wire(running.url) as wire:
                return wire.ask(get("/page")).fields["x-version"]

        assert version() == "one"
        configuration.write_text("[[headers]]\npahts = '**'\n")
        running.process.send_signal(signal.SIGHUP)
        eventually("it is refused", lambda: running.heard("the one before stays in force"))
        assert running.heard("pahts")
        assert (version(), running.workers) == ("one", workers)
        configuration.write_text("[[headers]]\npaths = '**'\nfields = { X-Version = 'two' }\n")
        running.reload()
        eventually("the old worker accepts no more", lambda: version() == "two")


def test_workers_are_added_and_taken_away_by_a_reload(page: Path) -> None:
    configuration = page / "ringserve.toml"
    configuration.write_text("workers = '1'\n")
    with command(page, "--log-format", "off", "--drain-timeout", "1") as running:
        for count in (3, 1):
            configuration.write_text(f"workers = '{count}'\n")
            with Askers(running.url) as askers:
                running.reload()
                askers.more()
            assert askers.failures == []
            eventually("there are as many", lambda: len(running.workers) == count)  # noqa: B023 - waited for here


def test_a_server_that_cannot_start_ends_with_its_status(page: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = Running(page, "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]), "--workers", "2")
        assert running.end() == 2
        assert running.heard("the port is in use") == 1


def test_a_second_server_on_the_same_port_is_told_so_although_workers_share_it(page: Path) -> None:
    with command(page, "--workers", "2", "--log-format", "off") as running:
        port = running.url.rstrip("/").rpartition(":")[2]
        second = Running(page, "--host", "127.0.0.1", "--port", port, "--workers", "2")
        assert second.end() == 2
        assert second.heard("the port is in use") == 1


def test_workers_end_when_their_supervisor_is_killed(page: Path) -> None:
    with command(page, "--workers", "2", "--log-format", "off") as running:
        workers = running.workers
        running.process.kill()
        running.process.wait()
        eventually("the workers have ended", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_an_interrupt_of_the_terminal_drains_once(page: Path) -> None:
    with command(page, "--workers", "2", "--log-format", "off") as running:
        for pid in (*running.workers, running.process.pid):  # as a terminal does, to the whole group
            os.kill(pid, signal.SIGINT)
        assert running.process.wait(ENDS_S) == 0
        assert not running.heard("did not end in time")


# -- the parts ----------------------------------------------------------------------------------------------------


def test_a_shared_listener_can_be_joined_by_us_and_by_nobody_else() -> None:
    (first,) = listen_tcp("127.0.0.1", 0, shared=True)
    another = share_listener(first)
    try:
        assert another.url == first.url
        assert another.fd != first.fd
        port = int(first.url.rstrip("/").rpartition(":")[2])
        with pytest.raises(ListenError, match="the port is in use"):
            listen_tcp("127.0.0.1", port, shared=True)
    finally:
        close_listener(first)
        close_listener(another)


def test_each_slot_has_sockets_and_those_of_missing_slots_are_served_by_the_others() -> None:
    sockets = Sockets({})
    try:
        sockets.prepare(Config(host=("127.0.0.1",), port=0), 3)
        three = [[listener.fd for listener in sockets.of(slot, 3)] for slot in range(3)]
        assert len({fd for fds in three for fd in fds}) == 3
        two = [[listener.fd for listener in sockets.of(slot, 2)] for slot in range(2)]
        assert [len(fds) for fds in two] == [2, 1]
        assert {fd for fds in two for fd in fds} == {fd for fds in three for fd in fds}
    finally:
        sockets.close()


def test_sockets_of_the_service_manager_are_taken_once() -> None:
    environment = {"LISTEN_PID": "1", "LISTEN_FDS": "2"}
    assert inherited_listeners(environment) == [], "they are somebody else's"
    assert environment == {}


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        notifier = Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "3000000"})
        notifier.tell("READY=1", "X=2")
        assert manager.recv(100) == b"READY=1\nX=2"
    assert notifier.interval_s == 1.5
    assert Notifier({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).interval_s is None
    Notifier({}).tell("nobody listens")


@pytest.mark.parametrize(
    ("limits", "cpus"),
    [({}, None), ({"a/b": "max 100000"}, None), ({"a/b": "150000 100000"}, 2), ({"a": "50000 100000", "a/b": "max"}, 1),
     ({"": "100000 100000", "a/b": "400000 100000"}, 1)],
)  # fmt: skip
def test_the_closest_quota_of_the_control_groups_counts(
    tmp_path: Path, limits: dict[str, str], cpus: int | None
) -> None:
    (tmp_path / "membership").write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    for group, limit in limits.items():
        (tmp_path / group / "cpu.max").write_text(limit + "\n")
    assert cgroup_quota(str(tmp_path), str(tmp_path / "membership")) == cpus


def test_auto_is_what_this_process_may_use() -> None:
    assert 1 <= available_cpus() <= len(os.sched_getaffinity(0))


def test_how_a_process_ended_is_said_in_words() -> None:
    assert how(3) == "ended with status 3"
    assert how(-9) == "was ended by SIGKILL"
    assert how(-64 - errno.EPERM).startswith("was ended by signal")


def test_a_listener_of_a_unix_socket_is_removed_by_the_supervisor_alone(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    sockets = Sockets({})
    sockets.prepare(Config(unix=str(path)), 2)
    listeners: list[Listener] = sockets.of(0, 2) + sockets.of(1, 2)
    assert all(listener.unix_path is None for listener in listeners)
    assert path.exists()
    sockets.close()
    assert not path.exists()
