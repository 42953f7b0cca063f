"""What notebooks show of a table, a graph and a config; and `table.plot`."""

import sys

import numpy as np
import pytest

from calibrant import CalibrationTable, TensorQuantizationConfig, api, calibrate, load_onnx_graph
from calibrant.core import ObservationError, SettingError
from calibrant.core import QuantizationProperty as P
from calibrant.core.notebook import MOST, html_table
from calibrant.sketches import Halves, SketchSpec, TensorSketch

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def pyplot(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib (the extra report) is not installed")
    yield pyplot
    pyplot.close("all")


def table_of(**values):
    sketches = {name: TensorSketch.of(np.float32(x), SketchSpec()) for name, x in values.items()}
    nothing = {name: TensorSketch.empty(SketchSpec()) for name in values}
    return CalibrationTable(Halves(sketches, nothing), "f", 1, "numpy", {"platform": "ONNXRUNTIME"})


def test_a_plot_has_every_value_and_every_range(pyplot, small_model, small_samples):
    table = calibrate(small_model, small_samples)
    top, bottom = table.plot("r2", methods=["minmax", "mse"])
    (histogram,) = top.patches
    assert histogram.get_data().values.sum() == table.sketches["r2"].extremes.size
    bars = {text.get_text().split(",")[0]: bar for text, bar in zip(bottom.texts, bottom.patches, strict=True)}
    assert set(bars) == {"minmax", "mse"}
    for method, bar in bars.items():
        scale, offset = table.solve("r2", method, P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, quant_min=0, quant_max=255)
        low, high = (float(scale) * (end - float(offset)) for end in (0, 255))
        assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((low, high))
    top.figure.canvas.draw()


@pytest.mark.parametrize("values", [[0.0, 0.0], [2.5], [-1e30, 1e-30, 1e30]])
def test_odd_values_are_drawn(pyplot, values):
    top, _ = table_of(v=values).plot("v")
    top.figure.canvas.draw()
    assert top.patches[0].get_data().values.sum() == len(values)


def test_a_name_is_no_formula(pyplot):
    top, _ = table_of(**{r"a$\frac{": [1.0, 2.0]}).plot(r"a$\frac{")
    top.figure.canvas.draw()  # raises where a formula is broken
    assert top.get_title(loc="left") == r"a\$\frac{"


def test_plotting_what_is_not_there(pyplot):
    table = table_of(some_value=[1.0])
    with pytest.raises(SettingError, match="did you mean 'some_value'"):
        table.plot("some_valu")
    bare = TensorSketch.of(np.float32([1.0]), SketchSpec(histogram=False))
    with pytest.raises(ObservationError, match="no histogram"):
        CalibrationTable(Halves({"v": bare}, {"v": bare}), "f", 1, "numpy").plot("v")


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SettingError, match=r"pip install 'calibrant\[report\]'"):
        table_of(v=[1.0]).plot("v")


def test_a_table_in_a_notebook():
    html = table_of(**{HOSTILE: [0.0, -2.0, np.nan]})._repr_html_()
    assert HOSTILE not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "-2 to 0" in html
    assert "1 values, 1 samples, for ONNXRUNTIME" in html


def test_a_graph_in_a_notebook(small_model, small_samples):
    assert "not quantized" in load_onnx_graph(small_model)._repr_html_()
    graph, _ = api.quantize(small_model, small_samples)
    html = graph._repr_html_()
    assert "for ONNXRUNTIME" in html
    assert "<th>conv2</th><td>Conv</td>" in html
    assert f"<td>r1: uint8 by {graph.config_of('r1').observer_algorithm}, ACTIVATED</td>" in html


def test_a_config_in_a_notebook():
    config = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL)
    assert "not found yet" in config._repr_html_()
    config = TensorQuantizationConfig(
        P.PER_CHANNEL | P.LINEAR | P.SYMMETRICAL, scale=[0.5, 0.25], offset=[0, 0], channel_axis=0
    )
    assert "2 of them, 0.25 to 0.5" in config._repr_html_()


def test_a_long_table_says_how_much_is_left_out():
    html = html_table("t", ["n"], ([str(n)] for n in range(MOST + 7)))
    assert html.count("<tr>") == 1 + MOST + 1
    assert "and 7 more" in html
