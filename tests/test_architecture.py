"""What lies above the ring knows nothing of what is behind it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import ringserve

PACKAGE = Path(ringserve.__file__).parent
NAMES = re.compile(r"IORING_|F_MORE|ENOBUFS|SQPOLL|splice|inotify|O_RDONLY", re.IGNORECASE)
"""Of io_uring, and of calls of Linux that another ring may not make."""
OF_LIMITS = frozenset(("fs.inotify.max_user_watches", "/proc/sys/fs/inotify/max_user_watches"))
"""`ringserve doctor` tells an operator of limits by the names that the system gives them."""


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Identifiers, attributes, what is imported, and strings that are no text for people: those without a blank."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.alias(name=name, asname=other):
                yield node.lineno, f"{name} {other}"
            case ast.ImportFrom(module=str(name)):
                yield node.lineno, name
            case ast.Constant(value=str(text)) if " " not in text:
                yield node.lineno, text


def test_no_name_of_what_is_behind_the_ring_stands_above_it() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{line}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if PACKAGE / "ring" not in path.parents
        for line, name in names_of(ast.parse(path.read_text()))
        if NAMES.search(name) and name not in OF_LIMITS
    ]
    assert found == []
