"""`python -m ringserve` and the `ringserve` command."""

from ringserve.cli import main

if __name__ == "__main__":
    main()
