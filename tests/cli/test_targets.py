"""--target-sqnr, --max-drop, --metric and --analyse: what is printed, what is written, and how each is refused."""

import re

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from calibrant.cli.app import app

from .conftest import conv_net


@pytest.fixture
def run():
    return lambda *args: CliRunner().invoke(app, list(args))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with `m.onnx`, samples in `s`, and a module of metrics."""
    monkeypatch.chdir(tmp_path)
    onnx.save(conv_net(), "m.onnx")
    (tmp_path / "s").mkdir()
    rng = np.random.default_rng(1)
    for number in range(24):
        np.save(f"s/{number:02}.npy", rng.normal(0, 1, (1, 3, 16, 16)).astype(np.float32))
    (tmp_path / "own_metrics.py").write_text(
        "import numpy as np\n"
        "answers = []\n"
        "def closeness(model):\n"
        "    answers.append(np.stack([model(np.load(f's/{i:02}.npy'))[0] for i in range(4)]))\n"
        "    return -float(np.abs(answers[-1] - answers[0]).max())\n"
        "def broken(model):\n"
        "    return 1 / 0\n"
    )
    return tmp_path


QUANTIZE = ["quantize", "m.onnx", "--data", "s", "-o", "q.onnx"]


def sqnr_of(output):
    return float(re.search(r"target +([\d.]+) dB", output)[1])


def test_a_target_is_reached_and_told(run, folder):
    plain = run(*QUANTIZE, "--target-sqnr", "1")
    assert "met with nothing more in float (1 model run)" in plain.stdout
    target = sqnr_of(plain.stdout) + 1
    result = run(*QUANTIZE, "--force", "--target-sqnr", str(target))
    assert result.exit_code == 0, result.output
    assert sqnr_of(result.stdout) >= target - 0.05
    assert re.search(r"with \d of 4 operations in float \(\d+ models run\)", result.stdout)
    assert re.search(r"^ +0 in float: [\d.]+ dB, [\d.]+ (kB|bytes)$", result.stdout, re.MULTILINE)
    assert len(re.findall(r"^ +[1-4] in float: .* \(this model\)$", result.stdout, re.MULTILINE)) == 1
    assert "to reach the target" in result.stdout
    again = re.search(r"again +(--leave-in-float .*)", result.stdout)[1].split()
    assert run(*QUANTIZE, "--force", *again).exit_code == 0


def test_the_best_within_a_limit(run, folder):
    plain = run(*QUANTIZE, "--most-in-float", "0")
    assert "0 in float" not in plain.stdout
    result = run(*QUANTIZE, "--force", "--most-in-float", "1")
    assert result.exit_code == 0, result.output
    assert sqnr_of(result.stdout) > sqnr_of(plain.stdout)
    assert "with 1 of 4 operations in float" in result.stdout
    assert "where that gains most" in result.stdout


def test_latency_is_told_when_asked_for(run, folder, monkeypatch):
    monkeypatch.setattr("calibrant.precision.latency.SECONDS", 0.01)
    plain = run(*QUANTIZE, "--target-sqnr", "1")
    assert "in float: " not in plain.stdout
    result = run(*QUANTIZE, "--force", "--target-sqnr", "1", "--measure-latency")
    assert re.search(r"^ +0 in float: [\d.]+ dB, [\d.]+ (kB|bytes), [\d.]+ ms \(this model\)$", result.stdout, re.M)
    assert re.search(r"^ +the float model: [\d.]+ ms$", result.stdout, re.MULTILINE)


def test_a_metric(run, folder):
    result = run(*QUANTIZE, "--max-drop", "1000", "--metric", "own_metrics:closeness")
    assert result.exit_code == 0, result.output
    assert re.search(r"metric -[\d.]+ \(float model 0\): met with nothing", result.stdout)


def test_out_of_reach_writes_nothing(run, folder):
    result = run(*QUANTIZE, "--target-sqnr", "190")
    assert result.exit_code == 1
    assert re.search(r"error: the target, 190 dB .* is out of reach .* the best of \d models has", result.stderr)
    assert not (folder / "q.onnx").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--max-drop", "1"], 2, "give `metric` as well (--metric)"),
        (["--metric", "own_metrics:closeness"], 2, "set max_drop (--max-drop)"),
        (["--max-drop", "-1", "--metric", "own_metrics:closeness"], 2, "'-1' is not a drop, 0 or more"),
        (["--max-drop", "1", "--metric", "own_metrics:closenes"], 1, "did you mean 'closeness'"),
        (["--max-drop", "1", "--metric", "own_metrics:broken"], 1, "the metric raised ZeroDivisionError"),
        (["--target-sqnr", "high"], 2, "'high' is not a number of dB"),
        (["--most-in-float", "-1"], 2, "'-1' is not a whole number from 0"),
        (["--measure-latency"], 2, "of the models on the way to a target: give one (--target-sqnr)"),
        (["--measure-latency", "--target-sqnr", "9", "-p", "TRT_INT8"], 2, "does not run a model made for TRT_INT8"),
    ],
)
def test_wrong_targets(run, folder, options, code, words):
    result = run(*QUANTIZE, *options)
    assert (result.exit_code, words in result.stderr) == (code, True), result.stderr
    assert not (folder / "q.onnx").exists()


def test_a_target_needs_samples(run, folder):
    assert run("calibrate", "m.onnx", "--data", "s", "-o", "t").exit_code == 0
    result = run("quantize", "m.onnx", "--table", "t", "-o", "q.onnx", "--target-sqnr", "20")
    assert result.exit_code == 2
    assert "--data is missing" in result.stderr
    assert (
        run("quantize", "m.onnx", "--table", "t", "-o", "q.onnx", "--target-sqnr", "20", "--data", "s").exit_code == 0
    )


def test_the_worst_layers(run, folder):
    result = run(*QUANTIZE, "--analyse")
    assert result.exit_code == 0, result.output
    table = result.stdout[result.stdout.index("What hurts most: SQNR in dB on 8 samples") :].splitlines()
    rows = [line.split() for line in table[3:] if line]
    assert {row[0] for row in rows} == {"conv", "pool", "flatten", "fc"}
    numbers = [float(row[2]) for row in rows if row[2] != "exact"]
    assert numbers == sorted(numbers)
