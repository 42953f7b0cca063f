"""How a command ends.

0    done
1    the work failed: one line on stderr, and with --debug the traceback before it
2    wrong usage: an option, a name, a pattern or a setting that does not exist, or that contradicts another
130  interrupted; nothing half-written is left
143  terminated by SIGTERM; as 130
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from calibrant.cli.console import Console
from calibrant.core import CalibrantError, ConfigError, SettingError

FAILED, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


@contextmanager
def one_line_errors(console: Console) -> Iterator[None]:
    """Turn every error of the block into one line and the exit code that it has."""
    try:
        yield
    except typer.Exit:
        raise
    except KeyboardInterrupt as stop:
        _stop(console, str(stop) or "interrupted; nothing was written", INTERRUPTED)
    except (SettingError, ConfigError) as error:
        _stop(console, str(error), USAGE)
    except CalibrantError as error:
        _stop(console, str(error), FAILED)
    except MemoryError:
        _stop(console, "out of memory: try a smaller --batch-size or --memory-budget", FAILED)
    except OSError as error:
        _stop(console, f"{error.filename or 'a file'}: {error.strerror or error}", FAILED)
    except Exception as error:
        if hasattr(error, "format_message"):  # wrong usage: `calibrant.cli.app` says it
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        _stop(
            console, f"{text} (unexpected, so a bug of Calibrant: please report it with the output of --debug)", FAILED
        )


def _stop(console: Console, message: str, code: int) -> None:
    if console.debug:
        console.say(traceback.format_exc().rstrip())
    console.fail(message)
    raise typer.Exit(code)
