"""The server as a library: in a thread of its own, for the length of a `with` block."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

from ringserve.config import Config
from ringserve.server import Server
from ringserve.standard import open_standard_descriptors

THREAD_END_S = 30.0
"""Beyond the drain's deadline: a thread that has not ended by then is a bug, and is reported as one."""


class RunningServer:
    """A server in a thread. Use it in a `with` block, or call `stop`.

    url: where it is reached; the first of `urls` if there are several.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.urls = server.urls
        self.url = self.urls[0]
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
        """Drain and end. Raises what ended the server, if it was not this."""
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
    **settings: Any,
) -> RunningServer:
    """Serve a directory from a thread, and return when clients are served.

    host, port: where to listen; port 0 is a free one, to be read from `RunningServer.url`. settings: any other field
    of `Config`; the access log is off unless `log_format` is given, and then goes to the descriptor `log_fd`. Raises
    StartError, ListenError, ConfigError and RingRefusedError, each with a line that names the fix.
    """
    open_standard_descriptors()  # or a client's socket could be the one that diagnostics are written to
    settings.setdefault("log_format", "off")
    config = Config(directory=os.fspath(directory), host=(host,), port=port, **settings)
    return RunningServer(Server(config, log_fd=log_fd))
