"""A worker without a supervisor: started by exec, with its settings and descriptors by a channel."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from supervised import ENDS_S, stop_process
from wire import Wire, eventually, get

from ringserve.config.rules import HeaderRule
from ringserve.config.settings import Config
from ringserve.processes.channel import Channel, ChannelEndedError
from ringserve.processes.messages import FILE, Kind, Message
from ringserve.processes.supervisor import describe_exit
from ringserve.ring.linux.listeners import Listener, close_listener, listen_tcp

WORKER = """
import pickle, sys
from ringserve.processes.channel import Channel
from ringserve.processes.worker import run_worker
sys.exit(run_worker(Channel(int(sys.argv[1])), pickle.load(sys.stdin.buffer)))
"""


class Worker:
    """One that was started by exec, and what a supervisor would see of it."""

    def __init__(self, config: Config, listener: Listener, log: int, slot: str) -> None:
        self.channel, theirs = Channel.pair()
        os.set_inheritable(theirs.fd, True)
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(theirs.fd)],
            pass_fds=(theirs.fd,), stdout=subprocess.DEVNULL, stdin=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdin is not None
        with self.process.stdin:
            pickle.dump(config, self.process.stdin)
        theirs.close()
        self.channel.send(Message(Kind.LISTEN, f"0 {listener.url}", listener.fd))
        self.channel.send(Message(Kind.LOG, FILE, log))
        self.channel.send(Message(Kind.START, slot))

    def hears(self, kind: Kind) -> str:
        """Wait until it says something other than that it lives, which has to be this. Returns the text."""
        while (message := self.channel.wait()).kind is Kind.ALIVE:
            pass
        assert message.kind is kind
        return message.text


@pytest.fixture
def listener() -> Iterator[Listener]:
    (made,) = listen_tcp("127.0.0.1", 0)
    yield made
    close_listener(made)


@contextmanager
def started(config: Config, listener: Listener, log: Path, slot: str = "0") -> Iterator[Worker]:
    with log.open("ab") as sink:
        worker = Worker(config, listener, sink.fileno(), slot)
    try:
        yield worker
    finally:
        worker.channel.close()
        try:
            worker.process.wait(ENDS_S)
        finally:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()


@pytest.mark.usefixtures("io_uring")
def test_a_worker_that_was_started_by_exec_serves_logs_and_does_what_it_is_told(
    site: Path, tmp_path: Path, listener: Listener
) -> None:
    (site / "page").write_bytes(b"page")
    rule = HeaderRule(paths=("/page",), fields=(("X-Rule", "yes"),))
    config = Config(directory=str(site), log_format="common", headers=(rule,), drain_timeout_s=60)
    with started(config, listener, tmp_path / "log") as worker:
        worker.hears(Kind.SERVES)
        with Wire(listener.url) as wire:
            assert wire.ask(get("/page")).fields["x-rule"] == "yes"
            eventually("it is logged", lambda: b"GET /page" in (tmp_path / "log").read_bytes())
            with (tmp_path / "other").open("ab") as other:
                worker.channel.send(Message(Kind.LOG, FILE, other.fileno()))
            worker.channel.send(Message(Kind.RETIRE))
            worker.hears(Kind.ACCEPTS_NO_MORE)
            assert wire.ask(get("/page?more")).fields["connection"] == "close"
        assert worker.process.wait(ENDS_S) == 0
        with pytest.raises(ChannelEndedError):
            worker.hears(Kind.FAILED)
    assert b"GET /page?more" in (tmp_path / "other").read_bytes()


@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("stopped", [False, True])
def test_a_worker_drains_when_its_supervisor_dies(
    site: Path, tmp_path: Path, listener: Listener, stopped: bool
) -> None:
    with started(Config(directory=str(site), drain_timeout_s=60), listener, tmp_path / "log") as worker:
        worker.hears(Kind.SERVES)
        with Wire(listener.url) as idle:
            assert idle.ask(get("/")).status in (200, 404)
            if stopped:
                stop_process(worker.process.pid)
            worker.channel.close()
            if stopped:
                os.kill(worker.process.pid, signal.SIGCONT)  # the kernel does that for a parent
            assert idle.at_end()
        assert worker.process.wait(ENDS_S) == 0


@pytest.mark.usefixtures("io_uring")
def test_a_worker_cuts_off_what_is_left_when_it_is_told_to(site: Path, tmp_path: Path, listener: Listener) -> None:
    (site / "large").write_bytes(bytes(16 * 1024 * 1024))
    with started(Config(directory=str(site), drain_timeout_s=600), listener, tmp_path / "log") as worker:
        worker.hears(Kind.SERVES)
        with Wire(listener.url, receive_bytes=65536) as wire:
            wire.send(get("/large"))
            assert wire.socket.recv(1000, socket.MSG_WAITALL).startswith(b"HTTP/1.1 200")
            for order in (Kind.DRAIN, Kind.ABORT):
                worker.channel.send(Message(order))
            assert worker.process.wait(ENDS_S) == 0
            with pytest.raises(ConnectionResetError):
                wire.rest()


def test_a_worker_that_cannot_start_says_why_and_ends_with_a_status(tmp_path: Path, listener: Listener) -> None:
    with started(Config(directory=str(tmp_path / "missing")), listener, tmp_path / "log") as worker:
        said = worker.hears(Kind.FAILED)
        assert said.startswith("ringserve: there is no directory")
        assert said.count("\n") == 1
        assert worker.process.wait(ENDS_S) == 2


def test_a_fault_of_ours_is_said_with_its_traceback(tmp_path: Path, listener: Listener) -> None:
    with started(Config(), listener, tmp_path / "log", slot="none") as worker:
        said = worker.hears(Kind.FAILED)
        assert said.startswith("ringserve: a fault of ringserve; please report it\nTraceback")
        assert "ValueError" in said
        assert worker.process.wait(ENDS_S) == 70


COLLECTS = """
import gc
from ringserve.processes.worker import shorten_collections
shorten_collections()
old = [[] for _number in range(1000)]
gc.collect()
assert gc.get_freeze_count() >= 1000
circle = []
circle.append(circle)
del circle
assert gc.collect() > 0, "what is new and garbage is found"
"""


def test_a_collection_does_not_look_at_what_outlived_an_earlier_one() -> None:
    subprocess.run([sys.executable, "-c", COLLECTS], check=True)  # in a process of its own: nothing undoes it


def test_how_a_process_ended_is_said_in_words() -> None:
    assert describe_exit(3) == "ended with status 3"
    assert describe_exit(-9) == "was ended by SIGKILL"
    assert describe_exit(-64 - errno.EPERM).startswith("was ended by signal")
