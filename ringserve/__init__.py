"""ringserve: a web server for static files on io_uring.

    import ringserve

    with ringserve.serve("site", port=0) as server:
        print(server.url)

The names below are loaded when they are first used: the pytest plugin is imported by every pytest run on a machine
that has ringserve installed, and must not cost it the server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ringserve.config.rules import ConfigError
    from ringserve.config.settings import Config
    from ringserve.library import RunningServer, serve
    from ringserve.ring.linux.listeners import ListenError
    from ringserve.ring.world import RingRefusedError
    from ringserve.server import Server, StartError
    from ringserve.version import __version__

__all__ = [
    "Config",
    "ConfigError",
    "ListenError",
    "RingRefusedError",
    "RunningServer",
    "Server",
    "StartError",
    "__version__",
    "serve",
]

_HOMES = {
    "Config": "config.settings",
    "ConfigError": "config.rules",
    "ListenError": "ring.linux.listeners",
    "RingRefusedError": "ring.world",
    "RunningServer": "library",
    "Server": "server",
    "StartError": "server",
    "__version__": "version",
    "serve": "library",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'ringserve' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"ringserve.{home}"), name)
    globals()[name] = value
    return value
