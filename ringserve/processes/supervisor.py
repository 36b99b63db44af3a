"""The supervisor: it owns the sockets and the access log's file, and does what `machine.py` decides about workers.

Theory of operation. Every worker *slot* has listening sockets of its own, one for each address, bound to the same port
by SO_REUSEPORT, so that the kernel spreads connections over the slots. A slot's sockets belong to the supervisor and
outlive its workers: what waits in a socket's accept queue when a worker dies, or is replaced, is accepted by the next
one. A listening socket that is closed would reset those connections, so none is closed while it is wanted; when there
are fewer slots than before, the sockets of the missing ones go to those that are left.

A reload reads the configuration anew. If it is good, workers of the new *generation* are started beside the old ones,
on the same sockets; when all of them serve, the old ones retire: they accept no more, answer what they are asked with
`Connection: close`, and end. If the new configuration is bad, or a new worker does not come up, nothing changes.

To stop, no more clients are let in: the supervisor has the kernel drop their SYNs, and closes its descriptors. What is
on the way has a moment to arrive; then the workers retire, as in a reload. Each takes what is in its queue, which
nobody can join any more, and closes the last descriptor of it. After another moment they drain. So it is with the
sockets of an address that a reload gives up.

The supervisor has no ring and no part in the data's way. It sleeps until a signal, a word of a worker, or a time that
is due. How it talks to a worker is in `messages.py` and `channel.py`. It never waits for a worker that it killed: the
successor is started when the signal is sent, since it accepts from the same sockets.

Invariants
 1. A socket stays open as long as the configuration in force names its address, and no worker closes the last
    descriptor of one that still has clients in its queue.
 2. Whatever dies is said in one line, with how.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from ringserve.config.settings import Config
from ringserve.observe.access_log import Sink
from ringserve.processes.channel import Channel, ChannelEndedError
from ringserve.processes.cpus import available_cpus
from ringserve.processes.events import (
    Abandon,
    Action,
    Bound,
    Died,
    Do,
    End,
    Event,
    Fact,
    Hangs,
    Kill,
    Notify,
    NotLoaded,
    NotStarted,
    Plan,
    Said,
    Say,
    Start,
    Tell,
)
from ringserve.processes.log_file import LogOpener, Opened, log_path, open_first_log, why_no_log
from ringserve.processes.machine import Machine
from ringserve.processes.messages import FILE, Kind, Message
from ringserve.processes.notify import Notifier
from ringserve.processes.sockets import Sockets
from ringserve.processes.worker import fork_worker
from ringserve.ring.linux.listeners import ListenError, append_always, raise_descriptor_limit
from ringserve.ring.stderr import STDERR_FD, ThreadWriter

STDOUT_FD = 1
NOTIFY_AGAIN_S = 0.1
"""To a service manager that had no room for a message."""
NOT_REOPENED = "cannot reopen the access log {!r}: {}; the one before it is written on"
ASKED: dict[int, Fact] = {
    signal.SIGTERM: Fact.STOP_ASKED,
    signal.SIGINT: Fact.STOP_ASKED,
    signal.SIGHUP: Fact.RELOAD_ASKED,
    signal.SIGUSR1: Fact.LOG_ASKED,
}
UNASKED = (signal.SIGCHLD, signal.SIGUSR2)
"""One that ends wakes the loop; nobody is to end the server by the other, which workers ignore too."""

HELD = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""They wait from before the sockets listen until somebody heeds them."""


class NotLoadedError(Exception):
    """The new configuration is bad; the message is one line that says why."""


class Setup(NamedTuple):
    """What the workers of a generation are given. log: of the file, if the log goes to one."""

    config: Config
    slots: int
    log: Sink | None

    @property
    def log_path(self) -> str | None:
        """Where its access log is."""
        return log_path(self.config)

    def close(self) -> None:
        """No worker of it is started any more."""
        if self.log is not None:
            os.close(self.log.fd)


class Process(NamedTuple):
    """A worker, as a process."""

    pid: int
    slot: int
    channel: Channel
    log_path: str | None

    def tell_log(self, sink: Sink) -> None:
        """Give it the sink of its access log."""
        self.channel.send(Message(Kind.LOG, FILE if sink.is_file else "", sink.fd))


def describe_exit(code: int) -> str:
    """How a process ended, by its exit code as `os.waitstatus_to_exitcode` gives it."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}"


class Supervisor:
    """See the module.

    load: the configuration in force from now on; raises NotLoadedError.
    """

    def __init__(self, config: Config, load: Callable[[], Config]) -> None:
        """Listens, and opens the log. Raises ListenError and StartError."""
        # Whoever finds the port open may send one at once. Those that stop are not held: a name server may take long.
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
        for fd in (STDOUT_FD, STDERR_FD):
            append_always(fd)
        self.stderr = ThreadWriter()
        raise_descriptor_limit()
        self._load = load
        slots = config.worker_count(available_cpus())
        self._sockets = Sockets(os.environ)
        self._current = Setup(config, slots, open_first_log(config))
        self._sockets.prepare(config, slots)
        self._read: Setup | None = None
        """Of a configuration that was read, until its sockets are bound."""
        self._next: Setup | None = None
        """Of the generation that comes up."""
        self._notifier = Notifier(dict(os.environ), self.stderr.report)
        self._machine = Machine(time.monotonic(), self._notifier.interval_s)
        self._processes: dict[int, Process] = {}
        self._signals: list[int] = []
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._logs = LogOpener(self._wake)
        self._reopened: dict[str, Sink] = {}
        self._started: Callable[[], None] = lambda: None
        self._status: int | None = None

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._current.config

    @property
    def urls(self) -> list[str]:
        """Where clients reach the server."""
        return self._sockets.urls

    # -- the loop -----------------------------------------------------------------------------------------------

    def run(self, started: Callable[[], None] = lambda: None) -> int:
        """Serve until a signal says to stop. Returns the exit status. In the main thread. `started` is called when all
        workers serve for the first time.
        """
        self._started = started
        # What exists by now is shared by all, and stays to the end: no collection has to look at it, or copies it.
        gc.collect()
        gc.freeze()
        with self._heeding_signals():
            try:
                self._step(Bound(self._plan(self._current)))
                while self._status is None:
                    self._sleep()
                    self._reap()  # before a signal to stop is heeded: a worker that died before it did not die of it
                    signals, self._signals = self._signals, []
                    for number in signals:
                        if number in ASKED:
                            self._step(ASKED[number])
                    self._logs.deliver()
                    self._step(Fact.LOOKED)
            finally:
                self._sockets.close()
                self.stderr.close()
        return self._status

    @contextmanager
    def _heeding_signals(self) -> Iterator[None]:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, lambda number, _frame: self._signals.append(number))
            for number in (*ASKED, *UNASKED)
        }
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wake(self) -> None:
        os.write(self._wake_write, b"\0")

    def _sleep(self) -> None:
        """Until a signal, a word of a worker, or a time that is due."""
        now = time.monotonic()
        until = self._machine.next_look_s()
        if not self._notifier.flush():
            until = min(until, now + NOTIFY_AGAIN_S)
        # Not select(2), which knows no descriptor above 1023: there may be hundreds of workers.
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        speakers = {}
        for number, process in self._processes.items():
            if process.channel.fd >= 0:
                speakers[process.channel.fd] = number
                process.channel.flush()  # what cannot be sent yet is tried at each look: POLLOUT tells of room alone
                poll.register(process.channel.fd, select.POLLIN)
        for fd, _events in poll.poll(max(0.0, until - now) * 1000):
            if fd == self._wake_read:
                os.read(self._wake_read, 4096)
            else:
                self._listen_to(speakers[fd])

    def _listen_to(self, number: int) -> None:
        """Take what a worker says."""
        process = self._processes[number]
        try:
            while (message := process.channel.receive()) is not None:
                if message.kind is Kind.FAILED:
                    self.stderr.say(message.text)
                elif message.kind is Kind.HANGS:
                    self._step(Hangs(number, message.text))
                else:
                    self._step(Said(number, message.kind))
        except ChannelEndedError:
            process.channel.close()

    def _reap(self) -> None:
        """Wait for those that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            number = next((number for number, process in self._processes.items() if process.pid == pid), None)
            if number is None:
                continue  # it was abandoned
            self._listen_to(number)
            code = os.waitstatus_to_exitcode(status)
            self._step(Died(number, code, describe_exit(code)))
            self._forget(number)

    def _forget(self, number: int) -> None:
        self._processes.pop(number).channel.close()

    # -- actions ------------------------------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        """Do what the machine says to an event, and to what comes of that."""
        events = [event]
        while events and self._status is None:
            for action in self._machine.step(events.pop(0), time.monotonic()):
                outcome = self._perform(action)
                if outcome is not None:
                    events.append(outcome)

    def _perform(self, action: Action) -> Event | None:
        match action:
            case Start(number, slot):
                return self._start(number, slot)
            case Tell(number, order):
                self._tell(self._processes[number], order)
            case Kill(number):
                if number in self._processes:  # else it could not be started
                    os.kill(self._processes[number].pid, signal.SIGKILL)
            case Abandon(number):
                self._forget(number)
            case Say(template, values, about):
                if about is not None:
                    process = self._processes[about]
                    template, values = "worker {} (pid {}) " + template, (process.slot, process.pid, *values)
                self.stderr.report(template, *values)
            case Notify(lines):
                self._notifier.tell(*lines)
            case End(status):
                self._status = status
            case _:
                return self._do(action)
        return None

    def _do(self, action: Do) -> Event | None:
        if action is Do.LOAD:
            return self._read_configuration()
        if action is Do.BIND:
            return self._bind()
        if action is Do.COMMIT:
            self._sockets.close_unwanted()
            self._current.close()
            self._current, self._next = self._taken(self._next), None
        elif action is Do.REVERT:
            self._sockets.revert()
            self._taken(self._next).close()
            self._next = None
        elif action is Do.CLOSE_ALL:
            self._sockets.close()
        elif action is Do.OPEN_LOG:
            self._open_logs()
        else:
            self._started()
        return None

    @staticmethod
    def _taken(setup: Setup | None) -> Setup:
        assert setup is not None, "the machine acts on what there is"
        return setup

    def _plan(self, setup: Setup) -> Plan:
        config = setup.config
        return Plan(setup.slots, config.worker_timeout_s, config.drain_timeout_s, " ".join(self.urls))

    def _start(self, number: int, slot: int) -> Event | None:
        setup = self._next or self._current
        try:
            pid, channel = fork_worker(setup.config)
        except OSError as error:
            return NotStarted(number, error.strerror or str(error))
        process = self._processes[number] = Process(pid, slot, channel, setup.log_path)
        try:
            for listener in self._sockets.of(slot, setup.slots):
                channel.send(Message(Kind.LISTEN, f"{listener.rule} {listener.url}", listener.fd))
            if setup.log is not None:
                process.tell_log(setup.log)
        except OSError as error:
            self._forget(number)  # it finds its channel closed, and ends
            return NotStarted(number, error.strerror or str(error))
        channel.send(Message(Kind.START, str(slot)))
        return None

    def _tell(self, process: Process, order: Kind) -> None:
        if order is not Kind.LOG:
            process.channel.send(Message(order))
        elif (log := self._reopened.get(process.log_path or "")) is not None:
            try:
                process.tell_log(log)
            except OSError as error:
                self.stderr.report(NOT_REOPENED, process.log_path, error.strerror)

    # -- reloading ----------------------------------------------------------------------------------------------

    def _read_configuration(self) -> Event | None:
        try:
            config = self._load()
        except NotLoadedError as error:
            return NotLoaded(str(error))
        self._read = Setup(config, config.worker_count(available_cpus()), None)
        path = self._read.log_path
        if path is None:
            return Fact.LOADED
        self._logs.ask([path], self._take_next_log)
        return None

    def _take_next_log(self, opened: Opened) -> None:
        ((path, log),) = opened.items()
        if isinstance(log, OSError):
            self._step(NotLoaded(why_no_log(path, log)))
        else:
            self._read = self._taken(self._read)._replace(log=log)
            self._step(Fact.LOADED)

    def _bind(self) -> Event:
        setup, self._read = self._taken(self._read), None
        try:
            self._sockets.prepare(setup.config, setup.slots)
        except (ListenError, OSError) as error:
            setup.close()
            return NotLoaded(str(error))
        self._next = setup
        return Bound(self._plan(setup))

    # -- the log's file -----------------------------------------------------------------------------------------

    def _open_logs(self) -> None:
        """Open anew the file of each worker: of the old generation too, which would write on to one that was renamed
        and may be compressed by now.
        """
        paths = {process.log_path for process in self._processes.values()} | {self._current.log_path}
        if named := sorted(path for path in paths if path is not None):
            self._logs.ask(named, self._take_reopened_logs)
        else:
            self.stderr.report("SIGUSR1: the access log goes to no file that could be reopened; see --log-file")

    def _take_reopened_logs(self, opened: Opened) -> None:
        for path, log in opened.items():
            if isinstance(log, OSError):
                self.stderr.report(NOT_REOPENED, path, log.strerror)
            else:
                self._reopened[path] = log
        self._step(Fact.LOG_OPENED)
        self._current = self._with_reopened_log(self._current)
        if self._next is not None:
            self._next = self._with_reopened_log(self._next)
        while self._reopened:
            os.close(self._reopened.popitem()[1].fd)

    def _with_reopened_log(self, setup: Setup) -> Setup:
        log = None if setup.log_path is None else self._reopened.get(setup.log_path)
        if log is None:
            return setup
        try:
            kept = log._replace(fd=os.dup(log.fd))
        except OSError as error:
            self.stderr.report(NOT_REOPENED, setup.log_path, error.strerror)
            return setup
        setup.close()
        return setup._replace(log=kept)
