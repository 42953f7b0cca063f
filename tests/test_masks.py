"""Masks on the whole road: settings, tables, checkpoints, quantizing, passes that run the model again."""

import json

import numpy as np
import onnx
import pytest

from calibrant import (
    CalibrationTable,
    OnnxruntimeExecutor,
    QuantizationSetting,
    TargetPlatform,
    export_graph,
    load_onnx_graph,
)
from calibrant.analysis import analyse
from calibrant.api import calibrate, quantize
from calibrant.core import IncompatibleSketches, ObservationError, SettingError
from calibrant.passes import BiasCorrectionPass
from calibrant.quantizers import quantize_graph
from tests.engines.transformers import encoder, padded

LENGTHS = [(5, 2, 3), (7, 1, 4), (6, 6, 2), (3, 8, 1)]
BATCHES = [padded(lengths, seed=number) for number, lengths in enumerate(LENGTHS)]
ALONE = [
    {n: a[i : i + 1, :len_] for n, a in feed.items()}
    for feed, ls in zip(BATCHES, LENGTHS, strict=True)
    for i, len_ in enumerate(ls)
]


@pytest.fixture
def model(tmp_path):
    onnx.save(encoder(), tmp_path / "encoder.onnx")
    return tmp_path / "encoder.onnx"


def setting_of(mask="mask", **more):
    setting = QuantizationSetting.from_dict(more)
    setting.quantize_activation_setting.mask = mask
    return setting


def scales(graph):
    return {group.roots[0]: (float(group.config.scale), int(group.config.offset)) for group in graph.groups}


def test_padded_batches_give_the_scales_of_each_sample_alone(model):
    padded_ones, summary = quantize(model, BATCHES, setting=setting_of())
    alone, _ = quantize(model, ALONE)
    counted, _ = quantize(model, BATCHES)
    assert scales(padded_ones) == scales(alone)
    assert scales(counted) != scales(alone)
    assert summary.samples == 12
    assert summary.notes == padded_ones.report


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse", "kl", "isotone"])
def test_every_method(model, method):
    activations = {"calib_algorithm": method}
    one, _ = quantize(model, BATCHES, setting=setting_of(quantize_activation_setting=activations))
    other, _ = quantize(model, ALONE, setting=setting_of(None, quantize_activation_setting=activations))
    assert scales(one) == scales(other)


def test_a_table_says_its_mask_and_merges_with_its_like_alone(model, tmp_path):
    whole, first, rest, plain = (
        calibrate(model, samples, setting=setting_of(mask))
        for samples, mask in ((BATCHES, "mask"), (BATCHES[:1], "mask"), (BATCHES[1:], "mask"), (BATCHES, None))
    )
    first.merge(rest).save(tmp_path / "merged")
    whole.save(tmp_path / "whole")
    assert (tmp_path / "merged").read_bytes() == (tmp_path / "whole").read_bytes()
    assert CalibrationTable.load(tmp_path / "whole").settings["mask"] == "mask"
    assert "mask" not in plain.settings
    with pytest.raises(IncompatibleSketches, match=r"different mask mask and \(none\)"):
        whole.merge(plain)


def test_a_table_serves_as_its_samples_do(model, tmp_path):
    table = calibrate(model, BATCHES, setting=setting_of())
    for name, (samples, source) in {"a.onnx": (BATCHES, None), "b.onnx": (None, table)}.items():
        graph, _ = quantize(model, samples, setting=setting_of(), table=source)
        export_graph(graph, TargetPlatform.ONNXRUNTIME, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    unsaid, _ = quantize(model, None, table=table)
    assert scales(unsaid) == scales(graph)


def test_a_table_without_the_mask_is_refused(model):
    table = calibrate(model, BATCHES)
    with pytest.raises(IncompatibleSketches, match=r"collected with the mask \(none\), and the setting names mask"):
        quantize(model, None, setting=setting_of(), table=table)


def test_a_checkpoint_of_another_mask_is_refused(model, tmp_path):
    kept = tmp_path / "part"
    calibrate(model, BATCHES, checkpoint=kept, every=1)
    with pytest.raises(IncompatibleSketches, match="checkpoint of another run"):
        calibrate(model, BATCHES, setting=setting_of(), checkpoint=kept, every=1)
    kept.unlink()
    one = calibrate(model, BATCHES, setting=setting_of(), checkpoint=kept, every=2)
    assert one.sketches == calibrate(model, BATCHES, setting=setting_of()).sketches


WITHOUT_PADDING = sorted((1, length) for lengths in LENGTHS for length in lengths)


def shapes_of(feeds):
    return sorted(feed["ids"].shape for feed in feeds)


@pytest.fixture
def seen(monkeypatch):
    """The samples that bias correction is given."""
    found = []
    layers = BiasCorrectionPass.layers

    def looking(self, graph, samples, executor):
        found.extend(samples)
        return layers(self, graph, samples, executor)

    monkeypatch.setattr(BiasCorrectionPass, "layers", looking)
    return found


def test_what_runs_the_model_again_sees_no_padding(model, seen):
    _, summary = quantize(model, BATCHES, setting=setting_of(bias_correct=True), keep=True)
    assert shapes_of(seen) == shapes_of(summary.kept) == WITHOUT_PADDING


def test_a_pass_by_itself_sees_no_padding(model, seen):
    graph, _ = quantize(model, BATCHES, setting=setting_of())
    BiasCorrectionPass().optimize(graph, BATCHES, OnnxruntimeExecutor(graph, threads=1))
    assert shapes_of(seen) == WITHOUT_PADDING


def test_what_is_measured_is_measured_without_padding(model):
    graph, _ = quantize(model, BATCHES, setting=setting_of())
    padded_ones, alone = (analyse(graph, samples, at_outputs=True) for samples in (BATCHES, ALONE))
    assert padded_ones.samples == alone.samples == 12
    assert padded_ones.outputs == alone.outputs
    assert padded_ones.operations == alone.operations
    assert analyse(graph, BATCHES, steps=4).samples == 4
    plain, _ = quantize(model, ALONE)
    assert analyse(plain, BATCHES).outputs != alone.outputs


def test_positions_of_fixed_length_are_no_channels():
    """Keys [batch, 8, 6] have as many channels as positions, were it not for the mask."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 6, 8] x, bool[N, 6] mask, float[8, 8] w) => (float[N, 6, 6] y) {
        k = MatMul(x, w) t = Transpose <perm = [0, 2, 1]> (k) y = MatMul(x, t)
    }"""
    net = onnx.parser.parse_model(text)
    rng = np.random.default_rng(8)
    net.graph.initializer.append(onnx.numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), "w"))
    del net.graph.input[2]
    mask = np.arange(6) < np.array([[2], [6], [3]])
    samples = [{"x": rng.normal(size=(3, 6, 8)).astype(np.float32), "mask": mask}]
    table = calibrate(load_onnx_graph(net), samples, setting=setting_of())
    assert {name: sketch.extremes.size for name, sketch in table.sketches.items()} == {"x": 88, "t": 88}
    assert table.sketches["t"].spec.channel_axis is None


def test_channels_as_many_as_a_fixed_sequence_is_long_are_refused_for_what_they_are():
    """What a LayerNormalization makes is equalized, for which its channels would have to be told from positions."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 8, 8] x, bool[N, 8] mask) => (float[N, 8, 4] y) {
        n = LayerNormalization(x, gamma) y = MatMul(n, w)
    }"""
    net = onnx.parser.parse_model(text)
    rng = np.random.default_rng(8)
    for name, array in {"gamma": np.exp2(np.arange(8)), "w": rng.normal(size=(8, 4))}.items():
        net.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    mask = np.arange(8) < np.array([[2], [8], [3]])
    samples = [{"x": rng.normal(size=(3, 8, 8)).astype(np.float32), "mask": mask}]
    with pytest.raises(ObservationError, match="its sequences are always 8 long, and so is something else"):
        quantize(load_onnx_graph(net), samples, setting=setting_of())


def test_auto_and_high_effort_with_a_mask(model):
    activations = {"calib_algorithm": "auto"}
    setting = setting_of(effort="high", quantize_activation_setting=activations)
    graph, summary = quantize(model, BATCHES, setting=setting)
    assert summary.values == len(graph.groups) > 0
    assert not any("padded positions" in note for note in summary.notes)


def test_a_fixed_length_says_what_still_counts(tmp_path):
    samples = [padded((2, 6), 6), padded((4, 1), 6, seed=1)]
    graph, summary = quantize(load_onnx_graph(encoder(length=6)), samples, setting=setting_of(bias_correct=True))
    alone, _ = quantize(
        load_onnx_graph(encoder()),
        [{n: a[i : i + 1, feed["mask"][i] == 1] for n, a in feed.items()} for feed in samples for i in range(2)],
    )
    assert scales(graph).keys() == scales(alone).keys()
    assert scales(graph) == scales(alone)
    assert [note for note in summary.notes if note.startswith("padded positions count")]


def test_the_setting_is_plain_data():
    setting = setting_of("attention_mask")
    assert json.loads(setting.to_json())["quantize_activation_setting"]["mask"] == "attention_mask"
    assert QuantizationSetting.from_json(setting.to_json()) == setting
    with pytest.raises(SettingError, match="mask takes str or null, got 1"):
        setting.quantize_activation_setting.mask = 1


def test_a_mask_that_is_none_is_refused_when_the_model_is_planned():
    graph = load_onnx_graph(encoder())
    with pytest.raises(SettingError, match=r"mask: unknown input 'maks'; did you mean 'mask'\?"):
        quantize_graph(graph, TargetPlatform.ONNXRUNTIME, setting_of("maks"))
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME, setting_of())
    assert graph.mask == "mask"
    quantize_graph(graph, TargetPlatform.ONNXRUNTIME)
    assert graph.mask is None
