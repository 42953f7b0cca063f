"""What the command says while it works: log lines, warnings, progress. All of it goes to stderr; results to stdout."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import rich.console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from calibrant.core import in_prose

LOGGERS = ("calibrant", "py.warnings")
WIDE = 10_000  # columns
COMPARING = "comparing methods"
LABEL = 13  # columns of the labels of a summary
PLAIN_EVERY = 10.0  # seconds between progress lines where there is no terminal
COMPILING = "(kernels are compiled first, this once)"  # in the name of a stage that stands still for long at its start


Row = tuple[str, str]  # label and text


class Console:
    """stdout for results, stderr for everything else, at the verbosity that was asked for.

    Warnings are collected in `warnings`, for the summary; with verbose and debug they are also said at once.
    """

    def __init__(self, verbose: bool = False, quiet: bool = False, debug: bool = False) -> None:
        self.quiet = quiet
        self.debug = debug
        self.live = verbose or debug
        self.level = logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING
        self.warnings: list[str] = []
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)

    def say(self, text: str, style: str = "") -> None:
        """A line on stderr, whatever brackets it holds."""
        self.err.print(Text(text, style=style), soft_wrap=True)

    def fail(self, message: str) -> None:
        """The one line of an error, after the warnings that led to it."""
        if not self.live and not self.quiet:
            for line in shortened(self.warnings):
                self.say(f"warning: {line}", "yellow")
        error_line(message, self.err)

    def summary(self, title: str, rows: Iterable[Row], ends: Iterable[Row]) -> None:
        """On stdout, unless quiet: a title, labels with their texts, the warnings so far, and what comes after."""
        if self.quiet:
            return
        self.out.print(Text(title, style="bold"))
        warnings = [("warning", text) for text in shortened([] if self.live else self.warnings)]
        for style, some in (("dim", rows), ("yellow", warnings), ("bold green", ends)):
            for label, text in some:
                self.labelled(label, text, style)

    def labelled(self, label: str, text: str, style: str = "dim", width: int = LABEL) -> None:
        """A line of a summary. style: of the label."""
        self.out.print(Text.assemble((f"  {label:<{width}}", style), text), soft_wrap=True)

    @contextmanager
    def logging(self) -> Iterator[None]:
        """While it is open, log records and Python's warnings come here."""
        handler = _Handler(self)
        before = [(logging.getLogger(name), logging.getLogger(name).level) for name in LOGGERS]
        logging.captureWarnings(True)
        for logger, _ in before:
            logger.addHandler(handler)
            logger.setLevel(self.level)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for logger, level in before:
                logger.removeHandler(handler)
                logger.setLevel(level)


class _Handler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text, at_once = record.getMessage().strip(), getattr(record, "at_once", False)  # who waits wants to know it now
        if record.levelno >= logging.WARNING and not at_once:
            self.console.warnings.append(text)
        if self.console.live or (at_once and not self.console.quiet):
            style = "yellow" if record.levelno >= logging.WARNING else "dim"
            self.console.say(f"{record.levelname.lower()}: {text}", style)


class Stages:
    """Where the work stands: a bar with the time left on a terminal, now and then a line elsewhere, nothing if quiet.

    >>> with Stages(Console(quiet=True)) as stages:
    ...     stages.begin("loading the model")
    ...     stages.begin("calibrating", total=2)
    ...     stages.done(2)
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.total: int | None = None
        self.name = ""
        self.unit = "samples"
        self.then = ""
        self.said = time.monotonic()
        self.first: tuple[float, int] | None = None

    def __enter__(self) -> Stages:
        if self.console.err.is_terminal and not self.console.quiet:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console.err, transient=True)
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def begin(
        self, name: str, total: int | None = None, unit: str = "samples", then: str = "finding the scales"
    ) -> None:
        """Another stage; with `total`, the number of samples, or another unit, that `done` will count up to.

        then: the stage that comes when all of them are done.
        """
        self.name, self.total, self.unit, self.first, self.then = name, total, unit, None, then
        self.said = time.monotonic()
        if self.bar is not None:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task = self.bar.add_task(name, total=total)
        elif name.endswith(COMPILING) and not self.console.quiet:
            self.console.say(name)

    def done(self, count: int) -> None:
        """So many samples, or other units, of the stage are done."""
        self.first = self.first or (time.monotonic(), count)  # the first takes longer: sessions start, kernels compile
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=count)
        elif not self.console.quiet and time.monotonic() - self.said >= PLAIN_EVERY:
            self.said = time.monotonic()
            self.console.say(self._line(count))
        if count == self.total:
            self.begin(self.then)

    def comparing(self, count: int, total: int) -> None:
        """So many of all runs are done with which the method `auto` compares models."""
        self.counting(COMPARING, count, total, "runs")

    def optimizing(self, name: str, count: int, total: int) -> None:
        """So many layers of all are done by the pass of that name."""
        self.counting(in_prose(name), count, total, "layers")

    def counting(self, name: str, count: int, total: int, unit: str) -> None:
        """So many units of all are done in the stage of that name, which begins with the first of them."""
        if self.name != name:
            self.begin(name, total, unit)
        self.done(count)

    def searching(self, name: str, count: int, total: int | None) -> None:
        """So much is done of what the search for a target is at."""
        if self.name != name:
            self.begin(name, total, "models" if total is None else "samples")
        self.done(count)

    def _line(self, count: int) -> str:
        since, before = self.first or (0.0, count)
        if not self.total or count == before:
            return f"{self.name}: {count} {self.unit}"
        left = (time.monotonic() - since) / (count - before) * (self.total - count)
        return f"{self.name}: {count} of {self.total} {self.unit}, about {left:.0f} s left"


def error_line(message: str, console: rich.console.Console | None = None) -> None:
    """`error: message` on stderr, on one line whatever the message."""
    one_line = " ".join(message.split())
    text = Text.assemble(("error:", "bold red"), " ", one_line)
    (console or _console(sys.stderr)).print(text, soft_wrap=True)


def shortened(lines: list[str], most: int = 8) -> list[str]:
    """Each line once, the first `most` of them, and how many more there are."""
    unique = list(dict.fromkeys(lines))
    more = [f"... and {len(unique) - most} more (--verbose shows all)"] if len(unique) > most else []
    return unique[:most] + more


def _console(file: Any) -> rich.console.Console:
    """A console that takes text as it is; where there is no terminal no table row is folded."""
    width = None if file.isatty() else WIDE
    return rich.console.Console(file=file, highlight=False, emoji=False, markup=False, width=width)
