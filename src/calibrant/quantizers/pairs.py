"""Whether sums of pairs of products fit 16 bits, in which x86 processors without VNNI keep them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from calibrant.graph import Graph
from calibrant.quantizers.rows import Kind
from calibrant.quantizers.tables import table_of


def wants_vnni(graph: Graph) -> bool:
    """Whether such a sum of this quantized graph can be larger, in a runtime that such processors run."""
    table = table_of(graph.platform) if graph.platform is not None else None
    if table is None or not table.on_x86:
        return False
    computing = {op_type for op_type, row in table.rows.items() if row.kind is Kind.COMPUTE}
    nodes = (node for node in graph.model.graph if node.op_type in computing and adds_pairs(node))
    return any(_overflows(graph, node) for node in nodes)


def adds_pairs(node: ir.Node) -> bool:
    """Whether kernels may add its products in pairs; those of depthwise convolutions go channel by channel."""
    weight = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return node.op_type != "Conv" or weight is None or (node.attributes.get_int("group", 1), 1) != tuple(weight[:2])


def _overflows(graph: Graph, node: ir.Node) -> bool:
    data, weight = graph.config_read(node, 0), graph.config_read(node, 1)
    if data is None or weight is None or not graph.is_parameter(graph.input_of(node.name or "", 1)):
        return False
    largest = 2 * (data.quant_max - data.quant_min) * max(weight.quant_max, -weight.quant_min)
    return data.num_of_bits <= 8 and largest > np.iinfo(np.int16).max  # with wider ones it is computed in float
