"""Read the tensors of a PyTorch checkpoint (.pth) with numpy alone, and without running anything that the file says.

A checkpoint is a pickle whose tensors point into raw storages. Both layouts are read: the zip archive of PyTorch 1.6
and later, and the older one, a row of pickles followed by the storages. A pickle can name any function; the handful of
names that a dictionary of tensors needs is answered by stand-ins of ours, every other name is refused.
"""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STORAGES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


@dataclass
class Storage:
    """A run of numbers in the file, known by name before its bytes are read."""

    dtype: np.dtype[Any]
    values: Array | None = None


@dataclass
class Tensor:
    """Where a tensor lies in its storage, in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> Array:
        """The tensor's values. Raises ValueError when it reaches beyond its storage."""
        values = self.storage.values
        if values is None:
            raise ValueError("the checkpoint lacks the storage of one of its tensors")
        if any(n < 0 for n in (self.offset, *self.shape, *self.strides)) or len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor of the checkpoint has shape {self.shape} and strides {self.strides}")
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if last >= values.size:
            raise ValueError(f"a tensor of the checkpoint ends at {last}, its storage at {values.size}")
        steps = [step * values.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps).copy()


class CheckpointUnpickler(pickle.Unpickler):
    """Builds dictionaries of `Tensor`; storages are collected by their key."""

    def __init__(self, file: BinaryIO, storages: dict[str, Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: Tensor(storage, offset, tuple(shape), tuple(strides))
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        return self._refuse(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Storage:
        kind, dtype, key = pid[:3]
        if kind != "storage" or not isinstance(dtype, np.dtype):
            self._refuse(f"a reference to {kind!r}")
        return self._storages.setdefault(str(key), Storage(dtype))

    def _refuse(self, what: str) -> NoReturn:
        raise pickle.UnpicklingError(f"the checkpoint asks for {what}, which a dictionary of tensors does not need")


def load_checkpoint(path: str | Path) -> dict[str, Array]:
    """The tensors of the state dictionary in the file `path`, by name.

    Raises pickle.UnpicklingError for a file that wants more than tensors, ValueError for one that is damaged.
    """
    with open(path, "rb") as file:
        entries = _read_archive(file) if zipfile.is_zipfile(path) else _read_legacy(file)
    return {name: entry.array() for name, entry in entries.items() if isinstance(entry, Tensor)}


def _read_archive(file: BinaryIO) -> dict[str, Any]:
    with zipfile.ZipFile(file) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = pickled.removesuffix("data.pkl")
        storages: dict[str, Storage] = {}
        entries = CheckpointUnpickler(io.BytesIO(archive.read(pickled)), storages).load()
        for key, storage in storages.items():
            storage.values = np.frombuffer(archive.read(f"{root}data/{key}"), storage.dtype)
    return dict(entries)


def _read_legacy(file: BinaryIO) -> dict[str, Any]:
    storages: dict[str, Storage] = {}
    for _ in range(3):  # magic number, protocol version, facts about the machine
        CheckpointUnpickler(file, {}).load()
    entries = CheckpointUnpickler(file, storages).load()
    for key in CheckpointUnpickler(file, {}).load():
        (count,) = struct.unpack("<q", file.read(8))
        storage = storages[str(key)]
        storage.values = np.frombuffer(file.read(count * storage.dtype.itemsize), storage.dtype)
        if storage.values.size != count:
            raise ValueError(f"the checkpoint ends within storage {key}: {storage.values.size} of {count} values")
    return dict(entries)
