"""The `vledit` command: its overview, its commands, and what happens when one of them fails."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from .. import __version__
from ..errors import InputError, VLEditError
from ..paths import reason
from .output import emit, errors, wants_json
from .overview import COMMANDS, Lazily

INTERRUPTED = 130
UNEXPECTED = 70
"""Exit code of a bug (`EX_SOFTWARE`); the codes of expected errors stand in `vledit.errors`."""

UNUSABLE_PATH = InputError.exit_code
"""Exit code where the system refuses a path."""


class Commands(TyperGroup):
    """The root group: loads a command when it is used, and turns exceptions into messages and exit codes."""

    def __init__(self, **settings: Any) -> None:
        settings["commands"] = {}
        super().__init__(**settings)
        self.commands = Lazily()
        self._listing = False
        self._as_json = False

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; while all are listed, its line alone."""
        if self._listing and cmd_name in COMMANDS:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name].line)
        return self.commands.get(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """`vledit --help`."""
        with self._overview():
            super().format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names of commands that begin so."""
        with self._overview():
            return super().shell_complete(ctx, incomplete)

    @contextmanager
    def _overview(self) -> Iterator[None]:
        self._listing = True
        try:
            yield
        finally:
            self._listing = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads the options of `vledit` itself; what follows belongs to a command."""
        self._as_json = "--json" in args  # an option that is not understood is told before --json is read
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            self._tell_misuse(error)
            raise

    def _tell_misuse(self, error: Exception) -> None:
        """A usage error as JSON, where that was asked for; typer prints it on stderr for people."""
        if self._as_json and hasattr(error, "format_message"):
            emit({"error": error.format_message(), "kind": type(error).__name__})  # type: ignore[attr-defined]

    def invoke(self, ctx: Any) -> Any:
        """Runs the command that `ctx` holds."""
        try:
            return super().invoke(ctx)
        except VLEditError as error:
            report(str(error), type(error).__name__, wants_json(ctx))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            report("interrupted", "KeyboardInterrupt", wants_json(ctx))
            raise typer.Exit(INTERRUPTED) from error
        except OSError as error:
            # of a path that was given: a file where a folder is wanted, a place that cannot be written, a full disk
            if ctx.params.get("debug") or error.filename is None or isinstance(error, BrokenPipeError):
                raise
            place = error.filename2 or error.filename
            report(
                f"'{place}' cannot be used ({reason(error)}). Give another path, one that you can read and write.",
                type(error).__name__,
                wants_json(ctx),
            )
            raise typer.Exit(UNUSABLE_PATH) from error
        except Exception as error:
            self._tell_misuse(error)
            if ctx.params.get("debug") or not _is_bug(error):
                raise
            text = f"unexpected {type(error).__name__}: {error} (run `vledit --debug …` for the traceback)"
            report(text, type(error).__name__, wants_json(ctx))
            raise typer.Exit(UNEXPECTED) from error


def report(text: str, kind: str, as_json: bool) -> None:
    """Says what went wrong: on stderr for people, and on stdout where JSON was asked for."""
    errors.print(f"error: {text}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        emit({"error": text, "kind": kind})


def _is_bug(error: Exception) -> bool:
    """Exits, usage errors and a closed pipe are none: typer answers those itself."""
    return not (isinstance(error, BrokenPipeError | typer.Exit | typer.Abort) or hasattr(error, "exit_code"))


def build() -> typer.Typer:
    """The application."""
    app = typer.Typer(
        cls=Commands,
        name="vledit",
        help="Correct one thing that a vision-language model knows, and see what else changed.",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of unexpected errors.")] = False,
        version: Annotated[
            bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
        ] = False,
    ) -> None:
        pass

    return app


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"vledit {__version__}\n")
        raise typer.Exit
