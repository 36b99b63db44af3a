"""Processes: a supervisor, which owns the sockets, and its workers, each with one thread, one ring and one core.

Theory of operation. Every worker *slot* has listening sockets of its own, one for each address, bound to the same port
by SO_REUSEPORT, so that the kernel spreads connections over the slots. A slot's sockets belong to the supervisor and
outlive its workers: what waits in a socket's accept queue when a worker dies, or is replaced, is accepted by the next
one. A listening socket that is closed would reset those connections, so none is closed while it is wanted; when there
are fewer slots than before, the sockets of the missing ones go to those that are left.

A reload reads the configuration anew. If it is good, workers of the new *generation* are started beside the old ones,
on the same sockets; when all of them serve, the old ones retire: they accept no more, answer what they are asked with
`Connection: close`, and end. (Then the new ones look at their sockets anew: see `Supervisor._renew_accepts`.) If the
new configuration is bad, or a new worker does not come up, nothing changes.

To stop, no more clients are let in: the supervisor has the kernel drop their SYNs, and closes its descriptors. What is
on the way has a moment to arrive; then the workers retire, as in a reload. Each takes what is in its queue, which
nobody can join any more, and closes the last descriptor of it. After another moment they drain. So it is with the
sockets of an address that a reload gives up.

The supervisor has no ring and no part in the data's way. It sleeps until a signal, a word of a worker, or a time that
is due. How it talks to a worker is in `worker.py`; when it kills one is in `vitals.py`. It never waits for one that it
killed: the successor is started when the signal is sent, since it accepts from the same sockets.

Invariants
 1. A socket stays open as long as the configuration in force names its address, and no worker closes the last
    descriptor of one that still has clients in its queue.
 2. The old generation retires only after every worker of the new one has said that it serves.
 3. Whatever dies is said in one line, with how.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

from ringserve.config.settings import Config
from ringserve.processes.cpus import available_cpus
from ringserve.processes.notify import Notifier
from ringserve.processes.sockets import Sockets
from ringserve.processes.vitals import READY_LOOKS, Finding, next_look
from ringserve.processes.worker import (
    ABORTED,
    ACCEPTS_NO_MORE,
    BROKEN,
    EARLY,
    RENEW,
    RETIRED,
    SERVES,
    USER_ERROR,
    Place,
    Worker,
    how,
    live,
)
from ringserve.ring.linux.listeners import ListenError, append_always, raise_descriptor_limit
from ringserve.ring.stderr import STDERR_FD, ThreadWriter

STDOUT_FD = 1
BACK_OFF_FIRST_S = 0.1
BACK_OFF_LAST_S = 10.0
"""Between the deaths of a worker and its successor, from the second in a row on: doubled each time, so that one that
cannot live costs little."""
SETTLED_S = 10.0
"""Who lived this long has not died in a row."""
HANDSHAKES_S = 0.1
"""Between the last SYN that is let in and the last look at the queue: for the handshake that the SYN began."""
GRACE_S = 0.25
"""When the server stops and nobody accepts any more, for which idle connections may ask once more: a request that
crosses the closing of its connection would fail. Longer than a round trip, and shorter than who pressed Ctrl-C notices.
"""
NOTIFY_AGAIN_S = 0.1
"""To a service manager that had no room for a message."""


class Due(NamedTuple):
    """A worker that is to be started again."""

    when: float
    slot: int


class NotLoadedError(Exception):
    """The new configuration is bad; the message is one line that says why."""


class Supervisor:
    """See the module.

    load: the configuration in force from now on; raises NotLoadedError.
    """

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        """Listens. Raises ListenError."""
        for fd in (STDOUT_FD, STDERR_FD):
            append_always(fd)
        self.stderr = ThreadWriter()
        raise_descriptor_limit()
        self.config = config
        self._load = load
        self._slots = config.worker_count(available_cpus())
        self._notifier = Notifier(dict(os.environ), self.stderr.report)
        self._sockets = Sockets(os.environ)
        self._sockets.prepare(config, self._slots)
        self._workers: dict[int, Worker] = {}
        self._due: list[Due] = []
        self._deaths: dict[int, int] = {}
        self._generation = 0
        self._next: Config | None = None
        self._next_slots = 0
        self._signals: list[int] = []
        self._reload_again = False
        self._stopping = False
        self._retire_at = self._drain_at = 0.0
        self._look_at = next_look(time.monotonic())
        self._watchdog_at = time.monotonic() + self._notifier.interval_s
        self._announced = False
        self._status = 0

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server."""
        return self._sockets.urls

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal says to stop. Returns the exit status. In the main thread. `started` is called when all
        workers serve for the first time.
        """
        read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, lambda number, _frame: self._signals.append(number))
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)
        }
        # What exists by now is shared by all, and stays to the end: no collection has to look at it, or copies it.
        gc.collect()
        gc.freeze()
        try:
            self._start_generation(self.config, self._slots)
            while self._workers or self._due:
                self._sleep(read_fd)
                self._bury()  # before a signal to stop is heeded: who died before it did not die of it
                self._heed_signals()
                self._restart_due()
                self._look()
                self._look_at_generation(started)
                self._end_what_stays()
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(read_fd)
            os.close(write_fd)
            self._sockets.close()
            self.stderr.close()
        return self._status

    def _sleep(self, wake_fd: int) -> None:
        """Until a signal, a word of a worker, or a time that is due."""
        now = time.monotonic()
        times = [due.when for due in self._due] if self._next is None else []
        times += [when for when in (self._retire_at, self._drain_at, self._look_at, self._watchdog_at) if when]
        if not self._notifier.flush():
            times.append(now + NOTIFY_AGAIN_S)
        # Not select(2), which knows no descriptor above 1023: there may be hundreds of workers.
        poll = select.poll()
        poll.register(wake_fd, select.POLLIN)
        voices = {worker.voice: worker for worker in self._workers.values() if worker.voice >= 0}
        for voice in voices:
            poll.register(voice, select.POLLIN)
        for fd, _events in poll.poll(max(0.0, min(times) - now) * 1000):
            if fd == wake_fd:
                os.read(wake_fd, 4096)
            else:
                self._listen_to(voices[fd])

    def _renew_accepts(self) -> None:
        """A worker accepts no more. The wake-up for a connection goes to one of those who wait at a socket; one that
        went to it in its last moment is lost, and the connection would wait for the next one to come.
        """
        for worker in self._workers.values():
            if worker.serves and not worker.retiring:
                worker.signal(RENEW)

    def _listen_to(self, worker: Worker) -> None:
        """Take what a worker says."""
        said = os.read(worker.voice, 4096)
        worker.hear(SERVES in said)
        if not said:
            worker.close_voice()
        if ACCEPTS_NO_MORE in said:
            worker.accepts_no_more = True
            self._renew_accepts()

    def _heed_signals(self) -> None:
        signals, self._signals = self._signals, []
        for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
            elif number == signal.SIGHUP:
                self._reload()
            elif number == signal.SIGUSR1:
                for worker in self._workers.values():
                    worker.signal(signal.SIGUSR1)

    # -- stopping -----------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Retire, and drain after a moment; a second time: end at once."""
        if self._stopping:
            self._retire_at = self._drain_at = 0.0
            for worker in self._workers.values():
                worker.hurry()
                worker.signal(ABORTED)
            return
        self._notifier.tell("STOPPING=1")
        self._stopping = True
        self._next = None
        self._due.clear()
        # The workers have the last descriptors now; what a dead one's successor would have accepted is lost.
        self._sockets.close()
        for worker in self._workers.values():
            worker.retire()
        self._retire_at = time.monotonic() + HANDSHAKES_S

    def _end_what_stays(self) -> None:
        """Go on with retiring and stopping when it is time to."""
        now = time.monotonic()
        if self._retire_at and now >= self._retire_at:
            self._retire_at = 0.0
            for worker in self._workers.values():
                if worker.retiring:
                    worker.signal(RETIRED)  # a second time says nothing new
            self._drain_at = math.inf if self._stopping else 0.0
        if self._drain_at == math.inf and all(each.accepts_no_more or each.killed for each in self._workers.values()):
            self._drain_at = now + GRACE_S
        if self._drain_at and now >= self._drain_at:
            self._drain_at = 0.0
            for worker in self._workers.values():
                worker.signal(signal.SIGTERM)

    # -- generations --------------------------------------------------------------------------------------------

    def _start_generation(self, config: Config, slots: int) -> None:
        self._generation += 1
        self._next, self._next_slots = config, slots
        try:
            for slot in range(slots):
                self._start_worker(config, slot, slots)
        except OSError as error:
            # `_look_at_generation` sees that one is missing.
            self.stderr.report("cannot start a worker: {}", error.strerror)

    def _reload(self) -> None:
        if self._stopping:
            return
        if self._next is not None:
            self._reload_again = True  # the file may have changed since the one that comes up was read
            return
        # Told in any case: `systemctl reload` waits for it, and then for READY=1 (Type=notify-reload).
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            config = self._load()
            slots = config.worker_count(available_cpus())
            self._sockets.prepare(config, slots)
        except (NotLoadedError, ListenError, OSError) as error:
            self._not_reloaded(f"{error}; the configuration before stays in force")
            return
        self._start_generation(config, slots)

    def _not_reloaded(self, why: str) -> None:
        self.stderr.report("SIGHUP: {}", why)
        self._notifier.tell("READY=1", f"STATUS=Not reloaded: {why}")

    def _look_at_generation(self, started: Callable[[], None]) -> None:
        """Whether those who are coming up have."""
        if self._next is None:
            return
        new = [each for each in self._workers.values() if each.generation == self._generation and not each.killed]
        if len(new) == self._next_slots and all(worker.serves for worker in new):
            self.config, self._slots, self._next = self._next, self._next_slots, None
            for worker in self._workers.values():
                if worker.generation != self._generation:
                    worker.retire()
            self._retire_at = time.monotonic() + (HANDSHAKES_S if self._sockets.close_unwanted() else 0.0)
            self._due.clear()
            count = "1 worker serves" if self._slots == 1 else f"{self._slots} workers serve"
            self._notifier.tell("READY=1", f"STATUS={count} {' '.join(self.urls)}")
            if self._announced:
                self.stderr.report("reloaded: {} by the new configuration", count)
            else:
                self._announced = True
                started()
            self._reload_if_asked()
        elif len(new) < self._next_slots:
            self._give_generation_up(new)

    def _give_generation_up(self, new: list[Worker]) -> None:
        """A new worker did not come up: those that did go again."""
        self._next = None
        if self._announced:
            # First, so that those who serve have the last descriptors of what was made for them: see `_stop`.
            self._sockets.revert()
        for worker in new:
            worker.retire()
            # One that serves may have clients already; the others may hang in a start that heeds no signal.
            if worker.serves:
                worker.signal(RETIRED)
            else:
                worker.kill()
        if self._announced:
            self._not_reloaded("the new workers did not come up; those before them go on")
            self._reload_if_asked()
        else:
            self._status = self._status or USER_ERROR
            self._stop()

    def _reload_if_asked(self) -> None:
        if self._reload_again:
            self._reload_again = False
            self._reload()

    # -- workers ------------------------------------------------------------------------------------------------

    def _start_worker(self, config: Config, slot: int, slots: int) -> None:
        place = Place(slot, self._sockets.of(slot, slots), os.getpid())
        voice, mouth = os.pipe2(os.O_CLOEXEC)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, EARLY)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(voice)
            os.close(mouth)
            raise
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(mouth)
            self._workers[pid] = Worker(pid, slot, self._generation, voice, time.monotonic(), config)
            return
        status = BROKEN
        try:
            status = live(config, place, mouth, lambda: self._leave(voice, place))
        finally:
            # Not sys.exit: the frames above are the supervisor's.
            os._exit(status)

    def _leave(self, voice: int, place: Place) -> None:
        """In a worker: give up what is the supervisor's."""
        signal.set_wakeup_fd(-1)
        os.close(voice)
        for worker in self._workers.values():
            worker.close_voice()
        self._sockets.leave(place.listeners)

    def _bury(self) -> None:
        """Wait for those that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            worker = self._workers.pop(pid, None)
            if worker is None:
                continue
            worker.close_voice()
            self._ended(worker, os.waitstatus_to_exitcode(status))

    def _ended(self, worker: Worker, code: int) -> None:
        if not worker.accepts_no_more:
            self._renew_accepts()  # a connection may have been told to it in its last moment
        if self._is_missed(worker) and not worker.killed:
            self._replace(worker, how(code))
            return
        # One that never served and ended with a status has said why.
        if (code and worker.serves) or (code < 0 and not worker.retiring):
            self.stderr.report("{} {}", worker, how(code))
        if code and not worker.killed and (self._stopping or not self._announced):
            self._status = self._status or (code if code > 0 else BROKEN)

    def _is_missed(self, worker: Worker) -> bool:
        """Whether another has to take its place. For one that was coming up, `_look_at_generation` sees to it."""
        comes_up = self._next is not None and worker.generation == self._generation
        return not (self._stopping or worker.retiring or comes_up)

    def _replace(self, worker: Worker, why: str) -> None:
        settled = time.monotonic() - worker.started >= SETTLED_S
        before = 0 if settled else self._deaths.get(worker.slot, 0)
        delay_s = 0.0
        if before:
            # The exponent is bounded as well: 2.0**1024 is no number, and one may die that often.
            delay_s = min(BACK_OFF_LAST_S, BACK_OFF_FIRST_S * 2.0 ** min(before - 1, 32))
        self._deaths[worker.slot] = before + 1
        again = "at once" if not delay_s else f"in {delay_s:g} s"
        if self._next is not None:
            again = "with the new generation"
        self.stderr.report("{} {}; another is started {}", worker, why, again)
        self._due.append(Due(time.monotonic() + delay_s, worker.slot))

    def _restart_due(self) -> None:
        if self._next is not None:
            return  # a generation that comes up replaces whoever is missing
        now = time.monotonic()
        for due in [due for due in self._due if due.when <= now]:
            self._due.remove(due)
            try:
                self._start_worker(self.config, due.slot, self._slots)
            except OSError as error:
                self.stderr.report("cannot start a worker: {}; tried again in {:g} s", error.strerror, BACK_OFF_LAST_S)
                self._due.append(Due(now + BACK_OFF_LAST_S, due.slot))

    # -- looking ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Once a second, see whether the workers live. Tell systemd that they do, and that this loop turns."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = next_look(now)
            for worker in tuple(self._workers.values()):
                self._heed(worker, worker.look())
            if any(worker.is_late for worker in self._workers.values()):
                # For a connection to a socket that several wait at, the kernel wakes one: it may be that one.
                self._renew_accepts()
        if now >= self._watchdog_at:
            late = any(worker.is_late and not worker.killed for worker in self._workers.values())
            self._watchdog_at = self._look_at if late else now + self._notifier.interval_s
            if not late:
                self._notifier.tell("WATCHDOG=1")

    def _heed(self, worker: Worker, finding: Finding) -> None:
        silence = f"has not turned its loop for {worker.silent_looks} s"
        if finding is Finding.LATE:
            self.stderr.report("{} {}", worker, silence)
        elif finding is Finding.STUCK:
            self._kill(worker, silence)
        elif finding is Finding.OVERDUE:
            self._kill(worker, "does not end" if worker.retiring else f"does not serve after {READY_LOOKS} s")
        elif finding is Finding.REMAINS and self._stopping:
            self.stderr.report("{} is stuck in the kernel; it ends by itself when what it waits for answers", worker)
            self._workers.pop(worker.pid).close_voice()
            self._status = self._status or BROKEN

    def _kill(self, worker: Worker, why: str) -> None:
        worker.kill()
        if self._is_missed(worker):
            self._replace(worker, f"{why}; it is killed")
        else:
            self.stderr.report("{} {}; it is killed", worker, why)
        if self._stopping:
            self._status = self._status or BROKEN
