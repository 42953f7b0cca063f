"""BlockwiseReconstructionPass: integers of weights chosen by what they do to the output of their layer."""

import itertools
import os
import signal

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import OnnxruntimeExecutor, QuantizationSetting, TensorQuantizationConfig, export_graph, load_onnx_graph
from calibrant.api import quantize
from calibrant.core import QuantizationProperty as P
from calibrant.core import SettingError
from calibrant.core import quantize as integers_of
from calibrant.passes import grid_rounding, reconstruction
from calibrant.passes.grid_rounding import compensated, descended, fitted, rounded
from calibrant.passes.linear import linear_layers
from calibrant.passes.moments import Moments
from tests.passes.simulated import sqnr_of


def setting(high=True, **changes):
    made = QuantizationSetting()
    made.blockwise_reconstruction = high
    made.equalization = False
    for name, value in changes.items():
        setattr(made.quantize_parameter_setting, name, value)
    return made


# --- rounding under a quadratic error


def problem(seed, size, groups=1, outputs=4):
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(groups, size, size)) / 2 + 1
    x = mix @ rng.normal(size=(groups, size, 200)) + 1
    return rng.uniform(-3, 3, (groups, outputs, size)), x @ x.transpose(0, 2, 1) / 200


def error(rows, q, hessian):
    return np.einsum("gok,gkl,gol->go", rows - q, hessian, rows - q)


@pytest.mark.parametrize("groups", [1, 3])
def test_rounding_is_near_the_best_of_all(groups):
    rows, hessian = problem(1, 6, groups)
    found = error(rows, rounded(rows, hessian, np.ones(rows.shape[:2]), -8, 7), hessian)
    ways = np.array(list(itertools.product((-1, 0, 1, 2), repeat=6)), float)
    q = np.floor(rows)[:, :, None, :] + ways
    d = rows[:, :, None, :] - q
    best = np.einsum("gowk,gkl,gowl->gow", d, hessian, d).min(axis=2)
    plain = error(rows, np.rint(rows), hessian)
    assert (found >= best - 1e-9).all()
    assert (found <= plain + 1e-9).all()
    assert found.sum() < 1.2 * best.sum()
    assert plain.sum() > 2 * best.sum()


def test_descent_ends_where_no_single_move_gains():
    rows, hessian = problem(2, 12)
    scale = np.full(rows.shape[:2], 0.7)
    q = descended(rows, hessian, scale, np.clip(np.rint(rows / 0.7), -4, 3), -4, 3)
    least = error(rows, 0.7 * q, hessian)
    assert q.min() >= -4
    assert q.max() <= 3
    for k, step in itertools.product(range(12), (-1, 1)):
        moved = q.copy()
        moved[..., k] = np.clip(moved[..., k] + step, -4, 3)
        assert (error(rows, 0.7 * moved, hessian) >= least - 1e-9).all()


@pytest.mark.parametrize("seed", range(6))
def test_descent_ends_where_no_pair_gains(seed):
    rows, hessian = problem(seed, 12)
    scale = np.full(rows.shape[:2], 0.7)
    q = descended(rows, hessian, scale, np.clip(np.rint(rows / 0.7), -4, 3), -4, 3)
    least = error(rows, 0.7 * q, hessian)
    for j, k in itertools.combinations(range(12), 2):
        for first, second in itertools.product((-1, 1), repeat=2):
            moved = q.copy()
            moved[..., j] = np.clip(moved[..., j] + first, -4, 3)
            moved[..., k] = np.clip(moved[..., k] + second, -4, 3)
            assert (error(rows, 0.7 * moved, hessian) >= least - 1e-9).all()


@pytest.mark.parametrize("groups", [1, 3])
def test_compensation_is_that_of_the_inverse(groups):
    """GPTQ as it is published: the error of each value over its diagonal element, times its row of the root of H^-1."""
    rows, hessian = problem(4, 9, groups)
    scale = np.full(rows.shape[:2], 0.4)
    found = compensated(rows, hessian, scale, -8, 7)
    for g in range(groups):
        order = np.argsort(-np.diag(hessian[g]), kind="stable")
        upper = np.linalg.cholesky(np.linalg.inv(hessian[g][np.ix_(order, order)])).T
        left = rows[g][:, order].copy()
        for j in range(9):
            q = np.clip(np.rint(left[:, j] / 0.4), -8, 7)
            assert (found[g][:, order[j]] == q).all()
            left -= ((left[:, j] - 0.4 * q) / upper[j, j])[:, None] * upper[j]


def test_threads_change_nothing():
    rows, hessian = problem(3, 20, groups=2, outputs=7)
    scale = np.full(rows.shape[:2], 0.3)
    assert (rounded(rows, hessian, scale, -8, 7, 1) == rounded(rows, hessian, scale, -8, 7, 5)).all()


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_scale_is_fitted_too(per_channel):
    rows, hessian = problem(4, 24, outputs=5)
    policy = P.LINEAR | P.SYMMETRICAL | (P.PER_CHANNEL if per_channel else P.PER_TENSOR)
    top = np.abs(rows).max(axis=2).reshape(-1) / 7 if per_channel else np.abs(rows).max() / 7
    axis = 0 if per_channel else None
    config = TensorQuantizationConfig(policy, num_of_bits=4, quant_min=-8, quant_max=7, channel_axis=axis, scale=top)
    found, scale = fitted(rows, hessian, config)
    steps = np.broadcast_to(scale.astype(float).reshape(1, -1), rows.shape[:2])[..., None]
    assert scale.dtype == np.float32
    assert scale.shape == config.scale.shape
    np.testing.assert_allclose(found / steps, np.rint(found / steps), atol=1e-9)
    given = steps * 0 + np.asarray(config.scale, float).reshape(1, -1, 1)
    plain = np.clip(np.rint(rows / given), -8, 7) * given
    assert error(rows, found, hessian).sum() < error(rows, plain, hessian).sum() / 2


def test_scales_are_tried_by_what_rounding_makes_of_them(monkeypatch):
    rows, hessian = problem(7, 24, outputs=40)
    policy = P.LINEAR | P.SYMMETRICAL | P.PER_CHANNEL
    top = np.abs(rows).max(axis=2).reshape(-1) / 7
    config = TensorQuantizationConfig(policy, num_of_bits=4, quant_min=-7, quant_max=7, channel_axis=0, scale=top)
    tried = error(rows, fitted(rows, hessian, config)[0], hessian)
    monkeypatch.setattr(grid_rounding, "TRIALS", np.ones(1))
    assert tried.sum() < 0.96 * error(rows, fitted(rows, hessian, config)[0], hessian).sum()


def test_powers_of_two_stay():
    rows, hessian = problem(5, 8)
    policy = P.LINEAR | P.SYMMETRICAL | P.PER_TENSOR | P.POWER_OF_2
    config = TensorQuantizationConfig(policy, num_of_bits=4, quant_min=-8, quant_max=7, scale=0.5)
    assert fitted(rows, hessian, config)[1] == np.float32(0.5)


def test_moments_are_the_error():
    rng = np.random.default_rng(6)
    x, y = rng.normal(1, 2, (2, 5, 30)), rng.normal(size=(2, 3, 30))
    rows, bias = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3))
    moments = Moments.zero(2, 3, 5)
    for part in (slice(0, 10), slice(10, 30)):
        moments.add(x[:, :, part], y[:, :, part])
    np.testing.assert_allclose(moments.error(rows, bias), ((y - rows @ x - bias[..., None]) ** 2).mean(axis=2))
    best = moments.best_bias(rows)
    np.testing.assert_allclose(best, (y - rows @ x).mean(axis=2))
    for fixed in (None, bias):
        h, c = moments.quadratic(fixed)
        least = np.linalg.solve(h, c.transpose(0, 2, 1)).transpose(0, 2, 1)
        beside = moments.best_bias(least) if fixed is None else bias
        centre = moments.error(least, beside).sum()
        for _ in range(5):
            other = least + rng.normal(0, 0.01, least.shape)
            assert moments.error(other, moments.best_bias(other) if fixed is None else bias).sum() > centre


def test_few_samples_damp_more():
    rng = np.random.default_rng(7)
    shares = []
    for samples in (1, 4, 400):
        moments = Moments.zero(1, 1, 8)
        for _ in range(samples):
            moments.add(rng.normal(size=(1, 8, 25)), rng.normal(size=(1, 1, 25)))
        h, _ = moments.quadratic(None)
        shares.append(float(np.trace(reconstruction.damped(moments, None)[0] - h[0]) / np.trace(h[0])))
    np.testing.assert_allclose(shares, [1, 8 / (4 * 5), 8 / (400 * 5)])


# --- layers as matrix products

CONVS = [
    {},
    {"pads": [1, 2, 3, 0], "strides": [2, 1], "group": 2},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [1, 2]},
    {"auto_pad": "VALID", "dilations": [2, 1], "group": 4},
]


def one_layer(path, op_type, weight, shape, bias=True, **attributes):
    outputs = weight.shape[0] if op_type == "Conv" or attributes.get("transB") else weight.shape[1]
    names = ["x", "w", "b"][: 3 if bias else 2]
    constants = [numpy_helper.from_array(weight, "w")]
    constants += [numpy_helper.from_array(np.linspace(-1, 1, outputs).astype(np.float32), "b")] if bias else []
    graph = helper.make_graph(
        [
            helper.make_node(op_type, names, ["y"], "layer", **attributes),
            helper.make_node("Relu", ["y"], ["z"], "relu"),
        ],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def cases():
    rng = np.random.default_rng(8)
    for attributes in CONVS:
        weight = rng.normal(size=(8, 4 // attributes.get("group", 1), 3, 2)).astype(np.float32)
        yield "Conv", weight, (2, 4, 9, 8), attributes
    yield "Conv", rng.normal(size=(6, 3, 4)).astype(np.float32), (2, 3, 11), {"pads": [2, 1]}
    yield "Gemm", rng.normal(size=(5, 7)).astype(np.float32), (6, 5), {}
    yield "Gemm", rng.normal(size=(7, 5)).astype(np.float32), (6, 5), {"transB": 1}
    yield "MatMul", rng.normal(size=(5, 7)).astype(np.float32), (2, 3, 5), {"bias": False}


@pytest.mark.parametrize(("op_type", "weight", "shape", "attributes"), list(cases()))
def test_rows_times_columns_is_what_the_node_makes(tmp_path, op_type, weight, shape, attributes):
    path = one_layer(tmp_path / "one.onnx", op_type, weight, shape, **attributes)
    rng = np.random.default_rng(9)
    x = rng.normal(size=shape).astype(np.float32)
    graph, _ = quantize(path, [x] * 16)
    (layer,) = linear_layers(graph)
    y = OnnxruntimeExecutor(graph).forward(x, ["y"])[0]
    rows = layer.rows(weight)
    bias = np.linspace(-1, 1, rows.shape[0] * rows.shape[1]).astype(np.float32) if attributes.get("bias", True) else 0
    places = np.sort(rng.choice(layer.count(y), min(layer.count(y), 11), replace=False))
    made = rows @ layer.columns(x, y, places) + np.reshape(bias, (rows.shape[0], -1, 1) if np.ndim(bias) else ())
    np.testing.assert_allclose(made, layer.values(y, places), atol=1e-4)
    np.testing.assert_array_equal(layer.weight(rows), weight)


def test_layers_that_cannot_change_alone_are_left(tmp_path):
    weight = np.random.default_rng(1).normal(size=(5, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "one"), helper.make_node("MatMul", ["y", "w"], ["z"], "two")],
        "shared",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (4, 5))],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, (4, 5))],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    samples = [np.random.default_rng(i).normal(size=(4, 5)).astype(np.float32) for i in range(16)]
    made, _ = quantize(tmp_path / "m.onnx", samples, setting=setting())
    assert linear_layers(made) == []
    assert (made.value("w").const_value.numpy() == weight).all()


# --- the whole road


WAYS = [{"num_of_bits": 4}, {"num_of_bits": 3}, {"num_of_bits": 4, "per_channel": False}, {}]


@pytest.mark.parametrize("changes", WAYS)
def test_high_effort_on_samples_it_did_not_see(small_model, small_samples, changes):
    found = []
    for high in (False, True):
        graph, _ = quantize(small_model, small_samples[:32], setting=setting(high, **changes))
        found.append(sqnr_of(graph, small_model, small_samples[32:]))
    assert found[1] > found[0] + (3 if changes else 0.5)


def test_what_is_exported_is_what_was_chosen(small_model, small_samples, tmp_path):
    graph, _ = quantize(small_model, small_samples, setting=setting(num_of_bits=4))
    export_graph(graph, "ONNXRUNTIME", tmp_path / "int8.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    for name, node in (("w1", "conv1"), ("w2", "conv2"), ("w3", "conv3"), ("w4", "fc")):
        values, config = graph.value(name).const_value.numpy(), graph.edges[node, 1]
        assert (stored[f"{name}_quantized"] == integers_of(values, config)).all()
        steps = np.asarray(config.scale).reshape(-1, *[1] * (values.ndim - 1))
        # On its grid, but for the little by which ExactSimulationPass moves the scale.
        np.testing.assert_allclose(values / steps, stored[f"{name}_quantized"], atol=0.02)
        assert np.abs(stored[f"{name}_quantized"]).max() <= 8


def test_twice_the_same(small_model, small_samples):
    weights = []
    for threads in (1, 3):
        graph, _ = quantize(small_model, small_samples, setting=setting(num_of_bits=4), threads=threads)
        weights.append([graph.value(name).const_value.numpy() for name in ("w1", "b1", "w2", "w3", "w4", "b4")])
    assert all((one == other).all() for one, other in zip(*weights, strict=True))


def test_the_order_in_which_samples_are_through_changes_nothing(small_model, small_samples):
    """Which thread is first is chance, and sums of floats depend on it."""
    graph, _ = quantize(small_model, small_samples, setting=setting(high=False), threads=1)
    layer = linear_layers(graph)[0]
    rng = np.random.default_rng(3)
    outputs = [rng.normal(size=(1, 8, 16, 16)).astype(np.float32) for _ in small_samples]
    naive = [Moments.zero(1, 8, 27) for _ in range(2)]
    sums = []
    for moments, step in zip(naive, (1, -1), strict=True):
        seen = reconstruction.Seen(graph, layer, small_samples, None)
        for number in range(len(outputs))[::step]:
            seen.look(number, outputs[number])
            places = np.arange(256)
            columns = layer.columns(small_samples[number], outputs[number], places)
            moments.add(columns, layer.values(outputs[number], places), 1 + 1 / (1 + number))
        sums.append((seen.train, seen.held))
    assert (naive[0].gram != naive[1].gram).any()  # the trap is real
    for one, other in zip(*sums, strict=True):
        assert one.count > 0
        assert (one.count, one.independent) == (other.count, other.independent)
        assert all((getattr(one, each) == getattr(other, each)).all() for each in ("gram", "cross", "power"))


def test_it_can_be_stopped_and_what_is_done_is_kept(small_model, small_samples, tmp_path):
    def stop(name, done, total):
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    graph, summary = quantize(small_model, small_samples, setting=setting(num_of_bits=4), on_layer=stop)
    assert any("interrupted" in note for note in summary.notes)
    assert {"b1", "b2"} <= set(graph.changed_constants)
    assert not {"b3", "b4"} & set(graph.changed_constants)
    export_graph(graph, "ONNXRUNTIME", tmp_path / "int8.onnx")
    assert sqnr_of(graph, small_model, small_samples) > 20


def test_interested_layers(small_model, small_samples):
    asked = setting(num_of_bits=4)
    asked.blockwise_reconstruction_setting.interested_layers = ["Gemm"]
    graph, _ = quantize(small_model, small_samples, setting=asked)
    assert "b4" in graph.changed_constants
    assert "b1" not in graph.changed_constants
    asked.blockwise_reconstruction_setting.interested_layers = ["Relu"]
    with pytest.raises(SettingError, match="interested_layers: 'Relu' means no layer"):
        quantize(small_model, small_samples, setting=asked)


def test_what_makes_a_layer_worse_is_dropped(small_model, small_samples, monkeypatch):
    spoilt = "calibrant.passes.reconstruction.fitted"
    monkeypatch.setattr(spoilt, lambda target, hessian, config, threads: (target * 0, np.asarray(config.scale)))
    monkeypatch.setattr(Moments, "best_bias", lambda self, rows: np.full(rows.shape[:2], 100.0))
    graph, _ = quantize(small_model, small_samples, setting=setting())
    assert not any(name.startswith("b") for name in graph.changed_constants)
    assert np.abs(graph.value("w1").const_value.numpy()).max() > 0


def test_the_residual_is_made_up_for(small_model, small_samples, monkeypatch, tmp_path):
    cut = onnx.load(small_model)
    del cut.graph.node[6:], cut.graph.output[:]
    cut.graph.output.append(helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["N", 8, 16, 16]))
    onnx.save(cut, tmp_path / "cut.onnx")
    asked = setting()
    asked.overrides = {"r1": {"num_of_bits": 2}}  # so that what the shortcut loses has a mean
    found = []
    for blind in (True, False):
        if blind:
            monkeypatch.setattr("calibrant.passes.reconstruction.residual", lambda *_: None)
        else:
            monkeypatch.undo()
        graph, _ = quantize(tmp_path / "cut.onnx", small_samples[:32], setting=asked)
        found.append(sqnr_of(graph, tmp_path / "cut.onnx", small_samples[32:]))
    assert found[1] > found[0] + 0.05


def test_one_batch_is_enough(small_model, small_samples):
    batch = np.concatenate(small_samples[:32])
    found = []
    for high in (False, True):
        graph, _ = quantize(small_model, [batch], setting=setting(high, num_of_bits=4))
        found.append(sqnr_of(graph, small_model, small_samples[32:]))
    assert found[1] > found[0] + 3


def test_float_references_do_not_change(small_model, small_samples):
    graph = load_onnx_graph(small_model)
    executor = OnnxruntimeExecutor(graph)
    before = executor.forward(small_samples[0])[0]
    quantize(graph, small_samples, setting=setting(num_of_bits=3), executor=executor)
    executor.load_graph(graph)
    np.testing.assert_array_equal(executor.forward(small_samples[0])[0], before)


def test_one_sample_of_huge_values_does_not_decide(small_model, small_samples):
    """Its error is a thousand times that of the others, which are to become better all the same."""
    huge = [*small_samples[:31], small_samples[31] * 30]
    made = []
    for on in (False, True):
        asked = setting(False, num_of_bits=4)
        asked.blockwise_reconstruction = on
        asked.quantize_activation_setting.calib_algorithm = "percentile"
        asked.quantize_activation_setting.percentile = 0.95
        graph, _ = quantize(small_model, huge, setting=asked)
        made.append(sqnr_of(graph, small_model, small_samples[32:]))
    assert made[1] > made[0] + 1


def test_nothing_is_solved_for_on_what_is_held_out(small_model, small_samples, monkeypatch):
    """Or what is held out could not tell at the end whether other samples gain too."""
    to_solve_for, solved_for = [], []
    improve, solve = reconstruction.improve, reconstruction.pulled

    def improving(graph, layer, train, held, *rest):
        assert held.count
        to_solve_for.append(train)
        return improve(graph, layer, train, held, *rest)

    def solving(moments, *rest):
        solved_for.append(moments is to_solve_for[-1])
        return solve(moments, *rest)

    monkeypatch.setattr(reconstruction, "improve", improving)
    monkeypatch.setattr(reconstruction, "pulled", solving)
    quantize(small_model, small_samples[:32], setting=setting())
    assert 4 <= len(to_solve_for) <= 8  # once, or again without W*
    assert len(solved_for) > 4
    assert all(solved_for)


def test_what_does_not_help_the_outputs_is_undone(small_model, small_samples, monkeypatch):
    """First with W*, then without; and the graph is as if nothing had been tried."""
    tried = []
    improve = reconstruction.improve

    def improving(graph, layer, *rest):
        tried.append((layer.node.name, bool(rest[-1])))
        return improve(graph, layer, *rest)

    monkeypatch.setattr(reconstruction, "improve", improving)
    monkeypatch.setattr(reconstruction, "less", lambda *_: False)
    made, _ = quantize(small_model, small_samples[:32], setting=setting())
    names = [name for name, _ in tried]
    assert tried == [(name, first) for name in dict.fromkeys(names) for first in (True, False)]
    off = setting()
    off.blockwise_reconstruction = False
    plain, _ = quantize(small_model, small_samples[:32], setting=off)
    for undone, layer in zip(linear_layers(made, []), linear_layers(plain, []), strict=True):
        assert np.array_equal(made.constant(layer.weight_name), plain.constant(layer.weight_name))
        assert np.array_equal(undone.config.scale, layer.config.scale)
