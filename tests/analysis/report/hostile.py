"""A model whose names would be more than text, if a page let them."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SCRIPT = "</script><script>document.documentElement.dataset.hacked='1'</script>"
IMAGE = "<img src=x onerror=\"document.documentElement.dataset.hacked='1'\">"
TURNED = "a\u202eb\u200f'\"`${1}&amp;&lt;"
LONG = "long<b>" * 1500  # 10 KB


def hostile_model() -> onnx.ModelProto:
    """Four layers, one name of that kind for each value and each operation."""
    rng = np.random.default_rng(2)
    weights = {f"w{i}{SCRIPT}": rng.normal(size=(4, 3 if i == 0 else 4, 1, 1)).astype(np.float32) for i in range(3)}
    names = ["x" + IMAGE, "v" + SCRIPT, TURNED, LONG]
    nodes = [
        helper.make_node("Conv", [names[i], weight], [names[i + 1]], f"node {i} {IMAGE}{SCRIPT}")
        for i, weight in enumerate(weights)
    ]
    nodes.append(helper.make_node("Erf", [LONG], ["y"], TURNED))
    graph = helper.make_graph(
        nodes,
        SCRIPT,
        [helper.make_tensor_value_info(names[0], TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(w, name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
