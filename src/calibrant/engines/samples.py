"""Whatever a loader gives, as checked dictionaries of numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError, SettingError, unknown
from calibrant.data.checking import checked

Array = NDArray[Any]
Feed = dict[str, Array]


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model wants of one input.

    dtype: the numpy dtype; object for strings. shape: an int where the size is fixed, a name or None where it is free;
    None when not even the rank is known.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "any shape" if self.shape is None else ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"'{self.name}': {self.dtype}[{dims}]"


def iterate_samples(
    loader: Any,
    inputs: Sequence[InputSpec],
    steps: int | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
) -> Iterator[Feed]:
    """The samples of `loader`, each a dict from input name to a C-contiguous array of the model's dtype.

    loader: anything that can be iterated, with or without a length, or onnxruntime's CalibrationDataReader. It is read
        once, as far as `steps`, and never from the start again: fewer items than `steps` are fewer samples.
    A sample is an array, a tuple or list of arrays in input order, or a dict by input name; torch tensors, on any
        device, are taken wherever arrays are. collate_fn turns an item of the loader into one of these.
    steps: at most so many items; None: all of them.

    Floating arrays are cast to the model's floating dtype; any other dtype must be the model's own.
    Raises DataError, which names sample, input, what was found and what was expected: for an input that is missing or
    unknown, a dtype, rank or fixed size that does not fit, for NaN and Inf, for an empty sample, and when the loader
    gives nothing at all. SettingError for steps that are no whole number from 1.
    """
    check_steps(steps)
    count = 0
    for item in islice(items_of(loader), steps):
        count += 1
        if collate_fn is not None:
            item = collate_fn(item)
        yield _checked(item, inputs, count)
    if count == 0:
        raise DataError(
            "no samples: the loader gave nothing. It must give at least one; a generator can be read only once, "
            "so make a new one for each calibration"
        )


def check_steps(steps: int | None) -> None:
    """Raise SettingError for what is no number of items."""
    if steps is not None and not (isinstance(steps, Integral) and steps >= 1):
        raise SettingError(f"steps must be a whole number of at least 1, got {steps!r}")


def items_of(loader: Any) -> Iterator[Any]:
    """The items of a loader as they are: of anything that can be iterated, or of onnxruntime's CalibrationDataReader.

    Raises DataError for what is no loader.
    """
    get_next = getattr(loader, "get_next", None)
    if callable(get_next):
        return _until_none(get_next)
    if isinstance(loader, Mapping):
        raise DataError(
            f"the loader is a dict ({', '.join(map(str, loader))}): that is one sample; put samples into a list"
        )
    if not isinstance(loader, Iterable) or isinstance(loader, str | bytes):
        hint = ""
        if isinstance(loader, str | Path):
            hint = f": read the files first, as [np.load(path) for path in Path('{loader}').glob('*.npy')]"
        raise DataError(f"the loader must be an iterable of samples, got {type(loader).__name__}{hint}")
    return iter(loader)


def _until_none(get_next: Callable[[], Any]) -> Iterator[Any]:
    while (item := get_next()) is not None:  # not iter(get_next, None): that asks array == None
        yield item


def _checked(item: Any, inputs: Sequence[InputSpec], number: int) -> Feed:
    given = _by_name(item, inputs, number)
    feed = {i.name: checked(given[i.name], i, f"sample {number}, input '{i.name}'") for i in inputs}
    if feed and all(a.size == 0 for a in feed.values()):
        shapes = ", ".join(f"'{name}' {a.shape}" for name, a in feed.items())
        raise DataError(f"sample {number} is empty: {shapes}")
    return feed


def _by_name(item: Any, inputs: Sequence[InputSpec], number: int) -> Mapping[str, Any]:
    names = [spec.name for spec in inputs]
    if item is None:
        raise DataError(f"sample {number} is None; expected {_wanted(inputs)}")
    if isinstance(item, Mapping):
        extra = [name for name in item if name not in names]
        if extra:
            hint = f" (the model's inputs: {', '.join(names)}; drop it, or let collate_fn do so)"
            raise DataError(f"sample {number}: {unknown('input', str(extra[0]), names)}{hint}")
        missing = [spec for spec in inputs if spec.name not in item]
        if missing:
            have = ", ".join(map(str, item)) or "nothing"
            raise DataError(f"sample {number} lacks input {_wanted(missing)}; it has {have}")
        return item
    values = list(item) if isinstance(item, tuple | list) else [item]
    if len(values) != len(names):
        hint = "; let collate_fn drop what is not an input, e.g. labels" if len(values) > len(names) else ""
        raise DataError(
            f"sample {number} has {len(values)} array(s), the model {len(names)} input(s): {_wanted(inputs)}{hint}"
        )
    return dict(zip(names, values, strict=True))


def _wanted(inputs: Sequence[InputSpec]) -> str:
    return ", ".join(map(str, inputs))
