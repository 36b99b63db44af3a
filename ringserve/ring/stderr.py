"""Writing diagnostics to stderr, which may take nothing for hours, without anybody waiting for it.

Two writers. `RingWriter` is a task of a server, with one write in flight. `ThreadWriter` is for a process that has no
ring: a thread, which may wait in write(2), and which nobody waits for.

A batch that is refused (nobody reads the pipe any more, the disk is full, or a descriptor that does not wait is full)
is kept and tried again after RETRY_S, from the byte at which it was cut. Meanwhile lines gather and are lost, as
`Diagnostics` says.

Rejected: O_NONBLOCK on the descriptor, which the shell and other programs share. To ask by poll(2) and then to write: a
pipe that had room may have none any more, since others write to it.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time

from ringserve.ring.diagnostics import Diagnostics
from ringserve.ring.tasks import Signal, Task, Tasks

STDERR_FD = 2
RETRY_S = 1.0
END_S = 1.0
"""How long a process that ends waits for its last lines to be taken."""


class WriterEndedError(Exception):
    """The server ends."""


class RingWriter(Task):
    """Writes what `Tasks.report` gathers. It begins at once."""

    def __init__(self, tasks: Tasks) -> None:
        super().__init__(tasks)
        self._second = Signal()
        self._writing = self._refused = False
        self.begin(self._write())
        tasks.call_at(self.ring.now + RETRY_S, self._tick)

    @property
    def idle(self) -> bool:
        """Whether everything is written, or stderr refuses it."""
        return self._refused or not (self._writing or not self.tasks.diagnostics.idle)

    def _tick(self) -> float | None:
        self._second.raise_()
        self.tasks.reported.raise_()  # the end of an interval may be due
        return None if self.finished else self.ring.now + RETRY_S

    async def _write(self) -> None:
        with contextlib.suppress(WriterEndedError):
            while True:
                batch = self.tasks.diagnostics.take(self.ring.now)
                self._writing = bool(batch)
                if batch:
                    await self._write_batch(batch)
                else:
                    await self.wait(self.tasks.reported)

    async def _write_batch(self, batch: bytes) -> None:
        pinned = self.ring.pin(batch)
        written = 0
        while written < pinned.length:
            res = await self.write(STDERR_FD, pinned, written)
            self._refused = res <= 0
            if self._refused:
                await self.wait(self._second)
            else:
                written += res


class ThreadWriter:
    """Reports and writes from a process without a ring; see the module. To be called by one thread.

    The thread ends when there is nothing to write, so that a fork mostly finds none. The child of a fork makes a writer
    of its own, and leaves its parent's alone.
    """

    def __init__(self, diagnostics: Diagnostics | None = None) -> None:
        """diagnostics: what a server left unwritten, if there was one in this process."""
        self._diagnostics = diagnostics or Diagnostics()
        self._changed = threading.Condition()
        self._runs = False
        self._refused = False

    def report(self, template: str, *values: object) -> None:
        """See `Diagnostics.report`."""
        with self._changed:
            self._diagnostics.report(time.monotonic(), template, *values)
            self._start()

    def report_fault(self, fault: BaseException) -> None:
        """See `Diagnostics.report_fault`."""
        with self._changed:
            self._diagnostics.report_fault(time.monotonic(), fault)
            self._start()

    def say(self, text: str) -> None:
        """See `Diagnostics.say`."""
        with self._changed:
            self._diagnostics.say(text)
            self._start()

    def close(self) -> None:
        """The process ends: wait for the last lines, for END_S at most, and not at all for a stderr that refuses."""
        with self._changed:
            self._diagnostics.settle(math.inf)
            self._start()
            self._changed.wait_for(lambda: self._refused or not self._runs, END_S)

    def _start(self) -> None:
        self._changed.notify_all()
        if not self._runs and not self._diagnostics.idle:
            # No thread may be had (pids.max, ulimit -u). The next line tries it again.
            with contextlib.suppress(RuntimeError):
                threading.Thread(target=self._run, name="ringserve-stderr", daemon=True).start()
                self._runs = True

    def _run(self) -> None:
        while batch := self._take():
            self._write(batch)

    def _take(self) -> bytes:
        """The next batch; nothing if the thread is to end."""
        diagnostics = self._diagnostics
        with self._changed:
            while not (batch := diagnostics.take(time.monotonic())) and diagnostics.due < math.inf:
                self._changed.wait(max(0.0, diagnostics.due - time.monotonic()))
            self._runs = bool(batch)
            self._changed.notify_all()
            return batch

    def _write(self, batch: bytes) -> None:
        while batch:
            try:
                batch = batch[os.write(STDERR_FD, batch) :]
            except OSError:
                self._set_refused(True)
                time.sleep(RETRY_S)
            else:
                self._set_refused(False)

    def _set_refused(self, refused: bool) -> None:
        with self._changed:
            self._refused = refused
            self._changed.notify_all()
