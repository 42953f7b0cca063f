import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from calibrant.core import ModelError
from calibrant.graph import load_onnx_graph

TINY = """<ir_version: 8, opset_import: ["" : 17], producer_name: "me", metadata_props: ["k" : "v"]>
tiny (float[N,4] x) => (float[N,2] y) <float[4,2] w = {1,2,3,4,5,6,7,8}> { y = MatMul(x, w) }"""


@pytest.fixture
def tiny() -> onnx.ModelProto:
    return parser.parse_model(TINY)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_file_a_message_and_an_ir_model_give_the_same_graph(tiny, tmp_path):
    path = write(tmp_path / "tiny.onnx", tiny.SerializeToString())
    graphs = [load_onnx_graph(m) for m in (path, str(path), tiny, ir.from_proto(tiny))]
    assert len({g.fingerprint for g in graphs}) == 1
    assert len({g.to_bytes() for g in graphs}) == 1
    assert graphs[0].path == path
    assert graphs[2].path is None


def test_a_file_that_is_not_there_and_the_one_that_was_meant(tiny, tmp_path):
    write(tmp_path / "tiny.onnx", tiny.SerializeToString())
    with pytest.raises(ModelError, match=r"tinny.onnx: there is no such file; did you mean '.*tiny.onnx'\?"):
        load_onnx_graph(tmp_path / "tinny.onnx")


def test_the_model_given_is_not_changed():
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 12]> m (float[1,2] x) => (float[1,2] y) {
        c = Constant <value = float[2] {1, 2}> ()
        a = Identity(x)
        y = Add(a, c)
    }"""
    )
    as_ir = ir.from_proto(model)
    before, before_ir = model.SerializeToString(), ir.to_proto(as_ir).SerializeToString()
    for source in (model, as_ir):
        assert [n.op_type for n in load_onnx_graph(source).model.graph] == ["Add"]
    assert model.SerializeToString() == before
    assert ir.to_proto(as_ir).SerializeToString() == before_ir


def test_metadata_producer_and_other_opset_domains_stay(tiny):
    tiny.opset_import.append(helper.make_opsetid("com.example", 3))
    working = onnx.load_from_string(load_onnx_graph(tiny).to_bytes())
    assert working.producer_name == "me"
    assert {p.key: p.value for p in working.metadata_props} == {"k": "v"}
    assert {o.domain: o.version for o in working.opset_import} == {"": 17, "com.example": 3}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"this is not a model at all, but a letter", "not an ONNX model"),
        (parser.parse_model(TINY).SerializeToString()[:-20], "damaged"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "not an ONNX model"),
        (np.random.default_rng(0).bytes(5000), "not an ONNX model"),
    ],
)
def test_what_is_no_model_is_refused(tmp_path, content, words):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=words) as error:
        load_onnx_graph(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.pt2"])
def test_a_file_of_pytorch_is_told_where_to_go(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:  # what torch.save writes
        archive.writestr("archive/data.pkl", b"...")
    with pytest.raises(ModelError, match=rf"{name} is a file of PyTorch.*quantize_torch_model"):
        load_onnx_graph(tmp_path / name)


def test_a_folder_and_another_object_are_refused(tmp_path):
    with pytest.raises(ModelError, match="is a folder"):
        load_onnx_graph(tmp_path)
    with pytest.raises(ModelError, match=r"expected a path.*got int"):
        load_onnx_graph(3)  # type: ignore[arg-type]


def node_model(*nodes: onnx.NodeProto, opset: int = 17) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in "xy")
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", opset)])


def test_damaged_graphs_are_refused():
    with pytest.raises(ModelError, match=r"node 'r' .Relu. reads 'nowhere'"):
        load_onnx_graph(node_model(helper.make_node("Relu", ["nowhere"], ["y"], name="r")))
    with pytest.raises(ModelError, match=r"damaged: Output 'y' is redeclared"):
        load_onnx_graph(node_model(helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Abs", ["x"], ["y"])))
    with pytest.raises(ModelError, match="nothing makes its output 'y'"):
        load_onnx_graph(node_model(helper.make_node("Relu", ["x"], ["z"])))
    with pytest.raises(ModelError, match="read what is made from their own results"):
        load_onnx_graph(node_model(helper.make_node("Relu", ["z"], ["y"]), helper.make_node("Add", ["x", "y"], ["z"])))


def test_a_weight_shorter_than_its_shape_is_refused(tiny):
    tiny.graph.initializer[0].CopyFrom(
        TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 2], raw_data=b"\0" * 20)
    )
    with pytest.raises(ModelError, match="'w'"):
        load_onnx_graph(tiny)


@pytest.mark.parametrize(("opset", "words"), [(9, "opset 9, expected 11 or newer"), (99, "opset 99; .*pip install")])
def test_opsets_out_of_range_are_refused(opset, words):
    with pytest.raises(ModelError, match=words):
        load_onnx_graph(node_model(helper.make_node("Relu", ["x"], ["y"]), opset=opset))


@pytest.mark.parametrize(
    ("op_type", "domain"),
    [("DynamicQuantizeLinear", ""), ("QLinearConv", ""), ("QGemm", "com.microsoft"), ("MatMulNBits", "com.microsoft")],
)
def test_a_quantized_model_is_refused_wherever_the_node_is(tiny, op_type, domain):
    node = helper.make_node(op_type, ["x"], ["q"], domain=domain)
    tiny.graph.node.insert(0, node)
    with pytest.raises(ModelError, match=f"quantized already .1 {op_type}"):
        load_onnx_graph(tiny)
    inner = helper.make_graph([node], "inner", [], [helper.make_tensor_value_info("q", TensorProto.FLOAT, None)])
    outer = node_model(
        helper.make_node("ReduceSum", ["x"], ["s"]),
        helper.make_node("Cast", ["s"], ["b"], to=TensorProto.BOOL),
        helper.make_node("If", ["b"], ["y"], then_branch=inner, else_branch=inner),
    )
    with pytest.raises(ModelError, match="quantized already"):
        load_onnx_graph(outer)


def external(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "big.onnx"
    array = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))  # onnx moves raw data out, nothing else
    onnx.save(model, path, save_as_external_data=True, location="big.data", size_threshold=0)
    return path


def test_external_data_gives_the_same_model(tiny, tmp_path):
    inside = load_onnx_graph(tiny)
    outside = load_onnx_graph(external(tmp_path, tiny))
    assert outside.fingerprint == inside.fingerprint
    weight = outside.value("w").const_value
    assert isinstance(weight, ir.ExternalTensor)
    np.testing.assert_array_equal(weight.numpy(), [[1, 2], [3, 4], [5, 6], [7, 8]])


def test_external_data_that_is_missing_or_short_names_file_and_weight(tiny, tmp_path):
    path = external(tmp_path, tiny)
    data = (tmp_path / "big.data").read_bytes()
    (tmp_path / "big.data").write_bytes(data[:-4])
    with pytest.raises(ModelError, match=r"big.data is damaged: weight 'w' .* ends at byte 32, the file has 28"):
        load_onnx_graph(path)
    (tmp_path / "big.data").unlink()
    with pytest.raises(ModelError, match=r"keeps weight 'w' in .*big.data, and there is no such file"):
        load_onnx_graph(path)


def test_external_data_outside_of_the_folder_is_refused(tiny, tmp_path):
    (tmp_path / "in").mkdir()
    path = external(tmp_path / "in", tiny)
    (tmp_path / "in" / "big.data").rename(tmp_path / "big.data")
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../big.data"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"weight .w. is damaged, or cannot be read: .*outside"):
        load_onnx_graph(path)


def test_the_fingerprint_is_of_weights_and_nodes(tiny):
    same = load_onnx_graph(tiny).fingerprint
    other = onnx.ModelProto()
    other.CopyFrom(tiny)
    array = numpy_helper.to_array(other.graph.initializer[0]).copy()
    array[3, 1] += 1
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(array, "w"))
    assert load_onnx_graph(other).fingerprint != same
    tiny.graph.node[0].op_type = "Gemm"
    assert load_onnx_graph(tiny).fingerprint != same


def test_the_fingerprint_is_the_same_tomorrow(tiny):
    """Tables of calibration name the model by it: a change here makes every saved table a stranger."""
    assert load_onnx_graph(tiny).fingerprint == "62409c2a08fd9c709d774d6eb0ae791bf6e8ff64d297c277f02d04b26d30f357"


def test_the_fingerprint_is_the_same_in_memory_and_in_a_file(tmp_path):
    """Python's floats have more digits than those of a file; a model that was exported just now has them."""
    x = ir.val("x", ir.DataType.FLOAT, [2])
    constant = ir.node("Constant", [], {"value_floats": [0.1, 0.2]})
    y = ir.node("Elu", [ir.node("Add", [x, constant.outputs[0]]).outputs[0]], {"alpha": 0.3})
    nodes = [constant, y.inputs[0].producer(), y]
    y.outputs[0].type, y.outputs[0].shape = x.type, x.shape
    model = ir.Model(ir.Graph([x], y.outputs, nodes=nodes, opset_imports={"": 17}, name="g"), ir_version=8)
    ir.save(model, tmp_path / "m.onnx")
    assert load_onnx_graph(tmp_path / "m.onnx").fingerprint == load_onnx_graph(model).fingerprint


def test_the_fingerprint_knows_bodies_and_functions():
    text = """<ir_version: 8, opset_import: ["" : 17, "mine" : 1]>
        g (float[2] x, bool b) => (float[2] y) { a = mine.f(x)
            y = If (b) <
                then_branch = t () => (float[2] u) { u = %s(a) },
                else_branch = e () => (float[2] v) { v = Abs(a) }
            > }
        <opset_import: ["" : 17], domain: "mine"> f (x) => (y) { y = %s(x) }"""
    models = [parser.parse_model(text % ops) for ops in (("Abs", "Relu"), ("Neg", "Relu"), ("Abs", "Neg"))]
    assert len({load_onnx_graph(m).fingerprint for m in models}) == 3


def test_strings_are_constants_too():
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 20]> g (string[2] x) => (string[2] y) {
            s = Constant <value_string = "abc"> ()
            y = StringConcat(x, s)
        }"""
    )
    graph = load_onnx_graph(model)
    assert len(graph.fingerprint) == 64
    assert graph.is_parameter("s")


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 400), at=st.integers(0, 400), byte=st.integers(0, 255))
@example(cut=0, at=180, byte=2)  # the element type of a weight
@example(cut=0, at=15, byte=121)  # MatMul reads what it makes
def test_damage_anywhere_gives_a_model_or_an_error_of_ours(tmp_path_factory, cut, at, byte):
    content = bytearray(parser.parse_model(TINY).SerializeToString())
    content[at % len(content)] = byte
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(content[: max(1, len(content) - cut % len(content))] if cut % 2 else content)
    graph, said = None, ""
    try:
        graph = load_onnx_graph(path)
    except ModelError as error:
        said = str(error)
    if graph is None:
        assert str(path) in said or "is damaged" in said  # a weight, by its name
    else:
        names = [node.name for node in graph.model.graph]
        assert all(names)
        assert len(set(names)) == len(names)
