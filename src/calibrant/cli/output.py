"""What is checked about the files before the work starts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from calibrant.core import ExportError, ModelError
from calibrant.data.paths import missing

OTHER_FORMATS = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".safetensors"), "export it with torch.onnx.export"),
    **dict.fromkeys((".pb", ".h5", ".keras", ".tflite"), "convert it with tf2onnx"),
    ".engine": "quantize the ONNX model that it was built from",
}


def check_model(path: Path) -> Path:
    """`path`, if it may be a model. Raises ModelError where there is no file, and for files of other frameworks."""
    if not path.exists():
        raise ModelError(missing(path, "the model"))
    if path.is_dir():
        found = sorted(p.name for p in path.glob("*.onnx"))
        hint = f"; did you mean '{path / found[0]}'?" if found else ""
        raise ModelError(f"the model '{path}' is a folder, expected an .onnx file{hint}")
    advice = OTHER_FORMATS.get(path.suffix.lower())
    if advice:
        raise ModelError(f"the model '{path}' is not an ONNX file: {advice}")
    return path


def check_output(path: Path, model: Path, force: bool) -> Path:
    """`path`, if a file can be written there. Raises ExportError saying what is in the way."""
    if path.is_dir():
        raise ExportError(
            f"the output '{path}' is a folder: give the name of a file, such as '{path / 'model.int8.onnx'}'"
        )
    if path.exists() and path.samefile(model):
        raise ExportError(f"the output '{path}' is the model itself: give another name")
    if path.exists() and not force:
        raise ExportError(f"the output '{path}' exists already: give another name, or --force to replace it")
    if not path.parent.exists():
        raise ExportError(missing(path.parent, "the folder of the output"))
    if not path.parent.is_dir():
        raise ExportError(f"cannot write '{path}': '{path.parent}' is a file, not a folder")
    try:
        # To ask for permissions is not enough: the disk may be full or mounted read-only.
        handle, name = tempfile.mkstemp(prefix=".calibrant-", dir=path.parent)
        os.close(handle)
        os.unlink(name)
    except OSError as error:
        raise ExportError(f"cannot write to the folder of the output '{path}': {error.strerror or error}") from error
    return path
