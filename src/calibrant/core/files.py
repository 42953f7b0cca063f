"""Writing files that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from calibrant.core.errors import ExportError


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
