"""What a model is known by: a hash of its nodes and weights."""

import hashlib

import onnx_ir as ir

from calibrant.core import ModelError


def fingerprint(model: ir.Model) -> str:
    """sha256 over operators, names, attributes, types and weights, wherever the weights are stored.

    Reads every weight once. Raises ModelError for one whose bytes are not those of its shape, OSError and ValueError
    for a file of weights that cannot be read.
    """
    digest = hashlib.sha256()
    for domain, version in sorted(model.opset_imports.items()):
        digest.update(f"{domain}={version};".encode())
    for graph in model.graphs():
        _add_graph(digest, graph)
    return digest.hexdigest()


def _add_graph(digest: "hashlib._Hash", graph: ir.Graph) -> None:
    for kind, values in (("in", graph.inputs), ("out", graph.outputs)):
        for value in values:
            digest.update(f"{kind} {value.name} {value.type} {value.shape};".encode())
    for name, value in sorted(graph.initializers.items()):
        _add_tensor(digest, name, value.const_value)
    for node in graph:
        inputs = [v.name if v is not None else "" for v in node.inputs]
        digest.update(f"{node.domain}.{node.op_type} {inputs} {[v.name for v in node.outputs]};".encode())
        for key, attribute in sorted(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                _add_tensor(digest, key, attribute.as_tensor())
            elif attribute.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
                digest.update(f"{key}={attribute.value};".encode())


def _add_tensor(digest: "hashlib._Hash", name: str, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None:
        return
    digest.update(f"{name} {tensor.dtype} {tensor.shape};".encode())
    if isinstance(tensor, ir.StringTensor):
        for text in tensor.string_data():
            digest.update(f"{len(text)} ".encode() + text)
        return
    data = tensor.tobytes()
    if len(data) != tensor.nbytes:
        raise ModelError(f"weight '{name}' is damaged: {len(data)} bytes, expected {tensor.nbytes} for {tensor.shape}")
    digest.update(data)
