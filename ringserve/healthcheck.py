"""`ringserve healthcheck`: asks a server of this configuration whether it answers. For HEALTHCHECK, without curl.

This is a client, and a short-lived one: it asks one question, waits for one answer, and ends. It uses a plain blocking
socket with a deadline and no ring. There is nothing to do meanwhile, so a ring would gain nothing; and where io_uring
is refused, the check should say that nobody listens, which is what is wrong, and not fail on its own ring.

Any final answer below 500 says that the server lives: a site without an index (404) or with a password (401) is
answered for. A 503, which a full server gives, does not.
"""

from __future__ import annotations

import re
import socket
import time
from typing import Any

from ringserve.config import Config
from ringserve.proxies import UNIX, TrustedProxies

TIMEOUT_DEFAULT_S = 2.0
"""For connecting and the answer together. A server that is alive answers in a millisecond; HEALTHCHECK's own timeout
(30 s by default) kills without a word, so ours has to be the shorter one."""
TIMEOUT_MAX_S = 60.0
HEAD_BYTES_MAX = 64 * 1024
"""More than any head that ringserve sends, and a bound for what is not ringserve."""
HEALTHY_BELOW = 500

THIS_MACHINE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses that stand for all of this machine's, by one that can be connected to."""

REQUEST = b"HEAD / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ringserve-healthcheck\r\nConnection: close\r\n\r\n"
PREFACE = b"PROXY UNKNOWN\r\n"
"""A header of the PROXY protocol, version 1, by which a proxy speaks for itself (spec 2.1)."""

_HEAD = re.compile(
    rb"HTTP/1\.[01] (?P<status>[2-5]\d\d)(?: [^\r\n]*)?\r\n"
    rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]*\r\n)*\r\n"
)
"""A final response's head (RFC 9112 2.1, 4, 5). The reason may be absent with its blank, as clients should allow."""


class UnhealthyError(Exception):
    """The server did not answer as one that lives; the message says what it did instead."""


def check(config: Config, timeout_s: float) -> int:
    """Ask where a server of this configuration listens, the first of its addresses.

    Returns the status of the answer if it is a healthy one.

    timeout_s: seconds for all of it, but for looking up a name. Raises UnhealthyError otherwise, and ValueError if the
    configuration does not tell the port.
    """
    where = _where(config)
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(config, deadline) as client:
            client.sendall(_greeting(config, client) + REQUEST)
            status = _status(_read_head(client, deadline))
    except TimeoutError as error:
        raise UnhealthyError(f"{where}: no answer within {timeout_s:g} s") from error
    except OSError as error:
        raise UnhealthyError(f"{where}: {error.strerror or error}") from error
    except UnhealthyError as error:
        raise UnhealthyError(f"{where}: {error}") from error
    if status >= HEALTHY_BELOW:
        raise UnhealthyError(f"{where}: the answer was {status}")
    return status


def _address(config: Config) -> tuple[str, int]:
    host = config.host[0] if config.host else "localhost"
    return THIS_MACHINE.get(host, host), config.port


def _where(config: Config) -> str:
    """In words. Raises ValueError if it cannot be told."""
    if config.unix is not None:
        return f"unix:{config.unix}"
    host, port = _address(config)
    if port == 0:
        raise ValueError("port 0 is picked by the kernel, so there is none to ask; give the server a port by --port")
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _connect(config: Config, deadline: float) -> socket.socket:
    """To the first of the addresses that takes us: a name may stand for one on which no server listens."""
    if config.unix is not None:
        return _connect_one(socket.AF_UNIX, config.unix, deadline)
    refusal: OSError = ConnectionRefusedError()
    for family, _type, _protocol, _name, address in socket.getaddrinfo(*_address(config), type=socket.SOCK_STREAM):
        try:
            return _connect_one(family, address, deadline)
        except OSError as error:
            refusal = error
    raise refusal


def _connect_one(family: int, address: Any, deadline: float) -> socket.socket:
    client = socket.socket(family)
    try:
        client.settimeout(_left(deadline))
        client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


def _greeting(config: Config, client: socket.socket) -> bytes:
    """What has to come before a request. Who is believed is decided by the address that the server sees us have."""
    if not config.proxy_protocol:
        return b""
    name = client.getsockname()
    ours = str(name[0]) if client.family != socket.AF_UNIX else UNIX
    return PREFACE if TrustedProxies(config.trusted_proxy).trusts(ours) else b""


def _left(deadline: float) -> float:
    """Seconds until then. Raises TimeoutError when there are none: a socket would take 0 for `do not wait`."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _read_head(client: socket.socket, deadline: float) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        client.settimeout(_left(deadline))
        data = client.recv(HEAD_BYTES_MAX)
        if not data:
            raise UnhealthyError("the connection ended without an answer" if not head else "the answer was cut off")
        head += data
        if len(head) > HEAD_BYTES_MAX:
            raise UnhealthyError(f"the answer has no end of its head within {HEAD_BYTES_MAX} bytes")
    return head


def _status(head: bytes) -> int:
    match = _HEAD.match(head)
    if not match:
        raise UnhealthyError(f"the answer is no HTTP: {head[:40]!r}")
    return int(match["status"])
