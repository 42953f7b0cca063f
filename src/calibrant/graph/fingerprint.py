"""What a model is known by: a hash of its nodes and weights."""

import hashlib
import sys
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from calibrant.core import ModelError


def fingerprint(model: ir.Model) -> str:
    """sha256 over operators, names, attributes, types and weights, wherever the weights are stored.

    Reads every weight once. Raises ModelError for one whose bytes are not those of its shape, or cannot be read.
    """
    digest = hashlib.sha256()
    for domain, version in sorted(model.opset_imports.items()):
        digest.update(f"{domain}={version};".encode())
    for graph in model.graphs():
        _add_values(digest, graph)
        _add_nodes(digest, graph)
    for function in model.functions.values():
        digest.update(f"function {function.domain}.{function.name};".encode())
        _add_nodes(digest, function)
    return digest.hexdigest()


def _add_values(digest: "hashlib._Hash", graph: ir.Graph) -> None:
    for kind, values in (("in", graph.inputs), ("out", graph.outputs)):
        for value in values:
            dims = None if value.shape is None else [d if isinstance(d, int) else d.value for d in value.shape]
            digest.update(f"{kind} {value.name} {value.dtype} {dims};".encode())
    for name, value in sorted(graph.initializers.items()):
        _add_tensor(digest, name, value.const_value)


def _add_nodes(digest: "hashlib._Hash", nodes: Iterable[ir.Node]) -> None:
    for node in nodes:
        inputs = [v.name if v is not None else "" for v in node.inputs]
        digest.update(f"{node.domain}.{node.op_type} {inputs} {[v.name for v in node.outputs]};".encode())
        for key, attribute in sorted(node.attributes.items()):
            if attribute.is_ref():
                digest.update(f"{key}->{attribute.ref_attr_name};".encode())
            elif attribute.type == ir.AttributeType.TENSOR:
                _add_tensor(digest, key, attribute.as_tensor())
            elif attribute.type is ir.AttributeType.FLOAT:  # Python's 1e-5 in memory, its float32 in a file
                digest.update(f"{key}={float(np.float32(attribute.as_float()))};".encode())
            elif attribute.type is ir.AttributeType.FLOATS:
                digest.update(f"{key}={tuple(float(np.float32(x)) for x in attribute.as_floats())};".encode())
            elif attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                digest.update(f"{key}={attribute.value};".encode())


def _add_tensor(digest: "hashlib._Hash", name: str, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None:
        return
    dims = [int(d) for d in tensor.shape.numpy()]
    digest.update(f"{name} {tensor.dtype} {dims};".encode())
    if isinstance(tensor, ir.StringTensor):
        for text in tensor.string_data():
            digest.update(f"{len(text)} ".encode() + text)
        return
    digest.update(_bytes_of(name, tensor))


def _bytes_of(name: str, tensor: ir.TensorProtocol) -> memoryview | bytes:
    """The numbers as little-endian bytes; a mapped file is not copied."""
    try:
        array = np.ascontiguousarray(tensor.numpy()).reshape(-1)
        if sys.byteorder == "little" and array.nbytes == tensor.nbytes:
            return array.view(np.uint8).data
        return tensor.tobytes()  # types of less than a byte are stored packed
    except (OSError, ValueError, AssertionError) as error:  # onnx_ir asserts that numbers and element type fit
        raise ModelError(f"weight '{name}' is damaged, or cannot be read: {error}") from error
