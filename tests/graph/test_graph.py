import numpy as np
import onnx
import pytest
from onnx import helper, parser

from calibrant.core import ModelError, QuantizationStates, TensorQuantizationConfig
from calibrant.core import QuantizationProperty as P
from calibrant.graph import Graph, load_onnx_graph
from calibrant.graph import graph as graph_module

HEAD = '<ir_version: 8, opset_import: ["" : 17]>'


def load(text: str, **options: bool) -> Graph:
    return load_onnx_graph(parser.parse_model(HEAD + text), **options)


@pytest.fixture
def cnn() -> Graph:
    w, m = ", ".join(["1"] * 108), ", ".join(["2"] * 20)
    return load(
        f"g (float[N,3,H,8] x) => (float[N,5] y) <float[4,3,3,3] w = {{{w}}}, float[4,5] m = {{{m}}}>"
        """{
            c = Conv <pads = [1,1,1,1]> (x, w)
            r = Relu(c)
            p = ReduceMean <axes = [2,3], keepdims = 0> (r)
            y = MatMul(p, m)
        }"""
    )


def test_names_types_and_shapes(cnn):
    assert (cnn.input_names, cnn.output_names) == (["x"], ["y"])
    assert (cnn.source_inputs, cnn.source_outputs) == (["x"], ["y"])
    assert cnn.shape_of("x") == ["N", 3, "H", 8]
    assert [d for d in cnn.shape_of("c") if isinstance(d, int)] == [4, 8]
    assert cnn.shape_of("p") == ["N", 4]
    assert cnn.dtype_of("c").name == "FLOAT"
    assert cnn.input_of("MatMul_0", 1) == "m"
    assert cnn.is_parameter("m")
    assert not cnn.is_parameter("p")
    assert cnn.outputs_of_type("Relu") == ["r"]


def test_what_is_not_there_is_an_error(cnn):
    for ask in (lambda: cnn.value("q"), lambda: cnn.node("q"), lambda: cnn.input_of("Relu_0", 1)):
        with pytest.raises(ModelError, match=r"'q'|no input 1"):
            ask()


def grid(state: QuantizationStates = QuantizationStates.ACTIVATED) -> TensorQuantizationConfig:
    return TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.SYMMETRICAL, state=state)


def test_by_which_config_a_node_reads(cnn):
    conv, relu = cnn.node("Conv_0"), cnn.node("Relu_0")
    assert [cnn.config_read(conv, index) for index in (0, 1, 2)] == [None, None, None]  # 2: it has no such input
    cnn.configs = {"x": grid(), "c": grid(QuantizationStates.OVERLAPPED)}
    cnn.edges = {("Conv_0", 1): grid()}
    assert cnn.config_read(conv, 0) is cnn.configs["x"]
    assert cnn.config_read(conv, 1) is cnn.edges["Conv_0", 1]
    assert cnn.config_read(relu, 0) is None
    own = cnn.edges["Conv_0", 0] = grid()
    assert cnn.config_read(conv, 0) is own
    own.state = QuantizationStates.FP32
    assert cnn.config_read(conv, 0) is None
    own.state = QuantizationStates.OVERLAPPED
    assert cnn.config_read(conv, 0) is cnn.configs["x"]


def test_channel_axes(cnn):
    assert [cnn.channel_axis_of(v) for v in ("x", "c", "r", "p", "y")] == [1, 1, 1, 1, 1]
    sequences = load(
        """g (float[N,T,6] x, float[N,2,T] s, float[D] v, float[N,T,K] u) => (a, b, c, d, e)
        <float[3,2,1] w = {1,2,3,4,5,6}> {
            a = Relu(x)  conv = Conv(s, w)  b = Sigmoid(conv)  c = Relu(v)  d = Relu(u)
            root = Sqrt(s)  e = Conv(root, w)
        }"""
    )
    # rank 3: the last axis; behind and before a Conv: 1; rank 1, and an axis that is not static: none
    assert [sequences.channel_axis_of(v) for v in ("a", "b", "root", "c", "d")] == [2, 1, 1, None, None]


def test_save_float_and_above_the_limit_of_protobuf(cnn, tmp_path, monkeypatch):
    cnn.save_float(tmp_path / "small.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]
    monkeypatch.setattr(graph_module, "PROTOBUF_LIMIT", 100)
    with pytest.raises(ModelError, match=r"512 bytes of weights.*save_float"):
        cnn.to_bytes()
    cnn.save_float(tmp_path / "big.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data", "small.onnx"]
    small, big = (load_onnx_graph(tmp_path / f"{name}.onnx") for name in ("small", "big"))
    assert big.fingerprint == small.fingerprint


def test_shapes_are_inferred_where_the_model_has_none_and_kept_where_it_has():
    graph = load("g (float[N,4] x) => (float[M,K] y) { a = Relu(x) y = Abs(a) }")
    assert graph.shape_of("a") == ["N", 4]
    assert graph.shape_of("y") == ["M", "K"]


def test_a_number_has_a_shape_and_it_is_empty():
    graph = load("g (float[N,4] x) => (float[N,4] y) { a = ReduceSum <keepdims = 0> (x) b = Sqrt(a) y = Mul(x, b) }")
    assert graph.shape_of("b") == []


def test_inference_that_gives_up_is_reported_and_the_model_loads():
    """A domain that the model does not import: the runtime will say more."""
    graph = load("g (float[2,3] x) => (float[2,3] y) { c = zz.Nonsense(x) y = Relu(c) }")
    assert any(line.startswith("onnx could not infer the shapes") for line in graph.report)
    assert graph.shape_of("c") is None


def test_notes_go_with_the_quantization(cnn):
    cnn.report.append("loaded")
    cnn.note("quantized")
    assert cnn.report[-2:] == ["loaded", "quantized"]
    cnn.clear_quantization()
    assert cnn.report[-1:] == ["loaded"]


def test_constants_become_initializers_and_inputs_with_defaults_constants(run):
    model = parser.parse_model(
        """<ir_version: 3, opset_import: ["" : 13]>
        g (float[2,2] x, float[2,2] w) => (float[2,2] y) <float[2,2] w = {1,2,3,4}> {
            s = Constant <value_float = 3.0> ()
            v = Constant <value_ints = [2, 2]> ()
            a = MatMul(x, w)
            b = Mul(a, s)
            y = Reshape(b, v)
        }"""
    )
    graph = load_onnx_graph(model)
    assert [n.op_type for n in graph.model.graph] == ["MatMul", "Mul", "Reshape"]
    assert graph.is_parameter("s")
    assert graph.source_inputs == ["x"]
    assert "1 input with a default made constant" in graph.report
    x = np.float32([[1, 2], [3, 4]])
    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes()))

    np.testing.assert_allclose(run(graph.to_bytes(), x=x)[0], 3 * x @ np.float32([[1, 2], [3, 4]]))


def test_functions_of_the_model_are_inlined(loads_equal):
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1,2,3,4}> { a = mine.f(x, w)  y = mine.f(a, w) }
        <opset_import: ["" : 17], domain: "mine"> f (x, w) => (y) { m = MatMul(x, w)  y = Relu(m) }"""
    )
    graph = loads_equal(model, x=np.float32([[1, -2], [3, 4]]))
    assert [n.op_type for n in graph.model.graph] == ["MatMul", "Relu", "MatMul", "Relu"]
    assert "1 function of the model inlined" in graph.report


def test_nodes_out_of_order_are_put_in_order():
    nodes = [helper.make_node("Relu", ["a"], ["y"]), helper.make_node("Abs", ["x"], ["a"])]
    x, y = (helper.make_tensor_value_info(n, 1, [2]) for n in "xy")
    graph = load_onnx_graph(helper.make_model(helper.make_graph(nodes, "g", [x], [y])))
    assert [n.op_type for n in graph.model.graph] == ["Abs", "Relu"]
