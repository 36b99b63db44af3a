"""The configuration: one declaration of every setting, from which flags, environment variables, the keys of
`ringserve.toml` and what `--check` prints are made.

A setting is a field with its default, its unit in its name, its limits and its reason in one place. `SiteConfig` has
those that can differ between virtual hosts, `Config` those of the server as well. Rules (a table of redirects, say) are
dataclasses whose fields are declared in the same way. Nothing here reads the environment, the disk or the clock.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple

from ringserve.globs import GlobError, check_references, compile_glob


class ConfigError(ValueError):
    """A setting that cannot be used. The message names it and what would be right.

    key: the setting's key as it stands in the file, for those who can tell the line.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class Setting(NamedTuple):
    """What is known of a setting beside its default.

    help: one sentence with the reason. minimum, maximum: inclusive, for numbers. choices: for words.
    metavar: the unit, for the help text. key: its name in the file, where that is not the field's.
    pairs: its value is a table of strings. rule: its value is an array of tables, each one such dataclass.
    required: it has to be given. internal: it is no flag. tuning: it is shown at the end of the help, since hardly
    anybody needs it.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    key: str | None = None
    pairs: bool = False
    rule: Any = None
    required: bool = False
    internal: bool = False
    tuning: bool = False


def _setting(default: Any, help: str, **rest: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(help, **rest)})


# -- rules ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\t]*")
_HASH = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_HOST_NAME = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
# No `$` in the host: what a star stood for is the client's to choose, and would choose where it is sent.
_LOCATION = re.compile(r"(?:https?://[^/?#\s$]+(?=[/?#]|\Z)|/(?!/))[\x21-\x7e]*")

OURS = frozenset(
    (
        "accept-ranges", "allow", "connection", "content-encoding", "content-length", "content-range", "date", "etag",
        "keep-alive", "last-modified", "location", "server", "te", "trailer", "transfer-encoding", "upgrade",
        "www-authenticate",
    )
)  # fmt: skip
"""Fields that say what the server does; a rule that set them would make it lie."""
REDIRECT_STATUSES = (301, 302, 303, 307, 308)


def _check_globs(globs: Iterable[str], key: str) -> None:
    for glob in globs:
        try:
            compile_glob(glob)
        except GlobError as error:
            raise ConfigError(f"{key}: {error}", key) from error


@dataclass(frozen=True)
class HeaderRule:
    """Fields that responses get, whatever their status."""

    paths: tuple[str, ...] = _setting((), "Globs of the paths that get the fields.", metavar="GLOB", required=True)
    fields: tuple[tuple[str, str], ...] = _setting(
        (), "Names and values; an empty value takes the field away.", pairs=True, required=True
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs(self.paths, "paths")
        for name, value in self.fields:
            if not _TOKEN.fullmatch(name):
                raise ConfigError(f"fields: {name!r} is no field name; letters, digits and hyphens are", "fields")
            if name.lower() in OURS:
                raise ConfigError(f"fields: {name} says what the server does and cannot be set", "fields")
            if not _FIELD_VALUE.fullmatch(value):
                raise ConfigError(f"fields: the value of {name} has characters other than plain ASCII", "fields")


@dataclass(frozen=True)
class CacheRule:
    """What Cache-Control says of files."""

    paths: tuple[str, ...] = _setting((), "Globs of the files that it is for.", metavar="GLOB", required=True)
    control: str = _setting("", "The value of Cache-Control, such as `public, max-age=3600`.", required=True)

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs(self.paths, "paths")
        if not _FIELD_VALUE.fullmatch(self.control):
            raise ConfigError("control has characters other than plain ASCII", "control")


@dataclass(frozen=True)
class RedirectRule:
    """Another address for a path."""

    source: str = _setting("", "Glob of the paths that moved.", key="from", metavar="GLOB", required=True)
    target: str = _setting(
        "", "Where to: a path or an http URL; `$1` is what the first star stood for.", key="to", required=True
    )  # fmt: skip
    status: int = _setting(308, "301, 302, 303, 307 or 308.", minimum=301, maximum=308)

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs((self.source,), "from")
        if self.status not in REDIRECT_STATUSES:
            raise ConfigError(f"status is {self.status}; it has to be one of 301, 302, 303, 307, 308", "status")
        if not _LOCATION.fullmatch(self.target):
            raise ConfigError(
                f"to is {self.target!r}; it has to be a path (/new) or a URL (https://host/new), no `$` in its host",
                "to",
            )
        _check_target(self.target, self.source)


@dataclass(frozen=True)
class RewriteRule:
    """Another file for a path; the client sees no difference."""

    source: str = _setting("", "Glob of the paths that are answered by another.", key="from", required=True)
    target: str = _setting("", "The path of the file; `$1` is what the first star stood for.", key="to", required=True)

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs((self.source,), "from")
        if not self.target.startswith("/"):
            raise ConfigError(f"to is {self.target!r}; it has to be a path that begins with a slash", "to")
        _check_target(self.target, self.source)


def _check_target(target: str, source: str) -> None:
    try:
        check_references(target, source)
    except GlobError as error:
        raise ConfigError(f"to: {error}", "to") from error


@dataclass(frozen=True)
class AuthRule:
    """Who may read paths (RFC 7617)."""

    paths: tuple[str, ...] = _setting(
        (), "Globs of the paths that are protected, and all below them.", metavar="GLOB", required=True
    )
    realm: str = _setting("Restricted", "What the browser shows when it asks for name and password.")
    users: tuple[tuple[str, str], ...] = _setting(
        (), "Names, and hashes of passwords as `ringserve password` prints them.", pairs=True, required=True
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs(self.paths, "paths")
        if not _FIELD_VALUE.fullmatch(self.realm) or '"' in self.realm or "\\" in self.realm:
            raise ConfigError("realm has to be plain ASCII without quotes and backslashes", "realm")
        for name, password_hash in self.users:
            if re.search(r"[:\x00-\x1f\x7f]", name):
                raise ConfigError(
                    f"users: the name {name!r} has a colon or a control character, which Basic authentication cannot "
                    "carry",
                    "users",
                )
            if not _HASH.fullmatch(password_hash):
                raise ConfigError(
                    f"users: what stands for {name!r} is no argon2 hash; `ringserve password` makes one", "users"
                )


# -- settings ---------------------------------------------------------------------------------------------------

LATE_LOOKS = 3
"""So many seconds in a row without a word of a worker: fewer may be due to a machine that is loaded."""
INTERRUPTS = ("wait", "busy-poll", "kernel-thread")
"""The names of the ring's strategies (`ring/interrupt.py`), which a configuration does not import; a test holds them
equal."""
WORKERS_MAX = 1024
"""More processes than any machine has processors."""
KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class SiteConfig:
    """How one site is served: what can differ between virtual hosts."""

    directory: str = _setting(".", "The directory that is served.", internal=True)
    listing: bool = _setting(False, "List directories that have no index.html.")
    spa: bool = _setting(
        False, "Answer pages that do not exist with /index.html, for applications that route in the browser."
    )
    clean_urls: bool = _setting(False, "Answer /about with about.html.")
    follow_symlinks: bool = _setting(False, "Follow symbolic links that lead out of the directory.")
    security_headers: bool = _setting(
        False, "Add fields that forbid framing by other sites, plugins, and access to camera, microphone and place."
    )
    cors_origin: tuple[str, ...] = _setting(
        (),
        "Let scripts of this origin (`https://app.example`) read the files; `*` is all; may be given several times.",
        metavar="ORIGIN",
    )  # fmt: skip
    headers: tuple[HeaderRule, ...] = _setting((), "Fields by path.", rule=HeaderRule)
    cache: tuple[CacheRule, ...] = _setting((), "Cache-Control by file; the first that matches.", rule=CacheRule)
    redirects: tuple[RedirectRule, ...] = _setting((), "Paths that moved; the first that matches.", rule=RedirectRule)
    rewrites: tuple[RewriteRule, ...] = _setting(
        (), "Paths answered by other files; the first that matches.", rule=RewriteRule
    )  # fmt: skip
    auth: tuple[AuthRule, ...] = _setting((), "Protected paths; the first that matches.", rule=AuthRule)

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

    names: tuple[str, ...] = _setting(
        (), "Host names; `*.example.org` is every name below it.", metavar="NAME", required=True
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            if not _HOST_NAME.fullmatch(name):
                raise ConfigError(
                    f"names: {name!r} is no host name; lower-case letters, digits, dots, hyphens are, without a port",
                    "names",
                )


@dataclass(frozen=True)
class Config(SiteConfig):
    """How one server is set up. Raises ConfigError when a value is out of its limits.

    Times are seconds, sizes bytes; every limit is inclusive.
    """

    host: tuple[str, ...] = _setting(
        ("localhost",), "Address or name to listen on; may be given several times. `::` and `0.0.0.0` are everybody.",
        metavar="ADDRESS",
    )  # fmt: skip
    port: int = _setting(
        8080, "Port to listen on; 0 lets the kernel pick a free one.", minimum=0, maximum=65535, metavar="PORT"
    )
    workers: str = _setting(
        "1",
        "Processes, each with a ring of its own on one core; `auto` is one for each processor that this one may use.",
        metavar="COUNT",
    )
    worker_timeout_s: int = _setting(
        10,
        "A worker whose loop does not turn for this time is killed, and another is started: 0 is no limit, and 3 the "
        "least.",
        minimum=0, maximum=3600, metavar="SECONDS",
    )  # fmt: skip
    pin_workers: bool = _setting(False, "Keep each worker on a processor of its own.")
    unix: str | None = _setting(None, "Listen on this unix socket, and on no port.", metavar="PATH")
    log_format: str = _setting(
        "combined", "Access log: one line a response, or off.", choices=("common", "combined", "json", "off")
    )
    log_file: str | None = _setting(
        None, "File of the access log, reopened at SIGUSR1; stdout if none is given.", metavar="PATH"
    )
    trusted_proxy: tuple[str, ...] = _setting(
        (),
        "Network (`10.0.0.0/8`), address, or `unix` of proxies that are believed whom they ask for; the log names that "
        "client. May be given several times.",
        metavar="NETWORK",
    )
    proxy_protocol: bool = _setting(
        False, "Connections of trusted proxies begin with the PROXY protocol, version 1 or 2."
    )
    interrupt: str = _setting(
        "wait",
        "How completions are noticed: sleep in the kernel, busy-poll (burns a core), or a kernel thread that takes "
        "submissions (SQPOLL; burns another).",
        choices=INTERRUPTS,
    )
    server_name: str = _setting(
        "ringserve", "Value of the Server field; empty for none.", metavar="TEXT"
    )  # fmt: skip
    connections_max: int = _setting(
        10_000,
        "Connections at a time. For a further one the longest idle one is closed; if none is idle, it gets 503, and "
        "others wait in the kernel's queue. Lowered to what the limit of open files allows, which is said if it is "
        "fewer than asked for, or than 64.",
        minimum=1, maximum=1_000_000, metavar="COUNT",
    )  # fmt: skip
    header_timeout_s: float = _setting(
        10.0, "A request has to arrive within this time of its first byte (408).", minimum=0.01, maximum=3600,
        metavar="SECONDS",
    )  # fmt: skip
    keep_alive_timeout_s: float = _setting(
        75.0, "A connection without a request is closed after this time.", minimum=0.01, maximum=86400,
        metavar="SECONDS",
    )  # fmt: skip
    write_timeout_s: float = _setting(
        60.0,
        "A connection whose client acknowledges nothing of an answer for this time is closed; one that took a part of "
        "it and then stops, after up to three times as long.",
        minimum=0.01, maximum=86400, metavar="SECONDS",
    )  # fmt: skip
    linger_timeout_s: float = _setting(
        2.0,
        "After the last answer, what the client still sends is thrown away until it is silent for this time, or for 30 "
        "seconds, so that it can read the answer.",
        minimum=0.01, maximum=60, tuning=True, metavar="SECONDS",
    )  # fmt: skip
    rate_bytes_min: int = _setting(
        100,
        "A client that acknowledges fewer bytes a second than this is closed, when the time that they bought is over; "
        "0 is no limit.",
        minimum=0, maximum=1024 * MIB, tuning=True, metavar="BYTES",
    )  # fmt: skip
    requests_max: int = _setting(
        100_000, "Requests on a connection; it ends after the last, so that clients spread anew.", minimum=1,
        maximum=1_000_000_000, tuning=True, metavar="COUNT",
    )  # fmt: skip
    drain_timeout_s: float = _setting(
        10.0, "After SIGTERM, responses in flight have this time to finish.", minimum=0, maximum=3600,
        metavar="SECONDS",
    )  # fmt: skip
    head_bytes_max: int = _setting(
        32 * KIB, "Largest request head (431).", minimum=1 * KIB, maximum=1 * MIB, metavar="BYTES"
    )
    target_bytes_max: int = _setting(
        8 * KIB, "Longest request target (414).", minimum=128, maximum=64 * KIB, tuning=True, metavar="BYTES"
    )
    fields_max: int = _setting(
        100, "Most header fields in a request (431).", minimum=8, maximum=10_000, tuning=True, metavar="COUNT"
    )
    cached_file_bytes_max: int = _setting(
        256 * KIB, "Files up to this size are kept in memory; larger ones are spliced.", minimum=0, maximum=16 * MIB,
        metavar="BYTES",
    )  # fmt: skip
    cache_bytes_max: int = _setting(
        64 * MIB, "Memory for files, all together.", minimum=0, maximum=64 * KIB * MIB, metavar="BYTES"
    )
    cached_files_max: int = _setting(
        16_384, "Paths remembered, missing ones included.", minimum=1, maximum=10_000_000, tuning=True, metavar="COUNT"
    )
    open_files_max: int = _setting(
        512, "Files too large for memory that are kept open.", minimum=1, maximum=100_000, tuning=True, metavar="COUNT"
    )
    pipes_max: int = _setting(
        64, "Pipes that carry files to sockets; a reader that stalls gives its pipe up.", minimum=1, maximum=4096,
        tuning=True, metavar="COUNT",
    )  # fmt: skip
    pipe_bytes: int = _setting(
        512 * KIB,
        "Size of such a pipe, as far as the system grants it. More keeps others waiting for what a disk gives in one "
        "turn; less pays for more calls.",
        minimum=4 * KIB, maximum=64 * MIB, tuning=True, metavar="BYTES",
    )  # fmt: skip
    buffers: int = _setting(
        256, "Provided buffers for receives; a power of two.", minimum=1, maximum=32768, tuning=True, metavar="COUNT"
    )
    buffer_bytes: int = _setting(
        4 * KIB, "Size of a provided buffer.", minimum=256, maximum=1 * MIB, tuning=True, metavar="BYTES"
    )
    completion_entries: int = _setting(
        8192, "Size of the completion queue.", minimum=2, maximum=65536, tuning=True, metavar="COUNT"
    )
    kernel_workers_max: int = _setting(
        8, "Kernel threads for operations that wait for a disk.", minimum=1, maximum=1024, tuning=True, metavar="COUNT"
    )
    virtual_host: tuple[HostConfig, ...] = _setting(
        (), "Sites by the name that is asked for; what one does not say is as for the whole server.", rule=HostConfig
    )
    hot_path: bool = _setting(
        True, "Answer remembered requests by the shortcut; off only to compare it with the general path.", internal=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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
        for network in self.trusted_proxy:
            if network != "unix":
                try:
                    ipaddress.ip_network(network)
                except ValueError as error:
                    raise ConfigError(
                        f"trusted-proxy is {network!r}; it has to be a network such as 10.0.0.0/8, an address, or unix",
                        "trusted-proxy",
                    ) from error
        if self.proxy_protocol and not self.trusted_proxy:
            raise ConfigError(
                "proxy-protocol needs trusted-proxy: whom to believe what the PROXY line says", "proxy-protocol"
            )
        names = [name for host in self.virtual_host for name in host.names]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"virtual-host: the name {twice!r} stands for two hosts", "virtual-host")

    def worker_count(self, available: int) -> int:
        """How many workers there are. available: the processors for this process, which is what `auto` means."""
        return available if self.workers == "auto" else int(self.workers)


def setting_of(declared: Field[Any]) -> Setting:
    """The setting behind a field of `Config` or of a rule."""
    setting: Setting = declared.metadata["setting"]
    return setting


def key_of(declared: Field[Any]) -> str:
    """How a setting is called in the file, and, with two hyphens, on the command line."""
    return setting_of(declared).key or declared.name.removesuffix("_s").replace("_", "-")


def check_all(declaring: Any) -> None:
    """Raise ConfigError if a value of a dataclass of settings is out of its limits."""
    for declared in fields(declaring):
        check(declared, getattr(declaring, declared.name))


def check(declared: Field[Any], value: Any) -> None:
    """Raise ConfigError if `value` is out of the limits of its setting."""
    setting, key = setting_of(declared), key_of(declared)
    if setting.required and not value:
        raise ConfigError(f"{key} is missing; it has to be given: {setting.help}", key)
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{key} is {value!r}; it has to be one of {', '.join(setting.choices)}", key)
    # `not >=` and not `<`: what is not a number at all fails both comparisons, and the first of these.
    if setting.minimum is not None and not value >= setting.minimum:
        raise ConfigError(f"{key} is {value}; it has to be at least {setting.minimum}", key)
    if setting.maximum is not None and value > setting.maximum:
        raise ConfigError(f"{key} is {value}; it has to be at most {setting.maximum}", key)


def settings() -> Mapping[str, Field[Any]]:
    """The settings that a user gives as flags or variables, by field name, in the order of their declaration: all but
    the internal ones, and the rules, which only the file can give.
    """
    return {
        declared.name: declared
        for declared in fields(Config)
        if not setting_of(declared).internal and setting_of(declared).rule is None
    }
