"""Builds `ringserve.ring.uring._uring`, the cffi extension (API mode) over shim.c and liburing.

setup.py runs this through cffi's setuptools hook. liburing is linked from its static archive where the compiler
finds one: a built wheel then needs no shared library. The stable ABI is cffi's default and costs nothing that
could be measured (docs/decisions.md), so that one wheel serves Python 3.11 and later.
"""

import os
import re
import subprocess
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent


def static_liburing() -> str | None:
    """The path of liburing.a as the compiler resolves it, or None if only a shared library can be had."""
    compiler = os.environ.get("CC", "cc").split()
    try:
        answer = subprocess.run([*compiler, "-print-file-name=liburing.a"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = answer.stdout.strip()
    return path if os.path.isabs(path) else None


def declarations() -> str:
    """The declarations of shim.h without its comments, which cffi's parser would have to skip."""
    return re.sub(r"/\*.*?\*/", "", (HERE / "shim.h").read_text(), flags=re.S)


ffibuilder = FFI()
ffibuilder.cdef(declarations())
_archive = static_liburing()
ffibuilder.set_source(
    "ringserve.ring.uring._uring",
    (HERE / "shim.c").read_text(),
    extra_compile_args=["-O2", "-std=gnu11", "-fvisibility=hidden"],
    extra_objects=[_archive] if _archive else [],
    libraries=[] if _archive else ["uring"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
