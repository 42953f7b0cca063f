"""Halves of the samples: what a sample is decides, so that parts of the samples merge into the same halves."""

import numpy as np
import pytest

from calibrant import OnnxruntimeExecutor
from calibrant.core import IncompatibleSketches
from calibrant.engines.halves import half_of
from calibrant.sketches import Halves, SketchSpec, TensorSketch

RNG = np.random.default_rng(3)
PLAIN = SketchSpec()
KINDS = [np.float32, np.float16, np.float64, np.int64, np.uint8, np.bool_]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 3, 5), (4, 7), (64,)])
def test_each_half_gets_about_as_many(kind, shape):
    halves = [half_of({"x": RNG.integers(0, 2 if kind is np.bool_ else 99, shape).astype(kind)}) for _ in range(400)]
    assert set(halves) == {0, 1}
    assert 150 < sum(halves) < 250


def test_photos_that_are_much_alike_are_spread_too():
    dark = np.zeros((1, 3, 8, 8), np.float32)
    halves = []
    for place in range(192):
        photo = dark.copy()
        photo.reshape(-1)[place] = 1 / 255
        halves.append(half_of({"x": photo + np.float32(place % 5)}))
    assert 60 < sum(halves) < 132


def test_it_is_the_content_that_counts():
    x, y = RNG.normal(size=(2, 3)).astype(np.float32), RNG.integers(0, 9, (2, 4))
    assert half_of({"x": x, "y": y}) == half_of({"y": y.copy(), "x": np.asfortranarray(x)})
    texts = [half_of({"t": np.array([[f"text {i}"]], object)}) for i in range(100)]
    assert 25 < sum(texts) < 75
    assert half_of({"t": np.array(["as bytes"], object)}) == half_of({"t": np.array([b"as bytes"], object)})
    assert half_of({"x": np.zeros((0, 3), np.float32)}) == half_of({}) == 0


def feeds(count):
    return [{"x": RNG.normal(size=(3, 4)).astype(np.float32), "y": np.ones((3, 1), np.float32)} for _ in range(count)]


def test_the_engine_keeps_them_apart_and_any_parts_merge_into_them(elementwise):
    samples = feeds(24)
    spec = {"sum": PLAIN, "x": PLAIN}
    executor = OnnxruntimeExecutor(elementwise, threads=3)
    found = executor.collect(samples, spec)
    for which, half in enumerate((found.even, found.odd)):
        mine = [s["x"] for s in samples if half_of(s) == which]
        assert half["x"] == TensorSketch.of(np.concatenate(mine), PLAIN)
    assert found["x"] == TensorSketch.of(np.concatenate([s["x"] for s in samples]), PLAIN)
    parts = [executor.collect(samples[i::5], spec) for i in range(5)]
    merged = parts[3].merge(parts[0]).merge(parts[4].merge(parts[1])).merge(parts[2])
    assert (merged.even, merged.odd) == (found.even, found.odd)


def test_halves_of_other_values_do_not_fit():
    nothing = TensorSketch.empty(PLAIN)
    with pytest.raises(IncompatibleSketches, match="only one half has a"):
        Halves({"a": nothing}, {})
    with pytest.raises(IncompatibleSketches, match="only one of them has 'b'"):
        Halves({"a": nothing}, {"a": nothing}).merge(Halves({"b": nothing, "a": nothing}, {"b": nothing, "a": nothing}))
