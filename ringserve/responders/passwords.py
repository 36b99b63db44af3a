"""Passwords: made into hashes by `ringserve password`, and verified when a request brings one.

argon2-cffi does both. It is an optional extra and is loaded when it is needed first, so that a site without protected
paths neither waits for it nor needs it.
"""

from __future__ import annotations

import base64
import importlib
import unicodedata

MEMORY_KIB = 19 * 1024
TIME_COST = 2
PARALLELISM = 1
"""The least that OWASP's Password Storage Cheat Sheet recommends for Argon2id. The library's own default (64 MiB, 3
passes, 4 threads; 150 ms against 28) is for a login that happens once. With Basic authentication any request of anybody
can cost a verification, and that much for each would be a gift to those who mean harm."""
SALT_BYTES = 16
TAG_BYTES = 32
STAND_IN_BYTES = SALT_BYTES + TAG_BYTES
PASSWORD_BYTES_MAX = 1024
"""Nobody's password is longer, and a browser repeats it in each request's head."""
MISSING_LIBRARY = "argon2-cffi is not installed; pip install 'ringserve[auth]'"


class PasswordError(ValueError):
    """A password that cannot be used. The message says why."""


def missing_library() -> str | None:
    """What to tell a user whose passwords need the library that is not installed; None if it is."""
    try:
        importlib.import_module("argon2")
    except ImportError:
        return MISSING_LIBRARY
    return None


def make_hash(password: bytes) -> str:
    """The argon2id hash of a password, with a salt of its own, as the users of an auth rule have it.

    password: 1 to PASSWORD_BYTES_MAX bytes; what is UTF-8 is normalized as browsers do it (RFC 7617 2.1: NFC). Raises
    PasswordError, and ImportError without the library.
    """
    from argon2 import PasswordHasher

    if not password:
        raise PasswordError("the password is empty")
    if len(password) > PASSWORD_BYTES_MAX:
        raise PasswordError(f"the password is longer than {PASSWORD_BYTES_MAX} bytes")
    if any(byte < 0x20 or byte == 0x7F for byte in password):
        raise PasswordError("the password has control characters, which Basic authentication cannot carry")
    hasher = PasswordHasher(TIME_COST, MEMORY_KIB, PARALLELISM, TAG_BYTES, SALT_BYTES)
    return hasher.hash(_normalized(password))


def _normalized(password: bytes) -> bytes:
    try:
        return unicodedata.normalize("NFC", password.decode()).encode()
    except UnicodeDecodeError:
        return password


def verify(password_hash: str, password: bytes) -> bool:
    """Whether a password is the one of a hash; False too for a hash that the library cannot read.

    It takes as long and as much memory as the hash's parameters say: 28 ms and 19 MiB for those of `make_hash` (2-core
    virtual machine). Safe in any thread, and lets others run meanwhile. Raises ImportError without the library.
    """
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return PasswordHasher().verify(password_hash, _normalized(password))
    except (VerificationError, InvalidHashError):
        return False


def stand_in_hash(chosen: bytes) -> str:
    """A hash with the parameters of `make_hash` that no password has. chosen: STAND_IN_BYTES at random.

    The password of an unknown user is verified against it, so that the time that this takes does not tell which names
    exist. No password is hashed: salt and tag are random, so no password matches.
    """
    salt, tag = (base64.b64encode(part).decode().rstrip("=") for part in (chosen[:SALT_BYTES], chosen[SALT_BYTES:]))
    return f"$argon2id$v=19$m={MEMORY_KIB},t={TIME_COST},p={PARALLELISM}${salt}${tag}"
