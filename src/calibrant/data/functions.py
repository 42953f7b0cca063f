"""`package.module:function` as samples: whatever Python can produce."""

import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from calibrant.core import DataError, SettingError, unknown

FORM = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_function(text: str) -> bool:
    """Whether `text` has the form package.module:function.

    >>> is_function("my.calib:samples"), is_function("C:\\\\photos"), is_function("photos")
    (True, False, False)
    """
    return FORM.fullmatch(text) is not None


def load_module(name: str) -> ModuleType:
    """Import a module, also from the current folder. Raises DataError when there is none, or when it fails."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise DataError(f"the module '{name}' fails when imported: {blame(error)}") from error
        around = [p.stem for p in Path.cwd().iterdir() if p.suffix == ".py"]
        advice = "it must be installed or lie in the current folder, without '.py'"
        text = unknown("module", name, around) if around else f"there is no module '{name}'"
        raise DataError(f"{text} ({advice})") from None
    except Exception as error:
        raise DataError(f"the module '{name}' fails when imported: {blame(error)}") from error


def load_function(spec: str, *arguments: str) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    arguments: what it will be called with, in words that are names.
    Raises DataError when there is none, or one that cannot be called so; SettingError for another form.
    """
    module_name, _, path = spec.partition(":")
    if module_name.endswith(".py") and path:
        raise DataError(f"'{spec}' is not of the form package.module:function: write '{module_name[:-3]}:{path}'")
    if not is_function(spec):
        raise SettingError(f"'{spec}' is not of the form package.module:function")
    found: Any = load_module(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            raise DataError(f"'{spec}': {unknown('name in ' + module_name, part, public)}")
        found = getattr(found, part)
    if not callable(found):
        raise DataError(f"'{spec}' is of type {type(found).__name__}, expected a function")
    function: Callable[..., Any] = found
    _check_arguments(function, spec, arguments)
    return function


def _check_arguments(function: Callable[..., Any], spec: str, arguments: tuple[str, ...]) -> None:
    try:
        takes = inspect.signature(function)
    except (TypeError, ValueError):  # one of C's, which says nothing about itself
        return
    try:
        takes.bind(*arguments)
    except TypeError:
        raise DataError(f"'{spec}' takes {takes}, and is called with ({', '.join(arguments)}) here") from None


class FunctionSamples:
    """What a function returns, one item at a time; the function is called anew for every iteration.

    A sample is an array, a tuple or list of arrays, or a dict by input name; a CalibrationDataReader is taken too.
    Errors of the user's code become DataError with the file and line that raised them.
    """

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self.function = load_function(spec)

    def __iter__(self) -> Iterator[Any]:
        try:
            given = self.function()
        except Exception as error:
            raise DataError(f"'{self.spec}' raised {blame(error)}") from error
        yield from self._items(given)

    def _items(self, given: Any) -> Iterator[Any]:
        if hasattr(given, "get_next"):
            given = _until_none(given.get_next)
        try:
            items = iter(given)
        except TypeError:
            raise DataError(
                f"'{self.spec}' must return something to iterate over (a list, a generator), got {type(given).__name__}"
            ) from None
        number = 1
        while True:
            try:
                item = next(items)
            except StopIteration:
                return
            except Exception as error:
                raise DataError(f"'{self.spec}' raised, at sample {number}, {blame(error)}") from error
            yield item
            number += 1


def _until_none(get_next: Callable[[], Any]) -> Iterator[Any]:
    while (item := get_next()) is not None:  # not iter(get_next, None): that compares arrays with None
        yield item


def blame(error: BaseException) -> str:
    """The error in one line, with the place in the user's code that raised it."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0].rstrip(": ")
    ours = str(Path(__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((ours, "<frozen"))]
    frames = [f for f in frames if not f.filename.endswith(("importlib/__init__.py", "importlib\\__init__.py"))]
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text
