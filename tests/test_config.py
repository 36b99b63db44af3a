"""The settings: each has its limits, and what is out of them is named."""

from __future__ import annotations

from dataclasses import Field, FrozenInstanceError, fields
from typing import Any

import pytest

from ringserve.config import Config, ConfigError, check, setting_of, settings
from ringserve.ring.interrupt import STRATEGIES

DECLARED = {declared.name: declared for declared in fields(Config)}
NUMBERS = [name for name, declared in DECLARED.items() if setting_of(declared).minimum is not None]
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


@pytest.mark.parametrize("declared", DECLARED.values(), ids=DECLARED)
def test_every_setting_says_what_it_is_for(declared: Field[Any]) -> None:
    assert setting_of(declared).help.endswith(".") or setting_of(declared).choices


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
    with pytest.raises(ConfigError, match=f"^{name} is {value}; it has to be at least {minimum}$"):
        configured(name, value)


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_above_its_limit_is_refused_by_name(name: str) -> None:
    _minimum, maximum = limits_of(name)
    value = maximum + 1
    with pytest.raises(ConfigError, match=f"^{name} is {value}; it has to be at most {maximum}$"):
        configured(name, value)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name.endswith("_s")])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_time_that_is_not_a_finite_number_is_refused(name: str, value: float) -> None:
    # NaN compares as neither below the minimum nor above the maximum; click's FLOAT reads "nan".
    with pytest.raises(ConfigError, match=f"^{name} is "):
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
    assert str(refused.value) == f"{name} is 'rubbish'; it has to be one of {choices}"


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
    with pytest.raises(ConfigError, match=r"^server_name has characters"):
        Config(server_name=name)


def test_a_setting_without_limits_takes_any_value() -> None:
    check(DECLARED["unix"], None)
    assert Config(unix="/run/ringserve.sock", host=("::", "0.0.0.0")).unix == "/run/ringserve.sock"


def test_internal_settings_are_no_flags() -> None:
    shown = settings()
    assert set(DECLARED) - set(shown) == {"directory", "hot_path"}
    assert list(shown) == [name for name in DECLARED if name in shown], "in the order of their declaration"
    assert all(declared is DECLARED[name] for name, declared in shown.items())


@pytest.mark.parametrize("name", sorted(settings()))
def test_the_unit_of_a_number_is_in_its_metavar(name: str) -> None:
    setting = setting_of(DECLARED[name])
    if name.endswith("_s"):
        assert setting.metavar == "SECONDS"
    elif "bytes" in name:
        assert setting.metavar == "BYTES"
    else:
        assert setting.metavar is not None or setting.choices
