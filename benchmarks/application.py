"""Rounds of `application`: a front end loaded in Chromium with an empty cache, one load after the other.

wrk sends the same head each time. A browser's Referer and Sec-Fetch fields differ from file to file. A browser opens
several new connections for each load, and seldom has more than one request on each.
"""

from __future__ import annotations

import os
import sys
import time

import corpus
import frontend
from figures import Round
from measure import DISTURBED, FOREIGN_MAX, missing_lines
from processes import HOST, SERVER_CPU, BenchmarkError, Server, busy_seconds, cpu_seconds

sys.path.append(str(corpus.HERE.parent / "tests"))

from browser import Browser, BrowserError  # the tests' own

LOADS = 2
"""In a round, after one that does not count: of a server that stood still while the others had their turn."""


def check_browser() -> None:
    """Raise BenchmarkError if there is no browser."""
    try:
        Browser().close()
    except BrowserError as error:
        raise BenchmarkError(str(error)) from error


def measure_loads(server: Server, cycle: int) -> Round:
    """One round."""
    try:
        with Browser() as browser:
            _load(browser, server.port)
            return _measure(browser, server, cycle)
    except (BrowserError, BenchmarkError) as error:
        return Round(cycle, problems=(" ".join(str(error).split()),))


def _measure(browser: Browser, server: Server, cycle: int) -> Round:
    if server.log:
        os.truncate(server.log, 0)
    began_s, requests = time.monotonic(), 0
    cpu_before_s, busy_before_s = cpu_seconds(server.pid), busy_seconds(SERVER_CPU)
    for _ in range(LOADS):
        browser.fresh()
        requests += _load(browser, server.port)
    cpu_s, seconds = cpu_seconds(server.pid) - cpu_before_s, time.monotonic() - began_s
    foreign_s = max(0.0, busy_seconds(SERVER_CPU) - busy_before_s - cpu_s)
    return Round(
        cycle=cycle,
        requests=requests,
        seconds=seconds,
        cpu_s=round(cpu_s, 6),
        foreign_s=round(foreign_s, 2),
        problems=tuple(missing_lines(server, requests)),
        notes=(DISTURBED,) if foreign_s > FOREIGN_MAX * seconds else (),
    )


def _load(browser: Browser, port: int) -> int:
    """Load the page with an empty cache; how many requests that were. Raises BenchmarkError if one went wrong."""
    base = f"http://{HOST}:{port}{corpus.APPLICATION}"
    browser.open(f"{base}/index.html")
    browser.evaluate(frontend.READY)
    wanted = {f"{base}/{name}" for name in frontend.files()}
    answered = {url for url, status in browser.statuses.items() if status == 200}
    if answered != wanted or browser.failures:
        odd = sorted(answered ^ wanted) + browser.failures
        raise BenchmarkError(f"{len(odd)} of {len(wanted)} files did not come, or were not asked for: {odd[:3]}")
    return len(browser.statuses)
