"""What connections share: here, when their memory is worth giving back."""

from __future__ import annotations

from ringserve.service import CROWD, SETTLED_CHECKS, Crowd


def come(crowd: Crowd, count: int) -> None:
    for _ in range(count):
        crowd.came()


def go(crowd: Crowd, count: int) -> None:
    for _ in range(count):
        crowd.went()


def checks(crowd: Crowd, count: int) -> list[bool]:
    return [crowd.has_left() for _ in range(count)]


def test_a_crowd_that_left_is_told_once_and_only_when_it_has_settled() -> None:
    crowd = Crowd()
    come(crowd, CROWD)
    assert checks(crowd, 5) == [False] * 5
    go(crowd, CROWD)
    assert checks(crowd, SETTLED_CHECKS + 5) == [False] * SETTLED_CHECKS + [True] + [False] * 4


def test_a_crowd_that_came_and_went_between_two_checks_is_noticed_and_waited_for() -> None:
    # Seen in the benchmark of memory: the same number before and after looked settled at once, and the memory of the
    # connections that had just ended was not free yet.
    crowd = Crowd()
    for _wave in range(3):
        come(crowd, 5 * CROWD)
        go(crowd, 5 * CROWD)
        assert checks(crowd, SETTLED_CHECKS + 2) == [False] * SETTLED_CHECKS + [True, False]


def test_while_it_leaves_nothing_is_done() -> None:
    crowd = Crowd()
    come(crowd, 10 * CROWD)
    for _ in range(9):
        go(crowd, CROWD)
        assert not crowd.has_left()
    assert checks(crowd, SETTLED_CHECKS) == [False] * (SETTLED_CHECKS - 1) + [True]


def test_a_few_connections_and_a_crowd_that_stays_are_no_reason() -> None:
    crowd = Crowd()
    come(crowd, CROWD - 1)
    go(crowd, CROWD - 1)
    assert checks(crowd, 5) == [False] * 5
    come(crowd, 4 * CROWD)
    go(crowd, 3 * CROWD)
    assert checks(crowd, 5) == [False] * 5
