"""The servers that are compared: how each is configured, started, and which workloads it can take part in.

A peer's configuration is one file in peers/, as its own documentation recommends it, with the same limits for all: no
end to keep-alive, thousands of connections, no log (or one to a file). Placeholders in it are replaced here:
@PORT@, @ROOT@ (the site), @OWN@ (a directory that it may write to), @LOG@ (the lines that switch the log off or on),
@MORE@ (the text of a second file, for what one peer has beyond another).
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import corpus
from processes import HOST, tool
from workloads import Workload

HERE = Path(__file__).resolve().parent
CONFIGURATIONS = HERE / "peers"
KEEP_ALIVE_S = 3600
"""Longer than any run lasts: connections of `many` rest while the other servers have their rounds."""
CONNECTIONS_MAX = 16_384
"""More than `many` opens, and less than the 20,000 descriptors that some systems allow."""


class Place(NamedTuple):
    """Where a server runs: its own directory, the site, its port, and the file of its access log, if it has one."""

    own: Path
    site: Path
    port: int
    log: Path | None


@dataclass(frozen=True)
class Peer:
    """A server and what there is to know about it.

    cannot: workloads that it has no answer to, and why.
    only: the workloads that it is there for, if not for all.
    needs: what it is installed with. version: its version, or None if it is not there.
    configuration: its file in peers/, if it has one; written to `Place.own` under the same name. more: see @MORE@.
    log_to_stdout: its access log is its standard output. A server that has no choice writes there.
    frozen: stopped while it is not its turn, since it never sleeps.
    """

    name: str
    needs: str
    version: Callable[[], str | None]
    command: Callable[[Place], Sequence[str]]
    configuration: str = ""
    more: str = ""
    log_lines: tuple[str, str] = ("", "")
    environment: Callable[[Place], Mapping[str, str]] = field(default=lambda _: {})
    cannot: Mapping[str, str] = field(default_factory=dict)
    only: frozenset[str] = frozenset()
    log_to_stdout: bool = False
    frozen: bool = False

    def left_out_of(self, workload: Workload) -> str:
        """Why it does not take part; empty if it does. Not worth a line where it is there for something else."""
        return self.cannot.get(workload.base_name, "")

    def takes_part_in(self, workload: Workload) -> bool:
        return not self.left_out_of(workload) and (not self.only or workload.name in self.only)

    def prepare(self, place: Place) -> list[str]:
        """Write its configuration; the command line that starts it."""
        if self.configuration:
            text = (CONFIGURATIONS / self.configuration).read_text()
            log = self.log_lines[place.log is not None].replace("@FILE@", str(place.log))
            more = (CONFIGURATIONS / self.more).read_text() if self.more else ""
            replacements = {
                "@MORE@": more,
                "@LOG@": log,
                "@OWN@": place.own,
                "@ROOT@": place.site,
                "@PORT@": place.port,
            }
            for placeholder, value in replacements.items():
                text = text.replace(placeholder, str(value))
            (place.own / self.configuration).write_text(text)
        return list(self.command(place))


def output_of(command: Sequence[str]) -> str:
    """What a program says on both streams; empty if there is no such program."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    except OSError:
        return ""


def _said(program: str, option: str, pattern: str) -> Callable[[], str | None]:
    """The version in what a program says."""

    def version_of() -> str | None:
        found = re.search(pattern, output_of([tool(program), option]))
        return found[1] if found else None

    return version_of


# -- C and Go ----------------------------------------------------------------------------------------------------------


def _nginx(place: Place) -> list[str]:
    return [tool("nginx"), "-p", str(place.own), "-c", str(place.own / "nginx.conf")]


def _floor_version() -> str | None:
    """It is built where it is started; here only whether it could be."""
    probe = "#include <liburing.h>\nint main(void) { return 0; }"
    try:
        built = subprocess.run(
            [tool("cc"), "-x", "c", "-", "-luring", "-o", os.devnull],
            input=probe, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:
        return None
    return "floor.c" if built.returncode == 0 else None


def _floor(place: Place) -> list[str]:
    program = place.own / "floor"
    subprocess.run([tool("cc"), "-O2", str(HERE / "floor.c"), "-o", str(program), "-luring"], check=True)
    return [str(program), str(place.port), str(place.site / corpus.single("1k.bin").lstrip("/"))]


_NGINX_LOG = ("access_log off;", "access_log @FILE@;")
_NATIVE = (
    Peer("nginx", "Debian's nginx", _said("nginx", "-v", r"nginx/(\S+)"), _nginx, "nginx.conf", log_lines=_NGINX_LOG),
    Peer(
        "nginx-cache", "Debian's nginx", _said("nginx", "-v", r"nginx/(\S+)"), _nginx, "nginx.conf",
        more="nginx-open-file-cache.conf", log_lines=_NGINX_LOG,
    ),
    Peer(
        "lighttpd", "Debian's lighttpd", _said("lighttpd", "-v", r"lighttpd/(\S+)"),
        lambda place: [tool("lighttpd"), "-D", "-f", str(place.own / "lighttpd.conf")],
        "lighttpd.conf", log_lines=("", 'server.modules += ( "mod_accesslog" )\naccesslog.filename = "@FILE@"'),
    ),
    Peer(
        "h2o", "Debian's h2o", _said("h2o", "-v", r"h2o version (\S+)"),
        lambda place: [tool("h2o"), "-c", str(place.own / "h2o.conf")],
        "h2o.conf", log_lines=("", "access-log: @FILE@"),
    ),
    Peer(
        "caddy", "Debian's caddy", _said("caddy", "version", r"v?(\d\S+)"),
        lambda place: [
            tool("caddy"), "run", "--config", str(place.own / "caddy.Caddyfile"), "--adapter", "caddyfile"
        ],
        "caddy.Caddyfile", log_lines=("", "log {\n\t\toutput file @FILE@ {\n\t\t\troll_disabled\n\t\t}\n\t}"),
        # It keeps state in the home directory unless told otherwise.
        environment=lambda place: {key: str(place.own) for key in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")},
    ),
    Peer(
        "floor", "cc and liburing", _floor_version, _floor,
        only=frozenset({"small", "pipeline", "latency"}),
    ),
)  # fmt: skip


# -- Python ------------------------------------------------------------------------------------------------------------


def _http_server(place: Place) -> list[str]:
    return [
        sys.executable, str(CONFIGURATIONS / "http_server_site.py"), HOST, str(place.port), str(place.site),
        "log" if place.log else "quiet",
    ]  # fmt: skip


_PYTHON = Peer(
    "http.server", "Python", platform.python_version, _http_server, log_to_stdout=True,
    cannot={
        "revalidate": "knows no If-None-Match", "range": "knows no ranges", "many": "has a thread for each connection",
        "churn": "closes without saying so, which wrk counts as an error",
    },
)  # fmt: skip


# -- ringserve ---------------------------------------------------------------------------------------------------------


def _ringserve_version() -> str | None:
    try:
        return version("ringserve")
    except PackageNotFoundError:
        return None


def ringserve_command(python: str, *options: str) -> Callable[[Place], list[str]]:
    """The command line of ringserve with its defaults, but for the limits that are raised for all.

    Its limit of requests on a connection, 100,000, is left: no connection gets so many in a round, and older revisions
    do not know the option.
    """
    return lambda place: [
        python, "-m", "ringserve", str(place.site), "--host", HOST, "--port", str(place.port),
        "--log-format", "combined" if place.log else "off", "--keep-alive-timeout", str(KEEP_ALIVE_S),
        "--connections-max", str(CONNECTIONS_MAX), *options,
    ]  # fmt: skip


BASE = "nginx"
"""The server that the others are divided by."""
OURS = "ringserve"
PEERS = {
    peer.name: peer
    for peer in (
        *_NATIVE,
        Peer(OURS, "make install", _ringserve_version, ringserve_command(sys.executable), log_to_stdout=True),
        Peer(
            "ringserve-busy-poll", "make install", _ringserve_version,
            ringserve_command(sys.executable, "--interrupt", "busy-poll"),
            only=frozenset({"latency", "latency-unique"}), frozen=True, log_to_stdout=True,
        ),
        _PYTHON,
    )
}  # fmt: skip


def checkout(name: str, directory: Path) -> Peer:
    """The ringserve of a checkout, run by that checkout's venv if it has one and else by ours."""
    own = directory / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    code = "import os, ringserve; print(os.path.dirname(ringserve.__path__[0]))"

    def environment(_: Place) -> dict[str, str]:
        # Before the editable install of the venv, so that the code is the checkout's whoever installed it.
        return {"PYTHONPATH": str(directory), "PYTHONSAFEPATH": "1"}

    def version_of() -> str | None:
        place = Place(directory, directory, 0, None)
        said = subprocess.run(
            [python, "-c", code],
            env=dict(os.environ) | environment(place), capture_output=True, text=True, check=False,
        )  # fmt: skip
        built = any((directory / "ringserve").rglob("_uring*.so"))
        ours = built and said.returncode == 0 and Path(said.stdout.strip()).resolve() == directory.resolve()
        return output_of(["git", "-C", str(directory), "describe", "--always", "--dirty"]).strip() if ours else None

    return Peer(
        name, f"`make install` in {directory}", version_of, ringserve_command(python),
        environment=environment, log_to_stdout=True,
    )  # fmt: skip
