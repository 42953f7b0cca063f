"""Collector: a value's sketch in the making."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibrant.core import SettingError
from calibrant.sketches.arrays import as_floats
from calibrant.sketches.sketch import TensorSketch
from calibrant.sketches.spec import SketchSpec


class Collector:
    """Adds tensors to one sketch; the order and the batches in which they come make no difference to its bytes.

    threads: how many to use on large tensors. One thread at a time may call a collector's methods.
    """

    def __init__(self, spec: SketchSpec | None = None, threads: int = 1) -> None:
        self.spec = spec or SketchSpec()
        self.threads = threads
        self._sketch = TensorSketch.empty(self.spec)

    def add(self, x: Any) -> None:
        """Count the values of `x`.

        x: numpy array of float16, float32, float64, integers or bools, of any shape and strides, or a torch tensor on
        any device; read only. float16 is widened exactly; float64 and wide integers are rounded to float32. An empty
        x counts nothing. NaN and Inf are counted apart, never as values.
        DataError where x is none of these, lacks an axis of the spec, or has another number of channels than before.
        """
        self._sketch = self._sketch.merge(TensorSketch.of(x, self.spec))

    def add_blocked(self, x: Any, channels: int) -> None:
        """Count `x` [N, ceil(channels / B), spatial..., B], onnxruntime's NCHWc layout of [N, channels, spatial...].

        Counts exactly what the plain tensor would; the channels beyond `channels` are padding of any content.
        Axes of the spec are those of the plain tensor; its channels are axis 1, else SettingError.
        """
        values = as_floats(x)
        rank = values.ndim - 1
        if self.spec.channel_axis not in (None, 1, 1 - rank):
            raise SettingError(
                f"a blocked tensor has its channels on axis 1, but channel_axis is {self.spec.channel_axis}"
            )
        plain = np.moveaxis(values, -1, 2).reshape(values.shape[0], -1, *values.shape[2:-1])
        self.add(plain[:, :channels])

    def sketch(self) -> TensorSketch:
        """The sketch of all that was added so far; more may be added afterwards."""
        return self._sketch
