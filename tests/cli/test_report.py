"""`calibrant report`, and `quantize --report`."""

import importlib.util
import json
import re

import numpy as np
import pytest

from calibrant.table import CalibrationTable

FAILED, USAGE = 1, 2
BOTH = (
    ("report", "model.table", "-o", "r.html"),
    ("quantize", "model.onnx", "-d", "rows.npy", "-o", "q.onnx", "--report", "r.html"),
)
QUANTIZE_OVER_ITSELF = ("quantize", "model.onnx", "-d", "rows.npy", "-o", "r.html", "--report", "r.html")

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bokeh") is None, reason="Bokeh (the extra report) is not installed"
)


@pytest.fixture
def tabled(here):
    """The folder, with model.table."""
    rows = np.random.default_rng(3).normal(size=(32, 3, 16, 16)).astype(np.float32)
    np.save(here / "rows.npy", rows)
    result = here.run("calibrate", "model.onnx", "--data", "rows.npy", "--output", "model.table")
    assert result.exit_code == 0, result.output
    return here


def told(path):
    """What the page is made from."""
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_a_table_alone_gives_its_values(tabled):
    result = tabled.run("report", "model.table", "-o", "r.html")
    assert result.exit_code == 0, result.output
    assert "r.html: " in result.stdout
    page = told(tabled / "r.html")
    assert sorted(value["name"] for value in page["values"]) == sorted(CalibrationTable.load(tabled / "model.table"))
    assert page["operations"] == []
    assert {value["method"] for value in page["values"]} == {"mse"}
    assert dict(page["facts"])["scales for"] == "uint8 asymmetric, by mse"


def test_the_options_of_a_table_alone(tabled):
    args = ("--method", "KL", "--bits", "4", "--symmetric", "-q")
    result = tabled.run("report", "model.table", "-o", "r.html", *args)
    assert (result.exit_code, result.output) == (0, "")
    page = told(tabled / "r.html")
    assert {value["method"] for value in page["values"]} == {"kl"}
    assert all((value["grid"]["min"], value["grid"]["max"]) == (-8, 7) for value in page["values"])


def test_a_model_beside_it_adds_its_operations(tabled):
    for sources in (("model.table", "model.onnx"), ("model.onnx", "model.table")):
        result = tabled.run("report", *sources, "-o", "r.html", "--force", "--method", "percentile")
        assert result.exit_code == 0, result.output
        page = told(tabled / "r.html")
        assert page["operations"]
        assert all(o["alone"] is None for o in page["operations"])
        assert "percentile" in dict(page["facts"])["scales"]
        assert page["title"] == "model.onnx"


def test_quantizing_with_a_report(here):
    here.save("float.onnx", "float")
    result = here.run("quantize", "float.onnx", "--weights-only", "-o", "out.onnx", "--report", "r.html")
    assert result.exit_code == FAILED  # there is nothing to quantize
    assert not (here / "r.html").exists()
    result = here.quantize("--report", "r.html")
    assert result.exit_code == 0, result.output
    assert "out.onnx, r.html" in result.stdout
    page = told(here / "r.html")
    assert any(o["alone"] is not None for o in page["operations"])
    facts = dict(page["facts"])
    assert facts["samples"].startswith("16 from")
    assert facts["measured"].endswith("dB at the outputs, on 8 samples")
    assert page["suspects"][0]["steps"][-1][1].startswith("--leave-in-float ")


def test_a_report_changes_no_model(here):
    assert here.quantize(output="one.onnx").exit_code == 0
    assert here.quantize("--report", "r.html", output="two.onnx").exit_code == 0
    assert (here / "one.onnx").read_bytes() == (here / "two.onnx").read_bytes()


def test_quantizing_from_a_table_with_a_report(tabled):
    result = tabled.run("quantize", "model.onnx", "--table", "model.table", "-o", "q.onnx", "--report", "r.html")
    assert result.exit_code == 0, result.output
    page = told(tabled / "r.html")
    assert page["values"]
    assert all(o["alone"] is None for o in page["operations"])


def test_weights_alone_with_a_report(here):
    result = here.run("quantize", "model.onnx", "--weights-only", "-o", "q.onnx", "--report", "r.html")
    assert result.exit_code == 0, result.output
    page = told(here / "r.html")
    assert page["values"] == []
    assert any(o["weights"] is not None for o in page["operations"])


def test_the_method_auto_with_a_report(here):
    result = here.quantize("--report", "r.html", "--method", "auto")
    assert result.exit_code == 0, result.output
    assert all(value["method"] not in ("", "auto") for value in told(here / "r.html")["values"] if value["sqnr"])


def test_what_is_there_is_kept(tabled):
    (tabled / "r.html").write_text("mine")
    for args in BOTH:
        tabled.check_refused(tabled.run(*args), FAILED, "r.html", "--force")
    assert (tabled / "r.html").read_text() == "mine"
    assert not (tabled / "q.onnx").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("report", "model.table"), USAGE, ["--output is missing", "--output model.html"]),
        (("report", "model.onnx", "-o", "r.html"), USAGE, ["calibrant calibrate model.onnx", "--report"]),
        (("report", "a.table", "b.table", "-o", "r.html"), USAGE, ["a.table, b.table"]),
        (("report", "model.tabl", "-o", "r.html"), FAILED, ["did you mean 'model.table'"]),
        (("report", "model.table", "modle.onnx", "-o", "r.html"), FAILED, ["did you mean 'model.onnx'"]),
        (("report", "rows.npy", "-o", "r.html"), FAILED, ["rows.npy"]),
        (("report", "model.table", "-o", "r.html", "--method", "percentil"), USAGE, ["did you mean 'percentile'"]),
        (("report", "model.table", "-o", "r.html", "--method", "auto"), USAGE, ["beside the table"]),
        (("report", "model.table", "-o", "model.table", "--force"), FAILED, ["model.table"]),
        (("report", "model.table", "-o", "no/r.html"), FAILED, ["the folder of the output 'no' does not exist"]),
        (QUANTIZE_OVER_ITSELF, USAGE, ["--report", "--output"]),
    ],
)  # fmt: skip
def test_what_is_refused(tabled, args, code, words):
    tabled.check_refused(tabled.run(*args), code, *words)
    assert not (tabled / "r.html").exists()


def test_without_bokeh(tabled, monkeypatch):
    monkeypatch.setattr("calibrant.analysis.report.page.importlib.util.find_spec", lambda name: None)
    for args in BOTH:
        tabled.check_refused(tabled.run(*args), USAGE, "pip install 'calibrant[report]'")
    assert not (tabled / "q.onnx").exists()
