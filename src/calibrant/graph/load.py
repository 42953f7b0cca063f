"""Read an ONNX model and make the working graph of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from calibrant.core import ModelError, closest
from calibrant.core.errors import first_line
from calibrant.graph.check import check_external_data, check_model
from calibrant.graph.cleanup import clean
from calibrant.graph.fingerprint import fingerprint
from calibrant.graph.graph import Graph


def load_onnx_graph(path_or_model: str | Path | onnx.ModelProto | ir.Model, simplify: bool = True) -> Graph:
    """The working graph of an ONNX file, or of a model in memory (which is copied, never changed).

    simplify: fold BatchNormalization, affine steps behind a Conv, and constants; without it only what quantization
        needs is done: names, constants as initializers, opset 13.
    External data is found beside the file and mapped, not read into memory, so models above 2 GB load.

    Raises ModelError for a file that is missing, damaged or not ONNX, and for a model that is quantized already.
    """
    path = Path(path_or_model) if isinstance(path_or_model, str | Path) else None
    model = _copy(path_or_model) if path is None else read_onnx(path)
    where = "the model" if path is None else str(path)
    try:
        check_external_data(model, where)
        check_model(model, where)
        graph = Graph(model, path, fingerprint(model))
    except (TypeError, UnicodeError, AttributeError) as error:  # names that are no text, attributes of another kind
        raise ModelError(f"{where} is not an ONNX model, or it is damaged: {_root_cause(error)}") from error
    clean(graph, simplify)
    return graph


def read_onnx(path: Path) -> ir.Model:
    """The file as it is, quantized or not. Raises ModelError where it cannot be read."""
    if not path.exists():
        near = closest(path.name, [p.name for p in path.parent.glob("*.onnx")])
        hint = f"; did you mean '{path.with_name(near)}'?" if near else ""
        raise ModelError(f"no model at {path}: there is no such file{hint}")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, expected an ONNX file")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty, expected an ONNX file")
    try:
        return ir.load(path)
    except PermissionError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # protobuf and onnx_ir raise what they come upon in a damaged file
        if path.suffix in (".pt", ".pth", ".pt2"):
            raise ModelError(
                f"{path} is a file of PyTorch, expected an ONNX file: give the module to quantize_torch_model"
            ) from error
        raise ModelError(f"{path} is not an ONNX model, or it is damaged: {_root_cause(error)}") from error


def _own_constants(clone: ir.Model) -> ir.Model:
    """A clone shares tensors with the original; those of Constant nodes get new names later, so they are wrapped."""
    for node in clone.graph.all_nodes():
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if not isinstance(tensor, ir.StringTensor):
                node.attributes["value"] = ir.AttrTensor("value", ir.tensor(tensor.numpy(), dtype=tensor.dtype))
    return clone


def _root_cause(error: BaseException) -> str:
    """What went wrong at the bottom, in one line: onnx_ir wraps its errors in where it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _copy(model: object) -> ir.Model:
    if isinstance(model, ir.Model):
        return _own_constants(model.clone())
    if isinstance(model, onnx.ModelProto):
        try:
            copied = onnx.ModelProto()
            copied.CopyFrom(model)
            return ir.serde.deserialize_model(copied)
        except Exception as error:  # as above: whatever onnx_ir comes upon
            raise ModelError(f"the model is damaged: {_root_cause(error)}") from error
    raise ModelError(f"expected a path, an onnx.ModelProto or an onnx_ir.Model, got {type(model).__name__}")
