"""How long a client may go on, by scripted looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringserve.connection.pace import PATIENCE, Pace, look

LIMIT_S = 60.0
RATE = 100


def after(*looks: tuple[float, int], rate: int = RATE) -> Pace:
    """The pace after looks at times and the bytes acknowledged by then."""
    pace = None
    for now, acknowledged in looks:
        assert pace is None or now < pace.until, f"it is given up before {now}"
        pace = look(pace, now, acknowledged, LIMIT_S, rate)
    assert pace is not None
    return pace


def test_a_client_that_acknowledges_nothing_has_one_write_timeout() -> None:
    for before in (0, -5000):  # none, or answers that it has not acknowledged either
        pace = after((10.0, before), (20.0, before), (69.0, before))
        assert pace.until == 70.0
        assert pace.seems_stalled(70.0, LIMIT_S)


def test_what_was_acknowledged_before_the_first_look_counts() -> None:
    assert after((0.5, 1000)).until == 0.5 + LIMIT_S + 10
    assert after((0.5, 128_000)).until == 0.5 + PATIENCE * LIMIT_S
    assert after((0.5, 1), rate=0).until == 0.5 + PATIENCE * LIMIT_S


def test_a_client_that_stops_has_three_from_its_last_acknowledgement() -> None:
    pace = after((0.0, 0), (0.5, 128_000), (150.0, 128_000))
    assert pace.until == 0.5 + PATIENCE * LIMIT_S
    assert pace.seems_stalled(pace.until, LIMIT_S)


@pytest.mark.parametrize(
    ("jump", "every_s"), [(67_584, 67), (95_232, 95), (12_288, 60), (11_264, 112)], ids=["lo", "lo2", "1448", "100/s"]
)
def test_a_steady_reader_stays_though_its_kernel_acknowledges_in_jumps(jump: int, every_s: int) -> None:
    looks = [(0.0, 0), *((0.5 + number * every_s, 128_000 + number * jump) for number in range(40))]
    assert after(*looks).until > looks[-1][0] + every_s


def test_a_client_below_the_rate_is_given_up_though_it_goes_on() -> None:
    pace, now = None, 0.0
    while pace is None or now < pace.until:
        pace = look(pace, now, int(now * RATE / 2), LIMIT_S, RATE)
        now += 1.0
        assert now < 4 * LIMIT_S
    assert now >= 2 * LIMIT_S - 2
    assert not pace.seems_stalled(now, LIMIT_S)


def test_a_client_at_the_rate_stays() -> None:
    after(*((float(second), second * RATE) for second in range(5000)))


def test_without_a_rate_any_byte_buys_all_the_time_that_there_is() -> None:
    assert after((0.0, 0), (50.0, 1), rate=0).until == 50.0 + PATIENCE * LIMIT_S


def test_less_than_before_is_no_progress_and_costs_nothing() -> None:
    # A unix socket counts the kernel's memory, which does not fall and rise as the bytes do.
    before = after((0.0, 0), (1.0, 1000))
    assert look(before, 2.0, 900, LIMIT_S, RATE) is before


def test_what_drains_within_another_write_timeout_is_worth_a_fin() -> None:
    pace = after((0.0, 0), (59.0, 3000))
    assert pace.drains(60.0, 3000, LIMIT_S)
    assert not pace.drains(60.0, 3001, LIMIT_S)


@given(st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 10**6)), max_size=50), st.sampled_from([0, 1, RATE]))
def test_no_client_is_given_up_within_one_write_timeout_or_kept_beyond_three(
    steps: list[tuple[float, int]], rate: int
) -> None:
    now, acknowledged = 0.0, 0
    pace = look(None, now, acknowledged, LIMIT_S, rate)
    for seconds, more in steps:
        now, acknowledged = now + seconds, acknowledged + more
        pace = look(pace, now, acknowledged, LIMIT_S, rate)
        assert pace.until >= LIMIT_S
        assert pace.until <= pace.progressed + PATIENCE * LIMIT_S
