"""The configuration file: what it gives, and that each mistake in it is named with its line."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ringserve.config.file import (
    FILE_BYTES_MAX,
    HASH_NOT_SHOWN,
    NO_FILE,
    ConfigFileError,
    Loaded,
    load,
    render,
)
from ringserve.config.rules import AuthRule, CacheRule, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import Config, HostConfig, ListenRule, settings

HASH = "$argon2id$v=19$m=19456,t=2,p=1$Fk2wuCWBZRW5ZI2FNiIOtg$SnZWCVc+s8lk8CMZRuJvDb5drYFDcJuUi4sMSsouhQ4"

Loading = Callable[[str], Loaded]


@pytest.fixture
def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loading:
    """Loads a text as `ringserve.toml` of the current directory."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str) -> Loaded:
        Path("ringserve.toml").write_bytes(text.encode())
        return load("ringserve.toml")

    return load_text


@pytest.fixture
def complaint(loading: Loading) -> Callable[[str], str]:
    """What is said of a text that cannot be used, without the name of the file."""

    def refused(text: str) -> str:
        with pytest.raises(ConfigFileError) as error:
            loading(text).configure({})
        message = str(error.value)
        assert message.isprintable(), "one line"
        assert message.startswith("ringserve.toml:")
        return message.removeprefix("ringserve.toml:")

    return refused


def defaults() -> dict[str, Any]:
    return {"directory": ".", **{name: declared.default for name, declared in settings().items()}}


def in_force(loaded: Loaded, **values: Any) -> Config:
    return loaded.configure({**defaults(), **loaded.values, **values})


# -- what it gives ----------------------------------------------------------------------------------------------


def test_an_empty_file_says_nothing(loading: Loading) -> None:
    loaded = loading("# nothing\n")
    assert (loaded.values, loaded.rules, loaded.hosts) == ({}, {}, ())
    assert in_force(loaded) == in_force(NO_FILE) == Config()


def test_settings_of_every_type_are_read(loading: Loading) -> None:
    loaded = loading(
        'port = 80\nheader-timeout = 5\nwrite-timeout = 0.5\nlisting = true\nlog-format = "json"\n'
        'unix = "/run/socket"\nhost = ["::", "0.0.0.0"]\ntrusted-proxy = "unix"\n'
    )
    assert loaded.values == {
        "port": 80,
        "header_timeout_s": 5.0,
        "write_timeout_s": 0.5,
        "listing": True,
        "log_format": "json",
        "unix": "/run/socket",
        "host": ("::", "0.0.0.0"),
        "trusted_proxy": ("unix",),
    }
    assert type(loaded.values["header_timeout_s"]) is float


@pytest.mark.parametrize("name", sorted(settings()))
def test_every_setting_can_be_given(name: str, loading: Loading) -> None:
    config = Config(trusted_proxy=("unix",))
    lines = render(config, NO_FILE, lambda _name: "test", "/").splitlines()
    key = name.removesuffix("_s").replace("_", "-")
    [line] = [line for line in lines if line.removeprefix("# ").startswith(f"{key} ")]
    if line.startswith("#"):
        assert getattr(config, name) is None
        line = f'{key} = "/a/path"'
        values: dict[str, Any] = {name: "/a/path"}
        config = Config(**values)
    assert loading(line + "\n").values == {name: getattr(config, name)}


def test_rules_are_read_in_their_order(loading: Loading) -> None:
    loaded = loading(
        f"""
        [[headers]]
        paths = "*.html"
        fields = {{ "X-A" = "a", X-B = "" }}
        [[headers]]
        paths = ["/b", "/c"]
        [headers.fields]
        X-C = "c"
        [[cache]]
        paths = "*.css"
        control = "no-store"
        [[redirects]]
        from = "/a/*"
        to = "/b/$1"
        [[redirects]]
        from = "/c"
        to = "/d"
        status = 302
        [[rewrites]]
        from = "/e/**"
        to = "/e.html"
        [[auth]]
        paths = "/f"
        users.alice = "{HASH}"
        users.bob = "{HASH}"
        """
    )
    assert loaded.values == {}
    config = in_force(loaded)
    assert config.headers == (
        HeaderRule(("*.html",), (("X-A", "a"), ("X-B", ""))),
        HeaderRule(("/b", "/c"), (("X-C", "c"),)),
    )
    assert config.cache == (CacheRule(("*.css",), "no-store"),)
    assert config.redirects == (RedirectRule("/a/*", "/b/$1"), RedirectRule("/c", "/d", 302))
    assert config.rewrites == (RewriteRule("/e/**", "/e.html"),)
    assert config.auth == (AuthRule(("/f",), "Restricted", (("alice", HASH), ("bob", HASH))),)


def test_rules_can_be_written_in_one_line(loading: Loading) -> None:
    loaded = loading('redirects = [{ from = "/a", to = "/b" }]\n')
    assert in_force(loaded).redirects == (RedirectRule("/a", "/b"),)


def test_the_directory_is_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "any.toml"
    path.write_text('directory = "../site"\n[[virtual-host]]\nnames = "a"\ndirectory = "/srv/a"\n')
    config = in_force(load(str(path)))
    assert config.directory == f"{tmp_path}/etc/../site"
    assert config.virtual_host[0].directory == "/srv/a"


def test_a_byte_order_mark_and_carriage_returns_are_taken(loading: Loading, complaint: Callable[[str], str]) -> None:
    assert loading("\ufeffport = 1\r\nlisting = true\r\n").values == {"port": 1, "listing": True}
    assert complaint("\ufeff# x\r\nhost = [\r\n]\r\nport = '1'\r\n").startswith("4: port is a string")


# -- virtual hosts ----------------------------------------------------------------------------------------------

HOSTS = """
listing = true
directory = "whole"
[[headers]]
paths = "**"
fields.X-A = "a"
[[redirects]]
from = "/a"
to = "/b"
[[virtual-host]]
names = ["a.example", "*.a.example"]
directory = "a"
headers = []
[[virtual-host.redirects]]
from = "/c"
to = "/d"
[[virtual-host]]
names = "b.example"
listing = false
"""


def test_a_virtual_host_has_what_the_whole_server_has_but_for_what_it_gives(loading: Loading) -> None:
    config = in_force(loading(HOSTS))
    first, second = config.virtual_host
    assert first == HostConfig(
        names=("a.example", "*.a.example"), directory="a", listing=True, redirects=(RedirectRule("/c", "/d"),)
    )
    assert second == HostConfig(
        names=("b.example",), directory="whole", listing=False, headers=config.headers, redirects=config.redirects
    )


def test_a_virtual_host_has_what_is_in_force_and_not_what_the_file_says(loading: Loading) -> None:
    config = in_force(loading(HOSTS), directory="flag", listing=False, spa=True)
    assert [host.directory for host in config.virtual_host] == ["a", "flag"]
    assert [(host.listing, host.spa) for host in config.virtual_host] == [(False, True), (False, True)]


LISTEN = """\
proxy-protocol = true
trusted-proxy = "10.0.0.0/8"
header-timeout = 5
head-bytes-max = 2048

[[listen]]
host = ["0.0.0.0", "::"]
port = 80

[[listen]]
unix = "/run/web.sock"
proxy-protocol = false
trusted-proxy = []
log = false
header-timeout = 1

[[listen]]
systemd = "web"
"""


def test_a_listener_has_what_the_whole_server_has_except_for_what_it_gives(loading: Loading) -> None:
    everybody, local, handed = in_force(loading(LISTEN), keep_alive_timeout_s=7.0, trusted_proxy=("unix",)).listeners
    whole: dict[str, Any] = {"keep_alive_timeout_s": 7.0, "trusted_proxy": ("unix",), "head_bytes_max": 2048}
    assert everybody == ListenRule(host=("0.0.0.0", "::"), port=80, proxy_protocol=True, header_timeout_s=5.0, **whole)
    assert local == ListenRule(unix="/run/web.sock", log=False, header_timeout_s=1.0, **{**whole, "trusted_proxy": ()})
    assert handed == ListenRule(systemd="web", proxy_protocol=True, header_timeout_s=5.0, **whole)


def test_listeners_are_written_as_they_were_read_and_no_address_beside_them(loading: Loading) -> None:
    loaded = loading(LISTEN)
    before = in_force(loaded)
    text = rendered(before, loaded)
    assert in_force(loading(text)).listeners == before.listeners
    whole, *tables = text.split("[[listen]]")
    assert not any(line.startswith(("host", "port", "# unix")) for line in whole.split("\n"))
    lines = tables[1].split("\n")
    assert lines[0] == "  # ringserve.toml:10"
    assert 'unix = "/run/web.sock"  # ringserve.toml:11' in lines
    assert "log = false  # ringserve.toml:14" in lines
    assert "port = 8080  # default" in lines
    assert "# systemd is not given  # default" in lines
    assert "write-timeout = 60.0  # as for the whole server" in lines


# -- which line -------------------------------------------------------------------------------------------------

RULE = '[[headers]]\npaths = "a"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("header-timout = 5", "1: header-timout: there is no such setting; did you mean header-timeout?"),
        ("\n# x\nheader_timeout = 5", "3: header_timeout: there is no such setting; did you mean header-timeout?"),
        ("hot-path = false", "1: hot-path: there is no such setting; `ringserve --check` shows those that there are"),
        ("[server]\nport = 1", "1: server: there is no such setting; did you mean server-name?"),
        ('"a\\nb" = 1', " 'a\\nb': there is no such setting; `ringserve --check` shows those that there are"),
        ("port = 99999", "1: port is 99999; it has to be at most 65535"),
        ("port = '80'", "1: port is a string ('80'); it has to be a whole number"),
        ("port = true", "1: port is true; it has to be a whole number"),
        ("port = 80.0", "1: port is a number with a fraction (80.0); it has to be a whole number"),
        ("port = 1979-05-27", "1: port is a date or a time; it has to be a whole number"),
        ("port = [80]", "1: port is an array; it has to be a whole number"),
        ("port.a = 80", "1: port is a table; it has to be a whole number"),
        (f"port = 0x{'f' * 5000}", "1: port is larger than any number of TOML; it has to be at most 65535"),
        (f"drain-timeout = 0x{'f' * 500}", "1: drain-timeout is larger than any number of TOML"),
        (f"listing = 0x{'f' * 5000}", "1: listing is a very large number; it has to be true or false"),
        ("listing = 1", "1: listing is a whole number (1); it has to be true or false"),
        ("drain-timeout = false", "1: drain-timeout is false; it has to be a number"),
        ("drain-timeout = nan", "1: drain-timeout is nan; it has to be at least 0"),
        ("drain-timeout = inf", "1: drain-timeout is inf; it has to be at most 3600"),
        ("server-name = 5", "1: server-name is a whole number (5); it has to be a string"),
        ("unix = 5", "1: unix is a whole number (5); it has to be a string"),
        ("directory = 5", "1: directory is a whole number (5); it has to be a string"),
        ("host = 5", "1: host is a whole number (5); it has to be a string, or an array of strings"),
        ("host = [\n'a',\n5]", "1: host has a whole number (5) in it; it has to be a string, or an array of strings"),
        ("log-format = 'xml'", "1: log-format is 'xml'; it has to be one of common, combined, json, off"),
        (f"port = '{'x' * 99}'", f"1: port is a string ('{'x' * 59}...); it has to be a whole number"),
        ("[headers]", "1: headers is one table; write [[headers]], with double brackets, for each"),
        ("headers = 'x'", "1: headers is a string ('x'); it has to be tables, each below a [[headers]]"),
        ("headers = [1]", "1: headers is an array with something else in it; it has to be tables, each below a"),
        (
            "[[virtual-host]]\nnames = 'a'\n[virtual-host.auth]",
            "3: [[virtual-host]] auth is one table; write [[virtual-host.auth]], with double brackets, for each",
        ),
        (
            "\n[[headers]]\n\nfields.a = 'b'",
            "2: [[headers]] paths is missing; it has to be given: Globs of the paths that get the fields.",
        ),
        ("[[headers]]\npath = 'a'", "2: [[headers]] path: there is no such key; did you mean paths?"),
        ("[[redirects]]\nzzz = 'a'", "2: [[redirects]] zzz: there is no such key; there are from, to, status"),
        (
            "[[headers]]\npaths = 'a'\nbuffers = 8",
            "3: [[headers]] buffers: there is no such key here; it is the whole server's, and stands above the first ",
        ),
        (
            "[[virtual-host]]\nnames = 'a'\nbuffers = 8",
            "3: [[virtual-host]] buffers: there is no such key here; it is the whole server's, and stands above ",
        ),
        (
            "[[auth]]\nlisting = true",
            "2: [[auth]] listing: there is no such key here; it stands above the first table, or right below a ",
        ),
        (
            "[[virtual-host]]\nnames = 'a'\nport = 80",
            "3: [[virtual-host]] port: there is no such key here; it stands above the first table, or right below a "
            "[[listen]]",
        ),
        ("[[listen]]\nlisting = true", "2: [[listen]] listing: there is no such key here; it stands above the first "),
        ("[[listen]]\nhosts = 'a'", "2: [[listen]] hosts: there is no such key; did you mean host?"),
        ("[[listen]]\nport = 70000", "2: [[listen]] port is 70000; it has to be at most 65535"),
        ("[listen]\nport = 70", "1: listen is one table; write [[listen]], with double brackets, for each"),
        ("[[listen]]\nlog = 'off'", "2: [[listen]] log is a string ('off'); it has to be true or false"),
        (
            "[[listen]]\n[[listen]]\nport = 81\n[[listen]]\nlog = false",
            "4: [[listen]] localhost port 8080 is in a [[listen]] already",
        ),
        ("[[listen]]\nunix = 'a'\n[[listen]]\nunix = 'a'", "3: [[listen]] a is in a [[listen]] already"),
        (
            "[[listen]]\n[[listen]]\nport = 81\nproxy-protocol = true",
            "4: [[listen]] proxy-protocol needs trusted-proxy, which says whose PROXY line is believed",
        ),
        ("[[headers]]\npaths = []", "2: [[headers]] paths is missing; it has to be given: Globs of the paths that"),
        ("\n[[headers]]\npaths = '/a'", "2: [[headers]] fields is missing; it has to be given: Names and values"),
        ("[[cache]]\npaths = '{'\ncontrol = 'a'", "2: [[cache]] paths: a brace within braces, or one that is not "),
        (RULE + "fields = 1", '3: [[headers]] fields has to be a table of strings, such as { name = "value" }'),
        (RULE + "fields.X = 1", "3: [[headers]] fields: the value of X has to be a string, in quotes"),
        (RULE + "[headers.fields]\nX = 'a'\nETag = 'b'", "5: [[headers]] fields: ETag says what the server does"),
        (RULE + "fields.X = 'a'\nfields.Date = 'b'", "4: [[headers]] fields: Date says what the server does"),
        (
            "[[redirects]]\nfrom = '/a'\nto = '/b'\n[[redirects]]\nfrom = '/*'\nto = '/$2'",
            "6: [[redirects]] to: '/$2' refers to $2, and '/*' has 1 star",
        ),
        (
            "redirects = [\n { from = '/a', to = '/b' },\n { from = '/c' },\n]",
            " [[redirects]] number 2: to is missing; it has to be given: Where to: ",
        ),
        (
            "[[virtual-host]]\nnames = 'a'\n[[virtual-host]]\nnames = 'b'\n[[virtual-host.cache]]\npaths = 'c'",
            "5: [[virtual-host.cache]] control is missing; it has to be given: The value of Cache-Control",
        ),
        (
            "[[virtual-host]]\nlisting = true",
            "1: [[virtual-host]] names is missing; it has to be given: Host names; ",
        ),
        (
            "[[virtual-host]]\nnames = 'a'\ncors-origin = 'x'",
            "3: [[virtual-host]] cors-origin is 'x'; it has to be `*`, or scheme, ",
        ),
        (
            "[[virtual-host]]\nnames = 'a'\n[[virtual-host]]\nnames = ['b']\n[[virtual-host]]\nnames = ['c',\n'a']",
            "6: [[virtual-host]] the name 'a' is given to two hosts",
        ),
        ("[[auth]]\npaths = '**'\nusers = 'hunter2'", "3: [[auth]] users has to be a table of strings, such as"),
        (
            f"[[auth]]\npaths = '**'\nusers.\"a\\nb\" = '{HASH}'",
            "3: [[auth]] users: the name 'a\\nb' has a colon or a control character",
        ),
        (
            "[[auth]]\npaths = '**'\nusers.\"a\\u2028b\" = ''",
            "3: [[auth]] users: the value of 'a\\u2028b' is no argon2 hash",
        ),
        (
            f"[[auth]]\npaths = '**'\n[auth.users]\na = '{HASH}'\nb = 'hunter2'",
            "5: [[auth]] users: the value of 'b' is no argon2 hash; `ringserve password` makes one",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(complaint: Callable[[str], str], text: str, message: str) -> None:
    assert complaint(text + "\n").startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 1\nlog-format = json", "2: column 14: Invalid value; a string stands in quotes, and true and false "),
        ("port = 1\n = 2\n", "2: column 2: Invalid statement"),
        ("unix = \"a\n", "1: column 10: "),
        ("users = { a = 1, a = 2 }\n", "1: column "),
        ("port = 1\n\nhost = [\n 'a',\n", "4: Invalid value; a string stands in quotes"),
        ("port = 1\nserver-name = '''\n\n[[headers]]\n", "4: Expected "),
        ("port = 1\rlisting = true\n", "1: column "),
        ("port = 1\nport = 2\n", "2: column 9: Cannot overwrite a value; the key is given a second time; leave one "),
        ("port = 1\nport = 2", "2: Cannot overwrite a value; the key is given a second time; leave one of the two out"),
        ("host = 'a'\n# x\nhost = [\n'b'\n]\nport = 1\n", "5: column 2: Cannot overwrite a value; the key is given a "),
        ("[headers]\n[headers]\n", "2: column 9: Cannot declare ('headers',) twice; it is there already; leave one "),
        ("port = " + "9" * 5000 + "\n", " it has a number that is too large"),
        ("port = 1\nx = " + "[" * 20_000 + "\n", " it is nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_no_toml_is_named_with_its_line(complaint: Callable[[str], str], text: str, message: str) -> None:
    assert complaint(text).startswith(message)


def test_where_a_line_is_not_known_the_tables_are_counted(complaint: Callable[[str], str]) -> None:
    text = "redirects = [\n { from = '/a', to = '/b' },\n { from = '/c' },\n]"
    assert complaint(text).startswith(" [[redirects]] number 2: to is missing")


def test_a_header_within_a_string_is_no_place_of_a_key(complaint: Callable[[str], str]) -> None:
    text = 'server-name = """\n[[cache]]\n"""\n[[cache]]\npaths = \'a\'\ncontrol = 5\n'
    assert "control is a whole number" in complaint(text)


# -- files that are none ----------------------------------------------------------------------------------------


def assert_refused(path: str, *words: str) -> None:
    with pytest.raises(ConfigFileError) as refused:
        load(path)
    assert str(refused.value).isprintable()
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert_refused(str(tmp_path / "no.toml"), f"{tmp_path}/no.toml: there is no such file")


def test_a_file_with_an_unprintable_name_is_one_line(tmp_path: Path) -> None:
    assert_refused(str(tmp_path / "no\n.toml"), "no\\n.toml'")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert_refused(str(tmp_path), f"{tmp_path} is a directory", "ringserve.toml")


def test_a_file_without_permission_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied")  # root may read everything, and tests may run as root

    monkeypatch.setattr("builtins.open", refused)
    assert_refused("/etc/ringserve.toml", "/etc/ringserve.toml: no permission to read it")


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert_refused(str(tmp_path / "loop"), "loop: cannot be read: Too many levels of symbolic links")


def test_what_is_too_large_to_be_a_configuration_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"#" * FILE_BYTES_MAX)
    assert load(str(path)).values == {}
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    assert_refused(str(path), f"more than {FILE_BYTES_MAX} bytes")
    assert_refused("/dev/zero", f"more than {FILE_BYTES_MAX} bytes")


def test_what_is_no_utf_8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes("port = 1\n# é\nserver-name = 'é'\n".encode("latin-1"))
    assert_refused(str(path), "latin.toml:2: this is not UTF-8")


# -- written ----------------------------------------------------------------------------------------------------


def rendered(config: Config, loaded: Loaded = NO_FILE) -> str:
    return render(config, loaded, lambda name: f"origin of {name}", os.getcwd())


def test_what_is_in_force_is_written_with_where_it_came_from() -> None:
    lines = rendered(Config(port=80, listing=True, host=("::", "a"), header_timeout_s=0.5)).splitlines()
    for line in (
        "port = 80  # origin of port",
        "listing = true  # origin of listing",
        "spa = false  # origin of spa",
        'host = ["::", "a"]  # origin of host',
        "cors-origin = []  # origin of cors_origin",
        "header-timeout = 0.5  # origin of header_timeout_s",
        'log-format = "combined"  # origin of log_format',
        "# unix is not given  # origin of unix",
        f'directory = "{os.getcwd()}"  # origin of directory',
    ):
        assert line in lines
    assert len(lines) == len(settings()) + 1


@pytest.mark.parametrize("text", ['"', "\\", "a\tb\n\r\0\x1f\x7f", "é 日 \U0001f40d", "#", "'", "\u2028\x85", ""])
def test_every_string_is_written_so_that_it_is_read_again(text: str) -> None:
    path = f"/x/{text}"
    written = tomllib.loads(rendered(Config(log_file=text, unix=path)))
    assert (written["log-file"], written["unix"]) == (text, path)


def test_a_path_that_toml_cannot_carry_is_marked() -> None:
    text = rendered(Config(log_file=os.fsdecode(b"/x/\xff")))
    assert tomllib.loads(text)["log-file"] == "/x/\ufffd"
    assert "# origin of log_file; it is not UTF-8, which TOML cannot say\n" in text


def test_a_directory_is_written_as_it_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for directory, written in ((".", str(tmp_path)), ("a/./b", f"{tmp_path}/a/b"), ("l/../b", f"{tmp_path}/l/../b")):
        assert tomllib.loads(rendered(Config(directory=directory)))["directory"] == written


EVERYTHING = f"""
directory = "site"
port = 0x50
cors-origin = "*"
[[headers]]
paths = ["*.html", "/a"]
[headers.fields]
"X-A" = "say \\"a\\""
"!#" = ""
[[cache]]
paths = "**"
control = "no-store"
[[redirects]]
from = "/a/*"
to = "/b/$1"
status = 301
[[rewrites]]
from = "/c"
to = "/d.html"
[[auth]]
paths = "/e"
users = {{ alice = "{HASH}", "b o b" = "{HASH}" }}
[[virtual-host]]
names = "a.example"
headers = []
listing = true
[[virtual-host.auth]]
paths = "/f"
realm = "F"
users.carol = "{HASH}"
[[virtual-host]]
names = ["b.example", "*.c.example"]
directory = "b"
"""


def test_what_is_written_brings_about_what_it_was_written_from(loading: Loading) -> None:
    loaded = loading(EVERYTHING)
    before = in_force(loaded, buffers=512)
    text = rendered(before, loaded)
    assert HASH not in text
    assert text.count(HASH_NOT_SHOWN) == 5, "of the whole server, of the host that gives some, of the one that does not"
    with pytest.raises(ConfigFileError, match="the value of 'alice' is no argon2 hash"):
        loading(text)

    after = in_force(loading(text.replace(HASH_NOT_SHOWN, HASH)))
    assert rendered(after, loading(text.replace(HASH_NOT_SHOWN, HASH))).count("\n") == text.count("\n")
    assert (after.port, after.buffers, after.headers, after.redirects) == (80, 512, before.headers, before.redirects)
    absolute = [os.path.abspath(site.directory) for site in (before, *before.virtual_host)]
    assert [site.directory for site in (after, *after.virtual_host)] == absolute
    assert without_directories(after) == without_directories(before)


def without_directories(config: Config) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    whole = {**vars(config), "directory": None, "virtual_host": None}
    return whole, [{**vars(host), "directory": None} for host in config.virtual_host]


def test_what_is_written_tells_the_lines_of_rules_and_hosts(loading: Loading) -> None:
    loaded = loading(EVERYTHING)
    lines = rendered(in_force(loaded), loaded).splitlines()
    for line in (
        "[[headers]]  # ringserve.toml:5",
        "[[redirects]]  # ringserve.toml:13",
        "[[virtual-host]]  # ringserve.toml:23",
        'names = ["a.example"]  # ringserve.toml:24',
        "headers = []  # ringserve.toml:25",
        "listing = true  # ringserve.toml:26",
        "spa = false  # as for the whole server",
        "[[virtual-host.auth]]  # ringserve.toml:27",
        "[[virtual-host]]  # ringserve.toml:31",
        "[[virtual-host.auth]]  # as for the whole server",
        f'directory = "{os.getcwd()}/b"  # ringserve.toml:33',
        'fields = { X-A = "say \\"a\\"", "!#" = "" }',
    ):
        assert line in lines, line
