"""BiasCorrectionPass: what quantization shifts is taken back, and what makes it worse is dropped."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrant import OnnxruntimeExecutor, QuantizationSetting, calibrate, load_onnx_graph
from calibrant.analysis import Simulation, sqnr_db
from calibrant.api import quantize
from calibrant.core import SettingError, fake_quantize
from calibrant.passes.ahead import Ahead
from calibrant.passes.bias_correction import BiasCorrectionPass, Fit, biased_layers
from calibrant.passes.guard import Guard

RNG = np.random.default_rng(3)
ANYTHING = (-np.inf, np.inf)


def saved(path, nodes, weights, shape, output):
    """A model from `x` to `output`, both of that many dimensions, batch and all."""
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def shifted(tmp_path):
    """Two 1 x 1 convolutions of 3-bit weights on values around 2, so that their rounding shifts every channel."""
    weights = {"w1": RNG.normal(0, 0.3, (8, 4, 1, 1)), "b1": np.ones(8), "w2": RNG.normal(0, 0.3, (8, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["y"], "conv2"),
    ]
    samples = [RNG.normal(2, 0.3, (1, 4, 6, 6)).astype(np.float32) for _ in range(48)]
    return saved(tmp_path / "m.onnx", nodes, weights | {"b2": np.zeros(8)}, [1, 4, 6, 6], "y"), samples


def setting_of(bits=3, block_size=None, **fields):
    """Without what else would take away the errors that these cases are built for."""
    setting = QuantizationSetting(equalization=False, smooth_quant=False, **fields)
    setting.bias_correct_setting.block_size = block_size
    setting.quantize_parameter_setting.num_of_bits = bits
    setting.quantize_parameter_setting.balanced_rounding = False
    return setting


def outputs(model, samples, setting):
    """Of the quantized model, simulated."""
    simulation = Simulation(quantize(model, samples[:32], setting=setting)[0])
    return [simulation.run({"x": x})[0] for x in samples[32:]]


def exact_outputs(model, samples):
    executor = OnnxruntimeExecutor(load_onnx_graph(model))
    return [executor.forward(x)[0] for x in samples[32:]]


def shift_of(exact, found):
    """The largest shift of a channel, against the spread of the error in it."""
    errors = np.concatenate(found) - np.concatenate(exact)
    return np.abs(errors.mean(axis=(0, 2, 3)) / errors.std(axis=(0, 2, 3))).max()


def test_what_rounding_shifts_is_taken_back(shifted):
    model, samples = shifted
    exact = exact_outputs(model, samples)
    plain = outputs(model, samples, setting_of())
    corrected = outputs(model, samples, setting_of(bias_correct=True))
    assert shift_of(exact, plain) > 3
    assert shift_of(exact, corrected) < 0.3
    assert sqnr_db(exact, corrected) > sqnr_db(exact, plain) + 6


def test_a_correction_that_makes_it_worse_is_dropped(shifted, monkeypatch):
    model, samples = shifted
    wrong = lambda self: np.full(self.channels, 5.0)  # noqa: E731
    monkeypatch.setattr(Fit, "mean", wrong)
    monkeypatch.setattr(Fit, "trimmed_mean", wrong)
    exact = exact_outputs(model, samples)
    dropped, plain = (outputs(model, samples, setting_of(bias_correct=on)) for on in (True, False))
    assert np.array_equal(dropped, plain)
    monkeypatch.setattr("calibrant.passes.bias_correction.less", lambda *args: True)  # without looking it is ruined
    monkeypatch.setattr(Guard, "restore_if_worse", lambda self: False)
    assert sqnr_db(exact, outputs(model, samples, setting_of(bias_correct=True))) < sqnr_db(exact, plain) - 3


def test_a_correction_that_is_better_on_the_first_half_alone_is_dropped(shifted, monkeypatch):
    model, samples = shifted
    asked = set()

    def errors(self, remainder, stepping, value, form, numbers):
        """1 without correction, which is asked for first; then less on even numbers, more on odd ones."""
        found = np.array([0.5 + number % 2 for number in numbers]) if value.name in asked else np.ones(len(numbers))
        asked.add(value.name)
        return found

    monkeypatch.setattr("calibrant.passes.ahead.Ahead.errors", errors)
    graph, summary = quantize(model, samples[:32], setting=setting_of(bias_correct=True))
    assert np.array_equal(biases(graph), [1.0] * 8 + [0.0] * 8)
    assert any("0 of 2 layers corrected" in note for note in summary.notes)


def test_it_does_no_harm_where_there_is_nothing_to_correct(small_model, small_samples):
    exact = exact_outputs(small_model, small_samples)
    plain, corrected = (outputs(small_model, small_samples, setting_of(8, bias_correct=on)) for on in (False, True))
    assert sqnr_db(exact, corrected) > sqnr_db(exact, plain) - 0.5


def test_the_same_samples_give_the_same_biases_with_a_table_too(shifted):
    model, samples = shifted
    setting = setting_of(bias_correct=True)
    one = biases(quantize(model, samples[:32], setting=setting, threads=1)[0])
    other = biases(quantize(model, samples[:32][::-1], setting=setting, threads=2)[0])
    table = calibrate(model, samples[:32])
    with_table = biases(quantize(model, samples[:32], setting=setting, table=table)[0])
    assert np.array_equal(one, other)
    assert np.array_equal(one, with_table)


def biases(graph):
    return np.concatenate([graph.value(name).const_value.numpy() for name in ("b1", "b2")])


def test_who_stops_it_keeps_what_is_done(shifted):
    model, samples = shifted
    told = []
    graph, summary = quantize(
        model,
        samples[:32],
        setting=setting_of(bias_correct=True),
        on_layer=lambda *args: told.append(args) or False,
    )
    found = biases(graph)
    assert told == [("BiasCorrectionPass", 1, 2)]
    assert not np.allclose(found[:8], 1)
    assert not found[8:].any()
    assert any("1 of 2 layers corrected" in note for note in summary.notes)
    Simulation(graph)


def test_quantizing_the_graph_again_starts_from_the_float_model(shifted):
    model, samples = shifted
    graph = load_onnx_graph(model)
    once = biases(quantize(graph, samples[:32], setting=setting_of(bias_correct=True))[0])
    assert not np.allclose(once[8:], 0)
    again = biases(quantize(graph, samples[:32], setting=setting_of(bias_correct=True))[0])
    assert np.array_equal(once, again)
    plain = biases(quantize(graph, samples[:32], setting=setting_of())[0])
    assert not plain[8:].any()


def test_only_the_layers_of_interest(shifted):
    model, samples = shifted
    setting = setting_of(bias_correct=True)
    setting.bias_correct_setting.interested_layers = ["conv2"]
    found = biases(quantize(model, samples[:32], setting=setting)[0])
    assert np.array_equal(found[:8], np.ones(8))
    assert found[8:].any()
    setting.bias_correct_setting.interested_layers = ["Relu"]
    with pytest.raises(SettingError, match="'Relu' means no quantized layer with a bias"):
        quantize(model, samples[:32], setting=setting)


def test_the_constant_added_behind_a_matmul_is_its_bias(tmp_path):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "product"),
        helper.make_node("Add", ["b", "p"], ["y"], "plus"),
    ]
    model = saved(tmp_path / "m.onnx", nodes, {"w": RNG.normal(0, 0.3, (16, 8)), "b": np.zeros(8)}, [1, 5, 16], "y")
    samples = [RNG.normal(2, 0.3, (1, 5, 16)).astype(np.float32) for _ in range(48)]
    exact = exact_outputs(model, samples)
    plain, corrected = (outputs(model, samples, setting_of(bias_correct=on)) for on in (False, True))
    assert sqnr_db(exact, corrected) > sqnr_db(exact, plain) + 6
    graph, _ = quantize(model, samples[:32], setting=setting_of(bias_correct=True))
    assert [layer.node.name for layer in biased_layers(graph, ["product"])] == ["plus"]


def test_a_gemm_multiplies_its_bias_by_beta(tmp_path):
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", beta=0.5, transB=1)]
    weights = {"w": RNG.normal(0, 0.3, (8, 16)), "b": np.zeros(8)}
    model = saved(tmp_path / "m.onnx", nodes, weights, [1, 16], "y")
    samples = [RNG.normal(2, 0.3, (1, 16)).astype(np.float32) for _ in range(48)]
    graph = load_onnx_graph(model, simplify=False)  # else beta is folded into the bias
    exact = exact_outputs(model, samples)
    plain, corrected = (outputs(graph, samples, setting_of(bias_correct=on)) for on in (False, True))
    assert biased_layers(graph)[0].beta == 0.5
    assert sqnr_db(exact, corrected) > sqnr_db(exact, plain) + 3


def test_the_mean_counts_where_the_activation_lets_values_through():
    exact = np.array([[3.0, -9.0, 2.0], [0.0, 7.0, 8.0]], np.float32)[None]  # two channels
    found = np.array([[2.0, -1.0, 1.5], [-1.0, 5.0, 6.5]], np.float32)[None]
    assert Fit([exact], [found], 1, (0.0, 6.0)).mean().tolist() == [0.75, 1.0]  # (1 + .5) / 2; 6 - 5
    assert Fit([exact], [found], 1, ANYTHING).mean().tolist() == [-6.5 / 3, 4.5 / 3]


def test_a_channel_that_never_comes_through_stays():
    nothing = Fit([np.full((1, 1, 4), -1.0, np.float32)], [np.full((1, 1, 4), -3.0, np.float32)], 1, (0.0, np.inf))
    assert nothing.mean().tolist() == nothing.trimmed_mean().tolist() == [0.0]


def test_a_mean_that_moves_from_sample_to_sample_shrinks():
    steady = [np.full((1, 1, 9), 1.0, np.float32) for _ in range(4)]
    moving = [np.full((1, 1, 9), value, np.float32) for value in (-3.0, 5.0, -2.0, 4.0)]
    zeros = [np.zeros((1, 1, 9), np.float32)] * 4
    assert Fit(steady, zeros, 1, ANYTHING).mean() == pytest.approx([1.0])
    assert Fit(moving, zeros, 1, ANYTHING).mean()[0] == pytest.approx(1 / (1 + np.var([-3, 5, -2, 4]) / 3))


def test_a_few_huge_errors_do_not_make_the_trimmed_mean():
    exact = np.full((1, 1, 400), 1.0, np.float32)
    exact[..., :2] = 1000
    fit = Fit([exact], [np.zeros_like(exact)], 1, ANYTHING)
    assert fit.mean()[0] > 5
    assert fit.trimmed_mean()[0] == pytest.approx(1.0)


def test_weights_alone_are_corrected_too(shifted):
    model, samples = shifted
    exact = exact_outputs(model, samples)
    plain, corrected = (
        outputs(model, samples, setting_of(bias_correct=on, quantize_activation=False)) for on in (False, True)
    )
    assert sqnr_db(exact, corrected) > sqnr_db(exact, plain) + 6


@pytest.fixture
def chain(tmp_path):
    """Three 1 x 1 convolutions of 8 channels, a Relu behind the first two; the second is blind to channels 4 to 7."""
    weights = {f"w{i}": RNG.normal(0, 0.3, (8, 8, 1, 1)) for i in (1, 2, 3)} | {f"b{i}": np.ones(8) for i in (1, 2, 3)}
    weights["w2"][:, 4:] = 0
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1"),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2"),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["y"], "conv3"),
    ]
    samples = [RNG.normal(2, 0.3, (1, 8, 6, 6)).astype(np.float32) for _ in range(16)]
    return saved(tmp_path / "m.onnx", nodes, weights, [1, 8, 6, 6], "y"), samples


@pytest.mark.parametrize(("block_size", "convolutions"), [(1, 1), (2, 2), (3, 3), (9, 3), (None, 3)])
def test_a_correction_is_judged_at_the_end_of_its_block(chain, monkeypatch, block_size, convolutions):
    """Beside the error of that place by hand: of all that is quantized up to the layer, all behind it in float."""
    model, samples = chain
    told = []
    errors = Ahead.errors
    monkeypatch.setattr(Ahead, "errors", lambda *args: told.append((args[3].name, errors(*args))) or told[-1][1])
    graph, _ = quantize(model, samples, setting=setting_of())
    BiasCorrectionPass(block_size=block_size).optimize(graph, samples, OnnxruntimeExecutor(graph))
    weights = {f"w{i}": graph.constant(f"w{i}") for i in (1, 2, 3)}

    def by_hand(x, first):
        for i in range(1, convolutions + 1):
            x = np.einsum("oi,nihw->nohw", (first if i == 1 else weights[f"w{i}"])[..., 0, 0], x) + 1
            x = np.maximum(x, 0) if i < 3 else x
        return x

    rounded = fake_quantize(weights["w1"], graph.edges["conv1", 1])
    exact = [by_hand(x, weights["w1"]) for x in samples]
    found = [by_hand(fake_quantize(x, graph.config_of("x")), rounded) for x in samples]
    off = [((a - b) ** 2).sum() / sum((c**2).sum() for c in exact) for a, b in zip(exact, found, strict=True)]
    assert told[0][0] == "c1"  # without a shift, on the first half of the samples
    np.testing.assert_allclose(told[0][1], off[::2], rtol=1e-3)


@pytest.mark.parametrize(("block_size", "taken"), [(None, (True, False)), (2, (True, False)), (1, (False, True))])
def test_what_makes_the_end_of_the_block_worse_is_dropped(chain, monkeypatch, block_size, taken):
    """Of the first layer, a shift that is right for what the second reads alone, and one for what nobody reads."""
    model, samples = chain
    read, mean = np.arange(8) < 4, Fit.mean
    monkeypatch.setattr(Fit, "trimmed_mean", lambda self: np.zeros(8))
    shifts = (lambda fit: np.where(read, mean(fit), 5.0)), (lambda fit: np.where(read, 0.0, mean(fit)))
    for shift, is_taken in zip(shifts, taken, strict=True):
        monkeypatch.setattr(Fit, "mean", shift)
        graph, _ = quantize(model, samples, setting=setting_of(block_size=block_size, bias_correct=True))
        assert (graph.constant("b1") != 1).any() == is_taken


def test_blocks_correct_layers_of_interest_alone_and_do_no_harm(small_model, small_samples):
    """Across a residual connection; of a layer that is not the first of its block."""
    exact = exact_outputs(small_model, small_samples)
    plain, corrected = (
        outputs(small_model, small_samples, setting_of(3, block_size=2, bias_correct=on)) for on in (False, True)
    )
    assert sqnr_db(exact, corrected) > sqnr_db(exact, plain) + 1
    setting = setting_of(3, block_size=2, bias_correct=True)
    setting.bias_correct_setting.interested_layers = ["conv2"]
    graph, summary = quantize(small_model, small_samples[:32], setting=setting)
    assert set(graph.changed_constants) & {"b1", "b2", "b3", "b4"} == {"b2"}
    assert any("1 of 1 layers corrected" in note for note in summary.notes)


def test_a_block_has_a_layer_at_least():
    with pytest.raises(SettingError, match=r"bias_correct_setting.block_size must be at least 1, or None; got 0"):
        BiasCorrectionPass(block_size=0)
