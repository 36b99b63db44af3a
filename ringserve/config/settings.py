"""The configuration: one declaration of every setting, from which flags, environment variables, the keys of
`ringserve.toml` and what `--check` prints are made.

A setting is a field with its default, its unit in its name, its limits and its reason in one place. `SiteConfig` has
those that can differ between virtual hosts, `ListenConfig` those that can differ between listeners, `Config` those of
the server as well. Rules (a table of redirects, say) are dataclasses whose fields are declared in the same way
(`rules.py`). Nothing here reads the environment, the disk or the clock.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, NamedTuple

from ringserve.config.rules import (
    AuthRule,
    CacheRule,
    ConfigError,
    HeaderRule,
    RedirectRule,
    RewriteRule,
    check_all,
    declare,
    setting_of,
)

LATE_LOOKS = 3
"""So many seconds in a row without a word of a worker: fewer may be due to a machine that is loaded."""
INTERRUPTS = ("wait", "busy-poll", "kernel-thread")
"""The names of the ring's strategies (`ring/interrupt.py`), which a configuration does not import; a test holds them
equal."""
WORKERS_MAX = 1024
"""More processes than any machine has processors."""
KIB = 1024
MIB = 1024 * KIB
WHERE = ("host", "port", "unix")
"""The settings that say where to listen: once, for the whole server or in each [[listen]]."""

_HOST_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")


class Address(NamedTuple):
    """A host and a port, or no host and the path of a unix socket."""

    host: str
    port: int
    unix: str | None

    def __str__(self) -> str:
        return f"{self.host} port {self.port}" if self.unix is None else self.unix


@dataclass(frozen=True)
class SiteConfig:
    """How one site is served: what can differ between virtual hosts."""

    directory: str = declare(".", "The directory that is served.", internal=True)
    listing: bool = declare(False, "List directories that have no index.html.")
    spa: bool = declare(
        False, "Answer pages that do not exist with /index.html, for applications that route in the browser."
    )
    clean_urls: bool = declare(False, "Answer /about with about.html.")
    follow_symlinks: bool = declare(False, "Follow symbolic links that lead out of the directory.")
    security_headers: bool = declare(
        False, "Add fields that forbid framing by other sites, plugins, and access to camera, microphone and place."
    )
    cors_origin: tuple[str, ...] = declare(
        (),
        "Let scripts of this origin (`https://app.example`) read the files; `*` is all; may be given several times.",
        metavar="ORIGIN",
    )  # fmt: skip
    headers: tuple[HeaderRule, ...] = declare((), "Fields by path.", rule=HeaderRule)
    cache: tuple[CacheRule, ...] = declare((), "Cache-Control by file; the first that matches.", rule=CacheRule)
    redirects: tuple[RedirectRule, ...] = declare((), "Paths that moved; the first that matches.", rule=RedirectRule)
    rewrites: tuple[RewriteRule, ...] = declare(
        (), "Paths answered by other files; the first that matches.", rule=RewriteRule
    )  # fmt: skip
    auth: tuple[AuthRule, ...] = declare((), "Protected paths; the first that matches.", rule=AuthRule)

    def __post_init__(self) -> None:
        check_all(self)
        for origin in self.cors_origin:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s,]+", origin):
                raise ConfigError(
                    f"cors-origin is {origin!r}; it has to be `*`, or scheme, host and port such as "
                    "https://app.example:8443, without a path",
                    "cors-origin",
                )


@dataclass(frozen=True)
class HostConfig(SiteConfig):
    """A virtual host: a site with names of its own."""

    names: tuple[str, ...] = declare(
        (), "Host names; `*.example.org` is every name below it.", metavar="NAME", required=True
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            if not _HOST_NAME.fullmatch(name):
                raise ConfigError(
                    f"names: {name!r} is no host name; use lower-case letters, digits, dots and hyphens, and no port",
                    "names",
                )


@dataclass(frozen=True)
class ListenConfig:
    """Where clients come in, who they are, and what they may take: what can differ between listeners."""

    host: tuple[str, ...] = declare(
        ("localhost",),
        "Address or name to listen on; may be given several times. `0.0.0.0` and `::` are all addresses of this "
        "machine.",
        metavar="ADDRESS",
    )  # fmt: skip
    port: int = declare(
        8080, "Port to listen on; 0 lets the kernel pick a free one.", minimum=0, maximum=65535, metavar="PORT"
    )
    unix: str | None = declare(None, "Listen on this unix socket, and on no port.", metavar="PATH")
    trusted_proxy: tuple[str, ...] = declare(
        (),
        "Network (`10.0.0.0/8`), address, or `unix` of proxies to trust: the log names the client that they name. May "
        "be given several times.",
        metavar="NETWORK",
    )
    proxy_protocol: bool = declare(
        False, "Connections of trusted proxies begin with the PROXY protocol, version 1 or 2."
    )
    header_timeout_s: float = declare(
        10.0, "A request has to arrive within this time of its first byte (408).", minimum=0.01, maximum=3600,
        metavar="SECONDS",
    )  # fmt: skip
    keep_alive_timeout_s: float = declare(
        75.0, "A connection without a request is closed after this time.", minimum=0.01, maximum=86400,
        metavar="SECONDS",
    )  # fmt: skip
    answer_timeout_s: float = declare(
        30.0,
        "What answers a request has to be found within this time (503): a slow disk, or a queue of passwords.",
        minimum=0.01, maximum=3600, tuning=True, metavar="SECONDS",
    )  # fmt: skip
    write_timeout_s: float = declare(
        60.0,
        "A connection is closed if its client acknowledges nothing of a response for this time. If the client took a "
        "part of it and then stops, this takes up to three times as long.",
        minimum=0.01, maximum=86400, metavar="SECONDS",
    )  # fmt: skip
    linger_timeout_s: float = declare(
        2.0,
        "After its last response a connection stays open, so that the client can read it, until the client sends "
        "nothing for this time, and for 30 seconds at most. What it sends is thrown away.",
        minimum=0.01, maximum=60, tuning=True, metavar="SECONDS",
    )  # fmt: skip
    rate_bytes_min: int = declare(
        100,
        "A connection is closed if its client acknowledges fewer bytes a second than this; a client that was faster "
        "before may be slower for a while. 0 is no limit.",
        minimum=0, maximum=1024 * MIB, tuning=True, metavar="BYTES",
    )  # fmt: skip
    requests_max: int = declare(
        100_000, "Requests on a connection. The last one ends it, so that clients spread anew.", minimum=1,
        maximum=1_000_000_000, tuning=True, metavar="COUNT",
    )  # fmt: skip
    head_bytes_max: int = declare(
        32 * KIB, "Largest request head (431).", minimum=1 * KIB, maximum=1 * MIB, metavar="BYTES"
    )
    target_bytes_max: int = declare(
        8 * KIB, "Longest request target (414).", minimum=128, maximum=64 * KIB, tuning=True, metavar="BYTES"
    )
    fields_max: int = declare(
        100, "Most header fields in a request (431).", minimum=8, maximum=10_000, tuning=True, metavar="COUNT"
    )

    def __post_init__(self) -> None:
        check_all(self)
        for network in self.trusted_proxy:
            if network != "unix":
                try:
                    ipaddress.ip_network(network)
                except ValueError as error:
                    raise ConfigError(
                        f"trusted-proxy is {network!r}; it has to be a network such as 10.0.0.0/8, an address, or unix",
                        "trusted-proxy",
                    ) from error


@dataclass(frozen=True)
class ListenRule(ListenConfig):
    """One listener: addresses that are served alike. The first of `systemd`, `unix`, and `host` with `port` that is
    given says where it listens.
    """

    systemd: str | None = declare(
        None, "Bind nothing, and take the sockets that systemd hands over by this name (FileDescriptorName=)."
    )
    log: bool = declare(True, "Write what is answered here to the access log.")

    @property
    def addresses(self) -> tuple[Address, ...]:
        """What is to be bound, each once."""
        if self.systemd is not None:
            return ()
        if self.unix is not None:
            return (Address("", 0, self.unix),)
        return tuple(Address(host, self.port, None) for host in dict.fromkeys(self.host))


@dataclass(frozen=True)
class Config(ListenConfig, SiteConfig):
    """How one server is set up. Raises ConfigError when a value is out of its limits.

    Times are seconds, sizes bytes; every limit is inclusive.
    """

    workers: str = declare(
        "1",
        "Worker processes, each with one thread and one ring; `auto` starts one for each processor that it may use.",
        metavar="COUNT",
    )
    worker_timeout_s: int = declare(
        10,
        "A worker whose loop does not turn for this time is killed and replaced. The least is 3; 0 is no limit.",
        minimum=0, maximum=3600, metavar="SECONDS",
    )  # fmt: skip
    pin_workers: bool = declare(False, "Keep each worker on a processor of its own.")
    log_format: str = declare(
        "combined", "Access log: one line a response, or off.", choices=("common", "combined", "json", "off")
    )
    log_file: str | None = declare(
        None, "File of the access log, reopened at SIGUSR1; stdout if none is given.", metavar="PATH"
    )
    interrupt: str = declare(
        "wait",
        "How the server waits for the kernel: asleep, by busy polling (keeps a core busy), or with a kernel thread "
        "that takes submissions (SQPOLL; keeps a second core busy).",
        choices=INTERRUPTS,
    )
    server_name: str = declare(
        "ringserve", "Value of the Server field; empty for none.", metavar="TEXT"
    )  # fmt: skip
    connections_max: int = declare(
        10_000,
        "Connections at a time. A client beyond this takes the place of the longest idle one; if none is idle, it gets "
        "503, and others wait in the kernel's queue. The limit of open files can lower the number; the server says so "
        "if it is fewer than you asked for, or than 64.",
        minimum=1, maximum=1_000_000, metavar="COUNT",
    )  # fmt: skip
    drain_timeout_s: float = declare(
        10.0, "After SIGTERM, responses in flight have this time to finish.", minimum=0, maximum=3600,
        metavar="SECONDS",
    )  # fmt: skip
    cached_file_bytes_max: int = declare(
        256 * KIB, "Files up to this size are kept in memory; larger ones are spliced.", minimum=0, maximum=16 * MIB,
        metavar="BYTES",
    )  # fmt: skip
    cache_bytes_max: int = declare(
        0,
        "Memory of a worker for what is known of files, bytes and names included; responses and the heads of requests "
        "have one and a half times as much; 0: a tenth of what the server may use, by its control group or the "
        "machine, divided by the workers, and 1 GiB at most.",
        minimum=0, maximum=64 * KIB * MIB, metavar="BYTES",
    )  # fmt: skip
    cached_files_max: int = declare(
        10_000_000, "Paths remembered at most, where memory would allow more.", minimum=1, maximum=10_000_000,
        tuning=True, metavar="COUNT",
    )  # fmt: skip
    open_files_max: int = declare(
        512, "Files too large for memory that are kept open.", minimum=1, maximum=100_000, tuning=True, metavar="COUNT"
    )
    pipes_max: int = declare(
        64, "Pipes that carry files to sockets; a reader that stalls gives its pipe up.", minimum=1, maximum=4096,
        tuning=True, metavar="COUNT",
    )  # fmt: skip
    pipe_bytes: int = declare(
        512 * KIB,
        "Size of such a pipe, as far as the system grants it. With a larger one, other clients wait longer for their "
        "turn; with a smaller one, a file takes more calls.",
        minimum=4 * KIB, maximum=64 * MIB, tuning=True, metavar="BYTES",
    )  # fmt: skip
    buffers: int = declare(
        256, "Provided buffers for receives; a power of two.", minimum=1, maximum=32768, tuning=True, metavar="COUNT"
    )
    buffer_bytes: int = declare(
        4 * KIB, "Size of a provided buffer.", minimum=256, maximum=1 * MIB, tuning=True, metavar="BYTES"
    )
    completion_entries: int = declare(
        8192, "Size of the completion queue.", minimum=2, maximum=65536, tuning=True, metavar="COUNT"
    )
    kernel_workers_max: int = declare(
        8, "Kernel threads for operations that wait for a disk.", minimum=1, maximum=1024, tuning=True, metavar="COUNT"
    )
    virtual_host: tuple[HostConfig, ...] = declare(
        (), "Sites by host name; a setting that one does not give is that of the whole server.", rule=HostConfig
    )
    listen: tuple[ListenRule, ...] = declare(
        (),
        "Listeners, each with limits of its own; a setting that one does not give is that of the whole server.",
        rule=ListenRule,
    )
    hot_path: bool = declare(
        True, "Answer remembered requests by the shortcut; off only to compare it with the general path.", internal=True
    )

    def __post_init__(self) -> None:
        ListenConfig.__post_init__(self)
        SiteConfig.__post_init__(self)
        if self.workers != "auto" and not (self.workers.isascii() and self.workers.isdigit()):
            raise ConfigError(f"workers is {self.workers!r}; it has to be a number, or auto", "workers")
        if self.workers != "auto" and not 1 <= int(self.workers) <= WORKERS_MAX:
            raise ConfigError(
                f"workers is {self.workers}; it has to be at least 1 and at most {WORKERS_MAX}", "workers"
            )
        if 0 < self.worker_timeout_s < LATE_LOOKS:
            raise ConfigError(
                f"worker-timeout is {self.worker_timeout_s}; it has to be at least {LATE_LOOKS}, since a loaded "
                "machine keeps a worker from running for a moment, or 0 for no limit",
                "worker-timeout",
            )
        if self.buffers & (self.buffers - 1):
            raise ConfigError(f"buffers is {self.buffers}; it has to be a power of two, such as 256", "buffers")
        if any(ord(character) < 0x20 or ord(character) > 0x7E for character in self.server_name):
            raise ConfigError(
                "server-name has characters that a header field cannot carry; use plain ASCII", "server-name"
            )
        for number, rule in enumerate(self.listen or (self,)):
            if rule.proxy_protocol and not rule.trusted_proxy:
                raise ConfigError(
                    "proxy-protocol needs trusted-proxy, which says whose PROXY line is believed",
                    *(("listen", number) if self.listen else ()),
                    "proxy-protocol",
                )
        if twice := _twice(host.names for host in self.virtual_host):
            number, name = twice
            raise ConfigError(f"the name {name!r} is given to two hosts", "virtual-host", number, "names")
        if twice := _twice(rule.addresses or (rule.systemd,) for rule in self.listen):
            number, address = twice
            raise ConfigError(f"{address} is in a [[listen]] already", "listen", number)

    @property
    def listeners(self) -> tuple[ListenRule, ...]:
        """Where clients come in: what each [[listen]] says, or the one that flags and defaults make. Never empty."""
        whole = {each.name: getattr(self, each.name) for each in fields(ListenConfig)}
        return self.listen or (ListenRule(**whole),)

    def worker_count(self, available: int) -> int:
        """How many workers there are. available: the processors for this process, which is what `auto` means."""
        return available if self.workers == "auto" else int(self.workers)


def _twice(lists: Iterable[tuple[Any, ...]]) -> tuple[int, Any] | None:
    """What is in two of the lists, or in one of them twice, and the number of the second."""
    seen: set[Any] = set()
    for number, each in enumerate(lists):
        for value in each:
            if value in seen:
                return number, value
            seen.add(value)
    return None


def settings() -> Mapping[str, Field[Any]]:
    """The settings that a user gives as flags or variables, by field name, in the order of their declaration: all but
    the internal ones, and the rules, which only the file can give.
    """
    return {
        declared.name: declared
        for declared in fields(Config)
        if not setting_of(declared).internal and setting_of(declared).rule is None
    }
