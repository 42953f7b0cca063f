"""Outline: small, and what it tells of errors and counts is what raw values give."""

import base64

import numpy as np
import pytest

from calibrant.analysis.report.outline import BYTES, Outline, coded
from calibrant.observers import Distribution
from calibrant.sketches import SketchSpec, TensorSketch
from tests.analysis.report.conftest import COUNT, KINDS

POINTS = 64  # of a cell
THRESHOLDS = 12


def outline_of(values, room=BYTES):
    sketch = TensorSketch.of(values, SketchSpec())
    return Outline.of(Distribution.of(sketch.histogram, sketch.extremes), room)


def remembered(outline: Outline) -> tuple[np.ndarray, np.ndarray]:
    """Values and weights that the plain form stands for: read as the format says, cells as POINTS values each."""
    plain = outline.plain()
    data, at = base64.b64decode(plain["data"]), 0
    step = np.log(max(plain["size"], 2)) / 65534
    found, weights = [np.zeros(1)], [np.array([float(plain["zeros"])])]
    for wing, sign in zip(plain["wings"], (1, -1), strict=True):
        columns = []
        for kind, count in (("<u2", "cells"), ("<u2", "cells"), ("<u1", "cells"), ("<f4", "atoms"), ("<u2", "atoms")):
            column = np.frombuffer(data, kind, wing[count], at)
            columns.append(column.astype(np.float64))
            at += column.nbytes
        keys, masses, means, atoms, hits = columns
        masses, hits = (np.where(code > 0, np.exp((code - 1) * step), 0) for code in (masses, hits))
        shift = 23 - plain["bits"]
        edges = [((keys + wing["base"] + more).astype(np.int64) << shift).astype(np.int32) for more in (0, 1)]
        left, right = (edge.view(np.float32).astype(np.float64) for edge in edges)
        right = np.minimum(right, wing["top"])
        tilt = 6 * ((means + 0.5) / 256 - 0.5)
        reach = np.where(np.abs(tilt) > 1, np.minimum(means + 0.5, 255.5 - means) / 128, 1.0)  # the part with that mean
        places = (np.arange(POINTS) + 0.5) / POINTS
        begin = np.where(tilt > 1, 1 - reach, 0.0)
        x = left[:, None] + (begin[:, None] + places * reach[:, None]) * (right - left)[:, None]
        slope = np.where(np.abs(tilt) > 1, 0.0, tilt)
        w = masses[:, None] * (1 + slope[:, None] * (2 * places - 1)) / POINTS
        found += [sign * x.reshape(-1), sign * atoms]
        weights += [w.reshape(-1), hits]
    assert at == len(data)
    return np.concatenate(found), np.concatenate(weights)


def rounded(x, low, high, symmetric):
    scale = np.float64(np.float32(2 * high / 255 if symmetric else (high - low) / 255))
    offset = 0 if symmetric else np.clip(np.rint(-low / scale), 0, 255)
    least, most = (-128, 127) if symmetric else (0, 255)
    return (np.clip(np.rint(x / scale) + offset, least, most) - offset) * scale


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_of_the_raw_values(kind, symmetric):
    values = KINDS[kind].astype(np.float64)
    x, weights = remembered(outline_of(KINDS[kind]))
    most = np.abs(values).max()
    for threshold in np.geomspace(max(np.median(np.abs(values)), most / 1000), most, THRESHOLDS):
        low, high = -threshold, threshold
        if not symmetric:
            low, high = max(low, min(values.min(), 0)), min(high, max(values.max(), 0))
        true = np.mean((values - rounded(values, low, high, symmetric)) ** 2)
        told = np.sum(weights * (x - rounded(x, low, high, symmetric)) ** 2) / len(values)
        assert told == pytest.approx(true, rel=0.03 if kind in ("relu6", "pixels") else 0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_and_little_is_kept(kind):
    outline = outline_of(KINDS[kind])
    x, weights = remembered(outline)
    assert outline.bytes == len(base64.b64decode(outline.plain()["data"])) <= BYTES
    assert weights.sum() == pytest.approx(COUNT, rel=1e-3)
    assert x[weights > 0].max() == pytest.approx(KINDS[kind].max(), rel=5e-3)
    assert (weights * x).sum() / COUNT == pytest.approx(KINDS[kind].mean(dtype=np.float64), rel=5e-3, abs=5e-3)


def test_a_smaller_room_makes_a_coarser_outline():
    fine, coarse = outline_of(KINDS["normal"]), outline_of(KINDS["normal"], room=800)
    assert coarse.bytes <= 800 < fine.bytes
    assert coarse.bits < fine.bits


def test_more_atoms_than_there_is_room_for_leave_the_heaviest():
    rng = np.random.default_rng(1)
    places = rng.uniform(1, 100, 5000).astype(np.float32)
    values = rng.choice(places, 200_000, p=np.arange(1, 5001) / np.arange(1, 5001).sum())
    outline = outline_of(values)
    assert outline.bytes <= BYTES
    assert 100 < len(outline.pos.at) <= BYTES // 2 // 6


@pytest.mark.parametrize(
    "values",
    [[0.0] * 9, [3.5] * 9, [-3.5], [1e-42, 0.0], [3e38, -3e38, 1.0], [1e-30, 1e30]],
    ids=["zeros", "constant", "one", "subnormal", "huge", "far apart"],
)
def test_odd_values(values):
    outline = outline_of(np.float32(values))
    x, weights = remembered(outline)
    assert weights.sum() == pytest.approx(len(values), rel=1e-3)
    assert np.isfinite(x).all()
    for value in set(np.float32(values)) - {0}:
        assert (weights[np.isclose(x, value, rtol=4e-3)].sum() > 0.5) or abs(value) < 1e-20


def test_masses_are_told_to_a_thousandth():
    masses = np.geomspace(1, 1e9, 1000)
    codes = coded(masses, 10**9).astype(np.float64)
    assert np.exp((codes - 1) * np.log(1e9) / 65534) == pytest.approx(masses, rel=1e-3)
    assert coded(np.array([0.2]), 10**9).tolist() == [0]
