"""Sketches as arrays of the narrowest integers that hold them, and back, checked: a file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError
from calibrant.sketches import Extremes, Histogram, LogBins, Margins, SketchSpec, TensorSketch
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST
from calibrant.sketches.margins import COARSEST, EXACT

Arrays = Mapping[str, NDArray[Any]]

MOST = 1 << 53  # no count is larger; 255 times it, the sum of so many positions, stays well within int64
_PARTS: dict[str, type] = {
    "extremes": Extremes,
    "histogram": Histogram,
    "channel_histogram": Histogram,
    "margins": Margins,
}
_DTYPES = {"lo": np.float32, "hi": np.float32, "keys": np.int32, "channel": np.int32, "top": np.int32}
_DTYPES |= {"second": np.int32}  # all others are int64
_SIGNED = {"keys", "top", "second"}


def pack(sketch: TensorSketch, prefix: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What JSON can hold of a sketch, and its arrays under names that begin with `prefix`."""
    arrays: dict[str, NDArray[Any]] = {}
    plain: dict[str, Any] = {}
    for part in _PARTS:
        held = getattr(sketch, part)
        if held is None:
            continue
        plain[part] = {}
        for f in fields(held):
            value = getattr(held, f.name)
            if isinstance(value, np.ndarray):
                arrays[f"{prefix}{part}.{f.name}"] = _narrow(value, f.name)
            elif not isinstance(value, LogBins):
                plain[part][f.name] = value
    return plain, arrays


def unpack(spec: SketchSpec, plain: Mapping[str, Any], arrays: Arrays, prefix: str) -> TensorSketch:
    """The sketch that `pack` took apart. DataError where these are not the parts of one."""
    parts: dict[str, Any] = dict.fromkeys(_PARTS)
    if list(plain) != _expected(spec):
        raise DataError(f"it has {', '.join(plain)}; its settings ask for {', '.join(_expected(spec))}")
    for part in plain:
        arguments: dict[str, Any] = {}
        for f in fields(_PARTS[part]):
            if f.name == "bins":
                channelled = part == "channel_histogram"
                arguments["bins"] = LogBins(spec.channel_mantissa_bits if channelled else spec.mantissa_bits)
            elif f.name in plain[part]:
                arguments[f.name] = _whole(plain[part][f.name], f.name)
            else:
                arguments[f.name] = _wide(arrays, f"{prefix}{part}.{f.name}", f.name)
        parts[part] = _PARTS[part](**arguments)
        _CHECKS[part](parts[part])
    _check_together(spec, parts)
    return TensorSketch(spec=spec, **parts)


def spec_of(plain: Mapping[str, Any]) -> SketchSpec:
    """The spec of those settings. Raises SettingError or TypeError where they make none."""
    spec = SketchSpec(**plain)
    _check(type(spec.histogram) is bool and type(spec.per_channel) is bool, "a switch of its settings is no bool")
    return spec


def _expected(spec: SketchSpec) -> list[str]:
    """The parts that a sketch of that spec has."""
    wanted = {"histogram": spec.histogram, "channel_histogram": spec.per_channel}
    wanted |= {"extremes": True, "margins": spec.isotone_axis is not None}
    return [part for part in _PARTS if wanted[part]]


def _narrow(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Counts and channels in the narrowest unsigned integers; floats and signed keys as they are."""
    if array.dtype.kind == "f" or name in _SIGNED:
        return np.ascontiguousarray(array)
    return array.astype(np.min_scalar_type(array.max(initial=0)))


def _wide(arrays: Arrays, key: str, name: str) -> NDArray[Any]:
    array, wanted = arrays[key], np.dtype(_DTYPES.get(name, np.int64))
    kinds = {"f": "f", "i": "i" if name in _SIGNED else "u"}
    _check(array.dtype.kind == kinds.get(wanted.kind), f"{name} is {array.dtype}")
    if array.dtype.kind == "u":
        most = 255 * MOST if wanted == np.int64 else np.iinfo(np.int32).max
        _check(int(array.max(initial=0)) <= most, f"a number of {name} is too large")
    return array.astype(wanted)


def _whole(value: Any, name: str) -> int:
    _check(type(value) is int and -MOST <= value <= MOST, f"{name} is {value!r}")
    return int(value)


def _check_extremes(e: Extremes) -> None:
    sizes = {len(column) for column in (e.lo, e.hi, e.n_lo, e.n_hi)}
    _check(len(sizes) == 1, "the columns of its extremes differ in length")
    _check(min(e.size, e.zeros, e.nan, e.pos_inf, e.neg_inf, e.finite) >= 0, "a number of its extremes is negative")
    _check((e.size > 0) == (e.channels > 0), "it has channels without elements, or elements without channels")
    finite = np.isfinite(e.lo) & np.isfinite(e.hi)
    _check(bool((finite | ((e.lo == np.inf) & (e.hi == -np.inf))).all()), "an end of its range is NaN or Inf")
    _check(bool((e.lo[finite] <= e.hi[finite]).all()), "its range ends before it begins")
    hit = (e.n_lo > 0) & (e.n_hi > 0)
    _check(bool((hit == finite).all()), "the ends of its range are hit by no element")
    _check(int(e.n_lo.max(initial=0)) <= e.size and int(e.n_hi.max(initial=0)) <= e.size, "more ends than elements")
    _check(e.zeros <= e.finite, "it has more zeros than finite elements")


def _check_histogram(h: Histogram) -> None:
    _check_cells([h.channel, h.keys], [h.counts, h.positions], h.channels)
    magnitude = np.where(h.keys < 0, -1 - h.keys, h.keys)
    _check(bool((magnitude < h.bins.magnitude_keys).all()), "a bin of its histogram is of no float")
    _check(bool((h.positions <= 255 * h.counts).all()), "values lie outside of their bin")


def _check_margins(m: Margins) -> None:
    _check(COARSEST <= m.mantissa_bits <= EXACT, f"its margins have {m.mantissa_bits} mantissa bits")
    _check_cells([m.channel, m.top, m.second], [m.counts], m.channels)
    _check(len(m.tied) == len(m.single) == m.channels, "its margins have other channels than they say")
    shift = EXACT - m.mantissa_bits
    ends = (m.second >= LOWEST >> shift) & (m.top <= HIGHEST >> shift) & (m.second <= m.top)
    _check(bool(ends.all()), "a row of its margins is of no floats")


def _check_cells(names: list[NDArray[Any]], weights: list[NDArray[Any]], channels: int) -> None:
    columns = [*names, *weights]
    _check(len({len(column) for column in columns}) == 1, "the columns of its cells differ in length")
    _check(0 <= channels <= np.iinfo(np.int32).max, f"it has {channels} channels")
    if not len(names[0]):
        return
    _check(int(names[0].max()) < channels, "a cell is of a channel that it does not have")
    _check(int(weights[0].min()) >= 1, "a cell is empty")
    _check(float(weights[0].sum(dtype=np.float64)) <= MOST, "its cells hold too many elements")
    ascending = np.zeros(len(names[0]) - 1, bool)
    for column in reversed(names):
        ascending = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & ascending)
    _check(bool(ascending.all()), "its cells are not in order")


def _check_together(spec: SketchSpec, parts: Mapping[str, Any]) -> None:
    """That the parts are of the same elements, and as the spec says."""
    extremes, margins = parts["extremes"], parts["margins"]
    _check(margins is None or margins.axis == spec.isotone_axis, "its margins are of another axis than it says")
    if spec.channel_axis is None:
        _check(extremes.channels <= 1, "its extremes have channels, and it knows no axis of them")
    for name, channels in (("histogram", 1), ("channel_histogram", extremes.channels)):
        histogram = parts[name]
        if histogram is None:
            continue
        _check(histogram.channels in (0, channels), f"its {name} has {histogram.channels} channels")
        _check(histogram.size == extremes.finite, f"its {name} holds {histogram.size} of {extremes.finite} elements")
    whole = parts["histogram"]
    if whole is not None and len(whole.keys):
        ends = whole.bins.keys([extremes.per_tensor().lo[0], extremes.per_tensor().hi[0]])
        _check([*ends] == [whole.keys[0], whole.keys[-1]], "its histogram ends elsewhere than its extremes")


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise DataError(what)


_CHECKS: dict[str, Any] = {
    "extremes": _check_extremes,
    "histogram": _check_histogram,
    "channel_histogram": _check_histogram,
    "margins": _check_margins,
}
