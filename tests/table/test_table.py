"""CalibrationTable: what is solved and quantized from it is what samples would have given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibrant import BaseTensorObserver, CalibrationTable, QuantizationSetting, register_calibration_observer
from calibrant.api import calibrate, export_graph, load_onnx_graph, quantize
from calibrant.core import (
    ConfigError,
    DataError,
    IncompatibleSketches,
    ObservationError,
    QuantizationStates,
    SettingError,
    TargetPlatform,
    TensorQuantizationConfig,
)
from calibrant.core import QuantizationProperty as P
from calibrant.observers import registry
from calibrant.quantizers import quantize_graph
from calibrant.sketches import Extremes, Halves, TensorSketch
from calibrant.table.collecting import METHODS

DATA = Path(__file__).parents[1] / "data"
SYMMETRIC, ASYMMETRIC = (P.PER_TENSOR | P.LINEAR | kind for kind in (P.SYMMETRICAL, P.ASYMMETRICAL))
PER_CHANNEL = P.PER_CHANNEL | P.LINEAR | P.ASYMMETRICAL


def with_method(method, **changes):
    setting = QuantizationSetting()
    setting.quantize_activation_setting.calib_algorithm = method
    for name, value in changes.items():
        setattr(setting.quantize_activation_setting, name, value)
    return setting


def exported(model, samples, platform, table, setting, path):
    graph, _ = quantize(model, samples, platform=platform, table=table, setting=setting)
    export_graph(graph, platform, path)
    return path.read_bytes()


@pytest.mark.parametrize("platform", ["ONNXRUNTIME", "TRT_INT8"])
def test_a_table_gives_the_files_that_samples_give(platform, small_model, small_samples, tmp_path):
    calibrate(small_model, small_samples, platform=platform).save(tmp_path / "t")
    table = CalibrationTable.load(tmp_path / "t")
    files = set()
    for method in (None, *METHODS):
        setting = with_method(method)
        direct = exported(small_model, small_samples, platform, None, setting, tmp_path / "a.onnx")
        assert exported(small_model, None, platform, table, setting, tmp_path / "b.onnx") == direct, method
        files.add(direct)
    assert len(files) >= len(METHODS)


@pytest.mark.parametrize("changes", [{"num_of_bits": 4}, {"num_of_bits": 16}, {"percentile": 0.99}])
def test_another_grid_needs_no_other_table(small_model, small_samples, tmp_path, changes):
    table = calibrate(small_model, small_samples)
    for method in ("minmax", "percentile", "mse"):
        setting = with_method(method, **changes)
        direct = exported(small_model, small_samples, "ONNXRUNTIME", None, setting, tmp_path / "a.onnx")
        assert exported(small_model, None, "ONNXRUNTIME", table, setting, tmp_path / "b.onnx") == direct


@pytest.fixture(scope="module")
def table(model_file, small_samples):
    return calibrate(model_file, small_samples)


def grid_of(bits):
    return {"num_of_bits": bits, "quant_min": -(1 << bits - 1), "quant_max": (1 << bits - 1) - 1}


LEAST = {"minmax": 1, "percentile": 0.85, "mse": 0.5, "kl": 0.6}  # of the whole range, on 4 bits or more
EVERY_GRID = [(method, bits) for method in LEAST for bits in (4, 8, 16) if method != "kl" or bits <= 8]


@pytest.mark.parametrize(("method", "bits"), EVERY_GRID)
@pytest.mark.parametrize("policy", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_any_width_and_symmetry(table, bits, method, policy):
    grid = grid_of(bits)
    scale, offset = table.solve("sum", method, policy, **grid)
    ends = table.sketches["sum"].extremes.per_tensor()
    widest = max(ends.hi[0], -ends.lo[0]) * 2 if policy is SYMMETRIC else ends.hi[0] - ends.lo[0]
    whole = widest / ((1 << bits) - 1)
    assert scale.dtype == offset.dtype == np.float32
    assert LEAST[method] - 1e-6 <= scale / whole <= 1 + 1e-6
    assert grid["quant_min"] <= offset <= grid["quant_max"]
    assert (offset == 0) == (policy is SYMMETRIC)


@pytest.mark.parametrize("policy", [SYMMETRIC, ASYMMETRIC], ids=["symmetric", "asymmetric"])
def test_kl_refuses_more_than_8_bits(table, policy):
    with pytest.raises(ConfigError, match="kl"):
        table.solve("sum", "kl", policy, **grid_of(16))


def test_solve_leaves_a_config_as_it_was(table):
    config = TensorQuantizationConfig(ASYMMETRIC, observer_algorithm="kl")
    scale, offset = table.solve("sum", "mse", config)
    assert (config.scale, config.offset, config.observer_algorithm) == (None, None, "kl")
    assert config.state is QuantizationStates.INITIAL
    assert (scale, offset) == table.solve("sum", "mse", ASYMMETRIC)


def test_solve_refuses_what_it_does_not_know(table):
    with pytest.raises(SettingError, match="unknown value 'summ'; did you mean 'sum'"):
        table.solve("summ")
    with pytest.raises(SettingError, match="did you mean 'mse'"):
        table.solve("sum", "mze")
    with pytest.raises(ObservationError, match=r"'sum': .* statistics per channel, which the method 'mse' needs"):
        table.solve("sum", "mse", PER_CHANNEL, channel_axis=1)
    with pytest.raises(ObservationError, match="'sum': the sketch does not hold the margins"):
        table.solve("sum", "isotone")


def planned(model, platform=TargetPlatform.ONNXRUNTIME, setting=None):
    graph = load_onnx_graph(model)
    quantize_graph(graph, platform, setting or QuantizationSetting())
    return graph


def check_refused(table, graph, error, words, method=None):
    """Applying the table raises that, and no config is changed."""
    with pytest.raises(error, match=words):
        table.apply(graph, method)
    assert all(group.config.state is QuantizationStates.INITIAL for group in graph.groups)
    assert all(group.config.scale is None for group in graph.groups)


def test_a_table_of_another_model_is_refused(table, small_model):
    graph = planned(small_model)
    graph.fingerprint = "another"
    check_refused(table, graph, IncompatibleSketches, f"begins with {table.fingerprint[:8]}, .* another")


def test_a_table_without_a_value_is_refused(table, small_model, small_samples):
    setting = QuantizationSetting()
    setting.only = ["conv1"]
    lacking = calibrate(small_model, small_samples[:4], setting=setting)
    check_refused(lacking, planned(small_model), ObservationError, r"no statistics of '.*' and \d more: .* --only")


def test_another_platform_may_use_a_table_that_has_its_values(small_model, small_samples, tmp_path):
    tables = {name: calibrate(small_model, small_samples, platform=name) for name in ("ONNXRUNTIME", "TRT_INT8")}
    assert set(tables["TRT_INT8"]) < set(tables["ONNXRUNTIME"])
    scales = []
    for table in tables.values():  # what onnxruntime fuses depends on what is observed: its last digits may differ
        graph = planned(small_model, TargetPlatform.TRT_INT8)
        table.apply(graph, "mse")
        scales.append([float(group.config.scale) for group in graph.groups])
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)
    words = "no statistics of 'c3'.* collected for TRT_INT8, .* collect it for ONNXRUNTIME"
    check_refused(tables["TRT_INT8"], planned(small_model), ObservationError, words)


def changed(table, name, change):
    """The table with that value's sketches changed."""
    halves = [half | {name: change(half[name])} for half in (table.sketches.even, table.sketches.odd)]
    return replace(table, sketches=Halves(*halves))


def without_margins(sketch):
    return replace(sketch, spec=replace(sketch.spec, isotone_axis=None), margins=None)


def test_a_table_that_lacks_what_a_method_needs_is_refused(table, small_model, small_samples):
    graph = planned(small_model)
    check_refused(
        changed(table, "logits", without_margins), graph, ObservationError, "'logits'.* the margins", "isotone"
    )
    ends = calibrate(small_model, small_samples[:4], methods=["minmax"])
    check_refused(ends, graph, ObservationError, r"its histogram, which .* needs.* \(and \d more values\)", "mse")
    ends.apply(graph, "minmax")
    assert graph.calibrated_samples == 4


def test_a_value_that_was_never_seen_is_refused(table, small_model):
    nothing = changed(table, "sum", lambda sketch: TensorSketch.empty(sketch.spec))
    check_refused(nothing, planned(small_model), ObservationError, "'sum'")
    empty = CalibrationTable.empty({n: s.spec for n, s in table.sketches.items()}, table.fingerprint, "none", {})
    check_refused(empty, planned(small_model), ObservationError, "nothing was observed|no .*value")


class Raw(BaseTensorObserver):
    """A user's observer that looks at the values themselves."""

    def observe(self, value):
        self.largest = max(getattr(self, "largest", 0), float(np.abs(value).max()))

    def render_quantization_config(self):
        self._quant_cfg.scale, self._quant_cfg.offset = self.largest / 127, 0
        self._quant_cfg.state = QuantizationStates.ACTIVATED


class Half(BaseTensorObserver):
    """A user's observer that works from sketches."""

    sketches = (Extremes,)

    def solve(self, sketch):
        lo, hi = self.ends(sketch)
        return np.maximum(-lo, hi) / 255, np.zeros_like(hi)


@pytest.fixture
def _registered(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    register_calibration_observer("raw", Raw)
    register_calibration_observer("half", Half)


@pytest.mark.usefixtures("_registered")
def test_a_method_that_looks_at_raw_values_cannot_use_a_table(table, small_model, small_samples):
    quantize(small_model, small_samples[:4], setting=with_method("raw"))
    words = r"'raw' looks at raw values, which a table does not hold: calibrate with samples instead"
    with pytest.raises(ObservationError, match=words):
        quantize(small_model, None, table=table, setting=with_method("raw"))
    with pytest.raises(ObservationError, match=words):
        table.solve("sum", "raw")
    check_refused(table, planned(small_model), ObservationError, words, "raw")
    with pytest.raises(ObservationError, match=r"'raw' looks at raw values.*quantize with samples for it"):
        calibrate(small_model, small_samples[:4], methods=["mse", "raw"])


@pytest.mark.usefixtures("_registered")
def test_a_method_of_sketches_can_use_a_table(table, small_model, small_samples, tmp_path):
    setting = with_method("half")
    direct = exported(small_model, small_samples, "ONNXRUNTIME", None, setting, tmp_path / "a.onnx")
    assert exported(small_model, None, "ONNXRUNTIME", table, setting, tmp_path / "b.onnx") == direct


@pytest.mark.parametrize("samples", [-1, True, 1.0, 1 << 60])
def test_no_table_is_of_so_many_samples(table, samples):
    header, arrays = table.parts()
    with pytest.raises(DataError, match=f"it is of {samples} samples"):
        CalibrationTable.of_parts("t", header | {"samples": samples}, arrays)


def test_a_table_is_a_mapping_of_names(table):
    assert {*table} == table.sketches.keys()
    assert len(table) == len([*table]) == 7


# By file: scale and offset of (value, method), on the grid -128..127, asymmetric.
PINNED = {
    "table-0.1.0": {
        ("x", "minmax"): (0.025963984429836273, -5),
        ("r1", "percentile"): (0.02123287506401539, -128),
        ("sum", "mse"): (0.02874824032187462, -57),
        ("c3", "kl"): (0.016731342300772667, -2),
        ("logits", "isotone"): (0.009297331795096397, 27),
    },
    "table-0.1.0-per-channel": {
        ("x", "minmax"): ([0.025359507650136948, 0.02434161864221096, 0.02594776079058647], [-2, -7, -5]),
        ("x", "percentile"): ([0.02506170980632305, 0.024117685854434967, 0.025588512420654297], [-2, -6, -5]),
        ("x", "mse"): ([0.025017190724611282, 0.024363739416003227, 0.026169944554567337], [-2, -7, -6]),
        ("x", "kl"): ([0.022461986169219017, 0.02211901918053627, 0.02370520494878292], [4, 5, 7]),
    },
}


@pytest.mark.parametrize("path", sorted(DATA.glob("table-*.safetensors")), ids=lambda path: path.stem)
def test_tables_of_every_release_are_read(path):
    table = CalibrationTable.load(path)
    assert table.samples == 4
    for (name, method), (scale, offset) in PINNED[path.stem].items():
        grid = {"channel_axis": 1} if "channel" in path.stem else {}
        found = table.solve(name, method, PER_CHANNEL if grid else ASYMMETRIC, **grid)
        np.testing.assert_allclose(found[0], np.float32(scale), rtol=1e-6)
        np.testing.assert_array_equal(found[1], np.float32(offset))
    assert path.stat().st_size < 200_000


def test_there_is_a_table_of_this_release():
    assert {path.stem for path in DATA.glob("table-*.safetensors")} == PINNED.keys()
