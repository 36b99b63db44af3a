"""What connections share: here, when their memory is worth giving back."""

from __future__ import annotations

from ringserve.service import CROWD, SETTLED_CHECKS, Crowd


class Place:
    """Where people come and go, and what it knows of its crowd."""

    def __init__(self) -> None:
        self.crowd = Crowd()
        self.count = 0

    def come(self, count: int) -> None:
        self.count += count
        self.crowd.most = max(self.crowd.most, self.count)

    def go(self, count: int) -> None:
        self.count -= count

    def checks(self, count: int) -> list[bool]:
        return [self.crowd.has_left(self.count) for _ in range(count)]


def test_a_crowd_that_left_is_told_once_and_only_when_it_has_settled() -> None:
    place = Place()
    place.come(CROWD)
    assert place.checks(5) == [False] * 5
    place.go(CROWD)
    assert place.checks(SETTLED_CHECKS + 5) == [False] * SETTLED_CHECKS + [True] + [False] * 4


def test_a_crowd_that_came_and_went_between_two_checks_is_noticed_and_waited_for() -> None:
    # Seen in the benchmark of memory: the same number before and after looked settled at once, and the memory of the
    # connections that had just ended was not free yet.
    place = Place()
    for _wave in range(3):
        place.come(5 * CROWD)
        place.go(5 * CROWD)
        assert place.checks(SETTLED_CHECKS + 2) == [False] * SETTLED_CHECKS + [True, False]


def test_while_it_leaves_nothing_is_done() -> None:
    place = Place()
    place.come(10 * CROWD)
    for _ in range(9):
        place.go(CROWD)
        assert place.checks(1) == [False]
    assert place.checks(SETTLED_CHECKS) == [False] * (SETTLED_CHECKS - 1) + [True]


def test_a_few_connections_and_a_crowd_that_stays_are_no_reason() -> None:
    place = Place()
    place.come(CROWD - 1)
    place.go(CROWD - 1)
    assert place.checks(5) == [False] * 5
    place.come(4 * CROWD)
    place.go(3 * CROWD)
    assert place.checks(5) == [False] * 5
