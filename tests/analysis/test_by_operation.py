"""analyse: every number against one computed by hand, from the configs and onnxruntime."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from calibrant.analysis import Simulation, analyse, graphwise_error_analyse, layerwise_error_analyse, sqnr_db
from calibrant.analysis.grid_use import GridUse
from calibrant.api import load_onnx_graph, quantize
from calibrant.core import QuantizationProperty as P
from calibrant.core import QuantizationStates, SettingError, StateError, TensorQuantizationConfig, fake_quantize
from calibrant.engines import OnnxruntimeExecutor
from calibrant.graph.graph import original
from calibrant.settings import QuantizationSetting
from tests.conftest import small_classifier


@pytest.fixture
def graph(small_model, small_samples):
    return quantize(small_model, small_samples[:20])[0]


@pytest.fixture
def samples(small_samples):
    return small_samples[20:26]


def floats(graph, samples, name):
    executor = OnnxruntimeExecutor(graph)
    return [executor.forward(sample, [name])[0] for sample in samples]


def test_the_operations_are_those_that_a_user_counts(graph, samples):
    found = analyse(graph, samples)
    assert [one.name for one in found.operations] == ["conv1", "conv2", "conv3", "add", "pool", "flatten", "fc"]
    assert found.samples == 6


def test_accumulated_is_what_the_quantized_model_holds(graph, samples):
    found = analyse(graph, samples)
    simulation = Simulation(graph, outputs=["r1", "sum", "logits"])
    runs = [simulation.run({"x": sample}) for sample in samples]
    by_name = {one.name: one.accumulated for one in found.operations}
    for column, (operation, value) in enumerate((("conv1", "r1"), ("add", "sum"), ("fc", "logits"))):
        expected = sqnr_db(floats(graph, samples, value), [run[column] for run in runs])
        assert by_name[operation].sqnr_db == pytest.approx(expected, abs=0.01)
    assert found.outputs["logits"] == by_name["fc"]
    assert found.sqnr_db == found.outputs["logits"].sqnr_db


def test_alone_is_the_operation_on_exact_inputs(graph, samples):
    """conv3 by hand: a 1x1 convolution is a product."""
    found = {one.name: one for one in analyse(graph, samples).operations}
    weight, bias = (graph.value(name).const_value.numpy() for name in ("w3", "b3"))
    kernel = fake_quantize(weight, graph.edges["conv3", 1])[:, :, 0, 0]
    exact, quantized = [], []
    for sample in samples:
        r2, c3 = OnnxruntimeExecutor(graph).forward(sample, ["r2", "c3"])
        made = np.einsum("oc,nchw->nohw", kernel, fake_quantize(r2, graph.config_of("r2"))) + bias[:, None, None]
        exact.append(c3)
        quantized.append(fake_quantize(made, graph.config_of("c3")))
    assert found["conv3"].alone.sqnr_db == pytest.approx(sqnr_db(exact, quantized), abs=0.05)
    assert found["conv3"].alone.sqnr_db > found["conv3"].accumulated.sqnr_db


def only(graph, name):
    """The graph with every config off but those of one operation: what is left is quantized alone."""
    node = graph.node(name)
    kept = {graph.edges[name, i] for i in range(3) if (name, i) in graph.edges}
    kept |= {graph.config_of(str(node.inputs[0].name))}
    tail = graph.node(graph.operations[name][-1]) if graph.operations[name] else node
    kept |= {graph.config_of(str(tail.outputs[0].name))}
    for config in (*graph.configs.values(), *graph.edges.values()):
        if config not in kept:
            config.state = QuantizationStates.FP32
    for constant in set(graph.changed_constants) - {value.name for value in node.inputs}:
        graph.value(constant).const_value = original(graph.value(constant))
    readers = [use.node for use in node.inputs[0].uses() if use.node is not node]
    off = next(c for c in graph.edges.values() if c.state is QuantizationStates.FP32)
    for reader in readers:
        graph.edges[str(reader.name), 1 if reader.op_type == "Add" else 0] = off


@pytest.mark.parametrize("name", ["conv2", "conv3", "conv1"])
def test_at_the_outputs_is_a_model_with_that_operation_quantized(graph, samples, name):
    found = {one.name: one for one in analyse(graph, samples, at_outputs=True).operations}
    exact = floats(graph, samples, "logits")
    only(graph, name)
    simulation = Simulation(graph)
    quantized = [simulation.run({"x": sample})[0] for sample in samples]
    assert found[name].at_outputs["logits"].sqnr_db == pytest.approx(sqnr_db(exact, quantized), abs=0.05)


def test_values_and_weights_on_their_grids(graph, samples):
    found = analyse(graph, samples)
    values = {value.name: value for value in found.values}
    exact = floats(graph, samples, "sum")
    config = graph.config_of("sum")
    rounded = [fake_quantize(x, config) for x in exact]
    everything, low = np.concatenate(exact), (config.quant_min - config.offset) * config.scale
    high = (config.quant_max - config.offset) * config.scale
    beyond = (everything < low - config.scale / 2) | (everything > high + config.scale / 2)
    assert values["sum"].difference.sqnr_db == pytest.approx(sqnr_db(exact, rounded))
    assert values["sum"].use.share_clipped == pytest.approx(beyond.mean())
    assert 0.3 < values["sum"].use.share_used <= 1
    weights = {weight.name: weight for weight in found.weights}
    assert set(weights) == {"w1", "w2", "w3", "w4"}
    w3 = graph.value("w3")
    rounded = fake_quantize(w3.const_value.numpy(), graph.edges["conv3", 1])
    assert weights["w3"].difference.sqnr_db == pytest.approx(sqnr_db([original(w3).numpy()], [rounded]))
    assert weights["w3"].difference.sqnr_db < 60
    assert weights["w3"].reader == "conv3"


def test_the_worst_comes_first(small_model, small_samples):
    """A weight with one giant in each row leaves nothing of the others."""
    graph = load_onnx_graph(small_model)
    weight = graph.value("w3").const_value.numpy().copy()
    weight[:, 0] *= 300
    graph.value("w3").const_value = ir.tensor(weight, name="w3")
    setting = QuantizationSetting()
    setting.quantize_parameter_setting.calib_algorithm = "minmax"
    quantized, _ = quantize(graph, small_samples[:20], setting=setting)
    found = analyse(quantized, small_samples[20:24])
    assert found.worst(1)[0].name in ("conv3", "add")
    assert min(found.weights, key=lambda w: w.difference.sqnr_db).name == "w3"


def test_a_shuffling_loader_feeds_both_sides_the_same(graph, samples):
    class Shuffling:
        def __init__(self):
            self.order = np.random.default_rng(3)

        def __iter__(self):
            return iter([samples[i] for i in self.order.permutation(len(samples))])

    loader = Shuffling()
    once, again = analyse(graph, loader), analyse(graph, loader)
    assert once.sqnr_db == pytest.approx(again.sqnr_db)
    assert once.sqnr_db > 15


def test_the_same_samples_give_the_same_bits(graph, samples):
    one, two = (analyse(graph, samples, executor=OnnxruntimeExecutor(graph, threads=n)) for n in (1, 2))
    assert [o.alone for o in one.operations] == [o.alone for o in two.operations]


def test_ppqs_numbers_are_noise_over_signal(graph, samples, capsys):
    found = analyse(graph, samples, at_outputs=True)
    graphwise = graphwise_error_analyse(graph, "cpu", samples)
    assert graphwise == {one.name: one.accumulated.relative for one in found.operations}
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["operation", "snr"]
    assert printed[1].split()[0] == max(graphwise, key=lambda name: graphwise[name])
    layerwise = layerwise_error_analyse(graph, "cpu", samples, verbose=False)
    assert layerwise == {one.name: one.at_outputs["logits"].relative for one in found.operations}
    assert capsys.readouterr().out == ""
    named = layerwise_error_analyse(graph, "cpu", samples, ["logits"], steps=2, method="cosine", verbose=False)
    assert all(0.9 < cosine <= 1 for cosine in named.values())


def test_what_cannot_be_analysed(graph, small_model, samples):
    with pytest.raises(StateError, match="quantize it first"):
        analyse(load_onnx_graph(small_model), samples)
    with pytest.raises(SettingError, match="did you mean 'cosine'"):
        graphwise_error_analyse(graph, "cpu", samples, method="cosin")
    with pytest.raises(SettingError, match="interested_outputs: unknown floating output 'logit'"):
        layerwise_error_analyse(graph, "cpu", samples, "logit")


def test_an_output_of_integers_is_not_measured(small_samples, tmp_path):
    model = small_classifier()
    model.graph.node.append(helper.make_node("ArgMax", ["logits"], ["best"], "argmax", axis=1, keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, ["N"]))
    onnx.save(model, tmp_path / "two.onnx")
    graph, _ = quantize(tmp_path / "two.onnx", small_samples[:20])
    errors = layerwise_error_analyse(graph, "cpu", small_samples[20:22], verbose=False)
    assert errors == layerwise_error_analyse(graph, "cpu", small_samples[20:22], "logits", verbose=False)
    with pytest.raises(SettingError, match="unknown floating output 'best'"):
        layerwise_error_analyse(graph, "cpu", small_samples[20:22], "best")


@pytest.mark.parametrize("scale", [0.5, -0.5])
def test_what_is_rounded_to_the_end_of_the_grid_is_not_beyond_it(scale):
    """A weight whose rounding was chosen may be most of a step from where it was, on the grid."""
    config = TensorQuantizationConfig(
        P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, quant_min=-127, scale=abs(scale), offset=0
    )
    exact = np.float32([126.2, 127.4, 127.9, 3]) * scale
    use = GridUse(config)
    use.add(exact, np.float32([127, 127, 127, 3]) * scale)
    assert (use.elements, use.clipped) == (4, 1)
