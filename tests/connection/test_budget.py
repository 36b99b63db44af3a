"""The shares of the limit of open files: what is asked for and the limit in, shares out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringserve.connection.budget import LEAST, OPENING, Shares, share, shortage

ASKED = {"connections_max": 10_000, "pipes_max": 64, "open_files_max": 512, "burst": 4096}


def test_where_there_is_plenty_everybody_gets_what_was_asked_for() -> None:
    assert share(100_000, **ASKED) == Shares(10_000, 64, 512, 100_000 - 128 - 10_000 - 4096, True)


@pytest.mark.parametrize(
    ("free", "shares"),
    [
        (4000, Shares(3296, 64, 512, 576, False)),
        (960, Shares(416, 64, 352, 416, False)),
        (64, Shares(24, 8, 12, 24, False)),
        (LEAST, Shares(6, 2, 3, 6, False)),
    ],
)
def test_where_there_is_little_each_has_its_share(free: int, shares: Shares) -> None:
    assert share(free, **ASKED) == shares


def test_with_less_than_the_least_nothing_can_be_served() -> None:
    assert share(LEAST - 1, **ASKED) is None
    assert share(-5, **ASKED) is None


def test_what_is_not_asked_for_goes_to_the_files() -> None:
    few = {**ASKED, "connections_max": 10, "burst": 100}
    assert share(1000, **few) == Shares(10, 64, 512, 762, True)
    assert share(300, **few) == Shares(10, 37, 58, 116, True)


def test_connections_come_in_bursts_where_that_takes_at_most_half_of_them() -> None:
    others = 128 + 512 + OPENING
    assert share(others + 10_000 + 4096, **ASKED) == Shares(10_000, 64, 512, 576, True)
    assert share(others + 10_000 + 4095, **ASKED) == Shares(9_999, 64, 512, 576, True)
    assert share(others + 2 * 4096, **ASKED) == Shares(4096, 64, 512, 576, True)
    assert share(others + 2 * 4096 - 1, **ASKED) == Shares(8191, 64, 512, 576, False)


@given(
    st.integers(LEAST, 10**6), st.integers(1, 10**5), st.integers(1, 4096), st.integers(1, 10**5), st.integers(0, 9999)
)
def test_the_shares_are_never_more_than_there_is_or_than_was_asked_for(
    free: int, connections_max: int, pipes_max: int, open_files_max: int, burst: int
) -> None:
    shares = share(
        free, connections_max=connections_max, pipes_max=pipes_max, open_files_max=open_files_max, burst=burst
    )
    assert shares is not None
    assert 1 <= shares.connections <= connections_max
    assert 1 <= shares.pipes <= pipes_max
    assert 1 <= shares.open_files <= open_files_max
    assert shares.files >= 2
    assert shares.connections + 2 * shares.pipes + shares.files + burst * shares.in_bursts <= free


def test_a_shortage_names_the_limit_and_the_remedy() -> None:
    shares = Shares(39, 8, 6, 13, False)
    said = shortage(shares, 100, 64)
    assert said is not None
    for words in ("(100)", "39 connections", "ulimit -n", "LimitNOFILE="):
        assert words in said
    assert shortage(shares, 100, 39) is None
