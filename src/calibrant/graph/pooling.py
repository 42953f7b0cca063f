"""A mean over the whole image, written as ReduceMean, becomes the GlobalAveragePool that it is.

    ReduceMean over the axes 2, 3, ... of a value of rank 4 or 5      GlobalAveragePool
    the same without keepdims                                         GlobalAveragePool, Flatten

Some exporters write the one, some the other (torch.onnx: ReduceMean with dynamo, GlobalAveragePool before), and
runtimes have integer kernels for the pool alone. A mean that is subtracted is one of a normalization, and stays.
"""

from __future__ import annotations

import onnx_ir as ir

from calibrant.graph.naming import Names


def spell_pooling(model: ir.Model) -> int:
    """Rewrite what there is in the main graph; returns how many."""
    names = Names(model)
    found = [node for node in model.graph if node.op_type == "ReduceMean" and not node.domain and _is_pool(node)]
    for node in found:
        _replace(model.graph, node, names)
    return len(found)


def _is_pool(node: ir.Node) -> bool:
    image, axes = node.inputs[0], _axes(node)
    if image is None or image.shape is None or image.dtype is not ir.DataType.FLOAT or axes is None:
        return False  # onnxruntime pools float32 alone
    rank = len(image.shape)
    whole = rank in (4, 5) and sorted(axis % rank for axis in axes) == list(range(2, rank))
    return whole and not any(use.node.op_type == "Sub" for use in node.outputs[0].uses())


def _axes(node: ir.Node) -> list[int] | None:
    """An attribute to opset 17, an input from 18 on; None where they are not known, or all."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        constant = node.inputs[1].const_value
        return None if constant is None else [int(axis) for axis in constant.numpy()]
    attribute = node.attributes.get("axes")
    return None if attribute is None else list(attribute.as_ints())


def _replace(graph: ir.Graph, node: ir.Node, names: Names) -> None:
    image, mean = node.inputs[0], node.outputs[0]
    assert image is not None
    assert image.shape is not None
    pool = ir.Node("", "GlobalAveragePool", [image], name=node.name)
    made = [pool]
    if not node.attributes.get_int("keepdims", 1):
        flat = ir.Node("", "Flatten", [pool.outputs[0]], [ir.AttrInt64("axis", 1)])
        pool.outputs[0].name = names.fresh(f"{mean.name}_pooled")
        pool.outputs[0].type = mean.type
        pool.outputs[0].shape = ir.Shape([*image.shape[:2], *[1] * (len(image.shape) - 2)])
        made.append(flat)
    last = made[-1].outputs[0]
    last.name, last.type, last.shape = mean.name, mean.type, mean.shape
    graph.insert_after(node, made)
    mean.replace_all_uses_with(last, replace_graph_outputs=True)
    graph.remove(node, safe=True)
