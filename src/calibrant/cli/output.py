"""What is checked about the files before the work starts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx_ir as ir

from calibrant.core import ExportError, ModelError, TargetPlatform
from calibrant.data.paths import missing
from calibrant.exporters.files import external_name
from calibrant.graph import Graph

OTHER_FORMATS = {
    **dict.fromkeys(
        (".pt", ".pth", ".ckpt", ".safetensors"),
        "export it with torch.onnx.export, or use quantize_torch_model in Python",
    ),
    **dict.fromkeys((".pb", ".h5", ".keras", ".tflite"), "convert it with tf2onnx"),
    ".engine": "quantize the ONNX model that it was built from",
}


def check_model(path: Path, what: str = "the model") -> Path:
    """`path`, if it may be a model. Raises ModelError where there is no file, and for files of other frameworks.

    what: how messages call it.
    """
    if not path.exists():
        raise ModelError(missing(path, what))
    if path.is_dir():
        found = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"; did you mean '{path / found[0]}'?" if found else ""
        raise ModelError(f"{what} '{path}' is a folder, expected an .onnx file{hint}")
    advice = OTHER_FORMATS.get(path.suffix.lower())
    if advice:
        raise ModelError(f"{what} '{path}' is not an ONNX file: {advice}")
    return path


def size_of(path: Path, graph: Graph) -> int:
    """Bytes of the model that `graph` was loaded from, with the files of its external data."""
    files = {path.resolve()}
    for part in graph.model.graphs():
        tensors = (value.const_value for value in part.initializers.values())
        files |= {Path(tensor.path).resolve() for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    return sum(file.stat().st_size for file in files if file.exists())


def beside(path: Path, platform: TargetPlatform | None = None) -> list[Path]:
    """The files that an export to `path` may write beside it: tensors of large models, parameters for PPL."""
    parameters = [path.with_suffix(".json")] if platform is TargetPlatform.PPL_CUDA_INT8 else []
    return [external_name(path), *parameters]


def check_output(
    path: Path,
    force: bool,
    model: Path | None = None,
    others: Sequence[Path] = (),
    example: str = "model.int8.onnx",
    reads: Iterable[Path | str | None] = (),
) -> Path:
    """`path`, if a file can be written there. Raises ExportError saying what is in the way.

    model: what is read, and must not be written over. others: files that will be written beside it. reads: files and
    folders that are read as well, whatever `force` says; None, and what is no file, are passed over.
    """
    if path.is_dir():
        raise ExportError(f"the output '{path}' is a folder: give the name of a file, such as '{path / example}'")
    if model is not None and path.exists() and path.samefile(model):
        raise ExportError(f"the output '{path}' is the model itself: give another name")
    for read in (Path(read) for read in reads if read):
        inside = read.is_dir() and read.resolve() in path.resolve().parents
        if path.exists() and read.exists() and (inside or path.samefile(read)):
            what = f"lies in '{read}', which is" if inside else "is"
            raise ExportError(f"the output '{path}' {what} read by this very command: give another name")
    for file in [path, *others]:
        if file.exists() and not force:
            raise ExportError(f"the output '{file}' exists already: give another name, or --force to replace it")
    return check_writable(path, "the output")


def check_writable(path: Path, what: str) -> Path:
    """`path`, if its folder can be written to. Raises ExportError."""
    if not path.parent.exists():
        raise ExportError(missing(path.parent, f"the folder of {what}"))
    if not path.parent.is_dir():
        raise ExportError(f"cannot write '{path}': '{path.parent}' is a file, not a folder")
    try:
        # To ask for permissions is not enough: the disk may be full or mounted read-only.
        handle, name = tempfile.mkstemp(prefix=".calibrant-", dir=path.parent)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise ExportError(f"cannot write to the folder of {what} '{path}': {error.strerror or error}") from error
    return path
