"""The page for users says what the tests test."""

from __future__ import annotations

from behaviour_page import PAGE, render


def test_the_page_is_made_of_the_rows_as_they_are() -> None:
    assert PAGE.read_text() == render(), "the rows have changed: `make docs` writes the page anew"
