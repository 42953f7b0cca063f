"""`calibrant compare`, from the outside."""

import csv
import io
import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from calibrant.advice import Advice
from calibrant.analysis import Comparison, Difference, LayerError, LayerErrors
from calibrant.cli.app import app
from calibrant.cli.compared import Compared
from calibrant.cli.console import Console
from calibrant.cli.reading import Reading
from calibrant.core import TargetPlatform
from tests.analysis.networks import plain_network, quantized_by, random_samples

SAMPLES = random_samples(10)

LABELS = """
import numpy as np

def labelled():
    for number in range(10):
        yield np.load(f"samples/{number}.npy"), number % 3

def forever():
    while True:
        yield np.load("samples/0.npy")

def tell(outputs, about):
    assert [one.shape for one in outputs] == [(1, 6)]
    return about

def wrong(outputs, about):
    return outputs["y"]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A damaged model, what onnxruntime makes of it, samples, and a module."""
    folder = tmp_path_factory.mktemp("compare")
    onnx.save(plain_network(), folder / "model.onnx")
    quantized_by("qdq", folder / "model.onnx", SAMPLES, folder / "int8.onnx")
    (folder / "samples").mkdir()
    for number, sample in enumerate(SAMPLES):
        np.save(folder / "samples" / f"{number}.npy", sample)
    (folder / "mine.py").write_text(LABELS)
    narrow = plain_network()
    narrow.graph.input[0].type.tensor_type.shape.dim[-1].dim_value = 3
    onnx.save(narrow, folder / "narrow.onnx")
    return folder


@pytest.fixture
def folder(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.delitem(__import__("sys").modules, "mine", raising=False)
    return place


def run(*words, command="compare"):
    return CliRunner().invoke(app, [command, *words], prog_name="calibrant")


PAIR = ("model.onnx", "int8.onnx", "--data", "samples")


def test_it_names_the_damaged_layer_and_a_line_that_mends_it(folder, tmp_path):
    done = run(*PAIR)
    assert done.exit_code == 0, done.output
    for words in ("SQNR of the output", "same largest value", "of 10)", "10 samples", "model.onnx", "int8.onnx", "ms"):
        assert words in done.output
    assert "The error comes first of all from conv2 (Conv+Relu)" in done.output
    rows = done.output[done.output.index("LAYER ") :].splitlines()
    assert rows[1].split()[:3] == ["conv2", "3", "Conv+Relu"]
    line = next(line for line in done.output.splitlines() if "calibrant quantize" in line)
    promised, gain = float(line.split()[0]), float(line.split()[2])
    assert gain > 15
    words = shlex.split(line[line.index("calibrant quantize") :])[2:]
    assert words[words.index("--leave-in-float") + 1] == "conv2"
    words[words.index("--output") + 1] = str(tmp_path / "mended.onnx")
    assert run(*words, command="quantize").exit_code == 0
    found = json.loads(
        run("model.onnx", str(tmp_path / "mended.onnx"), "--data", "samples", "--json", "--no-fixes").stdout
    )
    assert found["measured_sqnr_db"] == pytest.approx(promised, abs=0.1)
    assert found["worst"][0] != "conv2"


def test_json_says_everything(folder):
    found = json.loads(run(*PAIR, "--json").stdout)
    assert found["worst"][0] == "conv2"
    layers = {layer["layer"]: layer for layer in found["layers"]}
    assert [layer["number"] for layer in found["layers"]] == list(range(1, len(layers) + 1))
    assert layers["conv2"]["alone"]["sqnr_db"] < 5 < layers["conv2"]["own"]["sqnr_db"]
    assert layers["conv2"]["restored_sqnr_db"] > found["measured_sqnr_db"] + 15
    assert found["outputs"]["y"]["rows"] == 10
    assert found["models"]["model.onnx"]["bytes"] == (folder / "model.onnx").stat().st_size
    assert found["fixes"][0]["command"].startswith("calibrant quantize model.onnx --data samples ")
    assert found["fixes"][0]["gain_db"] > 15
    best = found["fixes"][0]
    assert best["sqnr_db"] - found["fixes_base_sqnr_db"] == pytest.approx(best["gain_db"])


def test_csv_has_a_row_for_each_layer(folder):
    rows = list(csv.DictReader(io.StringIO(run(*PAIR, "--csv", "--no-fixes").stdout)))
    assert [row["layer"] for row in rows] == ["x", "conv1", "conv2", "conv3", "pool", "fc"]
    assert [row["value"] for row in rows][:3] == ["x", "r1", "r2"]
    assert 30 < float(rows[1]["own_sqnr_db"]) < 60
    assert all(0.9 < float(row["own_cosine"]) <= 1 for row in rows)


def test_less_may_be_asked_for(folder):
    outputs = run(*PAIR, "--no-layers").output
    assert "SQNR of the output" in outputs
    assert "LAYER" not in outputs
    layers = run(*PAIR, "--no-fixes").output
    assert "LAYER" in layers
    assert "calibrant quantize" not in layers


@pytest.mark.parametrize(("data", "mean"), [("samples", 4.5), ("mine:labelled", 0.9)])
def test_a_metric_is_given_the_label_or_else_the_number(data, mean, folder):
    done = run("model.onnx", "int8.onnx", "--data", data, "--metric", "mine:tell", "--no-layers", "--json")
    found = json.loads(done.stdout)
    assert [one["metric"] for one in found["models"].values()] == [mean, mean]


def test_a_function_may_go_on_for_ever(folder):
    done = run("model.onnx", "int8.onnx", "--data", "mine:forever", "--samples", "3", "--no-layers")
    assert "3 samples" in done.output


def test_equal_models(folder):
    done = run("model.onnx", "model.onnx", "--data", "samples", "--samples", "2")
    assert "make the same of these samples" in done.output
    assert "exact dB" not in done.output
    assert "No fixes were tried: no layer differs." in done.output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["model.onnx", "gone.onnx", "--data", "samples"], 1, "gone.onnx"),
        (["model.onnx", "int.onnx", "--data", "samples"], 1, "did you mean 'int8.onnx'"),
        (["modle.onnx", "int8.onnx", "--data", "samples"], 1, "did you mean 'model.onnx'"),
        (["model.onnx", "samples", "--data", "samples"], 1, "is a folder"),
        (["model.onnx", "mine.py", "--data", "samples"], 1, "mine.py is not an ONNX model"),
        (
            ["model.onnx", "narrow.onnx", "--data", "samples"],
            1,
            "the models take different samples: model.onnx",
        ),
        (["model.onnx", "int8.onnx"], 2, "--data is missing"),
        (["model.onnx", "int8.onnx", "--data", "nowhere"], 1, "nowhere"),
        (["model.onnx", "int8.onnx", "--data", "mine:labels"], 1, "did you mean 'labelled'"),
        ([*PAIR, "--metric", "mine:tells"], 1, "did you mean 'tell'"),
        ([*PAIR, "--metric", "mine:wrong"], 1, "the metric 'mine:wrong' raised TypeError"),
        ([*PAIR, "--metric", "mine:labelled"], 1, "takes (), and is called with (outputs, about) here"),
        ([*PAIR, "--metric", "mine"], 2, "'mine' is not of the form package.module:function"),
        ([*PAIR, "--json", "--csv"], 2, "--json contradicts --csv"),
        ([*PAIR, "--csv", "--no-layers"], 2, "contradicts --no-layers"),
    ],
)
def test_what_it_refuses(words, code, says, folder):
    done = run(*words)
    assert done.exit_code == code, done.output
    assert says in done.output
    assert "Traceback" not in done.output


def test_the_float_model_comes_first(folder):
    swapped = run("int8.onnx", "model.onnx", "--data", "samples", "--samples", "1", "--no-layers")
    assert swapped.stderr.startswith("warning: 'int8.onnx' is quantized and 'model.onnx' is not: the float model comes")
    for pair in (("model.onnx", "int8.onnx"), ("int8.onnx", "int8.onnx")):
        assert "comes first" not in run(*pair, "--data", "samples", "--samples", "1", "--no-layers").stderr


def test_quiet_is_quiet(folder):
    words = ("model.onnx", "int8.onnx", "--data", "samples", "--samples", "1", "--no-layers", "--quiet")
    assert run(*words).output == ""
    assert json.loads(run(*words, "--json").stdout)["samples"] == 1


@pytest.mark.parametrize(("restored", "said"), [(48.0, False), (49.0, False), (50.0, True), (np.inf, True)])
def test_only_what_is_gained_is_said_of_a_layer_in_float(restored, said, capsys):
    alone = Difference()
    alone.add(np.ones(4, np.float32), np.full(4, 0.99, np.float32))
    layers = LayerErrors([LayerError("conv", "Conv", "r", alone=alone, restored_db=restored)], base_db=49.0)
    advice = Advice(Comparison(samples=1, layers=layers), TargetPlatform.ONNXRUNTIME)
    Compared(Path("model.onnx"), Path("int8.onnx"), Reading(), advice, fixes=False).show(Console())
    assert ("it alone in float" in capsys.readouterr().out) == said
