"""The settings: each has its limits, and what is out of them is named."""

from __future__ import annotations

import re
from dataclasses import Field, FrozenInstanceError, fields
from typing import Any

import pytest

from ringserve.config.rules import (
    OURS,
    REDIRECT_STATUSES,
    AuthRule,
    CacheRule,
    ConfigError,
    HeaderRule,
    RedirectRule,
    RewriteRule,
    check,
    key_of,
    setting_of,
)
from ringserve.config.settings import Address, Config, HostConfig, ListenRule, SiteConfig, settings
from ringserve.ring.interrupt import STRATEGIES

TABLES = (Config, HostConfig, ListenRule, HeaderRule, CacheRule, RedirectRule, RewriteRule, AuthRule)
EVERY = {f"{table.__name__}.{declared.name}": declared for table in TABLES for declared in fields(table)}
DECLARED = {declared.name: declared for declared in fields(Config)}
NUMBERS = [name for name, declared in DECLARED.items() if setting_of(declared).minimum is not None]
FLAGS = [name for name, declared in DECLARED.items() if isinstance(declared.default, bool)]
WORDS = [name for name, declared in DECLARED.items() if setting_of(declared).choices]


def configured(name: str, value: object) -> Config:
    values: dict[str, Any] = {name: value}
    return Config(**values)


def limits_of(name: str) -> tuple[float, float]:
    setting = setting_of(DECLARED[name])
    assert setting.minimum is not None
    assert setting.maximum is not None, f"{name} has no upper limit"
    return setting.minimum, setting.maximum


def test_the_defaults_are_within_their_own_limits() -> None:
    assert Config() == Config(port=8080, log_format="combined", interrupt="wait")


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("declared", EVERY.values(), ids=EVERY)
def test_every_setting_says_what_it_is_for(declared: Field[Any]) -> None:
    assert setting_of(declared).help.endswith(".") or setting_of(declared).choices


@pytest.mark.parametrize("table", TABLES)
def test_keys_are_words_with_hyphens_and_differ(table: type) -> None:
    keys = [key_of(declared) for declared in fields(table)]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", key) for key in keys)


def test_a_key_is_the_name_without_its_unit_of_time() -> None:
    assert key_of(DECLARED["keep_alive_timeout_s"]) == "keep-alive-timeout"
    assert key_of(DECLARED["head_bytes_max"]) == "head-bytes-max"
    assert key_of(EVERY["RedirectRule.source"]) == "from"


def test_an_error_knows_the_key_of_its_setting() -> None:
    with pytest.raises(ConfigError) as refused:
        Config(keep_alive_timeout_s=0)
    assert refused.value.place == ("keep-alive-timeout",)
    assert ConfigError("of no setting").place == ()


def test_every_number_has_two_limits() -> None:
    numbers = {name for name, declared in DECLARED.items() if type(declared.default) in (int, float)}
    assert numbers == set(NUMBERS)
    assert all(limits_of(name)[0] < limits_of(name)[1] for name in NUMBERS)


@pytest.mark.parametrize("name", NUMBERS)
def test_both_limits_are_inclusive(name: str) -> None:
    for limit in limits_of(name):
        assert getattr(configured(name, limit), name) == limit


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_below_its_limit_is_refused_by_name(name: str) -> None:
    minimum, _maximum = limits_of(name)
    value = minimum - 1
    with pytest.raises(ConfigError, match=f"^{key_of(DECLARED[name])} is {value}; it has to be at least {minimum}$"):
        configured(name, value)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_above_its_limit_is_refused_by_name(name: str) -> None:
    _minimum, maximum = limits_of(name)
    value = maximum + 1
    with pytest.raises(ConfigError, match=f"^{key_of(DECLARED[name])} is {value}; it has to be at most {maximum}$"):
        configured(name, value)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.endswith("_s")])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_time_that_is_not_a_finite_number_is_refused(name: str, value: float) -> None:
    # NaN compares as neither below the minimum nor above the maximum; click's FLOAT reads "nan".
    with pytest.raises(ConfigError, match=f"^{key_of(DECLARED[name])} is "):
        configured(name, value)


@pytest.mark.parametrize("name", WORDS)
def test_every_choice_is_taken(name: str) -> None:
    for choice in setting_of(DECLARED[name]).choices:
        assert getattr(configured(name, choice), name) == choice


@pytest.mark.parametrize("name", WORDS)
def test_another_word_is_refused_with_the_choices(name: str) -> None:
    choices = ", ".join(setting_of(DECLARED[name]).choices)
    with pytest.raises(ConfigError) as refused:
        configured(name, "rubbish")
    assert str(refused.value) == f"{key_of(DECLARED[name])} is 'rubbish'; it has to be one of {choices}"


def test_the_interrupt_choices_are_the_strategies() -> None:
    assert setting_of(DECLARED["interrupt"]).choices == tuple(STRATEGIES)


@pytest.mark.parametrize("buffers", [1, 2, 256, 32768])
def test_a_power_of_two_of_buffers_is_taken(buffers: int) -> None:
    assert Config(buffers=buffers).buffers == buffers


@pytest.mark.parametrize("buffers", [3, 255, 257, 32767])
def test_another_number_of_buffers_is_refused(buffers: int) -> None:
    with pytest.raises(ConfigError, match=f"^buffers is {buffers}; it has to be a power of two"):
        Config(buffers=buffers)


@pytest.mark.parametrize("name", ["", "ringserve", "a b/1.0 (~)", "!"])
def test_a_server_name_of_plain_ascii_is_taken(name: str) -> None:
    assert Config(server_name=name).server_name == name


@pytest.mark.parametrize("name", ["a\r\nSet-Cookie: b", "a\n", "\0", "\t", "\x7f", "\x1f", "café"])
def test_a_server_name_that_would_break_the_field_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^server-name has characters"):
        Config(server_name=name)


def test_a_setting_without_limits_takes_any_value() -> None:
    check(DECLARED["unix"], None)
    assert Config(unix="/run/ringserve.sock", host=("::", "0.0.0.0")).unix == "/run/ringserve.sock"


def test_internal_settings_and_rules_are_no_flags() -> None:
    shown = settings()
    rules = {"headers", "cache", "redirects", "rewrites", "auth", "virtual_host", "listen"}
    assert set(DECLARED) - set(shown) == {"directory", "hot_path"} | rules
    assert list(shown) == [name for name in DECLARED if name in shown], "in the order of their declaration"
    assert all(declared is DECLARED[name] for name, declared in shown.items())


@pytest.mark.parametrize("name", sorted(set(settings()) - set(FLAGS)))
def test_the_unit_of_a_value_is_in_its_metavar(name: str) -> None:
    setting = setting_of(DECLARED[name])
    if name.endswith("_s"):
        assert setting.metavar == "SECONDS"
    elif "bytes" in name:
        assert setting.metavar == "BYTES"
    else:
        assert setting.metavar is not None or setting.choices


def test_everything_that_is_off_by_default_is_a_matter_of_the_site_or_of_proxies() -> None:
    assert {name for name in FLAGS if not DECLARED[name].default} == {
        "listing", "spa", "clean_urls", "follow_symlinks", "security_headers", "proxy_protocol", "pin_workers",
    }  # fmt: skip


# -- proxies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "unix"])
def test_a_trusted_proxy_is_a_network_an_address_or_unix(network: str) -> None:
    assert Config(trusted_proxy=("127.0.0.1", network)).trusted_proxy[1] == network


@pytest.mark.parametrize("network", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,::1", "Unix"])
def test_another_trusted_proxy_is_refused(network: str) -> None:
    with pytest.raises(
        ConfigError, match=r"^trusted-proxy is .*; it has to be a network such as 10\.0\.0\.0/8"
    ) as refused:
        Config(trusted_proxy=("127.0.0.1", network))
    assert refused.value.place == ("trusted-proxy",)


def test_the_proxy_protocol_needs_somebody_to_believe() -> None:
    with pytest.raises(ConfigError, match=r"^proxy-protocol needs trusted-proxy"):
        Config(proxy_protocol=True)
    assert Config(proxy_protocol=True, trusted_proxy=("unix",)).proxy_protocol


# -- sites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["*", "https://app.example", "http://localhost:3000", "moz-extension://a-b"])
def test_an_origin_is_scheme_host_and_port(origin: str) -> None:
    assert SiteConfig(cors_origin=("https://other.example", origin)).cors_origin[1] == origin


@pytest.mark.parametrize(
    "origin", ["", "null", "app.example", "https://", "https://a/", "https://a/b", "https://a, https://b", "HTTPS://a"]
)
def test_another_origin_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"^cors-origin is .*; it has to be `\*`, or scheme") as refused:
        Config(cors_origin=("*", origin))
    assert refused.value.place == ("cors-origin",)


@pytest.mark.parametrize("name", ["a", "example.org", "a-b.example.org", "*.example.org", "127.0.0.1", "[::1]"])
def test_a_virtual_host_has_names(name: str) -> None:
    assert HostConfig(names=("other", name)).names[1] == name


@pytest.mark.parametrize("name", ["", "Example.org", "example.org:80", "*", "*.", "a.*", "a b", "-a", "é", "::1"])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^names: .* is no host name") as refused:
        HostConfig(names=("a", name))
    assert refused.value.place == ("names",)


def test_a_virtual_host_without_a_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^names is missing; it has to be given: Host names"):
        HostConfig()


def test_a_virtual_host_is_checked_like_every_site() -> None:
    with pytest.raises(ConfigError, match=r"^cors-origin is"):
        HostConfig(names=("a",), cors_origin=("x",))


def test_a_name_stands_for_one_virtual_host() -> None:
    first, second = HostConfig(names=("a", "b")), HostConfig(names=("c", "*.b"))
    assert Config(virtual_host=(first, second)).virtual_host == (first, second)
    with pytest.raises(ConfigError, match=r"^the name 'b' is given to two hosts$") as refused:
        Config(virtual_host=(first, second, HostConfig(names=("b",))))
    assert refused.value.place == ("virtual-host", 2, "names")


# -- rules ------------------------------------------------------------------------------------------------------

HASH = "$argon2id$v=19$m=19456,t=2,p=1$Fk2wuCWBZRW5ZI2FNiIOtg$SnZWCVc+s8lk8CMZRuJvDb5drYFDcJuUi4sMSsouhQ4"
RIGHT: dict[type, dict[str, Any]] = {
    HeaderRule: {"paths": ("*.html", "/a/**"), "fields": (("X-Robots-Tag", "noindex"), ("Vary", ""))},
    CacheRule: {"paths": ("*.css",), "control": "public, max-age=3600"},
    RedirectRule: {"source": "/old/*", "target": "/new/$1"},
    RewriteRule: {"source": "/app/**", "target": "/app.html"},
    AuthRule: {"paths": ("/private/**",), "users": (("alice", HASH), ("b o b", HASH))},
}


@pytest.mark.parametrize("rule", RIGHT)
def test_a_rule_that_has_what_it_needs_is_taken(rule: type) -> None:
    values = RIGHT[rule]
    made = rule(**values)
    assert {name: getattr(made, name) for name in values} == values


@pytest.mark.parametrize(("rule", "name"), [(rule, name) for rule, values in RIGHT.items() for name in values])
def test_a_rule_that_misses_what_it_needs_is_refused_with_its_key(rule: type, name: str) -> None:
    values = {key: value for key, value in RIGHT[rule].items() if key != name}
    key = key_of(EVERY[f"{rule.__name__}.{name}"])
    with pytest.raises(ConfigError, match=f"^{key} is missing; it has to be given: ") as refused:
        rule(**values)
    assert refused.value.place == (key,)


GOOD_VALUES: list[tuple[type, str, Any]] = [
    (HeaderRule, "fields", (("X-A", "a\tb ~"),)),
    (CacheRule, "control", "no-store"),
    *((RedirectRule, "status", status) for status in REDIRECT_STATUSES),
    (RedirectRule, "target", "/"),
    (RedirectRule, "target", "https://other.example"),
    (RedirectRule, "target", "http://other.example:8080/$1?a=b#c"),
    (RedirectRule, "target", "https://other.example?a=$1"),
    (RewriteRule, "target", "/café"),
    (AuthRule, "realm", "The 3rd floor's (private)"),
    (AuthRule, "users", (("a", HASH.replace("argon2id", "argon2i")), ("b", HASH.replace("argon2id", "argon2d")))),
]
BAD_VALUES: list[tuple[type, str, Any, str]] = [
    *((rule, "paths", ("/a", "/{b"), "paths: a brace") for rule in (HeaderRule, CacheRule, AuthRule)),
    *((rule, "source", "/{b", "from: a brace") for rule in (RedirectRule, RewriteRule)),
    (RedirectRule, "target", "/$2", "to: '/$2' refers to $2, and '/old/*' has 1 star"),
    (RewriteRule, "target", "/$2", "to: '/$2' refers to $2, and '/app/**' has 1 star"),
    (HeaderRule, "fields", (("X A", ""),), "fields: 'X A' is no field name"),
    (HeaderRule, "fields", (("", "a"),), "fields: '' is no field name"),
    (HeaderRule, "fields", (("X-A:", "a"),), "fields: 'X-A:' is no field name"),
    *((HeaderRule, "fields", ((name.title(), "a"),), f"fields: {name.title()} says what the server") for name in OURS),
    (HeaderRule, "fields", (("X-A", "a\r\nX-B: b"),), "fields: the value of X-A has characters"),
    (HeaderRule, "fields", (("X-A", "é"),), "fields: the value of X-A has characters"),
    (CacheRule, "control", "no-store\n", "control has characters"),
    (RedirectRule, "status", 300, "status is 300; it has to be at least 301"),
    (RedirectRule, "status", 304, "status is 304; it has to be one of 301, 302, 303, 307, 308"),
    (RedirectRule, "target", "new", "to is 'new'; it has to be a path"),
    (RedirectRule, "target", "//evil.example/", "to is '//evil.example/'; it has to be a path"),
    (RedirectRule, "target", "javascript:alert(1)", "to is 'javascript:alert(1)'; it has to be"),
    (RedirectRule, "target", "/a b", "to is '/a b'; it has to be a path"),
    (RedirectRule, "target", "/a\r\nX: b", "to is"),
    (RedirectRule, "target", "https://", "to is 'https://'; it has to be"),
    (RedirectRule, "target", "https://other.example$1", "to is 'https://other.example$1'; it has to be"),
    (RedirectRule, "target", "https://$1/", "to is 'https://$1/'; it has to be"),
    (RewriteRule, "target", "a.html", "to is 'a.html'; it has to be a path that begins with a slash"),
    (AuthRule, "realm", 'the "x"', "realm has to be plain ASCII"),
    (AuthRule, "realm", "a\\b", "realm has to be plain ASCII"),
    (AuthRule, "realm", "é", "realm has to be plain ASCII"),
    (AuthRule, "users", (("a:b", HASH),), "users: the name 'a:b' has a colon or a control character"),
    (AuthRule, "users", (("a\0b", HASH),), "users: the name 'a\\x00b' has a colon or a control character"),
    (AuthRule, "users", (("alice", "secret"),), "users: the value of 'alice' is no argon2 hash"),
    (AuthRule, "users", (("alice", HASH + "\n"),), "users: the value of 'alice' is no argon2 hash"),
]


@pytest.mark.parametrize(("rule", "name", "value"), GOOD_VALUES)
def test_a_value_of_a_rule_is_taken(rule: type, name: str, value: Any) -> None:
    assert getattr(rule(**{**RIGHT[rule], name: value}), name) == value


@pytest.mark.parametrize(("rule", "name", "value", "message"), BAD_VALUES)
def test_a_value_of_a_rule_that_would_not_do_is_refused(rule: type, name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        rule(**{**RIGHT[rule], name: value})
    assert str(refused.value).startswith(message)
    assert refused.value.place == (key_of(EVERY[f"{rule.__name__}.{name}"]),)


def test_what_stands_in_the_place_of_a_hash_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        AuthRule(paths=("**",), users=(("alice", "hunter2"),))
    assert "hunter2" not in str(refused.value)


# -- workers ----------------------------------------------------------------------------------------------------


def test_auto_is_as_many_workers_as_there_are_processors() -> None:
    assert Config(workers="auto").worker_count(7) == 7
    assert Config(workers="3").worker_count(7) == 3


@pytest.mark.parametrize("workers", ["0", "1025", "-1", "two", "", "²"])
def test_a_number_of_workers_that_is_none_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match=r"^workers "):
        Config(workers=workers)


@pytest.mark.parametrize("value", [1, 2])
def test_a_worker_timeout_that_would_kill_a_healthy_worker_is_refused(value: int) -> None:
    with pytest.raises(ConfigError, match=f"^worker-timeout is {value}; it has to be at least 3, .* 0 for no limit$"):
        Config(worker_timeout_s=value)
    assert Config(worker_timeout_s=0).worker_timeout_s == 0


# -- listeners --------------------------------------------------------------------------------------------------


def test_flags_make_the_one_listener_where_no_table_does() -> None:
    config = Config(host=("a", "b", "a"), port=80, header_timeout_s=1, server_name="x")
    assert config.listeners == (ListenRule(host=("a", "b", "a"), port=80, header_timeout_s=1),)
    assert config.listeners[0].addresses == (Address("a", 80, None), Address("b", 80, None))
    assert ListenRule(unix="/run/a", host=("a",)).addresses == (Address("", 0, "/run/a"),)
    assert ListenRule(systemd="a", unix="/run/a").addresses == ()


def test_tables_of_listeners_take_the_place_of_the_flags() -> None:
    rules = ListenRule(port=80), ListenRule(unix="/run/a"), ListenRule(systemd="a"), ListenRule(systemd="b")
    assert Config(listen=rules).listeners == rules


def test_no_two_listeners_have_one_address() -> None:
    with pytest.raises(ConfigError, match=r"^a port 80 is in a \[\[listen\]\] already$") as refused:
        Config(listen=(ListenRule(host=("a", "b"), port=80), ListenRule(host=("c", "a"), port=80)))
    assert refused.value.place == ("listen", 1)
    with pytest.raises(ConfigError, match=r"^/run/a is in a \[\[listen\]\] already$"):
        Config(listen=(ListenRule(unix="/run/a"), ListenRule(unix="/run/a", host=("a",))))


def test_a_listener_that_hears_of_its_clients_by_proxies_needs_to_know_them() -> None:
    rules = ListenRule(), ListenRule(port=81, proxy_protocol=True)
    with pytest.raises(ConfigError, match=r"^proxy-protocol needs trusted-proxy") as refused:
        Config(listen=rules)
    assert refused.value.place == ("listen", 1, "proxy-protocol")
    trusting = ListenRule(port=81, proxy_protocol=True, trusted_proxy=("unix",))
    assert Config(listen=(trusting,)).listeners == (trusting,)
