"""A worker: one process with one thread and one ring. It knows a channel, and nothing of its supervisor.

A worker is a fork of its supervisor that has closed all descriptors except the standard ones and its channel
(`fork_worker`), or a program of its own that was given a channel (`run_worker`). It has its settings. What else it
needs comes by the channel (`messages.py`). At each whole second of the monotonic clock it says there that its loop
turns.

Signals are for the supervisor. A worker ignores SIGINT, which a terminal sends to all, and SIGHUP, SIGUSR1 and SIGUSR2.
SIGTERM, which a service manager may send to all, lets it retire, however often it comes; it is blocked, and looked for
once a second. When the supervisor dies, the worker gets SIGCONT, which wakes it if it was stopped; then it finds the
channel closed and drains, so that none is left behind.
"""

from __future__ import annotations

import ctypes
import gc
import math
import os
import signal
import time
from contextlib import suppress
from typing import NamedTuple, NoReturn

from ringserve.config.settings import Config
from ringserve.observe.access_log import Sink
from ringserve.processes.channel import Channel, ChannelEndedError
from ringserve.processes.cpus import available_cpus
from ringserve.processes.machine import BEAT_S, BROKEN, USER_ERROR
from ringserve.processes.messages import FILE, Kind, Message
from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.linux.listeners import Listener, begin_listening, highest_descriptor
from ringserve.ring.stderr import STDERR_FD
from ringserve.ring.tasks import Task
from ringserve.ring.world import RingBrokenError, RingRefusedError
from ringserve.server import Command, Server, ServerEndedError, StartError

PR_SET_PDEATHSIG = 1  # prctl(2)
IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
HANDLED = frozenset((signal.SIGTERM, signal.SIGCHLD, *IGNORED))
"""All that a supervisor handles. Blocked around a fork, since the child has them until it gives them up."""
OLDEST_GENERATION = 2
COMMANDS = {Kind.RETIRE: Command.RETIRE, Kind.DRAIN: Command.DRAIN, Kind.ABORT: Command.ABORT}


class Assignment(NamedTuple):
    """What a worker is given."""

    config: Config
    slot: int
    listeners: list[Listener]
    log: Sink | None


def fork_worker(config: Config) -> tuple[int, Channel]:
    """Start a worker. Returns its pid and the supervisor's end of the channel, by which the worker is to hear the rest
    of its assignment. Raises OSError.
    """
    ours, theirs = Channel.pair()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        pid = os.fork()
        if pid == 0:
            _become_worker(theirs, config)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
    return pid, ours


def _become_worker(channel: Channel, config: Config) -> NoReturn:
    """Leave the supervisor behind: its descriptors by closing them, and its stack by never going back to it."""
    status = BROKEN
    try:
        last = highest_descriptor()
        os.closerange(STDERR_FD + 1, channel.fd)
        os.closerange(channel.fd + 1, last + 1)
        shorten_collections()
        status = run_worker(channel, config)
    finally:
        os._exit(status)


def shorten_collections() -> None:
    """Have the garbage collector look only at what is new. A full collection goes through all that is remembered of
    files, and stops the loop for a quarter of a second where there are 50,000. What is there when one ends is left out
    of the next. It goes when nothing refers to it, since what lasts here is not in circles; connections see to that.
    """

    def leave_out(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == OLDEST_GENERATION:
            gc.freeze()

    gc.callbacks.append(leave_out)


def run_worker(channel: Channel, config: Config) -> int:
    """The life of a worker, in its process. Returns its exit status."""
    _give_signals_up()
    diagnostics = Diagnostics()
    try:
        _serve(channel, _await_assignment(channel, config), diagnostics)
        return 0
    except ChannelEndedError:
        return 0  # the supervisor died before there was anything to do
    except (StartError, RingRefusedError) as error:
        status = USER_ERROR
        diagnostics.report(time.monotonic(), "{}", error)
    except RingBrokenError as error:
        status = BROKEN
        diagnostics.report(time.monotonic(), "{}", error)
    except BaseException as fault:
        status = BROKEN
        diagnostics.report_fault(time.monotonic(), fault)
    # By the channel, since there is no ring to write them by, and the supervisor waits for nobody who does not read.
    while lines := diagnostics.take(math.inf):
        channel.send(Message(Kind.FAILED, lines.decode()))
    return status


def _give_signals_up() -> None:
    signal.set_wakeup_fd(-1)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGCONT)


def _await_assignment(channel: Channel, config: Config) -> Assignment:
    listeners: list[Listener] = []
    log = None
    while True:
        kind, text, fd = channel.wait()
        if kind is Kind.LISTEN:
            rule, url = text.split(" ", 1)
            listeners.append(Listener(fd, url, None, int(rule)))  # a unix socket's file is the supervisor's to remove
        elif kind is Kind.LOG:
            log = Sink(fd, text == FILE)
        else:
            assert kind is Kind.START, "nothing else comes before it"
            return Assignment(config, int(text), listeners, log)


def pin(slot: int) -> None:
    """Keep this process on one of the processors that it may use, by turns. The threads that the kernel
    makes for its ring go where they like.
    """
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[slot % len(cpus)]})


def _serve(channel: Channel, given: Assignment, diagnostics: Diagnostics) -> None:
    processes = given.config.worker_count(available_cpus())  # before there is but one
    if given.config.pin_workers:
        pin(given.slot)
    server = Server(
        given.config, listeners=given.listeners, processes=processes, log=given.log, diagnostics=diagnostics
    )
    if given.slot:
        server.shortage = None  # said once, since all have the same limit

    def beat() -> float:
        if channel.flush():
            channel.send(Message(Kind.ALIVE))
        # For a connection to a socket that several wait at, the kernel wakes one of them. That one may be stopped, or
        # may just have stopped to accept, and then nobody would take the connection before the next one comes.
        server.post(Command.RENEW)
        if signal.SIGTERM in signal.sigpending():
            server.post(Command.RETIRE)
        return (server.tasks.ring.now // BEAT_S + 1) * BEAT_S

    def started() -> None:
        # Before the accepts that are queued already reach the kernel, which refuses them of a socket that does not.
        for listener in given.listeners:
            begin_listening(listener)
        server.attend(lambda task: _listen_to(channel, server, task))
        server.tasks.call_at(server.tasks.ring.now, beat)
        channel.send(Message(Kind.SERVES))

    server.run(started, lambda: channel.send(Message(Kind.ACCEPTS_NO_MORE)))
    if hanging := server.tasks.ring.hanging():
        channel.send(Message(Kind.HANGS, ", ".join(hanging)))


async def _listen_to(channel: Channel, server: Server, task: Task) -> None:
    """Do what the supervisor says, to the end of the server."""
    with suppress(ServerEndedError):
        while True:
            await task.arrival(channel.fd)
            try:
                # One in a turn, so that a log that was sent often meanwhile takes one descriptor at a time.
                message = channel.receive()
                if message is not None:
                    _obey(message, server)
            except ChannelEndedError:
                server.post(Command.DRAIN)
                return


def _obey(message: Message, server: Server) -> None:
    if message.kind is not Kind.LOG:
        server.post(COMMANDS[message.kind])
    elif message.fd >= 0:
        server.post(Sink(message.fd, message.text == FILE))
    else:
        server.tasks.report("cannot take the reopened access log: no descriptor is free; send SIGUSR1 again")
