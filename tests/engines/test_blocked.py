"""Values in onnxruntime's blocked layout: the same sketches as plain values, or plain values and a word about it."""

import logging
import platform
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import helper

from calibrant.engines import OnnxruntimeExecutor
from calibrant.engines.blocked import as_blocks, expose_blocked, find_block
from calibrant.engines.statistics import Statistics
from calibrant.graph import load_onnx_graph
from calibrant.sketches import SketchSpec

HAS_BLOCKS = platform.machine().lower() in ("x86_64", "amd64")
PER_CHANNEL = SketchSpec(channel_axis=1, per_channel=True)


def to_blocks(x, block):
    """[N, C, H, W] as onnxruntime gives it: channels padded, the memory blocked, the shape as if it were not."""
    n, c, h, w = x.shape
    padded = -(-c // block) * block
    full = np.full((n, padded, h, w), 77, x.dtype)
    full[:, :c] = x
    return np.ascontiguousarray(full.reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2)).reshape(n, padded, h, w)


def find(plain, blocked):
    with ThreadPoolExecutor(2) as pool:
        return find_block(plain, blocked, {name: x.shape[1] for name, x in plain.items()}, pool)


@pytest.fixture
def counted(monkeypatch):
    """The channels of every blocked value that was counted."""
    calls: list[int] = []
    add = Statistics.add

    def spy(self, batch, half):
        calls.extend(taken.channels for taken in batch.taken if taken.channels is not None)
        add(self, batch, half)

    monkeypatch.setattr(Statistics, "add", spy)
    return calls


@pytest.mark.parametrize("channels", [(3, 20, 33, 8, 16, 1), (1, 64, 7), (40, 31, 5)])
def test_the_same_sketches_as_plain_values(models, counted, channels):
    graph = models["convolutions"](channels)
    samples = models["images"]([(1, channels[0], 9, 7), (3, channels[0], 9, 7), (2, channels[0], 12, 5)])
    values = [v.name for node in graph.model.graph for v in node.outputs]
    wanted = {name: PER_CHANNEL if i % 2 else SketchSpec() for i, name in enumerate(values)}
    executor = OnnxruntimeExecutor(graph, threads=2)
    found = executor.collect(samples, wanted)
    assert executor.report == []
    if HAS_BLOCKS:
        assert counted
    expected = models["sketches_of"](graph, samples, wanted)
    for name in wanted:
        assert found[name] == expected[name], name
        assert found[name].to_bytes() == expected[name].to_bytes()


def test_plain_when_asked(models, counted):
    graph = models["convolutions"]()
    samples = models["images"]([(1, 3, 8, 8)])
    executor = OnnxruntimeExecutor(graph, threads=2, blocked=False)
    plain = executor.collect(samples, {"r2": PER_CHANNEL})
    assert not counted
    assert OnnxruntimeExecutor(graph, threads=2).collect(samples, {"r2": PER_CHANNEL}) == plain


def test_rows_other_axes_and_raw_values_are_taken_plain(models, counted):
    graph = models["convolutions"]()
    samples = models["images"]([(2, 3, 8, 6)])
    wanted = {
        "r1": SketchSpec(channel_axis=3, per_channel=True),
        "r2": SketchSpec(isotone_axis=-1),
        "r4": PER_CHANNEL,
    }
    shapes = []
    found = OnnxruntimeExecutor(graph, threads=2).collect(
        samples, wanted, {"r4": lambda value: shapes.append(value.shape)}
    )
    assert not counted
    assert shapes == [(2, 16, 8, 6)]
    assert found == models["sketches_of"](graph, samples, wanted)


def test_a_value_with_plain_readers_too(models, counted):
    """Softmax reads the plain layout, so that value is converted anyway; the value after it never was blocked."""
    graph = models["convolutions"]((3, 16, 16))
    model = onnx.load_from_string(graph.to_bytes())
    model.graph.node.append(helper.make_node("Softmax", ["r1"], ["soft"], "softmax", axis=1))
    model.graph.output.append(onnx.ValueInfoProto(name="soft"))
    graph = load_onnx_graph(model, simplify=False)
    samples = models["images"]([(2, 3, 8, 8)])
    wanted = dict.fromkeys(["r1", "r2", "soft"], PER_CHANNEL)
    found = OnnxruntimeExecutor(graph, threads=2).collect(samples, wanted)
    assert found == models["sketches_of"](graph, samples, wanted)


def test_a_batch_of_one_size_is_taken_blocked_too(models, counted):
    """The model does not run on the first row alone: then all is tried again, on the whole sample."""
    model = onnx.load_from_string(models["convolutions"]((3, 16, 16)).to_bytes())
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2, 16, 64]), "two rows"))
    model.graph.node.append(helper.make_node("Reshape", ["r2", "two rows"], ["flat"], "reshape"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, None))
    graph, samples = load_onnx_graph(model, simplify=False), models["images"]([(2, 3, 8, 8)] * 2)
    wanted = dict.fromkeys(["r1", "r2", "flat"], SketchSpec())
    found = OnnxruntimeExecutor(graph, threads=2).collect(samples, wanted)
    assert found == models["sketches_of"](graph, samples, wanted)
    assert counted == [16] * len(samples) * HAS_BLOCKS  # r1: r2 is converted for its reader anyway


@pytest.mark.skipif(not HAS_BLOCKS, reason="onnxruntime has no blocked layout on this processor")
@pytest.mark.parametrize("failure", ["unverified", "does not run"])
def test_where_it_fails_values_are_plain_and_that_is_said(models, counted, monkeypatch, caplog, failure):
    graph = models["convolutions"]()
    samples = models["images"]([(1, 3, 8, 8)] * 2)
    if failure == "unverified":
        monkeypatch.setattr("calibrant.engines.taps.find_block", lambda *_: None)
    else:
        monkeypatch.setattr("calibrant.engines.taps.expose_blocked", lambda model, _: {"r1": (spoil(model), 20)})
    executor = OnnxruntimeExecutor(graph, threads=2)
    with caplog.at_level(logging.WARNING, "calibrant"):
        found = executor.collect(samples, {"r1": PER_CHANNEL})
    assert not counted
    assert found == models["sketches_of"](graph, samples, {"r1": PER_CHANNEL})
    assert len(executor.report) == 1
    assert "taken plain" in executor.report[0]
    assert executor.report[0] in caplog.text
    executor.collect(samples, {})
    assert executor.report == []  # of the last collect


def spoil(model):
    model.graph.node[0].input[0] = "no such value"
    return "r1"


@pytest.mark.parametrize("block", [4, 8, 16, 32])
@pytest.mark.parametrize("channels", [1, 7, 8, 33])
def test_the_block_size_is_found(block, channels):
    rng = np.random.default_rng(0)
    plain = {"a": rng.normal(size=(2, channels, 3, 2)), "b": rng.normal(size=(1, 40, 2, 2))}
    blocked = {name: to_blocks(x, block) for name, x in plain.items()}
    assert find(plain, blocked) == block
    lanes = as_blocks(blocked["a"], block)
    np.testing.assert_array_equal(lanes[1, 0, :, :, 0], plain["a"][1, 0])


@pytest.mark.parametrize("place", [40, 96])  # in a full block, and in the last, which has four channels
def test_no_block_size_where_values_differ(place):
    plain = {"a": np.arange(2 * 20 * 6.0).reshape(2, 20, 3, 2), "b": np.arange(160.0).reshape(1, 40, 2, 2)}
    blocked = {name: to_blocks(x, 8) for name, x in plain.items()}
    blocked["a"].flat[place] += 1e-3
    assert find(plain, blocked) is None


def test_no_block_size_where_it_cannot_be_told():
    alike = np.zeros((1, 32, 4, 4))
    assert find({"a": alike}, {"a": to_blocks(alike, 8)}) is None
    assert find({}, {}) is None


def test_nan_does_not_hide_the_block_size():
    plain = np.arange(32 * 4.0).reshape(1, 32, 2, 2)
    plain[0, 3] = np.nan
    assert find({"a": plain}, {"a": to_blocks(plain, 8)}) == 8


def reorder(source, target, **attributes):
    return helper.make_node("ReorderOutput", [source], [target], domain="com.microsoft.nchwc", **attributes)


def test_which_conversions_are_taken_out():
    nodes = [
        reorder("t1", "alone", channels=20),
        reorder("t1", "twin", channels=20),
        reorder("t2", "read", channels=8),
        helper.make_node("Softmax", ["read"], ["soft"]),
        reorder("t3", "last", channels=8, channels_last=1),
        reorder("t4", "not allowed", channels=8),
        reorder("t5", "inner", channels=8),
        helper.make_node("If", ["soft"], ["if"], then_branch=reading("inner"), else_branch=reading("t5")),
    ]
    names = ["alone", "soft", "twin", "read", "last", "not allowed", "inner"]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [onnx.ValueInfoProto(name=n) for n in names]))
    found = expose_blocked(model, set(names) - {"not allowed"})
    assert found == {"alone": ("t1", 20), "twin": ("t1", 20)}
    assert [o.name for o in model.graph.output] == ["t1", "soft", "read", "last", "not allowed", "inner"]
    assert len(model.graph.node) == len(nodes) - 2


def reading(name):
    node = helper.make_node("Neg", [name], [f"{name}_negative"])
    return helper.make_graph([node], "branch", [], [onnx.ValueInfoProto(name=f"{name}_negative")])
