"""Python's http.server, as `python -m http.server --protocol HTTP/1.1` runs it: a thread for each connection.

http_server_site.py ADDRESS PORT DIRECTORY log|quiet

On the command line its log cannot be switched off, and its backlog is 5, which would drop most of 64 connections.
"""

from __future__ import annotations

import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer


class Handler(SimpleHTTPRequestHandler):
    """Keep-alive, and no log unless asked for."""

    protocol_version = "HTTP/1.1"
    logging = False

    def log_message(self, format: str, *args: object) -> None:
        if self.logging:
            super().log_message(format, *args)


class Server(ThreadingHTTPServer):
    """Takes many connections at once."""

    request_queue_size = 4096


def main() -> None:
    address, port, directory, log = sys.argv[1:]
    Handler.logging = log == "log"
    Server((address, int(port)), partial(Handler, directory=directory)).serve_forever()


main()
