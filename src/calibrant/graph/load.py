"""Read an ONNX model and make the working graph of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from calibrant.core import ModelError
from calibrant.graph.cleanup import clean
from calibrant.graph.fingerprint import fingerprint
from calibrant.graph.graph import Graph


def load_onnx_graph(path_or_model: str | Path | onnx.ModelProto | ir.Model, simplify: bool = True) -> Graph:
    """The working graph of an ONNX file, or of a model in memory (which is copied, never changed).

    simplify: fold BatchNormalization and constants; without it only what quantization needs is done.
    External data is found beside the file; nothing is read before it is needed, so models above 2 GB load.

    Raises ModelError for a file that is missing, damaged or not ONNX, and for a model that is quantized already.
    """
    path = Path(path_or_model) if isinstance(path_or_model, (str, Path)) else None
    model = _read(path) if path is not None else _copy(path_or_model)
    graph = Graph(model, path, fingerprint(model))
    clean(graph, simplify)
    return graph


def _read(path: Path) -> ir.Model:
    if not path.exists():
        raise ModelError(f"no model at {path}: there is no such file")
    if path.is_dir():
        raise ModelError(f"{path} is a folder, expected an ONNX file")
    try:
        return ir.load(path)
    except (DecodeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path} is not an ONNX model, or it is damaged: {error}") from error


def _copy(model: object) -> ir.Model:
    if isinstance(model, ir.Model):
        return model.clone()
    if isinstance(model, onnx.ModelProto):
        return ir.from_proto(model)
    raise ModelError(f"expected a path, an onnx.ModelProto or an onnx_ir.Model, got {type(model).__name__}")
