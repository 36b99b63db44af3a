"""Passwords: hashes that verify, those that do not, and what is said without the library."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ringserve.config.rules import AuthRule
from ringserve.responders import passwords
from ringserve.responders.passwords import (
    PASSWORD_BYTES_MAX,
    STAND_IN_BYTES,
    PasswordError,
    make_hash,
    stand_in_hash,
    verify,
)

STAND_IN = stand_in_hash(os.urandom(STAND_IN_BYTES))


def test_a_password_verifies_against_its_hash_and_no_other_does() -> None:
    made = make_hash(b"correct horse")
    assert verify(made, b"correct horse")
    for other in (b"", b"correct hors", b"correct horse ", b"Correct horse", b"\xff", b"a\0b"):
        assert not verify(made, other)


def test_a_hash_is_of_argon2id_and_salted() -> None:
    first, second = make_hash(b"x"), make_hash(b"x")
    assert first != second
    assert re.fullmatch(r"\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}", first)


def test_a_rule_takes_the_hashes_that_are_made() -> None:
    users = (("alice", make_hash(b"x")), ("nobody", STAND_IN))
    assert AuthRule(paths=("**",), users=users).users == users


@pytest.mark.parametrize(
    ("password_hash", "password"),
    [
        ("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$yQy9MKklieQ", b"password"),
        ("$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$pwrnNxZaeoE", b"password"),
    ],
)
def test_a_hash_of_other_parameters_verifies(password_hash: str, password: bytes) -> None:
    assert verify(password_hash, password)
    assert not verify(password_hash, password + b"!")


@pytest.mark.parametrize(
    "password_hash",
    [
        "",
        "secret",
        "$2b$12$abcdefghijklmnopqrstuv",
        "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$!!!",
        "$argon2id$v=19$m=19456,t=2,p=1$a$b",
        "$argon2id$v=19$m=1,t=0,p=0$c2FsdHNhbHQ$yQy9MKklieQ",
        "$argon2id$v=19$m=99999999999999,t=2,p=1$c2FsdHNhbHQ$yQy9MKklieQ",
    ],
)
def test_what_is_no_hash_lets_nobody_in(password_hash: str) -> None:
    assert not verify(password_hash, b"secret")


def test_letters_with_accents_are_the_same_however_they_are_typed() -> None:
    composed, decomposed = "é".encode(), "e\u0301".encode()
    assert verify(make_hash(composed), decomposed)
    assert verify(make_hash(decomposed), composed)
    assert verify(make_hash(b"caf\xe9"), b"caf\xe9"), "what is no UTF-8 is taken as it is"


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        (b"", "is empty"),
        (b"x" * (PASSWORD_BYTES_MAX + 1), "longer than 1024"),
        (b"a\tb", "control"),
        (b"\x7f", "control"),
    ],
)
def test_a_password_that_would_be_of_no_use_is_refused(password: bytes, reason: str) -> None:
    with pytest.raises(PasswordError, match=reason):
        make_hash(password)


def test_the_longest_password_verifies() -> None:
    longest = b"x" * PASSWORD_BYTES_MAX
    assert verify(make_hash(longest), longest)


def test_the_stand_in_is_nobodys() -> None:
    assert not verify(STAND_IN, b"")


def test_the_stand_in_costs_what_a_hash_of_ours_costs() -> None:
    def shape(password_hash: str) -> list[object]:
        *parameters, salt, tag = password_hash.split("$")
        return [*parameters, len(salt), len(tag)]

    assert shape(STAND_IN) == shape(make_hash(b"x"))


def test_the_stand_in_can_be_read_by_the_library() -> None:
    from argon2 import extract_parameters

    assert extract_parameters(STAND_IN) == extract_parameters(make_hash(b"x"))


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert passwords.missing_library() is None
    monkeypatch.setitem(sys.modules, "argon2", None)  # the import then fails
    assert passwords.missing_library() == "argon2-cffi is not installed; pip install 'ringserve[auth]'"


def test_the_library_is_not_loaded_before_it_is_needed() -> None:
    source = "import sys, ringserve.responders.passwords, ringserve.cli.command; sys.exit('argon2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=30).returncode == 0
