"""Workers: nobody is failed by a reload or a drain, and a dead one is replaced. On real processes and loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from supervised import (
    BODY,
    ENDS_S,
    SEEING_NONE_KILLED,
    UNPRIVILEGED,
    Askers,
    Running,
    client_ports,
    command,
    free_port,
    stop_process,
)
from wire import Wire, eventually, get

pytestmark = pytest.mark.usefixtures("io_uring")

QUIET = ("--log-format", "off")
MIB = 1024 * 1024


@pytest.fixture
def page(site: Path) -> Path:
    (site / "page").write_bytes(BODY)
    return site


def header(value: str) -> str:
    return f"[[headers]]\npaths = '**'\nfields = {{ X-Version = '{value}' }}\n"


def version(url: str) -> str:
    with Wire(url) as wire:
        return wire.ask(get("/page")).fields["x-version"]


# -- who keeps asking is answered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_that_comes_as_soon_as_the_socket_is_there_ends_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "page").write_bytes(b"page")
    path = tmp_path / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "ringserve", str(tmp_path), "--unix", str(path)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not path.exists():
            assert process.poll() is None
        process.send_signal(number)

        def serves() -> bool:
            assert process.poll() is None
            try:
                with Wire(f"unix:{path}") as wire:
                    return wire.ask(get("/page")).status == 200
            except ConnectionRefusedError:  # it is bound, and does not listen yet
                return False

        eventually("it serves", serves)
    finally:
        process.terminate()
        assert process.wait(ENDS_S) == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_request_fails_through_reloads_and_retiring_workers_end(page: Path, count: int) -> None:
    with command(page, "--workers", str(count), *QUIET, "--drain-timeout", "2") as running:
        first = running.workers
        assert len(first) == count
        with Askers(running.url) as askers:
            for _reload in range(3):
                askers.more()
                running.reload()
            askers.more()
        assert (askers.failures, askers.refused) == ([], 0)
        eventually("the old workers have ended", lambda: len(running.workers) == count)
        assert not first & running.workers
        assert running.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_no_request_fails_through_a_drain_and_then_clients_are_refused(
    page: Path, count: int, number: signal.Signals
) -> None:
    with command(page, "--workers", str(count), *QUIET, "--drain-timeout", "5") as running:
        with Askers(running.url) as askers:
            askers.more()
            running.process.send_signal(number)
            askers.join()  # each goes on until it is refused
        assert askers.failures == []
        assert askers.refused == len(askers.answered)
        assert running.end() == 0
        assert not running.heard("killed")


def test_a_killed_worker_fails_its_own_connections_alone_and_new_ones_succeed(page: Path) -> None:
    with command(page, "--workers", "2", *QUIET) as running, ExitStack() as stack:
        victim, other = sorted(running.workers)
        owners: dict[int, list[Wire]] = {victim: [], other: []}
        while min(len(wires) for wires in owners.values()) < 3:
            wire = stack.enter_context(Wire(running.url))
            assert wire.ask(get("/page")).body == BODY
            port = wire.socket.getsockname()[1]
            owners[victim if port in client_ports(victim) else other].append(wire)
            assert len(owners[victim]) + len(owners[other]) < 200, "the kernel spreads connections"
        with Askers(running.url) as askers:
            askers.more()
            # Stopped, it neither accepts nor answers, so that what it has by now is what is its own.
            stop_process(victim)
            own = client_ports(victim)
            os.kill(victim, signal.SIGKILL)
            for _client in range(50):  # at once, of which some are spread to the dead one's socket
                with Wire(running.url) as wire:
                    assert wire.ask(get("/page")).body == BODY
            askers.more()
        assert {failure.port for failure in askers.failures} <= own
        for wire in owners[victim]:
            assert wire.socket.getsockname()[1] in own
            with pytest.raises((OSError, AssertionError)):
                wire.ask(get("/page"))
        for wire in owners[other]:
            assert wire.ask(get("/page")).body == BODY
        eventually("another is there", lambda: len(running.workers - {victim}) == 2)
        assert running.heard(f"worker 0 (pid {victim}) was ended by SIGKILL; another is started at once") == 1
        assert other in running.workers


def test_who_dies_again_and_again_is_started_again_with_pauses(page: Path) -> None:
    with command(page, "--workers", "1", *QUIET) as running:
        for again in ("at once", "in 0.1 s", "in 0.2 s", "in 0.4 s"):
            (worker,) = running.workers
            os.kill(worker, signal.SIGKILL)
            eventually("it is said", lambda: running.heard(f"(pid {worker})"))  # noqa: B023 - waited for here
            assert running.heard(f"(pid {worker}) was ended by SIGKILL; another is started {again}") == 1
            with Wire(running.url) as wire:  # it waits in the supervisor's socket
                assert wire.ask(get("/page")).body == BODY


def test_a_worker_that_is_told_to_end_drains_and_is_replaced_without_a_failure_for_new_clients(page: Path) -> None:
    with command(page, "--workers", "1", *QUIET, "--drain-timeout", "600") as running, Wire(running.url) as idle:
        (worker,) = running.workers
        assert idle.ask(get("/page")).body == BODY
        for _time in range(2):
            os.kill(worker, signal.SIGTERM)
        eventually("another is there", lambda: len(running.workers) == 2)
        said = f"worker 0 (pid {worker}) retires; another is started at once"
        eventually("it is said", lambda: running.heard(said) == 1)
        assert idle.ask(get("/page")).fields["connection"] == "close", "it may ask once more"
        # What comes before its successor is there waits in the socket, which is the supervisor's.
        for _client in range(20):
            with Wire(running.url) as wire:
                assert wire.ask(get("/page")).body == BODY
        eventually("it is replaced", lambda: running.workers and worker not in running.workers)


def test_signals_that_are_for_the_supervisor_do_nothing_to_a_worker(page: Path) -> None:
    with command(page, "--workers", "1", *QUIET) as running, Wire(running.url) as wire:
        (worker,) = running.workers
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(worker, number)
            assert wire.ask(get("/page")).fields.get("connection") is None
        assert running.workers == {worker}
        assert len(running.said) == 3, "nothing is said but what was at the start"


def test_a_log_that_is_reopened_again_and_again_while_a_worker_is_stopped_ends_nobody(page: Path) -> None:
    log = page / "access.log"
    tests = {"PYTHONPATH": str(Path(__file__).parents[1])}
    options = ("--workers", "2", "--log-file", str(log), "--worker-timeout", "0")
    with command(page, *options, program=UNPRIVILEGED, environment=tests) as running:
        victim = min(running.workers)
        stop_process(victim)
        # The kernel lets a user have as many descriptors under way as the limit of open files is.
        for number in range(80):
            log.rename(page / f"access.log.{number}")
            running.process.send_signal(signal.SIGUSR1)
            eventually("it is reopened", log.exists)
        assert running.process.poll() is None
        os.kill(victim, signal.SIGCONT)
        eventually("it writes to the last one", lambda: log_of(victim) == log)
        assert running.heard("access log") == 0
        with Wire(running.url) as wire:
            assert wire.ask(get("/page")).body == BODY


def log_of(pid: int) -> Path | None:
    """Of its descriptors the only one with a name like that."""
    try:
        logs = {Path(name) for name in descriptors(pid) if "access.log" in name}
    except FileNotFoundError:
        return None  # it closes one meanwhile
    return logs.pop() if len(logs) == 1 else None


def test_a_signal_that_means_nothing_does_not_end_the_server(page: Path) -> None:
    with command(page, "--workers", "1", *QUIET) as running, Wire(running.url) as wire:
        running.process.send_signal(signal.SIGUSR2)
        running.reload()  # which it does after what came before
        assert wire.ask(get("/page")).body == BODY
        assert running.end() == 0


def test_a_worker_has_no_descriptor_of_its_supervisor_but_its_channel_its_sockets_and_its_log(page: Path) -> None:
    with command(page, "--workers", "3", "--log-file", "access.log") as running:
        eventually("all serve", lambda: running.heard("Ctrl-C"))
        theirs = descriptors(running.process.pid)
        for worker in running.workers:
            shared = descriptors(worker) & theirs
            assert sum("socket" in name for name in shared) == 1, "its listening socket"
            assert {name for name in shared if "socket" not in name and "/dev/" not in name} == {
                str(page / "access.log"),
                *(os.readlink(f"/proc/{worker}/fd/{number}") for number in range(3)),
            } - {"/dev/null"}


def descriptors(pid: int) -> set[str]:
    return {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}


# -- reloading ------------------------------------------------------------------------------------------------------


def test_a_bad_configuration_changes_nothing_and_says_why(page: Path) -> None:
    configuration = page / "ringserve.toml"
    configuration.write_text(header("one"))
    with command(page, "--workers", "1", *QUIET, "--drain-timeout", "0.1") as running:
        workers = running.workers
        assert version(running.url) == "one"
        configuration.write_text("[[headers]]\npahts = '**'\n")
        running.process.send_signal(signal.SIGHUP)
        eventually("it is refused", lambda: running.heard("the configuration before stays in force"))
        assert running.heard("pahts")
        assert (version(running.url), running.workers) == ("one", workers)
        configuration.write_text(header("two"))
        running.reload()
        eventually("the old worker accepts no more", lambda: version(running.url) == "two")


def test_workers_are_added_and_taken_away_by_a_reload(page: Path) -> None:
    configuration = page / "ringserve.toml"
    configuration.write_text("workers = '1'\n")
    with command(page, *QUIET, "--drain-timeout", "1") as running:
        for count in (3, 1):
            configuration.write_text(f"workers = '{count}'\n")
            with Askers(running.url) as askers:
                running.reload()
                askers.more()
            assert (askers.failures, askers.refused) == ([], 0)
            eventually("there are as many", lambda: len(running.workers) == count)  # noqa: B023 - waited for here


def test_a_reload_moves_to_another_port_and_fails_nobody_at_the_one_before(page: Path) -> None:
    configuration = page / "ringserve.toml"
    ports = free_port(), free_port()
    configuration.write_text(f"port = {ports[0]}\nworkers = '2'\n" + header("one"))
    running = Running(page, "--host", "127.0.0.1", *QUIET, "--drain-timeout", "2")
    try:
        before, after = (f"http://127.0.0.1:{port}/" for port in ports)
        assert version(before) == "one"
        with Askers(before) as askers:
            askers.more()
            configuration.write_text(f"port = {ports[1]}\nworkers = '1'\nlisting = true\n" + header("two"))
            running.reload()
            askers.join()
        assert askers.failures == []
        assert askers.refused == len(askers.answered), "nobody waits where nobody accepts"
        assert version(after) == "two"
        assert running.end() == 0
    finally:
        running.end()


def test_a_port_that_is_taken_keeps_a_reload_from_changing_anything(page: Path) -> None:
    configuration = page / "ringserve.toml"
    port = free_port()
    configuration.write_text(f"port = {port}\nworkers = '1'\n")
    running = Running(page, "--host", "127.0.0.1", *QUIET)
    try:
        workers = running.workers
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            configuration.write_text(f"port = {number}\nworkers = '3'\n")
            with Askers(f"http://127.0.0.1:{port}/") as askers:
                running.process.send_signal(signal.SIGHUP)
                eventually("it is refused", lambda: running.heard("stays in force"))
                askers.more()
            assert running.heard(f"cannot listen on 127.0.0.1:{number}: the port is in use") == 1
        assert (askers.failures, askers.refused) == ([], 0)
        assert running.workers == workers
        assert running.end() == 0
    finally:
        running.end()


def test_a_log_that_cannot_be_opened_keeps_a_reload_from_changing_anything(page: Path) -> None:
    configuration = page / "ringserve.toml"
    configuration.write_text("workers = '1'\n")
    with command(page) as running:
        workers = running.workers
        configuration.write_text("workers = '3'\nlog-file = 'missing/access.log'\n")
        with Askers(running.url) as askers:
            askers.more()
            running.process.send_signal(signal.SIGHUP)
            eventually("it is refused", lambda: running.heard("stays in force"))
            askers.more()
            assert running.workers == workers
            configuration.write_text("workers = '2'\nlog-file = 'access.log'\n")
            running.reload()
            askers.more()
        assert running.heard("cannot open the access log 'missing/access.log'") == 1
        assert (askers.failures, askers.refused) == ([], 0)
        assert running.end() == 0, "a reload that was refused is no fault in the end"
    assert (page / "access.log").read_bytes()


BREAKS = """
import os, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "ringserve.ring.uring" and os.path.exists({gate!r}):
            raise ImportError("it is broken")
sys.meta_path.insert(0, Finder)
"""
"""A worker cannot import the ring for as long as the gate is there. A supervisor never does."""


def test_new_workers_that_do_not_come_up_change_nothing(page: Path, tmp_path: Path) -> None:
    configuration, gate = page / "ringserve.toml", tmp_path / "gate"
    configuration.write_text("workers = '1'\n")
    (tmp_path / "sitecustomize.py").write_text(BREAKS.format(gate=str(gate)))
    with command(page, environment={"PYTHONPATH": python_path(tmp_path)}) as running:
        workers = running.workers
        gate.touch()
        configuration.write_text("workers = '3'\n")
        with Askers(running.url) as askers:
            askers.more()
            running.process.send_signal(signal.SIGHUP)
            eventually("it is given up", lambda: running.heard("those before them go on"))
            askers.more()
            eventually("the new ones are gone", lambda: running.workers == workers)
            askers.more(100)  # some would be spread to sockets that nobody has
            gate.unlink()
            configuration.write_text("workers = '2'\n")
            running.reload()
            askers.more()
        assert running.heard("ImportError: it is broken")
        assert (askers.failures, askers.refused) == ([], 0)
        assert running.end() == 0, "a reload that was given up is no fault in the end"


def python_path(first: Path) -> str:
    """Where Python looks for modules: there first."""
    return os.pathsep.join(filter(None, (str(first), os.environ.get("PYTHONPATH"))))


HANGS = """
import os, sys, time
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        while name == "ringserve.ring.uring" and os.path.exists({gate!r}):
            time.sleep(0.01)
sys.meta_path.insert(0, Finder)
"""
"""A worker that imports the ring waits for as long as the gate is there. A supervisor never does."""


def test_a_new_worker_that_is_killed_while_it_comes_up_is_said_and_changes_nothing(page: Path, tmp_path: Path) -> None:
    configuration, gate = page / "ringserve.toml", tmp_path / "gate"
    configuration.write_text("workers = '1'\n")
    (tmp_path / "sitecustomize.py").write_text(HANGS.format(gate=str(gate)))
    with command(page, environment={"PYTHONPATH": python_path(tmp_path)}) as running:
        (worker,) = running.workers
        gate.touch()
        configuration.write_text("workers = '2'\n")
        running.process.send_signal(signal.SIGHUP)
        eventually("they are coming up", lambda: len(running.workers) == 3)
        hanging = max(running.workers - {worker})
        os.kill(hanging, signal.SIGKILL)
        eventually("it is given up", lambda: running.heard("those before them go on"))
        assert running.heard(f"(pid {hanging}) was ended by SIGKILL") == 1
        eventually("the other is gone as well", lambda: running.workers == {worker})
        with Wire(running.url) as wire:
            assert wire.ask(get("/page")).body == BODY


def test_what_changes_while_a_reload_is_under_way_is_read_after_it(page: Path) -> None:
    configuration = page / "ringserve.toml"
    configuration.write_text("workers = '2'\n" + header("one"))
    with command(page, *QUIET, "--drain-timeout", "0.1") as running:
        configuration.write_text("workers = '2'\n" + header("two"))
        running.process.send_signal(signal.SIGHUP)
        eventually("it is under way", lambda: len(running.workers) > 2)
        configuration.write_text("workers = '1'\n" + header("three"))
        running.process.send_signal(signal.SIGHUP)
        eventually("it is read", lambda: version(running.url) == "three")
        eventually("there is one", lambda: len(running.workers) == 1)


# -- ending ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(page: Path) -> Path:
    (page / "large").write_bytes(b"l" * 32 * MIB)
    return page


def begin_large(url: str) -> Wire:
    """A client that has begun to receive more than the sockets hold."""
    wire = Wire(url, receive_bytes=65536)
    wire.send(get("/large"))
    assert wire.socket.recv(1000, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200")
    return wire


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_drains_and_cuts_nothing_off(large: Path, number: signal.Signals) -> None:
    with (
        command(large, "--workers", "2", *QUIET, "--drain-timeout", "600") as running,
        begin_large(running.url) as wire,
    ):
        # As a terminal does it, and a service manager that tells the whole group.
        for pid in (*running.workers, running.process.pid):
            os.kill(pid, number)
        eventually("no more is accepted", lambda: is_refused(running.url))
        assert len(wire.rest()) > 32 * MIB - 1000
        assert running.process.wait(ENDS_S) == 0
        assert not running.heard("did not end in time")


def is_refused(url: str) -> bool:
    try:
        Wire(url).socket.close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    return False


def test_a_second_signal_ends_at_once(large: Path) -> None:
    with (
        command(large, "--workers", "2", *QUIET, "--drain-timeout", "600") as running,
        begin_large(running.url) as wire,
    ):
        running.process.send_signal(signal.SIGTERM)
        eventually("no more is accepted", lambda: is_refused(running.url))
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(ENDS_S) == 0
        with pytest.raises(ConnectionResetError):
            wire.rest()


def test_a_drain_has_a_deadline(large: Path) -> None:
    with (
        command(large, "--workers", "2", *QUIET, "--drain-timeout", "0.2") as running,
        begin_large(running.url) as wire,
    ):
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(ENDS_S) == 0
        with pytest.raises(ConnectionResetError):
            wire.rest()


def test_a_server_that_cannot_start_ends_with_its_status(page: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        running = Running(page, "--host", "127.0.0.1", "--port", str(taken.getsockname()[1]), "--workers", "2")
        assert running.end() == 2
        assert running.heard("the port is in use") == 1


def test_workers_that_cannot_start_end_the_server_with_their_status_and_reason(page: Path) -> None:
    running = Running(page, "--port", "0", "--workers", "2", "--log-file", "missing/access.log")
    assert running.end() == 2
    assert running.heard("cannot open the access log 'missing/access.log'")
    assert not running.heard("Traceback")


def test_a_second_server_on_the_same_port_is_told_so_although_workers_share_it(page: Path) -> None:
    with command(page, "--workers", "2", *QUIET) as running:
        port = running.url.rstrip("/").rpartition(":")[2]
        second = Running(page, "--host", "127.0.0.1", "--port", port, "--workers", "2")
        assert second.end() == 2
        assert second.heard("the port is in use") == 1


def test_workers_end_when_their_supervisor_is_killed_also_new_and_retiring_ones(page: Path) -> None:
    with command(page, "--workers", "2", *QUIET, "--drain-timeout", "1") as running, Wire(running.url) as wire:
        wire.ask(get("/page"))  # its worker stays for as long as it may ask again
        first = running.workers
        running.reload()
        workers = first | running.workers
        assert len(workers) > 2
        running.process.kill()
        running.process.wait()
        eventually("the workers have ended", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_a_stopped_worker_ends_as_well_when_the_supervisor_is_killed_and_keeps_no_port(page: Path) -> None:
    running = Running(page, "--host", "127.0.0.1", "--port", str(free_port()), "--workers", "2", *QUIET)
    port = running.url.rstrip("/").rpartition(":")[2]
    workers = running.workers
    stop_process(min(workers))
    running.end(signal.SIGKILL)
    eventually("the workers have ended", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    again = Running(page, "--host", "127.0.0.1", "--port", port, *QUIET)
    assert again.heard("Ctrl-C")
    assert again.end() == 0


def test_a_worker_that_is_continued_while_it_has_a_supervisor_goes_on(page: Path) -> None:
    with command(page, "--workers", "1", *QUIET) as running, Wire(running.url) as wire:
        (worker,) = running.workers
        stop_process(worker)
        os.kill(worker, signal.SIGCONT)
        assert wire.ask(get("/page")).fields.get("connection") is None
        assert running.workers == {worker}


# -- a worker whose loop does not turn ------------------------------------------------------------------------------


def answers(running: Running, count: int = 40) -> None:
    """As many clients at once are answered, however late."""
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(running.url)) for _client in range(count)]
        for wire in wires:
            wire.send(get("/page"))
        for wire in wires:
            assert wire.answer().body == BODY


def test_a_stopped_worker_is_said_killed_and_replaced_and_no_client_that_waits_for_it_is_lost(page: Path) -> None:
    with command(page, "--workers", "2", *QUIET, "--worker-timeout", "4") as running:
        victim, other = sorted(running.workers)
        stop_process(victim)
        answers(running)
        silent = f"worker 0 (pid {victim}) has not turned its loop for"
        eventually("it is buried", lambda: running.heard(f"worker 0 (pid {victim}) was ended by SIGKILL"))
        assert running.heard(f"{silent} 3 s\n") == 1
        assert running.heard(f"{silent} 4 s; it is killed; another is started at once") == 1
        eventually("another is there", lambda: len(running.workers) == 2)
        assert other in running.workers
        assert running.end() == 0


@pytest.mark.parametrize("which", [0, 1])
def test_a_stopped_worker_does_not_keep_others_from_a_socket_that_they_share(page: Path, which: int) -> None:
    running = Running(page, "--unix", str(page / "socket"), "--workers", "2", *QUIET, "--worker-timeout", "0")
    try:
        victim = sorted(running.workers)[which]
        stop_process(victim)
        answers(running)
        assert victim in running.workers
        os.kill(victim, signal.SIGCONT)
        assert running.end() == 0
    finally:
        running.end()


def test_nobody_is_killed_when_all_were_stopped_for_longer_than_a_worker_may(page: Path, tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
        with command(page, "--workers", "2", *QUIET, "--worker-timeout", "3", environment=environment) as running:
            workers = running.workers
            stopped = (running.process.pid, *workers)
            for pid in stopped:
                stop_process(pid)
            with pytest.raises(subprocess.TimeoutExpired):
                running.process.wait(3.5)  # more than the time of three looks
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
            beats = manager.count("WATCHDOG=1")
            eventually("it has looked again", manager.hears("WATCHDOG=1", beats + 10))
            assert not running.heard("has not turned its loop")
            assert running.workers == workers
            assert running.end() == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--worker-timeout", "0", "--drain-timeout", "0"), "does not end"),
        (("--worker-timeout", "3", "--drain-timeout", "60"), "has not turned its loop for 3 s"),
    ],
)
def test_a_worker_of_the_old_generation_that_hangs_is_killed(page: Path, arguments: tuple[str, ...], why: str) -> None:
    with command(page, "--workers", "2", *QUIET, *arguments) as running:
        victim = min(running.workers)
        stop_process(victim)
        running.reload()
        answers(running)
        eventually("it is killed", lambda: running.heard(f"worker 0 (pid {victim}) was ended by SIGKILL"))
        assert running.heard(f"worker 0 (pid {victim}) {why}; it is killed\n") == 1
        assert len(running.workers) == 2
        assert running.end() == 0


def test_a_stopped_worker_is_killed_in_a_stop_too_which_says_so_by_its_status(page: Path) -> None:
    with command(page, "--workers", "2", *QUIET, "--worker-timeout", "3", "--drain-timeout", "60") as running:
        victim = min(running.workers)
        stop_process(victim)
        assert running.end() == 70
        assert running.heard(f"worker 0 (pid {victim}) has not turned its loop for 3 s; it is killed\n") == 1


def test_neither_its_successor_nor_a_stop_waits_for_a_worker_that_cannot_be_killed(page: Path, tmp_path: Path) -> None:
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
        arguments = ("--workers", "2", *QUIET, "--worker-timeout", "3")
        with command(page, *arguments, environment=environment, program=SEEING_NONE_KILLED) as running:
            victim, other = sorted(running.workers)
            stop_process(victim)
            answers(running)
            assert len(running.workers - {victim}) == 2
            beats = manager.count("WATCHDOG=1")
            eventually("the watchdog does not wait for it either", manager.hears("WATCHDOG=1", beats + 5))
            assert not running.heard("was ended")
            assert running.end() == 70
            assert running.heard(f"worker 0 (pid {victim}) is stuck in the kernel; it ends by itself when") == 1
            assert not running.heard(f"(pid {other})")


# -- other sockets --------------------------------------------------------------------------------------------------


def test_workers_share_a_unix_socket_through_reload_drain_and_a_killed_one(page: Path) -> None:
    path = page / "socket"
    url = f"unix:{path}"
    running = Running(page, "--unix", str(path), "--workers", "2", *QUIET, "--drain-timeout", "2")
    try:
        assert running.url == url
        with Askers(url) as askers:
            askers.more()
            running.reload()
            askers.more()
        assert (askers.failures, askers.refused) == ([], 0)
        eventually("those before the reload have ended", lambda: len(running.workers) == 2)
        victim = min(running.workers)
        stop_process(victim)
        with ExitStack() as stack:
            # Of these some wake the one that is stopped, and it takes them along when it dies, if nobody looks anew.
            wires = [stack.enter_context(Wire(url)) for _client in range(20)]
            for wire in wires:
                wire.send(get("/page"))
            os.kill(victim, signal.SIGKILL)
            for wire in wires:
                assert wire.answer().body == BODY
        # Who dies while the server stops is not what it should be, and shows in the status: this one died before.
        eventually("it is buried", lambda: not Path(f"/proc/{victim}").exists())
        assert running.end() == 0
        assert not path.exists()
    finally:
        running.end()


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield listener


@pytest.mark.parametrize("count", [1, 2])
def test_workers_share_the_sockets_of_the_service_manager_which_outlive_them(
    page: Path, inherited: socket.socket, count: int
) -> None:
    arguments = ("--workers", str(count), *QUIET, "--drain-timeout", "2")
    url = f"http://127.0.0.1:{inherited.getsockname()[1]}/"
    with Askers(url) as askers:  # they wait until there is somebody, and while there is nobody
        for _life in range(2):
            running = Running(page, *arguments, inherits=inherited.fileno())
            try:
                assert running.url == url
                askers.more()
                running.reload()
                askers.more()
                assert len(running.workers) >= count
                os.kill(min(running.workers), signal.SIGTERM)
                askers.more()
            finally:
                assert running.end() == 0
        last = Running(page, *arguments, inherits=inherited.fileno())
        try:
            askers.more()
        finally:
            askers.__exit__()
            last.end()
    assert (askers.failures, askers.refused) == ([], 0)


# -- the service manager --------------------------------------------------------------------------------------------


class Manager:
    """Hears what a service manager would, always: a supervisor waits for one that does not take what it says."""

    def __init__(self, directory: Path) -> None:
        self.address = str(directory / "notify")
        self.heard: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self) -> Manager:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self.address)
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while message := self._socket.recv(4096):
            self.heard.append(message.decode())

    def count(self, word: str) -> int:
        return sum(word in message.split("\n") for message in self.heard)

    def hears(self, word: str, times: int = 1) -> Callable[[], bool]:
        return lambda: self.count(word) >= times


def test_the_service_manager_is_told_of_readiness_reload_watchdog_and_stop(page: Path, tmp_path: Path) -> None:
    configuration = page / "ringserve.toml"
    with Manager(tmp_path) as manager:
        environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "400000"}
        with command(page, "--workers", "2", *QUIET, environment=environment) as running:
            eventually("it is ready", manager.hears("READY=1"))
            assert not any("READY=1" in message for message in manager.heard[:-1] if "WATCHDOG=1" in message)
            configuration.write_text("werkers = 2\n")
            running.process.send_signal(signal.SIGHUP)
            # Also for a bad configuration: `systemctl reload` waits for both.
            eventually("it is ready again", manager.hears("READY=1", 2))
            assert manager.hears("RELOADING=1")()
            assert any("STATUS=Not reloaded: " in message for message in manager.heard)
            configuration.unlink()
            running.reload()
            eventually("it is ready a third time", manager.hears("READY=1", 3))
            assert manager.hears("RELOADING=1", 2)()
            beats = manager.count("WATCHDOG=1")
            eventually("it is alive", manager.hears("WATCHDOG=1", beats + 3))
            # A worker whose loop hangs keeps the watchdog from being told.
            victim = max(running.workers)
            os.kill(victim, signal.SIGSTOP)
            eventually("it is said", lambda: running.heard(f"(pid {victim}) has not turned its loop"))
            beats = manager.count("WATCHDOG=1")
            with pytest.raises(subprocess.TimeoutExpired):
                running.process.wait(1)  # more than two beats' time
            assert manager.count("WATCHDOG=1") == beats
            os.kill(victim, signal.SIGCONT)
            eventually("it is alive again", manager.hears("WATCHDOG=1", beats + 1))
            assert running.end() == 0
        assert manager.hears("STOPPING=1")()


def test_workers_are_pinned_in_turn_to_the_processors_that_they_may_use(page: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    with command(page, "--workers", "2", "--pin-workers", *QUIET) as running:
        pinned = [os.sched_getaffinity(pid) for pid in sorted(running.workers)]
        assert sorted(map(sorted, pinned)) == sorted([cpus] for cpus in (allowed * 2)[:2])
        assert os.sched_getaffinity(running.process.pid) == set(allowed)
