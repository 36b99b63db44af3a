"""Dates. Sections are of RFC 9110."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringserve.http.dates import format_date, iso_date, log_date, parse_date

NOW = 1_700_000_000.0
LATEST = 253_402_300_799
"""The last second of the year 9999: four digits are all that an HTTP-date has."""
EXAMPLE = 784_111_777


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"Sun, 06 Nov 1994 08:49:37 GMT", id="IMF-fixdate"),
        pytest.param(b"Sunday, 06-Nov-94 08:49:37 GMT", id="rfc850-date"),
        pytest.param(b"Sun Nov  6 08:49:37 1994", id="asctime-date"),
    ],
)
def test_the_three_forms_of_a_date_are_read(value: bytes) -> None:
    assert parse_date(value, NOW) == EXAMPLE  # the example of 5.6.7


def test_a_date_is_written_as_imf_fixdate() -> None:
    assert format_date(EXAMPLE) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_date(EXAMPLE + 0.999) == b"Sun, 06 Nov 1994 08:49:37 GMT"
    assert format_date(0) == b"Thu, 01 Jan 1970 00:00:00 GMT"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"0",
        b"784111777",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0000",
        b"Sun, 06 Nov 1994 08:49:37 gmt",
        b"sun, 06 nov 1994 08:49:37 GMT",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"Sun,06 Nov 1994 08:49:37 GMT",
        b" Sun, 06 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Nov 1994 08:49:37 GMT ",
        b"Sun, 06 Nov 1994 08:49:37 GMT; length=5",
        b"Sun, 06 Nov 94 08:49:37 GMT",
        b"Sun, 06 Foo 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 31 Nov 1994 08:49:37 GMT",
        b"Wed, 29 Feb 1995 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sunday, 06-Nov-1994 08:49:37 GMT",
        b"Sun, 06-Nov-94 08:49:37 GMT",
        b"Sun Nov 6 08:49:37 1994",
        b"1994-11-06T08:49:37Z",
        "Sun, 0٦ Nov 1994 08:49:37 GMT".encode(),
    ],
)
def test_what_is_not_an_http_date_is_none(value: bytes) -> None:
    assert parse_date(value, NOW) is None


def test_a_leap_second_is_read_as_the_second_before_it() -> None:
    before = parse_date(b"Sat, 31 Dec 2016 23:59:59 GMT", NOW)
    assert before is not None
    assert parse_date(b"Sat, 31 Dec 2016 23:59:60 GMT", NOW) == before


@pytest.mark.parametrize("second", [b"61", b"99"])
def test_a_second_beyond_the_leap_second_is_no_date(second: bytes) -> None:
    # second = 2DIGIT, as of RFC 5322 3.3: 00 to 60.
    assert parse_date(b"Sun, 06 Nov 1994 08:49:" + second + b" GMT", NOW) is None


@pytest.mark.parametrize(
    ("this_year", "two_digits", "year"),
    [
        (2023, b"23", 2023),
        (2023, b"24", 2024),
        (2023, b"73", 2073),
        (2023, b"74", 1974),
        (2023, b"99", 1999),
        (2023, b"00", 2000),
        (1999, b"49", 1949),
        (1999, b"99", 1999),
        (2000, b"50", 2050),
        (2000, b"51", 1951),
    ],
)
def test_a_year_of_two_digits_is_at_most_fifty_years_ahead(this_year: int, two_digits: bytes, year: int) -> None:
    now = datetime(this_year, 7, 1, tzinfo=UTC).timestamp()
    expected = datetime(year, 11, 6, 8, 49, 37, tzinfo=UTC).timestamp()
    assert parse_date(b"Sunday, 06-Nov-" + two_digits + b" 08:49:37 GMT", now) == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(min_value=0, max_value=LATEST))
def test_a_written_date_is_read_back(seconds: int) -> None:
    assert parse_date(format_date(seconds), NOW) == seconds
    assert parse_date(time.asctime(time.gmtime(seconds)).encode(), NOW) == seconds


def test_a_date_of_a_log_has_english_months() -> None:
    assert log_date(EXAMPLE + 0.9) == b"06/Nov/1994:08:49:37 +0000"
    names = [log_date(month * 30.5 * 86_400 + 86_400)[3:6] for month in range(12)]
    assert names == b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


def test_an_iso_date_is_of_whole_seconds() -> None:
    assert iso_date(EXAMPLE + 0.9) == "1994-11-06T08:49:37Z"
