"""The command line: flags and environment -> Config -> a running server; and the subcommands.

Flags are made from the settings declared in `config.py`; none is spelled here. A flag wins over its variable
`RINGSERVE_<NAME>`, and that over the default. A mistake of the user is one line on stderr and exit status 2.
"""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import Field
from typing import Any, NoReturn

import click

from ringserve.compress import compress_command
from ringserve.config import Config, ConfigError, Setting, setting_of, settings
from ringserve.ring.descriptors import ListenError
from ringserve.ring.interface import RingBrokenError, RingRefusedError
from ringserve.server import Server, StartError
from ringserve.version import __version__

USER_ERROR = 2
BROKEN = 70
"""EX_SOFTWARE of sysexits.h: the ring broke under a running server. A supervisor should start it anew."""

EPILOG = """Every option can be given as an environment variable: --log-format is RINGSERVE_LOG_FORMAT.

`ringserve compress DIRECTORY` makes the precompressed siblings (.br, .zst, .gz) that it serves to those who accept
them.

`ringserve doctor` shows what this kernel offers and what ringserve makes of it.
"""


def fail(message: object) -> NoReturn:
    """One line on stderr, and exit status 2."""
    click.echo(f"ringserve: {message}", err=True)
    sys.exit(USER_ERROR)


def _type_of(declared: Field[Any], setting: Setting) -> Any:
    if setting.choices:
        return click.Choice(setting.choices)
    # A field's default has the type of the setting; without one it is a path.
    kind = type(declared.default)
    if kind is int:
        return click.IntRange(_whole(setting.minimum), _whole(setting.maximum))
    if kind is float:
        return click.FloatRange(setting.minimum, setting.maximum)
    return str


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)


def _option(name: str, declared: Field[Any]) -> click.Option:
    setting = setting_of(declared)
    several = isinstance(declared.default, tuple)
    flag = "--" + name.removesuffix("_s").replace("_", "-")
    return click.Option(
        [flag, name],
        type=_type_of(declared, setting),
        default=declared.default,
        multiple=several,
        show_default=declared.default not in (None, ()),
        envvar="RINGSERVE_" + flag[2:].replace("-", "_").upper(),
        metavar=setting.metavar if not setting.choices else None,
        help=setting.help,
    )


def announce(server: Server) -> None:
    """The lines that tell where to find the server. On stderr, since stdout is the access log's."""
    shown = []
    for url in server.urls:
        # An address that stands for all cannot be typed into a browser everywhere; this machine's own can.
        url = url.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
        if url not in shown:
            shown.append(url)
    click.echo(f"ringserve {__version__} serves {os.path.abspath(server.config.directory)} on", err=True)
    for url in shown:
        click.echo(f"  {url}", err=True)
    click.echo("Stop it with Ctrl-C.", err=True)


def run(directory: str, **values: Any) -> None:
    """Serve until a signal says to stop."""
    try:
        server = Server(Config(directory=directory, **values))
    except (ConfigError, ListenError, StartError) as error:
        fail(error)

    def started() -> None:
        server.stop_on_signals()
        announce(server)
        # What exists now exists to the end, so the garbage collector need not look at it again: a full collection
        # then costs as much as there are connections, not as there are modules.
        gc.collect()
        gc.freeze()

    try:
        server.run(started)
    except RingRefusedError as error:
        fail(error)
    except RingBrokenError as error:
        click.echo(f"ringserve: {error}", err=True)
        sys.exit(BROKEN)


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"ringserve {__version__}")
        context.exit()


serve_command = click.Command(
    "ringserve",
    callback=run,
    params=[
        click.Argument(["directory"], default=".", envvar="RINGSERVE_DIRECTORY"),
        *(_option(name, declared) for name, declared in settings().items()),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_version,
            help="Show the version and exit.",
        ),
    ],
    help="Serve the files of DIRECTORY (default: the current one) over HTTP/1.1, every kernel operation by io_uring.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


@click.command("ringserve doctor")
def doctor_command() -> None:
    """Show what this kernel and this process can do, what ringserve uses of it, and what is missing at what cost."""
    from ringserve.doctor import examine, render

    report = examine()
    click.echo(render(report))
    sys.exit(0 if report.works else USER_ERROR)


SUBCOMMANDS: dict[str, click.Command] = {"compress": compress_command, "doctor": doctor_command}


def main(arguments: list[str] | None = None) -> None:
    """Entry point. A first argument that names a subcommand is one; a directory of that name is given as `./doctor`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    command, name = serve_command, "ringserve"
    if arguments and arguments[0] in SUBCOMMANDS:
        command, name = SUBCOMMANDS[arguments[0]], f"ringserve {arguments[0]}"
        arguments = arguments[1:]
    try:
        status = command.main(arguments, prog_name=name, standalone_mode=False)
    except click.UsageError as error:
        fail(f"{error.format_message().rstrip('.')}; see `{name} --help`")
    sys.exit(status if isinstance(status, int) else 0)
