"""Statistics on a device, by Triton's interpreter: through the torch engine they are those of the host."""

import numpy as np
import torch

from calibrant import TorchExecutor, load_onnx_graph
from calibrant.engines.torch import statistics
from calibrant.sketches import SketchSpec
from tests.sketches.devices import interpreted

WANTED = {
    "x": SketchSpec(mantissa_bits=4),
    "r1": SketchSpec(channel_axis=1, mantissa_bits=4),
    "logits": SketchSpec(histogram=False, isotone_axis=-1),
}


def samples_of(rows):
    rng = np.random.default_rng(3)
    return [{"x": rng.normal(size=(n, 3, 16, 16)).astype(np.float32)} for n in rows]


@interpreted
def test_the_device_counts_as_the_host_does(small_model, monkeypatch):
    from calibrant.sketches.device import DeviceCollectors

    graph, samples = load_onnx_graph(small_model), samples_of((1, 2, 1))
    executor = TorchExecutor(graph, "cpu", threads=1)
    expected = executor.collect(samples, WANTED)
    monkeypatch.setattr(
        "calibrant.engines.torch.session.statistics_on", lambda device, wanted, *_: DeviceCollectors(wanted, "cpu")
    )
    found = executor.collect(samples, WANTED)
    assert (found.even, found.odd) == (expected.even, expected.odd)


def test_without_triton_the_host_counts_and_that_is_told(monkeypatch):
    monkeypatch.setattr(statistics, "find_spec", lambda name: None)
    notes = []
    found = statistics.statistics_on(torch.device("cuda"), WANTED, 1, notes.append)
    assert isinstance(found, statistics.HostStatistics)
    assert len(notes) == 1
    assert "Triton is not installed" in notes[0]


def test_blocks_do_not_count_each_other(small_model):
    graph, samples = load_onnx_graph(small_model), samples_of((1, 1, 1))
    executor = TorchExecutor(graph, "cpu", threads=1)
    with executor.collecting(WANTED) as collect:
        collect(samples)
        again = collect(samples[:1])
    assert again == executor.collect(samples[:1], WANTED)
