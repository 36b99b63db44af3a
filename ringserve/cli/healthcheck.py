"""`ringserve healthcheck`: asks a server of this configuration whether it answers. For HEALTHCHECK, without curl.

This is a client, and a short-lived one: it asks one question, waits for one answer, and ends. It uses a plain blocking
socket with a deadline and no ring. There is nothing to do meanwhile, so a ring would gain nothing; and where io_uring
is refused, the check should say that nobody listens, which is what is wrong, and not fail on its own ring.

Any final answer below 500 says that the server lives: a site without an index (404) or with a password (401) is
answered for. A 503, which a full server gives, does not.
"""

from __future__ import annotations

import http.client
import signal
import socket
from contextlib import closing
from types import FrameType
from typing import NoReturn

from ringserve.config.settings import Config, ListenRule
from ringserve.http.proxies import UNIX, TrustedProxies

TIMEOUT_DEFAULT_S = 2.0
"""For connecting and the answer together. A server that is alive answers in a millisecond; HEALTHCHECK's own timeout
(30 s by default) kills without a word, so ours has to be the shorter one."""
TIMEOUT_MAX_S = 60.0
HEALTHY_BELOW = 500

THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that stand for all of this machine's, by one that can be connected to."""

FIELDS = {"Host": "localhost", "User-Agent": "ringserve-healthcheck", "Connection": "close"}
PREFACE = b"PROXY UNKNOWN\r\n"
"""A header of the PROXY protocol, version 1, by which a proxy speaks for itself (spec 2.1)."""


class UnhealthyError(Exception):
    """The server did not answer as one that lives; the message says what it did instead."""


class _Connection(http.client.HTTPConnection):
    """By a unix socket too, and with what has to come before a request."""

    def __init__(self, config: Config) -> None:
        self._rule, self._trusted = config.listeners[0], config.trusted_proxy
        super().__init__(*_address(self._rule))

    def connect(self) -> None:
        unix = self._rule.unix
        if unix is None:
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.connect(unix)
        if self._rule.proxy_protocol:
            # The server decides by the address that it sees us have whether it believes us.
            ours = UNIX if unix is not None else str(self.sock.getsockname()[0])
            if TrustedProxies(self._trusted).trusts(ours):
                self.sock.sendall(PREFACE)


def check(config: Config, timeout_s: float) -> int:
    """Ask the first listener of this configuration, at the first of its addresses that takes us.

    Returns the status of the answer if it is a healthy one. In the main thread, since a signal is the deadline: the
    timeout of a socket begins anew with each byte.

    timeout_s: seconds for all of it. Raises UnhealthyError otherwise, and ValueError if the configuration does not tell
    the port.
    """
    where = _where(config.listeners[0])
    before = signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        with closing(_Connection(config)) as connection:
            connection.request("HEAD", "/", headers=FIELDS)
            status = connection.getresponse().status
    except TimeoutError as error:
        raise UnhealthyError(f"{where}: no answer within {timeout_s:g} s") from error
    except http.client.RemoteDisconnected as error:
        raise UnhealthyError(f"{where}: the connection ended without an answer") from error
    except http.client.HTTPException as error:
        raise UnhealthyError(f"{where}: the answer is no HTTP: {str(error)[:60]!r}") from error
    except OSError as error:
        raise UnhealthyError(f"{where}: {error.strerror or error}") from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    if status >= HEALTHY_BELOW:
        raise UnhealthyError(f"{where}: the answer was {status}")
    return status


def _late(_number: int, _frame: FrameType | None) -> NoReturn:
    raise TimeoutError


def _address(rule: ListenRule) -> tuple[str, int]:
    host = rule.host[0] if rule.host else "localhost"
    return THIS_MACHINE.get(host, host), rule.port


def _where(rule: ListenRule) -> str:
    """In words. Raises ValueError if it cannot be told."""
    if rule.systemd is not None:
        raise ValueError("the first [[listen]] has its address from systemd; put one before it that says its own")
    if rule.unix is not None:
        return f"unix:{rule.unix}"
    host, port = _address(rule)
    if port == 0:
        raise ValueError("port 0 is picked by the kernel, so there is none to ask; give the server a port by --port")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
