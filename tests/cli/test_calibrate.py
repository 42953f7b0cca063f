"""`calibrant calibrate` on a tiny model: the table is the one that Python makes, and a killed run goes on."""

import os

import numpy as np
import pytest

from calibrant import api
from calibrant.table import CalibrationTable

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def calibrate(here, *args, model="model.onnx", data="photos", output="a.table"):
    return here.run("calibrate", model, "--data", data, "--output", output, *args)


def arrays(here, count=24):
    rows = np.random.default_rng(5).normal(size=(count, 3, 16, 16)).astype(np.float32)
    np.save(here / "a.npy", rows)
    return rows


def test_the_table_is_the_one_that_python_makes(here):
    rows = arrays(here)
    result = calibrate(here, "--batch-size", "4", data="a.npy")
    assert result.exit_code == 0, result.output
    api.calibrate(here / "model.onnx", np.split(rows, 6)).save(here / "b.table")
    assert (here / "a.table").read_bytes() == (here / "b.table").read_bytes()


def test_the_summary_says_what_was_done(here):
    text = calibrate(here).stdout
    size = (here / "a.table").stat().st_size / 1000
    values = len(CalibrationTable.load(here / "a.table"))
    for words in (
        "model.onnx, statistics for ONNXRUNTIME",
        "16 from 'photos'",
        "resized to cover 16x16",
        f"of {values} values, for isotone, kl, minmax, mse, percentile",
        "time         ",
        f"{size:.1f} kB",
        "written to   a.table",
        "calibrant quantize model.onnx --table a.table",
    ):
        assert words in text
    assert "warning" not in text
    assert "few samples to calibrate on: 4" in calibrate(here, "--samples", "4", "--force").stdout


def test_quiet_says_nothing(here):
    result = calibrate(here, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_options_reach_the_table(here):
    assert calibrate(here).exit_code == 0
    options = ("--methods", "MinMax, percentile", "--platform", "trt", "--leave-in-float", "fc")
    assert calibrate(here, *options, output="b.table").exit_code == 0
    everything, less = (CalibrationTable.load(here / name) for name in ("a.table", "b.table"))
    assert less.settings["methods"] == "minmax,percentile"
    assert less.settings["platform"] == "TRT_INT8"
    assert len(less) < len(everything)
    assert calibrate(here, "--methods", "minmax", output="c.table").exit_code == 0
    assert (here / "c.table").stat().st_size < (here / "a.table").stat().st_size / 3


def test_existing_output_is_replaced_with_force_only(here):
    (here / "a.table").write_text("precious")
    here.check_refused(calibrate(here), FAILED, "'a.table' exists already", "--force")
    assert (here / "a.table").read_text() == "precious"
    assert calibrate(here, "--force").exit_code == 0
    assert len(CalibrationTable.load(here / "a.table"))


STOPS = """
import pathlib
import numpy as np

def samples():
    rng = np.random.default_rng(0)
    for number in range(30):
        if number == 20 and pathlib.Path("stop").exists():
            raise KeyboardInterrupt
        yield rng.normal(size=(1, 3, 16, 16)).astype(np.float32)
"""


def test_an_interrupted_run_goes_on_from_its_checkpoint(here):
    (here / "stops_for_calibrate.py").write_text(STOPS)
    data = "stops_for_calibrate:samples"
    assert calibrate(here, data=data, output="whole.table").exit_code == 0
    (here / "stop").touch()
    keep = ("--checkpoint", "part", "--every", "8")
    here.check_refused(calibrate(here, *keep, data=data), INTERRUPTED, "goes on from the checkpoint 'part'")
    assert (here / "part").exists()
    assert not (here / "a.table").exists()
    (here / "stop").unlink()
    result = calibrate(here, *keep, "--verbose", data=data)
    assert result.exit_code == 0, result.output
    assert "going on from the checkpoint part, after 16 samples" in result.stderr
    assert (here / "a.table").read_bytes() == (here / "whole.table").read_bytes()
    assert not [name for name in here.files() if name.startswith("part")]


def test_an_interrupt_without_checkpoint_says_that_nothing_was_written(here):
    (here / "stops_for_calibrate.py").write_text(STOPS)
    (here / "stop").touch()
    result = calibrate(here, data="stops_for_calibrate:samples")
    here.check_refused(result, INTERRUPTED, "interrupted; nothing was written")


def test_a_checkpoint_of_other_samples_is_refused_and_kept(here):
    (here / "stops_for_calibrate.py").write_text(STOPS)
    (here / "stop").touch()
    keep = ("--checkpoint", "part", "--every", "8")
    calibrate(here, *keep, data="stops_for_calibrate:samples")
    here.check_refused(calibrate(here, *keep), FAILED, "part", "not those of the checkpoint")
    assert (here / "part").exists()


WRONG = {
    "every alone": (["--every", "8"], USAGE, "add --checkpoint FILE"),
    "checkpoint is output": (["--checkpoint", "./a.table"], USAGE, "'a.table' is the output"),
    "checkpoint nowhere": (["--checkpoint", "phots/part"], FAILED, "did you mean 'photos'?"),
    "method": (["--methods", "minmax,mze"], USAGE, "did you mean 'mse'?"),
    "no method": (["--methods", ","], USAGE, "names nothing"),
    "layer": (["--leave-in-float", "Gem"], USAGE, "'Gem'"),
    "option": (["--method", "mse"], USAGE, "did you mean '--methods'?"),
    "output": (["--output", "photos"], FAILED, "is a folder", "model.table"),
    "model": (["--output", "model.onnx", "--force"], FAILED, "is the model itself"),
    "quiet": (["--quiet", "--debug"], USAGE, "contradicts"),
}


@pytest.mark.parametrize("case", WRONG)
def test_refused(here, case):
    options, code, *words = WRONG[case]
    before = here.files()
    here.check_refused(calibrate(here, *options), code, *words)
    assert here.files() == before


def test_what_is_missing(here):
    here.check_refused(here.run("calibrate", "model.onnx", "--data", "photos"), USAGE, "--output is missing")
    here.check_refused(here.run("calibrate", "model.onnx", "--output", "a.table"), USAGE, "--data is missing")
    here.check_refused(calibrate(here, model="modle.onnx"), FAILED, "did you mean 'model.onnx'?")
    here.check_refused(calibrate(here, data="fotos"), FAILED, "did you mean 'photos'?")


def test_a_model_without_values_to_calibrate(here):
    here.save("float.onnx", "float")
    np.save(here / "b.npy", np.ones((2, 4), np.float32))
    result = calibrate(here, model="float.onnx", data="b.npy")
    here.check_refused(result, FAILED, "nothing to collect", "Softmax")


def test_a_bad_sample_is_named(here):
    (here / "rows").mkdir()
    for number in range(3):
        np.save(here / "rows" / f"{number}.npy", np.full((1, 3, 16, 16), np.nan if number == 1 else 1, np.float32))
    path = os.path.join("rows", "1.npy")
    here.check_refused(calibrate(here, data="rows"), FAILED, f"'{path}', input 'x': 768 of 768", "--skip-bad")


RAW = """
from calibrant import BaseTensorObserver, QuantizationStates, register_calibration_observer

class Raw(BaseTensorObserver):
    def observe(self, value):
        self.seen = True
    def render_quantization_config(self):
        self._quant_cfg.scale, self._quant_cfg.offset = 2.0, 0.0
        self._quant_cfg.state = QuantizationStates.ACTIVATED

register_calibration_observer("raw_for_the_table", Raw)
"""


def test_a_method_that_looks_at_raw_values_is_refused_everywhere(here):
    (here / "raw_for_the_command.py").write_text(RAW)
    assert calibrate(here, output="b.table").exit_code == 0
    own = ("--import", "raw_for_the_command")
    for result in (
        calibrate(here, *own, "--methods", "mse,raw_for_the_table"),
        here.run("inspect", "b.table", *own, "--method", "raw_for_the_table"),
        here.run("quantize", "model.onnx", "--table", "b.table", *own, "-m", "raw_for_the_table", "-o", "out.onnx"),
    ):
        here.check_refused(result, FAILED, "'raw_for_the_table' looks at raw values, which a table does not hold")


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--workers", "2"), USAGE, "--workers is about a Ray cluster: add --ray"),
        (("--ray", "--checkpoint", "c"), USAGE, "leave --checkpoint out"),
        (("--ray", "127.0.0.1:1"), FAILED, "no Ray cluster at '127.0.0.1:1'"),
    ],
)
def test_options_of_a_cluster_are_checked(here, options, code, words):
    pytest.importorskip("ray.data")
    result = calibrate(here, *options)
    assert result.exit_code == code
    assert words in result.stderr
    assert not (here / "a.table").exists()
