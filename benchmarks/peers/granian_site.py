"""Granian's static files are served before any application is asked; it wants one all the same."""

from __future__ import annotations


async def app(scope: dict[str, object], receive: object, send: object) -> None:  # noqa: ARG001
    raise AssertionError("every request of the benchmark is for a file")
