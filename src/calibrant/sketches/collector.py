"""Collector: a value's sketch in the making."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from calibrant.core import DataError, SettingError
from calibrant.sketches.arrays import Floats, as_floats
from calibrant.sketches.bins import LogBins
from calibrant.sketches.extremes import Extremes
from calibrant.sketches.histogram import Histogram
from calibrant.sketches.layout import Layout
from calibrant.sketches.margins import MarginTally
from calibrant.sketches.sketch import TensorSketch, row_channel_axis
from calibrant.sketches.spec import SketchSpec
from calibrant.sketches.tally import FLUSH_LIMIT, Tally, table_bytes

if TYPE_CHECKING:
    from calibrant.sketches.device import DeviceCollectors

LEAST_PART = 1 << 17  # elements, some 0.1 ms of counting: less is not worth handing to another thread
MOST_THREADS = 64
MOST_LENT = 1 << 24  # bytes of a value's tables per channel, of which all who count together have their own


class Collector:
    """Adds tensors to one sketch; the order and the batches in which they come make no difference to its bytes.

    threads: how many to use on large tensors, 1 to 64. One thread at a time may call a collector's methods (but for
    `lend`); different collectors are independent, and while they count they let other threads run.
    """

    def __init__(self, spec: SketchSpec | None = None, threads: int = 1) -> None:
        if not isinstance(threads, int) or not 1 <= threads <= MOST_THREADS:
            raise SettingError(f"threads must be an integer from 1 to {MOST_THREADS}, got {threads!r}")
        self.spec = spec or SketchSpec()
        self.threads = threads
        self._tallies: dict[tuple[int, int], Tally] = {}  # by (thread, channels)
        self._lent: list[Tally] = []
        self._margins = None if self.spec.isotone_axis is None else MarginTally(self.spec.isotone_axis)
        self._channels: int | None = None
        self._blocked: tuple[tuple[int, ...], int, Layout] | None = None  # shape, channels, layout of the last such
        self._on_devices: dict[Any, DeviceCollectors] = {}

    def add(self, x: Any) -> None:
        """Count the values of `x`.

        x: numpy array of float16, float32, float64, integers or bools, of any shape and strides, or a torch tensor on
        any device; read only. A tensor on a GPU is counted there if Triton is installed, and must not change before
        its stream is through; without Triton it is copied to the host. float16 is widened exactly; float64 and wide
        integers are rounded to float32. An empty x counts nothing. NaN and Inf are counted apart, never as values.
        DataError where x is none of these, lacks an axis of the spec, or has another number of channels than before.
        """
        if getattr(x, "is_cuda", False) and _has_triton():
            self._add_on_device(x)
            return
        values = as_floats(x)
        layout = Layout.of(values.shape, self.spec.channel_axis)
        if values.size:
            self._check_channels(layout.channels)
            self._add_rows(values)
            self._count(values.reshape(-1), layout)

    def add_blocked(self, x: Any, channels: int) -> None:
        """Count `x` [N, ceil(channels / B), spatial..., B], onnxruntime's NCHWc layout of [N, channels, spatial...].

        Counts exactly what the plain tensor would; what lies beyond `channels` is padding of any content. The axes of
        the spec are those of the plain tensor. DataError where the shape and `channels` do not agree, and as in `add`;
        SettingError where the spec has its channels elsewhere than on axis 1.
        """
        values = as_floats(x)
        if self._blocked is None or self._blocked[:2] != (values.shape, channels):
            self._blocked = values.shape, channels, self._blocked_layout(values.shape, channels)
        if values.size:
            if self._margins is not None:
                plain = np.moveaxis(values, -1, 2).reshape(values.shape[0], -1, *values.shape[2:-1])
                self._add_rows(as_floats(plain[:, :channels]))
            self._count(values.reshape(-1), self._blocked[2])

    def layout_to_lend(self, x: Any, channels: int | None = None) -> Layout | None:
        """The layout of `x` for `kernels.count_all`; None where `x` has to be added.

        That is where there is more to do, or where a tally's tables are so large that one is all there should be.
        channels: of a blocked tensor, see `add_blocked`; None for a plain one. DataError as in `add`.
        """
        is_floats = type(x) is np.ndarray and x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned
        if not is_floats or not 0 < x.size <= FLUSH_LIMIT or self._margins is not None or self.threads > 1:
            return None
        if channels is not None:
            layout = self._blocked_layout(x.shape, channels)
        else:
            layout = Layout.of(x.shape, self.spec.channel_axis)
            self._check_channels(layout.channels)
        is_large = self.spec.per_channel and table_bytes(layout.channels, self.spec.channel_mantissa_bits) > MOST_LENT
        return None if is_large else layout

    def lend(self, channels: int) -> Tally:
        """A new tally for somebody else to count into; what it then holds is part of the sketch.

        Several threads may borrow at once, also while another one adds.
        """
        tally = self._new_tally(channels)
        self._lent.append(tally)
        return tally

    def sketch(self) -> TensorSketch:
        """The sketch of all that was added so far; more may be added afterwards."""
        spec = self.spec
        extremes, margins = Extremes.empty(), None if self._margins is None else self._margins.margins()
        whole = Histogram.empty(LogBins(spec.mantissa_bits))
        each = Histogram.empty(LogBins(spec.channel_mantissa_bits))
        for tally in [*self._tallies.values(), *self._lent]:
            found = Extremes.from_tally(tally)
            extremes = extremes.merge(found.per_tensor() if spec.channel_axis is None else found)
            whole = whole.merge(Histogram.from_cells(whole.bins, 1, tally.histogram()))
            if spec.per_channel:
                each = each.merge(Histogram.from_cells(each.bins, tally.channels, tally.channel_histogram()))
        sketch = TensorSketch(
            spec, extremes, whole if spec.histogram else None, each if spec.per_channel else None, margins
        )
        for collectors in self._on_devices.values():
            sketch = sketch.merge(collectors.sketches().even["tensor"])
        return sketch

    def _blocked_layout(self, shape: tuple[int, ...], channels: int) -> Layout:
        """Of such a tensor, checked: see `add_blocked`."""
        layout, axis = Layout.of_blocked(shape, channels), self.spec.channel_axis
        if axis not in (None, 1, 2 - len(shape)):
            raise SettingError(f"a blocked tensor has its channels on axis 1, but channel_axis is {axis}")
        if 0 not in shape:
            self._check_channels(channels)
        return layout if axis is not None or layout.padded else layout.merged()

    def _add_on_device(self, x: Any) -> None:
        from calibrant.sketches.device import DeviceCollectors

        layout = Layout.of(tuple(x.shape), self.spec.channel_axis)
        if x.numel():
            self._check_channels(layout.channels)
            if x.device not in self._on_devices:
                self._on_devices[x.device] = DeviceCollectors({"tensor": self.spec}, x.device)
            self._on_devices[x.device].add({"tensor": x}, 0)

    def _check_channels(self, channels: int) -> None:
        if self.spec.channel_axis is None:
            return
        if self._channels not in (None, channels):
            raise DataError(f"expected {self._channels} channels on axis {self.spec.channel_axis}, got {channels}")
        self._channels = channels

    def _add_rows(self, values: Floats) -> None:
        if self._margins is not None:
            self._margins.add(values, row_channel_axis(values.shape, self.spec))

    def _count(self, values: Floats, layout: Layout) -> None:
        """Count flat values, in equal parts where they are worth more than one thread."""
        parts = min(self.threads, values.size // LEAST_PART)
        if parts <= 1:
            self._tally(0, layout.channels).add(values, 0, layout)
            return
        places = [values.size * part // parts // layout.lanes * layout.lanes for part in range(parts)] + [values.size]
        tallies = [self._tally(part, layout.channels) for part in range(parts)]

        def task(part: int) -> Callable[[], None]:
            start, stop = places[part], places[part + 1]
            return lambda: tallies[part].add(values[start:stop], start, layout)

        _run_together([task(part) for part in range(parts)])

    def _tally(self, thread: int, channels: int) -> Tally:
        if (thread, channels) not in self._tallies:
            self._tallies[thread, channels] = self._new_tally(channels)
        return self._tallies[thread, channels]

    def _new_tally(self, channels: int) -> Tally:
        spec = self.spec
        whole = spec.mantissa_bits if spec.histogram else None
        each = spec.channel_mantissa_bits if spec.per_channel else None
        return Tally(channels, whole, each)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _run_together(tasks: Sequence[Callable[[], None]]) -> None:
    """Run all tasks at once, the last one in this thread; the first error is raised when all are done."""
    futures = [_pool().submit(task) for task in tasks[:-1]]
    try:
        tasks[-1]()
    finally:
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


@cache
def _pool() -> ThreadPoolExecutor:
    """The threads of all collectors; they come into being as they are needed."""
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="calibrant-sketches")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked child has the pool, but none of its threads
