""".npy and .npz files as samples: a file per sample, or stacked samples in one file.

A whole sample has the rank of its input. Where an array has one dimension more, its first axis counts samples; where it
has one less, it is a sample without its batch axis. In a single FILE (or a file per input) the batch axis counts
samples: row by row, or in groups where the model's batch is fixed. Nothing is unpickled.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from calibrant.core import DataError, closest
from calibrant.data.inputs import Array, ModelInput, Sample, names, static
from calibrant.data.paths import count

SUFFIXES = frozenset((".npy", ".npz"))


def read_npy(path: Path) -> Array:
    """The array of that file, mapped into memory: rows are read when used. Raises DataError naming the file."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"'{path}' cannot be read as .npy: {_reason(error)}") from error


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of that file by key. Raises DataError naming the file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as error:
        raise DataError(f"'{path}' cannot be read as .npz: {_reason(error)}") from error


def by_input(arrays: Mapping[str, Array], inputs: Sequence[ModelInput], where: str) -> dict[str, Array]:
    """One array for each input, by key. A single unnamed array (numpy calls it arr_0) fills a single input.

    Raises DataError for inputs without a key.
    """
    if len(inputs) == 1 and list(arrays) == ["arr_0"]:
        return {inputs[0].name: arrays["arr_0"]}
    absent = [i.name for i in inputs if i.name not in arrays]
    if absent:
        near = closest(absent[0], [k for k in arrays if k not in {i.name for i in inputs}])
        hint = f"; rename '{near}'?" if near else ""
        raise DataError(
            f"{where} has no key '{absent[0]}'{hint} (its keys: {', '.join(arrays) or 'none'}; "
            f"the model takes {names(inputs)})"
        )
    return {i.name: arrays[i.name] for i in inputs}


class Files:
    """A file per sample: .npz with a key per input, or .npy for a model of one input. Index it to read one."""

    def __init__(self, paths: Sequence[Path], inputs: Sequence[ModelInput]) -> None:
        if len(inputs) > 1 and any(p.suffix.lower() == ".npy" for p in paths):
            raise DataError(
                f"the model has {len(inputs)} inputs ({names(inputs)}) and an .npy file holds one: give .npz files "
                "with a key per input, or a file or folder per input, named like it"
            )
        self.paths = paths
        self.inputs = inputs
        self.notes = ["a file per sample, or batch of them"]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        path = self.paths[index]
        arrays = {"arr_0": read_npy(path)} if path.suffix.lower() == ".npy" else read_npz(path)
        found = by_input(arrays, self.inputs, f"'{path}'")
        return {i.name: whole(found[i.name], i, f"'{path}'") for i in self.inputs}

    def name_of(self, index: int) -> str:
        return f"'{self.paths[index]}'"


class Folders:
    """A folder of .npy files per input; the files of one sample have the same name in each. Index it to read one."""

    def __init__(self, folders: Mapping[str, Path], inputs: Sequence[ModelInput]) -> None:
        files = {name: sorted(p.name for p in folder.glob("*.npy")) for name, folder in folders.items()}
        first = inputs[0].name
        for name, found in files.items():
            alone = sorted(set(found) ^ set(files[first]))
            if alone:
                raise DataError(f"'{folders[first]}' and '{folders[name]}' differ: only one of them has '{alone[0]}'")
        self.folders = folders
        self.files = files[first]
        self.inputs = inputs
        self.notes = ["a folder per input, a file per sample, or batch of them"]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        paths = {i.name: self.folders[i.name] / self.files[index] for i in self.inputs}
        return {i.name: whole(read_npy(paths[i.name]), i, f"'{paths[i.name]}'") for i in self.inputs}

    def name_of(self, index: int) -> str:
        return f"'{self.files[index]}'"


class Stacked:
    """Samples stacked along the first axis: an array for each input. Index it to take one."""

    def __init__(self, arrays: Mapping[str, Array], inputs: Sequence[ModelInput], where: str) -> None:
        self.where = where
        self.rows = {i.name: rows(arrays[i.name], i, where) for i in inputs}
        lengths = {name: n for name, (n, _) in self.rows.items() if n is not None}
        if len(set(lengths.values())) > 1:
            spelled = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise DataError(f"{where}: the inputs have different numbers of samples: {spelled}")
        self.length = next(iter(lengths.values()), 1)
        self.notes = [f"{count(self.length, 'sample')} stacked along the first axis"] if self.length > 1 else []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return {name: take(index) for name, (_, take) in self.rows.items()}

    def name_of(self, index: int) -> str:
        return f"sample {index} of {self.where}"


Take = Callable[[int], Array]


def rows(array: Array, target: ModelInput, where: str) -> tuple[int | None, Take]:
    """How many samples `array` stacks, and the function that takes one; None: the same array serves every sample."""
    if target.shape is None:
        return 1, lambda _: array
    rank = len(target.shape)
    if array.ndim == rank + 1:
        return array.shape[0], lambda i: np.asarray(array[i])
    if array.ndim == rank == 0:
        return None, lambda _: array
    if array.ndim == rank:
        group = static(target.shape[0]) or 1
        if array.shape[0] % group:
            raise DataError(
                f"{where}: input '{target.name}' takes batches of exactly {group}, and {array.shape[0]} rows are no "
                "whole number of them"
            )
        return array.shape[0] // group, lambda i: np.asarray(array[i * group : (i + 1) * group])
    one = whole(array, target, where)
    return 1, lambda _: one


def whole(array: Array, target: ModelInput, where: str) -> Array:
    """`array` as one sample of `target`: a batch axis is added where it lacks one. Raises DataError for other ranks."""
    if target.shape is None or array.ndim == len(target.shape):
        return np.asarray(array)
    if array.ndim == len(target.shape) - 1 and static(target.shape[0]) in (None, 1):
        return np.asarray(array)[np.newaxis]
    shape = "[" + ", ".join("?" if static(d) is None else str(d) for d in target.shape) + "]"
    raise DataError(
        f"{where}: input '{target.name}' takes {count(len(target.shape), 'dimension')} {shape}, "
        f"got an array of shape {list(array.shape)}"
    )


def _reason(error: Exception) -> str:
    text = str(error)
    if "Python objects" in text or "allow_pickle" in text or "Object arrays" in text:
        return "it holds Python objects, or is damaged; save plain numeric arrays"
    if "empty file" in text:
        return "it holds no values"
    return "it is cut off" if isinstance(error, EOFError) else text or type(error).__name__
