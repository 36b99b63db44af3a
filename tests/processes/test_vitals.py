"""What the looks of a supervisor come to, without a process: nobody is killed by the clock."""

from __future__ import annotations

import pytest

from ringserve.config.settings import LATE_LOOKS
from ringserve.processes.vitals import (
    BEAT_S,
    ENDING_LOOKS,
    GONE_LOOKS,
    READY_LOOKS,
    Finding,
    Vitals,
    next_look,
)

TIMEOUT_LOOKS = 10
DRAIN_S = 1.5


def looks(vitals: Vitals, count: int) -> list[Finding]:
    return [vitals.look() for _look in range(count)]


@pytest.fixture
def vitals() -> Vitals:
    """Of a worker that serves."""
    made = Vitals(TIMEOUT_LOOKS, DRAIN_S)
    made.hear(serves=True)
    return made


NOTHING = [Finding.NOTHING]


def test_a_silent_worker_is_late_once_and_then_to_be_killed(vitals: Vitals) -> None:
    assert looks(vitals, LATE_LOOKS) == NOTHING * (LATE_LOOKS - 1) + [Finding.LATE]
    assert vitals.is_late
    between = TIMEOUT_LOOKS - LATE_LOOKS
    assert looks(vitals, between) == NOTHING * (between - 1) + [Finding.STUCK]


def test_a_word_begins_the_count_anew(vitals: Vitals) -> None:
    for _time in range(3):
        looks(vitals, TIMEOUT_LOOKS - 1)
        vitals.hear(serves=False)
        assert not vitals.is_late
    assert vitals.serves
    assert looks(vitals, LATE_LOOKS)[-1] is Finding.LATE, "it is said again"


def test_a_timeout_of_zero_kills_nobody() -> None:
    patient = Vitals(0, DRAIN_S)
    patient.hear(serves=True)
    findings = looks(patient, 10_000)
    assert findings.count(Finding.LATE) == 1
    assert Finding.STUCK not in findings


def test_the_shortest_timeout_kills_at_the_look_that_would_find_it_late() -> None:
    vitals = Vitals(LATE_LOOKS, DRAIN_S)
    vitals.hear(serves=True)
    assert looks(vitals, LATE_LOOKS) == NOTHING * (LATE_LOOKS - 1) + [Finding.STUCK]


@pytest.mark.parametrize("stood_s", [0.0, 5.0, 100.0, 86400.0])
@pytest.mark.parametrize("at", [7.0, 7.25, 7.5, 7.999])
def test_a_supervisor_that_stood_still_looks_once_and_then_leaves_time_for_a_word(at: float, stood_s: float) -> None:
    now = next_look(at) + stood_s  # it was due long ago; now it goes on
    following = next_look(now)
    assert now + BEAT_S / 2 <= following <= now + 1.5 * BEAT_S
    spoken = (now // BEAT_S + 1) * BEAT_S
    assert now < spoken < following, "each worker has a word due in between"


def test_nobody_is_killed_when_all_stood_still_again_and_again(vitals: Vitals) -> None:
    for _stop in range(100):
        assert vitals.look() is Finding.NOTHING  # the one look that is due at once, before the workers run
        vitals.hear(serves=False)


def test_a_worker_that_comes_up_has_not_to_be_heard_and_has_a_time_for_it() -> None:
    vitals = Vitals(TIMEOUT_LOOKS, DRAIN_S)
    assert looks(vitals, READY_LOOKS) == NOTHING * (READY_LOOKS - 1) + [Finding.OVERDUE]
    assert not vitals.is_late


def test_a_worker_that_retires_has_its_own_time_from_then_on(vitals: Vitals) -> None:
    ending = int(2 * DRAIN_S) + ENDING_LOOKS
    vitals.retire()
    for _look in range(ending - 1):
        vitals.hear(serves=False)
        assert vitals.look() is Finding.NOTHING
        vitals.retire()  # a stop after a reload does not begin it anew
    vitals.hear(serves=False)
    assert vitals.look() is Finding.OVERDUE


def test_a_worker_that_retires_has_to_be_heard_as_well() -> None:
    vitals = Vitals(TIMEOUT_LOOKS, 60.0)
    vitals.hear(serves=True)
    vitals.retire()
    assert looks(vitals, TIMEOUT_LOOKS)[-1] is Finding.STUCK


def test_a_worker_that_retires_before_it_serves_has_the_time_of_one_that_retires() -> None:
    vitals = Vitals(TIMEOUT_LOOKS, DRAIN_S)
    vitals.retire()
    ending = int(2 * DRAIN_S) + ENDING_LOOKS
    assert looks(vitals, ending) == NOTHING * (ending - 1) + [Finding.OVERDUE]


def test_a_worker_that_has_to_hurry_has_less_time_and_never_more(vitals: Vitals) -> None:
    vitals.retire()
    vitals.hurry()
    looks(vitals, ENDING_LOOKS - 1)
    vitals.hurry()
    assert vitals.look() is Finding.OVERDUE


@pytest.mark.parametrize("retiring", [False, True])
def test_one_that_was_killed_and_remains_is_found_at_each_look(vitals: Vitals, retiring: bool) -> None:
    vitals.was_killed()
    if retiring:
        vitals.retire()  # the server stops: that gives it no more time
    assert looks(vitals, GONE_LOOKS + 2) == NOTHING * (GONE_LOOKS - 1) + [Finding.REMAINS] * 3
    assert vitals.is_late
