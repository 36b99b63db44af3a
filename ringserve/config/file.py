"""`ringserve.toml`: read into the values of settings, rules, virtual hosts and listeners; and what is in force, written
as one.

The keys, and what they take, follow from the declarations in `settings.py`. tomllib parses, and does not tell where a
key stood; so `Source` looks for the line when there is an error to report.

`render` writes by hand. tomli-w cannot write the comments that say where each value came from, and what it would do
beside them is the ten lines of `_written`.
"""

from __future__ import annotations

import codecs
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import partial
from typing import Any

from ringserve.config.rules import AuthRule, ConfigError, check, key_of, setting_of
from ringserve.config.settings import WHERE, Config, HostConfig, ListenConfig, ListenRule, SiteConfig

DEFAULT_NAME = "ringserve.toml"
FILE_BYTES_MAX = 1024 * 1024
"""Some 10,000 redirects. What is larger is another file, or /dev/zero."""
HASH_NOT_SHOWN = "(hash not shown)"
"""What `--check` prints goes to terminals and logs."""
INTEGER_MAX = 2**63 - 1
"""Of TOML. tomllib takes any in hexadecimal, and Python refuses to print a very large one."""

Place = tuple[str | int, ...]
"""Where a value is in a document: keys of tables, and indexes of arrays."""
INHERITING: Mapping[Any, Any] = {HostConfig: SiteConfig, ListenRule: ListenConfig}
"""Tables that have what they do not give from the whole server, each with the settings that it may have so."""


class ConfigFileError(ConfigError):
    """A file that cannot be used. The message begins with its name, and with the line if there is one."""


def shown(text: str, characters_max: int = 200) -> str:
    """What a user wrote, as it can be quoted to him: on one line, and not endless."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= characters_max else text[:characters_max] + "..."


# -- which line a key stands in ---------------------------------------------------------------------------------

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
"""What tomllib's messages end with. From Python 3.14 on there are attributes of the same content."""
_ANY_HEADER = re.compile(r"[ \t]*\[")
_ARRAY_HEADER = re.compile(r"[ \t]*\[\[")

HINTS = {
    "Invalid value": "a string stands in quotes, and true and false in lower case",
    "Cannot overwrite a value": "the key is given a second time; leave one of the two out",
    "Cannot declare": "it is there already; leave one out, or give each double brackets if there are several",
}
"""What to do about an error of tomllib's, by how its message begins."""


class Source:
    """The file, as errors and comments refer to it. name: as shown; empty if there is none.

    Lines are found as people write a file: a table below its own header, and a key at the beginning of its line. What
    stands elsewhere has no line, and errors then count the tables.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = shown(name)
        self._lines = text.removesuffix("\n").split("\n")

    def _line_of(self, place: Place) -> int | None:
        """Counted from 1: of a value, or of the header above it; None if there is neither."""
        start, header, keys = 0, "", list(place)
        for index, part in enumerate(place):
            if isinstance(part, int):
                header = ".".join(each for each in place[:index] if isinstance(each, str))
                pattern = re.compile(rf"[ \t]*\[\[\s*{re.escape(header)}\s*\]\]")
                found = [number for number in range(start, len(self._lines)) if pattern.match(self._lines[number])]
                if len(found) <= part:
                    return None
                start, keys = found[part] + 1, list(place[index + 1 :])
        ends = _ARRAY_HEADER if header else _ANY_HEADER
        end = next((number for number in range(start, len(self._lines)) if ends.match(self._lines[number])), None)
        while keys:
            name = re.escape(str(keys[-1]))
            key = re.compile(rf"""[ \t]*(?:\[?\[?[\w.-]+\.)?["']?{name}["']?\s*[.=\]]""")
            # A table of its own has its header, which can be anywhere.
            table = re.compile(rf"[ \t]*\[\[?\s*{re.escape(header + '.' if header else '')}{name}\s*[.\]]")
            for pattern, last in ((key, end), (table, None)):
                for number, line in enumerate(self._lines[start:last], start=start):
                    if pattern.match(line):
                        return number + 1
            keys.pop()
        return start or None

    def place(self, *place: str | int) -> str:
        """`ringserve.toml:7` for a value, or the name alone where its line is not known."""
        line = self._line_of(place)
        return self.name if line is None else f"{self.name}:{line}"

    def error(self, place: Place, message: str) -> ConfigFileError:
        """The error of a value. The message is given the table that it is about, if that is not the whole file."""
        depth = max((index for index, part in enumerate(place) if isinstance(part, int)), default=0)
        table = ".".join(part for part in place[:depth] if isinstance(part, str))
        line = self._line_of(place)
        number = f"number {int(place[depth]) + 1}: " if table and line is None else ""
        return ConfigFileError(f"{self.place(*place)}: {f'[[{table}]] {number}' if table else ''}{message}")

    def syntax_error(self, error: Exception) -> ConfigFileError:
        """What tomllib, or the interpreter under it, did not take."""
        if isinstance(error, RecursionError):
            return ConfigFileError(f"{self.name}: it is nested too deeply")
        found = _PLACE.search(str(error))
        if found is None:
            return ConfigFileError(f"{self.name}: it has a number that is too large")
        message = _PLACE.sub("", str(error))
        message += next((f"; {hint}" for begin, hint in HINTS.items() if message.startswith(begin)), "")
        where = f"{found[1]}: column {found[2]}" if found[1] else f"{len(self._lines)}"
        return ConfigFileError(f"{self.name}:{where}: {message}")


# -- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """What a file says.

    values: settings of the whole server, by field. rules: those of the whole server, by field. hosts, listen: for each
    virtual host and listener, what it gives itself, by field.
    """

    source: Source
    values: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hosts: tuple[Mapping[str, Any], ...] = ()
    listen: tuple[Mapping[str, Any], ...] = ()

    def configure(self, values: Mapping[str, Any]) -> Config:
        """The configuration in force.

        values: of the settings of the whole server, by field: what flags, variables, this file and defaults come to. A
        table that inherits has them where it gives none. Raises ConfigError for those that cannot be used.
        """
        whole = {**self.rules, **values}
        try:
            return Config(
                **whole,
                virtual_host=_inherit(HostConfig, whole, self.hosts),
                listen=_inherit(ListenRule, whole, self.listen),
            )
        except ConfigError as error:
            if len(error.place) > 1:
                raise self.source.error(error.place, str(error)) from error
            raise


def _inherit(kind: Any, whole: Mapping[str, Any], tables: tuple[Mapping[str, Any], ...]) -> tuple[Any, ...]:
    inherited = {each.name: whole[each.name] for each in fields(INHERITING[kind]) if each.name in whole}
    return tuple(kind(**{**inherited, **given}) for given in tables)


NO_FILE = Loaded(Source("", ""))


def load(path: str) -> Loaded:
    """Read a configuration file.

    path: also what its `directory` settings are relative to; FILE_BYTES_MAX at most. Raises ConfigFileError.
    """
    import tomllib

    text = _read(path)
    source = Source(path, text)
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise source.syntax_error(error) from error
    return _Reader(source, posixpath.dirname(path)).read(document)


def _read(path: str) -> str:
    name = shown(path)
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigFileError(f"{name}: there is no such file; give one that exists, or '' for none") from error
    except IsADirectoryError as error:
        raise ConfigFileError(f"{name} is a directory; give the file, such as {name}/{DEFAULT_NAME}") from error
    except PermissionError as error:
        raise ConfigFileError(f"{name}: no permission to read it; `chmod` it, or run as a user who may") from error
    except OSError as error:
        raise ConfigFileError(f"{name}: cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise ConfigFileError(f"{name} has more than {FILE_BYTES_MAX} bytes, and is hardly a configuration")
    # Some editors begin what they save as UTF-8 with a byte order mark.
    data = data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError(f"{name}:{line}: this is not UTF-8; save the file in that encoding") from error


class _Reader:
    """Turns a parsed document into `Loaded`, or raises ConfigFileError."""

    def __init__(self, source: Source, base: str) -> None:
        self._source = source
        self._base = base

    def read(self, document: dict[str, Any]) -> Loaded:
        values = self._table(Config, document, ())
        hosts, listen = values.pop("virtual_host", ()), values.pop("listen", ())
        rules = {each.name: values.pop(each.name) for each in fields(Config) if _is_rule(each) and each.name in values}
        return Loaded(self._source, values, rules, hosts, listen)

    def _table(self, kind: Any, table: dict[str, Any], place: Place) -> dict[str, Any]:
        """The values of a table for the fields of a dataclass of settings."""
        by_key = _by_key(kind)
        values: dict[str, Any] = {}
        for key, value in table.items():
            declared = by_key.get(key)
            if declared is None:
                raise self._source.error((*place, key), _unknown(key, kind))
            if _is_rule(declared):
                values[declared.name] = self._rules(declared, value, (*place, key))
                continue
            try:
                value = convert(declared, value)
                check(declared, value)
            except ConfigError as error:
                raise self._source.error((*place, key), str(error)) from error
            values[declared.name] = posixpath.join(self._base, value) if declared.name == "directory" else value
        return values

    def _rules(self, declared: Field[Any], value: Any, place: Place) -> tuple[Any, ...]:
        """The rules of an array of tables; of those that inherit, what they give."""
        kind = setting_of(declared).rule
        key, header = place[-1], ".".join(part for part in place if isinstance(part, str))
        if isinstance(value, dict):
            raise self._source.error(place, f"{key} is one table; write [[{header}]], with double brackets, for each")
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            what = _described(value) if not isinstance(value, list) else "an array with something else in it"
            raise self._source.error(place, f"{key} is {what}; it has to be tables, each below a [[{header}]]")
        rules = []
        for index, table in enumerate(value):
            given = self._table(kind, table, (*place, index))
            rule = self._build(kind, given, (*place, index))
            rules.append(given if kind in INHERITING else rule)
        return tuple(rules)

    def _build(self, kind: Any, given: dict[str, Any], place: Place) -> Any:
        try:
            return kind(**given)
        except ConfigError as error:
            raise self._source.error((*place, *self._blamed(kind, given, error)), str(error)) from error

    def _blamed(self, kind: Any, given: dict[str, Any], error: ConfigError) -> Place:
        """Which value of a table an error is about; the very pair, if it is one of a table of pairs."""
        declared = next(each for each in fields(kind) if key_of(each) == error.place[0])
        if setting_of(declared).pairs:
            for pair in given.get(declared.name, ()):
                try:
                    kind(**{**given, declared.name: (pair,)})
                except ConfigError:
                    return key_of(declared), pair[0]
        return (key_of(declared),)


def _is_rule(declared: Field[Any]) -> bool:
    return setting_of(declared).rule is not None


def _by_key(kind: Any) -> dict[str, Field[Any]]:
    """What a table can have."""
    return {key_of(each): each for each in fields(kind) if not setting_of(each).internal or each.name == "directory"}


def _unknown(key: str, kind: Any) -> str:
    from difflib import get_close_matches

    keys = _by_key(kind)
    missing = f"{shown(key)}: there is no such {'setting' if kind is Config else 'key'}"
    for table, base in (("virtual-host", SiteConfig), ("listen", ListenConfig)):
        if kind is not Config and key in _by_key(base):
            return f"{missing} here; it stands above the first table, or right below a [[{table}]]"
    if kind is not Config and key in _by_key(Config):
        return f"{missing} here; it is the whole server's, and stands above the first table"
    if close := get_close_matches(key, keys, n=1):
        return f"{missing}; did you mean {close[0]}?"
    return f"{missing}; " + (
        "`ringserve --check` shows those that there are" if kind is Config else f"there are {', '.join(keys)}"
    )


# -- types ------------------------------------------------------------------------------------------------------


def kind_of(declared: Field[Any]) -> type:
    """The type of a setting: its default's, and that of a path where there is no default."""
    return str if declared.default is None else type(declared.default)


_WANTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    tuple: "a string, or an array of strings",
}


def convert(declared: Field[Any], value: Any) -> Any:
    """A value of TOML as one of its setting. Raises ConfigError if it is of another type."""
    setting, key, kind = setting_of(declared), key_of(declared), kind_of(declared)
    if setting.pairs:
        return _pairs(key, value)
    right = type(value) is kind
    if kind is float and type(value) is int:
        # The limits are compared first: an integer can be too large for a float.
        right = True
        value = float(value) if abs(value) <= INTEGER_MAX else value
    elif kind is tuple and isinstance(value, str):
        right, value = True, (value,)
    elif kind is tuple and isinstance(value, list):
        wrong = [each for each in value if not isinstance(each, str)]
        if wrong:
            raise ConfigError(f"{key} has {_described(wrong[0])} in it; it has to be {_WANTED[kind]}", key)
        right, value = True, tuple(value)
    if not right:
        raise ConfigError(f"{key} is {_described(value)}; it has to be {_WANTED[kind]}", key)
    if type(value) is int and abs(value) > INTEGER_MAX:
        raise ConfigError(f"{key} is larger than any number of TOML; it has to be at most {setting.maximum}", key)
    return value


def _pairs(key: str, value: Any) -> tuple[tuple[str, str], ...]:
    # Values are not shown: one may be the password that was put where its hash should be.
    if not isinstance(value, dict):
        raise ConfigError(f'{key} has to be a table of strings, such as {{ name = "value" }}', key)
    for name, each in value.items():
        if not isinstance(each, str):
            raise ConfigError(f"{key}: the value of {shown(name)} has to be a string, in quotes", key)
    return tuple(value.items())


def _described(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"a string ({shown(repr(value), 60)})"
    if isinstance(value, int):
        return f"a whole number ({value})" if abs(value) <= INTEGER_MAX else "a very large number"
    if isinstance(value, float):
        return f"a number with a fraction ({value})"
    if isinstance(value, list):
        return "an array"
    return "a table" if isinstance(value, dict) else "a date or a time"


# -- writing ----------------------------------------------------------------------------------------------------

INHERITED = "as for the whole server"
_ESCAPED = re.compile(r'["\\\x00-\x1f\x7f]')
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def _string(text: str) -> str:
    # A path need not be UTF-8, and Python keeps what is not as lone surrogates.
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    return f"\\{match[0]}" if match[0] in '"\\' else f"\\u{ord(match[0]):04x}"


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _string(name)


def _written(value: Any) -> str:
    """A value of a setting in TOML. A tuple of pairs is a table."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if value and isinstance(value[0], tuple):
        return "{ " + ", ".join(f"{_key(name)} = {_string(each)}" for name, each in value) + " }"
    return "[" + ", ".join(_string(each) for each in value) + "]"


def _setting_line(declared: Field[Any], value: Any, origin: str, base: str) -> str:
    key = key_of(declared)
    if value is None:
        return f"# {key} is not given  # {origin}"
    if declared.name == "directory":
        value = _absolute(value, base)
    if not _is_utf8("".join(value) if isinstance(value, tuple) else str(value)):
        origin += "; it is not UTF-8, which TOML cannot say"
    return f"{key} = {_written(value)}  # {origin}"


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _absolute(directory: str, base: str) -> str:
    """In a file it would be relative to that file. `..` is kept: it leads elsewhere behind a symbolic link."""
    path = posixpath.join(base, directory)
    return path if ".." in directory.split("/") else posixpath.normpath(path)


def _rule_lines(header: str, rule: Any, origin: str) -> list[str]:
    lines = ["", f"[[{header}]]  # {origin}"]
    for declared in fields(rule):
        value = getattr(rule, declared.name)
        if isinstance(rule, AuthRule) and declared.name == "users":
            hidden = tuple((name, HASH_NOT_SHOWN) for name, _hash in value)
            lines.append(f"{key_of(declared)} = {_written(hidden)}  # put the hashes in before you use this")
        else:
            lines.append(f"{key_of(declared)} = {_written(value)}")
    return lines


def render(config: Config, loaded: Loaded, origin: Callable[[str], str], base: str) -> str:
    """What is in force, as a file that would bring it about, but for the hashes of passwords, which are left out.

    loaded: the file that it was made with. origin: where the value of a setting of the whole server, by field, came
    from; it is the comment behind it. base: the directory that relative ones are relative to.
    """
    place = loaded.source.place
    lines = [
        _setting_line(declared, getattr(config, declared.name), origin(declared.name), base)
        for declared in _by_key(Config).values()
        if not _is_rule(declared) and not (config.listen and declared.name in WHERE)
    ]
    rules = [declared for declared in fields(SiteConfig) if _is_rule(declared)]
    for declared in rules:
        key = key_of(declared)
        for index, rule in enumerate(getattr(config, declared.name)):
            lines += _rule_lines(key, rule, place(key, index))
    for header, tables, gifts in (
        ("virtual-host", config.virtual_host, loaded.hosts),
        ("listen", config.listen, loaded.listen),
    ):
        for number, (table, given) in enumerate(zip(tables, gifts, strict=True)):
            lines += _table_lines(header, table, given, partial(place, header, number), base)
    return "\n".join(lines) + "\n"


def _table_lines(
    header: str, table: Any, given: Mapping[str, Any], place: Callable[..., str], base: str
) -> Iterator[str]:
    """A table that inherits what it does not give: its settings, and then its rules."""
    yield from ("", f"[[{header}]]  # {place()}")
    inherited = {declared.name for declared in fields(INHERITING[type(table)])} - set(WHERE)

    def origin(declared: Field[Any], *more: int) -> str:
        if declared.name in given:
            return place(key_of(declared), *more)
        return INHERITED if declared.name in inherited else "default"

    declarations = _by_key(type(table)).values()
    for declared in declarations:
        value = getattr(table, declared.name)
        if not _is_rule(declared) or not value:
            yield _setting_line(declared, value, origin(declared), base)
    for declared in filter(_is_rule, declarations):
        for index, rule in enumerate(getattr(table, declared.name)):
            yield from _rule_lines(f"{header}.{key_of(declared)}", rule, origin(declared, index))
