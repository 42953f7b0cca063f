"""The typer application: its commands, and how wrong usage is said."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from calibrant import __version__
from calibrant.cli.calibrate import CALIBRATE_HELP, calibrate
from calibrant.cli.compare import COMPARE_HELP, compare
from calibrant.cli.console import error_line
from calibrant.cli.exits import INTERRUPTED, TERMINATED, USAGE
from calibrant.cli.inspect import INSPECT_HELP, inspect
from calibrant.cli.merge import MERGE_HELP, merge
from calibrant.cli.quantize import QUANTIZE_HELP, quantize
from calibrant.cli.report import REPORT_HELP, report
from calibrant.core import closest


class Commands(TyperGroup):
    """A group that says wrong usage in one line, with the nearest name for a mistyped command or option."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        # Not standalone: errors come out as exceptions, for us to say.
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        if not standalone_mode:
            return run()
        try:
            code = run()
        except (KeyboardInterrupt, typer.Abort):
            sys.exit(INTERRUPTED)
        except Exception as error:
            # Recent typers carry click's exceptions within, earlier ones import click: what both have is this method.
            if not hasattr(error, "format_message"):
                raise
            _wrong_usage(error)
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in self.commands and not name.startswith("-"):
            near = closest(name, self.commands)
            hint = f"did you mean '{near}'?" if near else "known: " + ", ".join(sorted(self.commands))
            if name.endswith(".onnx"):
                hint = f"did you mean 'calibrant quantize {name}'?"
            ctx.fail(f"unknown command '{name}'; {hint}")
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A command whose --mean and --std take their three numbers with spaces between, as well as with commas.

    And whose --ray goes without an address. Nothing may be empty: as a path it would be the current folder.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        empty = empty_argument(args)
        if empty is not None:
            ctx.fail(f"{empty} is empty")
        return list(super().parse_args(ctx, complete_address(join_numbers(args, ("--mean", "--std")), "--ray")))


def empty_argument(args: list[str]) -> str | None:
    """What was given nothing: an option, or an argument.

    >>> empty_argument(["m.onnx", "-o", ""]), empty_argument(["--data="]), empty_argument([""]), empty_argument(["-q"])
    ('-o', '--data', 'an argument', None)
    """
    for before, arg in zip(["", *args], args, strict=False):
        if not arg:
            return before if before.startswith("-") else "an argument"
        if arg.startswith("--") and arg.endswith("="):
            return arg[:-1]
    return None


def complete_address(args: list[str], option: str, default: str = "local") -> list[str]:
    """`args` with the default address after `option`, where none follows.

    >>> complete_address(["--ray", "m.onnx"], "--ray"), complete_address(["--ray", "head:6379"], "--ray")
    (['--ray', 'local', 'm.onnx'], ['--ray', 'head:6379'])
    """
    completed: list[str] = []
    for arg, following in zip(args, [*args, ""][1:], strict=True):
        completed.append(arg)
        if arg == option and following not in ("auto", default) and re.search(r":\d+$", following) is None:
            completed.append(default)
    return completed


def join_numbers(args: list[str], options: tuple[str, ...]) -> list[str]:
    """`args` with the numbers after each of `options` in one argument.

    >>> join_numbers(["m.onnx", "--mean", "0.4", "0.5", "0.6", "--std", "1"], ("--mean", "--std"))
    ['m.onnx', '--mean', '0.4,0.5,0.6', '--std', '1']
    """
    joined: list[str] = []
    expecting = False  # after one of the options, or after a number that belongs to it
    for arg in args:
        if not (expecting and _is_number(arg)):
            joined.append(arg)
            expecting = arg in options
        elif joined[-1] in options:
            joined.append(arg)
        else:
            joined[-1] += f",{arg}"
    return joined


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wrong_usage(error: Any) -> NoReturn:
    text = str(error.format_message())
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        near = closest(str(option), [name for p in context.command.get_params(context) for name in p.opts])
        text = f"unknown option '{option}'" + (f"; did you mean '{near}'?" if near else "")
    extra = re.search(r"unexpected extra argument.* \(([^ )]+)", text)
    if extra is not None and Path(extra[1]).exists():
        text += f"; for every file of a folder give the folder itself: --data '{Path(extra[1]).parent}'"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(text, file=sys.stderr)
        sys.exit(USAGE)
    error_line(text[:1].lower() + text[1:] if text[:2].istitle() else text)
    if context is not None:
        print(f"Try '{context.command_path} --help'.", file=sys.stderr)
    sys.exit(USAGE)


app = typer.Typer(
    cls=Commands,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Quantize ONNX models to 8 bits: a float model and a folder of samples in, a calibrated INT8 model out.",
    epilog="Start with [bold]calibrant quantize MODEL.onnx --data PHOTOS --output MODEL.int8.onnx[/bold]",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"calibrant {__version__}")
        raise typer.Exit


@app.callback()
def _calibrant(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say the version, and stop.")
    ] = False,
) -> None:
    pass


for body, text in (
    (quantize, QUANTIZE_HELP),
    (calibrate, CALIBRATE_HELP),
    (merge, MERGE_HELP),
    (inspect, INSPECT_HELP),
    (report, REPORT_HELP),
    (compare, COMPARE_HELP),
):
    app.command(cls=Command, no_args_is_help=True, help=text)(body)


def main() -> None:
    """The entry point of the command. Ends the process with 0, 1, 2 or 130: see `calibrant.cli.exits`.

    A polite kill (SIGTERM) cleans up like Ctrl-C, and ends it with 143.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    app(prog_name="calibrant")
