"""Outputs of a session in memory that is used again: a sample's values are many times larger than the sample."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from threading import local
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from calibrant.core.errors import first_line
from calibrant.engines.samples import Feed
from calibrant.engines.session import run

log = logging.getLogger(__name__)

Array = NDArray[Any]
T = TypeVar("T")
U = TypeVar("U")
_Key = tuple[tuple[int, ...], ...]
_Kind = tuple[tuple[int, ...], np.dtype[Any]]
LINE = 64  # bytes of a cache line, and what onnxruntime aligns to
MOST_SHAPES = 1024  # of inputs that are remembered


class BufferedSession(Generic[T]):
    """Runs a session for `names`. What a thread is given lies in its own buffers, until its next run.

    show: makes of the values, in order, what `run` gives. It is told whether they will lie in the same memory again; of
    memory that is used again it is asked but once.
    Buffers are bound once the shapes that such inputs lead to have been seen. Where the same shapes lead to others,
    because they depend on what the inputs hold, onnxruntime refuses the buffers, and goes on without any.
    """

    def __init__(self, session: Any, names: Sequence[str], show: Callable[[list[Array], bool], T]) -> None:
        self._session = session
        self._names = list(names)
        self._show = show
        self._kinds: dict[_Key, list[_Kind]] = {}
        self._can_bind = True
        self._mine = local()  # key, binding, shown

    def showing(self, show: Callable[[list[Array], bool], U]) -> BufferedSession[U]:
        """The same in another form; what shapes were seen is known."""
        other = BufferedSession(self._session, self._names, show)
        other._kinds, other._can_bind = self._kinds, self._can_bind
        return other

    def run(self, feed: Feed) -> T:
        """The values. Raises ModelError where onnxruntime fails."""
        key = tuple(array.shape for array in feed.values())
        if self._can_bind and key in self._kinds:
            try:
                return self._run_bound(feed, key)
            except Exception as error:  # onnxruntime's own share no base but this; a true failure comes again below
                log.info("outputs get new memory with every sample from now on: %s", first_line(error))
                self._can_bind = False
        values = run(self._session, self._names, feed)
        if any(array.dtype == object for array in [*feed.values(), *values]):  # strings
            self._can_bind = False
        elif len(self._kinds) < MOST_SHAPES:
            self._kinds[key] = [(value.shape, value.dtype) for value in values]
        return self._show(values, False)

    def _run_bound(self, feed: Feed, key: _Key) -> T:
        if getattr(self._mine, "key", None) != key:
            self._bind(key)
        binding = self._mine.binding
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        self._session.run_with_iobinding(binding)
        shown: T = self._mine.shown
        return shown

    def _bind(self, key: _Key) -> None:
        self._mine.key = self._mine.binding = self._mine.shown = None  # the old ones go before the new ones come
        arrays = _side_by_side(self._kinds[key])
        self._mine.shown = self._show(arrays, True)
        self._mine.binding = self._session.io_binding()
        for name, array in zip(self._names, arrays, strict=True):
            self._mine.binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self._mine.key = key


def _side_by_side(kinds: Sequence[_Kind]) -> list[Array]:
    """Arrays in one piece of memory: large enough for the system's huge pages, of which far fewer are looked up."""
    starts, end = [], 0
    for shape, dtype in kinds:
        starts.append(end)
        end += -(-math.prod(shape) * dtype.itemsize // LINE) * LINE
    memory = np.empty(end + LINE, np.uint8)
    memory = memory[-memory.ctypes.data % LINE :]
    return [
        memory[start : start + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        for start, (shape, dtype) in zip(starts, kinds, strict=True)
    ]
