"""Turns at a sink that processes share: one has it, nobody waits, and the death of one is no end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from ringserve.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    before = len(os.listdir("/proc/self/fd"))
    made = Turns()
    yield made
    made.close()
    assert len(os.listdir("/proc/self/fd")) == before


class Other:
    """Another process that has the turn, in the middle of a batch, until it ends."""

    def __init__(self, turns: Turns) -> None:
        self._read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                turns.take()
                turns.begin()
                os.write(write, b"!")
                signal.pause()
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(self._read, 1) == b"!"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)


def test_who_is_alone_always_has_the_turn_and_is_never_asked_to_rest(turns: Turns) -> None:
    for _again in range(3):
        assert turns.take()
        assert not turns.begin()
        assert not turns.give(whole=True)


def test_one_process_has_the_turn_and_the_other_is_told_so_at_once(turns: Turns) -> None:
    other = Other(turns)
    try:
        assert not turns.take()
        assert not turns.take()
    finally:
        other.kill()


def test_the_turn_of_a_killed_process_is_free_and_its_half_batch_is_known(turns: Turns) -> None:
    Other(turns).kill()
    assert turns.take()
    assert turns.begin(), "it died in the middle"
    assert not turns.give(whole=True)
    assert turns.take()
    assert not turns.begin(), "that was mended"


def test_a_batch_that_broke_off_within_a_line_is_known_to_the_next(turns: Turns) -> None:
    turns.take()
    turns.begin()
    turns.give(whole=False)
    turns.take()
    assert turns.begin()


def test_who_gives_the_turn_up_hears_once_that_others_want_it(turns: Turns) -> None:
    assert turns.take()
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            status = int(turns.take())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "it did not have the turn"
    assert turns.give(whole=True)
    assert turns.take()
    assert not turns.give(whole=True)
