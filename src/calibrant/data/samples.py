"""What `--data` names, as an iterable of batches that can be read again and again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from calibrant.core import DataError, SettingError
from calibrant.data import arrays, images, parquet
from calibrant.data.ahead import read_ahead
from calibrant.data.checking import checked
from calibrant.data.functions import FunctionSamples, is_function
from calibrant.data.inputs import ModelInput, Sample, Source, spread, static
from calibrant.data.paths import count, missing, visible
from calibrant.data.preprocessing import Preprocessing

log = logging.getLogger("calibrant.data")
T = TypeVar("T")
KNOWN = images.SUFFIXES | arrays.SUFFIXES | parquet.SUFFIXES
MOST = 512  # samples taken when the user does not say; more hardly move a scale, and cost time


class Samples:
    """Batches of samples, read when they are asked for and never kept.

    where: what the user named. steps: how many items iteration gives at most.
    taken, available: numbers of samples; available is None when only the function knows.
    notes: how the samples are read, in words. skipped: what `skip_bad` left out during the last iteration.
    expected: how many it will be; None while nobody knows (a function that may end at any time).
    reopen: opens the same samples again, elsewhere too; it can be pickled.

    Of the last iteration so far: given, how many samples it handed out (of a function: items); seconds, how long
    they were waited for; last, the name of the one read last, for messages about it (empty for functions).

    Iterating raises DataError for what cannot be read or does not fit (unless skip_bad), and when nothing is left.
    """

    def __init__(
        self,
        where: str,
        source: Source | FunctionSamples,
        inputs: Sequence[ModelInput],
        wanted: int | None,
        batch: int,
        skip_bad: bool,
        reopen: Callable[[], Samples],
    ) -> None:
        self.where = where
        self.source = source
        self.inputs = inputs
        self.batch = batch
        self.skip_bad = skip_bad
        self.reopen = reopen
        self.skipped: list[str] = []
        self.given = 0
        self.seconds = 0.0
        self.last = ""
        self.notes: list[str] = []
        self.available: int | None = None
        self.taken = self.steps = MOST if wanted is None else wanted
        self.expected = wanted
        self.fixed_batch = any(i.shape and (static(i.shape[0]) or 1) > 1 for i in inputs) and batch > 1
        if not isinstance(source, FunctionSamples):
            self.available = len(source)
            self.taken = self.expected = self.steps = min(self.taken, self.available)
            self.notes += source.notes

    def __iter__(self) -> Iterator[Any]:
        self.skipped, self.given, self.seconds = [], 0, 0.0
        if isinstance(self.source, FunctionSamples):
            for item in self._timed(iter(self.source)):
                self.given += 1
                yield item
        else:
            for batch in self._timed(self._batches(self.source, 0, self.taken)):
                self.given += len(batch)
                yield _joined(batch)
        if not self.given:
            why = f": none of its {count(self.taken, 'sample')} can be used" if self.taken and self.available else ""
            raise DataError(f"'{self.where}' gave no samples{why}")

    def parts(self) -> int:
        """How many parts `part` knows. SettingError for a function, which gives samples in one order only."""
        if isinstance(self.source, FunctionSamples):
            raise SettingError(f"'{self.where}' is a function, whose samples cannot be shared out: give files")
        return -(-self.taken // self.batch)

    def part(self, number: int) -> Iterator[Any]:
        """What iteration gives of one part of the samples, as many as a batch has: one item, where they are all alike.

        Where none is skipped and all have the same shape, all parts together are what iteration gives.
        """
        self.skipped = []
        if not isinstance(self.source, FunctionSamples):
            for batch in self._batches(self.source, number * self.batch, (number + 1) * self.batch):
                yield _joined(batch)

    def _timed(self, items: Iterator[T]) -> Iterator[T]:
        while True:
            start = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - start
            yield item

    def _batches(self, source: Source, start: int, stop: int) -> Iterator[list[Sample]]:
        waiting: list[Sample] = []
        for sample in self._read(source, start, stop):
            if waiting and not _alike(waiting[0], sample):
                yield from self._flush(waiting)
                waiting = []
            waiting.append(sample)
            if len(waiting) == self.batch:
                yield waiting
                waiting = []
        yield from self._flush(waiting)

    def _flush(self, waiting: list[Sample]) -> Iterator[list[Sample]]:
        """The batch that did not fill up; one that the model cannot take is reported."""
        if waiting and self.fixed_batch:
            log.warning(
                "%s left over: the model takes batches of exactly %d", count(len(waiting), "sample"), self.batch
            )
        elif waiting:
            yield waiting

    def _read(self, source: Source, start: int, stop: int) -> Iterator[Sample]:
        for index, future in read_ahead(partial(self._one, source), spread(len(source), self.taken, start, stop)):
            try:
                sample = future.result()
            except DataError as error:
                self.last = ""
                if not self.skip_bad:
                    raise DataError(f"{error} (--skip-bad goes on without it)") from error
                log.warning("skipped: %s", error)
                self.skipped.append(source.name_of(index))
            else:
                self.last = source.name_of(index)
                yield sample

    def _one(self, source: Source, index: int) -> Sample:
        sample, where = source[index], source.name_of(index)
        return {i.name: checked(sample[i.name], i, f"{where}, input '{i.name}'", self.batch == 1) for i in self.inputs}


def open_samples(
    data: str | Path,
    inputs: Sequence[ModelInput],
    *,
    preprocessing: Preprocessing | None = None,
    samples: int | None = None,
    batch_size: int | None = None,
    skip_bad: bool = False,
) -> Samples:
    """The samples that `data` names: a folder of images, .npy, .npz or .parquet files, or `package.module:function`.

    inputs: the model's. preprocessing: of images; giving it for anything else is a SettingError.
    samples: how many to take (None: up to 512), evenly spread over files and rows, the first ones of a function.
    batch_size: samples of equal shape that go through the model together (None: what the model fixes, else 1).
    skip_bad: leave out what cannot be read or does not fit (see `calibrant.data.checking`), with a warning each.

    Raises DataError for what is missing, empty or does not fit the inputs; SettingError for options that do not.
    """
    text = str(data)
    reopen = partial(
        open_samples,
        text if is_function(text) and not Path(text).exists() else Path(data).absolute(),
        list(inputs),
        preprocessing=preprocessing,
        samples=samples,
        batch_size=batch_size,
        skip_bad=skip_bad,
    )
    if samples is not None and samples < 1:
        raise SettingError(f"at least 1 sample must be taken, got {samples}")
    if is_function(text) and not Path(text).exists():
        _refuse(preprocessing, "a function gives samples as the model takes them")
        if batch_size is not None:
            raise SettingError("--batch-size is for files; a function gives batches of the size it likes")
        return Samples(text, FunctionSamples(text), inputs, samples, 1, skip_bad, reopen)
    path = Path(data)
    if not path.exists():
        said = missing(path, "the data")
        plain = "." not in path.name and "did you mean" not in said
        raise DataError(said + (", and is not of the form package.module:function" if plain else ""))
    source = _folder(path, inputs, preprocessing) if path.is_dir() else _file(path, inputs, preprocessing)
    if not len(source):
        raise DataError(f"'{text}' holds no samples, expected at least one")
    if not isinstance(source, images.Images):
        _refuse(preprocessing, "arrays are taken as they are")
    return Samples(text, source, inputs, samples, _batch(source, inputs, batch_size), skip_bad, reopen)


def _file(path: Path, inputs: Sequence[ModelInput], preprocessing: Preprocessing | None) -> Source:
    suffix = path.suffix.lower()
    where = f"'{path}'"
    if suffix == ".npz":
        return arrays.Stacked(arrays.by_input(arrays.read_npz(path), inputs, where), inputs, where)
    if suffix == ".npy":
        if len(inputs) > 1:
            return arrays.Files([path], inputs)  # refuses it, and says what to give
        return arrays.Stacked({inputs[0].name: arrays.read_npy(path)}, inputs, where)
    if suffix in parquet.SUFFIXES:
        return parquet.Parquet([path], inputs)
    if suffix in images.SUFFIXES:
        return images.Images([path], inputs, preprocessing or Preprocessing())
    hint = f"; for a function in it: --data {path.stem}:FUNCTION" if suffix == ".py" else ""
    raise DataError(
        f"cannot take samples from {where}: give a folder of images, .npy, .npz or .parquet, or a function{hint}"
    )


def _folder(path: Path, inputs: Sequence[ModelInput], preprocessing: Preprocessing | None) -> Source:
    entries = visible(path)
    per_input = _per_input(path, inputs)
    if per_input is not None:
        return per_input
    kinds: dict[str, tuple[frozenset[str], Callable[[list[Path]], Source]]] = {
        "image": (images.SUFFIXES, lambda paths: images.Images(paths, inputs, preprocessing or Preprocessing())),
        "array file": (arrays.SUFFIXES, lambda paths: arrays.Files(paths, inputs)),
        "Parquet file": (parquet.SUFFIXES, lambda paths: parquet.Parquet(paths, inputs)),
    }
    found = {
        kind: [p for p in entries if p.suffix.lower() in suffixes and p.is_file()]
        for kind, (suffixes, _) in kinds.items()
    }
    found = {kind: paths for kind, paths in found.items() if paths}
    if len(found) > 1:
        said = " and ".join(count(len(paths), kind) for kind, paths in found.items())
        raise DataError(f"'{path}' holds {said}: put the ones to use into a folder of their own")
    if not found:
        raise DataError(_empty(path, entries))
    ((kind, paths),) = found.items()
    source = kinds[kind][1](paths)
    others = sum(p.is_file() for p in entries) - len(paths)
    if others:
        source.notes.append(f"{count(others, 'file of another kind', 'files of another kind')} ignored")
    return source


def _per_input(path: Path, inputs: Sequence[ModelInput]) -> Source | None:
    """The form 'a file or a folder per input, named like it', when `path` has it."""
    stems = {i.name: i.name.replace("/", "_").replace(":", "_") for i in inputs}
    files = {name: path / f"{stem}.npy" for name, stem in stems.items()}
    if all(f.is_file() for f in files.values()):
        return arrays.Stacked({name: arrays.read_npy(f) for name, f in files.items()}, inputs, f"'{path}'")
    folders = {name: path / stem for name, stem in stems.items()}
    if all(f.is_dir() and any(f.glob("*.npy")) for f in folders.values()):
        return arrays.Folders(folders, inputs)
    return None


def _batch(source: Source, inputs: Sequence[ModelInput], batch_size: int | None) -> int:
    fixed = {i.name: static(i.shape[0]) for i in inputs if i.shape}
    if isinstance(source, images.Images):
        model = fixed.get(inputs[0].name) if source.plan.batch_axis else 1
        if batch_size is None:
            return model or 1
        if model not in (None, batch_size):
            raise SettingError(f"input '{inputs[0].name}' takes batches of exactly {model}: leave --batch-size out")
        return batch_size
    for name, size in fixed.items():
        if batch_size not in (None, 1) and size is not None:
            raise SettingError(f"input '{name}' takes batches of exactly {size}: leave --batch-size out")
    return batch_size or 1


def _alike(one: Sample, other: Sample) -> bool:
    """Whether two samples fit into one batch: the same shapes after the first axis, the same scalars."""
    return all(
        x.shape[1:] == other[n].shape[1:] and x.dtype == other[n].dtype and (x.ndim > 0 or bool(x == other[n]))
        for n, x in one.items()
    )


def _joined(samples: list[Sample]) -> Sample:
    if len(samples) == 1:
        return samples[0]
    return {n: np.concatenate([s[n] for s in samples]) if x.ndim else x for n, x in samples[0].items()}


def _refuse(preprocessing: Preprocessing | None, because: str) -> None:
    if preprocessing is not None and preprocessing != Preprocessing():
        raise SettingError(f"--resize, --crop, --mean, --std, --pixels, --layout and --color are for images: {because}")


def _empty(path: Path, entries: list[Path]) -> str:
    if not entries:
        return f"the folder '{path}' is empty: expected images, .npy, .npz or .parquet files"
    for folder in (p for p in entries if p.is_dir()):
        if any(f.suffix.lower() in KNOWN for f in visible(folder)):
            return f"'{path}' holds no samples itself, but its folder '{folder.name}' does: give one folder, '{folder}'"
    kinds = sorted({p.suffix.lower() or p.name for p in entries})
    return f"'{path}' holds no images, .npy, .npz or .parquet files, only {', '.join(kinds[:5])}"
