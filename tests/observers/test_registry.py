"""Observers by name, and a user's own in both forms."""

from pathlib import Path

import numpy as np
import pytest

from calibrant.core import (
    ConfigError,
    ObservationError,
    QuantizationStates,
    SettingError,
    TensorQuantizationConfig,
    affine,
)
from calibrant.core import QuantizationProperty as P
from calibrant.observers import (
    BaseTensorObserver,
    MinmaxObserver,
    MseObserver,
    build_observer,
    known,
    observer_class,
    register_calibration_observer,
    registry,
)
from calibrant.sketches import Extremes, Histogram, Margins, SketchSpec, TensorSketch

VALUES = np.float32([-1.0, 0.25, 2.0, 4.0])


class Half(BaseTensorObserver):
    """The sketch form: half of minmax's range."""

    sketches = (Extremes,)

    def solve(self, sketch):
        lo, hi = self.ends(sketch)
        return affine(lo / 2, hi / 2, self._quant_cfg)


class Median(BaseTensorObserver):
    """The raw form: needs the values themselves."""

    def __init__(self, watch_on, quant_cfg):
        super().__init__(watch_on, quant_cfg)
        self.seen = []

    def observe(self, value):
        self.seen.append(np.asarray(value).reshape(-1))

    def render_quantization_config(self):
        self._quant_cfg.scale = np.median(np.abs(np.concatenate(self.seen)))
        self._quant_cfg.offset = 0
        self._quant_cfg.state = QuantizationStates.ACTIVATED


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


def test_the_built_in_ones():
    assert known() == ["isotone", "kl", "minmax", "mse", "percentile"]
    assert observer_class("MSE") is MseObserver


def test_names_ignore_case_and_observers_know_what_they_watch(config):
    c = config("MinMax")
    observer = build_observer(c, watch_on="conv1")
    assert isinstance(observer, MinmaxObserver)
    assert (observer._watch_on, observer._quant_cfg) == ("conv1", c)
    assert build_observer(c)._watch_on is None


def test_an_unknown_name_gets_the_nearest(config):
    with pytest.raises(SettingError, match=r"unknown calibration method 'percentil'; did you mean 'percentile'\?"):
        build_observer(config("percentil"))


def test_the_sketch_form(config, solve):
    register_calibration_observer("Half", Half)
    c = solve(config("hALF"), VALUES)
    assert float(c.scale) == np.float32(4 / 255)
    assert c.state is QuantizationStates.ACTIVATED
    assert not Half.needs_raw_values()
    assert "half" in known()
    per_channel = solve(config("half", False, axis=0), np.stack([VALUES, VALUES * 2]))
    np.testing.assert_allclose(per_channel.scale, np.float32([2.5 / 255, 5 / 255]))


def test_the_raw_form(config):
    register_calibration_observer("median", Median)
    c = config("Median")
    observer = build_observer(c, "x")
    observer.observe(VALUES)
    observer.observe(VALUES)
    observer.render_quantization_config()
    assert float(c.scale) == 1.5
    assert Median.needs_raw_values()


def test_a_name_can_be_registered_again(config):
    register_calibration_observer("mine", Half)
    register_calibration_observer("mine", Median)
    assert isinstance(build_observer(config("mine")), Median)


class Observes(BaseTensorObserver):
    def observe(self, value): ...


@pytest.mark.parametrize(
    ("called", "observer", "message"),
    [
        ("MinMax", Half, "'MinMax' is a built-in calibration method: register yours under another name"),
        ("  ", Half, "an observer needs a name"),
        ("mine", object, "must be a subclass of BaseTensorObserver, got <class 'object'>"),
        ("mine", Half(None, None), "must be a subclass of BaseTensorObserver"),
        ("mine", BaseTensorObserver, "BaseTensorObserver implements nothing"),
        ("mine", Observes, "Observes implements observe; it must implement solve, or both observe and render"),
    ],
)
def test_what_cannot_be_registered(called, observer, message):
    with pytest.raises(SettingError, match=message):
        register_calibration_observer(called, observer)
    assert known() == ["isotone", "kl", "minmax", "mse", "percentile"]


@pytest.mark.parametrize(
    "policy", [P.PER_TENSOR | P.FLOATING | P.SYMMETRICAL, P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL | P.DYNAMIC]
)
def test_policies_without_an_observer(policy):
    with pytest.raises(ConfigError, match=r"no observer solves a (FLOATING|DYNAMIC) policy"):
        build_observer(TensorQuantizationConfig(policy))


def test_what_a_value_must_collect(config):
    per_channel = config("mse", axis=1)
    assert MinmaxObserver.spec_for(config("minmax")) == SketchSpec(histogram=False)
    assert MinmaxObserver.spec_for(config("minmax"), channel_axis=1) == SketchSpec(histogram=False, channel_axis=1)
    assert MseObserver.spec_for(config("mse", mantissa_bits=10)) == SketchSpec(mantissa_bits=10)
    assert MseObserver.spec_for(per_channel, 2) == SketchSpec(histogram=False, channel_axis=1, per_channel=True)
    isotone = observer_class("isotone")
    assert isotone.spec_for(config("isotone", isotone_axis=1)).isotone_axis == 1
    assert isotone.spec_for(config("isotone")).isotone_axis == -1
    assert {Extremes, Histogram, Margins} == set(isotone.sketches)


def test_a_finer_histogram_by_setting(config, solve):
    x = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    exact = np.quantile(np.abs(x), 0.99)
    coarse, fine = (solve(config("percentile", percentile=0.99, mantissa_bits=m), x) for m in (2, 12))
    assert abs(float(fine.scale) * 127.5 - exact) < abs(float(coarse.scale) * 127.5 - exact)


@pytest.mark.parametrize("method", ["percentile", "mse", "kl", "isotone"])
def test_per_channel_needs_what_was_collected_per_channel(method, config):
    x = np.random.default_rng(0).normal(size=(4, 3, 9)).astype(np.float32)
    sketch = TensorSketch.of(x, SketchSpec(channel_axis=1, isotone_axis=-1))
    c = config(method, axis=1)
    with pytest.raises(ObservationError, match=r"value 'x': .* statistics per channel, .*`--per-channel-activations`"):
        build_observer(c, "x").render_from(sketch)
    assert c.state is QuantizationStates.INITIAL


def test_extremes_per_channel_are_enough_for_minmax(config, solve):
    x = np.random.default_rng(0).normal(size=(4, 3, 9)).astype(np.float32)
    c = solve(config("minmax", axis=1), TensorSketch.of(x, SketchSpec(channel_axis=1)))
    np.testing.assert_allclose(c.scale, 2 * np.abs(x).max(axis=(0, 2)) / 255, rtol=1e-6)
    for other in (2, -1):  # a sketch does not know of how many axes 1 is one
        with pytest.raises(ObservationError, match="collected along 1"):
            solve(config("minmax", axis=other), TensorSketch.of(x, SketchSpec(channel_axis=1)))


def test_a_histogram_that_was_not_collected(config, solve):
    with pytest.raises(
        ObservationError, match="does not hold its histogram, which the method 'mse' needs; collect again"
    ):
        solve(config("mse"), TensorSketch.of(VALUES, SketchSpec(histogram=False)))


class Wrong(BaseTensorObserver):
    found: tuple[object, object] = (0.0, 0)

    def solve(self, sketch):
        return self.found


@pytest.mark.parametrize("found", [(0.0, 0), (np.inf, 0), (0.5, 0.5), (0.5, 300), (np.ones(3), np.zeros(3))])
def test_what_an_observer_finds_is_checked_before_it_is_written(found, config, monkeypatch):
    monkeypatch.setattr(Wrong, "found", found)
    register_calibration_observer("wrong", Wrong)
    c = config("wrong", symmetric=False)
    observer = build_observer(c, "x")
    observer.observe(VALUES)
    with pytest.raises(ConfigError):
        observer.render_quantization_config()
    assert (c.scale, c.offset, c.state) == (None, None, QuantizationStates.INITIAL)


def test_kernels_on_disk_are_renewed_when_any_of_them_changes():
    from calibrant.observers.kernels import squares
    from calibrant.sketches.kernels import jit

    folder = Path(squares.__file__).parent
    assert squares.search._cache._cache_file._source_stamp == jit.stamp(folder)
    assert {path.name for path in jit.sources(folder)} >= {
        "cells.py",
        "pieces.py",
        "squares.py",
        "entropy.py",
        "order.py",
    }
