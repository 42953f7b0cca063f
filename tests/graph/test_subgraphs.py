import numpy as np
import pytest
from onnx import parser

LOOP = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,2] x, int64 n) => (float[1,2] y, float[k,1,2] s) <float[2,2] w = {0.1, 0.2, 0.3, 0.4}> {
    h = MatMul(x, w)
    r = Relu(h)
    always = Constant <value = bool {1}> ()
    y, s = Loop (n, always, x) <body = b (int64 i, bool c, float[1,2] carried) => (bool go, float[1,2] next, float[1,2] seen) {
        one = Constant <value = float {1.0}> ()
        sum = Add(carried, r)
        next = Mul(sum, one)
        seen = Identity(sum)
        go = Identity(c)
    }>
}"""  # noqa: E501


def test_a_loop_that_captures_a_value_still_works(loads_equal):
    model = parser.parse_model(LOOP)
    graph = loads_equal(model, x=np.float32([[1, 2]]), n=np.array(3))
    assert "left in float: 4 nodes inside Loop" in graph.report
    # names are unique over the graphs: an edge (node, index) means one node
    every = [n.name for g in graph.model.graphs() for n in g]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize("sure", [True, False])
def test_branches_that_capture_what_is_folded_still_work(loads_equal, sure):
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,2,2,2] x, bool sure) => (float[1,2,2,2] y)
        <float[2,2,1,1] w = {1, 2, 3, 4}, float[2] v = {1, 2}, float[2] z = {0.5, 0.25}> {
            h = Conv(x, w)
            b = BatchNormalization(h, v, z, z, v)
            i = Identity(b)
            k = Add(v, z)
            y = If (sure) <
                then_branch = t () => (float[1,2,2,2] a) { a = Relu(i) },
                else_branch = e () => (float[1,2,2,2] a2) { d = ReduceSum(k)  a2 = Mul(b, d) }
            >
        }"""
    )
    graph = loads_equal(model, x=np.float32(np.arange(8).reshape(1, 2, 2, 2) - 4), sure=np.array(sure))
    assert [n.op_type for n in graph.model.graph] == ["Conv", "If"]
