import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from calibrant.graph.naming import name_nodes

NAMES = st.lists(st.sampled_from(["", "a", "b", "Relu", "Relu_0", "Relu_1", "a_0"]), min_size=1, max_size=12)


def chain(names: list[str]) -> ir.Model:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"], name=name) for i, name in enumerate(names)]
    ends = [helper.make_tensor_value_info(v, 1, [1]) for v in ("v0", f"v{len(names)}")]
    return ir.from_proto(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:])))


@given(NAMES)
def test_names_are_unique_deterministic_and_the_first_bearer_keeps_its_own(names):
    model, again = chain(names), chain(names)
    name_nodes(model)
    name_nodes(again)
    given_names = [n.name for n in model.graph]
    assert given_names == [n.name for n in again.graph]
    assert len(set(given_names)) == len(names)
    assert all(given_names)
    for name in {n for n in names if n}:
        assert given_names[names.index(name)] == name
    assert name_nodes(model) == 0


def test_a_node_without_name_takes_its_operator_and_the_first_free_number():
    model = chain(["", "Relu_0", "", "x", "x"])
    name_nodes(model)
    assert [n.name for n in model.graph] == ["Relu_1", "Relu_0", "Relu_2", "x", "x_0"]
