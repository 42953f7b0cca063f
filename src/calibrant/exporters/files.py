"""Writing files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx_ir as ir

from calibrant.core import ExportError

PROTOBUF_LIMIT = 2**31 - 1  # bytes of one protobuf message
HEADROOM = 32 * 2**20  # for nodes, names and shapes, beside the tensors


@contextmanager
def whole_files(*targets: Path) -> Iterator[list[Path]]:
    """Places to write to, one for each target; they become the targets when the block ends well, else nothing remains.

    The places lie beside their targets (a rename is atomic within one file system only). They are renamed last to
    first, so the first target appears once all it refers to is there. A file that the block did not write is skipped.

    Raises ExportError where a target's folder is missing or not writable, or a target is a folder.
    """
    for target in targets:
        if target.is_dir():
            raise ExportError(f"cannot write {target}: it is a folder; give the name of a file")
        if not target.parent.is_dir():
            raise ExportError(f"cannot write {target}: the folder {target.parent} does not exist; create it first")
    try:
        with ExitStack() as cleanup:
            rooms: dict[Path, Path] = {}
            for parent in {target.parent for target in targets}:
                rooms[parent] = Path(tempfile.mkdtemp(prefix=".calibrant-", dir=parent))
                cleanup.callback(shutil.rmtree, rooms[parent], ignore_errors=True)
            places = [rooms[target.parent] / target.name for target in targets]
            yield places
            for place, target in reversed(list(zip(places, targets, strict=True))):
                if place.exists():
                    os.replace(place, target)
    except OSError as error:
        names = ", ".join(str(target) for target in targets)
        raise ExportError(f"cannot write {names}: {error.strerror or error}") from error


def external_name(target: Path) -> Path:
    """Where the tensors of a model too large for one file lie: beside it."""
    return target.with_name(target.name + ".data")


def save_model(model: ir.Model, place: Path) -> None:
    """Write `model` to `place`; its tensors to `external_name(place)` when it would pass protobuf's limit.

    Tensors that the source model kept in files of its own are taken along: the new file stands alone.
    """
    size = sum(tensor.nbytes for graph in model.graphs() for tensor in _tensors(graph))
    if size > PROTOBUF_LIMIT - HEADROOM:
        ir.save(model, place, external_data=external_name(place).name)
    else:
        ir.save(ir.external_data.load_to_model(model), place)


def _tensors(graph: ir.Graph | ir.Function) -> Iterator[ir.TensorProtocol]:
    if isinstance(graph, ir.Graph):
        yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
    for node in graph:
        yield from (a.as_tensor() for a in node.attributes.values() if a.type is ir.AttributeType.TENSOR)
