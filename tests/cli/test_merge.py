"""`calibrant merge`: the table of all samples, whatever the parts and their order; what does not fit is named."""

import numpy as np
import pytest

FAILED, USAGE = 1, 2


def calibrate(here, data, output, *args, model="model.onnx"):
    result = here.run("calibrate", model, "--data", data, "--output", output, "--force", *args)
    assert result.exit_code == 0, result.output


@pytest.fixture
def parts(here):
    """Tables of seven unequal parts of 30 samples, and whole.table of them all."""
    rows = np.random.default_rng(5).normal(size=(30, 3, 16, 16)).astype(np.float32)
    names = []
    for number, part in enumerate(np.split(rows, [1, 3, 8, 9, 17, 26])):
        np.save(here / "part.npy", part)
        names.append(f"{number}.table")
        calibrate(here, "part.npy", names[-1])
    np.save(here / "whole.npy", rows)
    calibrate(here, "whole.npy", "whole.table")
    return names


def merge(here, *names, output="merged.table"):
    return here.run("merge", *names, "--output", output)


def test_any_number_in_any_order(here, parts):
    whole = (here / "whole.table").read_bytes()
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(parts)
        result = merge(here, *order, "--force")
        assert result.exit_code == 0, result.output
        assert (here / "merged.table").read_bytes() == whole
    assert "7 tables merged" in result.stdout
    assert "30 samples" in result.stdout
    assert merge(here, *parts[:3], output="first.table").exit_code == 0
    assert merge(here, "first.table", *parts[3:], "--force").exit_code == 0
    assert (here / "merged.table").read_bytes() == whole


def test_one_table_is_copied_and_few_samples_are_warned_about(here, parts):
    result = merge(here, "0.table")
    assert (here / "merged.table").read_bytes() == (here / "0.table").read_bytes()
    assert "warning: few samples to calibrate on: 1" in result.stderr
    assert merge(here, "0.table", "--force", "--quiet").output == ""


def test_a_table_may_grow_in_place_with_force_only(here, parts):
    before = (here / "0.table").read_bytes()
    here.check_refused(merge(here, "0.table", "1.table", output="0.table"), FAILED, "'0.table' exists already")
    assert (here / "0.table").read_bytes() == before
    assert merge(here, *parts, "--force", output="0.table").exit_code == 0
    assert (here / "0.table").read_bytes() == (here / "whole.table").read_bytes()


OTHERS = {
    "platform": (["--platform", "openvino"], ["platform ONNXRUNTIME and OPENVINO_INT8"]),
    "methods": (["--methods", "mse"], ["methods isotone,kl,minmax,mse,percentile and mse"]),
    "values": (["--leave-in-float", "fc"], ["only one of them has"]),
}


@pytest.mark.parametrize("what", OTHERS)
def test_tables_that_do_not_go_together(here, what):
    options, words = OTHERS[what]
    for name, more in (("a.table", []), ("b.table", []), ("c.table", options)):
        calibrate(here, "photos", name, *more)
    result = merge(here, "a.table", "b.table", "c.table")
    here.check_refused(result, FAILED, "'c.table' cannot be merged with 'a.table'", *words)
    assert "merged.table" not in here.files()


def test_tables_of_two_models(here):
    here.save("log.onnx", "log")
    np.save(here / "rows.npy", np.ones((20, 4), np.float32))
    calibrate(here, "photos", "a.table")
    calibrate(here, "rows.npy", "b.table", model="log.onnx")
    here.check_refused(merge(here, "a.table", "b.table"), FAILED, "'b.table'", "different model")


def test_what_is_no_table(here):
    calibrate(here, "photos", "a.table")
    whole = (here / "a.table").read_bytes()
    (here / "cut.table").write_bytes(whole[:-9])
    (here / "changed.table").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    here.check_refused(merge(here, "a.table", "cut.table"), FAILED, "cut.table", "damaged")
    here.check_refused(merge(here, "a.table", "changed.table"), FAILED, "changed.table", "damaged")
    here.check_refused(merge(here, "a.table", "model.onnx"), FAILED, "model.onnx is not a calibration table")
    here.check_refused(merge(here, "a.table", "b.tabel"), FAILED, "'b.tabel' does not exist", "did you mean 'a.table'?")
    here.check_refused(merge(here, "a.table", "photos"), FAILED, "photos is not a file")


def test_a_table_given_twice(here):
    calibrate(here, "photos", "a.table")
    (here / "b.table").symlink_to(here / "a.table")
    here.check_refused(merge(here, "a.table", "a.table"), USAGE, "'a.table' is given twice")
    here.check_refused(merge(here, "a.table", "b.table"), USAGE, "'a.table' and 'b.table' are one file")


def test_no_output(here):
    here.check_refused(here.run("merge", "a.table"), USAGE, "--output is missing")
