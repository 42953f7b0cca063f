"""Sketches go into arrays and come back; what is no sketch is refused, each thing for its own reason."""

import re
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calibrant.core import DataError, SettingError
from calibrant.sketches import SketchSpec, TensorSketch, margins
from calibrant.table.packing import pack, spec_of, unpack

SPECS = [
    SketchSpec(),
    SketchSpec(histogram=False),
    SketchSpec(channel_axis=1),
    SketchSpec(channel_axis=1, per_channel=True, histogram=False),
    SketchSpec(isotone_axis=-1),
    SketchSpec(channel_axis=-1, isotone_axis=1, mantissa_bits=12),
    SketchSpec(channel_axis=0, per_channel=True, isotone_axis=-1, mantissa_bits=1, channel_mantissa_bits=3),
    SketchSpec(channel_axis=1, per_channel=True, isotone_axis=1),  # rows along the channels: margins of one channel
]

SPECIAL = [0.0, -0.0, 1.0, 6.0, -6.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38, -3.4e38, 6e4]
SHAPES = [(3, 4, 1), (3, 4, 2), (3, 4, 5), (0, 4, 2), (3, 4, 0)]
values = st.one_of(st.sampled_from(SPECIAL), st.floats(-8, 8, width=16), st.floats(width=32))


@st.composite
def tensors(draw, shape):
    content = draw(st.lists(values, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
    with np.errstate(over="ignore"):
        return np.array(content, np.float32).reshape(shape).astype(draw(st.sampled_from([np.float32, np.float16])))


def several():
    """Up to three tensors of one shape."""
    return st.sampled_from(SHAPES).flatmap(lambda shape: st.lists(tensors(shape), max_size=3))


def packed(sketch):
    return pack(sketch, "7.0.")


def check_comes_back(sketch):
    plain, arrays = packed(sketch)
    assert unpack(spec_of(asdict(sketch.spec)), plain, arrays, "7.0.") == sketch
    assert unpack(sketch.spec, dict(sorted(plain.items())), arrays, "7.0.") == sketch
    for name, array in arrays.items():
        assert name.startswith("7.0.")
        if name.split(".")[-1] in ("counts", "positions", "channel", "n_lo", "n_hi", "tied", "single"):
            assert array.dtype == np.min_scalar_type(array.max(initial=0))


@pytest.mark.parametrize("coarsened", [False, True])
@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(spec=st.sampled_from(SPECS), parts=several(), doublings=st.integers(0, 40))
def test_a_sketch_comes_back(coarsened, spec, parts, doublings, monkeypatch):
    with monkeypatch.context() as patch:
        if coarsened:
            patch.setattr(margins, "LIMIT", 3)
        sketch = TensorSketch.empty(spec)
        for tensor in parts:
            sketch = sketch.merge(TensorSketch.of(tensor, spec))
        for _ in range(doublings):
            sketch = sketch.merge(sketch)
        check_comes_back(sketch)


def test_one_element_and_none():
    for spec in (SketchSpec(), SketchSpec(channel_axis=0, per_channel=True)):
        check_comes_back(TensorSketch.empty(spec))
        check_comes_back(TensorSketch.of(np.float32([2.5]), spec))
        check_comes_back(TensorSketch.of(np.float16([np.nan]), spec))


X = np.array([[-3, -1, 0, 0, 2, 2, 5], [1, 1, 1, 4, 4, 9, -2], [np.nan] * 7], np.float32)
ALL = SketchSpec(channel_axis=0, per_channel=True, isotone_axis=-1)


def put(index, value, dtype=None):
    """A change to an array: this value at that place, as that dtype."""

    def change(array):
        array = array.astype(dtype or array.dtype)
        array[index] = value
        return array

    return change


def swap(array):
    array[[0, 1]] = array[[1, 0]]
    return array


def more(array):
    return np.append(array, array[-1:])


BIG = (1 << 53) + 1
BROKEN = [  # the reason, the part, its changes: another number, or a function of the array; None takes it away
    ("not in order", "histogram", {"keys": swap}),
    ("not in order", "histogram", {"keys": lambda a: np.r_[a[:1], a[:1], a[2:]]}),
    ("not in order", "channel_histogram", {"channel": lambda a: a[::-1]}),
    ("a cell is empty", "histogram", {"counts": put(0, 0)}),
    ("outside of their bin", "histogram", {"positions": put(0, 256, np.uint16)}),
    ("of no float", "histogram", {"keys": put(-1, 255 << 8)}),
    ("of no float", "histogram", {"keys": put(0, -(255 << 8) - 1)}),
    ("of no float", "histogram", {"keys": put(0, -(2**31))}),
    ("of a channel that it does not have", "histogram", {"channel": put(-1, 1)}),
    ("of a channel that it does not have", "channel_histogram", {"channel": put(-1, 9)}),
    ("number of channel is too large", "histogram", {"channel": put(-1, 2**31, np.uint32)}),
    ("holds 15 of 14 elements", "histogram", {"counts": put(0, 2)}),
    ("channel_histogram is of other channels", "channel_histogram", {"channel": lambda a: a + (a == 1)}),
    ("histogram ends elsewhere", "histogram", {"keys": lambda a: a + (np.arange(len(a)) == len(a) - 1).astype("i4")}),
    ("histogram ends elsewhere", "channel_histogram", {"keys": put(0, -9000)}),
    ("columns of its cells differ", "histogram", {"counts": lambda a: a[1:]}),
    ("columns of its cells differ", "histogram", {"keys": more}),
    ("positions is too large", "histogram", {"positions": put(0, 2**63, np.uint64)}),
    ("too many elements", "histogram", {"counts": put(0, BIG, np.uint64)}),
    ("counts is float32", "histogram", {"counts": lambda a: a.astype(np.float32)}),
    ("counts is int64", "histogram", {"counts": lambda a: a.astype(np.int64)}),
    ("keys is uint32", "histogram", {"keys": lambda a: a.view(np.uint32)}),
    ("keys is int64", "histogram", {"keys": lambda a: a.astype(np.int64)}),
    ("counts is uint8 of rank 2", "histogram", {"counts": lambda a: a[None]}),
    ("lo is float64", "extremes", {"lo": lambda a: a.astype(np.float64)}),
    ("lo is float32 of rank 0", "extremes", {"lo": lambda a: a[0]}),
    ("array '7.0.histogram.keys' is missing", "histogram", {"keys": None}),
    ("histogram has 3 channels", "histogram", {"channels": 3}),
    ("histogram has 2 channels", "channel_histogram", {"channels": 2, "channel": lambda a: np.minimum(a, 1)}),
    ("it has -1 channels", "histogram", {"channels": -1}),
    ("it has 2147483648 channels", "margins", {"channels": 2**31}),
    ("channels is True", "histogram", {"channels": True}),
    ("channels is 1.0", "histogram", {"channels": 1.0}),
    ("channels is 'one'", "histogram", {"channels": "one"}),
    ("channels is nan", "histogram", {"channels": float("nan")}),
    ("channels is None", "histogram", {"channels": None}),
    (r"channels is \[\[\[", "histogram", {"channels": [[[]] * 10**6]}),
    (f"size is {BIG}", "extremes", {"size": BIG}),
    ("ends elsewhere than its extremes", "extremes", {"lo": put(0, -99.0)}),
    ("ends before it begins", "extremes", {"lo": put(0, 99.0)}),
    ("end of its range is NaN or Inf", "extremes", {"hi": put(1, np.nan)}),
    ("end of its range is NaN or Inf", "extremes", {"hi": put(1, np.inf)}),
    ("end of its range is NaN or Inf", "extremes", {"lo": put(2, -np.inf)}),
    ("end of its range is -0.0", "extremes", {"lo": put(1, -0.0)}),
    ("hit by no element", "extremes", {"n_hi": put(0, 0)}),
    ("hit by no element", "extremes", {"n_lo": put(2, 1)}),
    ("hit by two numbers", "extremes", {"lo": put(1, 9.0), "n_lo": put(1, 2)}),
    ("more ends than finite elements", "extremes", {"n_lo": put(0, 12)}),
    ("more ends than finite elements", "extremes", {"n_lo": put(0, 2**60, np.uint64)}),
    ("n_lo is too large", "extremes", {"n_lo": put(0, 2**63, np.uint64)}),
    ("more zeros than", "extremes", {"zeros": 15}),
    ("number of its extremes is negative", "extremes", {"nan": -1}),
    ("number of its extremes is negative", "extremes", {"size": -21}),
    ("number of its extremes is negative", "extremes", {"pos_inf": 20}),
    ("extremes differ in length", "extremes", {"hi": lambda a: a[:1]}),
    ("channels without elements", "extremes", {"size": 0, "zeros": 0, "nan": 0}),
    ("mantissa bits", "margins", {"mantissa_bits": 24}),
    ("mantissa bits", "margins", {"mantissa_bits": -9}),
    ("of no floats", "margins", {"top": put(0, 2**31 - 1)}),
    ("of no floats", "margins", {"second": put(0, -(2**31))}),
    ("of no floats", "margins", {"second": lambda a: a + (1 << 30)}),
    ("of no floats", "margins", {"top": put(0, 0)}),
    ("of another axis", "margins", {"axis": 0}),
    ("other channels than they say", "margins", {"tied": lambda a: a[:1]}),
    ("margins have 4 channels", "margins", {"channels": 4, "tied": more, "single": more}),
    ("more elements than it has", "margins", {"counts": put(0, 7)}),
    ("more elements than it has", "margins", {"tied": put(0, 7)}),
    ("more elements than it has", "margins", {"single": put(0, 2**60, np.uint64)}),
]


def broken(part, changes):
    plain, arrays = packed(TensorSketch.of(X, ALL))
    for name, change in changes.items():
        key = f"7.0.{part}.{name}"
        if name in plain[part]:
            plain[part][name] = change
        elif change is None:
            del arrays[key]
        else:
            arrays[key] = change(arrays[key].copy())
    return plain, arrays


@pytest.mark.parametrize(("reason", "part", "changes"), BROKEN)
def test_what_is_no_sketch_is_refused_for_its_own_reason(reason, part, changes):
    with pytest.raises(DataError, match=reason) as refused:
        unpack(ALL, *broken(part, changes), "7.0.")
    assert len(str(refused.value)) < 200


def test_the_sketch_that_is_broken_above_is_whole():
    assert unpack(ALL, *broken("histogram", {}), "7.0.") == TensorSketch.of(X, ALL)


def test_what_only_some_sketches_can_get_wrong():
    plain, arrays = packed(TensorSketch.of(np.float32([1, 2, 3])))
    plain["extremes"]["zeros"] = 1
    with pytest.raises(DataError, match="more zeros than its range has room for"):
        unpack(SketchSpec(), plain, arrays, "7.0.")
    spec = SketchSpec(histogram=False, channel_axis=0)
    plain, arrays = packed(TensorSketch.of(np.float32([[1], [2]]), spec))
    with pytest.raises(DataError, match="it knows no axis of them"):
        unpack(replace(spec, channel_axis=None), plain, arrays, "7.0.")
    plain, arrays = packed(TensorSketch.of(np.float32([np.nan, np.inf]), SketchSpec(histogram=False)))
    plain["extremes"]["nan"] = 0
    with pytest.raises(DataError, match="hit by no element"):
        unpack(SketchSpec(histogram=False), plain, arrays, "7.0.")


def test_margins_beyond_the_limit_are_refused(monkeypatch):
    spec = SketchSpec(isotone_axis=-1)
    plain, arrays = packed(TensorSketch.of(np.float32([[1, 2], [1, 3], [1, 4]]), spec))
    monkeypatch.setattr("calibrant.table.packing.LIMIT", 2)
    with pytest.raises(DataError, match="its margins have 3 cells"):
        unpack(spec, plain, arrays, "7.0.")


def test_other_parts_than_the_settings_ask_for_are_refused():
    plain, arrays = packed(TensorSketch.of(X, ALL))
    less = {"extremes": plain["extremes"]}
    with pytest.raises(DataError, match=r"it has \['extremes'\], its settings ask for \['extremes', 'histogram'"):
        unpack(ALL, less, arrays, "7.0.")
    with pytest.raises(DataError, match="it has"):
        unpack(SketchSpec(), plain, arrays, "7.0.")
    with pytest.raises(DataError, match="it has"):
        unpack(SketchSpec(histogram=False), less | {"surplus": {}}, arrays, "7.0.")


def test_a_number_cannot_stand_for_an_array_nor_an_array_for_a_number():
    plain, arrays = packed(TensorSketch.of(X, ALL))
    plain["extremes"]["lo"] = 3
    assert unpack(ALL, plain, arrays, "7.0.") == TensorSketch.of(X, ALL)
    arrays["7.0.extremes.size"] = np.array([plain["extremes"].pop("size")])
    with pytest.raises(DataError, match="size is missing"):
        unpack(ALL, plain, arrays, "7.0.")


@pytest.mark.parametrize(
    "changes",
    [
        {"histogram": 1},
        {"per_channel": None},
        {"mantissa_bits": True},
        {"mantissa_bits": 8.0},
        {"channel_mantissa_bits": "6"},
        {"channel_mantissa_bits": 10**30},
        {"channel_axis": 1.0},
        {"isotone_axis": False},
        {"isotone_axis": 2**63},
    ],
)
def test_settings_of_another_type(changes):
    ((name, found),) = changes.items()
    with pytest.raises(DataError, match=re.escape(f"{name} is {found!r}")):
        spec_of(asdict(ALL) | changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mantissa_bits": 0}, "mantissa_bits must be an integer from 1 to 12, got 0"),
        ({"channel_axis": None}, "per_channel needs to know the channels"),
    ],
)
def test_settings_out_of_range(changes, why):
    with pytest.raises(SettingError, match=why):
        spec_of(asdict(ALL) | changes)
