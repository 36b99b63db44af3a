"""aiohttp's static files, run by aiohttp's own server on uvloop.

aiohttp_site.py ADDRESS PORT DIRECTORY log|quiet
"""

# mypy: disable-error-code="import-not-found"
# The peers are not in the project's own venv.

from __future__ import annotations

import logging
import sys

import uvloop
from aiohttp import web


def main() -> None:
    address, port, directory, log = sys.argv[1:]
    app = web.Application()
    app.router.add_static("/", directory)
    logger = logging.getLogger("aiohttp.access")
    if log == "log":
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    web.run_app(
        app,
        host=address,
        port=int(port),
        loop=uvloop.new_event_loop(),
        access_log=logger if log == "log" else None,
        # No end to keep-alive, as for all; and room for many connections at once.
        keepalive_timeout=3600,
        backlog=4096,
        print=None,
    )


main()
