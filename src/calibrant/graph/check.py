"""What a model must be before anything is done to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx.defs
import onnx_ir as ir

from calibrant.core import ModelError

OLDEST_OPSET = 11
_QUANTIZED = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
    | {"MatMulIntegerToFloat", "MatMulInteger16", "MatMulNBits", "MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized"}
)
_QUANTIZED_PREFIXES = ("QLinear", "QGemm", "QMoE", "QAttention", "QEmbed", "QOrdered", "DynamicQuantize")


def check_model(model: ir.Model, where: str) -> None:
    """Raise ModelError unless the model is a whole, float, ONNX model of an opset that we can work on."""
    if not model.graph.outputs:
        raise ModelError(f"{where} is not an ONNX model, or it is damaged: its graph has no outputs")
    _check_opset(model, where)
    _check_not_quantized(model, where)
    _check_values(model, where)


def check_external_data(model: ir.Model, where: str) -> None:
    """Raise ModelError unless every file that holds weights is there, and long enough."""
    for tensor in _tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        path = Path(tensor.path)
        if not path.is_file():
            raise ModelError(f"{where} keeps weight '{tensor.name}' in {path}, and there is no such file: put it there")
        expected = (tensor.offset or 0) + (tensor.length if tensor.length is not None else tensor.nbytes)
        if path.stat().st_size < expected:
            raise ModelError(
                f"{path} is damaged: weight '{tensor.name}' of {where} ends at byte {expected}, "
                f"the file has {path.stat().st_size}"
            )


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    yield attribute.as_tensor()


def _check_opset(model: ir.Model, where: str) -> None:
    version = model.opset_imports.get("")
    if version is None:
        if any(node.domain == "" for node in model.graph.all_nodes()):
            raise ModelError(f"{where} is damaged: it uses standard operators and does not say of which opset")
        return
    newest = onnx.defs.onnx_opset_version()
    if version > newest:
        raise ModelError(
            f"{where} uses opset {version}; the installed onnx knows up to {newest}: "
            "pip install -U onnx onnxruntime, or export the model with an older opset"
        )
    if version < OLDEST_OPSET:
        raise ModelError(
            f"{where} uses opset {version}, expected {OLDEST_OPSET} or newer: export it again, or convert it with "
            "onnx.version_converter.convert_version"
        )


def quantized_operators(model: ir.Model) -> Counter[str]:
    """How many operators there are of each type that only quantized models have."""
    bodies = [*model.graphs(), *model.functions.values()]
    kinds = (node.op_type for body in bodies for node in body)
    return Counter(kind for kind in kinds if kind in _QUANTIZED or kind.startswith(_QUANTIZED_PREFIXES))


def _check_not_quantized(model: ir.Model, where: str) -> None:
    found = quantized_operators(model)
    if found:
        which = ", ".join(f"{count} {op}" for op, count in found.most_common(3))
        raise ModelError(f"{where} is quantized already ({which}): give the float model it was made from")


def _check_values(model: ir.Model, where: str) -> None:
    """Every value that is read is made somewhere. (That it is made only once, onnx_ir has seen to.)"""
    for graph in model.graphs():
        for node in graph:
            if "sparse_value" in node.attributes:
                raise ModelError(f"{where} has a sparse constant, '{node.outputs[0].name}': export it as a dense one")
            for value in node.inputs:
                if value is not None and _comes_from_nowhere(value):
                    raise ModelError(
                        f"{where} is damaged: node '{node.name}' ({node.op_type}) reads '{value.name}', "
                        "which no node makes and which is neither an input nor a weight"
                    )
        for value in graph.outputs:
            if _comes_from_nowhere(value):
                raise ModelError(f"{where} is damaged: nothing makes its output '{value.name}'")


def _comes_from_nowhere(value: ir.Value) -> bool:
    return value.producer() is None and not value.is_graph_input() and not value.is_initializer()
