"""Sketches as arrays of the narrowest integers that hold them, and back, checked: a file may come from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from reprlib import repr as short
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibrant.core import DataError
from calibrant.sketches import Extremes, Histogram, LogBins, Margins, SketchSpec, TensorSketch
from calibrant.sketches.kernels.reference import HIGHEST, LOWEST
from calibrant.sketches.margins import COARSEST, EXACT, LIMIT

Arrays = Mapping[str, NDArray[Any]]

LEAST_KEY = -(1 << 12)  # of the keys that are kept in 16 bits: those of up to 3 mantissa bits
MOST = 1 << 53  # no count is larger; 255 times it, the sum of so many positions, stays well within int64
_PARTS: dict[str, type] = {
    "extremes": Extremes,
    "histogram": Histogram,
    "channel_histogram": Histogram,
    "margins": Margins,
}
_AS_IT_IS = {"lo": np.float32, "hi": np.float32, "keys": np.int32, "top": np.int32, "second": np.int32}  # in the file


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
            if f.type == "int":
                plain[part][f.name] = value
            elif f.name != "bins":  # the spec has them
                arrays[f"{prefix}{part}.{f.name}"] = _narrow(value, f.name)
    return plain, arrays


def unpack(spec: SketchSpec, plain: Mapping[str, Any], arrays: Arrays, prefix: str) -> TensorSketch:
    """The sketch that `pack` took apart. DataError where these are not the parts of one."""
    parts: dict[str, Any] = dict.fromkeys(_PARTS)
    expected = _expected(spec)
    _check(sorted(plain) == sorted(expected), f"it has {short([*plain])}, its settings ask for {expected}")
    for part in expected:
        arguments: dict[str, Any] = {}
        for f in fields(_PARTS[part]):
            if f.name == "bins":
                channelled = part == "channel_histogram"
                arguments["bins"] = LogBins(spec.channel_mantissa_bits if channelled else spec.mantissa_bits)
            elif f.type == "int":
                arguments[f.name] = _whole(plain[part], f.name)
            else:
                arguments[f.name] = _wide(arrays, f"{prefix}{part}.{f.name}", f.name)
        parts[part] = _PARTS[part](**arguments)
        _CHECKS[part](parts[part])
    _check_together(spec, parts)
    return TensorSketch(spec=spec, **parts)


def spec_of(plain: Mapping[str, Any]) -> SketchSpec:
    """The spec of those settings. Raises SettingError, DataError or TypeError where they make none."""
    for name, value in plain.items():
        if name in ("histogram", "per_channel"):
            _check(type(value) is bool, f"{name} is {short(value)}")
        elif value is not None:
            _whole(plain, name)
    return SketchSpec(**plain)


def _expected(spec: SketchSpec) -> list[str]:
    """The parts that a sketch of that spec has."""
    wanted = {"histogram": spec.histogram, "channel_histogram": spec.per_channel}
    wanted |= {"extremes": True, "margins": spec.isotone_axis is not None}
    return [part for part in _PARTS if wanted[part]]


def _narrow(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Counts and channels in the narrowest unsigned integers, keys of coarse bins in 16 bits; others as they are."""
    if name == "keys" and array.max(initial=0) < -LEAST_KEY and array.min(initial=0) >= LEAST_KEY:
        return array.astype(np.int16)
    if name in _AS_IT_IS:
        return np.ascontiguousarray(array)
    return array.astype(np.min_scalar_type(array.max(initial=0)))


def _wide(arrays: Arrays, key: str, name: str) -> NDArray[Any]:
    _check(key in arrays, f"array '{key}' is missing")
    array = arrays[key]
    if name == "keys" and array.dtype == np.int16:
        array = array.astype(np.int32)
    fits = array.dtype == _AS_IT_IS[name] if name in _AS_IT_IS else array.dtype.kind == "u"
    _check(fits and array.ndim == 1, f"{name} is {array.dtype} of rank {array.ndim}")
    if name in _AS_IT_IS:
        return array
    wanted, most = (np.int32, np.iinfo(np.int32).max) if name == "channel" else (np.int64, 255 * MOST)
    _check(int(array.max(initial=0)) <= most, f"a number of {name} is too large")
    return array.astype(wanted)


def _whole(plain: Any, name: str) -> int:
    _check(isinstance(plain, Mapping) and name in plain, f"{name} is missing")
    _check(type(plain[name]) is int and -MOST <= plain[name] <= MOST, f"{name} is {short(plain[name])}")
    return int(plain[name])


def _check_extremes(e: Extremes) -> None:
    sizes = {len(column) for column in (e.lo, e.hi, e.n_lo, e.n_hi)}
    _check(len(sizes) == 1, "the columns of its extremes differ in length")
    _check(min(e.size, e.zeros, e.nan, e.pos_inf, e.neg_inf, e.finite) >= 0, "a number of its extremes is negative")
    _check((e.size > 0) == (e.channels > 0), "it has channels without elements, or elements without channels")
    seen = np.isfinite(e.lo) & np.isfinite(e.hi)
    _check(bool((seen | ((e.lo == np.inf) & (e.hi == -np.inf))).all()), "an end of its range is NaN or Inf")
    _check(not any(np.signbit(end[end == 0]).any() for end in (e.lo, e.hi)), "an end of its range is -0.0")
    _check(bool((e.lo[seen] <= e.hi[seen]).all()), "its range ends before it begins")
    hit = ((e.n_lo > 0) == seen) & ((e.n_hi > 0) == seen)
    _check(bool(hit.all()) and seen.any() == (e.finite > 0), "the ends of its range are hit by no element")
    alike = e.lo == e.hi
    _check(bool((e.n_lo == e.n_hi)[alike].all()), "one value is hit by two numbers of elements")
    _check(_sum(e.n_lo) + _sum(e.n_hi[~alike]) <= e.finite, "it has more ends than finite elements")
    around = bool((seen & (e.lo <= 0) & (e.hi >= 0)).any())
    _check(0 <= e.zeros <= e.finite * around, "it has more zeros than its range has room for")


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
    ends = (m.second >= LOWEST >> shift) & (m.top <= HIGHEST >> shift) & (m.second <= m.top - (shift == 0))
    _check(bool(ends.all()), "a row of its margins is of no floats")
    _check(len(m.counts) <= LIMIT or m.mantissa_bits == COARSEST, f"its margins have {len(m.counts)} cells")


def _check_cells(names: list[NDArray[Any]], weights: list[NDArray[Any]], channels: int) -> None:
    columns = [*names, *weights]
    _check(len({len(column) for column in columns}) == 1, "the columns of its cells differ in length")
    _check(0 <= channels <= np.iinfo(np.int32).max, f"it has {channels} channels")
    if not len(names[0]):
        return
    _check(int(names[0].max()) < channels, "a cell is of a channel that it does not have")
    _check(int(weights[0].min()) >= 1, "a cell is empty")
    _check(_sum(weights[0]) <= MOST, "its cells hold too many elements")
    ascending = np.zeros(len(names[0]) - 1, bool)
    for column in reversed(names):
        ascending = (column[1:] > column[:-1]) | ((column[1:] == column[:-1]) & ascending)
    _check(bool(ascending.all()), "its cells are not in order")


def _check_together(spec: SketchSpec, parts: Mapping[str, Any]) -> None:
    """That the parts are of the same elements, and as the spec says."""
    extremes, margins = parts["extremes"], parts["margins"]
    if spec.channel_axis is None:
        _check(extremes.channels <= 1, "its extremes have channels, and it knows no axis of them")
    for name, same in (("histogram", extremes.per_tensor()), ("channel_histogram", extremes)):
        if parts[name] is not None:
            _check_same(parts[name], same, name)
    if margins is not None:
        _check(margins.axis == spec.isotone_axis, "its margins are of another axis than it says")
        channels = {min(1, extremes.channels), extremes.channels if spec.per_channel else 0}
        _check(margins.channels in channels, f"its margins have {margins.channels} channels")
        elements = 2 * (_sum(margins.counts) + _sum(margins.tied)) + _sum(margins.single)
        _check(elements <= extremes.finite, "its margins are of more elements than it has")


def _check_same(histogram: Histogram, extremes: Extremes, name: str) -> None:
    """That both are of the same elements, channel by channel."""
    _check(histogram.channels == extremes.channels, f"its {name} has {histogram.channels} channels")
    _check(histogram.size == extremes.finite, f"its {name} holds {histogram.size} of {extremes.finite} elements")
    seen = np.flatnonzero(extremes.n_lo)
    channels, first = np.unique(histogram.channel, return_index=True)
    _check(np.array_equal(channels, seen), f"its {name} is of other channels than its extremes")
    for end, cells in ((extremes.lo, first), (extremes.hi, np.append(first[1:], len(histogram.keys))[: len(seen)] - 1)):
        same = np.array_equal(histogram.bins.keys(end[seen]), histogram.keys[cells])
        _check(same, f"its {name} ends elsewhere than its extremes")


def _sum(counts: NDArray[np.int64]) -> float:
    """Their sum, near enough, where that of int64 could overflow."""
    return float(counts.sum(dtype=np.float64))


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise DataError(what)


_CHECKS: dict[str, Any] = {
    "extremes": _check_extremes,
    "histogram": _check_histogram,
    "channel_histogram": _check_histogram,
    "margins": _check_margins,
}
