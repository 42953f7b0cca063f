"""`calibrant compare`, from the outside."""

import numpy as np
import pytest
from typer.testing import CliRunner

from calibrant.api import export_graph, quantize
from calibrant.cli.app import app


@pytest.fixture
def folder(small_model, small_samples, tmp_path):
    graph, _ = quantize(small_model, small_samples)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "q.onnx")
    (tmp_path / "samples").mkdir()
    for number, sample in enumerate(small_samples[:6]):
        np.save(tmp_path / "samples" / f"{number}.npy", sample)
    return tmp_path


def run(*words):
    return CliRunner().invoke(app, ["compare", *map(str, words)], prog_name="calibrant")


def test_it_shows_what_both_cost_and_how_far_they_are_apart(small_model, folder):
    done = run(small_model, folder / "q.onnx", "--data", folder / "samples")
    assert done.exit_code == 0, done.output
    for words in ("SQNR of the output", "dB", "same largest value", "of 6)", "6 samples", "small.onnx", "q.onnx", "ms"):
        assert words in done.output


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["model", "gone.onnx", "--data", "samples"], 1, "gone.onnx: no such file"),
        (["model", "q.onnx"], 2, "--data is missing"),
        (["model", "q.onnx", "--data", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_it_refuses(words, code, says, small_model, folder, monkeypatch):
    monkeypatch.chdir(folder)
    done = run(*(small_model if word == "model" else word for word in words))
    assert done.exit_code == code
    assert says in done.output
