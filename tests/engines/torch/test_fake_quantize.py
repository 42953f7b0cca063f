"""Fake quantization: the values of the exported model, and the gradients of the straight-through estimator."""

import numpy as np
import pytest
import torch

from calibrant import TorchExecutor, load_onnx_graph
from calibrant.analysis import Simulation
from calibrant.api import quantize
from calibrant.core import (
    DataError,
    ModelError,
    QuantizationStates,
    RoundingPolicy,
    SettingError,
    TensorQuantizationConfig,
)
from calibrant.core import QuantizationProperty as P
from calibrant.core import fake_quantize as reference
from calibrant.engines.torch.fake_quantize import fake_quantize, on_grid
from calibrant.graph import ScaleGroup

TIES = np.float32([-2.5, -1.5, -0.5, -0.49999997, 0.0, 0.49999997, 0.5, 1.5, 2.5, 1e9, -1e9, np.inf, -np.inf])


def config(**changes):
    arguments = {"policy": P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL, "scale": 0.5, "offset": 3} | changes
    return TensorQuantizationConfig(**arguments)


def as_tensors(c):
    return torch.tensor(c.scale), torch.tensor(c.offset)


@pytest.mark.parametrize("rounding", list(RoundingPolicy))
def test_every_rounding_is_the_one_of_core(rounding):
    c = config(rounding=rounding, scale=1.0)
    found = on_grid(torch.from_numpy(TIES), c, *as_tensors(c))
    np.testing.assert_array_equal(found.numpy(), reference(TIES, c))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_per_channel(axis):
    c = config(
        policy=P.PER_CHANNEL | P.LINEAR | P.ASYMMETRICAL, scale=[0.1, 0.2, 0.7], offset=[0, 5, -3], channel_axis=axis
    )
    x = np.random.default_rng(0).normal(0, 9, (3, 3, 3)).astype(np.float32)
    np.testing.assert_array_equal(on_grid(torch.from_numpy(x), c, *as_tensors(c)).numpy(), reference(x, c))


def test_the_integers_of_a_bias_keep_all_their_digits():
    policy = P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL
    c = TensorQuantizationConfig(policy, num_of_bits=32, quant_min=-(2**31), quant_max=2**31 - 1, scale=0.1, offset=0)
    x, scale = np.float32(np.linspace(5e6, 8e6, 1000)), np.float64(c.scale)
    exact = np.float32(np.rint(x.astype(np.float64) / scale) * scale)
    in_float32 = np.rint(x / c.scale) * c.scale
    assert np.abs(in_float32 - exact).max() > 0.1  # the trap is real
    np.testing.assert_array_equal(on_grid(torch.from_numpy(x), c, *as_tensors(c)).numpy(), exact)


def test_nan_stays_and_an_empty_tensor_too():
    one, three = torch.tensor(1.0), torch.tensor(3.0)
    assert fake_quantize(torch.tensor([np.nan, 1.2]), one, three, 0, 7).tolist()[1] == 1
    assert fake_quantize(torch.tensor([np.nan]), one, three, 0, 7).isnan().all()
    assert fake_quantize(torch.empty(0, 2), one, three, 0, 7).shape == (0, 2)


def test_gradients_pass_on_the_grid_and_nowhere_else():
    x = torch.tensor([-1.51, -1.49, 0.3, 2.24, 2.26], requires_grad=True)  # the grid reaches from -1.5 to 2
    scale = torch.tensor(0.5, requires_grad=True)
    y = fake_quantize(x, scale, torch.tensor(3.0), 0, 7)
    assert y.tolist() == [-1.5, -1.5, 0.5, 2.0, 2.0]
    y.backward(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
    assert x.grad.tolist() == [1, 2, 3, 4, 0]
    each = [-3 + 1.51 / 0.5, -3 + 1.49 / 0.5, 1 - 0.3 / 0.5, 4 - 2.24 / 0.5, 4]
    assert scale.grad.item() == pytest.approx(sum(w * g for w, g in zip([1, 2, 3, 4, 5], each, strict=True)), abs=1e-5)


def test_the_gradient_of_a_scale_per_channel_has_its_shape():
    x, scale = torch.randn(2, 3, 4), torch.full((1, 3, 1), 0.1, requires_grad=True)
    fake_quantize(x, scale, torch.zeros(1, 3, 1), -8, 7).sum().backward()
    assert scale.grad.shape == (1, 3, 1)


@pytest.fixture
def quantized(small_model, small_samples):
    """The small classifier, quantized for onnxruntime, and samples."""
    graph, _ = quantize(small_model, small_samples, threads=1)
    return graph, small_samples


def test_values_are_those_of_the_exported_model(quantized):
    """But for ties: where a sum lies on the edge of two integers, the order of its terms decides. These are rare."""
    graph, samples = quantized
    executor, simulation = TorchExecutor(graph, "cpu", threads=1), Simulation(graph, 1)
    apart = []
    for sample in samples:
        (found,), (expected,) = executor.forward_quantized(sample), simulation.run({"x": sample})
        apart.append(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())
    quantization = executor.forward(samples[0])[0] - executor.forward_quantized(samples[0])[0].detach().numpy()
    assert np.median(apart) <= 1e-6
    assert max(apart) <= 1e-3 <= np.abs(quantization).max()


def test_inner_values_are_on_their_grids(quantized):
    graph, samples = quantized
    names = ["r1", "sum", "x"]
    for name, found in zip(
        names, TorchExecutor(graph, "cpu", threads=1).forward_quantized(samples[0], names), strict=True
    ):
        if name == "x":  # an input stays as it came
            np.testing.assert_array_equal(found.numpy(), samples[0])
        else:
            np.testing.assert_array_equal(found.numpy(), reference(found.numpy(), graph.config_of(name)))
            assert len(np.unique(found.numpy())) <= 256


def test_weights_and_inputs_can_be_trained(quantized):
    graph, samples = quantized
    executor = TorchExecutor(graph, "cpu", threads=1)
    weight = torch.tensor(graph.value("w1").const_value.numpy(), requires_grad=True)
    x = torch.from_numpy(samples[0]).requires_grad_()
    target = torch.from_numpy(executor.forward(samples[0])[0])

    def loss():
        return ((executor.forward_quantized([x], parameters={"w1": weight})[0] - target) ** 2).sum()

    before = loss()
    before.backward()
    assert weight.grad.abs().max() > 0
    assert x.grad.abs().max() > 0
    with torch.no_grad():
        zero = executor.forward_quantized([x], ["r1"], parameters={"w1": torch.zeros_like(weight)})[0]
    bias = np.maximum(graph.value("b1").const_value.numpy(), 0)
    np.testing.assert_allclose(zero[0, :, 5, 5], bias, atol=float(graph.config_of("r1").scale))


def test_a_parameter_that_is_none_is_refused(quantized):
    graph, samples = quantized
    with pytest.raises(SettingError, match="no constant 'w11'; did you mean 'w1'"):
        TorchExecutor(graph, "cpu", threads=1).forward_quantized(samples[0], parameters={"w11": torch.zeros(1)})


def test_a_parameter_of_another_shape_is_refused(quantized):
    graph, samples = quantized
    with pytest.raises(SettingError, match=r"'w1' has shape \(1,\), expected \("):
        TorchExecutor(graph, "cpu", threads=1).forward_quantized(samples[0], parameters={"w1": torch.zeros(1)})


TWO = '<ir_version: 8, opset_import: ["" : 17]> g (float[2] a, float[2] b) => (float[2] y) { m = Mul(a, b) y = Neg(m) }'


@pytest.mark.parametrize("pack", [lambda a, b: (a, b), lambda a, b: {"b": b, "a": a}])
def test_a_tensor_among_arrays_keeps_its_gradient(parsed, pack):
    executor = TorchExecutor(parsed(TWO), "cpu", threads=1)
    a = torch.ones(2, requires_grad=True)
    executor.forward_quantized(pack(a, np.float32([3, 4])))[0].sum().backward()
    assert a.grad.tolist() == [-3, -4]


@pytest.mark.parametrize("node", ["n = ReduceL2<axes = [1]>(x) y = Max(n, eps)", "y = LpNormalization<axis = 1>(x)"])
def test_the_norm_of_zeros_has_a_gradient(parsed, node):
    text = f"g (float[2, 2] x) => (float[2, A] y) <float eps = {{0.1}}> {{ {node} }}"
    executor = TorchExecutor(parsed(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), "cpu", threads=1)
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    executor.forward_quantized(x)[0].square().sum().backward()
    assert torch.isfinite(x.grad).all()


def test_what_lacks_is_named(parsed):
    executor, a = TorchExecutor(parsed(TWO), "cpu", threads=1), torch.ones(2)
    with pytest.raises(DataError, match="lacks input 'b'"):
        executor.forward_quantized({"a": a})
    with pytest.raises(DataError, match="unknown input 'c'"):
        executor.forward_quantized({"a": a, "b": a, "c": a})
    with pytest.raises(ModelError, match="a do not lead to y: that needs 'b' as well"):
        executor.forward_block({"a": a}, ["y"])


def test_what_is_not_calibrated_does_nothing(quantized, small_model):
    graph, samples = quantized
    bare = load_onnx_graph(small_model)
    executor = TorchExecutor(bare, "cpu", threads=1)
    np.testing.assert_array_equal(executor.forward_quantized(samples[0])[0].numpy(), executor.forward(samples[0])[0])
    bare.configs = dict(graph.configs)
    assert any(c.state is QuantizationStates.ACTIVATED for c in bare.configs.values())
    assert np.any(executor.forward_quantized(samples[0])[0].numpy() != executor.forward(samples[0])[0])


def test_a_scale_that_was_found_anew_is_taken(quantized):
    graph, samples = quantized
    executor = TorchExecutor(graph, "cpu", threads=1)
    before = executor.forward_quantized(samples[0], ["r1"])[0]
    found = graph.config_of("r1")
    found.scale = found.scale * 4
    after = executor.forward_quantized(samples[0], ["r1"])[0]
    assert len(after.unique()) < len(before.unique()) / 2


def test_a_branch_reads_the_quantized_value_too(parsed):
    graph = parsed("""<ir_version: 8, opset_import: ["" : 17]> g (float[2] x, bool flag) => (float[2] y) {
        v = Neg(x)
        y = If (flag) <
            then_branch = yes () => (float[2] p) { p = Identity(v) },
            else_branch = no () => (float[2] q) { q = Abs(v) }>
    }""")
    shared = config(scale=0.5, offset=0, state=QuantizationStates.ACTIVATED)
    graph.configs = {"v": shared}
    feed = {"x": torch.tensor([1.3, 2.9]), "flag": torch.tensor(True)}
    assert TorchExecutor(graph, "cpu", threads=1).forward_quantized(feed)[0].tolist() == [-1.5, -3.0]


def test_a_reader_may_have_a_grid_of_its_own_or_none(parsed):
    graph = parsed('<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] a, float[N] b, float[N] c) '
                   "{ v = Neg(x) a = Abs(v) b = Identity(v) c = Neg(v) }")  # fmt: skip
    for index, node in enumerate(graph.model.graph):
        node.name = f"n{index}"
    own = config(scale=2.0, offset=0, state=QuantizationStates.ACTIVATED)
    shared = config(scale=0.5, offset=0, state=QuantizationStates.ACTIVATED)
    graph.configs = {"v": shared}
    graph.edges = {
        ("n1", 0): own,
        ("n2", 0): config(state=QuantizationStates.FP32),
        ("n3", 0): config(state=QuantizationStates.OVERLAPPED),
    }
    found = TorchExecutor(graph, "cpu", threads=1).forward_quantized(np.float32([1.3, 2.9]))
    expected = [[2, 2], [-1.3, -2.9], [1.5, 3.0]]
    for tensor, numbers in zip(found, expected, strict=True):
        np.testing.assert_allclose(tensor.numpy(), numbers, rtol=1e-6)


def test_an_output_of_which_only_readers_have_a_grid_stays_in_float(parsed):
    graph = parsed('<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[N] v, float[N] a, float[N] b) '
                   "{ v = Neg(x) a = Abs(v) b = Neg(v) }")  # fmt: skip
    own = config(scale=0.5, offset=0, state=QuantizationStates.ACTIVATED)
    graph.groups = [ScaleGroup(own, ["v"], ["v"])]
    next(iter(graph.value("v").uses())).node.name = "abs"
    graph.edges = {("abs", 0): own}
    v, a, b = TorchExecutor(graph, "cpu", threads=1).forward_quantized(np.float32([1.3]))
    assert (v.item(), a.item(), b.item()) == pytest.approx((-1.3, 1.5, 1.3))


def test_an_operator_of_onnxruntime_says_that_it_ends_gradients(parsed):
    graph = parsed('<ir_version: 8, opset_import: ["" : 17]> g (float[N] x) => (float[M] y) { y = Unique(x) }')
    executor = TorchExecutor(graph, "cpu", threads=1)
    y = executor.forward_quantized([torch.tensor([2.0, 1.0], requires_grad=True)])[0]
    assert not y.requires_grad
    assert any("no gradient comes through it" in line for line in executor.report)
