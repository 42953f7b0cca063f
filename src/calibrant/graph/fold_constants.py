"""Fold nodes whose inputs are all constants, as long as the model does not grow by it."""

from __future__ import annotations

import logging
import math

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from calibrant.graph.shapes import static_shape

log = logging.getLogger(__name__)

SMALL = 4096  # bytes that a folded constant may add to the model
_RANDOM = frozenset(
    ["RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"]
)
_KEPT = _RANDOM | frozenset(
    ["Dropout", "Constant", "If", "Loop", "Scan", "SequenceMap", "Optional", "OptionalGetElement"]
)


def fold_constants(model: ir.Model) -> int:
    """Evaluate nodes of the main graph whose inputs are all initializers; returns how many.

    Left alone: random operators, those with graphs inside, those of other domains, those that onnx's reference
    evaluator does not have, and those whose result is larger than the constants it frees (by more than 4 KB).
    """
    folded = 0
    version = model.opset_imports.get("", 0)
    for node in model.graph:
        if not _is_candidate(node):
            continue
        results = _evaluate(node, version)
        if results is None:
            continue
        for output, result in zip(node.outputs, results, strict=True):
            constant = ir.Value(name=output.name, const_value=ir.tensor(result, name=output.name))
            constant.type, constant.shape = ir.TensorType(ir.DataType.from_numpy(result.dtype)), ir.Shape(result.shape)
            output.replace_all_uses_with(constant)
            model.graph.register_initializer(constant)
        freed = [v for v in node.inputs if v is not None]
        model.graph.remove(node, safe=True)
        for value in freed:
            if not value.uses() and not value.is_graph_output():
                model.graph.initializers.pop(value.name or "", None)
        folded += 1
    return folded


def _is_candidate(node: ir.Node) -> bool:
    if node.domain or node.op_type in _KEPT or not any(v is not None for v in node.inputs):
        return False
    if any(v is not None and v.const_value is None for v in node.inputs):
        return False
    if any(o.is_graph_output() for o in node.outputs):
        return False
    sizes = [_bytes(v) for v in node.outputs]
    known = [size for size in sizes if size is not None]
    return sum(known) <= SMALL + _freed(node) if len(known) == len(sizes) else _cannot_grow(node)


def _bytes(value: ir.Value) -> float | None:
    """The size of a value, None where inference does not tell it."""
    shape = static_shape(value)
    return None if shape is None or value.dtype is None else math.prod(shape) * value.dtype.itemsize


def _freed(node: ir.Node) -> int:
    """Bytes of the constants that only this node reads."""
    return sum(t.nbytes for v, t in _constants(node) if {use.node for use in v.uses()} == {node})


def _constants(node: ir.Node) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """The constants that it reads, each once."""
    return [(v, v.const_value) for v in dict.fromkeys(node.inputs) if v is not None and v.const_value is not None]


def _cannot_grow(node: ir.Node) -> bool:
    """Whether a result of unknown shape is small all the same: tiny inputs to an operator that does not repeat them."""
    repeats = {"ConstantOfShape", "Expand", "Tile", "Range", "Resize", "OneHot", "Pad", "EyeLike", "Upsample"}
    return node.op_type not in repeats and sum(tensor.nbytes for _, tensor in _constants(node)) <= SMALL


def _evaluate(node: ir.Node, version: int) -> list[np.ndarray] | None:
    """What the node makes of its constants; None where the reference evaluator has no answer."""
    constants = {v.name or "": tensor for v, tensor in _constants(node)}
    proto = onnx.helper.make_graph(
        [ir.to_proto(node)],
        "fold",
        [onnx.helper.make_tensor_value_info(name, int(t.dtype), None) for name, t in constants.items()],
        [onnx.helper.make_empty_tensor_value_info(v.name or "") for v in node.outputs],
    )
    opset = onnx.helper.make_opsetid("", version)
    try:
        evaluator = ReferenceEvaluator(onnx.helper.make_model(proto, opset_imports=[opset]))
        with np.errstate(all="ignore"):
            results = evaluator.run(None, {name: tensor.numpy() for name, tensor in constants.items()})
    except Exception as error:  # an operator it lacks or cannot run: the node simply stays
        log.debug("not folded: %s (%s): %s", node.name, node.op_type, error)
        return None
    expected = [v.dtype for v in node.outputs]
    if not all(isinstance(r, np.ndarray | np.generic) for r in results):
        return None
    arrays = [np.asarray(r) for r in results]
    if any(e is not None and ir.DataType.from_numpy(a.dtype) != e for a, e in zip(arrays, expected, strict=True)):
        return None
    return arrays
