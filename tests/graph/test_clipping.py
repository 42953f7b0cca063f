"""Relu and Clip: who runs right behind an operator, and what it lets through."""

import numpy as np
import pytest
from onnx import parser

from calibrant.core import QuantizationProperty as P
from calibrant.core import TensorQuantizationConfig
from calibrant.graph import load_onnx_graph
from calibrant.graph.clipping import ANYTHING, activation_ends, fused_activation
from calibrant.passes.base import written_config

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g '


@pytest.mark.parametrize(
    ("model", "behind", "ends"),
    [
        ("(float[N] x) => (float[N] y) { v = Neg(x) y = Relu(v) }", "Relu", (0, np.inf)),
        ("(float[N] x) => (float[N] y) <float six = {6}> { v = Neg(x) y = Clip(v, , six) }", "Clip", (-np.inf, 6)),
        ("(float[N] x, float low) => (float[N] y) { v = Neg(x) y = Clip(v, low) }", "Clip", ANYTHING),
        ("(float[N] x) => (float[N] y) { v = Neg(x) y = Abs(v) }", None, ANYTHING),
        ("(float[N] x) => (float[N] y, float[N] z) { v = Neg(x) y = Relu(v) z = Abs(v) }", None, ANYTHING),
        ("(float[N] x) => (float[N] y, float[N] v) { v = Neg(x) y = Relu(v) }", None, ANYTHING),  # an output as well
        ("(float x) => (float y) { v = Neg(x) y = Clip(x, v) }", None, ANYTHING),  # it is a bound
        (
            """(float[N] x, bool flag) => (float[N] y) {
                v = Neg(x)
                y = If (flag) <
                    then_branch = yes () => (float[N] p) { p = Relu(v) },
                    else_branch = no () => (float[N] q) { q = Constant <value_float = 1.0> () }>
            }""",
            None,
            ANYTHING,
        ),
    ],
)
def test_the_activation_that_alone_reads_a_value(model, behind, ends):
    graph = load_onnx_graph(parser.parse_model(HEAD + model))
    node = graph.value("v").producer()
    found = fused_activation(node)
    assert (found.op_type if found is not None else None) == behind
    assert activation_ends(node) == ends
    relu = graph.model.graph[-1].outputs[0].name
    graph.configs[relu] = TensorQuantizationConfig(P.PER_TENSOR | P.LINEAR | P.ASYMMETRICAL)
    assert (written_config(graph, node) is graph.configs[relu]) == (behind is not None)
