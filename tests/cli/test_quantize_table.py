"""`calibrant quantize --table`: the file that direct calibration makes, without a sample."""

import re

import numpy as np
import onnx
import pytest

FAILED, USAGE = 1, 2


@pytest.fixture
def tabled(here):
    """The folder, with model.table over the photos."""
    result = here.run("calibrate", "model.onnx", "--data", "photos", "--output", "model.table")
    assert result.exit_code == 0, result.output
    return here


def quantize(here, *args, model="model.onnx", table="model.table", output="out.onnx"):
    return here.run("quantize", model, "--table", table, "--output", output, *args)


WAYS = {
    **{method: ["--method", method] for method in ("minmax", "percentile", "mse", "kl", "isotone")},
    "the platform's own": [],
    "6 bits": ["--method", "mse", "--bits", "6"],
    "percentile 0.99": ["--method", "percentile", "--percentile", "0.99"],
    "two methods": ["--method", "kl", "--override", "x:method=minmax"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_file_is_that_of_direct_calibration(tabled, way):
    assert tabled.quantize(*WAYS[way], output="direct.onnx").exit_code == 0
    result = quantize(tabled, *WAYS[way])
    assert result.exit_code == 0, result.output
    assert (tabled / "out.onnx").read_bytes() == (tabled / "direct.onnx").read_bytes()


@pytest.mark.parametrize("grid", [["--symmetric"], ["--activation-type", "int8"], ["--per-channel-activations"]])
def test_another_grid_observes_other_values(here, grid):
    assert here.run("calibrate", "model.onnx", "-d", "photos", "-o", "model.table", *grid).exit_code == 0
    result = quantize(here, *grid, "--method", "mse")
    assert result.exit_code == 0, result.output
    assert here.quantize(*grid, "--method", "mse", output="direct.onnx").exit_code == 0
    assert (here / "out.onnx").read_bytes() == (here / "direct.onnx").read_bytes()


def test_methods_differ_and_auto_needs_no_samples(tabled):
    for method in ("minmax", "percentile", "auto"):
        result = quantize(tabled, "--method", method, output=f"{method}.onnx")
        assert result.exit_code == 0, result.output
    assert (tabled / "minmax.onnx").read_bytes() != (tabled / "percentile.onnx").read_bytes()


def test_no_sample_is_read_and_the_summary_says_so(tabled):
    for path in (tabled / "photos").iterdir():
        path.unlink()
    text = quantize(tabled, "--method", "mse").stdout
    assert "samples      none read: the table 'model.table' is of 16" in text
    assert "calibrated by mse" in text


def test_few_samples_are_warned_about(here):
    here.run("calibrate", "model.onnx", "--data", "photos", "--output", "model.table", "--samples", "4", "--mean", "0")
    text = quantize(here).stdout
    assert any("few samples to calibrate on: 4" in warning for warning in text.split("warning")[1:])
    assert "next         give more samples" in text


def test_values_that_move_are_named(here):
    rows = np.random.default_rng(0).normal(size=(20, 3, 16, 16))
    rows[0] *= 30  # in one half alone
    np.save(here / "a.npy", rows.astype(np.float32))
    text = here.quantize("--method", "minmax", data="a.npy").stdout
    assert "would profit from more samples: between two halves of them, the scale of '" in text


def test_the_platform_is_the_tables(here):
    options = ("--platform", "openvino", "--output", "model.table")
    assert here.run("calibrate", "model.onnx", "--data", "photos", *options).exit_code == 0
    assert "quantized for OPENVINO_INT8" in quantize(here).stdout
    assert "for OPENVINO_INT8" in here.run("quantize", "model.onnx", "--table", "model.table", "--dry-run").stdout
    result = quantize(here, "--platform", "onnxruntime", "--force")  # with its values, if they are there
    assert result.exit_code == 0, result.output
    assert "quantized for ONNXRUNTIME" in result.stdout


def test_the_table_of_another_model(tabled):
    model = onnx.load(tabled / "model.onnx")
    weight = next(w for w in model.graph.initializer if w.name == "fc.b")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.zeros(5, np.float32), "fc.b"))
    onnx.save(model, tabled / "other.onnx")
    tabled.check_refused(
        quantize(tabled, model="other.onnx"), FAILED, "model.table: the table is of another model", "fingerprint"
    )
    dry = tabled.run("quantize", "other.onnx", "--table", "model.table", "--dry-run")
    tabled.check_refused(dry, FAILED, "model.table: the table is of another model")
    assert "out.onnx" not in tabled.files()


def test_a_table_that_lacks_values_or_statistics(here):
    options = ("--output", "model.table", "--leave-in-float", "conv", "--methods", "minmax")
    assert here.run("calibrate", "model.onnx", "--data", "photos", *options).exit_code == 0
    here.check_refused(quantize(here, "-m", "minmax"), FAILED, "model.table: the table has no statistics of '")
    layers = ("--leave-in-float", "conv")
    here.check_refused(quantize(here, *layers, "--method", "mse"), FAILED, "model.table: value '", "its histogram")
    assert quantize(here, *layers, "--method", "minmax").exit_code == 0


def test_a_table_that_is_none(tabled):
    whole = (tabled / "model.table").read_bytes()
    (tabled / "cut.table").write_bytes(whole[: len(whole) // 2])
    tabled.check_refused(quantize(tabled, table="cut.table"), FAILED, "cut.table", "damaged")
    tabled.check_refused(quantize(tabled, table="model.onnx"), FAILED, "model.onnx is not a calibration table")
    tabled.check_refused(quantize(tabled, table="modle.table"), FAILED, "did you mean 'model.table'?")


CONTRADICTIONS = {
    "--data": ["--data", "photos"],
    "--samples": ["--samples", "4"],
    "--batch-size": ["--batch-size", "4"],
    "--skip-bad": ["--skip-bad"],
    "--mean": ["--mean", "127"],
    "--color": ["--color", "bgr"],
    "--weights-only": ["--weights-only"],
}


@pytest.mark.parametrize("option", CONTRADICTIONS)
def test_samples_beside_a_table_are_wrong_usage(tabled, option):
    tabled.check_refused(quantize(tabled, *CONTRADICTIONS[option]), USAGE, option, "--table")
    assert "out.onnx" not in tabled.files()


def test_the_table_is_checked_before_the_work(tabled, monkeypatch):
    monkeypatch.setattr("calibrant.cli.job.load_onnx_graph", lambda path: pytest.fail("the work has started"))
    tabled.check_refused(quantize(tabled, table="no.table"), FAILED, "'no.table' does not exist")
    tabled.check_refused(quantize(tabled, "--method", "mze"), USAGE, "did you mean 'mse'?")


def test_auto_measures_on_samples_beside_the_table(tabled):
    result = quantize(tabled, "--method", "auto", "--data", "photos")
    assert result.exit_code == 0, result.output
    assert "samples      16 read to measure on: the table 'model.table' is of 16" in result.stdout
    assert "auto chose" in result.stdout


def test_auto_tells_how_far_the_comparison_is(tabled, monkeypatch):
    monkeypatch.setattr("calibrant.cli.console.PLAIN_EVERY", 0.0)
    result = quantize(tabled, "--method", "auto", "--data", "photos")
    told = re.findall(r"comparing methods: (\d+) of (\d+) runs, about \d+ s left", result.stderr)
    runs = int(told[0][1])
    assert [int(done) for done, _ in told] == list(range(2, runs + 1))
    assert result.stderr.index("calibrating") < result.stderr.index("comparing")


def test_auto_without_samples_refuses_options_about_them(tabled):
    result = quantize(tabled, "--method", "auto", "--samples", "4")
    assert result.exit_code == USAGE
    assert "--samples is about samples" in result.output
