"""`ringserve.toml`: read into the values of settings, rules and virtual hosts; and what is in force, written as one.

Which keys there are, and what they take, is read off the declarations in `config.py`. tomllib parses, and does not tell
where a key stood; so when there is an error to report, `Statements` finds the lines.

`render` writes by hand. tomli-w cannot write the comments that say where each value came from, and what it would do
beside them is the ten lines of `_written`.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from functools import cached_property
from typing import Any

from ringserve.config import AuthRule, Config, ConfigError, HostConfig, SiteConfig, check, key_of, setting_of

DEFAULT_NAME = "ringserve.toml"
FILE_BYTES_MAX = 1024 * 1024
"""Some 10,000 redirects. What is larger is another file, or /dev/zero."""
HASH_NOT_SHOWN = "(hash not shown)"
"""What `--check` prints goes to terminals and logs."""
INTEGER_MAX = 2**63 - 1
"""Of TOML. tomllib takes any in hexadecimal, and Python refuses to print a very large one."""

Place = tuple[str | int, ...]
"""Where a value is in a document: keys of tables, and indexes of arrays."""


class ConfigFileError(ConfigError):
    """A file that cannot be used. The message begins with its name, and with the line if there is one."""


def shown(text: str, characters_max: int = 200) -> str:
    """What a user wrote, as it can be quoted to him: on one line, and not endless."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= characters_max else text[:characters_max] + "..."


# -- which line a key stands in ---------------------------------------------------------------------------------

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
"""What tomllib's messages end with. From Python 3.14 on there are attributes of the same content."""


def _may_end(lines: list[str], begin: int, end: int) -> bool:
    """Whether the lines from `begin` to before `end` can be a statement, as far as a glance tells.

    It spares an array of a thousand tables a thousand attempts. A value over several lines ends in its bracket or
    quotes; and after a statement comes another one or a comment, which do not begin with these characters.
    """
    if end - begin > 1 and not any(closing in lines[end - 1] for closing in ("]", "}", '"""', "'''")):
        return False
    return end == len(lines) or not lines[end].lstrip(" \t").startswith(("{", "]", "}", ","))


ATTEMPTS_MAX = 200
"""To find the end of one statement: it takes a value of that many lines, nearly each with a bracket that could be the
last. Lines beyond it are not known, and errors name the file alone. Without a limit, a broken file could take hours."""


class Statement:
    """One statement of a document. line: its first, counted from 1. text: all its lines. parsed: what it says alone."""

    def __init__(self, line: int, text: str, parsed: dict[str, Any]) -> None:
        self.line = line
        self.text = text
        self.parsed = parsed
        self.end_line = line + text.removesuffix("\n").count("\n")
        self.is_header = text.lstrip(" \t").startswith("[")


class Statements:
    """The statements of a document, and the line in which each of its values is first mentioned.

    A statement is the shortest run of lines that parses by itself: a value that goes over several lines does not parse
    before its last one, and blank lines and comments parse alone. So strings, comments and brackets are tomllib's
    matter, and the lines are right for whatever it takes. Of a document that does not parse, the statements before the
    first that does not; `open_line` is where that one begins.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Place, int] = {}
        self.open_line: int | None = None
        self._table: Place = ()
        self._lengths: Counter[Place] = Counter()
        self._all = list(self._split(_LINE.findall(text)))
        for statement in self._all:
            if statement.is_header:
                self._enter(statement)
            else:
                self._mention(statement.parsed, self._table, statement.line)

    def _split(self, lines: list[str]) -> Iterator[Statement]:
        import tomllib

        begin, end, attempts = 0, 1, 0
        while end <= len(lines) and attempts < ATTEMPTS_MAX:
            if _may_end(lines, begin, end):
                attempts += 1
                text = "".join(lines[begin:end])
                try:
                    parsed = tomllib.loads(text)
                except (ValueError, RecursionError):
                    pass
                else:
                    yield Statement(begin + 1, text, parsed)
                    begin, attempts = end, 0
            end += 1
        self.open_line = begin + 1 if begin < len(lines) else None

    def _enter(self, header: Statement) -> None:
        """The header of a table. Alone it parses as one table within another, the last in an array if it is [[one]]."""
        place: Place = ()
        inner: Any = header.parsed
        while inner:
            [(name, inner)] = inner.items()
            place = (*place, name)
            self.lines.setdefault(place, header.line)
            if isinstance(inner, list):
                self._lengths[place] += 1
                inner = None
            if place in self._lengths:
                place = (*place, self._lengths[place] - 1)
                self.lines.setdefault(place, header.line)
        self._table = place

    def _mention(self, value: Any, place: Place, line: int) -> None:
        if isinstance(value, dict | list):
            for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
                self.lines.setdefault((*place, name), line)
                self._mention(inner, (*place, name), line)

    def at(self, line: int) -> Statement | None:
        """The statement that a line belongs to, if that one parses."""
        return next((each for each in reversed(self._all) if each.line <= line <= each.end_line), None)


class Source:
    """The file, as errors and comments refer to it. name: as shown; empty if there is none."""

    def __init__(self, name: str, text: str) -> None:
        self.name = shown(name)
        self.text = text

    @cached_property
    def _statements(self) -> Statements:
        return Statements(self.text)

    def place(self, *place: str | int) -> str:
        """`ringserve.toml:7` for a value: of its own line, or of the closest table around it that has one."""
        while place and place not in self._statements.lines:
            # Where not all lines are known, that of a table around it could be any one's of an array.
            place = () if self._statements.open_line is not None else place[:-1]
        return f"{self.name}:{self._statements.lines[place]}" if place else self.name

    def error(self, place: Place, message: str) -> ConfigFileError:
        """The error of a value. The message is given the table that it is about, if that is not the whole file."""
        depth = max((index for index, part in enumerate(place) if isinstance(part, int)), default=0)
        table = ".".join(part for part in place[:depth] if isinstance(part, str))
        return ConfigFileError(f"{self.place(*place)}: {f'[[{table}]] ' if table else ''}{message}")

    def syntax_error(self, error: Exception) -> ConfigFileError:
        """What tomllib, or the interpreter under it, did not take."""
        found = _PLACE.search(str(error))
        message = _PLACE.sub("", str(error))
        lines = _LINE.findall(self.text)
        # A contradiction in a last line without an end is at the end of the document for tomllib.
        line = int(found[1]) if found and found[1] else len(lines)
        contradicting = Statements("".join(lines[:line])).at(line)
        if contradicting is not None:
            return ConfigFileError(f"{self.name}:{contradicting.line}: {_contradiction(contradicting)}")
        if found and found[1]:
            if message == "Invalid value":
                message += "; a string stands in quotes, and true and false in lower case"
            return ConfigFileError(f"{self.name}:{line}: column {found[2]}: {message}")
        if isinstance(error, RecursionError):
            message = "it is nested too deeply"
        elif not found:
            message = "it has a number that is too large"
        return ConfigFileError(f"{self.name}:{self._statements.open_line}: what begins here cannot be read: {message}")


def _contradiction(statement: Statement) -> str:
    """What to say of a statement that is right, but not after those before it."""
    if not statement.is_header:
        return f"{shown(statement.text.partition('=')[0].strip())} is given a second time; leave one of the two out"
    header = shown(statement.text.partition("]")[0].strip(" \t["))
    if statement.text.lstrip(" \t").startswith("[["):
        return f"[[{header}]] does not go with the {header} above; each has double brackets: [[{header}]]"
    return (
        f"[{header}] is there already; leave one out, or give each double brackets if there are several: [[{header}]]"
    )


# -- reading ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """What a file says.

    values: settings of the whole server, by field. rules: those of the whole server, by field. hosts: for each virtual
    host, what it gives itself, by field.
    """

    source: Source
    values: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    hosts: tuple[Mapping[str, Any], ...] = ()

    def configure(self, values: Mapping[str, Any]) -> Config:
        """The configuration in force.

        values: of the settings of the whole server, by field: what flags, variables, this file and defaults come to. A
        virtual host has them where it gives none. Raises ConfigError for those that cannot be used.
        """
        whole = {**self.rules, **values}
        inherited = {each.name: whole[each.name] for each in fields(SiteConfig) if each.name in whole}
        hosts = tuple(HostConfig(**{**inherited, **given}) for given in self.hosts)
        return Config(**whole, virtual_host=hosts)


NO_FILE = Loaded(Source("", ""))


def load(path: str) -> Loaded:
    """Read a configuration file.

    path: also what its `directory` settings are relative to; FILE_BYTES_MAX at most. Raises ConfigFileError.
    """
    import tomllib

    source = Source(path, _read(path))
    try:
        document = tomllib.loads(source.text)
    except (ValueError, RecursionError) as error:
        raise source.syntax_error(error) from error
    return _Reader(source, os.path.dirname(path)).read(document)


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
        hosts = values.pop("virtual_host", ())
        rules = {each.name: values.pop(each.name) for each in fields(Config) if _is_rule(each) and each.name in values}
        try:
            Config(virtual_host=tuple(HostConfig(**given) for given in hosts))
        except ConfigError as error:
            # The hosts are right by themselves: what is left is a name that stands for two.
            message = str(error).removeprefix("virtual-host: ")
            raise self._source.error(("virtual-host", _second_of_a_name(hosts), "names"), message) from error
        return Loaded(self._source, values, rules, hosts)

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
            values[declared.name] = os.path.join(self._base, value) if declared.name == "directory" else value
        return values

    def _rules(self, declared: Field[Any], value: Any, place: Place) -> tuple[Any, ...]:
        """The rules of an array of tables; for virtual hosts, what they give."""
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
            rules.append(given if kind is HostConfig else rule)
        return tuple(rules)

    def _build(self, kind: Any, given: dict[str, Any], place: Place) -> Any:
        try:
            return kind(**given)
        except ConfigError as error:
            raise self._source.error((*place, *self._blamed(kind, given, error)), str(error)) from error

    def _blamed(self, kind: Any, given: dict[str, Any], error: ConfigError) -> Place:
        """Which value of a table an error is about; the very pair, if it is one of a table of pairs."""
        declared = next(each for each in fields(kind) if key_of(each) == error.key)
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


def _second_of_a_name(hosts: tuple[Mapping[str, Any], ...]) -> int:
    seen: set[str] = set()
    for index, given in enumerate(hosts):
        if len(seen | set(given["names"])) < len(seen) + len(given["names"]):
            return index
        seen.update(given["names"])
    raise AssertionError("the configuration found a name that stands for two hosts")


def _unknown(key: str, kind: Any) -> str:
    from difflib import get_close_matches

    keys = _by_key(kind)
    missing = f"{shown(key)}: there is no such {'setting' if kind is Config else 'key'}"
    if kind is not Config and key in _by_key(SiteConfig):
        return f"{missing} here; it stands above the first table, or right below a [[virtual-host]]"
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


def _setting_line(declared: Field[Any], value: Any, origin: str) -> str:
    key = key_of(declared)
    if value is None:
        return f"# {key} is not given  # {origin}"
    if declared.name == "directory":
        value = _absolute(value)
    if not _is_utf8("".join(value) if isinstance(value, tuple) else str(value)):
        origin += "; it is not UTF-8, which TOML cannot say"
    return f"{key} = {_written(value)}  # {origin}"


def _is_utf8(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


def _absolute(directory: str) -> str:
    """In a file it would be relative to that file. `..` is kept: it leads elsewhere behind a symbolic link."""
    return os.path.join(os.getcwd(), directory) if ".." in directory.split("/") else os.path.abspath(directory)


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


def render(config: Config, loaded: Loaded, origin: Callable[[str], str]) -> str:
    """What is in force, as a file that would bring it about, but for the hashes of passwords, which are left out.

    loaded: the file that it was made with. origin: where the value of a setting of the whole server, by field, came
    from; it is the comment behind it.
    """
    lines = [
        _setting_line(declared, getattr(config, declared.name), origin(declared.name))
        for declared in _by_key(Config).values()
        if not _is_rule(declared)
    ]
    place = loaded.source.place
    rules = [declared for declared in fields(SiteConfig) if _is_rule(declared)]
    for declared in rules:
        key = key_of(declared)
        for index, rule in enumerate(getattr(config, declared.name)):
            lines += _rule_lines(key, rule, place(key, index))
    for number, (host, given) in enumerate(zip(config.virtual_host, loaded.hosts, strict=True)):
        lines += ["", f"[[virtual-host]]  # {place('virtual-host', number)}"]
        for key, declared in _by_key(HostConfig).items():
            value = getattr(host, declared.name)
            if not _is_rule(declared) or not value:
                from_file = place("virtual-host", number, key)
                lines.append(_setting_line(declared, value, from_file if declared.name in given else INHERITED))
        for declared in rules:
            key = key_of(declared)
            for index, rule in enumerate(getattr(host, declared.name)):
                from_file = place("virtual-host", number, key, index)
                lines += _rule_lines(f"virtual-host.{key}", rule, from_file if declared.name in given else INHERITED)
    return "\n".join(lines) + "\n"
