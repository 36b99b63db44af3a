"""The command line: flags, environment and file -> Config -> a running server; and the subcommands.

Flags are made from the settings declared in `config/settings.py`; none is spelled here. A flag wins over its variable
`RINGSERVE_<NAME>`, that over the configuration file, and that over the default: the file's values are click's
`default_map`, and click does the rest. A mistake of the user is one line on stderr and exit status 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields
from functools import partial
from itertools import chain, islice
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from ringserve.cli.compress import compress_command, left_out
from ringserve.config.file import DEFAULT_NAME, NO_FILE, ConfigFileError, Loaded, Place, kind_of, load, render, shown
from ringserve.config.rules import ConfigError, Setting, key_of, setting_of
from ringserve.config.settings import WHERE, Config, SiteConfig, settings
from ringserve.processes.supervisor import NotLoadedError, Supervisor
from ringserve.responders import passwords
from ringserve.ring.linux.listeners import ListenError
from ringserve.server import StartError, open_root
from ringserve.version import __version__

USER_ERROR = 2
UNHEALTHY = 1
"""What HEALTHCHECK takes for unhealthy; it reserves 2."""
INTERRUPTED = 130
"""What shells say of a process that SIGINT ended."""
LEFT_OUT_NAMED_MAX = 5
"""Precompressed files that `--check` names; the others are counted."""

EPILOG = f"""Every option can be given as an environment variable: --log-format is RINGSERVE_LOG_FORMAT, --listing is
RINGSERVE_LISTING=1, and several values of one are separated by blanks. Or in a file, {DEFAULT_NAME}: `log-format =
"json"`. An option wins over its variable, and that over the file. The file can also have rules for paths, virtual
hosts, and listeners: [[headers]], [[cache]], [[redirects]], [[rewrites]], [[auth]], [[virtual-host]], [[listen]].

`ringserve compress DIRECTORY` makes the precompressed siblings (.br, .zst, .gz) that it serves to those who accept
them.

`ringserve password` makes the hash of a password, for [[auth]].

`ringserve doctor` shows what this kernel offers and what ringserve makes of it.

`ringserve healthcheck` asks the server of the same environment, file and options whether it answers.
"""


def fail(message: object) -> NoReturn:
    """One line on stderr, and exit status 2; or, in a reload, the reason why it is none."""
    raise click.ClickException(str(message))


# -- flags ------------------------------------------------------------------------------------------------------


def _type_of(declared: Field[Any], setting: Setting) -> Any:
    if setting.choices:
        return click.Choice(setting.choices)
    kind = kind_of(declared)
    if kind is int:
        return click.IntRange(_whole(setting.minimum), _whole(setting.maximum))
    if kind is float:
        return click.FloatRange(setting.minimum, setting.maximum)
    return bool if kind is bool else str


def _whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)


def _variable_of(key: str) -> str:
    return "RINGSERVE_" + key.replace("-", "_").upper()


def _option(name: str, declared: Field[Any]) -> click.Option:
    setting, key, kind = setting_of(declared), key_of(declared), kind_of(declared)
    return click.Option(
        [f"--{key}/--no-{key}" if kind is bool else f"--{key}", name],
        type=_type_of(declared, setting),
        default=declared.default,
        multiple=kind is tuple,
        show_default=declared.default not in (None, ()),
        envvar=_variable_of(key),
        metavar=setting.metavar if not setting.choices else None,
        help=setting.help,
    )


ARGUMENTS = "ringserve.arguments"
"""Where a context keeps what it was made of, for a reload."""


class _Serve(click.Command):
    """The command that serves. It remembers its arguments, and shows those for tuning after the others."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(context, args)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Options": [], "Tuning": []}
        for parameter in self.get_params(context):
            declared = DECLARED.get(str(parameter.name))
            record = parameter.get_help_record(context)
            if record is not None:
                groups["Tuning" if declared is not None and setting_of(declared).tuning else "Options"].append(record)
        for title, records in groups.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _read_file(context: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """Make the file's values the defaults. Before other values are looked for, since the option is eager."""
    if context.get_parameter_source(str(parameter.name)) is ParameterSource.DEFAULT:
        # A link to nowhere counts as a file: what is not found is an error, and not a reason to go on without.
        path = DEFAULT_NAME if os.path.lexists(DEFAULT_NAME) else None
    try:
        context.obj = load(path) if path else NO_FILE
    except ConfigFileError as error:
        # Told by `run`, so that --help and --version can be had beside a broken file.
        context.obj = error
    else:
        context.default_map = dict(context.obj.values)


def _show_version(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"ringserve {__version__}")
        context.exit()


# -- serving ----------------------------------------------------------------------------------------------------

DECLARED = {declared.name: declared for declared in fields(Config)}


def origin_of(context: click.Context, name: str) -> str:
    """Where the value of a setting came from, by its field: in words, or as file and line."""
    key, source = key_of(DECLARED[name]), context.get_parameter_source(name)
    if source is ParameterSource.COMMANDLINE:
        if name == "directory":
            return "argument DIRECTORY"
        return f"flag --no-{key}" if context.params[name] is False else f"flag --{key}"
    if source is ParameterSource.ENVIRONMENT:
        return f"environment {_variable_of(key)}"
    if source is ParameterSource.DEFAULT_MAP:
        return str(context.obj.source.place(key))
    return "default"


def _configure(context: click.Context, loaded: Loaded, values: dict[str, Any]) -> Config:
    for name in WHERE if loaded.listen else ():
        origin = origin_of(context, name)
        if origin != "default":
            key, first = key_of(DECLARED[name]), loaded.source.place("listen", 0)
            fail(f"{origin}: {key} is said by each [[listen]] (the first is {first}); leave it out here")
    try:
        return loaded.configure(values)
    except ConfigFileError as error:
        fail(error)
    except ConfigError as error:
        name = next(each.name for each in DECLARED.values() if key_of(each) == error.place[0])
        origin = origin_of(context, name)
        # What click has checked it blames on an option; the rest is blamed on whoever gave the value.
        fail(error if origin == "default" else f"{origin}: {error}")


def _sites(config: Config, loaded: Loaded) -> Iterator[tuple[SiteConfig, Place, Mapping[str, Any]]]:
    """Each site, its table in the file, and what that table gives; nothing of the whole server's if a flag won."""
    yield config, (), {} if config.directory != loaded.values.get("directory") else loaded.values
    for number, (host, given) in enumerate(zip(config.virtual_host, loaded.hosts, strict=True)):
        yield host, ("virtual-host", number), given


def _check_sites(config: Config, loaded: Loaded) -> None:
    """Fail if a directory cannot be opened. The server finds it out as well, but does not know the line."""
    for site, table, given in _sites(config, loaded):
        try:
            os.close(open_root(site.directory))
        except StartError as error:
            fail(f"{loaded.source.place(*table, 'directory')}: {error}" if "directory" in given else error)


def announcement(config: Config, urls: Sequence[str], loaded: Loaded = NO_FILE) -> str:
    """The lines that tell where to find the server. For stderr, since stdout is the access log's."""
    shown = []
    for url in urls:
        # An address that stands for all cannot be typed into a browser everywhere; this machine's own can.
        url = url.replace("//0.0.0.0", "//127.0.0.1").replace("//[::]", "//[::1]")
        if url not in shown:
            shown.append(url)
    lines = [f"ringserve {__version__} serves {os.path.abspath(config.directory)} on"]
    lines += [f"  {url}" for url in shown]
    lines += [f"and {os.path.abspath(host.directory)} as {', '.join(host.names)}" for host in config.virtual_host]
    if loaded is not NO_FILE:
        lines.append(f"as {loaded.source.name} says.")
    return "\n".join((*lines, "Stop it with Ctrl-C."))


@click.pass_context
def run(context: click.Context, /, check: bool, **values: Any) -> None:
    """Serve until a signal says to stop; or only check what would be served, and how."""
    loaded: Loaded | ConfigFileError = context.obj
    if isinstance(loaded, ConfigFileError):
        fail(loaded)
    config = _configure(context, loaded, values)
    _check_sites(config, loaded)
    if check:
        _print_checked(context, config, loaded)
        return
    try:
        supervisor = Supervisor(config, partial(_load_again, context))
    except (ListenError, StartError) as error:
        fail(error)
    status = supervisor.run(lambda: supervisor.stderr.say(announcement(supervisor.config, supervisor.urls, loaded)))
    if status:
        sys.exit(status)


def _load_again(first: click.Context) -> Config:
    """The configuration as flags, environment and file give it now. Raises NotLoadedError."""
    try:
        with serve_command.make_context("ringserve", list(first.meta[ARGUMENTS])) as context:
            loaded = context.obj
            if isinstance(loaded, ConfigFileError):
                fail(loaded)
            values = {name: value for name, value in context.params.items() if name != "check"}
            config = _configure(context, loaded, values)
            _check_sites(config, loaded)
    except click.ClickException as error:
        raise NotLoadedError(error.format_message()) from error
    return config


def _print_checked(context: click.Context, config: Config, loaded: Loaded) -> None:
    missing = passwords.missing_library()
    for site, table, _given in _sites(config, loaded):
        if site.auth and missing:
            fail(f"{loaded.source.place(*table, 'auth')}: {missing}")
    # As bytes: TOML is UTF-8, whatever the terminal is.
    text = render(config, loaded, lambda name: origin_of(context, name), os.getcwd())
    click.echo((text + _describe_left_out(config, loaded)).encode(), nl=False)


def _describe_left_out(config: Config, loaded: Loaded) -> str:
    """How many precompressed files would not be served, and the first of them, as a comment; nothing without any."""
    roots = {(site.directory, site.follow_symlinks): None for site, _table, _given in _sites(config, loaded)}
    found = chain.from_iterable(left_out(directory, follow_symlinks=follows) for directory, follows in roots)
    named = [shown(each) for each in islice(found, LEFT_OUT_NAMED_MAX)]
    more = sum(1 for _other in found)
    if not named:
        return ""
    listed = "; ".join(named) + (f"; and {more} more" if more else "")
    return f"# precompressed files that are not served: {len(named) + more} ({listed})\n"


def _configuration() -> list[click.Parameter]:
    """The parameters that make a configuration."""
    return [
        click.Argument(["directory"], default=".", envvar="RINGSERVE_DIRECTORY"),
        *(_option(name, declared) for name, declared in settings().items()),
        click.Option(
            ["--config"],
            envvar="RINGSERVE_CONFIG",
            metavar="PATH",
            show_default=f"{DEFAULT_NAME}, if there is one",
            expose_value=False,
            is_eager=True,
            callback=_read_file,
            help="Read settings, rules and virtual hosts from this file; '' is none.",
        ),
    ]


serve_command: click.Command = _Serve(
    "ringserve",
    callback=run,
    params=[
        *_configuration(),
        click.Option(
            ["--check"],
            is_flag=True,
            help="Check settings, file and directories, print what is in force and where it came from, and exit.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_show_version,
            help="Show the version and exit.",
        ),
    ],
    help="Serve the files of DIRECTORY (default: the current one) over HTTP/1.1, by io_uring.",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


# -- subcommands ------------------------------------------------------------------------------------------------


@click.command("ringserve doctor")
def doctor_command() -> None:
    """Show whether ringserve can run here, who may refuse it, and the limits of this system that matter to it."""
    from ringserve.cli.doctor import examine, render

    report = examine()
    click.echo(render(report))
    sys.exit(0 if report.works else USER_ERROR)


ASKED = frozenset(("host", "port", "unix", "trusted_proxy", "proxy_protocol", "config"))
"""The options that a health check depends on. It takes the others as well, so that it can be given the server's own
arguments, but its help does not show them."""


@click.pass_context
def check_health(context: click.Context, /, timeout: float, **values: Any) -> None:
    """Exit with status 0 if the server answers, and with 1 and a line on stderr if it does not."""
    from ringserve.cli.healthcheck import UnhealthyError, check

    loaded: Loaded | ConfigFileError = context.obj
    if isinstance(loaded, ConfigFileError):
        fail(loaded)
    try:
        check(_configure(context, loaded, values), timeout)
    except UnhealthyError as error:
        click.echo(f"ringserve healthcheck: {error}", err=True)
        sys.exit(UNHEALTHY)
    except ValueError as error:
        fail(error)


def _healthcheck_command() -> click.Command:
    from ringserve.cli.healthcheck import TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S

    parameters = _configuration()
    for parameter in parameters:
        if isinstance(parameter, click.Option):
            parameter.hidden = parameter.name not in ASKED
    timeout = click.Option(
        ["--timeout"],
        type=click.FloatRange(0.01, TIMEOUT_MAX_S),
        default=TIMEOUT_DEFAULT_S,
        show_default=True,
        envvar="RINGSERVE_HEALTHCHECK_TIMEOUT",
        metavar="SECONDS",
        help="Time for the answer.",
    )
    return click.Command(
        "ringserve healthcheck",
        callback=check_health,
        params=[*parameters, timeout],
        help="Ask the server of the same environment, file and options for the head of `/`; exit with 0 if it answers "
        "with a status below 500, and with 1 otherwise.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    )


@click.command("ringserve password", context_settings={"help_option_names": ["-h", "--help"]})
def password_command() -> None:
    """Print the hash of a password, for the users of an [[auth]] rule.

    The password is asked for twice and not shown; or, where standard input is no terminal, its first line is taken.
    """
    if missing := passwords.missing_library():
        fail(missing)
    try:
        password_hash = passwords.make_hash(_ask())
    except passwords.PasswordError as error:
        fail(error)
    click.echo(password_hash)
    click.echo(PASSWORD_HINT, err=True)


PASSWORD_HINT = f"""\
Put it into {DEFAULT_NAME}:

[[auth]]
paths = ["/private/**"]
users = {{ NAME = "the hash" }}"""


def _ask() -> bytes:
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline(passwords.PASSWORD_BYTES_MAX + 2)
        return line.removesuffix(b"\n").removesuffix(b"\r")
    from getpass import getpass

    # Not click's prompt, which asks for ever until two agree.
    password = getpass("Password: ")
    if getpass("Again: ") != password:
        fail("the two passwords differ")
    return password.encode("utf-8", "surrogateescape")


SUBCOMMANDS: dict[str, click.Command] = {
    "compress": compress_command,
    "doctor": doctor_command,
    "healthcheck": _healthcheck_command(),
    "password": password_command,
}


def _exit(message: str) -> NoReturn:
    click.echo(f"ringserve: {message}", err=True)
    sys.exit(USER_ERROR)


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
        _exit(f"{error.format_message().rstrip('.')}; see `{name} --help`")
    except click.ClickException as error:
        _exit(error.format_message())
    except click.Abort:
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)
