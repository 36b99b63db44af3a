"""What a setting is, and the rules of a configuration: dataclasses whose fields are settings.

A rule is checked when it is made, by the limits of its fields and by what only it can know. `settings.py` has the
settings of a server, which are declared in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple

from ringserve.config.globs import GlobError, check_references, compile_glob


class ConfigError(ValueError):
    """A setting that cannot be used. The message names it and what would be right.

    place: where it stands in the file, for those who can tell the line: the setting's key; or that of an array of
    tables, the number of the table, from 0, and perhaps a key in it.
    """

    def __init__(self, message: str, *place: str | int) -> None:
        super().__init__(message)
        self.place = place


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


def declare(default: Any, help: str, **rest: Any) -> Any:
    """The field of a setting. default: its value where nothing is given. help, rest: see `Setting`."""
    return field(default=default, metadata={"setting": Setting(help, **rest)})


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


# -- rules ------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\t]*")
_HASH = re.compile(r"\$argon2(?:id|i|d)\$v=\d+\$m=\d+,t=\d+,p=\d+\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
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

    paths: tuple[str, ...] = declare((), "Globs of the paths that get the fields.", metavar="GLOB", required=True)
    fields: tuple[tuple[str, str], ...] = declare(
        (), "Names and values; an empty value takes the field away.", pairs=True, required=True
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs(self.paths, "paths")
        for name, value in self.fields:
            if not _TOKEN.fullmatch(name):
                raise ConfigError(f"fields: {name!r} is no field name; use letters, digits and hyphens", "fields")
            if name.lower() in OURS:
                raise ConfigError(f"fields: {name} says what the server does and cannot be set", "fields")
            if not _FIELD_VALUE.fullmatch(value):
                raise ConfigError(f"fields: the value of {name} has characters other than plain ASCII", "fields")


@dataclass(frozen=True)
class CacheRule:
    """What Cache-Control says of files."""

    paths: tuple[str, ...] = declare((), "Globs of the files that it is for.", metavar="GLOB", required=True)
    control: str = declare("", "The value of Cache-Control, such as `public, max-age=3600`.", required=True)

    def __post_init__(self) -> None:
        check_all(self)
        _check_globs(self.paths, "paths")
        if not _FIELD_VALUE.fullmatch(self.control):
            raise ConfigError("control has characters other than plain ASCII", "control")


@dataclass(frozen=True)
class RedirectRule:
    """Another address for a path."""

    source: str = declare("", "Glob of the paths that moved.", key="from", metavar="GLOB", required=True)
    target: str = declare(
        "", "Where to: a path or an http URL; `$1` is what the first star stood for.", key="to", required=True
    )  # fmt: skip
    status: int = declare(308, "301, 302, 303, 307 or 308.", minimum=301, maximum=308)

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

    source: str = declare("", "Glob of the paths that are answered by another.", key="from", required=True)
    target: str = declare("", "The path of the file; `$1` is what the first star stood for.", key="to", required=True)

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

    paths: tuple[str, ...] = declare(
        (), "Globs of the paths that are protected, and all below them.", metavar="GLOB", required=True
    )
    realm: str = declare("Restricted", "What the browser shows when it asks for name and password.")
    users: tuple[tuple[str, str], ...] = declare(
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
                    f"users: the value of {name!r} is no argon2 hash; `ringserve password` makes one", "users"
                )
