"""DeviceCollectors: sketches of tensors on a GPU, taken there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from calibrant.core import CalibrantError, DataError, StateError
from calibrant.sketches import device_margins
from calibrant.sketches.bins import LogBins
from calibrant.sketches.cells import I64
from calibrant.sketches.device_margins import DeviceMargins, MarginRoom
from calibrant.sketches.extremes import Extremes
from calibrant.sketches.halves import Halves
from calibrant.sketches.histogram import Histogram
from calibrant.sketches.kernels import gpu
from calibrant.sketches.kernels.gpu import Tensor
from calibrant.sketches.kernels.gpu_planes import Planes
from calibrant.sketches.kernels.gpu_read import Read, read
from calibrant.sketches.kernels.gpu_room import Room
from calibrant.sketches.kernels.gpu_state import State
from calibrant.sketches.kernels.gpu_words import HIGH, LOW, N_HIGH, N_LOW, NAN, NEG_INF, POS_INF, SIZE, ZEROS
from calibrant.sketches.kernels.reference import NONE_HI, NONE_LO, ordered
from calibrant.sketches.layout import Layout, positive_axis
from calibrant.sketches.sketch import TensorSketch, row_channel_axis
from calibrant.sketches.spec import SketchSpec

_HALVES = 2


class DeviceCollectors:
    """Of each named value, a sketch over each half of the samples, collected on one device by Triton's kernels.

    The bytes are those of `Collector`. Nothing waits for the device until `sketches` is asked for. Memory is taken when
    a value is first added, some 4 MiB for a value with a histogram of 8 mantissa bits, and from then on it stays the
    same: 16 bytes for each cell of each half, per channel too where a spec asks for that. Reading takes up to some
    hundred MiB for a moment. A cell has room for 2**49 elements.

    Adding may be captured into a CUDA graph, after it was done once outside of one, for what must be compiled and
    allocated; `clear` forgets what that counted.

    device: of torch, "cuda" or "cuda:1"; or "cpu", if Triton was told to interpret (TRITON_INTERPRET=1), which is slow.
    Not safe for use by two threads at once, and all calls belong on one stream.
    """

    def __init__(self, specs: Mapping[str, SketchSpec], device: Any) -> None:
        self._device = torch.device(device)
        self._margins = MarginRoom(self._device)
        self._values = {name: _Value(spec, self._margins) for name, spec in specs.items()}
        self._room = Room(self._device)
        self._half_numbers = torch.arange(_HALVES, dtype=torch.int32, device=self._device).reshape(_HALVES, 1)

    def add(self, values: Mapping[str, Tensor], half: int | Tensor) -> None:
        """Count tensors of this device in that half; values that nobody asked for are passed over.

        values: of any shape, strides and type that torch calls real; float16 and bfloat16 are widened exactly, float64
            and integers rounded to float32. An empty one counts nothing. They may change once the stream is through.
        half: 0 or 1; or a tensor with one such integer on the device, which a captured graph reads at each replay.
        DataError, naming the value, where it is not of this device, lacks an axis of its spec, or has another number of
        channels than before. What precedes it is counted.
        """
        number = self._half_numbers[half] if isinstance(half, int) else half.reshape(1).to(torch.int32)
        together = _Together()
        self._margins.fit()
        for name in [name for name in values if name in self._values]:
            value = self._values[name]
            try:
                tensor = _prepared(values[name], value.spec, self._device)
                value.add(tensor, number, self._room, together)
            except CalibrantError as error:
                raise type(error)(f"value '{name}': {error}") from error
        gpu.count_ends(together.ends, number, self._room)
        for pairs in together.whole.values():
            tensors, states = zip(*pairs, strict=True)
            gpu.count_many(tensors, states, number, self._room)

    def clear(self) -> None:
        """Forget all that was counted; memory and numbers of channels stay."""
        for value in self._values.values():
            value.clear()

    def sketches(self) -> Halves:
        """What was collected; waits for the device. Adding may go on."""
        self._margins.fit()
        return Halves(*map(self._sketches, range(_HALVES)))

    def _sketches(self, half: int) -> dict[str, TensorSketch]:
        states = [state for value in self._values.values() for state in value.states.values()]
        found = dict(zip(states, read(states, half), strict=True))
        return {name: value.sketch(half, found) for name, value in self._values.items()}


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A tensor whose memory is without gaps, and where in that memory the axes of its spec are."""

    memory: Tensor
    channel_axis: int | None
    isotone_axis: int | None
    row_channel_axis: int | None


@dataclass(frozen=True, slots=True)
class _Together:
    """What one launch can do for several values: extremes of channels; whole tensors with their states, by bits."""

    ends: list[gpu.Grouped] = field(default_factory=list)
    whole: dict[int, list[tuple[Tensor, State]]] = field(default_factory=dict)


@dataclass(slots=True)
class _Value:
    """The state of one value on the device."""

    spec: SketchSpec
    margin_room: MarginRoom
    channels: int | None = None
    margins: DeviceMargins | None = field(init=False)
    states: dict[str, State] = field(init=False, default_factory=dict)  # "of each" channel, and "of all"

    def __post_init__(self) -> None:
        axis = self.spec.isotone_axis
        self.margins = None if axis is None else DeviceMargins(axis, self.margin_room)

    def add(self, tensor: _Prepared, half: Tensor, room: Room, together: _Together) -> None:
        """Count the tensor, but for what is to be counted together with others."""
        memory, spec = tensor.memory, self.spec
        if memory.numel() == 0:
            return
        if tensor.channel_axis is not None:
            self._expect(memory.shape[tensor.channel_axis])
        self._allocate()
        if self.margins is not None and tensor.isotone_axis is not None:
            self.margins.add(memory, tensor.isotone_axis, tensor.row_channel_axis, half)
        if tensor.channel_axis is not None:
            layout = Layout.of(memory.shape, tensor.channel_axis)
            planes = Planes.of(layout, memory.numel())
            if spec.histogram and not spec.per_channel:
                together.ends.append((memory, planes, self.states["of each"]))
            else:
                gpu.count(memory, planes, self.states["of each"], half, room)
        if spec.histogram:
            together.whole.setdefault(spec.mantissa_bits, []).append((memory, self.states["of all"]))
        elif tensor.channel_axis is None:
            gpu.count(memory, Planes.whole(memory.numel()), self.states["of all"], half, room)

    def clear(self) -> None:
        """Forget what was counted."""
        for state in self.states.values():
            state.clear()
        if self.margins is not None:
            self.margins.clear()

    def sketch(self, half: int, found: Mapping[State, Read]) -> TensorSketch:
        """The sketch over one half, of which found is what was read of the states; waits for the device."""
        spec, nothing = self.spec, TensorSketch.empty(self.spec)
        states = [found[self.states[name]] for name in ("of each", "of all") if name in self.states]
        margins = None if self.margins is None else self.margins.margins(half)
        if not states or not states[0][0][0, SIZE]:
            return nothing
        (heads, each), (totals, whole) = states[0], states[-1]
        return TensorSketch(
            spec,
            _extremes(heads, totals),
            Histogram.from_cells(LogBins(spec.mantissa_bits), 1, whole) if spec.histogram else None,
            Histogram.from_cells(LogBins(spec.channel_mantissa_bits), len(heads), each) if spec.per_channel else None,
            margins,
        )

    def _expect(self, channels: int) -> None:
        if self.channels not in (None, channels):
            raise DataError(f"expected {self.channels} channels on axis {self.spec.channel_axis}, got {channels}")
        self.channels = channels

    def _allocate(self) -> None:
        spec = self.spec
        wanted = {}  # groups and mantissa bits
        if spec.histogram or spec.channel_axis is None:
            wanted["of all"] = 1, spec.mantissa_bits if spec.histogram else None
        if self.channels is not None:
            wanted["of each"] = self.channels, spec.channel_mantissa_bits if spec.per_channel else None
        if wanted.keys() == self.states.keys():
            return
        device = self.margin_room.device
        if device_margins.is_capturing(device):
            raise StateError(
                "its memory cannot be taken while a CUDA graph is captured: add it once before, outside, and call clear"
            )
        self.states = {name: gpu.empty_state(*shape, device) for name, shape in wanted.items()}


def _prepared(x: Tensor, spec: SketchSpec, device: Any) -> _Prepared:
    """x without gaps: in the order of its memory where that has none, as it is with channels-last; else as a copy."""
    if not isinstance(x, torch.Tensor) or x.device.type != device.type or device.index not in (None, x.device.index):
        found = x.device if isinstance(x, torch.Tensor) else type(x).__name__
        raise DataError(f"expected a tensor on {device}, got {found}")
    if x.is_complex() or x.is_quantized or (x.dtype.is_floating_point and x.dtype.itemsize < 2):
        raise DataError(f"cannot observe values of type {x.dtype}: expected floats or integers")
    x = x.detach()
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        x = x.to(torch.float32)
    shape = tuple(x.shape)
    axes: dict[str, int | None] = {"channel_axis": spec.channel_axis, "isotone_axis": spec.isotone_axis}
    axes = {name: None if axis is None else positive_axis(axis, shape, name) for name, axis in axes.items()}
    axes["row_channel_axis"] = row_channel_axis(shape, spec)
    order = sorted(range(x.ndim), key=lambda axis: (-x.stride(axis), axis))
    memory = x.permute(order)
    if not memory.is_contiguous():
        order, memory = list(range(x.ndim)), x.contiguous()
    return _Prepared(memory, **{name: None if axis is None else order.index(axis) for name, axis in axes.items()})


def _extremes(heads: I64, totals: I64) -> Extremes:
    """The extremes of groups from their heads (groups, FIELDS). totals: the heads that know all that is not finite."""
    ends = np.stack([-heads[:, LOW], heads[:, HIGH]]).astype(np.int32)
    hits = np.stack([heads[:, N_LOW], heads[:, N_HIGH]])
    hits = np.where(ends == 0, heads[:, ZEROS], hits)  # the kernels leave it to the zeros to say how often 0 was hit
    hits = np.where((ends == [[NONE_LO], [NONE_HI]]), 0, hits)
    lo, hi = ordered(ends).view(np.float32).copy()
    size, zeros, nan, pos_inf, neg_inf = (int(totals[:, word].sum()) for word in (SIZE, ZEROS, NAN, POS_INF, NEG_INF))
    return Extremes(lo, hi, hits[0].copy(), hits[1].copy(), size, zeros, nan, pos_inf, neg_inf)
