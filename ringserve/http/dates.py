"""Dates as HTTP, ISO 8601 and log files write them. No clock: a time is an argument, in seconds since the epoch.

Sections are of RFC 9110.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache

_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_DAY_NAME = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY_NAME = rb"(?:Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday)"
_MONTH = rb"(?P<month>" + b"|".join(_MONTHS) + rb")"
_TIME = rb"(?P<hour>\d{2}):(?P<minute>\d{2}):(?P<second>\d{2})"
_DATE_FORMATS = (
    re.compile(_DAY_NAME + rb", (?P<day>\d{2}) " + _MONTH + rb" (?P<year>\d{4}) " + _TIME + rb" GMT"),
    re.compile(_LONG_DAY_NAME + rb", (?P<day>\d{2})-" + _MONTH + rb"-(?P<year>\d{2}) " + _TIME + rb" GMT"),
    re.compile(_DAY_NAME + rb" " + _MONTH + rb" (?P<day>[ \d]\d) " + _TIME + rb" (?P<year>\d{4})"),
)
"""IMF-fixdate, and the two obsolete forms that a recipient has to read all the same (5.6.7)."""

FIFTY_YEARS = 50
LEAP_SECOND = 60


def format_date(seconds: float) -> bytes:
    """An IMF-fixdate: `Sun, 06 Nov 1994 08:49:37 GMT` (5.6.7)."""
    return _format_second(int(seconds))


@lru_cache(maxsize=1024)
def _format_second(second: int) -> bytes:
    """Files keep their times, and a date takes 4 us to write."""
    return formatdate(second, usegmt=True).encode()


def parse_date(value: bytes, now: float) -> int | None:
    """Seconds since the epoch, or None for what is not an HTTP-date. `now` decides the century of a year of two
    digits: one that would be more than fifty years ahead is in the past (5.6.7).
    """
    for form in _DATE_FORMATS:
        match = form.fullmatch(value)
        if match:
            break
    else:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year - this_year % 100
        if year > this_year + FIFTY_YEARS:
            year -= 100
    month = _MONTHS.index(match["month"]) + 1
    day, hour, minute, second = (int(match[part]) for part in ("day", "hour", "minute", "second"))
    if second == LEAP_SECOND:
        second -= 1  # read as the one before it; the calendar of this machine has none
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.timestamp())


_EARLIEST, _LATEST = -62_135_596_800, 253_402_300_799
"""Years 1 to 9999, which are what ISO 8601 and our calendar can say. File systems can hold others."""


def iso_date(seconds: float) -> str:
    """`1994-11-06T08:49:37Z`."""
    moment = datetime.fromtimestamp(min(max(int(seconds), _EARLIEST), _LATEST), UTC)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def log_date(seconds: float) -> bytes:
    """`06/Nov/1994:08:49:37 +0000`, as logs have it. Not by strftime: its month names depend on the locale."""
    moment = datetime.fromtimestamp(int(seconds), UTC)
    return b"%02d/%s/%d:%02d:%02d:%02d +0000" % (
        moment.day, _MONTHS[moment.month - 1], moment.year, moment.hour, moment.minute, moment.second,
    )  # fmt: skip
