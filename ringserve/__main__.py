"""`python -m ringserve` and the `ringserve` command."""

from __future__ import annotations

from ringserve.processes.standard import open_standard_descriptors


def main() -> None:
    """Entry point of both."""
    open_standard_descriptors()
    from ringserve.cli.command import main as run

    run()


if __name__ == "__main__":
    main()
