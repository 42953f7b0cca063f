"""Tables of the small model, and one of made-up values with every kind of sketch."""

import numpy as np
import onnx
import pytest

from calibrant.api import calibrate
from calibrant.sketches import Halves, SketchSpec, TensorSketch
from calibrant.table import CalibrationTable
from tests.conftest import small_classifier


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """The small model, for fixtures that outlive a test."""
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(small_classifier(), path)
    return path


@pytest.fixture(scope="session")
def real_file(model_file, small_samples):
    """A small model's table, of two samples in each half."""
    path = model_file.with_name("real.table")
    calibrate(model_file, small_samples[5:9]).save(path)
    return path


@pytest.fixture(scope="session")
def varied_file(tmp_path_factory):
    """A table with every kind of sketch, each of few elements."""
    rng = np.random.default_rng(3)
    specs = {
        "": SketchSpec(),
        "channels": SketchSpec(channel_axis=1, per_channel=True, isotone_axis=-1),
        "ends": SketchSpec(histogram=False, channel_axis=0),
        "rows": SketchSpec(isotone_axis=-1, mantissa_bits=6),
        "é\n\0": SketchSpec(channel_axis=-1),
    }
    x = np.maximum(rng.normal(0, 2, (2, 3, 3, 5)), -1).astype(np.float32)
    x[0, 0, 0] = [np.nan, np.inf, -np.inf, 0, 0]
    even, odd = ({name: TensorSketch.of(half, spec) for name, spec in specs.items()} for half in x)
    odd["ends"] = TensorSketch.empty(specs["ends"])
    path = tmp_path_factory.mktemp("table") / "varied.table"
    CalibrationTable(Halves(even, odd), "f" * 64, 2, "hand 1.0", {"platform": "ONNXRUNTIME"}).save(path)
    return path
