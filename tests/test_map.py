"""The pages that lead through the repository name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASES = (ROOT, ROOT / "ringserve", *(ROOT / "ringserve").glob("*/"))
"""What names are relative to: the repository, the package, or, in a sentence about it, one of its packages."""
NAMED = re.compile(r"([\w/-]+\.py)\b")
LINKED = re.compile(r"\]\(([\w./-]+)")


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md", "README.md"])
def test_a_page_names_and_links_only_what_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = [name for name in NAMED.findall(text) if not any((base / name).is_file() for base in BASES)]
    linked = [name for name in LINKED.findall(text) if not ((ROOT / page).parent / name).exists()]
    assert named + linked == []


def test_the_map_has_ten_files_to_read() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    reading = text.partition("## Ten files")[2].partition("\n## ")[0]
    assert re.findall(r"^(\d+)\. `", reading, re.MULTILINE) == [str(number) for number in range(1, 11)]


def test_comments_and_docstrings_name_only_modules_that_are_there() -> None:
    modules = [f"/{path.relative_to(ROOT)}" for base in ("ringserve", "tests") for path in (ROOT / base).rglob("*.py")]
    gone = [
        f"{path.name}: {name}"
        for path in (ROOT / "ringserve").rglob("*.py")
        for name in re.findall(r"`([\w/-]+\.py)`", path.read_text())
        if not any(module.endswith(f"/{name}") for module in modules)
    ]
    assert gone == []
