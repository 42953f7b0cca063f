"""From samples to a table, and how a run that was killed goes on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path

from safetensors import SafetensorError

from calibrant import __version__
from calibrant.core import (
    ConfigError,
    DataError,
    ExportError,
    IncompatibleSketches,
    SettingError,
    TargetPlatform,
)
from calibrant.engines import Executor
from calibrant.engines.samples import Feed
from calibrant.engines.variety import watched
from calibrant.graph import Graph
from calibrant.passes.runtime import SampleCount, plan, wanted_by
from calibrant.table.container import read, write_to
from calibrant.table.packing import MOST
from calibrant.table.table import CalibrationTable

log = logging.getLogger(__name__)

METHODS = ("minmax", "percentile", "mse", "kl", "isotone")  # all that a table can serve

OnStep = Callable[[int], None]


@dataclass(frozen=True)
class Checkpoint:
    """A file that keeps what a run has collected so far, written after every so many samples (items of the loader).

    Raises SettingError for every < 1.
    """

    path: Path
    every: int = 64

    def __post_init__(self) -> None:
        if self.every < 1:
            raise SettingError(f"a checkpoint is written every 1 or more samples, got {self.every}")


def empty_table(graph: Graph, platform: TargetPlatform, methods: Sequence[str], engine: str) -> CalibrationTable:
    """The table over no samples, of all that the methods need of the values of a graph after `quantize_graph`.

    A method that refuses a config (kl beyond 8 bits) may stand among others. Raises SettingError for an unknown method,
    ConfigError where every method refuses, ObservationError for one that needs raw values.
    """
    tasks, refused = [], []
    for method in methods:
        try:
            tasks += [task for task in plan(graph, method) if task.uses(method)]
        except ConfigError as error:
            refused.append(error)
    if refused and not tasks:
        raise refused[0]
    for task in tasks:
        task.observer.refuse_without_raw_values("leave it out, and quantize with samples for it")
    settings = {
        "calibrant": __version__,
        "platform": platform.name,
        "methods": ",".join(sorted(method.casefold() for method in methods)),
    }
    if graph.mask is not None:
        settings["mask"] = graph.mask
    return CalibrationTable.empty(wanted_by(tasks, graph), graph.fingerprint, engine, settings)


def collect_table(
    empty: CalibrationTable,
    samples: Iterable[Feed],
    executor: Executor,
    checkpoint: Checkpoint | None = None,
    on_step: OnStep | None = None,
) -> CalibrationTable:
    """The table over `samples`. empty: the one over none of them, which says what is to be collected.

    checkpoint: where the file is there, the run goes on from it: samples that it has seen are read again, to make
    sure that they are the same, but not computed. The file is left when all is done.
    on_step: called with the number of samples done.

    Raises DataError where the checkpoint is damaged, or of other samples, IncompatibleSketches where it is of another
    model or of other settings, ExportError where it cannot be written.
    """
    samples = watched(samples)
    specs = {name: sketch.spec for name, sketch in empty.sketches.even.items()}
    with executor.collecting(specs) as collect:
        if checkpoint is None:
            counted = SampleCount(samples)
            return replace(empty, sketches=collect(counted, on_step), samples=counted.samples)
        seen = _Seen(samples)
        table = _resumed(checkpoint.path, empty, seen) if checkpoint.path.exists() else empty
        _save(checkpoint.path, table, seen)  # a place that cannot be written is found before hours of work
        for block in _blocks(seen, checkpoint.every):
            counted = SampleCount(block)
            halves = collect(counted, _behind(on_step, seen.items - 1))
            table = table.merge(replace(empty, sketches=halves, samples=counted.samples))
            _save(checkpoint.path, table, seen)
        return table


class _Seen:
    """Passes samples on; keeps how many they were, and a digest of their contents, in order."""

    def __init__(self, samples: Iterable[Feed]) -> None:
        self._samples = iter(samples)
        self.items = 0
        self.digest = ""

    def __iter__(self) -> Iterator[Feed]:
        return self

    def __next__(self) -> Feed:
        feed = next(self._samples)
        self.items += 1
        digest = blake2b(self.digest.encode(), digest_size=16)
        for name, array in feed.items():
            digest.update(f"\0{name}\0{array.dtype}\0{array.shape}\0".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype.kind == "O" else array.tobytes())
        self.digest = digest.hexdigest()
        return feed


def _blocks(samples: Iterator[Feed], size: int) -> Iterator[Iterator[Feed]]:
    """The samples in blocks, each to be read to its end before the next; none is empty."""
    for first in samples:
        yield chain([first], islice(samples, size - 1))


def _behind(on_step: OnStep | None, done: int) -> OnStep | None:
    """`on_step` for samples that come after so many others."""
    return None if on_step is None else lambda number: on_step(done + number)


def _save(path: Path, table: CalibrationTable, seen: _Seen) -> None:
    """Replace the file at one stroke: whenever the process is killed, the one before or this one is there, whole."""
    header, arrays = table.parts()
    place = path.with_name(path.name + ".part")
    try:
        write_to(place, header | {"checkpoint": {"items": seen.items, "digest": seen.digest}}, arrays)
        os.replace(place, path)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"cannot write the checkpoint {path}: {error}") from None


def _resumed(path: Path, empty: CalibrationTable, seen: _Seen) -> CalibrationTable:
    """The table of the checkpoint, with the samples that it has seen read past."""
    header, arrays = read(path)
    state = header.pop("checkpoint", None)
    if not isinstance(state, dict) or type(state.get("items")) is not int or not 0 <= state["items"] <= MOST:
        raise DataError(f"{path} is a calibration table, not a checkpoint of an unfinished run: name another file")
    table = CalibrationTable.of_parts(path, header, arrays)
    try:
        table.merge(empty)
    except IncompatibleSketches as error:
        raise IncompatibleSketches(
            f"{path} is the checkpoint of another run ({error}): delete it, or name another"
        ) from None
    read_past = sum(1 for _ in islice(seen, state["items"]))
    if read_past < state["items"] or seen.digest != state.get("digest"):
        raise DataError(
            f"the first {state['items']} samples are not those of the checkpoint {path}: go on with the same samples "
            "in the same order, prepared the same way (--resize, --mean, --std), or delete it"
        )
    log.info("going on from the checkpoint %s, after %d samples", path, state["items"])
    return table
