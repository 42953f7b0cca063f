"""BalancedRoundingPass: rounding errors that cancel where they are added up."""

import itertools

import numpy as np
import pytest

from calibrant import QuantizationSetting, load_onnx_graph
from calibrant.api import quantize
from calibrant.core import quantize as quantize_array
from calibrant.graph.graph import original
from calibrant.passes.rounding import BalancedRoundingPass, balanced


def objective(errors, kernel):
    by_kernel = errors.reshape(-1, kernel).sum(axis=1) if kernel > 1 else np.zeros(1)
    return (errors**2).sum() + (by_kernel**2).sum() + errors.sum() ** 2


def rounded(rows, kernel, low=-128, high=127):
    integers = np.clip(np.rint(rows), low, high)
    errors = rows - integers
    balanced(errors, integers, kernel, low, high)
    np.testing.assert_allclose(errors, rows - integers, atol=1e-9)
    return integers


@pytest.mark.parametrize(("kernel", "size"), [(1, 8), (4, 8), (3, 9), (9, 9)])
def test_near_the_best_of_all_roundings(kernel, size):
    rng = np.random.default_rng(3)
    better = []
    for _ in range(20):
        row = rng.uniform(-5, 5, size)
        found = objective(row - rounded(row[None], kernel)[0], kernel)
        ways = itertools.product(*[(np.floor(x), np.ceil(x)) for x in row])
        best = min(objective(row - np.array(way), kernel) for way in ways)
        plain = objective(row - np.rint(row), kernel)
        assert best - 1e-9 <= found <= plain + 1e-9
        better.append((plain - found + 1e-12) / (plain - best + 1e-12))
    assert np.mean(better) > 0.85


def test_no_error_is_as_large_as_a_step_and_the_grid_is_kept():
    rng = np.random.default_rng(5)
    rows = rng.uniform(-9, 9, (50, 27))
    integers = rounded(rows.copy(), 9, -8, 7)
    assert integers.min() >= -8
    assert integers.max() <= 7
    assert (np.abs(np.clip(rows, -8, 7) - integers) < 1).all()


def test_a_weight_on_its_grid_stays():
    rows = np.arange(-6.0, 6.0).reshape(2, 6)
    assert (rounded(rows, 1) == rows).all()


def weights(graph):
    return {
        name: quantize_array(graph.value(name).const_value.numpy(), graph.edges[node, 1])
        for name, node in (("w1", "conv1"), ("w2", "conv2"), ("w3", "conv3"), ("w4", "fc"))
    }


def test_outputs_keep_their_mean(small_model, small_samples):
    plain = QuantizationSetting()
    plain.quantize_parameter_setting.balanced_rounding = False
    sums = []
    for setting in (plain, QuantizationSetting()):
        graph, _ = quantize(small_model, small_samples, setting=setting)
        scale = np.asarray(graph.edges["conv1", 1].scale)
        floats = original(graph.value("w1")).numpy().reshape(8, -1) / scale[:, None]
        sums.append(np.abs((floats - weights(graph)["w1"].reshape(8, -1)).sum(axis=1)))
    assert sums[0].max() > 1.2
    assert sums[1].mean() < sums[0].mean() / 1.5
    assert sums[1].max() < 1


def test_the_float_model_is_kept(small_model, small_samples):
    graph, _ = quantize(small_model, small_samples)
    assert graph.changed_constants
    original = load_onnx_graph(small_model)
    kept = {v.name: v.const_value.numpy() for v in graph.float_model().graph.initializers.values()}
    for name, value in original.model.graph.initializers.items():
        np.testing.assert_array_equal(kept[name], value.const_value.numpy())
    graph.clear_quantization()
    assert (graph.value("w1").const_value.numpy() == original.value("w1").const_value.numpy()).all()


def test_twice_changes_nothing_more(small_model, small_samples):
    graph, _ = quantize(small_model, small_samples)
    before = weights(graph)
    BalancedRoundingPass().optimize(graph)
    assert all((weights(graph)[name] == integers).all() for name, integers in before.items())
