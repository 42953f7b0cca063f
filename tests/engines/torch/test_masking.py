"""The torch engine counts what a mask chooses, as the onnxruntime engine does."""

import numpy as np
import pytest

from calibrant import TorchExecutor, load_onnx_graph
from calibrant.core import DataError
from calibrant.engines.torch import statistics
from calibrant.graph.mask import name_mask
from calibrant.sketches import SketchSpec, TensorSketch
from tests.engines.transformers import AXES, HEADS, chosen, encoder, padded
from tests.sketches.devices import interpreted, on_gpu

DEVICES = ["cpu", pytest.param("cuda", marks=on_gpu)]
HOLES = {"ids": np.arange(12).reshape(2, 6) % 11, "mask": np.int64([[1, 0, 1, 1, 0, 0], [0, 1, 1, 1, 0, 1]])}
BATCHES = [padded((5, 3, 1, 4)), padded((2, 7), seed=1), HOLES, padded((5, 3, 1, 4), seed=2, left=True)]


def masked(model):
    graph = load_onnx_graph(model, simplify=False)
    name_mask(graph, "mask")
    return graph


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", AXES)
def test_what_is_counted_is_what_the_mask_chooses(layout, device):
    axes = AXES[layout]
    executor = TorchExecutor(masked(encoder(layout, masked_with=-1e4)), device, threads=1)
    wanted = {name: SketchSpec(isotone_axis=-1) if name == "p" else SketchSpec() for name in axes}
    found = executor.collect(BATCHES, wanted)
    for name, spec in wanted.items():
        sketch = TensorSketch.empty(spec)
        for feed in BATCHES:
            for part in chosen(executor.forward(feed, [name])[0], axes[name], feed["mask"]):
                sketch = sketch.merge(TensorSketch.of(part, spec))
        assert found[name] == sketch
    assert executor.report == []


@pytest.mark.long
@interpreted
def test_the_kernels_of_the_device_count_what_is_cut(monkeypatch):
    """Cut tensors have gaps; the collectors of a GPU, in Triton's interpreter, are given them as they are."""
    from calibrant.sketches.device import DeviceCollectors

    monkeypatch.setattr(statistics, "HostStatistics", lambda wanted, threads: DeviceCollectors(wanted, "cpu"))
    samples = BATCHES[1:3]
    wanted = {
        "p": SketchSpec(mantissa_bits=3, isotone_axis=-1, channel_axis=1),
        "states": SketchSpec(mantissa_bits=3),
        "keys": SketchSpec(mantissa_bits=3, histogram=False, channel_axis=2),
    }
    graph = masked(encoder(masked_with=-1e4))
    found = TorchExecutor(graph, "cpu", threads=1).collect(samples, wanted)
    monkeypatch.undo()
    assert found == TorchExecutor(graph, "cpu", threads=1).collect(samples, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_channels_and_functions(device):
    executor, kept = TorchExecutor(masked(encoder()), device, threads=1), []
    spec = SketchSpec(channel_axis=1, per_channel=True)
    found = executor.collect(BATCHES * 2, {"p": spec}, {"p": kept.append})["p"]
    assert found.extremes.lo.shape == (HEADS,)
    assert found == sum_of(kept, spec)
    assert len(kept) == 2 * sum(len(feed["mask"]) for feed in BATCHES)


def sum_of(parts, spec):
    sketch = TensorSketch.empty(spec)
    for part in parts:
        sketch = sketch.merge(TensorSketch.of(part, spec))
    return sketch


@pytest.mark.parametrize("device", DEVICES)
def test_samples_that_come_again_are_not_captured(device):
    """A captured step would take the positions of the sample that it was captured with."""
    samples = [padded(lengths, 7, seed=n) for n, lengths in enumerate([(7, 2), (1, 3), (4, 4), (2, 7), (1, 1)])]
    executor = TorchExecutor(masked(encoder()), device, threads=1)
    found = executor.collect(samples, {"q": SketchSpec()})["q"]
    assert found.extremes.size == sum(int(feed["mask"].sum()) for feed in samples) * 8


def test_a_bad_mask_is_told_by_its_sample():
    bad = padded((3, 2))
    bad["mask"][0, 0] = 7
    with pytest.raises(DataError, match=r"sample 2, mask 'mask': expected 1 .* got 7"):
        TorchExecutor(masked(encoder()), "cpu").collect([BATCHES[0], bad], {"q": SketchSpec()})
