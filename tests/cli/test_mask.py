"""`--mask`: padded positions do not count, and what is no mask is refused."""

import json

import numpy as np
import onnx
import pytest

from calibrant import CalibrationTable, QuantizationSetting, api
from tests.engines.transformers import encoder, padded

FAILED, USAGE = 1, 2


@pytest.fixture
def texts(here):
    """A transformer and, for it, 24 samples padded to one length."""
    onnx.save(encoder(), here / "model.onnx")
    lengths = np.random.default_rng(2).integers(1, 9, 24)
    np.savez(here / "texts.npz", **padded(lengths, 8))
    return here


def quantize(texts, *args, output="out.onnx"):
    return texts.run("quantize", "model.onnx", "--data", "texts.npz", "--output", output, *args)


def calibrate(texts, *args, output="a.table"):
    return texts.run("calibrate", "model.onnx", "--data", "texts.npz", "--output", output, *args)


def test_the_table_is_the_one_that_python_makes(texts):
    result = calibrate(texts, "--mask", "mask", "--batch-size", "6")
    assert result.exit_code == 0, result.output
    setting = QuantizationSetting()
    setting.quantize_activation_setting.mask = "mask"
    arrays = np.load(texts / "texts.npz")
    batches = [{name: arrays[name][i : i + 6] for name in arrays} for i in range(0, 24, 6)]
    api.calibrate(texts / "model.onnx", batches, setting=setting).save(texts / "b.table")
    assert (texts / "a.table").read_bytes() == (texts / "b.table").read_bytes()


def test_the_size_of_batches_makes_no_difference(texts):
    for size in ("1", "6", "24"):
        assert calibrate(texts, "--mask", "mask", "--batch-size", size, output=f"{size}.table").exit_code == 0
    one, six, all_ = (CalibrationTable.load(texts / f"{size}.table") for size in (1, 6, 24))
    assert one.sketches == six.sketches == all_.sketches


def test_from_samples_or_from_a_table(texts):
    assert calibrate(texts, "--mask", "mask").exit_code == 0
    assert quantize(texts, "--mask", "mask", "--method", "kl").exit_code == 0
    args = ("quantize", "model.onnx", "--method", "kl", "--mask", "mask", "--table", "a.table", "--output", "b.onnx")
    assert texts.run(*args).exit_code == 0
    assert (texts / "out.onnx").read_bytes() == (texts / "b.onnx").read_bytes()
    assert quantize(texts, "--method", "kl", output="c.onnx").exit_code == 0
    assert (texts / "out.onnx").read_bytes() != (texts / "c.onnx").read_bytes()


def test_summaries_name_the_mask(texts):
    assert "padded positions do not count ('mask')" in calibrate(texts, "--mask", "mask").stdout
    assert "padded positions do not count ('mask')" in quantize(texts, "--mask", "mask").stdout
    assert "padded positions do not count ('mask')" in texts.run("inspect", "a.table").stdout
    assert "do not count" not in quantize(texts, "--force").stdout


def test_tables_of_other_masks_do_not_merge(texts):
    assert calibrate(texts, "--mask", "mask").exit_code == 0
    assert calibrate(texts, output="b.table").exit_code == 0
    texts.check_refused(texts.run("merge", "a.table", "b.table", "-o", "c.table"), FAILED, "mask", "(none)")
    refused = texts.run("quantize", "model.onnx", "--table", "b.table", "--mask", "mask", "--output", "c.onnx")
    texts.check_refused(refused, FAILED, "b.table", "collected with the mask (none)", "collect it with that one")


def test_a_batch_is_not_called_a_sample(texts):
    arrays = dict(np.load(texts / "texts.npz"))
    arrays["mask"][7] = 0
    np.savez(texts / "texts.npz", **arrays)
    for size, words in (
        ("1", "sample 8, mask 'mask': nothing is left"),
        ("6", "batch 2, mask 'mask': nothing is left"),
    ):
        refused = calibrate(texts, "--mask", "mask", "--batch-size", size)
        texts.check_refused(refused, FAILED, words, "the last one read: sample")


def test_what_is_no_mask_is_refused(texts):
    texts.check_refused(quantize(texts, "--mask", "maks"), USAGE, "unknown input 'maks'; did you mean 'mask'?")
    texts.check_refused(quantize(texts, "--mask", "ids"), FAILED, "mask 'ids': expected 1 where a position counts")
    texts.check_refused(quantize(texts, "--weights-only", "--mask", "mask"), USAGE, "--mask is about activations")
    assert not (texts / "out.onnx").exists()


def test_an_empty_sample_is_named(texts):
    arrays = dict(np.load(texts / "texts.npz"))
    arrays["mask"][4] = 0
    np.savez(texts / "texts.npz", **arrays)
    texts.check_refused(quantize(texts, "--mask", "mask"), FAILED, "sample 5, mask", "row 0 of 1", "leave the row out")


def compare(texts, *args):
    return texts.run("compare", "model.onnx", "out.onnx", "--data", "texts.npz", "--batch-size", "6", *args)


def test_compared_alone_without_padding(texts):
    assert quantize(texts, "--mask", "mask").exit_code == 0
    arrays = np.load(texts / "texts.npz")
    (texts / "alone").mkdir()
    for number, length in enumerate(arrays["mask"].sum(axis=1)):
        np.savez(texts / "alone" / f"{number:02}.npz", **{n: arrays[n][number : number + 1, :length] for n in arrays})
    masked = compare(texts, "--mask", "mask", "--no-layers", "--json")
    alone = texts.run("compare", "model.onnx", "out.onnx", "--data", "alone", "--no-layers", "--json")
    assert masked.exit_code == alone.exit_code == 0, masked.output
    found, expected = (json.loads(result.stdout)["outputs"] for result in (masked, alone))
    assert found == expected
    assert found != json.loads(compare(texts, "--no-layers", "--json").stdout)["outputs"]


def test_what_would_help_names_the_mask(texts):
    assert quantize(texts, "--mask", "mask", "--bits", "4").exit_code == 0
    result = compare(texts, "--mask", "mask")
    assert result.exit_code == 0, result.output
    assert "--batch-size 6 --mask mask" in " ".join(result.stdout.split())


def test_what_cannot_be_compared_without_padding_is_refused(texts):
    assert quantize(texts).exit_code == 0
    texts.check_refused(compare(texts, "--mask", "maks"), USAGE, "unknown input 'maks'; did you mean 'mask'?")
    texts.check_refused(compare(texts, "--mask", "mask", "--metric", "a:b"), USAGE, "--metric", "leave one out")
    arrays = dict(np.load(texts / "texts.npz"))
    arrays["mask"] = arrays["mask"][:, ::-1]
    np.savez(texts / "texts.npz", **arrays)
    texts.check_refused(compare(texts, "--mask", "mask"), FAILED, "padding stands elsewhere than at the end")
