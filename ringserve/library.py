"""The server as a library: in a thread of its own, for the length of a `with` block.

A library changes nothing of the process that it is in: no limit, no signal handler. So a server here has what the soft
limit of open files leaves it, while the command raises that limit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TypedDict, Unpack, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from ringserve.config.rules import AuthRule, CacheRule, ConfigError, HeaderRule, RedirectRule, RewriteRule
from ringserve.config.settings import Config, HostConfig
from ringserve.processes.log_file import open_first_log
from ringserve.processes.standard import open_standard_descriptors
from ringserve.server import Server

DRAIN_S = 0.5
"""The default of `drain_timeout_s` here. Tests end servers, and clients that tests have forgotten read nothing."""
THREAD_END_S = 30.0
"""Beyond the drain's deadline: a thread that has not ended by then is a bug, and is reported as one."""


class Settings(TypedDict, total=False):
    """What `serve` takes by name: the fields of `Config`, except those that `serve` names itself, those of several
    listeners, and those of worker processes, of which it has none. A test holds the two equal, so a field that is added
    there is added here.
    """

    listing: bool
    spa: bool
    clean_urls: bool
    follow_symlinks: bool
    security_headers: bool
    cors_origin: tuple[str, ...]
    headers: tuple[HeaderRule, ...]
    cache: tuple[CacheRule, ...]
    redirects: tuple[RedirectRule, ...]
    rewrites: tuple[RewriteRule, ...]
    auth: tuple[AuthRule, ...]
    unix: str | None
    log_format: str
    log_file: str | None
    trusted_proxy: tuple[str, ...]
    proxy_protocol: bool
    interrupt: str
    server_name: str
    connections_max: int
    header_timeout_s: float
    keep_alive_timeout_s: float
    answer_timeout_s: float
    write_timeout_s: float
    linger_timeout_s: float
    rate_bytes_min: int
    requests_max: int
    drain_timeout_s: float
    head_bytes_max: int
    target_bytes_max: int
    fields_max: int
    cached_file_bytes_max: int
    cache_bytes_max: int
    cached_files_max: int
    open_files_max: int
    pipes_max: int
    pipe_bytes: int
    buffers: int
    buffer_bytes: int
    completion_entries: int
    kernel_workers_max: int
    virtual_host: tuple[HostConfig, ...]
    hot_path: bool


class RunningServer:
    """A server in a thread. Use it in a `with` block, or call `stop`.

    url: where it is reached, with a slash at the end; the first of `urls` if there are several. port: the port of all
    of them; 0 if it listens on a unix socket.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.urls = server.urls
        self.url = self.urls[0]
        at = urlsplit(self.url)
        self.port = 0 if at.scheme == "unix" else at.port or 80
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ringserve", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure

    def _run(self) -> None:
        try:
            self.server.run(self._started.set)
        except BaseException as failure:
            self._failure = failure
        finally:
            self._started.set()

    def stop(self) -> None:
        """End: accept nobody, close idle connections, and let what is in flight finish. Responses that have not gone
        out whole after `drain_timeout_s` are cut off by a reset, those that a client does not read among them. A second
        call cuts off at once. Raises what ended the server, if it was not this.
        """
        self.server.stop()
        self._thread.join(self.server.config.drain_timeout_s + THREAD_END_S)
        if self._thread.is_alive():
            raise AssertionError("the server's thread did not end after its deadline")
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def serve(
    directory: str | os.PathLike[str] = ".",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    log_fd: int = 1,
    **settings: Unpack[Settings],
) -> RunningServer:
    """Serve a directory from a thread, and return when clients are served.

    host, port: where to listen; port 0 is a free one, to be read from `RunningServer.port` or `.url`.
    log_fd: the descriptor of the access log, which is off unless `log_format` is given.
    settings: see `Settings`, and `Config` for what each means; `drain_timeout_s` is half a second by default, so that
    the end of the `with` block takes less than one: see `RunningServer.stop` for what is cut off then.

    The limits of the process stay as they are: connections and open files share its soft limit of descriptors.
    Raises StartError, ListenError, ConfigError and RingRefusedError, each with a line that names the fix.
    """
    _check({"host": host, "port": port, "log_fd": log_fd, **settings})
    open_standard_descriptors()  # or a client's socket could be the one that diagnostics are written to
    settings.setdefault("log_format", "off")
    settings.setdefault("drain_timeout_s", DRAIN_S)
    config = Config(directory=os.fspath(directory), host=(host,), port=port, **settings)
    return RunningServer(Server(config, log=open_first_log(config), log_fd=log_fd))


def _check(given: Mapping[str, object]) -> None:
    """Raise ConfigError for a name or a type that mypy would not have taken."""
    kinds = {"host": str, "port": int, "log_fd": int, **get_type_hints(Settings)}
    for name, value in given.items():
        if name not in kinds:
            from difflib import get_close_matches

            close = get_close_matches(name, kinds, n=1)
            hint = f"did you mean {close[0]}?" if close else "ringserve.library.Settings has those that there are"
            raise ConfigError(f"{name}: serve() has no such setting; {hint}")
        if not _is_of(value, kinds[name]):
            wanted = str(kinds[name]) if get_args(kinds[name]) else kinds[name].__name__
            raise ConfigError(f"{name} is {value!r}; it has to be of type {wanted}")


def _is_of(value: object, kind: Any) -> bool:
    """Whether a value is of a type that occurs in `Settings`. kind: a class, a union, or a tuple of any length."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_is_of(each, get_args(kind)[0]) for each in value)
    if get_args(kind):
        return any(_is_of(value, each) for each in get_args(kind))
    if isinstance(value, bool):  # a subclass of int, but nobody means a count by it
        return bool(kind is bool)
    return isinstance(value, (int, float) if kind is float else kind)
