"""Every bad input gets one clear line and its exit code, and leaves nothing behind."""

import os
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

FAILED, USAGE, INTERRUPTED = 1, 2, 130


@pytest.fixture(autouse=True)
def nothing_is_left_behind(here):
    yield
    assert "out.onnx" not in here.files()
    assert not [name for name in here.files() if "calibrant" in name or name.endswith(".tmp")]


# The model


def test_missing_model(here):
    here.check_refused(
        here.quantize(model="modle.onnx"), FAILED, "'modle.onnx' does not exist", "did you mean 'model.onnx'?"
    )


def test_model_in_a_missing_folder(here):
    here.check_refused(
        here.quantize(model="foto/model.onnx"), FAILED, "there is no folder 'foto'", "did you mean 'photos'?"
    )


def test_model_that_is_a_folder(here):
    here.check_refused(here.quantize(model="."), FAILED, "is a folder", "'model.onnx'")


@pytest.mark.parametrize("content", [b"", b"this is text", b"\x08\x08\x12\x07pytorch"])
def test_a_file_that_is_no_model(here, content):
    (here / "bad.onnx").write_bytes(content)
    here.check_refused(here.quantize(model="bad.onnx"), FAILED, "bad.onnx")


def test_damaged_model(here):
    (here / "cut.onnx").write_bytes((here / "model.onnx").read_bytes()[:-200])
    here.check_refused(here.quantize(model="cut.onnx"), FAILED, "cut.onnx", "damaged")


def test_model_of_another_framework(here):
    (here / "net.pt").touch()
    here.check_refused(here.quantize(model="net.pt"), FAILED, "not an ONNX file", "torch.onnx.export")


def test_model_that_onnxruntime_cannot_run(here):
    here.save("odd.onnx", "odd")
    np.save(here / "a.npy", np.ones((2, 4), np.float32))
    here.check_refused(here.quantize(model="odd.onnx", data="a.npy"), FAILED, "NoSuchOp")


def test_model_without_anything_to_quantize(here):
    here.save("float.onnx", "float")
    np.save(here / "a.npy", np.ones((2, 4), np.float32))
    here.check_refused(
        here.quantize(model="float.onnx", data="a.npy"), FAILED, "nothing in the model is quantized", "Softmax"
    )


def test_model_that_is_quantized_already(here):
    assert here.quantize("--samples", "2", output="int8.onnx").exit_code == 0
    here.check_refused(here.quantize(model="int8.onnx"), FAILED, "quantized already")


# The samples


def test_missing_data(here):
    here.check_refused(here.quantize(data="photo"), FAILED, "'photo' does not exist", "did you mean 'photos'?")


def test_empty_folder(here):
    (here / "empty").mkdir()
    here.check_refused(
        here.quantize(data="empty"), FAILED, "'empty' is empty", "expected images, .npy, .npz or .parquet"
    )


def test_folder_without_samples(here):
    (here / "texts").mkdir()
    (here / "texts" / "a.txt").touch()
    here.check_refused(here.quantize(data="texts"), FAILED, "'texts' holds no images", ".txt")


def test_unreadable_image(here):
    (here / "photos" / "03.png").write_text("no image")
    result = here.quantize()
    here.check_refused(result, FAILED, os.path.join("photos", "03.png"), "cannot be read", "--skip-bad")
    assert "02.png" not in result.stderr  # the one read before it is not blamed


def test_skip_bad_goes_on_and_counts(here):
    (here / "photos" / "03.png").write_text("no image")
    result = here.quantize("--skip-bad", output="ok.onnx")
    assert result.exit_code == 0, result.output
    assert "15 from 'photos'; skipped, as unfit: 1" in result.stdout
    assert f"skipped: image '{os.path.join('photos', '03.png')}'" in result.stdout


def test_nothing_left_after_skipping(here):
    for path in (here / "photos").iterdir():
        path.write_text("no image")
    result = here.quantize("--skip-bad")
    here.check_refused(result, FAILED, "none of its 16 samples can be used")
    assert f"warning: skipped: image '{os.path.join('photos', '00.png')}'" in result.stderr


WRONG = {
    "size": (np.zeros((3, 3, 16, 17), np.float32), ("'x'", "17", "16", "float32[N, 3, 16, 16]")),
    "rank": (np.zeros((3, 16), np.float32), ("'x'", "4 dimensions", "[3, 16]")),
    "dtype": (np.zeros((3, 3, 16, 16), np.int64), ("'x'", "got int64", "expected float32")),
    "strings": (np.array(["a", "b"]), ("'x'",)),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_shape_or_dtype(here, what):
    array, words = WRONG[what]
    np.save(here / "a.npy", array)
    here.check_refused(here.quantize(data="a.npy"), FAILED, *words)


def test_missing_input(here):
    here.save("two.onnx", "two")
    np.savez(here / "a.npz", ids=np.zeros((4, 6), np.int64), masks=np.zeros((4, 6), np.int64))
    here.check_refused(here.quantize(model="two.onnx", data="a.npz"), FAILED, "no key 'mask'", "'masks'", "ids, mask")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_or_inf_in_a_sample_names_the_file(here, value):
    (here / "arrays").mkdir()
    for i in range(3):
        x = np.ones((1, 3, 16, 16), np.float32)
        x.flat[:7] = value if i == 1 else 1
        np.save(here / "arrays" / f"{i}.npy", x)
    counts = "(7 NaN, 0 Inf)" if np.isnan(value) else "(0 NaN, 7 Inf)"
    path = os.path.join("arrays", "1.npy")
    here.check_refused(
        here.quantize(data="arrays"), FAILED, f"'{path}', input 'x': 7 of 768", counts, "ignore_nonfinite", "--skip-bad"
    )
    batched = here.quantize("--batch-size", "3", data="arrays")
    here.check_refused(batched, FAILED, f"'{path}', input 'x': 7 of 768", counts)


def test_skip_bad_leaves_out_what_does_not_fit_as_well(here):
    (here / "arrays").mkdir()
    rng = np.random.default_rng(0)
    kinds = {1: np.full((1, 3, 16, 16), np.nan, np.float32), 4: np.ones((1, 3, 16, 17), np.float32)}
    kinds |= {6: np.ones((3, 16), np.float32), 8: np.ones((1, 3, 16, 16), np.int32)}
    for i in range(20):
        np.save(here / "arrays" / f"{i:02}.npy", kinds.get(i, rng.normal(size=(1, 3, 16, 16)).astype(np.float32)))
    for extra in ([], ["--batch-size", "4"]):
        result = here.quantize("--skip-bad", "--force", *extra, data="arrays", output="ok.onnx")
        assert result.exit_code == 0, result.output
        assert "16 from 'arrays'; skipped, as unfit: 4" in result.stdout
        for i, words in {1: "768 NaN", 4: "got 17 on axis 3", 6: "takes 4 dimensions", 8: "got int32"}.items():
            lines = [line for line in result.stdout.splitlines() if os.path.join("arrays", f"{i:02}.npy") in line]
            assert len(lines) == 1
            assert words in lines[0]


@pytest.mark.parametrize(("value", "words"), [(-1, "NaN"), (0, "Inf")])
def test_nan_or_inf_in_an_activation(here, value, words):
    here.save("log.onnx", "log")
    x = np.ones((20, 4), np.float32)
    x.flat[:5] = value
    np.save(here / "a.npy", x)
    here.check_refused(here.quantize(model="log.onnx", data="a.npy"), FAILED, "'logs'", "5", words)
    result = here.quantize("--ignore-nonfinite", model="log.onnx", data="a.npy", output="ok.onnx")
    assert result.exit_code == 0, result.output


def test_zero_samples(here):
    np.save(here / "a.npy", np.zeros((0, 3, 16, 16), np.float32))
    here.check_refused(here.quantize(data="a.npy"), FAILED, "'a.npy' holds no samples")
    (here / "no_samples_for_the_command.py").write_text("def none():\n    return []\n")
    here.check_refused(here.quantize(data="no_samples_for_the_command:none"), FAILED, "gave no samples")
    here.check_refused(here.quantize("--samples", "0"), USAGE, "--samples", "'0'")


def test_a_function_that_fails(here):
    (here / "bad_samples_for_the_command.py").write_text("def bad():\n    return 1 / 0\n")
    words = ("raised ZeroDivisionError", "bad_samples_for_the_command.py, line 2")
    here.check_refused(here.quantize(data="bad_samples_for_the_command:bad"), FAILED, *words)
    here.check_refused(here.quantize(data="bad_samples_for_the_command:bed"), FAILED, "did you mean 'bad'?")


# Names


MISTYPED = {
    "command": (["quantise", "model.onnx"], "did you mean 'quantize'?"),
    "no command": (["model.onnx"], "did you mean 'calibrant quantize model.onnx'?"),
    "option": (["quantize", "model.onnx", "--metod", "kl"], "unknown option '--metod'; did you mean '--method'?"),
    "method": (["quantize", "model.onnx", "--method", "percentil"], "did you mean 'percentile'?"),
    "platform": (["quantize", "model.onnx", "--platform", "openvin"], "did you mean 'OPENVINO_INT8'?"),
    "choice": (["quantize", "model.onnx", "--color", "rbg"], "unknown color 'rbg'; did you mean 'rgb'?"),
    "number": (["quantize", "model.onnx", "--bits", "17"], "'17' is not a whole number from 2 to 16"),
    "size": (["quantize", "model.onnx", "--resize", "big"], "'big' is neither N"),
    "per cent": (["quantize", "model.onnx", "--percentile", "99.9"], "write 0.999"),
    "memory": (["quantize", "model.onnx", "--memory-budget", "lots"], "512MB"),
    "provider": (["quantize", "model.onnx", "--provider", "cpuu"], "unknown execution provider 'cpuu'"),
    "pattern": (["quantize", "model.onnx", "-d", *(f"photos/0{i}.png" for i in range(3))], "itself: --data 'photos'"),
    "empty option": (["quantize", "model.onnx", "--setting", ""], "--setting is empty"),
    "empty option, with =": (["quantize", "model.onnx", "--table="], "--table is empty"),
    "empty argument": (["quantize", ""], "an argument is empty"),
    "override": (["quantize", "model.onnx", "--override", "x"], "not of the form"),
    "override key": (["quantize", "model.onnx", "--override", "x:bit=4"], "did you mean 'bits'?"),
    "override method": (["quantize", "model.onnx", "--override", "x:method=mze"], "did you mean 'mse'?"),
    "override of nothing": (["quantize", "model.onnx", "--override", "xx:bits=4"], "'xx'"),
    "layer": (["quantize", "model.onnx", "--leave-in-float", "Gem"], "'Gem'"),
    "only layer": (["quantize", "model.onnx", "--only", "fcc"], "'fcc'"),
    "setting file": (["quantize", "model.onnx", "--setting", "seting.json"], "did you mean 'setting.json'?"),
    "setting key": (["quantize", "model.onnx", "--setting", "setting.json"], "did you mean 'leave_in_float'?"),
    "setting text": (["quantize", "model.onnx", "--setting", "model.onnx"], "setting"),
    "no output": (["quantize", "model.onnx", "--data", "photos"], "--output is missing"),
    "no data": (["quantize", "model.onnx", "--output", "out.onnx"], "--data is missing"),
    "idle percentile": (["quantize", "model.onnx", "--percentile", "0.9", "-m", "mse"], "add --method percentile"),
    "idle method": (["quantize", "model.onnx", "--weights-only", "--method", "kl"], "--weights-only"),
    "quiet and verbose": (["quantize", "model.onnx", "--quiet", "--verbose"], "contradicts"),
}


@pytest.mark.parametrize("case", MISTYPED)
def test_mistyped(here, case):
    (here / "setting.json").write_text('{"leave_in_flaot": []}')
    args, words = MISTYPED[case]
    if case not in ("command", "no command", "no output", "no data"):
        args = [*args[:2], "--data", "photos", "--output", "out.onnx", *args[2:]]
    here.check_refused(here.run(*args), USAGE, words)


def test_image_options_for_arrays(here):
    np.save(here / "a.npy", np.zeros((2, 3, 16, 16), np.float32))
    here.check_refused(here.quantize("--mean", "127", data="a.npy"), USAGE, "--mean", "are for images")


# The output


def test_existing_output(here):
    here.check_refused(here.quantize(output="model.onnx"), FAILED, "is the model itself")
    (here / "there.onnx").touch()
    here.check_refused(here.quantize(output="there.onnx"), FAILED, "'there.onnx' exists already", "--force")


def test_existing_file_beside_the_output(here):
    (here / "out.json").touch()
    here.check_refused(here.quantize("--platform", "ppl_cuda"), FAILED, "'out.json' exists already", "--force")


def test_what_the_command_reads_is_not_written_over_whatever_force_says(here):
    before = (here / "photos" / "03.png").read_bytes()
    here.check_refused(here.quantize("--force", output="photos/03.png"), FAILED, "lies in 'photos'", "read by this")
    assert (here / "photos" / "03.png").read_bytes() == before
    (here / "own.json").write_text("{}")
    written = here.quantize("--force", "--setting", "own.json", output="own.json")
    here.check_refused(written, FAILED, "'own.json' is read by this very command")
    assert (here / "own.json").read_text() == "{}"


def test_an_error_of_the_measure_of_ones_own_names_no_sample(here):
    (here / "own.py").write_text("def broken(model):\n    return 1 / 0\n")
    result = here.quantize("--max-drop", "1", "--metric", "own:broken")
    here.check_refused(result, FAILED, "the metric raised ZeroDivisionError")
    assert "last one read" not in result.output


def test_a_measure_of_ones_own_takes_the_model(here):
    (here / "measures.py").write_text("def of_outputs(outputs, label):\n    return 1\n")
    wrong = here.quantize("--max-drop", "1", "--metric", "measures:of_outputs")
    here.check_refused(wrong, FAILED, "'measures:of_outputs' takes (outputs, label), and is called with (model) here")
    unnamed = here.quantize("--max-drop", "1", "--metric", "measures")
    here.check_refused(unnamed, USAGE, "'measures' is not of the form package.module:function")


def test_output_folder_missing(here):
    here.check_refused(
        here.quantize(output="photoss/out.onnx"), FAILED, "'photoss' does not exist", "did you mean 'photos'?"
    )


def test_output_that_is_a_folder(here):
    here.check_refused(here.quantize(output="photos"), FAILED, "is a folder")


def test_output_below_a_file(here):
    here.check_refused(here.quantize(output="model.onnx/out.onnx"), FAILED, "'model.onnx' is a file")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_output_not_writable(here):
    here.check_refused(here.quantize(output="/proc/self/out.onnx"), FAILED, "cannot write", "/proc/self/out.onnx")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_permission(here):
    (here / "locked").mkdir(mode=0o555)
    here.check_refused(here.quantize(output="locked/out.onnx"), FAILED, "cannot write", "ermission")


def test_the_output_is_checked_before_the_work(here, monkeypatch):
    monkeypatch.setattr("calibrant.cli.job.load_onnx_graph", lambda path: pytest.fail("the work has started"))
    here.check_refused(here.quantize(output="photos"), FAILED, "is a folder")


# Errors of our own


def test_an_unexpected_error_is_one_line_and_debug_shows_where(here, monkeypatch):
    def broken(*args, **more):
        raise RuntimeError("a bug [of ours]\nin two lines")

    monkeypatch.setattr("calibrant.cli.job.quantize", broken)
    here.check_refused(here.quantize(), FAILED, "RuntimeError: a bug [of ours]", "--debug")
    result = here.quantize("--debug")
    assert result.exit_code == FAILED
    assert "Traceback" in result.stderr
    assert "in broken" in result.stderr


@pytest.mark.parametrize("moment", ["calibrating", "writing", "renaming"])
def test_interrupted_in_process(here, monkeypatch, moment):
    def interrupted(*args, **more):
        raise KeyboardInterrupt

    target = {"calibrating": "calibrant.cli.job.quantize", "writing": "onnx_ir.save", "renaming": "os.replace"}[moment]
    monkeypatch.setattr(target, interrupted)
    here.check_refused(here.quantize("--samples", "2"), INTERRUPTED, "interrupted", "nothing was written")


def test_models_of_this_file_are_sound(here):
    for name in ("conv", "log", "two"):
        here.save("m.onnx", name)
        onnx.checker.check_model(str(here / "m.onnx"), full_check=True)
