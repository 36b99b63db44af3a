"""The configuration: one declaration of every setting, from which flags and environment variables are made.

A setting is a field of `Config` with its default, its unit in its name, its limits and its reason in one place;
`cli.py` turns each into `--flag` and `RINGSERVE_FLAG`. Nothing here reads the environment, the disk or the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple

from ringserve.ring.interrupt import STRATEGIES


class ConfigError(ValueError):
    """A setting that cannot be used. The message names it and what would be right."""


class Setting(NamedTuple):
    """What is known of a setting beside its default.

    help: one sentence with the reason. minimum, maximum: inclusive, for numbers. choices: for words.
    metavar: the unit, for the help text.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    internal: bool = False


def _setting(default: Any, help: str, **rest: Any) -> Any:
    return field(default=default, metadata={"setting": Setting(help, **rest)})


KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True)
class Config:
    """How one server is set up. Raises ConfigError when a value is out of its limits.

    Times are seconds, sizes bytes; every limit is inclusive.
    """

    directory: str = _setting(".", "The directory that is served.", internal=True)
    host: tuple[str, ...] = _setting(
        ("localhost",), "Address or name to listen on; may be given several times. `::` and `0.0.0.0` are everybody.",
        metavar="ADDRESS",
    )  # fmt: skip
    port: int = _setting(
        8080, "Port to listen on; 0 lets the kernel pick a free one.", minimum=0, maximum=65535, metavar="PORT"
    )
    unix: str | None = _setting(None, "Listen on this unix socket, and on no port.", metavar="PATH")
    log_format: str = _setting(
        "combined", "Access log on stdout: one line a response, or off.", choices=("combined", "json", "off")
    )
    interrupt: str = _setting(
        "wait",
        "How completions are noticed: sleep in the kernel, busy-poll (burns a core), or a kernel thread that takes "
        "submissions (SQPOLL; burns another).",
        choices=tuple(STRATEGIES),
    )
    server_name: str = _setting(
        "ringserve", "Value of the Server field; empty for none.", metavar="TEXT"
    )  # fmt: skip
    connections_max: int = _setting(
        10_000,
        "Connections at a time; further ones get 503, and then wait in the kernel's queue. Lowered to what the limit "
        "of open files allows.",
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
        60.0, "A connection whose client takes nothing for this time is closed.", minimum=0.01, maximum=86400,
        metavar="SECONDS",
    )  # fmt: skip
    linger_timeout_s: float = _setting(
        2.0, "After an error, what the client still sends is read for this time, so that it can read the answer.",
        minimum=0.01, maximum=60, metavar="SECONDS",
    )  # fmt: skip
    drain_timeout_s: float = _setting(
        10.0, "After SIGTERM, responses in flight have this time to finish.", minimum=0, maximum=3600,
        metavar="SECONDS",
    )  # fmt: skip
    head_bytes_max: int = _setting(
        32 * KIB, "Largest request head (431).", minimum=1 * KIB, maximum=1 * MIB, metavar="BYTES"
    )
    target_bytes_max: int = _setting(
        8 * KIB, "Longest request target (414).", minimum=128, maximum=64 * KIB, metavar="BYTES"
    )
    fields_max: int = _setting(
        100, "Most header fields in a request (431).", minimum=8, maximum=10_000, metavar="COUNT"
    )
    body_bytes_max: int = _setting(
        1 * MIB, "Largest request body that is read and dropped (413).", minimum=0, maximum=1024 * MIB, metavar="BYTES"
    )
    cached_file_bytes_max: int = _setting(
        256 * KIB, "Files up to this size are kept in memory; larger ones are spliced.", minimum=0, maximum=16 * MIB,
        metavar="BYTES",
    )  # fmt: skip
    cache_bytes_max: int = _setting(
        64 * MIB, "Memory for files, all together.", minimum=0, maximum=64 * KIB * MIB, metavar="BYTES"
    )
    cached_files_max: int = _setting(
        16_384, "Paths remembered, missing ones included.", minimum=1, maximum=10_000_000, metavar="COUNT"
    )
    open_files_max: int = _setting(
        512, "Files too large for memory that are kept open.", minimum=1, maximum=100_000, metavar="COUNT"
    )
    pipes_max: int = _setting(
        64, "Pipes that carry files to sockets; a reader that stalls gives its pipe up.", minimum=1, maximum=4096,
        metavar="COUNT",
    )  # fmt: skip
    pipe_bytes: int = _setting(
        128 * KIB,
        "Size of such a pipe, as far as the system grants it. More keeps the client waiting for what is in one turn; "
        "less pays for more turns.",
        minimum=4 * KIB, maximum=64 * MIB, metavar="BYTES",
    )  # fmt: skip
    buffers: int = _setting(
        256, "Provided buffers for receives; a power of two.", minimum=1, maximum=32768, metavar="COUNT"
    )
    buffer_bytes: int = _setting(4 * KIB, "Size of a provided buffer.", minimum=256, maximum=1 * MIB, metavar="BYTES")
    completion_entries: int = _setting(8192, "Size of the completion queue.", minimum=2, maximum=65536, metavar="COUNT")
    kernel_workers_max: int = _setting(
        8, "Kernel threads for operations that wait for a disk.", minimum=1, maximum=1024, metavar="COUNT"
    )
    hot_path: bool = _setting(
        True, "Answer remembered requests by the shortcut; off only to compare it with the general path.", internal=True
    )

    def __post_init__(self) -> None:
        for declared in fields(self):
            check(declared, getattr(self, declared.name))
        if self.buffers & (self.buffers - 1):
            raise ConfigError(f"buffers is {self.buffers}; it has to be a power of two, such as 256")
        if any(ord(character) < 0x20 or ord(character) > 0x7E for character in self.server_name):
            raise ConfigError("server_name has characters that a header field cannot carry; use plain ASCII")


def setting_of(declared: Field[Any]) -> Setting:
    """The setting behind a field of `Config`."""
    setting: Setting = declared.metadata["setting"]
    return setting


def check(declared: Field[Any], value: Any) -> None:
    """Raise ConfigError if `value` is out of the limits of its setting."""
    setting = setting_of(declared)
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{declared.name} is {value!r}; it has to be one of {', '.join(setting.choices)}")
    # `not >=` and not `<`: what is not a number at all fails both comparisons, and the first of these.
    if setting.minimum is not None and not value >= setting.minimum:
        raise ConfigError(f"{declared.name} is {value}; it has to be at least {setting.minimum}")
    if setting.maximum is not None and value > setting.maximum:
        raise ConfigError(f"{declared.name} is {value}; it has to be at most {setting.maximum}")


def settings() -> Mapping[str, Field[Any]]:
    """The settings that a user gives as flags or variables, by field name, in the order of their declaration."""
    return {declared.name: declared for declared in fields(Config) if not setting_of(declared).internal}
