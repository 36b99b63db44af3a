"""A worker: one process with one thread and one ring, as its supervisor sees it and from the inside.

What goes between the two: signals to the worker (`RETIRED`, `RENEW`, SIGTERM, SIGUSR1), and bytes from it, through a
pipe of its own. When the supervisor dies, it gets SIGCONT, which wakes it if it was stopped; then it drains, so that
none is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NamedTuple

from ringserve.config.settings import Config
from ringserve.processes.vitals import BEAT_S, Vitals
from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.linux.listeners import Listener, begin_listening
from ringserve.ring.stderr import ThreadWriter
from ringserve.ring.world import RingBrokenError, RingRefusedError
from ringserve.server import Server, StartError

USER_ERROR = 2
BROKEN = 70
"""EX_SOFTWARE of sysexits.h: the ring broke under a running server, or there is a fault of ours."""
RETIRED = signal.SIGUSR2
"""From the supervisor to a worker: see `Server.retire`."""
RENEW = signal.SIGHUP
"""See `Server.renew_accepts`."""
ABORTED = signal.SIGRTMIN
"""Cut off what is left. SIGTERM only drains, however often it comes: a service manager may send it to all processes of
a service, beside what the supervisor does."""
SERVES = b"+"
ACCEPTS_NO_MORE = b"-"
TURNS = b"."
"""What a worker says: the last one at intervals, since its loop turns."""
PR_SET_PDEATHSIG = 1  # prctl(2)

EARLY = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCONT, RETIRED, RENEW, ABORTED}
"""Blocked between the fork and the time at which the worker heeds them. What comes earlier would go to handlers that
are the supervisor's, and be lost; so it waits."""


class Place(NamedTuple):
    """What a worker is given. parent: the supervisor's pid."""

    slot: int
    listeners: list[Listener]
    parent: int


class Worker(Vitals):
    """One process. voice: the pipe that it speaks through, or -1 when it has said all."""

    def __init__(self, pid: int, slot: int, generation: int, voice: int, started: float, config: Config) -> None:
        super().__init__(config.worker_timeout_s, config.drain_timeout_s)
        self.pid = pid
        self.slot = slot
        self.generation = generation
        self.voice = voice
        self.started = started
        self.accepts_no_more = False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended meanwhile is waited for soon. Nothing reaches one that was killed."""
        if not self.killed:
            os.kill(self.pid, number)

    def close_voice(self) -> None:
        """It has said all."""
        if self.voice >= 0:
            os.close(self.voice)
        self.voice = -1

    def kill(self) -> None:
        """End it, and do not rely on it: a process that waits in the kernel ends when it has what it waits for."""
        self.signal(signal.SIGKILL)
        self.was_killed()

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"


def how(code: int) -> str:
    """How a process ended, by its exit code as `os.waitstatus_to_exitcode` gives it."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


def live(config: Config, place: Place, mouth: int, leave: Callable[[], None]) -> int:
    """The life of a worker, in its process, with `EARLY` blocked. Returns its exit status.

    mouth: its pipe's end. leave: gives up what is its parent's.
    """
    diagnostics, status = Diagnostics(), BROKEN
    # For what a server cannot write, since it has no ring yet or no more.
    last_words = ThreadWriter(diagnostics)
    try:
        leave()
        _live(config, place, mouth, diagnostics)
        return 0
    except (StartError, RingRefusedError) as error:
        last_words.report("{}", error)
        status = USER_ERROR
    except RingBrokenError as error:
        last_words.report("{}", error)
    except BaseException as fault:
        last_words.report_fault(fault)
    last_words.close()
    return status


def _live(config: Config, place: Place, mouth: int, diagnostics: Diagnostics) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGCONT)
    if os.getppid() != place.parent:
        return  # it died before that was asked for
    # Nobody who is slow to listen may hold up the loop.
    os.set_blocking(mouth, False)
    if config.pin_workers:
        pin(place.slot)
    _serve(config, place, mouth, diagnostics)


def pin(slot: int) -> None:
    """Keep this process on one of the processors that it may use, by turns. The threads that the kernel
    makes for its ring go where they like.
    """
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[slot % len(cpus)]})


def _serve(config: Config, place: Place, mouth: int, diagnostics: Diagnostics) -> None:
    server = Server(config, listeners=place.listeners, diagnostics=diagnostics)
    if place.slot:
        server.shortage = None  # said once, since all have the same limit

    def say(word: bytes) -> None:
        # EPIPE: the supervisor is gone, and SIGCONT on its way. EAGAIN: it has enough to read as it is.
        with contextlib.suppress(BrokenPipeError, BlockingIOError):
            os.write(mouth, word)

    def beat() -> float:
        say(TURNS)
        return (server.tasks.ring.now // BEAT_S + 1) * BEAT_S

    def drain(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second `stop` would cut off what is in flight
        server.stop()

    def go_on(_number: int, _frame: FrameType | None) -> None:
        if os.getppid() != place.parent:
            signal.raise_signal(signal.SIGTERM)  # which only drains, however often it comes

    def abort(_number: int, _frame: FrameType | None) -> None:
        server.stop()
        server.stop()

    def started() -> None:
        server.heed_signals()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the supervisor tells us
        signal.signal(signal.SIGTERM, drain)
        signal.signal(signal.SIGCONT, go_on)
        signal.signal(ABORTED, abort)
        # Before the accepts that are queued already reach the kernel, which refuses them of a socket that does not.
        for listener in place.listeners:
            begin_listening(listener)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY)
        server.tasks.call_at(server.tasks.ring.now, beat)
        say(SERVES)

    server.accepted_last = lambda: say(ACCEPTS_NO_MORE)
    server.run(started)
