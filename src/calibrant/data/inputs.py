"""What the samples have to fill: the model's inputs, as an engine describes them."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Sample = dict[str, Array]


class ModelInput(Protocol):
    """Name, element type and shape of one input; a dimension is a number, or a name or None when it is free."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> np.dtype[np.generic]: ...

    @property
    def shape(self) -> Sequence[int | str | None] | None: ...


class Source(Protocol):
    """A countable store of samples. Index it to read one; nothing is read before."""

    notes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def name_of(self, index: int) -> str:
        """How messages call that sample: its file, or its row of a file."""
        ...


def static(dim: int | str | None) -> int | None:
    """The dimension when it is a fixed positive number, else None."""
    return dim if isinstance(dim, int) and dim > 0 else None


def names(inputs: Sequence[ModelInput]) -> str:
    return ", ".join(i.name for i in inputs)


def spread(total: int, wanted: int, start: int = 0, stop: int | None = None) -> Iterator[int]:
    """`wanted` of the indices 0..total-1, evenly spread: a folder sorted by class gives some of each class.

    start, stop: only those in these places.

    >>> list(spread(10, 4)), list(spread(3, 4)), list(spread(10, 4, 1, 3))
    ([0, 2, 5, 7], [0, 1, 2], [2, 5])
    """
    wanted = min(total, wanted)
    return (i * total // wanted for i in range(start, wanted if stop is None else min(stop, wanted)))
